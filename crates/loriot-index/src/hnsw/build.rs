//! Inserting vectors into a graph (Malkov and Yashunin 2018, algorithms 1 and 4), on several threads.
//!
//! Where this departs from the paper:
//!
//! - Nodes are numbered in the order of their levels, highest first. The number of nodes of a level is
//!   then fixed, not drawn: `n / connectivity^level`. Node 0 is where every walk begins, from the first
//!   insertion on. One thread inserts nodes in their order; of several, each inserts a part in its order.
//! - A node gets its links on all levels before any other node gets a link to it, so that whoever
//!   finds it can go on from there.
//!
//! Lists are atomics with room for the most links. A reader takes no lock: a list that is being
//! rewritten while it is read gives old links, new ones, or one of them twice, and all of them lead to
//! nodes. Writers of a list take turns. One thread gives the same graph every time.

use super::HnswConfig;
use super::beam::{Candidate, Links, Scratch, ScratchPool, Space};
use super::groups::{Groups, N_INSERTED_ALONE};
use super::layers::{Layer, Layers};
use crate::Vectors;
use loriot_kernels::Isa;
use rayon::prelude::*;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

/// Locks for writing lists; nodes share them by the remainder of their number.
const N_LOCKS: usize = 1 << 12;

/// Builds the layers over the vectors of `groups`; `on_insert` is called for each row. `None` once `stop`
/// is true.
pub(super) fn build(
    stop: &AtomicBool,
    isa: Isa,
    vectors: &Vectors,
    groups: &Groups,
    config: HnswConfig,
    on_insert: impl Fn() + Sync,
) -> Option<Layers> {
    let n_nodes = groups.n_nodes();
    let first_rows = groups.first_rows();
    let space =
        Space { isa, dim: vectors.dim(), rows_cd: vectors.rows_cd(), first_rows: &first_rows };
    let lists = |level: usize, n_nodes| Lists::new(n_nodes, room(config, level));
    let growing = Growing {
        space,
        config,
        levels: level_sizes(n_nodes, config.connectivity)
            .into_iter()
            .enumerate()
            .map(|(level, n_nodes)| lists(level, n_nodes))
            .collect(),
        locks: (0..N_LOCKS.min(n_nodes)).map(|_| Mutex::default()).collect(),
    };
    let scratch = ScratchPool::default();
    let insert = |node: usize| {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        if node > 0 {
            scratch.with(|scratch| growing.insert(node as u32, scratch));
        }
        groups.rows_of(node as u32).iter().for_each(|_| on_insert());
    };
    let n_alone = n_nodes.min(N_INSERTED_ALONE);
    (0..n_alone).for_each(insert);
    (n_alone..n_nodes).into_par_iter().for_each(insert);
    let is_whole = !stop.load(Ordering::Relaxed);
    is_whole.then(|| growing.levels.iter().map(Lists::layer).collect())
}

/// The most links of a node: twice as many on level 0, as the paper recommends.
fn room(config: HnswConfig, level: usize) -> usize {
    if level == 0 { 2 * config.connectivity } else { config.connectivity }
}

/// How many nodes each level has, level 0 first: one in `connectivity` of the level below.
fn level_sizes(n_nodes: usize, connectivity: usize) -> Vec<usize> {
    let above = |&n_below: &usize| Some(n_below / connectivity).filter(|&n| n >= 2);
    std::iter::successors(Some(n_nodes), above).collect()
}

/// The lists of one level while they grow.
struct Lists {
    /// The most links of a list.
    room: usize,
    /// For each node the number of its links, and room for them.
    slots: Vec<AtomicU32>,
}

impl Lists {
    fn new(n_nodes: usize, room: usize) -> Lists {
        let slots = (0..n_nodes * (room + 1)).map(|_| AtomicU32::new(0)).collect();
        Lists { room, slots }
    }

    fn list(&self, node: u32) -> (&AtomicU32, &[AtomicU32]) {
        let list = &self.slots[node as usize * (self.room + 1)..][..self.room + 1];
        (&list[0], &list[1..])
    }

    fn links(&self, node: u32) -> impl Iterator<Item = u32> {
        let (n_links, slots) = self.list(node);
        let n_links = n_links.load(Ordering::Acquire) as usize;
        slots[..n_links].iter().map(|slot| slot.load(Ordering::Relaxed))
    }

    /// The caller holds the lock of `node`.
    fn replace(&self, node: u32, links: impl Iterator<Item = u32>) {
        let (n_links, slots) = self.list(node);
        let mut n_written = 0;
        for (slot, link) in slots.iter().zip(links) {
            slot.store(link, Ordering::Relaxed);
            n_written += 1;
        }
        n_links.store(n_written, Ordering::Release);
    }

    /// Appends `link` where there is room. The caller holds the lock of `node`.
    fn append(&self, node: u32, link: u32) -> bool {
        let (n_links, slots) = self.list(node);
        let at = n_links.load(Ordering::Relaxed);
        let Some(slot) = slots.get(at as usize) else { return false };
        slot.store(link, Ordering::Relaxed);
        n_links.store(at + 1, Ordering::Release);
        true
    }

    fn layer(&self) -> Layer {
        let n_nodes = (self.slots.len() / (self.room + 1)) as u32;
        let (mut starts, mut links) = (vec![0], Vec::new());
        for node in 0..n_nodes {
            links.extend(self.links(node));
            starts.push(links.len() as u64);
        }
        Layer::new(starts, links)
    }
}

/// A graph while it grows.
struct Growing<'a> {
    space: Space<'a>,
    config: HnswConfig,
    /// Level 0 first.
    levels: Vec<Lists>,
    locks: Vec<Mutex<()>>,
}

impl Links for Growing<'_> {
    fn append_to(&self, links: &mut Vec<u32>, level: usize, node: u32) {
        links.extend(self.levels[level].links(node));
    }
}

impl Growing<'_> {
    /// Inserts a node. Only node 0 must be there before it.
    fn insert(&self, node: u32, scratch: &mut Scratch) {
        let HnswConfig { connectivity, ef_construction } = self.config;
        let query = self.space.vector(node);
        let n_nodes = |lists: &Lists| lists.slots.len() / (lists.room + 1);
        let n_levels =
            self.levels.iter().take_while(|lists| (node as usize) < n_nodes(lists)).count();

        scratch.begin(&self.space, query, 0);
        for level in (n_levels..self.levels.len()).rev() {
            scratch.walk(&self.space, self, query, level, 1);
        }
        let mut chosen = vec![Vec::new(); n_levels];
        for level in (0..n_levels).rev() {
            scratch.walk(&self.space, self, query, level, ef_construction.max(1));
            let found: Vec<Candidate> = scratch.found().collect();
            chosen[level] = self.choose(&found, connectivity);
        }
        for (lists, chosen) in self.levels.iter().zip(&chosen) {
            let _writing = self.lock(node);
            lists.replace(node, chosen.iter().copied());
        }
        for (lists, chosen) in self.levels.iter().zip(&chosen) {
            for &neighbour in chosen {
                self.link_back(lists, neighbour, node, &mut scratch.scores);
            }
        }
    }

    /// Adds a link from `node` to `newcomer`; when there is no room, chooses among all.
    fn link_back(&self, lists: &Lists, node: u32, newcomer: u32, scores: &mut Vec<f32>) {
        let _writing = self.lock(node);
        if lists.append(node, newcomer) {
            return;
        }
        let nodes: Vec<u32> = lists.links(node).chain([newcomer]).collect();
        let rows: Vec<u32> =
            nodes.iter().map(|&node| self.space.first_rows[node as usize]).collect();
        self.space.scores(self.space.vector(node), &rows, scores);
        let candidates = nodes.iter().zip(&*scores);
        let mut candidates: Vec<Candidate> =
            candidates.map(|(&node, &score)| Candidate::new(score, node)).collect();
        candidates.sort_unstable();
        let chosen = self.choose(&candidates, lists.room);
        lists.replace(node, chosen.into_iter());
    }

    /// At most `most` of `candidates` (best first) to be linked to: where there are more, those that
    /// are nearer to the new node than to any that was chosen before (algorithm 4). So links lead in
    /// all directions, not all into the nearest cluster.
    fn choose(&self, candidates: &[Candidate], most: usize) -> Vec<u32> {
        if candidates.len() <= most {
            return candidates.iter().map(|candidate| candidate.node()).collect();
        }
        let mut chosen: Vec<u32> = Vec::with_capacity(most);
        for candidate in candidates {
            let vector = self.space.vector(candidate.node());
            // One by one, as one of the first is nearer most of the time.
            let is_nearer_to = |&other: &u32| {
                self.space.isa.dot(vector, self.space.vector(other)) > candidate.score()
            };
            if !chosen.iter().any(is_nearer_to) {
                chosen.push(candidate.node());
                if chosen.len() == most {
                    break;
                }
            }
        }
        chosen
    }

    fn lock(&self, node: u32) -> impl Drop {
        let lock = &self.locks[node as usize % self.locks.len()];
        lock.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_has_one_in_connectivity_of_the_nodes_below() {
        assert_eq!(level_sizes(20_000, 100), [20_000, 200, 2]);
        assert_eq!(level_sizes(1_000, 16), [1_000, 62, 3]);
        assert_eq!(level_sizes(199, 100), [199]);
        assert_eq!(level_sizes(1, 2), [1]);
    }
}
