//! What a training loop drives: an encoder, its trained parameters, and their gradients.

use crate::adapter::{Adapter, Factor, LoraModule};
use crate::architecture::{LinearSite, Part, Role, TableKind};
use crate::backward::{backward_layer, backward_pool};
use crate::batch::{Packed, Text, chunks, distinct};
use crate::depth::Depth;
use crate::encoder::Encoder;
use crate::forward::{LoraLayer, Pass, forward};
use crate::gradients::{EmbeddingGradients, LayerSums, Task};
use crate::lora::Lora;
use crate::tape::{ChunkTape, Dropout, DropoutRates, TextKey};
use crate::weights::Weights;
use loriot_files::Hint;
use loriot_kernels::gemm::Precision;
use std::borrow::Cow;
use std::collections::HashMap;
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
/// Its parameters are in the order of the files: the factors of each adapted layer in turn, or the weights in the order
/// of [`Weights::specs`]. What is computed for them asks by [`ParameterRole`], never by place.
pub struct TrainModel {
    encoder: Encoder,
    trained: Layout,
    parameters: Vec<Parameter>,
    /// What each parameter is, in their order.
    roles: Vec<ParameterRole>,
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

/// What a parameter is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum ParameterRole {
    /// A weight of the model.
    Weight(Role),
    /// A factor of an adapted layer.
    Factor(LinearSite, Factor),
}

/// Gradients by the role of their parameters.
struct Gradients<'a>(HashMap<ParameterRole, &'a mut [f32]>);

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
        let family = encoder.folder().config.family;
        let (mut roles, mut parameters) = (Vec::new(), Vec::new());
        let trained = match trained {
            Trained::Lora(mut adapter) => {
                for module in &mut adapter.modules {
                    for factor in Factor::ALL {
                        let (name, shape) = (factor.key(family, module.site), module.shape(factor));
                        let value = std::mem::take(module.factor_mut(factor));
                        roles.push(ParameterRole::Factor(module.site, factor));
                        parameters.push(parameter(name, shape, value));
                    }
                }
                Layout::Lora(adapter)
            }
            Trained::Full => {
                let weights = encoder.weights().expect("no adapter was folded in").clone();
                for spec in weights.specs().filter(|spec| !spec.role.is_unused()) {
                    let value = weights.of(spec.role).into_owned();
                    weights.release(spec.role);
                    roles.push(ParameterRole::Weight(spec.role));
                    parameters.push(parameter(spec.name.clone(), spec.shape.clone(), value));
                }
                Layout::Full(weights)
            }
        };
        Ok(TrainModel {
            encoder,
            trained,
            parameters,
            roles,
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
            let values = self.parameters.iter().map(|parameter| parameter.value.as_slice());
            let by_role: HashMap<ParameterRole, &[f32]> =
                self.roles.iter().copied().zip(values).collect();
            let (model, workers) = self.encoder.model_mut();
            let tensor = |role| match by_role.get(&ParameterRole::Weight(role)) {
                Some(&value) => Cow::Borrowed(value),
                None => weights.of(role),
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
        let lora = self.lora_layers();
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
            let lora = self.lora_layers();
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
                let of_layer = self.gradients(&mut gradients, Some(layer));
                let tasks = of_layer.tasks(sums);
                workers.for_each(tasks, |task| task());
            }
            if let Layout::Full(_) = self.trained {
                let mut by_role = self.gradients(&mut gradients, None);
                let mut take = |role| by_role.take(ParameterRole::Weight(role));
                let gradients = EmbeddingGradients {
                    dword_vd: take(Role::Table(TableKind::Word)),
                    dposition_pd: take(Role::Table(TableKind::Position)),
                    dtoken_type_td: take(Role::Table(TableKind::TokenType)),
                    dnorm_weight_d: take(Role::EmbeddingNorm(Part::Weight)),
                    dnorm_bias_d: take(Role::EmbeddingNorm(Part::Bias)),
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
        let lora = self.lora_layers();
        let pass = Pass { dropout: None, depth: Depth::Nowhere, ..self.pass(&lora) };
        self.encoder.embed_ids_in(&pass, ids)
    }

    /// The adapter with its values as they are; `None` under full fine-tuning.
    pub fn adapter(&self) -> Option<Adapter> {
        let Layout::Lora(adapter) = &self.trained else { return None };
        let mut adapter = adapter.clone();
        for (parameter, role) in self.parameters.iter().zip(&self.roles) {
            let &ParameterRole::Factor(site, factor) = role else { continue };
            let module = adapter.modules.iter_mut().find(|module| module.site == site);
            let module = module.expect("a parameter's module is the adapter's");
            module.factor_mut(factor).clone_from(&parameter.value);
        }
        Some(adapter)
    }

    /// Every weight as it is, the untrained pooler included; `None` when an adapter is trained.
    pub fn weights(&self) -> Option<Weights> {
        let Layout::Full(weights) = &self.trained else { return None };
        let mut weights = weights.clone();
        for (parameter, role) in self.parameters.iter().zip(&self.roles) {
            let &ParameterRole::Weight(role) = role else { continue };
            weights.set(role, parameter.value.clone());
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
                Layout::Full(_) => self.value(ParameterRole::Weight(Role::Table(TableKind::Word))),
                Layout::Lora(_) => pass.word_vd,
            },
            dropout: (self.dropout != DropoutRates::NONE).then_some(dropout),
            depth: self.depth(),
            ..pass
        }
    }

    /// The numbers of a parameter.
    fn value(&self, role: ParameterRole) -> &[f32] {
        let at = self.roles.iter().position(|&other| other == role);
        &self.parameters[at.expect("the model trains this parameter")].value
    }

    /// The gradients of one layer's parameters, or of those of no layer.
    fn gradients<'a>(&self, gradients: &'a mut [Vec<f32>], layer: Option<usize>) -> Gradients<'a> {
        let with_roles = self.roles.iter().copied().zip(gradients);
        let of_layer = with_roles.filter(|(role, _)| role.layer() == layer);
        Gradients(of_layer.map(|(role, gradient)| (role, gradient.as_mut_slice())).collect())
    }

    /// The adapted linear layers of every layer; none when no adapter is trained.
    fn lora_layers(&self) -> Vec<LoraLayer<'_>> {
        let Layout::Lora(adapter) = &self.trained else { return Vec::new() };
        let mut layers = vec![LoraLayer::default(); self.encoder.n_layers()];
        for &LoraModule { site, r, scale, .. } in &adapter.modules {
            let factor = |factor| self.value(ParameterRole::Factor(site, factor));
            let lora = Lora { r, scale, a_ri: factor(Factor::A), b_or: factor(Factor::B) };
            layers[site.layer][site.kind as usize] = Some(lora);
        }
        layers
    }
}

impl ParameterRole {
    fn layer(self) -> Option<usize> {
        match self {
            ParameterRole::Weight(role) => role.layer(),
            ParameterRole::Factor(site, _) => Some(site.layer),
        }
    }
}

impl<'a> Gradients<'a> {
    fn take(&mut self, role: ParameterRole) -> &'a mut [f32] {
        self.0.remove(&role).expect("the model trains this parameter")
    }

    /// The pieces of one layer's parameter gradients.
    fn tasks(mut self, sums: LayerSums<'a>) -> Vec<Task<'a>> {
        let mut tasks = Vec::new();
        let mut roles: Vec<ParameterRole> = self.0.keys().copied().collect();
        // Each task is on its own: their order decides no bit, only which thread has what.
        roles.sort();
        for role in roles {
            match role {
                ParameterRole::Factor(site, Factor::A) => {
                    sums.lora_a(site.kind, self.take(role), &mut tasks);
                }
                ParameterRole::Factor(site, Factor::B) => {
                    sums.lora_b(site.kind, self.take(role), &mut tasks);
                }
                ParameterRole::Weight(Role::Linear(site, Part::Weight)) => {
                    sums.linear_weight(site.kind, self.take(role), &mut tasks);
                }
                ParameterRole::Weight(Role::Linear(site, Part::Bias)) => {
                    sums.linear_bias(site.kind, self.take(role), &mut tasks);
                }
                ParameterRole::Weight(Role::Norm(layer, kind, Part::Weight)) => {
                    let bias = ParameterRole::Weight(Role::Norm(layer, kind, Part::Bias));
                    sums.norm(kind, self.take(role), self.take(bias), &mut tasks);
                }
                // A norm's bias goes with its weight; the rest is of no layer.
                ParameterRole::Weight(_) => {}
            }
        }
        tasks
    }
}
