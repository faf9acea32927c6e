//! The walk through a graph: from the best candidate so far to its neighbours, until none is better.

use loriot_kernels::Isa;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::{Mutex, PoisonError};

/// More nodes than this leave no room for a flag beside their number.
pub(super) const MAX_NODES: usize = 1 << 31;

/// Who is linked to whom.
pub(super) trait Links {
    /// Appends the neighbours of `node` on `level`.
    fn append_to(&self, links: &mut Vec<u32>, level: usize, node: u32);
}

/// Where the nodes lie.
#[derive(Clone, Copy)]
pub(super) struct Space<'a> {
    pub(super) isa: Isa,
    pub(super) dim: usize,
    pub(super) rows_cd: &'a [f32],
    /// A row that has each node's vector.
    pub(super) first_rows: &'a [u32],
}

impl<'a> Space<'a> {
    pub(super) fn vector(&self, node: u32) -> &'a [f32] {
        let row = self.first_rows[node as usize] as usize;
        &self.rows_cd[row * self.dim..][..self.dim]
    }

    /// `scores[i]`: the inner product of `query` and the vector of row `rows[i]`.
    pub(super) fn scores(&self, query: &[f32], rows: &[u32], scores: &mut Vec<f32>) {
        scores.resize(rows.len(), 0.0);
        self.isa.dot_rows(scores, query, self.rows_cd, rows);
    }
}

/// A node and its score in one number that is lower the higher the score; of equal scores the lower
/// node comes first. The lowest bit is free for a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Candidate(u64);

impl Candidate {
    pub(super) fn new(score: f32, node: u32) -> Candidate {
        let score = if score.is_nan() { f32::NEG_INFINITY } else { score };
        let bits = score.to_bits();
        // Ascending floats as ascending whole numbers; then turned round.
        let ascending = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
        Candidate(u64::from(!ascending) << 32 | u64::from(node) << 1)
    }

    pub(super) fn node(self) -> u32 {
        self.0 as u32 >> 1
    }

    pub(super) fn score(self) -> f32 {
        let ascending = !((self.0 >> 32) as u32);
        f32::from_bits(if ascending >> 31 == 1 { ascending & !(1 << 31) } else { !ascending })
    }
}

/// The best `room` candidates, best first; each is marked once its neighbours were looked at.
#[derive(Debug, Default)]
struct Pool {
    room: usize,
    sorted: Vec<Candidate>,
    /// All before it are marked.
    first_unmarked: usize,
}

impl Pool {
    fn offer(&mut self, candidate: Candidate) {
        if self.sorted.len() == self.room {
            // Marked or not, the last one's place in the order is the same.
            if self.sorted.last().is_none_or(|last| candidate.0 >= last.0 & !1) {
                return;
            }
            self.sorted.pop();
        }
        let at = self.sorted.partition_point(|other| other < &candidate);
        self.sorted.insert(at, candidate);
        self.first_unmarked = self.first_unmarked.min(at);
    }

    /// Marks the best unmarked candidate, and returns its node.
    fn mark_best(&mut self) -> Option<u32> {
        let unmarked = self.sorted[self.first_unmarked..].iter().position(|it| it.0 & 1 == 0);
        self.first_unmarked += unmarked?;
        let best = &mut self.sorted[self.first_unmarked];
        best.0 |= 1;
        Some(best.node())
    }
}

/// Which nodes were seen: a stamp each, so that forgetting all is one addition.
#[derive(Debug, Default)]
struct Seen {
    stamps: Vec<u8>,
    now: u8,
}

impl Seen {
    fn forget(&mut self, n_nodes: usize) {
        if self.stamps.len() != n_nodes || self.now == u8::MAX {
            self.stamps.clear();
            self.stamps.resize(n_nodes, 0);
            self.now = 0;
        }
        self.now += 1;
    }

    /// Whether `node` was not seen before.
    fn insert(&mut self, node: u32) -> bool {
        std::mem::replace(&mut self.stamps[node as usize], self.now) != self.now
    }
}

/// What a walk writes to, kept for the next one.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    pool: Pool,
    seen: Seen,
    /// Neighbours that were not seen before, their rows, and their scores.
    nodes: Vec<u32>,
    rows: Vec<u32>,
    pub(super) scores: Vec<f32>,
}

impl Scratch {
    /// Begins at `entry`.
    pub(super) fn begin(&mut self, space: &Space, query: &[f32], entry: u32) {
        self.pool.sorted.clear();
        let score = space.isa.dot(query, space.vector(entry));
        self.pool.sorted.push(Candidate::new(score, entry));
    }

    /// Walks `level` from the candidates found so far; [`Scratch::found`] then holds the best `ef`.
    pub(super) fn walk(
        &mut self,
        space: &Space,
        links: &impl Links,
        query: &[f32],
        level: usize,
        ef: usize,
    ) {
        self.seen.forget(space.first_rows.len());
        self.pool.room = ef;
        self.pool.sorted.truncate(ef);
        self.pool.first_unmarked = 0;
        for candidate in &mut self.pool.sorted {
            candidate.0 &= !1;
            self.seen.insert(candidate.node());
        }
        while let Some(node) = self.pool.mark_best() {
            self.score_unseen(space, links, query, level, node);
            for (&node, &score) in self.nodes.iter().zip(&self.scores) {
                self.pool.offer(Candidate::new(score, node));
            }
        }
    }

    /// The candidates of the last walk, best first.
    pub(super) fn found(&self) -> impl ExactSizeIterator<Item = Candidate> {
        self.pool.sorted.iter().map(|it| Candidate(it.0 & !1))
    }

    /// Walks level 0 from the candidates found so far to the best `ef` nodes that `accept` accepts,
    /// best first; nodes that it refuses are ways to others. `None` when more than `budget` nodes
    /// would have to be looked at.
    pub(super) fn walk_accepted(
        &mut self,
        space: &Space,
        links: &impl Links,
        query: &[f32],
        ef: usize,
        budget: usize,
        accept: impl Fn(u32) -> bool,
    ) -> Option<Vec<Candidate>> {
        self.seen.forget(space.first_rows.len());
        let mut ways = BinaryHeap::new();
        let mut best = BinaryHeap::new();
        let mut n_seen = 0;
        let entries: Vec<Candidate> = self.found().collect();
        for candidate in entries {
            self.seen.insert(candidate.node());
            ways.push(Reverse(candidate));
            if accept(candidate.node()) {
                best.push(candidate);
            }
        }
        while let Some(Reverse(way)) = ways.pop() {
            if best.len() >= ef && best.peek().is_some_and(|worst| way > *worst) {
                break;
            }
            self.score_unseen(space, links, query, 0, way.node());
            n_seen += self.nodes.len();
            if n_seen > budget {
                return None;
            }
            for (&node, &score) in self.nodes.iter().zip(&self.scores) {
                let candidate = Candidate::new(score, node);
                if best.len() < ef || best.peek().is_some_and(|worst| candidate < *worst) {
                    ways.push(Reverse(candidate));
                    if accept(node) {
                        best.push(candidate);
                        if best.len() > ef {
                            best.pop();
                        }
                    }
                }
            }
        }
        let mut best = best.into_sorted_vec();
        best.truncate(ef);
        Some(best)
    }

    /// The neighbours of `node` that were not seen before, and their scores.
    fn score_unseen(
        &mut self,
        space: &Space,
        links: &impl Links,
        query: &[f32],
        level: usize,
        node: u32,
    ) {
        let Scratch { seen, nodes, rows, scores, .. } = self;
        nodes.clear();
        links.append_to(nodes, level, node);
        // Most were seen, in no pattern that a branch could follow.
        let mut n_unseen = 0;
        for at in 0..nodes.len() {
            let link = nodes[at];
            nodes[n_unseen] = link;
            n_unseen += usize::from(seen.insert(link));
        }
        nodes.truncate(n_unseen);
        rows.clear();
        rows.extend(nodes.iter().map(|&node| space.first_rows[node as usize]));
        space.scores(query, rows, scores);
    }
}

/// Scratch memory for as many walks as run at once.
#[derive(Debug, Default)]
pub(super) struct ScratchPool(Mutex<Vec<Scratch>>);

impl ScratchPool {
    pub(super) fn with<R>(&self, work: impl FnOnce(&mut Scratch) -> R) -> R {
        let idle = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut scratch = idle().pop().unwrap_or_default();
        let result = work(&mut scratch);
        idle().push(scratch);
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn candidates_order_by_score_and_then_by_node() {
        let scores = [f32::INFINITY, 1.5, 1e-40, 0.0, -0.0, -1e-40, -2.0, f32::NEG_INFINITY];
        let candidates = scores.map(|score| Candidate::new(score, 7));
        assert!(candidates.is_sorted_by(|a, b| a < b));
        for (score, candidate) in scores.into_iter().zip(candidates) {
            assert_eq!(candidate.score().to_bits(), score.to_bits());
            assert_eq!(candidate.node(), 7);
        }
        let last = (MAX_NODES - 1) as u32;
        assert_eq!(Candidate::new(0.5, last).node(), last);
        assert!(Candidate::new(0.5, 3) < Candidate::new(0.5, 4));
        assert_eq!(Candidate::new(f32::NAN, 0), Candidate::new(f32::NEG_INFINITY, 0));
    }

    #[test]
    fn a_pool_keeps_the_best_and_hands_each_out_once() {
        let mut pool = Pool { room: 3, ..Pool::default() };
        for (score, node) in [(0.1, 0), (0.9, 1), (0.5, 2)] {
            pool.offer(Candidate::new(score, node));
        }
        assert_eq!(pool.mark_best(), Some(1));
        pool.offer(Candidate::new(0.05, 3)); // Worse than all that are kept.
        pool.offer(Candidate::new(0.95, 4));
        assert_eq!(pool.mark_best(), Some(4), "a better one comes before those that wait");
        assert_eq!(pool.mark_best(), Some(2));
        assert_eq!(pool.mark_best(), None);
        pool.offer(Candidate::new(0.5, 2));
        assert_eq!(pool.sorted.len(), 3, "the marked last one is not offered again");
        let mut none = Pool::default();
        none.offer(Candidate::new(1.0, 0));
        assert_eq!(none.mark_best(), None);
    }

    #[test]
    fn what_was_seen_is_forgotten_however_often() {
        let mut seen = Seen::default();
        for _ in 0..600 {
            seen.forget(3);
            assert!(seen.insert(1));
            assert!(!seen.insert(1));
            assert!(seen.insert(2));
        }
    }
}
