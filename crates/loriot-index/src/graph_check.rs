//! Proof that a usearch graph file can be followed without leaving it.
//!
//! usearch maps the file and follows its links unchecked: one flipped bit in a link, and a search
//! reads foreign memory. Here each length, level and link is looked at once, before usearch sees
//! the file. That reads the graph (not the vectors): about 0.8 KB a vector at connectivity 100. A
//! SHA-256 would read the vectors too, three times as many bytes at 384 numbers, and would prove
//! less: whoever damages a file on purpose can write down its hash as well.
//!
//! usearch 2.x, as written for `f32` vectors, `u64` keys and `u32` slots; little-endian, unaligned:
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

use loriot_files::Hint;

const HEAD_BYTES: usize = 64;
const VERSION_MAJOR: u16 = 2;
/// Metric inner product, scalar `f32`, key `u64`, slot `u32`, in usearch's numbering.
const KINDS: [u8; 4] = [b'i', 11, 14, 15];
/// The level of a node is geometric with ratio 1/connectivity: no real graph comes near.
const MAX_LEVEL: i16 = 64;
const MAX_CONNECTIVITY: u64 = 1 << 16;

/// Why a graph file was not trusted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GraphFault {
    /// The file ends too early, or goes on after its end.
    #[error("it is {found} bytes, and its {part} should end at {expected}")]
    Length {
        /// What did not fit.
        part: &'static str,
        /// The file's size.
        found: usize,
        /// Where the part ends.
        expected: usize,
    },
    /// It is not a usearch file, or one of another kind of vector or another version.
    #[error("it is not a usearch 2 graph over f32 inner products")]
    Head,
    /// A count in the file is not what the vector file says, or cannot be.
    #[error("its {what} is {found}, expected {expected}")]
    Count {
        /// Which number.
        what: &'static str,
        /// What the file says.
        found: u64,
        /// What it should say.
        expected: String,
    },
    /// A node of the graph points where no node is.
    #[error("node {slot} of its graph is damaged: {what}")]
    Node {
        /// Which node.
        slot: usize,
        /// What is wrong with it.
        what: &'static str,
    },
}

impl Hint for GraphFault {
    fn hint(&self) -> Option<String> {
        Some("the graph is damaged or from another version: build the catalogue again".into())
    }
}

/// Whether `file` is a graph over `n_vectors` vectors of `dim` numbers whose links all lead to
/// nodes, and whose keys are the ids of those vectors, each once.
pub(crate) fn check_graph(file: &[u8], dim: usize, n_vectors: usize) -> Result<(), GraphFault> {
    let mut reader = Reader { file, at: 0 };
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
    let top_level = levels.of(entry).max(0) as u64;
    within("top level", u64_at(graph, 24), 0, top_level)?;

    let mut key_is_seen = vec![false; n_vectors];
    for slot in 0..n_vectors {
        let fault = |what| GraphFault::Node { slot, what };
        let level = levels.of(slot);
        if !(0..=MAX_LEVEL).contains(&level) {
            return Err(fault("its level is out of range"));
        }
        let node = reader.take(10, "nodes")?;
        if i16::from_le_bytes([node[8], node[9]]) != level {
            return Err(fault("its level is stored twice and differs"));
        }
        match usize::try_from(u64_at(node, 0)).ok().and_then(|key| key_is_seen.get_mut(key)) {
            Some(is_seen) if !*is_seen => *is_seen = true,
            Some(_) => return Err(fault("another node has its id")),
            None => return Err(fault("its id is no vector")),
        }
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
                // Level 0 has every node; above it, a link to a node that ends below reads past it.
                if link >= n_vectors || (list_level > 0 && levels.of(link) < list_level) {
                    return Err(fault("a link leads to no node of its level"));
                }
            }
        }
    }
    reader.end()
}

/// The levels of all slots.
struct Levels<'a>(&'a [u8]);

impl Levels<'_> {
    fn of(&self, slot: usize) -> i16 {
        i16::from_le_bytes([self.0[2 * slot], self.0[2 * slot + 1]])
    }
}

struct Reader<'a> {
    file: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, n_bytes: usize, part: &'static str) -> Result<&'a [u8], GraphFault> {
        let end = self.at.saturating_add(n_bytes);
        let fault = GraphFault::Length { part, found: self.file.len(), expected: end };
        let taken = self.file.get(self.at..end).ok_or(fault)?;
        self.at = end;
        Ok(taken)
    }

    fn end(&self) -> Result<(), GraphFault> {
        if self.at == self.file.len() {
            return Ok(());
        }
        let found = self.file.len();
        Err(GraphFault::Length { part: "last node", found, expected: self.at })
    }
}

fn expect(what: &'static str, found: u64, expected: u64) -> Result<(), GraphFault> {
    if found == expected {
        return Ok(());
    }
    Err(GraphFault::Count { what, found, expected: expected.to_string() })
}

fn within(what: &'static str, found: u64, least: u64, most: u64) -> Result<usize, GraphFault> {
    if (least..=most).contains(&found) {
        return Ok(found as usize);
    }
    Err(GraphFault::Count { what, found, expected: format!("{least} to {most}") })
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(*bytes[at..].first_chunk().expect("the part was taken whole"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(*bytes[at..].first_chunk().expect("the part was taken whole"))
}
