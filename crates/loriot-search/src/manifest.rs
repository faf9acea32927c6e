//! `catalogue.json`: what a catalogue says of itself, schema version 2.
//!
//! ```text
//! schema_version   2
//! created_by       "loriot 0.1.0"
//! n_products, dim  rows of every file, width of a vector
//! next_key         the key that the next product gets; keys are never used again
//! encoder          what embedded the products: identity, and how to open it again
//! index            {"kind": "exact"} or {"kind": "hnsw", …}
//! files            length and SHA-256 of each file beside this one
//! ```
//!
//! Lengths are checked whenever a catalogue is opened, hashes only on demand: over a million
//! vectors they take seconds, and no search is unsafe without them (every format checks its own).
//! Unknown fields are ignored; a change that an older version must not ignore is a new version.
//! An encoder record without `computation` is of the time before version 2 of an encoder's identity, and is compared
//! with what that version would have been.
//! Version 1 has no `next_key`, which is then `n_products`, and its products hold plain strings.

use crate::products::ProductKey;
use loriot_encoder::{Computation, Encoder, EncoderOptions};
use loriot_files::{
    Hint, OpenFolder, ReadFileError, is_plain_name, parse_json, read_limited_open, sha256_file,
    sha256_open,
};
use loriot_index::HnswConfig;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

pub(crate) const MANIFEST: &str = "catalogue.json";
pub(crate) const VECTORS: &str = "vectors";
pub(crate) const PRODUCTS: &str = "products.parquet";
pub(crate) const GRAPH: &str = "hnsw";
/// The graph of catalogues from before there was [`GRAPH`].
const OLD_GRAPH: &str = "hnsw.usearch";
/// Every name that a file of a catalogue has, or had in an earlier version.
pub(crate) const FILE_NAMES: [&str; 5] = [MANIFEST, VECTORS, PRODUCTS, GRAPH, OLD_GRAPH];

const SCHEMA_VERSION: u32 = 2;
const LIMIT_BYTES: u64 = 1 << 20;

/// A catalogue's manifest, or a file that it lists, is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// There is no manifest.
    #[error("`{}` is no catalogue: it has no `catalogue.json`", path.display())]
    NotACatalogue {
        /// The folder.
        path: PathBuf,
    },
    /// The manifest cannot be read, or is not the expected JSON.
    #[error(transparent)]
    Read(#[from] ReadFileError),
    /// The catalogue is of a format that this version does not read.
    #[error("`{}` has schema version {found}, expected 1 or {SCHEMA_VERSION}", path.display())]
    Version {
        /// The manifest.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// The manifest does not say how long a file is.
    #[error("`{}` lists no file `{name}`", path.display())]
    Unlisted {
        /// The manifest.
        path: PathBuf,
        /// The file.
        name: &'static str,
    },
    /// The manifest lists what is no name of a file beside it.
    #[error("`{}` lists `{name}`, which is no name of a file", path.display())]
    FileName {
        /// The manifest.
        path: PathBuf,
        /// What it lists.
        name: String,
    },
    /// A file is missing or may not be read.
    #[error("cannot open `{}`", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
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
}

/// The remedy where a file of a catalogue is not what its manifest says.
pub(crate) const DAMAGED: &str = "the catalogue is damaged or half copied: copy or build it again";

impl Hint for ManifestError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            ManifestError::NotACatalogue { .. } => {
                "build one with `loriot index --output DIR`".into()
            }
            ManifestError::Version { .. } => "build the catalogue again".into(),
            ManifestError::Read(ReadFileError::Io { source, .. })
            | ManifestError::Open { source, .. }
                if source.kind() == io::ErrorKind::PermissionDenied =>
            {
                "ask for the right to read it".into()
            }
            ManifestError::Read(_)
            | ManifestError::Unlisted { .. }
            | ManifestError::FileName { .. }
            | ManifestError::Open { .. }
            | ManifestError::Length { .. }
            | ManifestError::Hash { .. } => DAMAGED.into(),
        })
    }
}

/// What stands in `catalogue.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    schema_version: u32,
    /// The program that made the catalogue.
    pub created_by: String,
    /// Products, and as many vectors.
    pub n_products: usize,
    /// Numbers in a vector.
    pub dim: usize,
    #[serde(default)]
    next_key: Option<u64>,
    /// What embedded the products.
    pub encoder: EncoderRecord,
    /// How they are searched.
    pub index: IndexKind,
    files: BTreeMap<String, FileRecord>,
}

/// The encoder of a catalogue.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EncoderRecord {
    /// SHA-256 of all that decides a product's vector.
    pub identity: String,
    /// SHA-256 of the base model's weights.
    pub base_identity: String,
    /// The model as it was given; a folder by its absolute path.
    pub model: String,
    /// The adapter likewise.
    pub adapter: Option<String>,
    /// Longest text in tokens.
    pub max_length: usize,
    /// What is put before a query.
    pub query_prompt: String,
    /// What is put before a product.
    pub document_prompt: String,
    /// The arithmetic in which the products were embedded. For information only: queries may be
    /// embedded in another. `None` in old catalogues, which are all f32.
    #[serde(default)]
    pub precision: Option<String>,
    /// How the encoder computes, so that a difference can be named. `None` in catalogues whose `identity` is of version 1.
    #[serde(default)]
    pub computation: Option<Computation>,
    /// How several columns became the text that was embedded; `None` where one column is the text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text_template: Option<String>,
    /// The identity that version 1 gave the encoder; only known of one that is open.
    #[serde(skip)]
    pub identity_v1: Option<String>,
}

/// How a catalogue is searched.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum IndexKind {
    /// The query is compared with every vector.
    Exact,
    /// A graph leads to a few of the vectors.
    Hnsw {
        /// Links of a vector per level.
        connectivity: usize,
        /// Candidates looked at for each vector inserted.
        ef_construction: usize,
        /// Share of the 10 nearest that a search with ef 100 found, over a sample of the products.
        recall_at_10: Option<f64>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct FileRecord {
    bytes: u64,
    sha256: String,
}

impl EncoderRecord {
    /// The record of an encoder that was opened with `options`.
    pub fn new(encoder: &Encoder, options: &EncoderOptions) -> EncoderRecord {
        EncoderRecord {
            identity: encoder.identity().to_owned(),
            base_identity: encoder.base_identity().to_owned(),
            model: absolute(&options.model),
            adapter: options.adapter.as_deref().map(absolute),
            max_length: encoder.max_length(),
            query_prompt: encoder.prompts().query.clone(),
            document_prompt: encoder.prompts().document.clone(),
            precision: Some(encoder.precision().to_string()),
            computation: Some(encoder.computation().clone()),
            text_template: None,
            identity_v1: Some(encoder.identity_v1().to_owned()),
        }
    }

    /// This record for texts that are made of several columns by `template`.
    pub fn with_text_template(self, text_template: Option<String>) -> EncoderRecord {
        EncoderRecord { text_template, ..self }
    }

    /// Whether the identity that `recorded` stores is this encoder's, in the version in which it was stored.
    fn is_identified_by(&self, recorded: &EncoderRecord) -> bool {
        match recorded.computation {
            Some(_) => self.identity == recorded.identity,
            None => {
                self.identity == recorded.identity
                    || self.identity_v1.as_ref() == Some(&recorded.identity)
            }
        }
    }

    /// The first difference from `expected`, a catalogue's, that changes a product's vector; `None` without one.
    pub fn difference(&self, expected: &EncoderRecord) -> Option<String> {
        if self.text_template != expected.text_template {
            let said = |template: &Option<String>| match template {
                Some(template) => format!("`{template}`"),
                None => "none".to_owned(),
            };
            let (found, expected) = (said(&self.text_template), said(&expected.text_template));
            return Some(format!("the text template is {found}, expected {expected}"));
        }
        if self.is_identified_by(expected) {
            return None;
        }
        let computed = match (&self.computation, &expected.computation) {
            (Some(found), Some(expected)) => found.difference(expected),
            _ => None,
        };
        let named = |record: &EncoderRecord| {
            let hash: String = record.base_identity.chars().take(12).collect();
            format!("`{}` (weights {hash})", record.model)
        };
        let adapter = |record: &EncoderRecord| match &record.adapter {
            Some(adapter) => format!("`{adapter}`"),
            None => "none".to_owned(),
        };
        Some(if self.base_identity != expected.base_identity {
            format!("the model is {}, expected {}", named(self), named(expected))
        } else if let Some((name, found, expected)) = computed {
            match name {
                "tokenizer" => "the tokenizer has changed since".to_owned(),
                name => format!("`{name}` is `{found}`, expected `{expected}`"),
            }
        } else if self.max_length != expected.max_length {
            let (found, expected) = (self.max_length, expected.max_length);
            format!("the maximum length is {found} tokens, expected {expected}")
        } else if self.document_prompt != expected.document_prompt {
            let (found, expected) = (&self.document_prompt, &expected.document_prompt);
            format!("the product prompt is `{found}`, expected `{expected}`")
        } else if self.adapter != expected.adapter {
            format!("the adapter is {}, expected {}", adapter(self), adapter(expected))
        } else {
            "the adapter, the tokenizer or the pooling has changed since".to_owned()
        })
    }
}

/// A folder by its absolute path, so that a search finds it from anywhere; a Hub id as it is.
fn absolute(name: &str) -> String {
    let path = Path::new(name);
    let absolute = path.is_dir().then(|| std::path::absolute(path).ok()).flatten();
    absolute.and_then(|path| path.to_str().map(str::to_owned)).unwrap_or_else(|| name.to_owned())
}

impl IndexKind {
    /// A graph built with `config`.
    pub fn hnsw(config: HnswConfig, recall_at_10: Option<f64>) -> IndexKind {
        let HnswConfig { connectivity, ef_construction } = config;
        IndexKind::Hnsw { connectivity, ef_construction, recall_at_10 }
    }
}

impl Manifest {
    /// Describes the finished files in `dir`.
    pub(crate) fn describe(
        dir: &Path,
        (n_products, dim): (usize, usize),
        encoder: EncoderRecord,
        index: IndexKind,
    ) -> io::Result<Manifest> {
        let mut files = BTreeMap::new();
        let graph = match index {
            IndexKind::Exact => None,
            IndexKind::Hnsw { .. } => Some(GRAPH),
        };
        for name in [VECTORS, PRODUCTS].into_iter().chain(graph) {
            let path = dir.join(name);
            let record = FileRecord { bytes: path.metadata()?.len(), sha256: sha256_file(&path)? };
            files.insert(name.to_owned(), record);
        }
        let created_by = concat!("loriot ", env!("CARGO_PKG_VERSION")).to_owned();
        let schema_version = SCHEMA_VERSION;
        let next_key = Some(n_products as u64);
        Ok(Manifest {
            schema_version,
            created_by,
            n_products,
            dim,
            next_key,
            encoder,
            index,
            files,
        })
    }

    /// The key that the next product gets, above that of every product there was so far.
    pub fn next_key(&self) -> ProductKey {
        ProductKey(self.next_key.unwrap_or(self.n_products as u64))
    }

    /// Bytes of all files but the manifest itself.
    pub fn size_bytes(&self) -> u64 {
        self.files.values().map(|file| file.bytes).sum()
    }

    /// The name of the graph's file, where there is a graph.
    pub(crate) fn graph(&self) -> Option<&'static str> {
        let is_old = !self.files.contains_key(GRAPH) && self.files.contains_key(OLD_GRAPH);
        match self.index {
            IndexKind::Exact => None,
            IndexKind::Hnsw { .. } => Some(if is_old { OLD_GRAPH } else { GRAPH }),
        }
    }

    /// The files that the catalogue has beside its manifest.
    fn file_names(&self) -> impl Iterator<Item = &'static str> {
        [VECTORS, PRODUCTS].into_iter().chain(self.graph())
    }

    /// Opens the folder of a catalogue.
    pub(crate) fn open_folder(dir: &Path) -> Result<OpenFolder, ManifestError> {
        OpenFolder::open(dir).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
                ManifestError::NotACatalogue { path: dir.to_owned() }
            }
            _ => ManifestError::Open { path: dir.to_owned(), source },
        })
    }

    /// Reads the manifest of the catalogue in `folder`, opens its files, and checks that they are whole.
    pub(crate) fn open(folder: &OpenFolder) -> Result<(Manifest, Files), ManifestError> {
        let manifest = Manifest::read(folder)?;
        let path = || folder.path().join(MANIFEST);
        for name in manifest.files.keys() {
            if !is_plain_name(name) {
                return Err(ManifestError::FileName { path: path(), name: name.clone() });
            }
        }
        let mut files = Files::new();
        for name in manifest.file_names() {
            let Some(record) = manifest.files.get(name) else {
                return Err(ManifestError::Unlisted { path: path(), name });
            };
            let open = || {
                let file = folder.file(name)?;
                let length = file.metadata()?.len();
                Ok((file, length))
            };
            let path = folder.path().join(name);
            let (file, found) =
                open().map_err(|source| ManifestError::Open { path: path.clone(), source })?;
            if found != record.bytes {
                return Err(ManifestError::Length { path, found, expected: record.bytes });
            }
            files.insert(name, file);
        }
        Ok((manifest, files))
    }

    /// Reads the manifest alone.
    pub(crate) fn read(folder: &OpenFolder) -> Result<Manifest, ManifestError> {
        #[derive(Deserialize)]
        struct Version {
            schema_version: u32,
        }
        let path = folder.path().join(MANIFEST);
        let file = folder.file(MANIFEST).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => {
                ManifestError::NotACatalogue { path: folder.path().to_owned() }
            }
            _ => ManifestError::Read(ReadFileError::Io { path: path.clone(), source }),
        })?;
        let bytes = read_limited_open(file, &path, LIMIT_BYTES)?;
        let found = parse_json::<Version>(&bytes, &path)?.schema_version;
        if !(1..=SCHEMA_VERSION).contains(&found) {
            return Err(ManifestError::Version { path, found });
        }
        Ok(parse_json(&bytes, &path)?)
    }

    /// Reads every file in full, those of `files` as they were opened, and compares its SHA-256.
    pub(crate) fn verify(&self, folder: &OpenFolder, files: &Files) -> Result<(), ManifestError> {
        for (name, record) in &self.files {
            let found = match files.get(&**name) {
                Some(file) => sha256_open(file),
                None => folder.file(name).and_then(|file| sha256_open(&file)),
            };
            let path = folder.path().join(name);
            let found =
                found.map_err(|source| ManifestError::Open { path: path.clone(), source })?;
            if found != record.sha256 {
                let expected = record.sha256.clone();
                return Err(ManifestError::Hash { path, found, expected });
            }
        }
        Ok(())
    }
}

/// The open files of a catalogue by their names.
pub(crate) type Files = BTreeMap<&'static str, File>;

/// Whether `name` names an entry of the folder it is looked up in, on every system.
#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> EncoderRecord {
        EncoderRecord {
            identity: "11".repeat(32),
            base_identity: "22".repeat(32),
            model: "mini".into(),
            adapter: None,
            max_length: 128,
            query_prompt: String::new(),
            document_prompt: String::new(),
            precision: Some("f32".into()),
            computation: Some(Computation { num_attention_heads: 4, ..Computation::default() }),
            text_template: None,
            identity_v1: None,
        }
    }

    #[test]
    fn a_record_of_version_1_is_known_by_the_identity_of_its_time() {
        let old = EncoderRecord { computation: None, ..record() };
        let now = EncoderRecord { identity: "33".repeat(32), ..record() };
        let same = EncoderRecord { identity_v1: Some(old.identity.clone()), ..now.clone() };
        assert_eq!(same.difference(&old), None);
        let other = EncoderRecord { identity_v1: Some("44".repeat(32)), ..now };
        assert!(other.difference(&old).unwrap().contains("has changed since"));
        // What version 1 could not tell is told by a record of today.
        assert!(same.difference(&record()).is_some());
        let text = serde_json::to_string(&record()).unwrap();
        let parts = text.split_once(",\"computation\"").unwrap().0.to_owned() + "}";
        assert_eq!(serde_json::from_str::<EncoderRecord>(&parts).unwrap(), old);
    }

    #[test]
    fn another_way_to_compute_and_another_template_are_named() {
        let computation = Computation { num_attention_heads: 8, ..Computation::default() };
        let other = EncoderRecord { identity: "33".repeat(32), ..record() };
        let heads = EncoderRecord { computation: Some(computation), ..other };
        let said = heads.difference(&record()).unwrap();
        assert_eq!(said, "`num_attention_heads` is `8`, expected `4`");
        let templated = record().with_text_template(Some("{title} {brand}".into()));
        let said = record().difference(&templated).unwrap();
        assert_eq!(said, "the text template is none, expected `{title} {brand}`");
        assert_eq!(templated.difference(&templated), None);
    }

    #[test]
    fn the_first_difference_that_explains_another_identity_is_told() {
        let expected = record();
        assert_eq!(expected.difference(&expected), None);
        // The query prompt is no part of the identity: it changes no product's vector.
        let found = EncoderRecord { query_prompt: "query: ".into(), ..record() };
        assert_eq!(found.difference(&expected), None);
        // Nor is the precision, which changes them a little.
        let found = EncoderRecord { precision: Some("int8".into()), ..record() };
        assert_eq!(found.difference(&expected), None);

        // The template decides which text is embedded.
        let found = record().with_text_template(Some("{product_title} {brand}".into()));
        let want = "the text template is `{product_title} {brand}`, expected none";
        assert_eq!(found.difference(&expected).as_deref(), Some(want));

        let other = EncoderRecord { identity: "33".repeat(32), ..record() };
        let base_identity = "44".repeat(32);
        let said = |found: EncoderRecord| found.difference(&expected).unwrap();
        assert_eq!(
            said(EncoderRecord { base_identity, model: "maxi".into(), ..other.clone() }),
            "the model is `maxi` (weights 444444444444), expected `mini` (weights 222222222222)"
        );
        assert_eq!(
            said(EncoderRecord { max_length: 70, ..other.clone() }),
            "the maximum length is 70 tokens, expected 128"
        );
        assert_eq!(
            said(EncoderRecord { adapter: Some("run".into()), ..other.clone() }),
            "the adapter is `run`, expected none"
        );
        assert!(said(other).contains("has changed since"));
    }

    #[test]
    fn a_folder_is_remembered_by_its_absolute_path_and_a_hub_id_as_it_is() {
        assert_eq!(absolute("intfloat/e5-small-v2"), "intfloat/e5-small-v2");
        assert!(Path::new(&absolute("src")).is_absolute());
    }
}
