//! Graph files of earlier builds, which usearch wrote: read, never written.
//!
//! Each length, level and link is looked at once before it is used. usearch 2.x, as written for `f32`
//! vectors, `u64` keys and `u32` slots; little-endian, unaligned:
//!
//! ```text
//! bytes               field
//! 4, 4                n_vectors, bytes of a vector, u32
//! n·dim·4             vectors, f32, in slot order
//! 64                  head: magic "usearch"; u16 major, minor, patch; u8 metric, scalar, key, slot;
//!                     u64 present, deleted, dim; u8 multi; zeros
//! 8, 8, 8, 8, 8       n_vectors, connectivity, connectivity of level 0, top level, entry slot, u64
//! n·2                 level of each slot, i16
//! n nodes of          u64 key, i16 level, then a list of links for level 0, 1 …
//!   a list            u32 n_links, then room for as many u32 slots as the level's connectivity
//! ```
//!
//! A key is a row of the vector file. Slots become nodes in the order of their levels, highest first,
//! with the entry in front. Equal vectors stay nodes of their own.

use super::beam::MAX_NODES;
use super::fault::{GraphFault, Reader, expect, u32_at, u64_at, within};
use super::groups::Groups;
use super::layers::{Layer, Layers};

const HEAD_BYTES: usize = 64;
const VERSION_MAJOR: u16 = 2;
/// Metric inner product, scalar `f32`, key `u64`, slot `u32`, in usearch's numbering.
const KINDS: [u8; 4] = [b'i', 11, 14, 15];
/// The level of a node is geometric with ratio 1/connectivity: no real graph comes near.
const MAX_LEVEL: i16 = 64;
const MAX_CONNECTIVITY: u64 = 1 << 16;

/// The graph in `file`, if it is one over `n_vectors` vectors of `dim` numbers whose links all lead to
/// nodes, and whose keys are the rows of those vectors, each once.
pub(super) fn read(
    file: &[u8],
    dim: usize,
    n_vectors: usize,
) -> Result<(Groups, Layers), GraphFault> {
    within("number of vectors", n_vectors as u64, 0, MAX_NODES as u64)?;
    let mut reader = Reader::new(file);
    let shape = reader.take(8, "shape")?;
    expect("number of vectors", u64::from(u32_at(shape, 0)), n_vectors as u64)?;
    expect("bytes of a vector", u64::from(u32_at(shape, 4)), dim as u64 * 4)?;
    reader.take(n_vectors * dim * 4, "vectors")?;

    let head = reader.take(HEAD_BYTES, "head")?;
    let version = u16::from_le_bytes([head[7], head[8]]);
    if !head.starts_with(b"usearch") || version != VERSION_MAJOR || head[13..17] != KINDS {
        return Err(GraphFault::Head);
    }
    expect("number of vectors present", u64_at(head, 17), n_vectors as u64)?;
    expect("number of vectors deleted", u64_at(head, 25), 0)?;
    expect("width", u64_at(head, 33), dim as u64)?;
    expect("marker of several vectors per key", u64::from(head[41]), 0)?;

    let graph = reader.take(40, "graph header")?;
    expect("number of nodes", u64_at(graph, 0), n_vectors as u64)?;
    let connectivity = within("connectivity", u64_at(graph, 8), 2, MAX_CONNECTIVITY)?;
    let at_base = u64_at(graph, 16);
    let at_base =
        within("connectivity of level 0", at_base, connectivity as u64, MAX_CONNECTIVITY)?;
    let entry = within("entry slot", u64_at(graph, 32), 0, n_vectors as u64 - 1)?;

    let levels = Levels(reader.take(2 * n_vectors, "levels")?);
    let top_level = levels.of(entry).clamp(0, MAX_LEVEL) as u64;
    let top_level = within("top level", u64_at(graph, 24), 0, top_level)?;

    let mut key_is_seen = vec![false; n_vectors];
    let mut slots = Vec::with_capacity(n_vectors);
    for slot in 0..n_vectors {
        let fault = |what| GraphFault::Node { node: slot, what };
        let level = levels.of(slot);
        if !(0..=MAX_LEVEL).contains(&level) {
            return Err(fault("its level is out of range"));
        }
        let node = reader.take(10, "nodes")?;
        if i16::from_le_bytes([node[8], node[9]]) != level {
            return Err(fault("its level is stored twice and differs"));
        }
        let key = u64_at(node, 0);
        match usize::try_from(key).ok().and_then(|key| key_is_seen.get_mut(key)) {
            Some(is_seen) if !*is_seen => *is_seen = true,
            Some(_) => return Err(fault("another node has its id")),
            None => return Err(fault("its id is no vector")),
        }
        let mut lists = Vec::new();
        for list_level in 0..=level {
            let room = if list_level == 0 { at_base } else { connectivity };
            let list = reader.take(4 + 4 * room, "nodes")?;
            let n_links = u32_at(list, 0) as usize;
            if n_links > room {
                return Err(fault("it has more links than room for them"));
            }
            let (links, _) = list[4..][..4 * n_links].as_chunks::<4>();
            for link in links {
                let link = u32::from_le_bytes(*link) as usize;
                // Level 0 has every node; above it, a link to a node that ends below leads nowhere.
                if link >= n_vectors || (list_level > 0 && levels.of(link) < list_level) {
                    return Err(fault("a link leads to no node of its level"));
                }
            }
            lists.push(links);
        }
        slots.push(Slot { key: key as u32, lists });
    }
    reader.end("last node")?;
    Ok(renumbered(&slots, entry, top_level))
}

struct Slot<'a> {
    key: u32,
    /// Links of level 0, 1 …
    lists: Vec<&'a [[u8; 4]]>,
}

fn renumbered(slots: &[Slot], entry: usize, top_level: usize) -> (Groups, Layers) {
    let mut order: Vec<usize> = (0..slots.len()).collect();
    order.sort_by_key(|&slot| (slot != entry, usize::MAX - slots[slot].lists.len()));
    let mut node_of = vec![0; slots.len()];
    for (node, &slot) in order.iter().enumerate() {
        node_of[slot] = node as u32;
    }
    let layer = |level: usize| {
        let (mut starts, mut links) = (vec![0], Vec::new());
        for list in order.iter().map_while(|&slot| slots[slot].lists.get(level)) {
            links.extend(list.iter().map(|link| node_of[u32::from_le_bytes(*link) as usize]));
            starts.push(links.len() as u64);
        }
        Layer::new(starts, links)
    };
    let layers = (0..=top_level).map(layer).collect();
    (Groups::of_single_rows(order.iter().map(|&slot| slots[slot].key).collect()), layers)
}

/// The levels of all slots.
struct Levels<'a>(&'a [u8]);

impl Levels<'_> {
    fn of(&self, slot: usize) -> i16 {
        i16::from_le_bytes([self.0[2 * slot], self.0[2 * slot + 1]])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hnsw::tests::search_graph;
    use crate::{Hnsw, Row, Vectors};
    use std::path::PathBuf;

    /// What an earlier build wrote: 60 vectors of width 2, connectivity 8.
    fn catalogue_v1() -> (Vec<u8>, Vectors) {
        let folder = "../loriot-search/tests/formats/catalogue_v1";
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(folder);
        let file = std::fs::read(folder.join("hnsw.usearch")).unwrap();
        (file, Vectors::open(&folder.join("vectors")).unwrap())
    }

    #[test]
    fn a_graph_of_an_earlier_version_leads_to_every_vector() {
        let (file, vectors) = catalogue_v1();
        let (groups, layers) = read(&file, 2, 60).unwrap();
        let graph = Hnsw::new(groups, layers);
        for row in 0..60 {
            let found = search_graph(&graph, &vectors, vectors.vector(Row(row)), 10);
            assert_eq!(found[0].row, Row(row));
        }
    }

    #[test]
    fn every_cut_and_every_broken_link_is_refused() {
        let (good, _) = catalogue_v1();
        let (n, dim) = (60, 2);
        let fault = |file: &[u8]| read(file, dim, n).err();
        for length in 0..good.len() {
            let fault = fault(&good[..length]);
            assert!(matches!(fault, Some(GraphFault::Length { .. })), "{length}: {fault:?}");
        }
        let longer = [&good[..], &[0]].concat();
        assert!(matches!(fault(&longer), Some(GraphFault::Length { .. })));
        let fault = |file: &[u8], dim, n| read(file, dim, n).err().map(|fault| fault.to_string());
        let other = fault(&good, 2, 59).unwrap();
        assert_eq!(other, "its number of vectors is 60, expected 59");
        let other = fault(&good, 3, 60).unwrap();
        assert_eq!(other, "its bytes of a vector is 8, expected 12");

        // The first link of the first node follows its id, level and number of links.
        let first_link = 8 + n * dim * 4 + HEAD_BYTES + 40 + 2 * n + 10 + 4;
        let mut damaged = good.clone();
        damaged[first_link..][..4].copy_from_slice(&(n as u32).to_le_bytes());
        assert_eq!(
            fault(&damaged, dim, n).unwrap(),
            "node 0 of its graph is damaged: a link leads to no node of its level"
        );
    }

    #[test]
    fn what_a_damaged_byte_leaves_acceptable_is_safe_to_search() {
        let (good, vectors) = catalogue_v1();
        for at in 8 + 60 * 2 * 4..good.len() {
            for bit in [0x01, 0x80] {
                let mut damaged = good.clone();
                damaged[at] ^= bit;
                if let Ok((groups, layers)) = read(&damaged, 2, 60) {
                    let graph = Hnsw::new(groups, layers);
                    search_graph(&graph, &vectors, vectors.vector(Row(0)), 60);
                }
            }
        }
    }
}
