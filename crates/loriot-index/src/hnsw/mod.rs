//! Hierarchical navigable small-world graphs (Malkov and Yashunin 2018): few vectors looked at.
//!
//! A node of the graph is a distinct vector; it leads to all rows that have it. The vectors stay in
//! the vector file, and the graph file has links alone. A search finds nodes by
//! [`Isa::dot_rows`], so that a hit has the same score here and in [`crate::exact`].
//!
//! After the first 512 nodes several threads insert at once, so two builds give two graphs: this is
//! the one part of a catalogue that is not reproducible to the bit. One thread gives the same graph
//! every time.
//!
//! In reading order: `groups` equal vectors · `beam` the walk through a graph · `build` inserting ·
//! `layers` the lists of a finished graph · `file` its file · `usearch` files of earlier versions ·
//! `fault` why a file is refused.

mod beam;
mod build;
mod fault;
mod file;
mod groups;
mod layers;
mod usearch;

use crate::hit::TopK;
use crate::{Hit, Row, Vectors, search_exact};
use beam::{Candidate, ScratchPool, Space};
use groups::Groups;
use layers::{LayerSlices, Layers};
use loriot_files::{Hint, Mmap, OutputError, open_regular};
use loriot_kernels::Isa;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

pub use fault::GraphFault;

/// Vectors that a walk looks at for each candidate it keeps, about. It only decides when to look at all.
const LOOKED_AT_PER_CANDIDATE: f64 = 20.0;

/// What asking a filter about one row costs, in inner products.
const COST_OF_ASKING: f64 = 0.05;

/// Rows that a filter is asked about to estimate how many it accepts.
const SAMPLE_ROWS: u32 = 256;

/// How a graph is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HnswConfig {
    /// Links of a new node per level (HNSW's M), twice that at most on the lowest; at least 2.
    pub connectivity: usize,
    /// Candidates looked at for each vector inserted: more gives a better graph, slower.
    pub ef_construction: usize,
}

impl Default for HnswConfig {
    fn default() -> HnswConfig {
        HnswConfig { connectivity: 100, ef_construction: 200 }
    }
}

/// A graph file could not be used.
#[derive(Debug, thiserror::Error)]
pub enum HnswError {
    /// The file is missing or may not be read.
    #[error("cannot open `{}`", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The file is not a sound graph over the vectors beside it.
    #[error("cannot use `{}`", path.display())]
    Unsound {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: GraphFault,
    },
}

impl Hint for HnswError {
    fn hint(&self) -> Option<String> {
        match self {
            HnswError::Unsound { source, .. } => source.hint(),
            HnswError::Open { .. } => None,
        }
    }
}

/// A graph over the vectors it was built from.
#[derive(Debug)]
pub struct Hnsw {
    groups: Groups,
    layers: Layers,
    first_rows: Vec<u32>,
    scratch: ScratchPool,
}

impl Hnsw {
    /// Inserts every vector, on the threads of the current rayon pool; `on_insert` is called for
    /// each. Panics without vectors or with a `connectivity` below 2.
    pub fn build(
        isa: Isa,
        vectors: &Vectors,
        config: HnswConfig,
        on_insert: impl Fn() + Sync,
    ) -> Hnsw {
        let never = AtomicBool::new(false);
        let built = Hnsw::build_unless(&never, isa, vectors, config, on_insert);
        built.expect("nobody stops it")
    }

    /// The same, given up soon after `stop` becomes true: then it is `None`.
    pub fn build_unless(
        stop: &AtomicBool,
        isa: Isa,
        vectors: &Vectors,
        config: HnswConfig,
        on_insert: impl Fn() + Sync,
    ) -> Option<Hnsw> {
        assert!(!vectors.is_empty() && config.connectivity >= 2, "no graph to build");
        let groups = Groups::new(vectors, config.connectivity);
        assert!(groups.n_nodes() <= beam::MAX_NODES, "too many vectors for a graph");
        let layers = build::build(stop, isa, vectors, &groups, config, on_insert)?;
        Some(Hnsw::new(groups, layers))
    }

    fn new(groups: Groups, layers: Layers) -> Hnsw {
        let first_rows = groups.first_rows();
        Hnsw { groups, layers, first_rows, scratch: ScratchPool::default() }
    }

    /// Writes the graph over `vectors`, those it was built from, and waits for the disk.
    pub fn write(&self, path: &Path, vectors: &Vectors) -> Result<(), OutputError> {
        file::write(path, vectors, &self.groups, &self.layers)
    }

    /// Maps a graph file that was written for `vectors`, after every link in it was checked. A file
    /// of usearch, from an earlier version, is read into memory.
    pub fn open(path: &Path, vectors: &Vectors) -> Result<Hnsw, HnswError> {
        let open = |source| HnswError::Open { path: path.to_owned(), source };
        Hnsw::from_file(&open_regular(path).map_err(open)?, path, vectors)
    }

    /// The same of a regular file that is open; `path` is for messages.
    pub fn from_file(file: &File, path: &Path, vectors: &Vectors) -> Result<Hnsw, HnswError> {
        let open = |source| HnswError::Open { path: path.to_owned(), source };
        let unsound = |source| HnswError::Unsound { path: path.to_owned(), source };
        if file.metadata().map_err(open)?.len() == 0 {
            return Err(unsound(GraphFault::Head)); // Some systems do not map an empty file.
        }
        let map = Arc::new(Mmap::of(file).map_err(open)?);
        let (groups, layers) = if map.starts_with(file::MAGIC) {
            file::read(&map, vectors)
        } else {
            usearch::read(&map, vectors.dim(), vectors.len())
        }
        .map_err(unsound)?;
        Ok(Hnsw::new(groups, layers))
    }

    /// The best `k` of the `ef` nodes that the graph finds for `query` among the rows that `accept`
    /// accepts, best first.
    ///
    /// `vectors` are those the graph was built from. `ef` counts as at least `k`; the more, the
    /// better and slower. [`crate::any_row`] accepts all rows. Where a walk would look at about as
    /// many vectors as there are (a small graph, a large `ef`, a filter that accepts few rows, or only
    /// rows far from the query), every accepted vector is looked at instead, which misses none.
    pub fn search(
        &self,
        isa: Isa,
        vectors: &Vectors,
        query: &[f32],
        k: usize,
        ef: usize,
        accept: impl Fn(Row) -> bool + Sync,
    ) -> Vec<Hit> {
        assert_eq!(query.len(), vectors.dim(), "width of the query");
        let n_rows = vectors.len();
        let share = share_accepted(n_rows, &accept);
        let cost_of_all = n_rows as f64 * (COST_OF_ASKING + share);
        let cost_of_walk = LOOKED_AT_PER_CANDIDATE * ef.max(k) as f64 / share;
        let by_graph = (cost_of_walk < cost_of_all).then(|| {
            let wanted = Wanted { k, ef, accepts_all: share == 1.0, budget: cost_of_all as usize };
            self.search_graph(isa, vectors, query, wanted, &accept)
        });
        // Fewer than there are: a part of the graph was out of reach.
        let by_graph = by_graph.flatten().filter(|hits| hits.len() >= k.min(n_rows));
        by_graph.unwrap_or_else(|| search_exact(isa, vectors, query, k, accept).remove(0))
    }

    /// [`Hnsw::search`] by the graph alone; `None` when that looks at more than `wanted.budget` nodes.
    fn search_graph(
        &self,
        isa: Isa,
        vectors: &Vectors,
        query: &[f32],
        wanted: Wanted,
        accept: impl Fn(Row) -> bool,
    ) -> Option<Vec<Hit>> {
        assert_eq!(self.groups.rows.get().len(), vectors.len(), "the graph of these vectors");
        let (rows_cd, first_rows) = (vectors.rows_cd(), &*self.first_rows);
        let space = Space { isa, dim: vectors.dim(), rows_cd, first_rows };
        let links = LayerSlices::new(&self.layers);
        let rows_accepted = |node: u32| {
            let rows = self.groups.rows_of(node).iter().map(|&row| Row(row));
            rows.filter(|&row| accept(row))
        };
        let accept_node = |node: u32| rows_accepted(node).next().is_some();
        let ef = wanted.ef.max(wanted.k).max(1);
        let found = self.scratch.with(|scratch| {
            scratch.begin(&space, query, 0);
            for level in (1..links.n_levels()).rev() {
                scratch.walk(&space, &links, query, level, 1);
            }
            if wanted.accepts_all {
                scratch.walk(&space, &links, query, 0, ef);
                let found: Vec<Candidate> = scratch.found().collect();
                if found.iter().all(|candidate| accept_node(candidate.node())) {
                    return Some(found);
                }
            }
            scratch.walk_accepted(&space, &links, query, ef, wanted.budget, accept_node)
        })?;

        let mut best = TopK::new(wanted.k);
        let (mut n_offered, mut last_score) = (0, f32::INFINITY);
        for candidate in found {
            // Equal scores of different nodes compete by row.
            if n_offered >= wanted.k && candidate.score() < last_score {
                break;
            }
            last_score = candidate.score();
            // Of one node the first rows win.
            for row in rows_accepted(candidate.node()).take(wanted.k) {
                // Only a damaged file calls vectors equal that are not; then the score is still right.
                best.offer(row, isa.dot(query, vectors.vector(row)));
                n_offered += 1;
            }
        }
        Some(best.into_hits(vectors))
    }
}

/// What [`Hnsw::search_graph`] is to find.
#[derive(Clone, Copy, Debug)]
struct Wanted {
    k: usize,
    ef: usize,
    /// Whether the filter seems to accept every row.
    accepts_all: bool,
    /// Nodes that a search with a filter may look at.
    budget: usize,
}

/// The share of rows that `accept` accepts, estimated from some of them.
fn share_accepted(n_rows: usize, accept: impl Fn(Row) -> bool) -> f64 {
    // Multiples of the golden ratio are spread evenly over the rows and follow no pattern that a catalogue may have
    // (Knuth, volume 3, 6.4).
    let row = |at: u32| (u64::from(at.wrapping_mul(2_654_435_769)) * n_rows as u64) >> 32;
    let n_accepted = (0..SAMPLE_ROWS).filter(|&at| accept(Row(row(at) as u32))).count();
    n_accepted as f64 / f64::from(SAMPLE_ROWS)
}

#[cfg(test)]
mod tests;
