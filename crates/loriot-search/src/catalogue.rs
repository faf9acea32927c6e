//! An open catalogue: query vectors in, products out.

use crate::build::{BuildError, thread_pool};
use crate::manifest::{EncoderRecord, Manifest, PRODUCTS, VECTORS};
use crate::products::{ProductFile, ProductsError};
use loriot_files::{Hint, ReadFileError};
use loriot_index::{Hit, Hnsw, HnswError, Isa, Vectors, VectorsError, any_row, search_exact};
use rayon::prelude::*;
use serde::{Serialize, Serializer};
use std::path::{Path, PathBuf};

/// A catalogue could not be opened or searched.
#[derive(Debug, thiserror::Error)]
pub enum CatalogueError {
    /// There is no manifest.
    #[error("`{}` is no catalogue: it has no `catalogue.json`", path.display())]
    NotACatalogue {
        /// The folder.
        path: PathBuf,
    },
    /// The manifest is not what it should be.
    #[error(transparent)]
    Manifest(#[from] ReadFileError),
    /// The catalogue is of a format that this version does not read.
    #[error("`{}` has schema version {found}, expected {expected}", path.display())]
    Version {
        /// The manifest.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// Ours.
        expected: u32,
    },
    /// The manifest does not say how long a file is.
    #[error("`{}` lists no file `{name}`", path.display())]
    Unlisted {
        /// The manifest.
        path: PathBuf,
        /// The file.
        name: &'static str,
    },
    /// A file is missing or may not be read.
    #[error("cannot open `{}`", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A file is shorter or longer than the manifest says.
    #[error("`{}` is {found} bytes, expected {expected}", path.display())]
    Length {
        /// The file.
        path: PathBuf,
        /// Its size.
        found: u64,
        /// What the manifest says.
        expected: u64,
    },
    /// A file's content is not what was written.
    #[error("`{}` has SHA-256 {found}, expected {expected}", path.display())]
    Hash {
        /// The file.
        path: PathBuf,
        /// Its hash.
        found: String,
        /// What the manifest says.
        expected: String,
    },
    /// The vector file belongs to another catalogue.
    #[error("`{}`: {what} is {found}, expected {expected}", path.display())]
    Mixed {
        /// The file.
        path: PathBuf,
        /// What does not agree with the manifest.
        what: &'static str,
        /// What the file says.
        found: String,
        /// What the manifest says.
        expected: String,
    },
    /// The vectors cannot be used.
    #[error(transparent)]
    Vectors(#[from] VectorsError),
    /// The graph cannot be used.
    #[error(transparent)]
    Hnsw(#[from] HnswError),
    /// The products cannot be used.
    #[error(transparent)]
    Products(#[from] ProductsError),
    /// The query was embedded by an encoder whose vectors mean something else.
    #[error("`{}` was embedded by another encoder: {difference}", path.display())]
    OtherEncoder {
        /// The catalogue.
        path: PathBuf,
        /// What differs.
        difference: String,
    },
    /// No threads.
    #[error(transparent)]
    Threads(BuildError),
}

impl Hint for CatalogueError {
    fn hint(&self) -> Option<String> {
        match self {
            CatalogueError::NotACatalogue { .. } => {
                Some("build one with `loriot index --output DIR`".into())
            }
            CatalogueError::Version { .. } => Some("build the catalogue again".into()),
            CatalogueError::Manifest(_)
            | CatalogueError::Unlisted { .. }
            | CatalogueError::Open { .. }
            | CatalogueError::Length { .. }
            | CatalogueError::Hash { .. }
            | CatalogueError::Mixed { .. }
            | CatalogueError::Products(_) => {
                Some("the catalogue is damaged or half copied: copy or build it again".into())
            }
            CatalogueError::Vectors(error) => error.hint(),
            CatalogueError::Hnsw(error) => error.hint(),
            CatalogueError::OtherEncoder { .. } => Some(
                "leave out `--model` and `--adapter` to search with the catalogue's own, or build \
                 it again"
                    .into(),
            ),
            CatalogueError::Threads(error) => error.hint(),
        }
    }
}

/// How a catalogue is opened.
#[derive(Clone, Copy, Debug)]
pub struct OpenOptions {
    /// Look at every vector even where there is a graph.
    pub exact: bool,
    /// Threads that search at once.
    pub n_threads: usize,
    /// The instruction set to search on.
    pub isa: Isa,
}

/// What is wanted of a search.
#[derive(Clone, Copy, Debug)]
pub struct SearchOptions {
    /// Results.
    pub k: usize,
    /// Candidates that a graph looks at, at least `k`; exact search looks at all.
    pub ef: usize,
    /// Leave out results below this score.
    pub threshold: Option<f32>,
}

/// A result.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Found {
    /// Its place, from 1.
    pub rank: usize,
    /// The product's id, or its row in the catalogue where the input has no ids.
    pub id: String,
    /// Cosine of query and product.
    pub score: f32,
    /// The product's text.
    pub product_title: String,
    /// Its other columns that are not empty: name and value.
    #[serde(serialize_with = "as_map", skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<(String, String)>,
}

fn as_map<S: Serializer>(fields: &[(String, String)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(fields.iter().map(|(name, value)| (name, value)))
}

/// A catalogue, open for any number of searches.
#[derive(Debug)]
pub struct Catalogue {
    dir: PathBuf,
    manifest: Manifest,
    vectors: Vectors,
    graph: Option<Hnsw>,
    products: ProductFile,
    pool: rayon::ThreadPool,
    isa: Isa,
}

impl Catalogue {
    /// Opens the catalogue in `dir` after everything but the content of its values was checked.
    pub fn open(dir: &Path, options: &OpenOptions) -> Result<Catalogue, CatalogueError> {
        let manifest = Manifest::open(dir)?;
        let path = dir.join(VECTORS);
        let vectors = Vectors::open(&path)?;
        let agree = |what, found: String, expected: String| {
            let path = path.clone();
            let agree = found == expected;
            agree.then_some(()).ok_or(CatalogueError::Mixed { path, what, found, expected })
        };
        let number = |n: usize| n.to_string();
        agree("number of vectors", number(vectors.len()), number(manifest.n_products))?;
        agree("width", number(vectors.dim()), number(manifest.dim))?;
        let expected = manifest.encoder.identity.clone();
        agree("identity of its encoder", vectors.identity().to_hex(), expected)?;
        let graph = match manifest.graph() {
            Some(name) if !options.exact => Some(Hnsw::open(&dir.join(name), &vectors)?),
            _ => None,
        };
        let products = ProductFile::open(&dir.join(PRODUCTS), vectors.len())?;
        let pool = thread_pool(options.n_threads).map_err(CatalogueError::Threads)?;
        let (dir, isa) = (dir.to_owned(), options.isa);
        Ok(Catalogue { dir, manifest, vectors, graph, products, pool, isa })
    }

    /// What the catalogue in `dir` says of itself, without opening its files.
    pub fn manifest_of(dir: &Path) -> Result<Manifest, CatalogueError> {
        Manifest::open(dir)
    }

    /// What the catalogue says of itself.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Reads every file in full and compares its SHA-256 with the manifest.
    pub fn verify(&self) -> Result<(), CatalogueError> {
        self.manifest.verify(&self.dir)
    }

    /// Whether queries embedded by `encoder` may be searched for here.
    pub fn check_encoder(&self, encoder: &EncoderRecord) -> Result<(), CatalogueError> {
        match encoder.difference(&self.manifest.encoder) {
            None => Ok(()),
            Some(difference) => {
                Err(CatalogueError::OtherEncoder { path: self.dir.clone(), difference })
            }
        }
    }

    /// The results for each of `queries_qd`, unit vectors, best first.
    ///
    /// Of equal scores the product that came first in the input stands first.
    pub fn search(
        &self,
        queries_qd: &[f32],
        options: &SearchOptions,
    ) -> Result<Vec<Vec<Found>>, CatalogueError> {
        let hits = self.pool.install(|| self.hits(queries_qd, options));
        let rows: Vec<_> = hits.iter().flatten().map(|hit| hit.row).collect();
        let mut records = self.products.records(&rows)?.into_iter();
        let mut found = |(hit, rank): (Hit, usize)| {
            let record = records.next()?;
            Some(Found {
                rank,
                id: record.id,
                score: hit.score,
                product_title: record.product_title,
                fields: record.fields,
            })
        };
        Ok(hits
            .into_iter()
            .map(|hits| hits.into_iter().zip(1..).filter_map(&mut found).collect())
            .collect())
    }

    fn hits(&self, queries_qd: &[f32], options: &SearchOptions) -> Vec<Vec<Hit>> {
        let SearchOptions { k, ef, threshold } = *options;
        let mut hits = match &self.graph {
            None => search_exact(self.isa, &self.vectors, queries_qd, k, any_row),
            Some(graph) => queries_qd
                .par_chunks_exact(self.vectors.dim())
                .map(|query| graph.search(self.isa, &self.vectors, query, k, ef, any_row))
                .collect(),
        };
        if let Some(threshold) = threshold {
            hits.iter_mut().for_each(|hits| hits.retain(|hit| hit.score >= threshold));
        }
        hits
    }
}
