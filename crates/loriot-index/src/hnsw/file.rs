//! The graph file, format version 1.
//!
//! ```text
//! offset  bytes          field
//! 0       8              magic "LORHNSW\0"
//! 8       4              format version, u32 little-endian
//! 12      4              dim, u32
//! 16      8              n_rows, u64: rows of the vector file
//! 24      8              n_nodes, u64: distinct vectors among them
//! 32      32             identity: that of the vector file
//! 64      4              n_levels, u32
//! 68      4              zero
//! 72      n_levels·16    of each level, level 0 first: number of nodes, number of links, u64
//! then    (n_nodes+1)·8  where each node's rows begin in the next part, and n_rows, u64
//!         n_rows·4       rows by node, ascending within a node, u32
//!         and of each level, level 0 first
//!         (nodes+1)·8    where each node's links begin in the next part, and their number, u64
//!         links·4        nodes of the level, u32
//! ```
//!
//! Each part begins at a multiple of 8; the bytes between are zero. A level has the nodes with the
//! lowest numbers, so that node 0 is in all. The vectors are in the vector file alone. Opening maps
//! the file and looks at every number once, so that no search can leave it. A change to this table
//! needs a new version, a file of the old version under `tests/formats/`, and a test that still
//! opens it.

use super::beam::MAX_NODES;
use super::fault::{GraphFault, Reader, expect, u32_at, u64_at, within};
use super::groups::Groups;
use super::layers::{Array, Layer, Layers};
use crate::Vectors;
use loriot_files::{Mmap, OutputError, write_atomic};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

pub(super) const MAGIC: &[u8; 8] = b"LORHNSW\0";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 72;
/// Each level has at most half of the nodes of the one below.
const MAX_LEVELS: u64 = 32;

/// Writes a graph over `vectors`.
pub(super) fn write(
    path: &Path,
    vectors: &Vectors,
    groups: &Groups,
    layers: &Layers,
) -> Result<(), OutputError> {
    write_atomic(path, |writer| {
        let mut header = [0; HEADER_BYTES];
        header[..8].copy_from_slice(MAGIC);
        header[8..12].copy_from_slice(&VERSION.to_le_bytes());
        header[12..16].copy_from_slice(&(vectors.dim() as u32).to_le_bytes());
        header[16..24].copy_from_slice(&(vectors.len() as u64).to_le_bytes());
        header[24..32].copy_from_slice(&(groups.n_nodes() as u64).to_le_bytes());
        header[32..64].copy_from_slice(&vectors.identity().0);
        header[64..68].copy_from_slice(&(layers.len() as u32).to_le_bytes());
        writer.write_all(&header)?;
        for layer in layers {
            writer.write_all(&(layer.starts.get().len() as u64 - 1).to_le_bytes())?;
            writer.write_all(&(layer.links.get().len() as u64).to_le_bytes())?;
        }
        let mut part = |bytes: &[u8]| {
            writer.write_all(bytes)?;
            writer.write_all(&[0; 8][..bytes.len().next_multiple_of(8) - bytes.len()])
        };
        part(bytemuck::cast_slice(groups.starts.get()))?;
        part(bytemuck::cast_slice(groups.rows.get()))?;
        for layer in layers {
            part(bytemuck::cast_slice(layer.starts.get()))?;
            part(bytemuck::cast_slice(layer.links.get()))?;
        }
        Ok(())
    })
}

/// Whether `file` is a graph over vectors like these whose links all lead to nodes and whose nodes
/// have each row once; and its parts.
pub(super) fn read(file: &Arc<Mmap>, vectors: &Vectors) -> Result<(Groups, Layers), GraphFault> {
    let mut reader = Reader::new(file);
    let header = reader.take(HEADER_BYTES, "header")?;
    if !header.starts_with(MAGIC) {
        return Err(GraphFault::Head);
    }
    let version = u32_at(header, 8);
    if version != VERSION {
        return Err(GraphFault::Version { found: version, expected: VERSION });
    }
    expect("width", u64::from(u32_at(header, 12)), vectors.dim() as u64)?;
    expect("number of vectors", u64_at(header, 16), vectors.len() as u64)?;
    let n_rows = vectors.len();
    let most_nodes = n_rows.min(MAX_NODES) as u64;
    let n_nodes = within("number of distinct vectors", u64_at(header, 24), 1, most_nodes)?;
    if header[32..64] != vectors.identity().0 {
        return Err(GraphFault::Identity);
    }
    let n_levels = within("number of levels", u64::from(u32_at(header, 64)), 1, MAX_LEVELS)?;
    let levels = reader.take(16 * n_levels, "levels")?;

    let groups = Groups {
        starts: numbers(file, &mut reader, n_nodes as u64 + 1, "starts of rows")?,
        rows: numbers(file, &mut reader, n_rows as u64, "rows")?,
    };
    check_groups(&groups, n_rows)?;
    let (mut layers, mut n_below) = (Layers::new(), n_nodes as u64);
    for level in 0..n_levels {
        let (n_found, n_links) = (u64_at(levels, 16 * level), u64_at(levels, 16 * level + 8));
        let least = if level == 0 { n_below } else { 1 };
        let n_level = within("number of nodes of a level", n_found, least, n_below)?;
        let layer = Layer {
            starts: numbers(file, &mut reader, n_level as u64 + 1, "starts of links")?,
            links: numbers(file, &mut reader, n_links, "links")?,
        };
        check_layer(&layer, n_level)?;
        layers.push(layer);
        n_below = n_level as u64;
    }
    reader.end("last level")?;
    Ok((groups, layers))
}

/// The next part of the file: `n` numbers, and zeros up to a multiple of 8 bytes.
fn numbers<T>(
    file: &Arc<Mmap>,
    reader: &mut Reader,
    n: u64,
    part: &'static str,
) -> Result<Array<T>, GraphFault> {
    let n_bytes = usize::try_from(n).ok().and_then(|n| n.checked_mul(size_of::<T>()));
    let n_bytes = n_bytes.unwrap_or(usize::MAX);
    let begin = reader.at;
    reader.take(n_bytes, part)?;
    reader.take(n_bytes.next_multiple_of(8) - n_bytes, part)?;
    Ok(Array::File { map: file.clone(), bytes: begin..begin + n_bytes })
}

fn check_groups(groups: &Groups, n_rows: usize) -> Result<(), GraphFault> {
    let (starts, rows) = (groups.starts.get(), groups.rows.get());
    check_starts(starts, n_rows)?;
    let mut is_seen = vec![false; n_rows];
    for (node, range) in starts.windows(2).enumerate() {
        let fault = |what| GraphFault::Node { node, what };
        let rows = &rows[range[0] as usize..range[1] as usize];
        if rows.is_empty() {
            return Err(fault("it has no row"));
        }
        if !rows.is_sorted_by(|a, b| a < b) {
            return Err(fault("its rows do not ascend"));
        }
        for &row in rows {
            match is_seen.get_mut(row as usize) {
                Some(is_seen) if !*is_seen => *is_seen = true,
                Some(_) => return Err(fault("another node has its row")),
                None => return Err(fault("its row is no vector")),
            }
        }
    }
    Ok(())
}

fn check_layer(layer: &Layer, n_nodes: usize) -> Result<(), GraphFault> {
    let (starts, links) = (layer.starts.get(), layer.links.get());
    check_starts(starts, links.len())?;
    let Some(at) = links.iter().position(|&link| link as usize >= n_nodes) else { return Ok(()) };
    let node = starts.partition_point(|&start| start as usize <= at) - 1;
    Err(GraphFault::Node { node, what: "a link leads to no node of its level" })
}

/// Whether `starts` ascend from 0 to `end`.
fn check_starts(starts: &[u64], end: usize) -> Result<(), GraphFault> {
    if let Some(node) = starts.windows(2).position(|pair| pair[0] > pair[1]) {
        return Err(GraphFault::Node { node, what: "its list ends before it begins" });
    }
    expect("first start", starts[0], 0)?;
    expect("last start", starts[starts.len() - 1], end as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hnsw::tests::{build, clustered, search_graph};
    use crate::{Hnsw, HnswConfig, HnswError, Identity, Row};

    /// 60 vectors, of which rows 7 and 40 are equal, on three levels, and the file of their graph.
    fn written(dir: &Path) -> (Vectors, std::path::PathBuf, Vec<u8>) {
        let path = dir.join("hnsw");
        let mut rows_cd = clustered(60, 4).rows_cd().to_vec();
        rows_cd.copy_within(4 * 7..4 * 8, 4 * 40);
        let vectors = Vectors::new(4, Identity([1; 32]), rows_cd);
        let config = HnswConfig { connectivity: 4, ef_construction: 20 };
        build(&vectors, config, 1).write(&path, &vectors).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        (vectors, path, bytes)
    }

    fn refusal(path: &Path, file: &[u8], vectors: &Vectors) -> Option<GraphFault> {
        std::fs::write(path, file).unwrap();
        match Hnsw::open(path, vectors) {
            Ok(_) => None,
            Err(HnswError::Unsound { source, .. }) => Some(source),
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn every_cut_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (vectors, path, good) = written(dir.path());
        assert_eq!(refusal(&path, &good, &vectors), None);
        for length in 0..good.len() {
            assert!(refusal(&path, &good[..length], &vectors).is_some(), "cut to {length}");
        }
        let longer = [&good[..], &[0]].concat();
        let fault = refusal(&path, &longer, &vectors);
        assert!(matches!(fault, Some(GraphFault::Length { part: "last level", .. })), "{fault:?}");
    }

    #[test]
    fn a_damaged_file_is_refused_with_what_was_found_and_expected() {
        let dir = tempfile::tempdir().unwrap();
        let (vectors, path, good) = written(dir.path());
        let said = |at: usize, bytes: &[u8]| {
            let mut damaged = good.clone();
            damaged[at..][..bytes.len()].copy_from_slice(bytes);
            refusal(&path, &damaged, &vectors).map(|fault| fault.to_string()).unwrap_or_default()
        };
        assert_eq!(said(8, &[2]), "it has format version 2, expected 1");
        assert_eq!(said(12, &[5]), "its width is 5, expected 4");
        assert_eq!(said(16, &[61]), "its number of vectors is 61, expected 60");
        assert_eq!(said(24, &[61]), "its number of distinct vectors is 61, expected 1 to 60");
        assert_eq!(said(24, &[0]), "its number of distinct vectors is 0, expected 1 to 60");
        assert_eq!(said(32, &[9]), "it was built over the vectors of another encoder");
        assert_eq!(said(64, &[0]), "its number of levels is 0, expected 1 to 32");
        assert_eq!(said(64, &[33]), "its number of levels is 33, expected 1 to 32");
        let levels = HEADER_BYTES;
        assert_eq!(said(levels, &[58]), "its number of nodes of a level is 58, expected 59 to 59");
        let huge = (1u64 << 62).to_le_bytes();
        let expected = format!("its links should end at {}", u64::MAX);
        assert!(said(levels + 8, &huge).ends_with(&expected), "a product that overflows");
        // Three levels of 59, 14 and 3 nodes.
        let starts = HEADER_BYTES + 3 * 16;
        let rows = starts + 60 * 8;
        assert_eq!(said(starts + 8, &[0]), "node 0 of its graph is damaged: it has no row");
        assert_eq!(
            said(starts + 8, &[200]),
            "node 1 of its graph is damaged: its list ends before it begins"
        );
        assert_eq!(said(rows, &[60]), "node 0 of its graph is damaged: its row is no vector");
        let twice = [&good[rows + 4..][..4], &good[rows + 4..][..4]].concat();
        assert!(said(rows, &twice).ends_with("another node has its row"));
        let first_link = rows + 60 * 4 + 60 * 8;
        assert_eq!(
            said(first_link, &[59]),
            "node 0 of its graph is damaged: a link leads to no node of its level"
        );
        let last_link = good.len() - good.len() % 8 - 8;
        assert!(said(last_link, &[3]).ends_with("a link leads to no node of its level"));
    }

    #[test]
    fn what_a_damaged_byte_leaves_acceptable_is_safe_to_search() {
        let dir = tempfile::tempdir().unwrap();
        let (vectors, path, good) = written(dir.path());
        for at in 0..good.len() {
            let mut damaged = good.clone();
            damaged[at] ^= [0x01, 0x80][at % 2];
            std::fs::write(&path, &damaged).unwrap();
            if let Ok(graph) = Hnsw::open(&path, &vectors) {
                let found = search_graph(&graph, &vectors, vectors.vector(Row(0)), 60);
                assert!(found.len() <= 10);
            }
        }
    }
}
