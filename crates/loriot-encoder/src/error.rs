//! What can be wrong with the files of a model or an adapter, and the remedy.
//!
//! One type per activity: [`ModelError`] loading a model folder, [`AdapterError`] loading or
//! fitting an adapter, [`SaveError`] writing a model folder, [`HubError`] finding either, [`OpenError`] opening an encoder. What a
//! safetensors file itself can have is [`TensorError`], which the first two pass on.

use crate::workers::WorkersError;
use loriot_files::{Hint, OutputError, ReadFileError};
use std::path::PathBuf;

/// A model folder could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A small file is missing, too large, or not JSON.
    #[error(transparent)]
    Read(#[from] ReadFileError),
    /// The weights are not what they should be.
    #[error(transparent)]
    Tensors(#[from] TensorError),
    /// A file that every model has is not there.
    #[error("`{}` has no {wanted}", dir.display())]
    NoFile {
        /// The model folder.
        dir: PathBuf,
        /// What was looked for.
        wanted: &'static str,
    },
    /// The weights are there, in a format that can run code when it is read.
    #[error("`{}` has its weights only as `{file}`, expected `model.safetensors`", dir.display())]
    Pickle {
        /// The model folder.
        dir: PathBuf,
        /// The file that is there.
        file: &'static str,
    },
    /// An entry of a JSON file has a value it cannot have.
    #[error("`{}`: `{key}` is {found}, expected {expected}", path.display())]
    Field {
        /// The file.
        path: PathBuf,
        /// The entry.
        key: String,
        /// Its value.
        found: String,
        /// What would be right.
        expected: String,
    },
    /// The model is sound, but of a kind that cannot be run here.
    #[error("`{}`: {what} is not supported; this version knows {supported}", path.display())]
    Unsupported {
        /// The file that says so.
        path: PathBuf,
        /// The entry and its value.
        what: String,
        /// What there is instead.
        supported: &'static str,
    },
    /// `tokenizer.json` or `vocab.txt` cannot be used.
    #[error("`{}` is not a usable tokenizer: {problem}", path.display())]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The tokenizer makes ids that the model has no row for.
    #[error(
        "`{}` has token ids up to {largest_id}, but the model's word embedding has {rows} rows",
        path.display()
    )]
    Vocabulary {
        /// The tokenizer.
        path: PathBuf,
        /// Its largest id.
        largest_id: u32,
        /// Rows of the word embedding.
        rows: usize,
    },
    /// The folder holds an adapter.
    #[error("`{}` holds an adapter, expected a model: it has `adapter_config.json` and no `config.json`", dir.display())]
    IsAdapter {
        /// The folder.
        dir: PathBuf,
        /// The base that its configuration names.
        base: Option<String>,
    },
    /// A file names another that lies outside its folder.
    #[error("`{}` names `{name}`, which is not a file inside the model folder", path.display())]
    Outside {
        /// The naming file.
        path: PathBuf,
        /// The named one.
        name: String,
    },
}

impl Hint for ModelError {
    fn hint(&self) -> Option<String> {
        let hint = match self {
            ModelError::Read(error) => return error.hint(),
            ModelError::Tensors(error) => return error.hint(),
            ModelError::NoFile { .. } => {
                "give the folder that holds `config.json`, `model.safetensors` and `tokenizer.json`"
            }
            ModelError::IsAdapter { dir, base } => {
                let (adapter, base) = (dir.display(), base.as_deref().unwrap_or("BASE"));
                return Some(format!("give `--adapter {adapter} --model {base}`"));
            }
            ModelError::Pickle { .. } => {
                "convert it once: load it in transformers, then \
                 `save_pretrained(folder, safe_serialization=True)`"
            }
            ModelError::Field { .. } | ModelError::Outside { .. } => {
                "fetch the model again; the file may be damaged or edited"
            }
            ModelError::Unsupported { .. } => {
                "choose a BERT-type encoder with mean or CLS pooling, such as \
                 `sentence-transformers/all-MiniLM-L6-v2`"
            }
            ModelError::Tokenizer { .. } => "fetch the tokenizer files of this model again",
            ModelError::Vocabulary { .. } => {
                "the tokenizer belongs to another model; copy the right one into the folder"
            }
        };
        Some(hint.into())
    }
}

/// A safetensors file could not be read, or holds something else than it should.
#[derive(Debug, thiserror::Error)]
pub enum TensorError {
    /// The file is missing or may not be read.
    #[error("cannot open `{}`", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The file is cut off, or something else altogether.
    #[error("`{}` is not a whole safetensors file: {problem}", path.display())]
    Container {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        problem: String,
    },
    /// A tensor is not there.
    #[error("`{}` has no tensor `{tensor}`, expected one of shape {expected}", path.display())]
    Missing {
        /// The file, or the index of several.
        path: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// The shape it should have.
        expected: String,
    },
    /// One tensor stands under two names.
    #[error("`{}` has both `{first}` and `{second}`, which mean the same tensor", path.display())]
    Twice {
        /// The file, or the index of several.
        path: PathBuf,
        /// One name.
        first: String,
        /// The other.
        second: String,
    },
    /// A tensor belongs to a layer that the configuration does not count.
    #[error(
        "`{}`: tensor `{tensor}` is in layer {layer}, expected none after layer {} by \
         `num_hidden_layers` {n_layers}",
        path.display(), n_layers - 1
    )]
    ExtraLayer {
        /// The file, or the index of several.
        path: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// The number of its layer, from 0.
        layer: String,
        /// Layers by the configuration.
        n_layers: usize,
    },
    /// A tensor has another shape than the configuration says.
    #[error("`{}`: tensor `{tensor}` has shape {found}, expected {expected}", path.display())]
    Shape {
        /// The file.
        path: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// Its shape.
        found: String,
        /// The shape it should have.
        expected: String,
    },
    /// A tensor holds numbers of a kind that is not read.
    #[error("`{}`: tensor `{tensor}` is {found}, expected F32, F16 or BF16", path.display())]
    Dtype {
        /// The file.
        path: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// Its number type.
        found: String,
    },
    /// A tensor holds an infinity or a NaN.
    #[error(
        "`{}`: tensor `{tensor}` holds {value} at element {at}, expected finite numbers",
        path.display()
    )]
    NotFinite {
        /// The file.
        path: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// The first such element, row-major.
        at: usize,
        /// Its value.
        value: f32,
    },
}

impl Hint for TensorError {
    fn hint(&self) -> Option<String> {
        let hint = match self {
            TensorError::Open { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                "check the path, and that the download or copy finished"
            }
            TensorError::Open { .. } => return None,
            TensorError::Container { .. } => {
                "fetch the file again; the download or copy may have been cut off"
            }
            TensorError::Missing { .. }
            | TensorError::Shape { .. }
            | TensorError::Twice { .. }
            | TensorError::ExtraLayer { .. } => {
                "weights and configuration belong to different models; fetch both again"
            }
            TensorError::Dtype { .. } => {
                "quantised files are not read; take the model's f32, f16 or bf16 weights"
            }
            TensorError::NotFinite { .. } => {
                "the training that wrote it diverged, or the file is damaged; take another one"
            }
        };
        Some(hint.into())
    }
}

/// A model folder could not be written.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// A file of the base model, needed in the copy, could not be read.
    #[error(transparent)]
    Read(#[from] ReadFileError),
    /// The output could not be written.
    #[error(transparent)]
    Output(#[from] OutputError),
}

impl Hint for SaveError {
    fn hint(&self) -> Option<String> {
        match self {
            SaveError::Read(error) => error.hint(),
            SaveError::Output(error) => error.hint(),
        }
    }
}

/// An adapter could not be loaded, does not fit the model, or cannot be made as asked.
#[derive(Debug, thiserror::Error)]
pub enum AdapterError {
    /// `adapter_config.json` is missing, too large, or not JSON.
    #[error(transparent)]
    Read(#[from] ReadFileError),
    /// `adapter_model.safetensors` is not what it should be.
    #[error(transparent)]
    Tensors(#[from] TensorError),
    /// The weights are there, in a format that can run code when it is read.
    #[error(
        "`{}` has its weights only as `adapter_model.bin`, expected `adapter_model.safetensors`",
        dir.display()
    )]
    Pickle {
        /// The adapter folder.
        dir: PathBuf,
    },
    /// An entry of the configuration has a value it cannot have.
    #[error("`{}`: `{key}` is {found}, expected {expected}", path.display())]
    Field {
        /// The file.
        path: PathBuf,
        /// The entry.
        key: String,
        /// Its value.
        found: String,
        /// What would be right.
        expected: String,
    },
    /// The adapter uses something of PEFT's that would change its result and is not known here.
    #[error("`{}`: `{key}` is {found}, which this version does not support", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The entry.
        key: String,
        /// Its value.
        found: String,
    },
    /// The adapter's factors stand on a base whose weights its training changed.
    #[error("`{}`: `init_lora_weights` is `{init}`, whose factors belong to weights that were changed before training", path.display())]
    Unconverted {
        /// The file.
        path: PathBuf,
        /// How it started.
        init: String,
    },
    /// Adapters cannot be made one, or weaker, because of what one of them has.
    #[error("`{adapter}` has {what}, expected adapters of plain LoRA to {to_do}")]
    NotPlain {
        /// The adapter as given.
        adapter: String,
        /// What it has.
        what: &'static str,
        /// What was to be done.
        to_do: &'static str,
    },
    /// A tensor belongs to no linear layer of this model.
    #[error("`{}`: no linear layer of this model is meant by tensor `{tensor}`", path.display())]
    Stranger {
        /// The file.
        path: PathBuf,
        /// The tensor's name.
        tensor: String,
    },
    /// The configuration and the tensors name different layers.
    #[error("`{}`: {problem} `{module}`", path.display())]
    Coverage {
        /// The file.
        path: PathBuf,
        /// Which way they differ.
        problem: &'static str,
        /// The first layer for which they do.
        module: String,
    },
    /// A target names no linear layer of the model.
    #[error("target `{target}` matches no linear layer; there are: {available}")]
    NoTarget {
        /// As asked.
        target: String,
        /// What could be asked.
        available: String,
    },
    /// A module cannot be trained and saved whole beside an adapter.
    #[error(
        "`modules_to_save` has `{entry}`, expected modules that can be trained whole beside an adapter: {available}"
    )]
    NotSaved {
        /// The entry.
        entry: String,
        /// What could stand there.
        available: String,
    },
    /// An adapter that replaces tensors of its base cannot share the base's weights.
    #[error(
        "an adapter with biases or saved modules cannot be laid beside weights that others share"
    )]
    NotBeside,
    /// A regular expression cannot be read.
    #[error("`{pattern}` is not a regular expression that can be used: {problem}")]
    Pattern {
        /// As given.
        pattern: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A number is outside its range.
    #[error("LoRA's {what} is {found}, expected {expected}")]
    Range {
        /// Which number.
        what: &'static str,
        /// Its value.
        found: String,
        /// The range.
        expected: &'static str,
    },
    /// Adding the adapter to a weight gives an infinity or a NaN.
    #[error("merging into `{module}` gives {value} at element {at}, expected finite numbers")]
    Overflow {
        /// The layer.
        module: String,
        /// The first such element, row-major.
        at: usize,
        /// Its value.
        value: f32,
    },
}

impl Hint for AdapterError {
    fn hint(&self) -> Option<String> {
        let hint = match self {
            AdapterError::Read(error) => return error.hint(),
            AdapterError::Tensors(TensorError::Missing { .. }) => {
                "fetch the adapter again; the file is incomplete"
            }
            AdapterError::Tensors(TensorError::Shape { .. })
            | AdapterError::Stranger { .. }
            | AdapterError::Coverage { .. } => {
                "the adapter was trained for another model; give `--model` the one it names in \
                 `base_model_name_or_path`"
            }
            AdapterError::Tensors(error) => return error.hint(),
            AdapterError::Pickle { .. } => {
                "convert it once: load it in PEFT, then \
                 `save_pretrained(folder, safe_serialization=True)`"
            }
            AdapterError::Field { .. } => "fetch the adapter again; the file may be damaged",
            AdapterError::Unsupported { .. } => {
                "merge it into its base model with PEFT (`merge_and_unload`), then give the \
                 merged folder as `--model`"
            }
            AdapterError::NoTarget { .. } => "give `--target` names from that list",
            AdapterError::NotSaved { .. } => {
                "leave it out: linear layers are trained by their adapters, or whole with `--full`; \
                 no vector depends on the pooler"
            }
            AdapterError::Unconverted { .. } => {
                "convert it once in PEFT: `save_pretrained` with `path_initial_model_for_weight_conversion`"
            }
            AdapterError::NotPlain { .. } => "merge it into its base at its full strength instead",
            AdapterError::NotBeside => "fold it in",
            AdapterError::Pattern { .. } => {
                "write it in the syntax of Rust's `regex`: no look-around, no back-references"
            }
            AdapterError::Range { .. } => return None,
            AdapterError::Overflow { .. } => "the adapter's training diverged; take another one",
        };
        Some(hint.into())
    }
}

/// A model or adapter that was named could not be found.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// What was given is a path, and nothing is there.
    #[error("no such folder: `{path}`")]
    NoFolder {
        /// As given.
        path: String,
    },
    /// What was given is a file.
    #[error("`{path}` is a file, expected the folder that holds {expected}")]
    NotFolder {
        /// As given.
        path: String,
        /// The files of such a folder.
        expected: &'static str,
    },
    /// What was given is neither a folder nor can it be a Hub id.
    #[error("`{id}` is neither a folder nor a Hub id such as `owner/name`")]
    NotAnId {
        /// As given.
        id: String,
    },
    /// The Hub may not be asked, and the cache does not have it.
    #[error("`{id}` is not a folder, and `HF_HUB_OFFLINE` forbids to fetch it from the Hub")]
    Offline {
        /// As given.
        id: String,
    },
    /// The Hub has no such repository, or does not show it.
    #[error("`{id}` is not a folder, and the Hub answers {status} for it")]
    Refused {
        /// As given.
        id: String,
        /// The HTTP status.
        status: u16,
    },
    /// The repository lacks a file that every model or adapter has.
    #[error("`{id}` on the Hub has no `{file}`")]
    NoFile {
        /// As given.
        id: String,
        /// The missing file.
        file: &'static str,
    },
    /// The Hub cannot be reached, or the download broke off.
    #[error("`{id}` is not a folder, and the Hub cannot be reached: {problem}")]
    Network {
        /// As given.
        id: String,
        /// What the network said.
        problem: String,
    },
}

impl Hint for HubError {
    fn hint(&self) -> Option<String> {
        let hint = match self {
            HubError::NoFolder { .. } | HubError::NotAnId { .. } => {
                "check the spelling; a Hub id has the form `owner/name`"
            }
            HubError::NotFolder { .. } => "give the folder, not a file in it",
            HubError::Refused { .. } => {
                "check the spelling; a private model needs a token in `HF_TOKEN` or from \
                 `hf auth login`"
            }
            HubError::NoFile { .. } => "choose a repository that has it",
            HubError::Offline { .. } | HubError::Network { .. } => {
                "if it is a folder here, check its path; else download it where there is a network, and \
                 give the path of that"
            }
        };
        Some(hint.into())
    }
}

/// An encoder could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The name leads nowhere.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// The model folder is not usable.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The adapter is not usable with this model.
    #[error(transparent)]
    Adapter(#[from] AdapterError),
    /// The adapter was trained on other weights.
    #[error(
        "the adapter `{adapter}` was trained on `{wanted_name}` (weights {wanted}), but `{model}` \
         has the weights {found}"
    )]
    OtherBase {
        /// The adapter as given.
        adapter: String,
        /// The base it names.
        wanted_name: String,
        /// That base's weights, shortened SHA-256.
        wanted: String,
        /// The model as given.
        model: String,
        /// Its weights, shortened SHA-256.
        found: String,
    },
    /// A `loriot.json` was left by training that made vectors otherwise than this model does.
    #[error(
        "`{place}/loriot.json` has `{key}` {expected}, but with the model `{model}` it is {found}"
    )]
    OtherReading {
        /// The folder, as given.
        place: String,
        /// Which of its entries.
        key: &'static str,
        /// Its value.
        expected: &'static str,
        /// The model as given.
        model: String,
        /// What holds for the model.
        found: &'static str,
        /// The base that the file names.
        base: String,
    },
    /// A text cannot be as short as asked for: the special tokens always stay.
    #[error(
        "a maximum length of {found} tokens leaves no room for text; expected {least}..={limit}"
    )]
    MaxLength {
        /// What was asked for.
        found: usize,
        /// The special tokens and one more.
        least: usize,
        /// The model's positions.
        limit: usize,
    },
    /// No threads.
    #[error(transparent)]
    Workers(#[from] WorkersError),
}

impl Hint for OpenError {
    fn hint(&self) -> Option<String> {
        match self {
            OpenError::Hub(error) => error.hint(),
            OpenError::Model(error) => error.hint(),
            OpenError::Adapter(error) => error.hint(),
            OpenError::OtherBase { wanted_name, .. } => {
                Some(format!("give the model it was trained on: `--model {wanted_name}`"))
            }
            OpenError::OtherReading { key: "pooling", base, .. } => Some(format!(
                "give the folder that it was trained on, with its `1_Pooling/config.json`: `--model {base}`"
            )),
            OpenError::OtherReading { .. } => {
                Some("vectors always have length 1 here; take another adapter".into())
            }
            OpenError::MaxLength { least, limit, .. } => {
                Some(format!("give `--max-length` a value from {least} to {limit}"))
            }
            OpenError::Workers(_) => Some("give fewer `--threads`".into()),
        }
    }
}
