//! Text in, unit vector out.

use crate::adapter::{Adapter, AdapterError};
use crate::batch::{Side, Text, distinct};
use crate::config::Config;
use crate::depth::Depth;
use crate::error::{HubError, ModelError};
use crate::folder::{ModelFolder, Pooling, Prompts, Settings};
use crate::forward::{LoraLayer, Pass, forward};
use crate::hub;
use crate::model::Model;
use crate::tape::ChunkTape;
use crate::tokenizer::Tokenizer;
use crate::weights::Weights;
use crate::workers::{Workers, WorkersError};
use loriot_files::{Hint, Sha256Hasher};
use loriot_kernels::Isa;
use loriot_kernels::gemm::Precision;
use std::borrow::Cow;
use std::path::Path;
use std::sync::Mutex;

/// Tokens of a micro-batch that one thread embeds at a time.
const MICRO_BATCH_TOKENS: usize = 320;

/// Rows that the kernels with the largest tiles take at a time.
const ROW_GROUP: usize = 32;

/// The longest training text unless something says otherwise, as in the guide that Loriot follows.
pub const TRAINING_MAX_LENGTH: usize = 70;

/// What to open, and how.
#[derive(Clone, Debug)]
pub struct EncoderOptions {
    /// A folder or a Hub id.
    pub model: String,
    /// An adapter to fold in: a folder or a Hub id.
    pub adapter: Option<String>,
    /// Longest text in tokens; otherwise what the adapter, then the model folder, says.
    pub max_length: Option<usize>,
    /// What is put before a query; otherwise what the adapter, then the model folder, says.
    pub query_prompt: Option<String>,
    /// What is put before a product or document; likewise.
    pub document_prompt: Option<String>,
    /// Threads; 0 means one for each core.
    pub threads: usize,
    /// The instruction set to run on.
    pub isa: Isa,
    /// What linear layers compute in.
    pub precision: Precision,
}

impl EncoderOptions {
    /// The model as its folder says, on all cores.
    pub fn new(model: impl Into<String>, isa: Isa) -> EncoderOptions {
        EncoderOptions {
            model: model.into(),
            adapter: None,
            max_length: None,
            query_prompt: None,
            document_prompt: None,
            threads: 0,
            isa,
            precision: Precision::F32,
        }
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
    /// A text cannot be as short as asked for: two special tokens always stay.
    #[error("a maximum length of {found} tokens leaves no room for text; expected 3..={limit}")]
    MaxLength {
        /// What was asked for.
        found: usize,
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
            OpenError::MaxLength { limit, .. } => {
                Some(format!("give `--max-length` a value from 3 to {limit}"))
            }
            OpenError::Workers(_) => Some("give fewer `--threads`".into()),
        }
    }
}

/// A model folder in memory, with an adapter folded in where one was given.
pub struct Encoder {
    folder: ModelFolder,
    tokenizer: Tokenizer,
    model: Model,
    /// As read; `None` once an adapter is folded in.
    weights: Option<Weights>,
    workers: Workers,
    max_length: usize,
    prompts: Prompts,
    notes: Vec<String>,
    base_identity: String,
    identity: String,
    /// Buffers of threads that are done with them.
    tapes: Mutex<Vec<ChunkTape>>,
}

impl Encoder {
    /// Opens what `options` names. Everything that does not fit is refused here.
    pub fn open(options: &EncoderOptions) -> Result<Encoder, OpenError> {
        let workers = Workers::start(options.threads)?;
        let path = hub::resolve(&options.model)?;
        let mut folder = ModelFolder::open(&path)?;
        folder.name.clone_from(&options.model);
        let mut settings = Settings::open(&path)?;
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
        let weights = Weights::map(&path, &folder.config)?;
        let adapter = match &options.adapter {
            Some(name) => {
                let path = hub::resolve_adapter(name)?;
                Some((Adapter::open(&path, &folder.config)?, Settings::open(&path)?))
            }
            None => None,
        };
        let merged = adapter.as_ref().map(|(adapter, _)| adapter);
        // Hashing the weights takes as long as everything else.
        let (base_identity, loaded) = workers.join(
            || weights.sha256(),
            || Loaded::read(options, &path, &folder.config, &weights, merged, &workers),
        );

        let mut adapter_identity = String::new();
        if let Some((adapter, trained)) = adapter {
            if let Some(trained) = trained {
                if trained.base.sha256 != base_identity {
                    return Err(OpenError::OtherBase {
                        adapter: options.adapter.clone().unwrap_or_default(),
                        wanted: short(&trained.base.sha256),
                        wanted_name: trained.base.name,
                        model: options.model.clone(),
                        found: short(&base_identity),
                    });
                }
                settings = Some(trained);
            }
            adapter_identity = adapter.sha256();
            notes.extend(adapter.notes);
        }
        let Loaded { tokenizer, tokenizer_identity, model } = loaded?;

        let limit = folder.config.max_positions;
        let from_files = settings.as_ref().map(|settings| settings.max_length);
        let asked = options.max_length.or(from_files).or(folder.max_length).unwrap_or(limit);
        if asked < 3 {
            return Err(OpenError::MaxLength { found: asked, limit });
        }
        let max_length = asked.min(limit);
        let prompt = |flag: &Option<String>, file: fn(&Settings) -> &String, folder: &String| {
            flag.as_ref().or(settings.as_ref().map(file)).unwrap_or(folder).clone()
        };
        let prompts = Prompts {
            query: prompt(&options.query_prompt, |s| &s.query_prompt, &folder.prompts.query),
            document: prompt(
                &options.document_prompt,
                |s| &s.document_prompt,
                &folder.prompts.document,
            ),
        };

        let weights = options.adapter.is_none().then_some(weights);
        let mut encoder = Encoder {
            folder,
            tokenizer,
            model,
            weights,
            workers,
            max_length,
            prompts,
            notes,
            base_identity,
            identity: String::new(),
            tapes: Mutex::default(),
        };
        encoder.identity = encoder.identify(&adapter_identity, &tokenizer_identity);
        Ok(encoder)
    }

    /// What decides a document's vector: two encoders of one identity embed documents alike.
    fn identify(&self, adapter_identity: &str, tokenizer_identity: &str) -> String {
        let mut hasher = Sha256Hasher::new();
        hasher.field(b"loriot document encoder 1");
        hasher.field(self.base_identity.as_bytes());
        hasher.field(adapter_identity.as_bytes());
        hasher.field(tokenizer_identity.as_bytes());
        hasher.field(match self.folder.pooling {
            Pooling::Mean => b"mean",
            Pooling::Cls => b"cls",
        });
        hasher.field(self.prompts.document.as_bytes());
        hasher.field(&(self.max_length as u64).to_le_bytes());
        hasher.finish()
    }

    /// Width of a vector.
    pub fn dim(&self) -> usize {
        self.folder.config.hidden_size
    }

    /// Encoder layers.
    pub fn n_layers(&self) -> usize {
        self.folder.config.n_layers
    }

    /// Longest text in tokens, special ones included; longer ones are cut.
    pub fn max_length(&self) -> usize {
        self.max_length
    }

    /// What the model folder said beside the weights.
    pub fn folder(&self) -> &ModelFolder {
        &self.folder
    }

    /// Text to ids.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// How token states become one vector.
    pub fn pooling(&self) -> Pooling {
        self.folder.pooling
    }

    /// What is put before texts.
    pub fn prompts(&self) -> &Prompts {
        &self.prompts
    }

    /// What a user should be told about the files, one line each.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// SHA-256 of all that decides a document's vector: weights, adapter, tokeniser, pooling, document
    /// prompt, maximum length. Precision and instruction set are no part of it: they approximate the
    /// same vector, well enough to search what one embedded with the other.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// SHA-256 of the weights alone, before an adapter is folded in.
    pub fn base_identity(&self) -> &str {
        &self.base_identity
    }

    /// The instruction set this runs on.
    pub fn isa(&self) -> Isa {
        self.model.isa
    }

    /// What linear layers compute in.
    pub fn precision(&self) -> Precision {
        self.model.precision
    }

    /// The weights as read; `None` where an adapter was folded in.
    pub fn weights(&self) -> Option<&Weights> {
        self.weights.as_ref()
    }

    /// The threads this runs on.
    pub fn workers(&self) -> &Workers {
        &self.workers
    }

    /// What `loriot.json` says beside an adapter trained on this encoder.
    pub fn settings(&self) -> Settings {
        Settings {
            query_prompt: self.prompts.query.clone(),
            document_prompt: self.prompts.document.clone(),
            max_length: self.max_length,
            pooling: self.folder.pooling,
            normalize: true,
            base: crate::folder::Base {
                name: self.folder.name.clone(),
                sha256: self.base_identity.clone(),
            },
        }
    }

    /// Token ids of `texts` with their side's prompt, cut to the maximum length, in parallel.
    pub fn tokenize(&self, texts: &[&str], side: Side) -> Vec<Vec<u32>> {
        let prompt = match side {
            Side::Query => &self.prompts.query,
            Side::Product => &self.prompts.document,
        };
        let share = texts.len().div_ceil(4 * self.workers.n_threads()).max(1);
        let encode = |text: &&str| match prompt.as_str() {
            "" => self.tokenizer.encode(text, self.max_length),
            prompt => self.tokenizer.encode(&format!("{prompt}{text}"), self.max_length),
        };
        let encode_share = |share: &[&str]| share.iter().map(encode).collect::<Vec<_>>();
        self.workers.map(texts.chunks(share).collect(), encode_share).concat()
    }

    /// Unit vectors `(b, d)` of `texts`, in their order.
    pub fn embed(&self, texts: &[&str], side: Side) -> Vec<f32> {
        self.embed_ids(&self.tokenize(texts, side))
    }

    /// Unit vectors `(b, d)` of tokenised texts, in their order.
    ///
    /// Equal texts are encoded once. A text's vector has the same bits whatever else is embedded with
    /// it and on however many threads.
    pub fn embed_ids(&self, ids: &[Vec<u32>]) -> Vec<f32> {
        let texts: Vec<Text<'_>> = ids.iter().map(|ids| Text::without_masks(ids)).collect();
        self.embed_in(&self.pass(&[]), &texts)
    }

    /// Unit vectors `(b, d)` of `texts`, in their order, by a pass that keeps nothing for a backward pass. Texts that are
    /// equal, keys of their masks included, are encoded once.
    pub(crate) fn embed_in(&self, pass: &Pass<'_>, texts: &[Text<'_>]) -> Vec<f32> {
        assert_eq!(pass.depth, Depth::Nowhere, "a backward pass needs a tape of its own");
        let d = self.dim();
        let mut longest_first: Vec<usize> = (0..texts.len()).collect();
        longest_first.sort_by_key(|&text| std::cmp::Reverse(texts[text].ids.len()));
        let (encoded, vector_of) = distinct(longest_first.iter().map(|&text| texts[text]));

        let embed = |texts: &[Text<'_>]| {
            let mut tape = self.tapes.lock().expect("no holder panics").pop().unwrap_or_default();
            tape.begin(texts, pass.n_tapes());
            forward(pass, &mut tape);
            let unit_bd = tape.unit_bd.clone();
            self.tapes.lock().expect("no holder panics").push(tape);
            unit_bd
        };
        let batches = micro_batches(&encoded, self.workers.n_threads());
        let vectors = self.workers.map(batches, embed).concat();

        let mut unit_bd = vec![0.0; texts.len() * d];
        for (&text, &vector) in longest_first.iter().zip(&vector_of) {
            unit_bd[text * d..][..d].copy_from_slice(&vectors[vector as usize * d..][..d]);
        }
        unit_bd
    }

    /// A pass without dropout in which nothing is trained.
    pub(crate) fn pass<'a>(&'a self, lora: &'a [LoraLayer<'a>]) -> Pass<'a> {
        Pass {
            model: &self.model,
            word_vd: self.model.embeddings.word_vd.values(),
            lora,
            dropout: None,
            pooling: self.folder.pooling,
            depth: Depth::Nowhere,
        }
    }

    /// The packed weights, and the threads to pack them anew with.
    pub(crate) fn model_mut(&mut self) -> (&mut Model, &Workers) {
        (&mut self.model, &self.workers)
    }
}

/// What is read from the files while the weights are hashed.
struct Loaded {
    tokenizer: Tokenizer,
    tokenizer_identity: String,
    model: Model,
}

impl Loaded {
    fn read(
        options: &EncoderOptions,
        path: &Path,
        config: &Config,
        weights: &Weights,
        adapter: Option<&Adapter>,
        workers: &Workers,
    ) -> Result<Loaded, OpenError> {
        let tokenizer = Tokenizer::open(path, config.vocab_size)?;
        let tokenizer_identity = tokenizer.sha256();
        weights.check_finite().map_err(ModelError::from)?;
        let mut weights = Cow::Borrowed(weights);
        if let Some(adapter) = adapter {
            adapter.merge_into(weights.to_mut())?;
        }
        let model = Model::pack(&weights, config, options.isa, options.precision, workers);
        Ok(Loaded { tokenizer, tokenizer_identity, model })
    }
}

/// Cuts texts that are sorted by length into micro-batches of about [`MICRO_BATCH_TOKENS`], smaller
/// where there would be too few for the threads. A batch ends where its tokens fill whole groups of
/// [`ROW_GROUP`] best, so that the kernels' last rows are few.
fn micro_batches<'a, 'b>(mut texts: &'a [Text<'b>], n_threads: usize) -> Vec<&'a [Text<'b>]> {
    let total: usize = texts.iter().map(|text| text.ids.len()).sum();
    let budget = total.div_ceil(n_threads).min(MICRO_BATCH_TOKENS);
    let mut batches = Vec::new();
    while !texts.is_empty() {
        let (mut tokens, mut best, mut best_fill) = (0, texts.len(), 0.0);
        for (at, text) in texts.iter().enumerate() {
            tokens += text.ids.len();
            let fill = tokens as f64 / tokens.next_multiple_of(ROW_GROUP) as f64;
            if tokens >= budget - budget / 4 && fill > best_fill {
                (best, best_fill) = (at + 1, fill);
            }
            if tokens >= budget + budget / 4 {
                break;
            }
        }
        let (batch, rest) = texts.split_at(best);
        batches.push(batch);
        texts = rest;
    }
    batches
}

fn short(sha256: &str) -> String {
    sha256.chars().take(12).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn micro_batches_hold_every_text_once_and_fill_groups_of_rows() {
        for n_texts in [0, 1, 2, 3, 50, 1_000] {
            let ids: Vec<Vec<u32>> =
                (0..n_texts).map(|text| vec![0; 60 - text * 55 / n_texts]).collect();
            let texts: Vec<Text<'_>> = ids.iter().map(|ids| Text::without_masks(ids)).collect();
            for n_threads in [1, 2, 8] {
                let batches = micro_batches(&texts, n_threads);
                assert_eq!(batches.concat(), texts);
                let tokens =
                    batches.iter().map(|batch| batch.iter().map(|text| text.ids.len()).sum());
                let tokens: Vec<usize> = tokens.collect();
                assert!(
                    tokens
                        .iter()
                        .all(|&tokens| (1..=MICRO_BATCH_TOKENS * 5 / 4 + 60).contains(&tokens))
                );
                assert!(n_texts < n_threads || batches.len() >= n_threads, "{}", batches.len());
                if n_texts == 1_000 {
                    let rows: usize = tokens.iter().map(|n| n.next_multiple_of(ROW_GROUP)).sum();
                    let total: usize = tokens.iter().sum();
                    assert!(rows * 100 <= total * 102, "{rows} rows of {total} tokens");
                }
            }
        }
    }
}
