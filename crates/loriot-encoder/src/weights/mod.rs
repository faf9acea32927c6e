//! The numbers of a model, by name.
//!
//! Names are those of the family's class in transformers, whatever prefix the file has before them, and the
//! old `gamma` and `beta` of LayerNorm are read as `weight` and `bias`. Numbers are f32: mapped
//! where the file has f32, converted on demand from f16 and bf16. The files are `model.safetensors`,
//! or `model.safetensors.index.json` and the shards it names.
//!
//! Opening checks every tensor that the architecture needs: present, of the right shape, finite.
//! Tensors it does not need are left alone, but for the pooler, which is kept to be written back, and for those of
//! further layers, which are refused: a model without its last layers is another model.
//! The numbers are asked for by [`Role`], or by name where a file or a user names them.

pub(crate) mod tensor_file;
pub mod tensor_writer;

use crate::architecture::{Role, TensorSpec};
use crate::config::Config;
use crate::error::{ModelError, TensorError};
use loriot_files::{OutputError, Sha256Hasher, read_json};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use tensor_file::{TensorFile, write_tensors};
use tensor_writer::le_bytes;

/// Largest index of shards that is read, and the most shards it may name.
const MAX_INDEX_BYTES: u64 = 16 << 20;
const MAX_SHARDS: usize = 1_000;

/// Every tensor of a model. Clones share what is mapped.
#[derive(Clone, Debug)]
pub struct Weights {
    /// In canonical order.
    tensors: Vec<Tensor>,
    by_name: HashMap<String, usize>,
    by_role: HashMap<Role, usize>,
}

#[derive(Clone, Debug)]
struct Tensor {
    spec: TensorSpec,
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
        let wanted = config.family.tensors(config);
        let names: BTreeSet<&str> = wanted.iter().map(|spec| spec.name.as_str()).collect();
        for file in files {
            for key in file.names() {
                let name = config.family.canonical_name(key);
                if !names.contains(name.as_str()) {
                    check_layer(&source, config, key, &name)?;
                    continue;
                }
                if let Some((_, first)) = found.insert(name, (file.clone(), key.to_owned())) {
                    let (first, second) = (first, key.to_owned());
                    return Err(TensorError::Twice { path: source, first, second }.into());
                }
            }
        }
        // What no vector depends on may be missing, but not in part.
        let has_unused = wanted.iter().any(|s| s.role.is_unused() && found.contains_key(&s.name));
        let mut tensors = Vec::new();
        for spec in wanted {
            if spec.role.is_unused() && !has_unused {
                continue;
            }
            let Some((file, key)) = found.remove(&spec.name) else {
                let (tensor, expected) = (spec.name, tensor_file::shape_text(&spec.shape));
                return Err(TensorError::Missing { path: source, tensor, expected }.into());
            };
            file.check_shape(&key, &spec.shape)?;
            tensors.push(Tensor { spec, numbers: Numbers::Mapped { file, key } });
        }
        let places = || tensors.iter().zip(0..);
        let by_name = places().map(|(tensor, at)| (tensor.spec.name.clone(), at)).collect();
        let by_role = places().map(|(tensor, at)| (tensor.spec.role, at)).collect();
        Ok(Weights { tensors, by_name, by_role })
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

    /// The numbers of the tensor with this role, row-major.
    ///
    /// # Panics
    ///
    /// If the model has none: [`Weights::specs`] tells what there is.
    pub fn of(&self, role: Role) -> Cow<'_, [f32]> {
        self.tensor(role).numbers.get()
    }

    /// The numbers of a tensor by its name, row-major.
    ///
    /// # Panics
    ///
    /// If the model has no tensor of this name.
    pub fn get(&self, name: &str) -> Cow<'_, [f32]> {
        let at = self.by_name.get(name);
        let at = *at.unwrap_or_else(|| panic!("`{name}` is no tensor of this model"));
        self.tensors[at].numbers.get()
    }

    /// All tensors in canonical order: embeddings, the layers from the first, the pooler if present.
    pub fn specs(&self) -> impl Iterator<Item = &TensorSpec> {
        self.tensors.iter().map(|tensor| &tensor.spec)
    }

    /// The names of [`Weights::specs`].
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.specs().map(|spec| spec.name.as_str())
    }

    /// Whether the model has a tensor of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    /// Replaces the numbers of a tensor.
    ///
    /// # Panics
    ///
    /// If the model has no such tensor, or for another number of values than it has.
    pub fn set(&mut self, role: Role, values: Vec<f32>) {
        let at = self.position(role);
        let tensor = &mut self.tensors[at];
        assert_eq!(values.len(), tensor.spec.shape.iter().product::<usize>(), "{role:?}");
        tensor.numbers = Numbers::Owned(Arc::new(values));
    }

    /// A tensor that stays at hand: mapped where the file has f32, so that only the pages that are
    /// read count as memory.
    pub(crate) fn table(&self, role: Role) -> Table {
        match self.of(role) {
            Cow::Borrowed(_) => Table(self.tensor(role).numbers.clone()),
            Cow::Owned(converted) => Table(Numbers::Owned(Arc::new(converted))),
        }
    }

    /// Lets the system take back the mapped pages of a tensor; they are read again from the file if
    /// needed.
    pub fn release(&self, role: Role) {
        self.tensor(role).numbers.release();
    }

    /// Writes one safetensors file in f32, names without a prefix.
    pub fn write(&self, path: &Path) -> Result<(), OutputError> {
        let tensors = self.specs().map(|spec| (spec.name.clone(), spec.shape.clone()));
        write_tensors(path, tensors.collect(), |name| self.get(name))
    }

    /// A hash of all weights that a vector depends on: names and f32 bits, without the pooler, which
    /// neither mean nor CLS pooling uses. The same for f32, sharded and prefixed files.
    pub fn sha256(&self) -> String {
        let mut hasher = Sha256Hasher::new();
        for tensor in self.tensors.iter().filter(|tensor| !tensor.spec.role.is_unused()) {
            hasher.field(tensor.spec.name.as_bytes());
            hasher.field(&le_bytes(&tensor.numbers.get()));
            tensor.numbers.release();
        }
        hasher.finish()
    }

    fn tensor(&self, role: Role) -> &Tensor {
        &self.tensors[self.position(role)]
    }

    fn position(&self, role: Role) -> usize {
        *self.by_role.get(&role).unwrap_or_else(|| panic!("{role:?} is no tensor of this model"))
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

/// Refuses a tensor that the configuration does not want because it counts too few layers.
fn check_layer(path: &Path, config: &Config, key: &str, name: &str) -> Result<(), TensorError> {
    let n_layers = config.n_layers;
    match config.family.layer_in_name(name) {
        Some(layer) if layer.parse::<usize>().map_or(true, |layer| layer >= n_layers) => {
            let (path, tensor, layer) = (path.to_owned(), key.to_owned(), layer.to_owned());
            Err(TensorError::ExtraLayer { path, tensor, layer, n_layers })
        }
        _ => Ok(()),
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
