//! Text in, unit vector out.

use crate::adapter::{Adapter, LoraModule};
use crate::architecture::{Part, Role};
use crate::base::{self, Base, BaseOptions};
use crate::batch::{Side, Text, Work, distinct};
use crate::depth::Depth;
use crate::error::AdapterError;
pub use crate::error::OpenError;
use crate::folder::{ModelFolder, Pooling, Prompts, Settings, TrainedOn};
use crate::forward::{LoraLayer, Pass, forward, lora_layers};
use crate::head::Head;
use crate::hub;
use crate::identity::{Computation, Parts};
use crate::model::Model;
use crate::tokenizer::Tokenizer;
use crate::weights::Weights;
use crate::workers::Workers;
use loriot_kernels::Isa;
use loriot_kernels::gemm::Precision;
use std::sync::Arc;

/// Tokens of a micro-batch that one thread embeds at a time.
const MICRO_BATCH_TOKENS: usize = 320;

/// Rows that the kernels with the largest tiles take at a time.
const ROW_GROUP: usize = 32;

/// The longest training text unless something says otherwise, as in the guide that Loriot follows.
pub const TRAINING_MAX_LENGTH: usize = 70;

/// Which model to open, and how; an adapter is folded in.
#[derive(Clone, Debug)]
pub struct EncoderOptions {
    /// A folder or a Hub id.
    pub model: String,
    /// An adapter to fold in: a folder or a Hub id.
    pub adapter: Option<String>,
    /// What the adapter's change of the weights is multiplied with; 1 where `None`.
    pub strength: Option<f64>,
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
    /// The model as its folder says, in f32 on all cores.
    pub fn new(model: impl Into<String>, isa: Isa) -> EncoderOptions {
        EncoderOptions {
            model: model.into(),
            adapter: None,
            strength: None,
            max_length: None,
            query_prompt: None,
            document_prompt: None,
            threads: 0,
            isa,
            precision: Precision::F32,
        }
    }

    /// The part that all encoders of one base share.
    pub fn base(&self) -> BaseOptions {
        let &EncoderOptions { threads, isa, precision, .. } = self;
        BaseOptions { model: self.model.clone(), threads, isa, precision }
    }

    /// The rest.
    pub fn reading(&self) -> Reading {
        Reading {
            adapter: self.adapter.clone(),
            strength: self.strength,
            placement: Placement::Folded,
            max_length: self.max_length,
            query_prompt: self.query_prompt.clone(),
            document_prompt: self.document_prompt.clone(),
        }
    }
}

/// What an encoder makes of its base.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    /// An adapter: a folder or a Hub id.
    pub adapter: Option<String>,
    /// What the adapter's change of the weights is multiplied with; 1 where `None`.
    pub strength: Option<f64>,
    /// How it is applied.
    pub placement: Placement,
    /// Longest text in tokens; otherwise what the adapter, then the model folder, says.
    pub max_length: Option<usize>,
    /// What is put before a query; otherwise what the adapter, then the model folder, says.
    pub query_prompt: Option<String>,
    /// What is put before a product or document; likewise.
    pub document_prompt: Option<String>,
}

/// How an adapter is applied. Vectors agree within 1e-5 in f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Placement {
    /// Added to the weights, which this encoder then has packed for itself: the fastest.
    #[default]
    Folded,
    /// Computed beside the weights, which all encoders of the base share: little memory for each adapter, and
    /// [`embed_together`] takes texts of several in one batch.
    Beside,
}

/// A [`Base`] as one shop reads it: with an adapter or none, prompts, and a maximum length.
pub struct Encoder {
    base: Arc<Base>,
    /// The base's packed weights, or this encoder's own where an adapter is folded in.
    model: Arc<Model>,
    adapter: Option<(Arc<Adapter>, Placement)>,
    /// DoRA's factors of each adapted layer, where the adapter is laid beside the weights.
    gains: Vec<Option<Vec<f32>>>,
    max_length: usize,
    prompts: Prompts,
    notes: Vec<String>,
    trained_on: Option<TrainedOn>,
    computation: Computation,
    identity: String,
    identity_v1: String,
}

impl Encoder {
    /// Opens what `options` names. Everything that does not fit is refused here.
    pub fn open(options: &EncoderOptions) -> Result<Encoder, OpenError> {
        let (path, folder) = base::open_folder(&options.model)?;
        let reading = options.reading();
        let adapter = OpenAdapter::open(&reading, &folder)?;
        let folded = adapter.as_ref().map(|open| &open.adapter);
        let (base, model) = Base::open_packed(&options.base(), &path, folder, folded)?;
        if folded.is_none() {
            _ = base.packed.set(model.clone());
        }
        adapter.iter().try_for_each(|adapter| adapter.check(&base, &reading))?;
        Encoder::new(Arc::new(base), model, &reading, adapter)
    }

    fn new(
        base: Arc<Base>,
        model: Arc<Model>,
        reading: &Reading,
        adapter: Option<OpenAdapter>,
    ) -> Result<Encoder, OpenError> {
        let mut notes = base.notes.clone();
        let mut settings = base.settings.clone();
        let (mut laid, mut gains) = (None, Vec::new());
        if let Some(OpenAdapter { adapter, settings: trained }) = adapter {
            settings = trained.or(settings);
            notes.extend(adapter.notes.iter().cloned());
            if reading.placement == Placement::Beside {
                gains =
                    base.workers.map(adapter.modules.iter().collect(), |module: &LoraModule| {
                        module
                            .numbers()
                            .gains(&base.weights.of(Role::Linear(module.site, Part::Weight)))
                    });
            }
            laid = Some((Arc::new(adapter), reading.placement));
        }

        let folder = &base.folder;
        let limit = folder.config.max_positions;
        let from_files = settings.as_ref().map(|settings| settings.max_length);
        let asked = reading.max_length.or(from_files).or(folder.max_length).unwrap_or(limit);
        let least = base.tokenizer.n_special().max(2) + 1;
        if asked < least {
            return Err(OpenError::MaxLength { found: asked, least, limit });
        }
        if let Some(asked) = reading.max_length.filter(|&asked| asked > limit) {
            notes.push(format!(
                "texts are cut at {limit} tokens, the positions the model has, not at {asked}"
            ));
        }
        let prompt = |flag: &Option<String>, file: fn(&Settings) -> &String, folder: &String| {
            flag.as_ref().or(settings.as_ref().map(file)).unwrap_or(folder).clone()
        };
        let prompts = Prompts {
            query: prompt(&reading.query_prompt, |s| &s.query_prompt, &folder.prompts.query),
            document: prompt(
                &reading.document_prompt,
                |s| &s.document_prompt,
                &folder.prompts.document,
            ),
        };
        let max_length = asked.min(limit);
        let computation = Computation::new(folder, &base.tokenizer_identity);
        let adapter_sha256 = laid.as_ref().map(|(adapter, _)| adapter.sha256());
        let parts = Parts {
            base: &base,
            computation: &computation,
            adapter: adapter_sha256.as_deref().unwrap_or_default(),
            document_prompt: &prompts.document,
            max_length,
        };
        let (identity, identity_v1) = (parts.identity(), parts.identity_v1());
        Ok(Encoder {
            base,
            model,
            adapter: laid,
            gains,
            max_length,
            prompts,
            notes,
            trained_on: settings.and_then(|settings| settings.trained_on),
            computation,
            identity,
            identity_v1,
        })
    }

    /// Width of a vector.
    pub fn dim(&self) -> usize {
        self.base.folder.config.hidden_size
    }

    /// Numbers that the encoder's head makes of a text.
    pub(crate) fn width(&self) -> usize {
        self.head().width(self.dim())
    }

    fn head(&self) -> Head {
        Head::UnitVector(self.base.folder.pooling)
    }

    pub(crate) fn has_adapter_beside(&self) -> bool {
        matches!(self.adapter, Some((_, Placement::Beside)))
    }

    /// Encoder layers.
    pub fn n_layers(&self) -> usize {
        self.base.folder.config.n_layers
    }

    /// Longest text in tokens, special ones included; longer ones are cut.
    pub fn max_length(&self) -> usize {
        self.max_length
    }

    /// What the model folder said beside the weights.
    pub fn folder(&self) -> &ModelFolder {
        &self.base.folder
    }

    /// Text to ids.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.base.tokenizer
    }

    /// How token states become one vector.
    pub fn pooling(&self) -> Pooling {
        self.base.folder.pooling
    }

    /// What is put before texts.
    pub fn prompts(&self) -> &Prompts {
        &self.prompts
    }

    /// What a user should be told about the files, one line each.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// How the rows were read that the adapter (without one, the model) was trained on, where its `loriot.json` says.
    pub fn trained_on(&self) -> Option<&TrainedOn> {
        self.trained_on.as_ref()
    }

    /// Says how the rows are read that this encoder is going to be trained on, for [`Encoder::settings`].
    pub fn set_trained_on(&mut self, trained_on: TrainedOn) {
        self.trained_on = Some(trained_on);
    }

    /// SHA-256 of all that decides a document's vector: weights, adapter, computation, document prompt,
    /// maximum length (see [`crate::identity`]). Precision and instruction set are no part of it: they approximate the
    /// same vector, well enough to search what one embedded with the other.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// What version 1 of the identity was for this encoder, as catalogues made before version 2 have it.
    pub fn identity_v1(&self) -> &str {
        &self.identity_v1
    }

    /// How this makes a vector of a text, beside its numbers.
    pub fn computation(&self) -> &Computation {
        &self.computation
    }

    /// SHA-256 of the weights alone, before an adapter is folded in.
    pub fn base_identity(&self) -> &str {
        &self.base.identity
    }

    /// The instruction set this runs on.
    pub fn isa(&self) -> Isa {
        self.model.isa
    }

    /// What linear layers compute in.
    pub fn precision(&self) -> Precision {
        self.model.precision
    }

    /// The weights as read; `None` where there is an adapter.
    pub fn weights(&self) -> Option<&Weights> {
        self.adapter.is_none().then_some(&self.base.weights)
    }

    /// What this encoder shares with others.
    pub fn base(&self) -> &Arc<Base> {
        &self.base
    }

    /// The threads this runs on.
    pub fn workers(&self) -> &Workers {
        &self.base.workers
    }

    /// What `loriot.json` says beside an adapter trained on this encoder.
    pub fn settings(&self) -> Settings {
        Settings {
            query_prompt: self.prompts.query.clone(),
            document_prompt: self.prompts.document.clone(),
            max_length: self.max_length,
            pooling: self.base.folder.pooling,
            normalize: true,
            base: crate::folder::Base {
                name: self.base.folder.name.clone(),
                sha256: self.base.identity.clone(),
            },
            trained_on: self.trained_on.clone(),
        }
    }

    /// Token ids of `texts` with their side's prompt, cut to the maximum length, in parallel.
    pub fn tokenize(&self, texts: &[&str], side: Side) -> Vec<Vec<u32>> {
        let prompt = match side {
            Side::Query => &self.prompts.query,
            Side::Product => &self.prompts.document,
        };
        let share = texts.len().div_ceil(4 * self.base.workers.n_threads()).max(1);
        let encode = |text: &&str| match prompt.as_str() {
            "" => self.base.tokenizer.encode(text, self.max_length),
            prompt => self.base.tokenizer.encode(&format!("{prompt}{text}"), self.max_length),
        };
        let encode_share = |share: &[&str]| share.iter().map(encode).collect::<Vec<_>>();
        self.base.workers.map(texts.chunks(share).collect(), encode_share).concat()
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
        let adapters = [self.lora_layers()];
        let texts: Vec<Text<'_>> = ids.iter().map(|ids| Text::without_masks(ids)).collect();
        self.embed_in(&self.pass(&adapters), &texts)
    }

    /// Outputs of `texts`, in their order, by a pass with one adapter that keeps nothing for a backward pass.
    pub(crate) fn embed_in(&self, pass: &Pass<'_>, texts: &[Text<'_>]) -> Vec<f32> {
        let work = texts.iter().map(|&text| Work { text, adapter: 0 }).collect::<Vec<_>>();
        self.base.embed_work(pass, &work)
    }

    /// The adapter laid beside the weights, by layer; none where there is none, or it is folded in.
    fn lora_layers(&self) -> Vec<LoraLayer<'_>> {
        match &self.adapter {
            Some((adapter, Placement::Beside)) => {
                let factors = |site| {
                    let at = adapter.modules.iter().position(|module| module.site == site)?;
                    let module = &adapter.modules[at];
                    Some((
                        module.a_ri.as_slice(),
                        module.b_or.as_slice(),
                        self.gains[at].as_deref(),
                    ))
                };
                lora_layers(adapter, self.n_layers(), factors)
            }
            _ => Vec::new(),
        }
    }

    /// A pass without dropout in which nothing is trained.
    pub(crate) fn pass<'a>(&'a self, adapters: &'a [Vec<LoraLayer<'a>>]) -> Pass<'a> {
        Pass {
            model: &self.model,
            word_vd: self.model.embeddings.word_vd.values(),
            adapters,
            dropout: None,
            head: self.head(),
            depth: Depth::Nowhere,
        }
    }

    /// The packed weights, for this encoder alone, and the threads to pack them anew with.
    pub(crate) fn model_mut(&mut self) -> (&mut Model, &Workers) {
        if let Some(base) = Arc::get_mut(&mut self.base) {
            // Nobody else reads the base, so nobody else will want its packed weights.
            base.packed.take();
        }
        let base = &*self.base;
        if Arc::get_mut(&mut self.model).is_none() {
            let config = &base.folder.config;
            let (isa, precision) = (base.isa, base.precision);
            self.model =
                Arc::new(Model::pack(&base.weights, config, isa, precision, &base.workers));
        }
        let model = Arc::get_mut(&mut self.model).expect("it was made unique above");
        (model, &base.workers)
    }
}

impl Base {
    /// An encoder of this base. An adapter that does not fit is refused here.
    pub fn read(self: &Arc<Base>, reading: &Reading) -> Result<Encoder, OpenError> {
        let adapter = OpenAdapter::open(reading, &self.folder)?;
        adapter.iter().try_for_each(|adapter| adapter.check(self, reading))?;
        let replaces = |open: &OpenAdapter| !open.adapter.whole.is_empty();
        if reading.placement == Placement::Beside && adapter.as_ref().is_some_and(replaces) {
            return Err(AdapterError::NotBeside.into());
        }
        let model = match &adapter {
            Some(open) if reading.placement == Placement::Folded => self.fold(&open.adapter)?,
            _ => self.packed(),
        };
        Encoder::new(self.clone(), model, reading, adapter)
    }

    /// Outputs of `work`, in its order, by a pass that keeps nothing for a backward pass. Texts that are equal, their
    /// adapter and the keys of their masks included, are encoded once.
    fn embed_work(&self, pass: &Pass<'_>, work: &[Work<'_>]) -> Vec<f32> {
        assert_eq!(pass.depth, Depth::Nowhere, "a backward pass needs a tape of its own");
        let width = pass.head.width(pass.d());
        let mut longest_first: Vec<usize> = (0..work.len()).collect();
        longest_first.sort_by_key(|&at| std::cmp::Reverse(work[at].text.ids.len()));
        let (encoded, output_of) = distinct(longest_first.iter().map(|&at| work[at]));

        let embed = |batch: &[Work<'_>]| {
            // Texts of one adapter stand together, in the order they had.
            let mut order: Vec<usize> = (0..batch.len()).collect();
            order.sort_by_key(|&at| batch[at].adapter);
            let ordered: Vec<Work<'_>> = order.iter().map(|&at| batch[at]).collect();
            let mut tape = self.tapes.lock().expect("no holder panics").pop().unwrap_or_default();
            tape.begin(&ordered, pass.n_tapes());
            forward(pass, &mut tape);
            let mut output_bo = vec![0.0; batch.len() * width];
            for (&at, output) in order.iter().zip(tape.head.output_bo.chunks_exact(width)) {
                output_bo[at * width..][..width].copy_from_slice(output);
            }
            self.tapes.lock().expect("no holder panics").push(tape);
            output_bo
        };
        let batches = micro_batches(&encoded, self.workers.n_threads());
        let outputs = self.workers.map(batches, embed).concat();

        let mut output_bo = vec![0.0; work.len() * width];
        for (&at, &output) in longest_first.iter().zip(&output_of) {
            output_bo[at * width..][..width]
                .copy_from_slice(&outputs[output as usize * width..][..width]);
        }
        output_bo
    }
}

/// Unit vectors `(b, d)` of tokenised texts, in their order, each for one of `encoders`, by its index.
///
/// All texts go through the shared weights together; what an adapter adds is computed for its own texts. A vector has
/// the bits that its encoder gives it alone.
///
/// # Panics
///
/// If two encoders do not share packed weights: they are of different bases, or one has its adapter folded in.
pub fn embed_together(encoders: &[&Encoder], texts: &[(usize, Vec<u32>)]) -> Vec<f32> {
    let is_known = texts.iter().all(|&(encoder, _)| encoder < encoders.len());
    assert!(is_known, "texts for encoders that are not there");
    let Some(first) = encoders.first() else { return Vec::new() };
    let shares = |encoder: &&Encoder| Arc::ptr_eq(&encoder.model, &first.model);
    assert!(encoders.iter().all(shares), "the encoders do not share packed weights");
    let adapters: Vec<_> = encoders.iter().map(|encoder| encoder.lora_layers()).collect();
    let work = texts.iter().map(|(adapter, ids)| (Text::without_masks(ids), *adapter));
    let work: Vec<Work<'_>> = work.map(|(text, adapter)| Work { text, adapter }).collect();
    first.base.embed_work(&first.pass(&adapters), &work)
}

/// An adapter's folder.
struct OpenAdapter {
    adapter: Adapter,
    /// Its `loriot.json`.
    settings: Option<Settings>,
}

impl OpenAdapter {
    fn open(reading: &Reading, folder: &ModelFolder) -> Result<Option<OpenAdapter>, OpenError> {
        let Some(name) = &reading.adapter else { return Ok(None) };
        let path = hub::resolve_adapter(name)?;
        let mut adapter = Adapter::open(&path, &folder.config)?;
        if let Some(strength) = reading.strength {
            adapter.set_strength(name, strength)?;
        }
        Ok(Some(OpenAdapter { adapter, settings: Settings::open(&path)? }))
    }

    /// Refuses a base that the adapter was not trained on.
    fn check(&self, base: &Base, reading: &Reading) -> Result<(), OpenError> {
        let adapter = reading.adapter.as_deref().unwrap_or_default();
        self.settings.iter().try_for_each(|trained| trained.check(adapter, base))
    }
}

/// Cuts texts that are sorted by length into micro-batches of about [`MICRO_BATCH_TOKENS`], smaller
/// where there would be too few for the threads. A batch ends where its tokens fill whole groups of
/// [`ROW_GROUP`] best, so that the kernels' last rows are few.
fn micro_batches<'a, 'b>(mut texts: &'a [Work<'b>], n_threads: usize) -> Vec<&'a [Work<'b>]> {
    let total: usize = texts.iter().map(|work| work.text.ids.len()).sum();
    let budget = total.div_ceil(n_threads).min(MICRO_BATCH_TOKENS);
    let mut batches = Vec::new();
    while !texts.is_empty() {
        let (mut tokens, mut best, mut best_fill) = (0, texts.len(), 0.0);
        for (at, work) in texts.iter().enumerate() {
            tokens += work.text.ids.len();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn micro_batches_hold_every_text_once_and_fill_groups_of_rows() {
        for n_texts in [0, 1, 2, 3, 50, 1_000] {
            let ids: Vec<Vec<u32>> =
                (0..n_texts).map(|text| vec![0; 60 - text * 55 / n_texts]).collect();
            let work = |ids| Work { text: Text::without_masks(ids), adapter: 0 };
            let texts: Vec<Work<'_>> = ids.iter().map(|ids| work(ids)).collect();
            for n_threads in [1, 2, 8] {
                let batches = micro_batches(&texts, n_threads);
                assert_eq!(batches.concat(), texts);
                let tokens =
                    batches.iter().map(|batch| batch.iter().map(|work| work.text.ids.len()).sum());
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
