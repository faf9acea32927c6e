//! The numbers of a model, by name.
//!
//! Names are those of `transformers.BertModel`, whatever prefix the file has before them, and the
//! old `gamma` and `beta` of LayerNorm are read as `weight` and `bias`. Numbers are f32: mapped
//! where the file has f32, converted on demand from f16 and bf16. The files are `model.safetensors`,
//! or `model.safetensors.index.json` and the shards it names.
//!
//! Opening checks every tensor that the architecture needs: present, of the right shape, finite.
//! Tensors it does not need are left alone, but for the pooler, which is kept to be written back.

pub(crate) mod tensor_file;

use crate::config::Config;
use crate::error::{ModelError, TensorError};
use crate::modules::LinearSite;
use loriot_files::{OutputError, Sha256Hasher, read_json};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use tensor_file::{TensorFile, le_bytes, write_tensors};

/// Largest index of shards that is read, and the most shards it may name.
const MAX_INDEX_BYTES: u64 = 16 << 20;
const MAX_SHARDS: usize = 1_000;

/// Every tensor of a model. Clones share what is mapped.
#[derive(Clone, Debug)]
pub struct Weights {
    /// In canonical order.
    tensors: Vec<Tensor>,
    by_name: HashMap<String, usize>,
}

#[derive(Clone, Debug)]
struct Tensor {
    name: String,
    shape: Vec<usize>,
    numbers: Numbers,
}

#[derive(Clone, Debug)]
enum Numbers {
    Mapped { file: Arc<TensorFile>, key: String },
    Owned(Arc<Vec<f32>>),
}

impl Weights {
    /// Opens the weights in `dir` and checks them against `config`.
    pub fn open(dir: &Path, config: &Config) -> Result<Weights, ModelError> {
        let weights = Weights::map(dir, config)?;
        weights.check_finite()?;
        Ok(weights)
    }

    /// [`Weights::open`] that reads no number yet, so that [`Weights::check_finite`] is still to come.
    pub(crate) fn map(dir: &Path, config: &Config) -> Result<Weights, ModelError> {
        let (source, files) = open_files(dir)?;
        let mut found: BTreeMap<String, (Arc<TensorFile>, String)> = BTreeMap::new();
        let wanted = architecture(config);
        let names: BTreeSet<&str> = wanted.iter().map(|(name, _)| name.as_str()).collect();
        for file in files {
            for key in file.names() {
                let name = canonical(key);
                if !names.contains(name.as_str()) {
                    continue;
                }
                if let Some((_, first)) = found.insert(name, (file.clone(), key.to_owned())) {
                    let (first, second) = (first, key.to_owned());
                    return Err(TensorError::Twice { path: source, first, second }.into());
                }
            }
        }
        let has_pooler = found.keys().any(|name| name.starts_with(POOLER));
        let mut weights = Weights { tensors: Vec::new(), by_name: HashMap::new() };
        for (name, shape) in wanted {
            if name.starts_with(POOLER) && !has_pooler {
                continue;
            }
            let Some((file, key)) = found.remove(&name) else {
                let expected = tensor_file::shape_text(&shape);
                return Err(TensorError::Missing { path: source, tensor: name, expected }.into());
            };
            file.check_shape(&key, &shape)?;
            weights.by_name.insert(name.clone(), weights.tensors.len());
            weights.tensors.push(Tensor { name, shape, numbers: Numbers::Mapped { file, key } });
        }
        Ok(weights)
    }

    /// Checks that every number is finite.
    pub(crate) fn check_finite(&self) -> Result<(), TensorError> {
        for tensor in &self.tensors {
            if let Numbers::Mapped { file, key } = &tensor.numbers {
                file.check_finite(key)?;
                file.release(key);
            }
        }
        Ok(())
    }

    /// The numbers of a tensor, row-major. Panics for a name outside the architecture.
    pub fn get(&self, name: &str) -> Cow<'_, [f32]> {
        self.tensor(name).numbers.get()
    }

    /// The shape of a tensor, as PyTorch has it: a linear layer's weight is `(outputs, inputs)`.
    pub fn shape(&self, name: &str) -> &[usize] {
        &self.tensor(name).shape
    }

    /// All names in canonical order: embeddings, the layers from the first, the pooler if present.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.iter().map(|tensor| tensor.name.as_str())
    }

    /// Whether the model has a tensor of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    /// Replaces the numbers of a tensor.
    pub fn set(&mut self, name: &str, values: Vec<f32>) {
        let at = self.position(name);
        let tensor = &mut self.tensors[at];
        assert_eq!(values.len(), tensor.shape.iter().product::<usize>(), "{name}");
        tensor.numbers = Numbers::Owned(Arc::new(values));
    }

    /// A tensor that stays at hand: mapped where the file has f32, so that only the pages that are
    /// read count as memory.
    pub(crate) fn table(&self, name: &str) -> Table {
        match self.get(name) {
            Cow::Borrowed(_) => Table(self.tensor(name).numbers.clone()),
            Cow::Owned(converted) => Table(Numbers::Owned(Arc::new(converted))),
        }
    }

    /// Lets the system take back the mapped pages of a tensor; they are read again from the file if
    /// needed.
    pub fn release(&self, name: &str) {
        self.tensor(name).numbers.release();
    }

    /// Writes one safetensors file in f32, names without a prefix.
    pub fn write(&self, path: &Path) -> Result<(), OutputError> {
        let tensors = self.tensors.iter().map(|tensor| (tensor.name.clone(), tensor.shape.clone()));
        write_tensors(path, tensors.collect(), |name| self.get(name))
    }

    /// The identity of what the weights compute: names and f32 bits, the pooler left out, which
    /// neither mean nor CLS pooling uses. The same for f32, sharded and prefixed files.
    pub fn sha256(&self) -> String {
        let mut hasher = Sha256Hasher::new();
        for tensor in self.tensors.iter().filter(|tensor| !tensor.name.starts_with(POOLER)) {
            hasher.field(tensor.name.as_bytes());
            hasher.field(&le_bytes(&tensor.numbers.get()));
            tensor.numbers.release();
        }
        hasher.finish()
    }

    fn tensor(&self, name: &str) -> &Tensor {
        &self.tensors[self.position(name)]
    }

    fn position(&self, name: &str) -> usize {
        *self.by_name.get(name).unwrap_or_else(|| panic!("`{name}` is no tensor of this model"))
    }
}

impl Numbers {
    fn get(&self) -> Cow<'_, [f32]> {
        match self {
            Numbers::Mapped { file, key } => file.f32s(key),
            Numbers::Owned(values) => Cow::Borrowed(values),
        }
    }

    fn release(&self) {
        if let Numbers::Mapped { file, key } = self {
            file.release(key);
        }
    }
}

/// Numbers that are read where they lie. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Table(Numbers);

impl Table {
    pub(crate) fn values(&self) -> &[f32] {
        match self.0.get() {
            Cow::Borrowed(values) => values,
            Cow::Owned(_) => {
                unreachable!("what needs converting was converted by `Weights::table`")
            }
        }
    }
}

const POOLER: &str = "pooler.";

/// Names and shapes of every tensor, in canonical order, the pooler last.
fn architecture(config: &Config) -> Vec<(String, Vec<usize>)> {
    let d = config.hidden_size;
    let mut tensors = vec![
        ("embeddings.word_embeddings.weight".to_owned(), vec![config.vocab_size, d]),
        ("embeddings.position_embeddings.weight".to_owned(), vec![config.max_positions, d]),
        ("embeddings.token_type_embeddings.weight".to_owned(), vec![config.type_vocab_size, d]),
    ];
    let mut pair = |name: String, weight: Vec<usize>| {
        let bias = vec![weight[0]];
        tensors.push((format!("{name}.weight"), weight));
        tensors.push((format!("{name}.bias"), bias));
    };
    pair("embeddings.LayerNorm".into(), vec![d]);
    for site in LinearSite::all(config.n_layers) {
        let (o, i) = site.kind.shape(config);
        let name = site.name();
        pair(name.clone(), vec![o, i]);
        // The two projections that end a block are followed by its LayerNorm.
        if let Some(block) = name.strip_suffix("output.dense") {
            pair(format!("{block}output.LayerNorm"), vec![d]);
        }
    }
    pair("pooler.dense".into(), vec![d, d]);
    tensors
}

/// A file's name for a tensor without wrappers' prefixes, LayerNorm's parameters by today's names.
fn canonical(key: &str) -> String {
    let mut name = key;
    for prefix in ["0.auto_model.", "0.model.", "model.", "bert."] {
        name = name.strip_prefix(prefix).unwrap_or(name);
    }
    match (name.strip_suffix("LayerNorm.gamma"), name.strip_suffix("LayerNorm.beta")) {
        (Some(block), _) => format!("{block}LayerNorm.weight"),
        (_, Some(block)) => format!("{block}LayerNorm.bias"),
        _ => name.to_owned(),
    }
}

/// The files that hold the weights, and the one of them that messages name.
fn open_files(dir: &Path) -> Result<(PathBuf, Vec<Arc<TensorFile>>), ModelError> {
    let whole = dir.join("model.safetensors");
    if whole.exists() {
        return Ok((whole.clone(), vec![Arc::new(TensorFile::open(&whole)?)]));
    }
    let index_path = dir.join("model.safetensors.index.json");
    if index_path.exists() {
        let files = open_shards(dir, &index_path)?;
        return Ok((index_path, files));
    }
    for file in ["pytorch_model.bin", "pytorch_model.bin.index.json"] {
        if dir.join(file).exists() {
            return Err(ModelError::Pickle { dir: dir.to_owned(), file });
        }
    }
    Err(ModelError::NoFile { dir: dir.to_owned(), wanted: "`model.safetensors`" })
}

fn open_shards(dir: &Path, index_path: &Path) -> Result<Vec<Arc<TensorFile>>, ModelError> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let index: Index = read_json(index_path, MAX_INDEX_BYTES)?;
    let shards: BTreeSet<&String> = index.weight_map.values().collect();
    if shards.is_empty() || shards.len() > MAX_SHARDS {
        return Err(ModelError::Field {
            path: index_path.to_owned(),
            key: "weight_map".into(),
            found: format!("a map to {} files", shards.len()),
            expected: format!("a map to 1 to {MAX_SHARDS} files"),
        });
    }
    let mut files = Vec::new();
    for shard in shards {
        let path = inside(dir, shard).ok_or_else(|| ModelError::Outside {
            path: index_path.to_owned(),
            name: shard.clone(),
        })?;
        files.push(Arc::new(TensorFile::open(&path)?));
    }
    Ok(files)
}

/// `dir/name` when `name` cannot lead out of `dir`.
pub(crate) fn inside(dir: &Path, name: &str) -> Option<PathBuf> {
    let stays = |part| matches!(part, Component::Normal(_) | Component::CurDir);
    // A backslash separates on Windows only; no model needs one in a name.
    let safe = !name.contains('\\') && Path::new(name).components().all(stays);
    safe.then(|| dir.join(name))
}
