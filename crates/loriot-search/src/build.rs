//! Making a catalogue: vectors, graph and products under a temporary name, then one rename.

use crate::embed::Embedded;
use crate::manifest::{EncoderRecord, GRAPH, IndexKind, MANIFEST, Manifest, PRODUCTS, VECTORS};
use crate::products::Products;
use crate::replace::check_replaceable;
use crate::threads::{ThreadsError, thread_pool};
use loriot_files::{Hint, NewDir, OutputError, write_atomic_json};
use loriot_index::{
    Hit, Hnsw, HnswConfig, Isa, Row, Vectors, VectorsError, any_row, recall, search_exact,
};
use rayon::prelude::*;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

/// The largest catalogue that is searched exactly by default.
///
/// 20,000 vectors of 384 numbers are 31 MB, which one core reads in a millisecond or two. A graph
/// answers in a tenth of that, but misses some neighbours, takes seconds to build and adds up to half
/// of the vectors' size: for so few products exact search is quick enough.
pub const EXACT_UP_TO: usize = 20_000;

/// A graph that finds less of the nearest than this is worth a warning.
pub const LOW_RECALL: f64 = 0.9;

/// A graph's recall is measured on the neighbours of this many products.
const RECALL_SAMPLE: usize = 200;
const RECALL_K: usize = 10;
const RECALL_EF: usize = 100;

/// How a catalogue is to be searched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IndexChoice {
    /// Exact up to [`EXACT_UP_TO`] products, else by a graph.
    Auto,
    /// Compare the query with every vector.
    Exact,
    /// Follow a graph to a few of the vectors.
    Hnsw,
}

impl IndexChoice {
    /// Whether it is a graph for so many products.
    pub fn is_graph(self, n_products: usize) -> bool {
        match self {
            IndexChoice::Auto => n_products > EXACT_UP_TO,
            IndexChoice::Exact => false,
            IndexChoice::Hnsw => true,
        }
    }
}

/// How a catalogue is built.
#[derive(Clone, Copy, Debug)]
pub struct BuildOptions {
    /// Exact or by a graph.
    pub index: IndexChoice,
    /// The graph, where there is one.
    pub hnsw: HnswConfig,
    /// Replace a catalogue that is there.
    pub overwrite: bool,
    /// Threads that insert vectors into the graph.
    pub n_threads: usize,
    /// The instruction set to build and measure on.
    pub isa: Isa,
}

/// Progress of [`build_catalogue`], reported from any thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BuildEvent {
    /// The graph is begun.
    GraphBegun {
        /// How many vectors it will hold.
        n_vectors: usize,
    },
    /// One vector was inserted.
    Inserted,
    /// All vectors are inserted.
    GraphBuilt,
}

/// A catalogue could not be built. What its folder held before is unchanged.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A file could not be written.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// The vectors could not be read back.
    #[error(transparent)]
    Vectors(#[from] VectorsError),
    /// The threads could not be started.
    #[error(transparent)]
    Threads(#[from] ThreadsError),
    /// The work was stopped before there was a catalogue. The vectors are kept.
    #[error("stopped while the graph was built; `{}` keeps all vectors", partial.display())]
    Stopped {
        /// The folder of the work in progress.
        partial: PathBuf,
    },
}

impl Hint for BuildError {
    fn hint(&self) -> Option<String> {
        match self {
            BuildError::Output(error) => error.hint(),
            BuildError::Vectors(error) => error.hint(),
            BuildError::Threads(error) => error.hint(),
            BuildError::Stopped { .. } => Some("the same command again goes on from there".into()),
        }
    }
}

/// Writes the catalogue of `products`, whose vectors are `embedded`, to the folder `dir`, of which the caller is
/// the only writer. With `overwrite` it replaces a catalogue, and nothing else.
///
/// Once `stop` is true, the graph is given up. Panics unless there is a vector for each product, and at least one.
pub fn build_catalogue(
    dir: &Path,
    products: &Products,
    embedded: &Embedded,
    encoder: EncoderRecord,
    options: &BuildOptions,
    stop: &AtomicBool,
    on_event: impl Fn(BuildEvent) + Sync,
) -> Result<Manifest, BuildError> {
    assert_eq!(products.rows.len(), embedded.len(), "a vector for each product");
    let n_products = embedded.len();
    if options.overwrite {
        check_replaceable(dir)?;
    }
    let new = NewDir::begin(dir, options.overwrite)?;
    products.write(&new.path().join(PRODUCTS))?;
    let vectors_path = new.path().join(VECTORS);
    let (dim, identity) = (embedded.dim(), embedded.identity());
    Vectors::write(&vectors_path, dim, identity, n_products, embedded.rows())?;

    let index = if options.index.is_graph(n_products) {
        let vectors = Vectors::open(&vectors_path)?;
        let stopped = || BuildError::Stopped { partial: embedded.partial().to_owned() };
        let (graph, recall) = thread_pool(options.n_threads)?
            .install(|| {
                on_event(BuildEvent::GraphBegun { n_vectors: n_products });
                let inserted = || on_event(BuildEvent::Inserted);
                let (isa, config) = (options.isa, options.hnsw);
                let graph = Hnsw::build_unless(stop, isa, &vectors, config, inserted)?;
                on_event(BuildEvent::GraphBuilt);
                let recall = measure_recall(isa, &vectors, &graph);
                Some((graph, recall))
            })
            .ok_or_else(stopped)?;
        graph.write(&new.path().join(GRAPH), &vectors)?;
        IndexKind::hnsw(options.hnsw, recall)
    } else {
        IndexKind::Exact
    };
    let manifest = Manifest::describe(new.path(), (n_products, dim), encoder, index)
        .map_err(OutputError::io(dir))?;
    write_atomic_json(&new.path().join(MANIFEST), &manifest)?;
    new.commit()?;
    Ok(manifest)
}

/// Share of the 10 nearest other products that the graph finds, over products spread evenly
/// through the catalogue; `None` for a catalogue of one product.
fn measure_recall(isa: Isa, vectors: &Vectors, graph: &Hnsw) -> Option<f64> {
    let step = vectors.len().div_ceil(RECALL_SAMPLE);
    let sample: Vec<Row> = (0..vectors.len()).step_by(step).map(|row| Row(row as u32)).collect();
    // One more than wanted, since a product finds itself.
    let others = |row: Row, hits: Vec<Hit>| -> Vec<Hit> {
        hits.into_iter().filter(|hit| hit.row != row).take(RECALL_K).collect()
    };
    let found = sample
        .par_iter()
        .map(|&row| {
            let query = vectors.vector(row);
            others(row, graph.search(isa, vectors, query, RECALL_K + 1, RECALL_EF, any_row))
        })
        .collect::<Vec<_>>();
    let queries_qd: Vec<f32> =
        sample.iter().flat_map(|&row| vectors.vector(row)).copied().collect();
    let truth = search_exact(isa, vectors, &queries_qd, RECALL_K + 1, any_row);
    let truth: Vec<_> = sample.iter().zip(truth).map(|(&row, hits)| others(row, hits)).collect();
    recall(&found, &truth)
}
