//! Equal vectors, which share a node of the graph.
//!
//! Many products have the same title, and so the same vector. As nodes of their own they would link
//! to each other alone: a graph of a hundred copies of each vector falls apart, and inserting thousands
//! of one vector compares each with all. So a node is a distinct vector, and leads to all of its rows.

use super::layers::Array;
use crate::Vectors;
use rayon::prelude::*;

/// Nodes inserted one after another before several threads insert at once: in a small graph the
/// insertions under way at one time are a large part of it, and do not see each other as neighbours.
pub(super) const N_INSERTED_ALONE: usize = 512;

/// Neighbouring rows that are inserted one after another. Smaller blocks make the build slower: blocks of 64 by a
/// seventh, single rows 2.7 times. With all rows in their order, recall@10 of 20,000 titles falls from 0.9985 to 0.995.
const BLOCK_ROWS: u32 = 256;

/// The distinct vectors, in the order in which they are inserted, and the rows that have each.
#[derive(Debug)]
pub(super) struct Groups {
    /// Every row once, grouped by node; ascending within a node.
    pub(super) rows: Array<u32>,
    /// Where a node's rows begin in `rows`, and at the end their number.
    pub(super) starts: Array<u64>,
}

impl Groups {
    /// Groups rows whose vectors have the same bits.
    ///
    /// Rows often come sorted by what they are, and a graph grows best when it grows everywhere. So the
    /// first nodes, which are those of the upper levels and those inserted one after another, come from
    /// all over the file, and then blocks of rows that are neighbours, in an order as good as random and
    /// the same every time. Within a block the vectors that an insertion looks at are often those that
    /// the last one looked at, and still in the cache.
    pub(super) fn new(vectors: &Vectors, connectivity: usize) -> Groups {
        let bits_cd: &[u32] = bytemuck::cast_slice(vectors.rows_cd());
        let dim = vectors.dim();
        let bits = |row: u32| &bits_cd[row as usize * dim..][..dim];
        let hashed = bits_cd.par_chunks_exact(dim).enumerate();
        let mut hashed: Vec<(u64, u32)> =
            hashed.map(|(row, bits_d)| (hash(bits_d), row as u32)).collect();
        hashed.par_sort_unstable();
        for run in hashed.chunk_by_mut(|a, b| a.0 == b.0) {
            // Nearly always they are equal, and in the order of rows already.
            if run.iter().any(|&(_, row)| bits(row) != bits(run[0].1)) {
                run.sort_unstable_by(|a, b| bits(a.1).cmp(bits(b.1)).then(a.1.cmp(&b.1)));
            }
        }
        let is_equal = |a: &(u64, u32), b: &(u64, u32)| a.0 == b.0 && bits(a.1) == bits(b.1);
        let mut nodes: Vec<&[(u64, u32)]> = hashed.chunk_by(is_equal).collect();
        let first_row = |node: &&[(u64, u32)]| node[0].1;
        nodes.par_sort_unstable_by_key(|node| mix(first_row(node).into()));
        let n_scattered = (nodes.len() / connectivity).max(N_INSERTED_ALONE).min(nodes.len());
        nodes[n_scattered..].par_sort_unstable_by_key(|node| {
            let row = first_row(node);
            (mix((row / BLOCK_ROWS).into()), row)
        });

        let (mut rows, mut starts) = (Vec::with_capacity(hashed.len()), vec![0]);
        for node in nodes {
            rows.extend(node.iter().map(|&(_, row)| row));
            starts.push(rows.len() as u64);
        }
        Groups { rows: Array::Memory(rows), starts: Array::Memory(starts) }
    }

    /// Each row a node of its own, in this order.
    pub(super) fn of_single_rows(rows: Vec<u32>) -> Groups {
        let starts = (0..=rows.len() as u64).collect();
        Groups { rows: Array::Memory(rows), starts: Array::Memory(starts) }
    }

    /// How many distinct vectors there are.
    pub(super) fn n_nodes(&self) -> usize {
        self.starts.get().len() - 1
    }

    /// The first row of each node.
    pub(super) fn first_rows(&self) -> Vec<u32> {
        let (starts, rows) = (self.starts.get(), self.rows.get());
        starts[..self.n_nodes()].iter().map(|&start| rows[start as usize]).collect()
    }

    /// The rows of `node`, ascending.
    pub(super) fn rows_of(&self, node: u32) -> &[u32] {
        let starts = self.starts.get();
        &self.rows.get()[starts[node as usize] as usize..starts[node as usize + 1] as usize]
    }
}

/// A hash of a vector's bits. Vectors that are not equal may have the same one, and are told apart.
fn hash(bits_d: &[u32]) -> u64 {
    let (pairs, last) = bits_d.as_chunks::<2>();
    let word = |pair: &[u32; 2]| u64::from(pair[0]) | u64::from(pair[1]) << 32;
    let last = last.iter().map(|&bits| u64::from(bits));
    pairs.iter().map(word).chain(last).fold(0, |hash, word| mix(hash ^ word))
}

/// SplitMix64's output function (Steele, Lea and Flood, 2014): one-to-one, and each bit depends on all.
fn mix(word: u64) -> u64 {
    let word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Identity;

    #[test]
    fn rows_of_the_same_bits_share_a_node_and_every_row_is_in_one() {
        let rows_cd = [1.0, 2.0, 0.0, 3.0, 1.0, 2.0, -0.0, 3.0, 1.0, 2.0];
        let groups = Groups::new(&Vectors::new(2, Identity([0; 32]), rows_cd.to_vec()), 2);
        let nodes = 0..groups.n_nodes() as u32;
        let mut nodes: Vec<&[u32]> = nodes.map(|node| groups.rows_of(node)).collect();
        nodes.sort_unstable();
        assert_eq!(nodes, [&[0, 2, 4][..], &[1], &[3]], "0 and -0 differ in their bits");
    }

    #[test]
    fn the_first_nodes_are_scattered_and_blocks_of_rows_follow() {
        let vectors =
            || Vectors::new(1, Identity([0; 32]), (0..10_000).map(|i| i as f32).collect());
        let groups = Groups::new(&vectors(), 10);
        let rows = groups.rows.get();
        assert_eq!(rows, Groups::new(&vectors(), 10).rows.get(), "the same every time");
        let ascents = |rows: &[u32]| rows.windows(2).filter(|pair| pair[0] < pair[1]).count();
        let (upper, others) = rows.split_at(1_000);
        assert!((400..600).contains(&ascents(upper)), "{}", ascents(upper));
        let blocks: Vec<u32> =
            others.chunk_by(|a, b| a / 256 == b / 256).map(|block| block[0] / 256).collect();
        assert_eq!(blocks.len(), 40, "each block once");
        assert!((10..30).contains(&ascents(&blocks)), "{blocks:?}");
        assert!(others.chunk_by(|a, b| a / 256 == b / 256).all(|block| block.is_sorted()));
    }
}
