//! A model folder in memory, shared by all encoders that read it.
//!
//! A [`Base`] is what takes memory and time: weights, packed once, tokeniser, threads. A shop uses it through an
//! [`Encoder`](crate::Encoder): the base alone, or with an adapter, with prompts and a maximum length of its own. Ten
//! adapters are ten encoders of one base.

use crate::adapter::Adapter;
use crate::error::{ModelError, OpenError};
use crate::folder::{ModelFolder, Settings};
use crate::hub;
use crate::model::Model;
use crate::tape::ChunkTape;
use crate::tokenizer::Tokenizer;
use crate::weights::Weights;
use crate::workers::Workers;
use loriot_kernels::Isa;
use loriot_kernels::gemm::Precision;
use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};

/// Which model to open, and what to run it on.
#[derive(Clone, Debug)]
pub struct BaseOptions {
    /// A folder or a Hub id.
    pub model: String,
    /// Threads; 0 means one for each core.
    pub threads: usize,
    /// The instruction set to run on.
    pub isa: Isa,
    /// What linear layers compute in.
    pub precision: Precision,
}

/// A model folder in memory: tokeniser, weights, threads.
pub struct Base {
    pub(crate) folder: ModelFolder,
    /// What the folder's own `loriot.json` says.
    pub(crate) settings: Option<Settings>,
    pub(crate) tokenizer: Tokenizer,
    pub(crate) tokenizer_identity: String,
    /// What version 1 of an encoder's identity hashed of it.
    pub(crate) tokenizer_v1: String,
    pub(crate) weights: Weights,
    pub(crate) isa: Isa,
    pub(crate) precision: Precision,
    /// The weights without an adapter, packed: when the base is opened, or else when they are first wanted.
    pub(crate) packed: OnceLock<Arc<Model>>,
    pub(crate) workers: Workers,
    pub(crate) notes: Vec<String>,
    pub(crate) identity: String,
    /// Buffers of threads that are done with them.
    pub(crate) tapes: Mutex<Vec<ChunkTape>>,
}

impl Base {
    /// Opens what `options` names. A folder that is not usable is refused here.
    pub fn open(options: &BaseOptions) -> Result<Arc<Base>, OpenError> {
        let (path, folder) = open_folder(&options.model)?;
        let (base, packed) = Base::open_packed(options, &path, folder, None)?;
        _ = base.packed.set(packed);
        Ok(Arc::new(base))
    }

    /// Opens the rest of the folder at `path`, and packs its weights with `adapter` folded in.
    pub(crate) fn open_packed(
        options: &BaseOptions,
        path: &Path,
        folder: ModelFolder,
        adapter: Option<&Adapter>,
    ) -> Result<(Base, Arc<Model>), OpenError> {
        let workers = Workers::start(options.threads)?;
        let settings = Settings::open(path)?;
        if let Some(own) = &settings {
            own.check_reading(&options.model, &folder)?;
        }
        let mut notes = folder.notes.clone();
        if !options.isa.has_native(options.precision) {
            notes.push(format!(
                "`{}` multiplies no {precision}: weights are rounded to {precision} and products \
                 taken in f32, no faster than in f32",
                options.isa,
                precision = options.precision
            ));
        }
        if !folder.normalize {
            notes.push(format!(
                "`{}` has no Normalize module; its vectors get length 1 here all the same",
                options.model
            ));
        }
        let weights = Weights::map(path, &folder.config)?;
        let (isa, precision) = (options.isa, options.precision);
        let load = || -> Result<(Tokenizer, [String; 2], Model), OpenError> {
            let tokenizer = Tokenizer::open(path, folder.config.vocab_size)?;
            tokenizer.check_room(folder.config.max_positions)?;
            let identities = [tokenizer.sha256(), tokenizer.sha256_v1()];
            weights.check_finite().map_err(ModelError::from)?;
            let model = pack(&weights, adapter, &folder, isa, precision, &workers)?;
            Ok((tokenizer, identities, model))
        };
        // Hashing the weights takes as long as everything else.
        let (identity, loaded) = workers.join(|| weights.sha256(), load);
        let (tokenizer, [tokenizer_identity, tokenizer_v1], model) = loaded?;
        let base = Base {
            folder,
            settings,
            tokenizer,
            tokenizer_identity,
            tokenizer_v1,
            weights,
            isa,
            precision,
            packed: OnceLock::new(),
            workers,
            notes,
            identity,
            tapes: Mutex::default(),
        };
        Ok((base, Arc::new(model)))
    }

    /// What the model folder says beside the weights.
    pub fn folder(&self) -> &ModelFolder {
        &self.folder
    }

    /// SHA-256 of the weights.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// The threads that every encoder of this base runs on.
    pub fn workers(&self) -> &Workers {
        &self.workers
    }

    /// The weights without an adapter, packed once for all encoders. Not for use inside the base's own threads, which a
    /// thread that waits here for another would block.
    pub(crate) fn packed(&self) -> Arc<Model> {
        let pack = || {
            let config = &self.folder.config;
            Arc::new(Model::pack(&self.weights, config, self.isa, self.precision, &self.workers))
        };
        self.packed.get_or_init(pack).clone()
    }

    /// The weights with `adapter` folded in, packed.
    pub(crate) fn fold(&self, adapter: &Adapter) -> Result<Arc<Model>, OpenError> {
        let (isa, precision) = (self.isa, self.precision);
        let model = pack(&self.weights, Some(adapter), &self.folder, isa, precision, &self.workers);
        Ok(Arc::new(model?))
    }
}

/// The folder that a path or a Hub id leads to, under the name that the user gave.
pub(crate) fn open_folder(name: &str) -> Result<(PathBuf, ModelFolder), OpenError> {
    let path = hub::resolve(name)?;
    let mut folder = ModelFolder::open(&path)?;
    folder.name = name.to_owned();
    Ok((path, folder))
}

fn pack(
    weights: &Weights,
    adapter: Option<&Adapter>,
    folder: &ModelFolder,
    isa: Isa,
    precision: Precision,
    workers: &Workers,
) -> Result<Model, OpenError> {
    let mut weights = Cow::Borrowed(weights);
    if let Some(adapter) = adapter {
        adapter.merge_into(weights.to_mut())?;
    }
    Ok(Model::pack(&weights, &folder.config, isa, precision, workers))
}
