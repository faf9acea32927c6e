//! Rows, ids, hits, and the best `k` of many.

use crate::Vectors;
use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// A row of a vector file, from 0: where a vector stands now. Removing others may move it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Row(pub u32);

impl Row {
    /// The row as a `usize`.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// The name of a vector, which stays when rows before it are removed. Ids ascend with the rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VectorId(pub u64);

/// Accepts every row: the filter of a search without one.
pub fn any_row(_: Row) -> bool {
    true
}

/// A vector that was found, and its inner product with the query.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hit {
    /// Which vector.
    pub id: VectorId,
    /// Where it stands in the file that was searched.
    pub row: Row,
    /// Inner product with the query; the cosine where both are unit vectors.
    pub score: f32,
}

impl Hit {
    /// The order of results: higher score first, of equal scores the lower id.
    pub fn rank_order(&self, other: &Hit) -> Ordering {
        other.score.total_cmp(&self.score).then(self.id.cmp(&other.id))
    }
}

/// The best `k` hits of those offered, whatever order they come in.
#[derive(Debug)]
pub(crate) struct TopK {
    k: usize,
    /// The worst of the kept stands on top.
    kept: BinaryHeap<Ranked>,
}

impl TopK {
    pub(crate) fn new(k: usize) -> TopK {
        TopK { k, kept: BinaryHeap::new() }
    }

    /// A NaN score ranks below every number.
    pub(crate) fn offer(&mut self, row: Row, score: f32) {
        let score = if score.is_nan() { f32::NEG_INFINITY } else { score };
        let hit = Ranked { row, score };
        if self.kept.len() < self.k {
            self.kept.push(hit);
        } else if let Some(mut worst) = self.kept.peek_mut()
            && hit < *worst
        {
            *worst = hit;
        }
    }

    /// Best first; the rows are those of `vectors`.
    pub(crate) fn into_hits(self, vectors: &Vectors) -> Vec<Hit> {
        let hit = |Ranked { row, score }| Hit { id: vectors.id(row), row, score };
        self.kept.into_sorted_vec().into_iter().map(hit).collect()
    }
}

/// A row that is less than another when it ranks before it: [`Hit::rank_order`], as ids ascend with rows.
#[derive(Clone, Copy, Debug)]
struct Ranked {
    row: Row,
    score: f32,
}

impl Ord for Ranked {
    fn cmp(&self, other: &Ranked) -> Ordering {
        other.score.total_cmp(&self.score).then(self.row.cmp(&other.row))
    }
}

impl PartialOrd for Ranked {
    fn partial_cmp(&self, other: &Ranked) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Ranked {
    fn eq(&self, other: &Ranked) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Ranked {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Identity;

    /// The ids of the vectors are ten times their rows.
    fn best(k: usize, offered: &[(u32, f32)]) -> Vec<(u64, f32)> {
        let ids = (0..5).map(|row| 10 * row).collect();
        let vectors = Vectors::new(1, Identity([0; 32]), vec![0.0; 5]).with_ids(ids);
        let mut top = TopK::new(k);
        offered.iter().for_each(|&(row, score)| top.offer(Row(row), score));
        top.into_hits(&vectors).into_iter().map(|hit| (hit.id.0, hit.score)).collect()
    }

    #[test]
    fn of_equal_scores_the_lower_id_wins_in_any_order_of_arrival() {
        let offered = [(3, 0.5), (1, 0.5), (2, 0.9), (0, 0.5), (4, 0.1)];
        let want = [(20, 0.9), (0, 0.5), (10, 0.5)];
        assert_eq!(best(3, &offered), want);
        let reversed: Vec<_> = offered.into_iter().rev().collect();
        assert_eq!(best(3, &reversed), want);
    }

    #[test]
    fn nan_ranks_last_and_fewer_than_k_are_all_kept() {
        assert_eq!(best(5, &[(0, f32::NAN), (1, -2.0)]), [(10, -2.0), (0, f32::NEG_INFINITY)]);
        assert_eq!(best(0, &[(0, 1.0)]), []);
    }
}
