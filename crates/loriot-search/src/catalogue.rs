//! An open catalogue: query vectors in, candidates or products out.
//!
//! Finding candidates and reading products are two steps, so that a filter, another kind of search
//! or a re-ranking can come between them.

use crate::manifest::{DAMAGED, EncoderRecord, Files, Manifest, ManifestError, PRODUCTS, VECTORS};
use crate::products::{ProductFile, ProductKey, ProductsError, Record};
use crate::threads::{ThreadsError, thread_pool};
use loriot_data::Value;
use loriot_files::{Hint, OpenFolder};
use loriot_index::{Hit, Hnsw, HnswError, Isa, Row, VectorId, Vectors, VectorsError, search_exact};
use rayon::prelude::*;
use serde::{Serialize, Serializer};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A catalogue could not be opened or searched.
#[derive(Debug, thiserror::Error)]
pub enum CatalogueError {
    /// The manifest, or a file that it lists, is not as it should be.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
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
    /// A key names no product.
    #[error("`{}` has no product with the key {}", path.display(), key.0)]
    NoProduct {
        /// The catalogue.
        path: PathBuf,
        /// The key.
        key: ProductKey,
    },
    /// The threads could not be started.
    #[error(transparent)]
    Threads(#[from] ThreadsError),
}

impl Hint for CatalogueError {
    fn hint(&self) -> Option<String> {
        match self {
            CatalogueError::Manifest(error) => error.hint(),
            CatalogueError::Mixed { .. } | CatalogueError::Products(_) => Some(DAMAGED.to_owned()),
            CatalogueError::Vectors(error) => error.hint(),
            CatalogueError::Hnsw(error) => error.hint(),
            CatalogueError::OtherEncoder { .. } => Some(
                "leave out `--model` and `--adapter` to search with the catalogue's own, or build \
                 it again"
                    .into(),
            ),
            CatalogueError::NoProduct { .. } => None,
            CatalogueError::Threads(error) => error.hint(),
        }
    }
}

/// How a catalogue is opened.
#[derive(Clone, Copy, Debug)]
pub struct OpenOptions {
    /// Compare queries with every vector even if there is a graph.
    pub exact: bool,
    /// Threads that search at once.
    pub n_threads: usize,
    /// The instruction set to search on.
    pub isa: Isa,
}

/// How many results a search gives, and which.
#[derive(Clone, Copy, Debug)]
pub struct SearchOptions {
    /// Results.
    pub k: usize,
    /// Distinct vectors that a graph search keeps on its way, at least `k`; exact search looks at all.
    pub ef: usize,
    /// Leave out results below this score.
    pub threshold: Option<f32>,
}

/// A product that may answer a query. Nothing has been read of it yet.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// Which product.
    pub key: ProductKey,
    /// Cosine of query and product.
    pub score: f32,
}

/// Accepts every product: the filter of a search without one.
pub fn any_product(_: ProductKey) -> bool {
    true
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
    /// Its values of other columns, each with the column's name.
    #[serde(serialize_with = "as_map", skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<(String, Value)>,
}

fn as_map<S: Serializer>(fields: &[(String, Value)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(fields.iter().map(|(name, value)| (name, value)))
}

/// How often a catalogue that is replaced while it is opened is opened again.
const TRIES: usize = 5;

/// A catalogue, open for any number of searches. It stays what it was opened as, even if another is built
/// under its name meanwhile.
#[derive(Debug)]
pub struct Catalogue {
    dir: PathBuf,
    folder: Arc<OpenFolder>,
    manifest: Manifest,
    files: Files,
    vectors: Vectors,
    graph: Option<Hnsw>,
    products: ProductFile,
    pool: rayon::ThreadPool,
    isa: Isa,
}

impl Catalogue {
    /// Opens the catalogue in `dir` after checking versions, lengths, counts and links; the values
    /// themselves are only checked by [`Catalogue::verify`].
    pub fn open(dir: &Path, options: &OpenOptions) -> Result<Catalogue, CatalogueError> {
        let mut tries_left = TRIES;
        loop {
            tries_left -= 1;
            let folder = Arc::new(Manifest::open_folder(dir)?);
            match Catalogue::open_in(Arc::clone(&folder), options) {
                // The folder that was opened has been replaced, and its files are being removed.
                Err(_) if tries_left > 0 && !folder.is_at_its_path() => {}
                done => return done,
            }
        }
    }

    /// Opens each file of the catalogue in `folder` once.
    fn open_in(
        folder: Arc<OpenFolder>,
        options: &OpenOptions,
    ) -> Result<Catalogue, CatalogueError> {
        let (manifest, files) = Manifest::open(&folder)?;
        let dir = folder.path().to_owned();
        let path = dir.join(VECTORS);
        let vectors = Vectors::from_file(&files[VECTORS], &path)?;
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
        // Ids ascend, so that the last is the highest; a vector file has at least one row.
        let highest = vectors.id(Row((vectors.len() - 1) as u32)).0;
        let next = manifest.next_key().0;
        if highest >= next {
            let expected = format!("below {next}");
            agree("highest id", highest.to_string(), expected)?;
        }
        let graph = match manifest.graph() {
            Some(name) if !options.exact => {
                Some(Hnsw::from_file(&files[name], &dir.join(name), &vectors)?)
            }
            _ => None,
        };
        let products =
            ProductFile::from_file(&files[PRODUCTS], &dir.join(PRODUCTS), vectors.len())?;
        let pool = thread_pool(options.n_threads)?;
        let isa = options.isa;
        Ok(Catalogue { dir, folder, manifest, files, vectors, graph, products, pool, isa })
    }

    /// What the catalogue in `dir` says of itself, without opening its files.
    pub fn manifest_of(dir: &Path) -> Result<Manifest, ManifestError> {
        Manifest::read(&Manifest::open_folder(dir)?)
    }

    /// What the catalogue says of itself.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The names of the columns that products may have beside id and title.
    pub fn other_columns(&self) -> Vec<String> {
        self.products.other_columns()
    }

    /// Reads every file in full, as it was opened, and compares its SHA-256 with the manifest.
    pub fn verify(&self) -> Result<(), CatalogueError> {
        Ok(self.manifest.verify(&self.folder, &self.files)?)
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

    /// The results for each of `queries_qd`, unit vectors, best first: its candidates, those below
    /// the threshold left out, with what is known of each.
    pub fn search(
        &self,
        queries_qd: &[f32],
        options: &SearchOptions,
    ) -> Result<Vec<Vec<Found>>, CatalogueError> {
        let mut candidates = self.candidates(queries_qd, options.k, options.ef, any_product);
        if let Some(threshold) = options.threshold {
            let reaches = |candidate: &Candidate| candidate.score >= threshold;
            candidates.iter_mut().for_each(|candidates| candidates.retain(reaches));
        }
        let keys: Vec<ProductKey> = candidates.iter().flatten().map(|c| c.key).collect();
        let mut records = self.records(&keys)?.into_iter();
        let mut found = |(candidate, rank): (Candidate, usize)| {
            let record = records.next()?;
            Some(Found {
                rank,
                id: record.id,
                score: candidate.score,
                product_title: record.product_title,
                fields: record.fields,
            })
        };
        let results = candidates.into_iter();
        Ok(results.map(|c| c.into_iter().zip(1..).filter_map(&mut found).collect()).collect())
    }

    /// The `k` nearest products to each of `queries_qd`, unit vectors, among those that `accept`
    /// accepts, best first; fewer where the catalogue, or the graph, has no more.
    ///
    /// Of equal scores the product that came first in the input stands first. `ef` is how many distinct
    /// vectors a graph search keeps on its way, at least `k`; exact search looks at all. No product is read:
    /// see [`Catalogue::records`].
    pub fn candidates(
        &self,
        queries_qd: &[f32],
        k: usize,
        ef: usize,
        accept: impl Fn(ProductKey) -> bool + Sync,
    ) -> Vec<Vec<Candidate>> {
        let (isa, vectors) = (self.isa, &self.vectors);
        let accept_row = |row| accept(ProductKey(vectors.id(row).0));
        let hits = self.pool.install(|| match &self.graph {
            None => search_exact(isa, vectors, queries_qd, k, accept_row),
            Some(graph) => queries_qd
                .par_chunks_exact(vectors.dim())
                .map(|query| graph.search(isa, vectors, query, k, ef, accept_row))
                .collect(),
        });
        // A sum of rounded products can pass 1 by a few units in the last place; a cosine cannot.
        let score = |hit: &Hit| hit.score.clamp(-1.0, 1.0);
        let candidate = |hit: Hit| Candidate { key: ProductKey(hit.id.0), score: score(&hit) };
        hits.into_iter().map(|hits| hits.into_iter().map(candidate).collect()).collect()
    }

    /// The unit vectors of the products `keys`, in their order; a key may occur again.
    pub fn vectors_of(&self, keys: &[ProductKey]) -> Result<Vec<&[f32]>, CatalogueError> {
        let vector_of = |&key: &ProductKey| {
            let row = self.vectors.row_of(VectorId(key.0));
            let row = row.ok_or_else(|| CatalogueError::NoProduct { path: self.dir.clone(), key });
            Ok(self.vectors.vector(row?))
        };
        keys.iter().map(vector_of).collect()
    }

    /// What is known of the products `keys`, in their order; a key may occur again.
    pub fn records(&self, keys: &[ProductKey]) -> Result<Vec<Record>, CatalogueError> {
        let row_of = |&key: &ProductKey| {
            let row = self.vectors.row_of(VectorId(key.0));
            row.ok_or_else(|| CatalogueError::NoProduct { path: self.dir.clone(), key })
        };
        let rows = keys.iter().map(row_of).collect::<Result<Vec<_>, _>>()?;
        Ok(self.products.records(&rows)?)
    }
}
