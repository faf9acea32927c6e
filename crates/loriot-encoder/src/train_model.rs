//! What a training loop drives: an encoder, its trained parameters, and their gradients.

use crate::adapter::{Adapter, LoraModule};
use crate::backward::{backward_layer, backward_pool};
use crate::batch::{Text, chunks, distinct};
use crate::depth::Depth;
use crate::encoder::Encoder;
use crate::forward::{LoraLayer, Pass, forward};
use crate::gradients::{EmbeddingGradients, LayerSums, Task};
use crate::lora::Lora;
use crate::modules::{LinearKind, LinearSite};
use crate::parameters::{AdamMoments, Parameter, Parameters};
use crate::tape::{ChunkTape, Dropout, DropoutRates};
use crate::weights::Weights;
use loriot_files::Hint;
use loriot_kernels::adam::AdamStep;
use loriot_kernels::gemm::Precision;
use std::borrow::Cow;
use std::ops::Range;

/// Tokens that one thread carries through the encoder at a time, at most: large, because each weight's
/// panels are transposed once a chunk for the input gradient. Smaller chunks, whose activations stay
/// in the second cache, were slower (bench/LOG.md).
const CHUNK_TOKENS: usize = 1024;

/// An encoder that cannot be trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an encoder in {0} cannot be trained: {0} weights have no backward pass")]
pub struct NotTrainable(Precision);

impl Hint for NotTrainable {
    fn hint(&self) -> Option<String> {
        Some(format!("train in f32 or bf16; what was trained can be embedded with in {}", self.0))
    }
}

/// What is trained.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant, reason = "one value a run")]
pub enum Trained {
    /// The factors of an adapter; the encoder is frozen.
    Lora(Adapter),
    /// Every weight but the pooler's, embeddings included.
    Full,
}

/// An encoder in training.
///
/// For an adapter, `parameters` holds A and B of each module in turn. Under full fine-tuning it holds
/// the tensors in [`Weights::names`]' order: five of the embeddings, then sixteen a layer.
pub struct TrainModel {
    encoder: Encoder,
    trained: Layout,
    parameters: Parameters,
    dropout: DropoutRates,
    seed: u64,
    tapes: Vec<ChunkTape>,
    /// Of the last forward pass, as is all below: which of the encoded texts each tape has.
    cuts: Vec<Range<usize>>,
    /// Which of the encoded texts each text of the batch has its vector from.
    vector_of: Vec<u32>,
    step: u32,
}

/// Which parameters mean what.
#[allow(clippy::large_enum_variant, reason = "one value a run")]
enum Layout {
    Lora(Adapter),
    Full(Weights),
}

/// Tensors before the first layer's, and in each layer, under full fine-tuning.
const N_EMBEDDING_TENSORS: usize = 5;
const N_LAYER_TENSORS: usize = 16;

impl TrainModel {
    /// Makes `trained` of an encoder trainable. In bf16 the products are bf16's; parameters, gradients
    /// and everything between the products are f32.
    ///
    /// # Panics
    ///
    /// Under full fine-tuning, if an adapter was folded into the encoder: its weights are gone.
    pub fn new(
        encoder: Encoder,
        trained: Trained,
        dropout: DropoutRates,
        seed: u64,
    ) -> Result<TrainModel, NotTrainable> {
        if encoder.precision() == Precision::Int8 {
            return Err(NotTrainable(Precision::Int8));
        }
        let (trained, parameters) = match trained {
            Trained::Lora(mut adapter) => {
                let parameters = adapter.modules.iter_mut().flat_map(|module| {
                    let (o, i) = module.site.kind.shape(&encoder.folder().config);
                    let name =
                        |factor| format!("base_model.model.{}.{factor}.weight", module.site.name());
                    let (a_name, b_name) = (name("lora_A"), name("lora_B"));
                    let (a_ri, b_or) =
                        (std::mem::take(&mut module.a_ri), std::mem::take(&mut module.b_or));
                    [
                        Parameter::new(a_name, vec![module.r, i], a_ri),
                        Parameter::new(b_name, vec![o, module.r], b_or),
                    ]
                });
                let parameters = parameters.collect();
                (Layout::Lora(adapter), parameters)
            }
            Trained::Full => {
                let weights = encoder.weights().expect("no adapter was folded in").clone();
                let names = weights.names().filter(|name| !name.starts_with("pooler."));
                let parameters = names.map(|name| {
                    let value = weights.get(name).into_owned();
                    weights.release(name);
                    Parameter::new(name.to_owned(), weights.shape(name).to_vec(), value)
                });
                let parameters = parameters.collect();
                (Layout::Full(weights), parameters)
            }
        };
        let parameters = Parameters::new(parameters, encoder.isa(), encoder.workers().clone());
        Ok(TrainModel {
            encoder,
            trained,
            parameters,
            dropout,
            seed,
            tapes: Vec::new(),
            cuts: Vec::new(),
            vector_of: Vec::new(),
            step: 0,
        })
    }

    /// The encoder. Its weights are the starting ones; where they are trained, only
    /// [`TrainModel::embed_ids`] embeds with what they have become.
    pub fn encoder(&self) -> &Encoder {
        &self.encoder
    }

    /// The trained tensors and their gradients.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// Sets every parameter to what `read` gives for its name and shape. After an error, which is the first that `read`
    /// gives, the model is of no use: some parameters are set.
    ///
    /// # Panics
    ///
    /// If `read` gives another number of values than the shape asks for.
    pub fn read_parameters<E>(
        &mut self,
        read: impl FnMut(&str, &[usize]) -> Result<Vec<f32>, E>,
    ) -> Result<(), E> {
        self.parameters.read(read)?;
        self.take_up_parameters();
        Ok(())
    }

    /// Sets every gradient to 0.
    pub fn zero_gradients(&mut self) {
        self.parameters.zero_gradients();
    }

    /// Multiplies every gradient by `factor`.
    pub fn scale_gradients(&mut self, factor: f32) {
        self.parameters.scale_gradients(factor);
    }

    /// Moments for [`TrainModel::adam_step`], of parameters that have not moved yet.
    pub fn adam_moments(&self) -> AdamMoments {
        AdamMoments::new(&self.parameters)
    }

    /// Moves every parameter against its gradient by one step of Adam, and updates `moments`, which are this model's.
    pub fn adam_step(&mut self, moments: &mut AdamMoments, step: &AdamStep) {
        self.parameters.adam_step(moments, step);
        self.take_up_parameters();
    }

    /// Packs trained weights anew after their values changed.
    fn take_up_parameters(&mut self) {
        if let Layout::Full(weights) = &self.trained {
            let by_name: std::collections::HashMap<&str, &[f32]> =
                self.parameters.all.iter().map(|p| (p.name(), p.value.as_slice())).collect();
            let (model, workers) = self.encoder.model_mut();
            let tensor = |name: &str| match by_name.get(name) {
                Some(&value) => Cow::Borrowed(value),
                None => weights.get(name),
            };
            model.repack(&tensor, workers);
        }
    }

    /// The unit vectors `(b, d)` of `texts`, in their order, with dropout, keeping what
    /// [`TrainModel::backward`] needs. `step` names the dropout masks.
    ///
    /// Without dropout, equal texts are encoded once; with it, each has masks and a vector of its own.
    pub fn forward(&mut self, texts: &[Text<'_>], step: u32) -> Vec<f32> {
        self.step = step;
        let (encoded, vector_of) = distinct(self.named(texts));
        self.vector_of = vector_of;
        let lengths: Vec<usize> = encoded.iter().map(|text| text.ids.len()).collect();
        let n_threads = self.encoder.workers().n_threads();
        self.cuts = chunks(&lengths, n_threads, CHUNK_TOKENS);
        if self.tapes.len() < self.cuts.len() {
            self.tapes.resize_with(self.cuts.len(), ChunkTape::default);
        }
        let mut tapes = std::mem::take(&mut self.tapes);
        let lora = lora_layers(&self.trained, &self.parameters, self.encoder.n_layers());
        let pass = self.pass(&lora, self.dropout(step));
        let work = self.cuts.iter().cloned().zip(&mut tapes).collect();
        self.encoder.workers().for_each(work, |(cut, tape): (Range<usize>, &mut ChunkTape)| {
            tape.begin(&encoded[cut], pass.n_tapes());
            forward(&pass, tape);
        });
        let vectors = tapes[..self.cuts.len()].iter();
        let vectors: Vec<&[f32]> =
            vectors.flat_map(|tape| tape.unit_bd.chunks_exact(pass.d())).collect();
        let unit_bd = self.vector_of.iter().flat_map(|&vector| vectors[vector as usize]).copied();
        let unit_bd = unit_bd.collect();
        self.tapes = tapes;
        unit_bd
    }

    /// The vectors of [`TrainModel::forward`], bit for bit, with the same masks, keeping nothing: the memory it takes does
    /// not grow with the number of texts. It leaves what the last [`TrainModel::forward`] kept as it is.
    pub fn forward_without_tape(&self, texts: &[Text<'_>], step: u32) -> Vec<f32> {
        self.embed_in(self.named(texts), self.dropout(step))
    }

    /// `texts`, with the keys of their masks where masks are drawn.
    fn named<'a>(&self, texts: &'a [Text<'a>]) -> impl Iterator<Item = Text<'a>> {
        let has_masks = self.dropout != DropoutRates::NONE;
        texts.iter().map(move |text| if has_masks { *text } else { Text::without_masks(text.ids) })
    }

    fn embed_in<'a>(
        &self,
        texts: impl Iterator<Item = Text<'a>>,
        dropout: Option<Dropout>,
    ) -> Vec<f32> {
        let lora = lora_layers(&self.trained, &self.parameters, self.encoder.n_layers());
        let pass = Pass { depth: Depth::Nowhere, ..self.pass(&lora, dropout) };
        self.encoder.embed_in(&pass, &texts.collect::<Vec<_>>())
    }

    /// Tokens that the last [`TrainModel::forward`] encoded.
    pub fn n_encoded_tokens(&self) -> usize {
        self.tapes[..self.cuts.len()].iter().map(|tape| tape.packed.n_tokens()).sum()
    }

    /// Adds to every parameter's gradient, given the loss's derivative by the vectors that the last
    /// [`TrainModel::forward`] returned.
    pub fn backward(&mut self, dunit_bd: &[f32]) {
        let (d, n_layers) = (self.encoder.dim(), self.encoder.n_layers());
        assert_eq!(dunit_bd.len(), self.vector_of.len() * d);
        // By each encoded text's vector: the sum over its uses in their order. Starting from −0, a
        // single use keeps its bits, the sign of a zero included.
        let mut dvectors = vec![-0.0; self.cuts.last().map_or(0, |cut| cut.end) * d];
        for (dunit_d, &vector) in dunit_bd.chunks_exact(d).zip(&self.vector_of) {
            self.encoder.isa().add(&mut dvectors[vector as usize * d..][..d], dunit_d);
        }
        let lowest_layer = self.depth().lowest_layer(n_layers);
        let mut gradients: Vec<Vec<f32>> =
            self.parameters.all.iter_mut().map(|p| std::mem::take(&mut p.gradient)).collect();
        let mut tapes = std::mem::take(&mut self.tapes);
        {
            let lora = lora_layers(&self.trained, &self.parameters, n_layers);
            let pass = self.pass(&lora, self.dropout(self.step));
            let workers = self.encoder.workers();
            let tapes = &mut tapes[..self.cuts.len()];
            let work = self.cuts.iter().cloned().zip(&mut *tapes).collect();
            workers.for_each(work, |(cut, tape): (Range<usize>, &mut ChunkTape)| {
                backward_pool(&pass, tape, &dvectors[cut.start * d..cut.end * d]);
            });
            for layer in (lowest_layer..n_layers).rev() {
                workers.for_each(tapes.iter_mut().collect(), |tape| {
                    backward_layer(&pass, layer, tape);
                });
                let n_threads = workers.n_threads();
                let sums = LayerSums { pass: &pass, layer, chunks: tapes, n_threads };
                let tasks = self.trained.tasks(sums, &mut gradients);
                workers.for_each(tasks, |task| task());
            }
            if let Layout::Full(_) = self.trained {
                let [dword_vd, dposition_pd, dtoken_type_td, dnorm_weight_d, dnorm_bias_d] =
                    &mut gradients[..N_EMBEDDING_TENSORS]
                else {
                    unreachable!("the slice has that length")
                };
                let gradients = EmbeddingGradients {
                    dword_vd,
                    dposition_pd,
                    dtoken_type_td,
                    dnorm_weight_d,
                    dnorm_bias_d,
                };
                gradients.add(&pass, tapes, workers);
            }
        }
        self.tapes = tapes;
        for (parameter, gradient) in self.parameters.all.iter_mut().zip(gradients) {
            parameter.gradient = gradient;
        }
    }

    /// Unit vectors with the parameters as they are, without dropout; see [`Encoder::embed_ids`].
    pub fn embed_ids(&self, ids: &[Vec<u32>]) -> Vec<f32> {
        self.embed_in(ids.iter().map(|ids| Text::without_masks(ids)), None)
    }

    /// The adapter with its values as they are; `None` under full fine-tuning.
    pub fn adapter(&self) -> Option<Adapter> {
        let Layout::Lora(adapter) = &self.trained else { return None };
        let mut adapter = adapter.clone();
        for (module, factors) in adapter.modules.iter_mut().zip(self.parameters.all.chunks_exact(2))
        {
            module.a_ri.clone_from(&factors[0].value);
            module.b_or.clone_from(&factors[1].value);
        }
        Some(adapter)
    }

    /// Every weight as it is, the untrained pooler included; `None` when an adapter is trained.
    pub fn weights(&self) -> Option<Weights> {
        let Layout::Full(weights) = &self.trained else { return None };
        let mut weights = weights.clone();
        for parameter in &self.parameters.all {
            weights.set(parameter.name(), parameter.value.clone());
        }
        Some(weights)
    }

    fn depth(&self) -> Depth {
        match &self.trained {
            Layout::Full(_) => Depth::Embeddings,
            Layout::Lora(adapter) => {
                let lowest = adapter.modules.iter().map(|module| module.site).min();
                lowest.map_or(Depth::Nowhere, Depth::Site)
            }
        }
    }

    /// The masks of a step, if there are any.
    fn dropout(&self, step: u32) -> Option<Dropout> {
        let dropout = Dropout { rates: self.dropout, seed: self.seed, step };
        (self.dropout != DropoutRates::NONE).then_some(dropout)
    }

    /// A pass with the parameters as they are, which keeps what a backward pass needs.
    fn pass<'a>(&'a self, lora: &'a [LoraLayer<'a>], dropout: Option<Dropout>) -> Pass<'a> {
        let pass = self.encoder.pass(lora);
        Pass {
            word_vd: match self.trained {
                Layout::Full(_) => &self.parameters.all[0].value,
                Layout::Lora(_) => pass.word_vd,
            },
            dropout,
            depth: self.depth(),
            ..pass
        }
    }
}

impl Layout {
    /// The pieces of one layer's parameter gradients.
    fn tasks<'a>(&self, sums: LayerSums<'a>, gradients: &'a mut [Vec<f32>]) -> Vec<Task<'a>> {
        let mut tasks = Vec::new();
        match self {
            Layout::Lora(adapter) => {
                let factors = adapter.modules.iter().zip(gradients.chunks_exact_mut(2));
                for (module, factors) in
                    factors.filter(|(module, _)| module.site.layer == sums.layer)
                {
                    let (da_ri, db_or) = factors.split_at_mut(1);
                    sums.lora(module.site.kind, &mut da_ri[0], &mut db_or[0], &mut tasks);
                }
            }
            Layout::Full(_) => {
                let start = N_EMBEDDING_TENSORS + sums.layer * N_LAYER_TENSORS;
                let mut pairs = gradients[start..start + N_LAYER_TENSORS].chunks_exact_mut(2);
                let mut next = || {
                    let (weight, bias) = pairs.next().expect("eight pairs").split_at_mut(1);
                    (weight[0].as_mut_slice(), bias[0].as_mut_slice())
                };
                let mut linear = |kind, (weight, bias): (&'a mut [f32], &'a mut [f32])| {
                    sums.linear(kind, weight, bias, &mut tasks);
                };
                linear(LinearKind::Query, next());
                linear(LinearKind::Key, next());
                linear(LinearKind::Value, next());
                linear(LinearKind::AttentionOutput, next());
                let attention_norm = next();
                linear(LinearKind::Intermediate, next());
                linear(LinearKind::Output, next());
                let output_norm = next();
                sums.attention_norm(attention_norm.0, attention_norm.1, &mut tasks);
                sums.output_norm(output_norm.0, output_norm.1, &mut tasks);
            }
        }
        tasks
    }
}

/// The adapted linear layers of every layer; none when no adapter is trained.
fn lora_layers<'a>(
    trained: &Layout,
    parameters: &'a Parameters,
    n_layers: usize,
) -> Vec<LoraLayer<'a>> {
    let Layout::Lora(adapter) = trained else { return Vec::new() };
    let mut layers = vec![LoraLayer::default(); n_layers];
    for (module, factors) in adapter.modules.iter().zip(parameters.all.chunks_exact(2)) {
        let &LoraModule { site: LinearSite { layer, kind }, r, scale, .. } = module;
        let (a_ri, b_or) = (&factors[0].value, &factors[1].value);
        layers[layer][kind as usize] = Some(Lora { r, scale, a_ri, b_or });
    }
    layers
}
