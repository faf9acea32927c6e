//! What a training loop drives: an encoder, its trained parameters, and their gradients.

use crate::adapter::{Adapter, LoraModule};
use crate::backward::{backward_layer, backward_pool};
use crate::batch::{Packed, Text, chunks, distinct};
use crate::depth::Depth;
use crate::encoder::Encoder;
use crate::forward::{LoraLayer, Pass, forward};
use crate::gradients::{EmbeddingGradients, LayerSums, Task};
use crate::lora::Lora;
use crate::modules::{LinearKind, LinearSite};
use crate::tape::{ChunkTape, Dropout, DropoutRates, TextKey};
use crate::weights::Weights;
use loriot_files::Hint;
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

/// A trained tensor and the gradient that [`TrainModel::backward`] adds to.
#[derive(Clone, Debug)]
pub struct Parameter {
    /// Its key in the files that training writes: PEFT's for an adapter, `transformers`' for a weight.
    pub name: String,
    /// Its shape, row-major.
    pub shape: Vec<usize>,
    /// What the optimiser changes.
    pub value: Vec<f32>,
    /// Derivative of the loss by `value`, summed over the backward passes since it was last zeroed.
    pub gradient: Vec<f32>,
}

/// An encoder in training.
///
/// For an adapter, `parameters` holds A and B of each module in turn. Under full fine-tuning it holds
/// the tensors in [`Weights::names`]' order: five of the embeddings, then sixteen a layer.
pub struct TrainModel {
    encoder: Encoder,
    trained: Layout,
    parameters: Vec<Parameter>,
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
        let parameter = |name: String, shape: Vec<usize>, value: Vec<f32>| {
            assert_eq!(value.len(), shape.iter().product::<usize>(), "{name}");
            Parameter { gradient: vec![0.0; value.len()], name, shape, value }
        };
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
                        parameter(a_name, vec![module.r, i], a_ri),
                        parameter(b_name, vec![o, module.r], b_or),
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
                    parameter(name.to_owned(), weights.shape(name).to_vec(), value)
                });
                let parameters = parameters.collect();
                (Layout::Full(weights), parameters)
            }
        };
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

    /// The trained tensors, in the order of the files.
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// The trained tensors; call [`TrainModel::parameters_changed`] after writing to their values.
    pub fn parameters_mut(&mut self) -> &mut [Parameter] {
        &mut self.parameters
    }

    /// Runs `change` on each parameter with its index, on the encoder's threads.
    pub fn for_each_parameter(&mut self, change: impl Fn(usize, &mut Parameter) + Sync + Send) {
        let parameters = self.parameters.iter_mut().enumerate().collect();
        self.encoder.workers().for_each(parameters, |(at, parameter)| change(at, parameter));
    }

    /// Sets every gradient to zero.
    pub fn zero_gradients(&mut self) {
        self.for_each_parameter(|_, parameter| parameter.gradient.fill(0.0));
    }

    /// Takes up values that were written through [`TrainModel::parameters_mut`].
    pub fn parameters_changed(&mut self) {
        if let Layout::Full(weights) = &self.trained {
            let by_name: std::collections::HashMap<&str, &[f32]> =
                self.parameters.iter().map(|p| (p.name.as_str(), p.value.as_slice())).collect();
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
    pub fn forward(&mut self, texts: &[Text], step: u32) -> Vec<f32> {
        self.step = step;
        let has_masks = self.dropout != DropoutRates::NONE;
        let named = texts.iter().map(|text| {
            let key = TextKey { row: text.row, side: text.side };
            (text.ids.as_slice(), if has_masks { key } else { TextKey::NO_MASKS })
        });
        let (encoded, vector_of) = distinct(named);
        self.vector_of = vector_of;
        let lengths: Vec<usize> = encoded.iter().map(|(ids, _)| ids.len()).collect();
        let n_threads = self.encoder.workers().n_threads();
        self.cuts = chunks(&lengths, n_threads, CHUNK_TOKENS);
        if self.tapes.len() < self.cuts.len() {
            self.tapes.resize_with(self.cuts.len(), ChunkTape::default);
        }
        let mut tapes = std::mem::take(&mut self.tapes);
        let lora = lora_layers(&self.trained, &self.parameters, self.encoder.n_layers());
        let pass = self.pass(&lora);
        let work = self.cuts.iter().cloned().zip(&mut tapes).collect();
        self.encoder.workers().for_each(work, |(cut, tape): (Range<usize>, &mut ChunkTape)| {
            let (ids, keys): (Vec<&[u32]>, _) = encoded[cut].iter().copied().unzip();
            tape.begin(Packed::new(ids), keys, pass.n_tapes());
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
            self.parameters.iter_mut().map(|p| std::mem::take(&mut p.gradient)).collect();
        let mut tapes = std::mem::take(&mut self.tapes);
        {
            let lora = lora_layers(&self.trained, &self.parameters, n_layers);
            let pass = self.pass(&lora);
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
        for (parameter, gradient) in self.parameters.iter_mut().zip(gradients) {
            parameter.gradient = gradient;
        }
    }

    /// Unit vectors with the parameters as they are, without dropout; see [`Encoder::embed_ids`].
    pub fn embed_ids(&self, ids: &[Vec<u32>]) -> Vec<f32> {
        let lora = lora_layers(&self.trained, &self.parameters, self.encoder.n_layers());
        let pass = Pass { dropout: None, depth: Depth::Nowhere, ..self.pass(&lora) };
        self.encoder.embed_ids_in(&pass, ids)
    }

    /// The adapter with its values as they are; `None` under full fine-tuning.
    pub fn adapter(&self) -> Option<Adapter> {
        let Layout::Lora(adapter) = &self.trained else { return None };
        let mut adapter = adapter.clone();
        for (module, factors) in adapter.modules.iter_mut().zip(self.parameters.chunks_exact(2)) {
            module.a_ri.clone_from(&factors[0].value);
            module.b_or.clone_from(&factors[1].value);
        }
        Some(adapter)
    }

    /// Every weight as it is, the untrained pooler included; `None` when an adapter is trained.
    pub fn weights(&self) -> Option<Weights> {
        let Layout::Full(weights) = &self.trained else { return None };
        let mut weights = weights.clone();
        for parameter in &self.parameters {
            weights.set(&parameter.name, parameter.value.clone());
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

    fn pass<'a>(&'a self, lora: &'a [LoraLayer<'a>]) -> Pass<'a> {
        let dropout = Dropout { rates: self.dropout, seed: self.seed, step: self.step };
        let pass = self.encoder.pass(lora);
        Pass {
            word_vd: match self.trained {
                Layout::Full(_) => &self.parameters[0].value,
                Layout::Lora(_) => pass.word_vd,
            },
            dropout: (self.dropout != DropoutRates::NONE).then_some(dropout),
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
    parameters: &'a [Parameter],
    n_layers: usize,
) -> Vec<LoraLayer<'a>> {
    let Layout::Lora(adapter) = trained else { return Vec::new() };
    let mut layers = vec![LoraLayer::default(); n_layers];
    for (module, factors) in adapter.modules.iter().zip(parameters.chunks_exact(2)) {
        let &LoraModule { site: LinearSite { layer, kind }, r, scale, .. } = module;
        let (a_ri, b_or) = (&factors[0].value, &factors[1].value);
        layers[layer][kind as usize] = Some(Lora { r, scale, a_ri, b_or });
    }
    layers
}
