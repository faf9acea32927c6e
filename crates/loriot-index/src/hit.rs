//! Ids, hits, and the best `k` of many.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// A row of the vector file, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VectorId(pub u32);

impl VectorId {
    /// The row as a `usize`.
    pub fn row(self) -> usize {
        self.0 as usize
    }
}

/// A vector that was found, and its inner product with the query.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hit {
    /// Which vector.
    pub id: VectorId,
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
    pub(crate) fn offer(&mut self, id: VectorId, score: f32) {
        let score = if score.is_nan() { f32::NEG_INFINITY } else { score };
        let hit = Ranked(Hit { id, score });
        if self.kept.len() < self.k {
            self.kept.push(hit);
        } else if let Some(mut worst) = self.kept.peek_mut()
            && hit < *worst
        {
            *worst = hit;
        }
    }

    /// Best first.
    pub(crate) fn into_hits(self) -> Vec<Hit> {
        self.kept.into_sorted_vec().into_iter().map(|Ranked(hit)| hit).collect()
    }
}

/// A hit that is less than another when it ranks before it.
#[derive(Clone, Copy, Debug)]
struct Ranked(Hit);

impl Ord for Ranked {
    fn cmp(&self, other: &Ranked) -> Ordering {
        self.0.rank_order(&other.0)
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

    fn best(k: usize, offered: &[(u32, f32)]) -> Vec<(u32, f32)> {
        let mut top = TopK::new(k);
        offered.iter().for_each(|&(id, score)| top.offer(VectorId(id), score));
        top.into_hits().into_iter().map(|hit| (hit.id.0, hit.score)).collect()
    }

    #[test]
    fn of_equal_scores_the_lower_id_wins_in_any_order_of_arrival() {
        let offered = [(3, 0.5), (1, 0.5), (2, 0.9), (0, 0.5), (4, 0.1)];
        let want = [(2, 0.9), (0, 0.5), (1, 0.5)];
        assert_eq!(best(3, &offered), want);
        let reversed: Vec<_> = offered.into_iter().rev().collect();
        assert_eq!(best(3, &reversed), want);
    }

    #[test]
    fn nan_ranks_last_and_fewer_than_k_are_all_kept() {
        assert_eq!(best(5, &[(0, f32::NAN), (1, -2.0)]), [(1, -2.0), (0, f32::NEG_INFINITY)]);
        assert_eq!(best(0, &[(0, 1.0)]), []);
    }
}
