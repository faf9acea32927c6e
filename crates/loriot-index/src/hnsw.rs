//! A navigable small-world graph (Malkov and Yashunin, 2016), by usearch: few vectors looked at.
//!
//! The graph finds candidates; their scores are computed anew from the vector file, so that a hit
//! has the same score here and in [`crate::exact`]. After the first 512 vectors several threads
//! insert at once, so two builds give two graphs: this is the one part of a catalogue that is not
//! reproducible to the bit.
//!
//! usearch keeps its own copy of the vectors beside the graph, in memory while it builds and in
//! its file. Its inner product is plain C++ that the compiler vectorises: the optional kernels of
//! the `numkong` crate take minutes to compile, and showed no gain when tried (on a busy machine).

use crate::graph_check::check_graph;
use crate::hit::TopK;
use crate::{Hit, Row, Vectors, search_exact};
use loriot_files::{Hint, Mmap};
use loriot_kernels::Isa;
use rayon::prelude::*;
use std::path::{Path, PathBuf};
use usearch::{Index, IndexOptions, MetricKind, ScalarKind};

pub use crate::graph_check::GraphFault;

/// Searches that may run at once; usearch wants the number in advance.
const MAX_SEARCHES_AT_ONCE: usize = 256;

/// Vectors inserted one after another before several threads insert at once: in a small graph the
/// insertions under way at one time are a large part of it, and do not see each other as
/// neighbours.
const N_INSERTED_ALONE: usize = 512;

/// How a graph is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HnswConfig {
    /// Links of a vector per level (HNSW's M), twice that on the lowest; at least 2.
    pub connectivity: usize,
    /// Candidates looked at for each vector inserted: more gives a better graph, slower.
    pub ef_construction: usize,
}

impl Default for HnswConfig {
    fn default() -> HnswConfig {
        HnswConfig { connectivity: 100, ef_construction: 200 }
    }
}

/// A graph could not be built, written or opened.
#[derive(Debug, thiserror::Error)]
pub enum HnswError {
    /// usearch gave up, usually for want of memory.
    #[error("cannot build the search graph")]
    Build(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The system refused to write the file.
    #[error("cannot write `{}`", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system or usearch said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The file is missing or may not be read.
    #[error("cannot open `{}`", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system or usearch said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
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
            HnswError::Write { .. } => Some("is the disk full?".into()),
            HnswError::Build(_) | HnswError::Open { .. } => None,
        }
    }
}

/// A graph over the vectors it was built from.
pub struct Hnsw {
    graph: Index,
}

impl Hnsw {
    /// Inserts every vector, on the threads of the current rayon pool; `on_insert` is called after
    /// each. Panics without vectors or with a `connectivity` below 2.
    pub fn build(
        vectors: &Vectors,
        config: HnswConfig,
        on_insert: impl Fn() + Sync,
    ) -> Result<Hnsw, HnswError> {
        assert!(!vectors.is_empty() && config.connectivity >= 2, "no graph to build");
        let build = |error| HnswError::Build(Box::new(error));
        let graph = Index::new(&options(vectors.dim(), config)).map_err(build)?;
        graph
            .reserve_capacity_and_threads(vectors.len(), rayon::current_num_threads())
            .map_err(build)?;
        let insert = |row: usize| {
            graph.add(row as u64, vectors.vector(Row(row as u32))).map_err(build)?;
            on_insert();
            Ok(())
        };
        let n_alone = vectors.len().min(N_INSERTED_ALONE);
        (0..n_alone).try_for_each(insert)?;
        (n_alone..vectors.len()).into_par_iter().try_for_each(insert)?;
        Ok(Hnsw { graph })
    }

    /// Writes the graph, and usearch's copy of the vectors, and waits for the disk.
    ///
    /// Not atomic: `path` belongs in a folder that is.
    pub fn write(&self, path: &Path) -> Result<(), HnswError> {
        let write = |source| HnswError::Write { path: path.to_owned(), source };
        self.graph.save(utf8(path).map_err(write)?).map_err(|error| write(Box::new(error)))?;
        // usearch ignores what closing the file reports, which is where a full disk shows.
        let file = std::fs::File::open(path).map_err(|error| write(Box::new(error)))?;
        let found = file.metadata().map_err(|error| write(Box::new(error)))?.len();
        let expected = self.graph.serialized_length() as u64;
        if found != expected {
            return Err(write(format!("{found} bytes of {expected} were written").into()));
        }
        file.sync_all().map_err(|error| write(Box::new(error)))
    }

    /// Maps a graph file that was written for `vectors`, after every link in it was checked.
    pub fn open(path: &Path, vectors: &Vectors) -> Result<Hnsw, HnswError> {
        let open = |source| HnswError::Open { path: path.to_owned(), source };
        let unsound = |source| HnswError::Unsound { path: path.to_owned(), source };
        let length = std::fs::metadata(path).map_err(|error| open(Box::new(error)))?.len();
        if length == 0 {
            // Some systems do not map an empty file, so it is told here what it lacks.
            let fault = check_graph(&[], vectors.dim(), vectors.len());
            return Err(fault.map_err(unsound).err().unwrap_or_else(|| open("is empty".into())));
        }
        let file = Mmap::open(path).map_err(|error| open(Box::new(error)))?;
        check_graph(&file, vectors.dim(), vectors.len()).map_err(unsound)?;
        drop(file);
        let usearch = |error| open(Box::new(error));
        let graph = Index::new(&options(vectors.dim(), HnswConfig::default())).map_err(usearch)?;
        graph.reserve_capacity_and_threads(0, MAX_SEARCHES_AT_ONCE).map_err(usearch)?;
        graph.view(utf8(path).map_err(open)?).map_err(usearch)?;
        Ok(Hnsw { graph })
    }

    /// The best `k` of the `ef` candidates that the graph finds for `query` among the rows that
    /// `accept` accepts, best first.
    ///
    /// `vectors` are those the graph was built from. `ef` counts as at least `k`; the more, the
    /// better and slower. [`crate::any_row`] accepts all rows. Where usearch gives up, every vector
    /// is looked at. At most 256 searches run at once.
    pub fn search(
        &self,
        isa: Isa,
        vectors: &Vectors,
        query: &[f32],
        k: usize,
        ef: usize,
        accept: impl Fn(Row) -> bool + Sync,
    ) -> Vec<Hit> {
        // usearch's own `expansion_search` is shared by all searches; the count asked for is not,
        // and has the same effect.
        let n_candidates = ef.max(k).min(vectors.len());
        let filter = |key| accept(Row(key as u32));
        let Ok(candidates) = self.graph.filtered_search(query, n_candidates, filter) else {
            return search_exact(isa, vectors, query, k, accept).remove(0);
        };
        let mut best = TopK::new(k);
        for key in candidates.keys {
            let row = Row(key as u32);
            best.offer(row, isa.dot(query, vectors.vector(row)));
        }
        best.into_hits(vectors)
    }
}

impl std::fmt::Debug for Hnsw {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hnsw").field("n_vectors", &self.graph.size()).finish_non_exhaustive()
    }
}

fn options(dim: usize, config: HnswConfig) -> IndexOptions {
    IndexOptions {
        dimensions: dim,
        metric: MetricKind::IP,
        quantization: ScalarKind::F32,
        connectivity: config.connectivity,
        expansion_add: config.ef_construction.max(1),
        expansion_search: 1, // The least: the count asked for decides; see `search`.
        multi: false,
    }
}

fn utf8(path: &Path) -> Result<&str, Box<dyn std::error::Error + Send + Sync>> {
    path.to_str().ok_or_else(|| "usearch opens no path that is not UTF-8".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Identity, VectorId, any_row, recall};

    /// Unit vectors that scatter around `n / 20` centres, as titles around products.
    fn clustered(n: usize, dim: usize) -> Vectors {
        let noise = |i: usize| ((i as f32 * 12.9898).sin() * 43_758.547).fract();
        let centre = |row: usize, i: usize| noise((row % n.div_ceil(20)) * dim + i + 7);
        let mut rows_cd: Vec<f32> =
            (0..n * dim).map(|at| centre(at / dim, at % dim) + 0.5 * noise(at)).collect();
        for row_d in rows_cd.chunks_mut(dim) {
            let norm = row_d.iter().map(|x| x * x).sum::<f32>().sqrt();
            row_d.iter_mut().for_each(|x| *x /= norm);
        }
        Vectors::new(dim, Identity([1; 32]), rows_cd)
    }

    /// By one thread, so that a test sees the same graph every time.
    fn build(vectors: &Vectors) -> Hnsw {
        build_with(vectors, 1)
    }

    fn build_with(vectors: &Vectors, n_threads: usize) -> Hnsw {
        let config = HnswConfig { connectivity: 32, ef_construction: 200 };
        let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads).build().unwrap();
        pool.install(|| Hnsw::build(vectors, config, || ()).unwrap())
    }

    fn search_all(graph: &Hnsw, vectors: &Vectors, queries: &Vectors, ef: usize) -> Vec<Vec<Hit>> {
        let queries = queries.rows_cd().chunks(vectors.dim());
        let search = |query| graph.search(Isa::best(), vectors, query, 10, ef, any_row);
        queries.map(search).collect()
    }

    #[test]
    fn finds_nearly_all_that_exact_search_finds_with_the_same_scores() {
        let (vectors, queries) = (clustered(4_000, 32), clustered(60, 32));
        let truth = search_exact(Isa::best(), &vectors, queries.rows_cd(), 10, any_row);
        let graph = build(&vectors);
        let found = search_all(&graph, &vectors, &queries, 100);
        let share = recall(&found, &truth).unwrap();
        assert!(share >= 0.95, "recall {share}");
        let best_agree = found.iter().zip(&truth).filter(|(found, truth)| found[0] == truth[0]);
        assert!(best_agree.count() >= 57, "a hit has the same bits in both");
        // As many candidates as vectors, and more, miss only what no link leads to.
        let all = search_all(&graph, &vectors, &queries, usize::MAX);
        assert!(recall(&all, &truth).unwrap() >= 0.99);
    }

    #[test]
    fn threads_that_insert_at_once_lose_little() {
        let (vectors, queries) = (clustered(4_000, 32), clustered(60, 32));
        let truth = search_exact(Isa::best(), &vectors, queries.rows_cd(), 10, any_row);
        let found = search_all(&build_with(&vectors, 4), &vectors, &queries, 100);
        // Which links are made depends on who is faster: 0.976 to 1 were seen.
        let share = recall(&found, &truth).unwrap();
        assert!(share >= 0.9, "recall {share}");
    }

    #[test]
    fn a_written_graph_searches_as_before() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hnsw.usearch");
        let (vectors, queries) = (clustered(500, 16), clustered(20, 16));
        let graph = build(&vectors);
        graph.write(&path).unwrap();
        let opened = Hnsw::open(&path, &vectors).unwrap();
        let before = search_all(&graph, &vectors, &queries, 50);
        assert_eq!(search_all(&opened, &vectors, &queries, 50), before);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(8).build().unwrap();
        let query = queries.vector(Row(3));
        let search = |_| opened.search(Isa::best(), &vectors, query, 10, 50, any_row);
        let at_once: Vec<_> = pool.install(|| (0..64).into_par_iter().map(search).collect());
        assert!(at_once.iter().all(|hits| hits == &before[3]));
    }

    #[test]
    fn one_vector_is_a_graph() {
        let vectors = Vectors::new(2, Identity([0; 32]), vec![0.6, 0.8]);
        let graph = build(&vectors);
        let hits = graph.search(Isa::best(), &vectors, &[1.0, 0.0], 10, 100, any_row);
        assert_eq!(hits, [Hit { id: VectorId(0), row: Row(0), score: 0.6 }]);
    }

    #[test]
    fn a_graph_of_other_vectors_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hnsw.usearch");
        let vectors = clustered(100, 16);
        build(&vectors).write(&path).unwrap();
        let refusal = |vectors: &Vectors| match Hnsw::open(&path, vectors) {
            Err(HnswError::Unsound { source, .. }) => source.to_string(),
            other => panic!("{other:?}"),
        };
        assert_eq!(refusal(&clustered(99, 16)), "its number of vectors is 100, expected 99");
        assert_eq!(refusal(&clustered(100, 8)), "its bytes of a vector is 64, expected 32");
    }

    fn graph_begins(n: usize, dim: usize) -> usize {
        8 + n * dim * 4
    }

    #[test]
    fn every_cut_and_every_broken_link_is_refused_before_usearch_sees_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hnsw.usearch");
        let (n, dim) = (60, 4);
        let vectors = clustered(n, dim);
        build(&vectors).write(&path).unwrap();
        let good = std::fs::read(&path).unwrap();
        assert_eq!(check_graph(&good, dim, n), Ok(()));
        for length in 0..good.len() {
            let fault = check_graph(&good[..length], dim, n);
            assert!(matches!(fault, Err(GraphFault::Length { .. })), "{length}: {fault:?}");
        }
        let longer = [&good[..], &[0]].concat();
        assert!(matches!(check_graph(&longer, dim, n), Err(GraphFault::Length { .. })));

        std::fs::write(&path, "").unwrap();
        assert!(matches!(Hnsw::open(&path, &vectors), Err(HnswError::Unsound { .. })));

        // The first link of the first node follows its id, level and number of links.
        let first_link = graph_begins(n, dim) + 64 + 40 + 2 * n + 10 + 4;
        let mut damaged = good.clone();
        damaged[first_link..][..4].copy_from_slice(&(n as u32).to_le_bytes());
        let fault = check_graph(&damaged, dim, n).unwrap_err();
        assert_eq!(
            fault.to_string(),
            "node 0 of its graph is damaged: a link leads to no node of its level"
        );

        // Whatever a damaged byte leaves acceptable must still be safe to search.
        for at in graph_begins(n, dim)..good.len() {
            let mut damaged = good.clone();
            damaged[at] ^= 0x80;
            if check_graph(&damaged, dim, n).is_err() || at % 8 > 0 {
                continue; // Opening takes a file and so some time: one in eight is searched.
            }
            std::fs::write(&path, &damaged).unwrap();
            if let Ok(graph) = Hnsw::open(&path, &vectors) {
                let query = vectors.vector(Row(0));
                graph.search(Isa::best(), &vectors, query, 10, 60, any_row);
            }
        }
    }
}
