//! What a training loop drives: an encoder, its trained parameters, and their gradients.

use crate::adapter::{Adapter, Factor, LoraModule, Numbers, whole};
use crate::architecture::{LinearSite, Part, Role, TableKind};
use crate::backward::{backward_head, backward_layer};
use crate::batch::{Text, Work, chunks, distinct};
use crate::depth::Depth;
use crate::encoder::Encoder;
use crate::forward::{LoraLayer, Pass, forward, lora_layers};
use crate::gradients::{EmbeddingGradients, LayerSums, Task};
use crate::parameters::{AdamMoments, Parameter, Parameters};
use crate::tape::{ChunkTape, Dropout, DropoutRates};
use crate::weights::Weights;
use loriot_files::Hint;
use loriot_kernels::adam::AdamStep;
use loriot_kernels::gemm::Precision;
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
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
    /// The factors of an adapter, and tensors that it replaces; the rest is frozen.
    Lora(Adapter),
    /// Every weight but the pooler's, embeddings included.
    Full,
}

/// An encoder in training.
///
/// Its parameters are in the order of the files: the factors of each adapted layer in turn, or the weights in the order
/// of [`Weights::specs`]. What is computed for them asks for each by its role, never by its place.
pub struct TrainModel {
    encoder: Encoder,
    trained: Layout,
    parameters: Parameters,
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
    /// DoRA's factors with the parameters as they are.
    gains: BTreeMap<LinearSite, Vec<f32>>,
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
    /// If the encoder has an adapter beside its weights, which training would leave out; under full fine-tuning, if one was
    /// folded in: the weights as they were are gone.
    pub fn new(
        encoder: Encoder,
        trained: Trained,
        dropout: DropoutRates,
        seed: u64,
    ) -> Result<TrainModel, NotTrainable> {
        if encoder.precision() == Precision::Int8 {
            return Err(NotTrainable(Precision::Int8));
        }
        assert!(!encoder.has_adapter_beside(), "an adapter beside the weights is not trained on");
        let family = encoder.folder().config.family;
        let (mut roles, mut parameters) = (Vec::new(), Vec::new());
        let trained = match trained {
            Trained::Lora(mut adapter) => {
                for module in &mut adapter.modules {
                    for factor in module.factors() {
                        let (name, shape) = (factor.key(family, module.site), module.shape(factor));
                        let value = std::mem::take(module.factor_mut(factor));
                        roles.push(ParameterRole::Factor(module.site, factor));
                        parameters.push(Parameter::new(name, shape, value));
                    }
                }
                for tensor in &mut adapter.whole {
                    let (role, value) = (tensor.role, std::mem::take(&mut tensor.values));
                    roles.push(ParameterRole::Weight(role));
                    let name = whole::key(family, role, |site| {
                        adapter.modules.iter().any(|module| module.site == site)
                    });
                    parameters.push(Parameter::new(name, tensor.shape.clone(), value));
                }
                Layout::Lora(adapter)
            }
            Trained::Full => {
                let weights = encoder.weights().expect("no adapter was folded in").clone();
                for spec in weights.specs().filter(|spec| !spec.role.is_unused()) {
                    let value = weights.of(spec.role).into_owned();
                    weights.release(spec.role);
                    roles.push(ParameterRole::Weight(spec.role));
                    let (name, shape) = (spec.name.clone(), spec.shape.clone());
                    parameters.push(Parameter::new(name, shape, value));
                }
                Layout::Full(weights)
            }
        };
        let parameters = Parameters::new(parameters, encoder.isa(), encoder.workers().clone());
        let mut model = TrainModel {
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
            gains: BTreeMap::new(),
        };
        model.take_out_starts();
        // An adapter's own tensors may differ from the base's. All weights are what they are.
        if matches!(model.trained, Layout::Lora(_)) {
            model.take_up_parameters();
        }
        Ok(model)
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

    /// Sets every parameter to what `read` gives for its name and shape in the model's files. After an error, which is the first that `read`
    /// gives, the model is of no use: some parameters are set.
    ///
    /// # Panics
    ///
    /// If `read` gives another number of values than the shape asks for.
    pub fn read_parameters<E>(
        &mut self,
        mut read: impl FnMut(&str, &[usize]) -> Result<Vec<f32>, E>,
    ) -> Result<(), E> {
        // What was begun in the weights stands in files with its start: see `LoraModule::standing_alone`.
        let mut with_start: HashMap<String, (Factor, usize)> = HashMap::new();
        if let Layout::Lora(adapter) = &self.trained {
            for module in adapter.modules.iter().filter(|module| module.start.is_some()) {
                for factor in [Factor::A, Factor::B] {
                    let key = factor.key(adapter.family, module.site);
                    with_start.insert(key, (factor, module.r));
                }
            }
        }
        self.parameters.read(|name, shape| match with_start.get(name) {
            Some(&(Factor::A, r)) => {
                let mut values = read(name, &[2 * r, shape[1]])?;
                values.truncate(r * shape[1]);
                Ok(values)
            }
            Some(&(_, r)) => {
                let values = read(name, &[shape[0], 2 * r])?;
                Ok(values.chunks_exact(2 * r).flat_map(|row| &row[..r]).copied().collect())
            }
            None => read(name, shape),
        })?;
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

    /// LoRA+: the learning rate of each factor B, and of each parameter of one axis (biases, norms, DoRA's magnitudes), is
    /// `ratio` times that of the others, as PEFT's `create_loraplus_optimizer` groups them (Hayou et al., 2024).
    pub fn set_lora_plus(&mut self, ratio: f64) {
        for (parameter, role) in self.parameters.all.iter_mut().zip(&self.roles) {
            let is_b = matches!(role, ParameterRole::Factor(_, Factor::B));
            if is_b || parameter.shape().len() == 1 {
                parameter.rate = ratio;
            }
        }
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

    /// Packs the weights without the factors that training begins with, where they were taken out of them.
    fn take_out_starts(&mut self) {
        let Layout::Lora(adapter) = &self.trained else { return };
        if adapter.modules.iter().all(|module| module.start.is_none()) {
            return;
        }
        let mut weights = self.encoder.base().weights.clone();
        for module in &adapter.modules {
            let role = Role::Linear(module.site, Part::Weight);
            let mut weight_oi = weights.of(role).into_owned();
            module.residual(&mut weight_oi);
            weights.set(role, weight_oi);
        }
        let (model, workers) = self.encoder.model_mut();
        model.repack(&|role| weights.of(role), workers);
    }

    /// DoRA's factors, by the norms of the weights with their adapters.
    fn gains_now(&self) -> BTreeMap<LinearSite, Vec<f32>> {
        let Layout::Lora(adapter) = &self.trained else { return BTreeMap::new() };
        let weights = &self.encoder.base().weights;
        let gains = |module: &LoraModule| {
            let value = |factor| self.parameter(ParameterRole::Factor(module.site, factor));
            let numbers = Numbers {
                a_ri: value(Factor::A)?,
                b_or: value(Factor::B)?,
                magnitude_o: Some(value(Factor::Magnitude)?),
                ..module.numbers()
            };
            let weight_oi = weights.of(Role::Linear(module.site, Part::Weight));
            Some((module.site, numbers.gains(&weight_oi)?))
        };
        let all = self.encoder.workers().map(adapter.modules.iter().collect(), gains);
        all.into_iter().flatten().collect()
    }

    /// Brings the model up to date after the values of trained weights changed.
    fn take_up_parameters(&mut self) {
        if let Layout::Lora(adapter) = &self.trained
            && !adapter.whole.is_empty()
        {
            let (model, _) = self.encoder.model_mut();
            for (parameter, role) in self.parameters.all.iter().zip(&self.roles) {
                match *role {
                    // A pass finds the word embedding among the parameters.
                    ParameterRole::Factor(..)
                    | ParameterRole::Weight(Role::Table(TableKind::Word)) => {}
                    ParameterRole::Weight(role) => model.set(role, &parameter.value),
                }
            }
        }
        self.gains = self.gains_now();
        if let Layout::Full(weights) = &self.trained {
            let values = self.parameters.all.iter().map(|parameter| parameter.value.as_slice());
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
        let adapters = self.adapters();
        let pass = self.pass(&adapters, self.dropout(step));
        let work = self.cuts.iter().cloned().zip(&mut tapes).collect();
        self.encoder.workers().for_each(work, |(cut, tape): (Range<usize>, &mut ChunkTape)| {
            let texts = encoded[cut].iter();
            let work: Vec<_> = texts.map(|&text| Work { text, adapter: 0 }).collect();
            tape.begin(&work, pass.n_tapes());
            forward(&pass, tape);
        });
        let vectors = tapes[..self.cuts.len()].iter();
        let vectors: Vec<&[f32]> = vectors
            .flat_map(|tape| tape.head.output_bo.chunks_exact(pass.head.width(pass.d())))
            .collect();
        let unit_bd = self.vector_of.iter().flat_map(|&vector| vectors[vector as usize]).copied();
        let unit_bd = unit_bd.collect();
        self.tapes = tapes;
        unit_bd
    }

    /// The vectors of [`TrainModel::forward`], bit for bit, with the same masks, keeping no activations: beside the
    /// vectors, its memory does not grow with the number of texts. It leaves what the last [`TrainModel::forward`] kept as it is.
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
        let adapters = self.adapters();
        let pass = Pass { depth: Depth::Nowhere, ..self.pass(&adapters, dropout) };
        self.encoder.embed_in(&pass, &texts.collect::<Vec<_>>())
    }

    /// Tokens that the last [`TrainModel::forward`] encoded.
    pub fn n_encoded_tokens(&self) -> usize {
        self.tapes[..self.cuts.len()].iter().map(|tape| tape.packed.n_tokens()).sum()
    }

    /// Adds to every parameter's gradient, given the loss's derivative by the vectors that the last
    /// [`TrainModel::forward`] returned.
    pub fn backward(&mut self, dunit_bd: &[f32]) {
        let (d, n_layers) = (self.encoder.width(), self.encoder.n_layers());
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
            let adapters = self.adapters();
            let pass = self.pass(&adapters, self.dropout(self.step));
            let workers = self.encoder.workers();
            let tapes = &mut tapes[..self.cuts.len()];
            let work = self.cuts.iter().cloned().zip(&mut *tapes).collect();
            workers.for_each(work, |(cut, tape): (Range<usize>, &mut ChunkTape)| {
                backward_head(&pass, tape, &dvectors[cut.start * d..cut.end * d]);
            });
            for layer in (lowest_layer..n_layers).rev() {
                workers.for_each(tapes.iter_mut().collect(), |tape| {
                    backward_layer(&pass, layer, tape);
                });
                let n_threads = workers.n_threads();
                let sums = LayerSums { pass: &pass, layer, chunks: tapes, n_threads };
                let of_layer = self.gradients(&mut gradients, Some(layer));
                let tasks = of_layer.tasks(sums, |site| {
                    let role = ParameterRole::Factor(site, Factor::Magnitude);
                    self.parameter(role).expect("the model trains this parameter")
                });
                workers.for_each(tasks, |task| task());
            }
            if pass.depth == Depth::Embeddings {
                let mut by_role = self.gradients(&mut gradients, None);
                let mut take = |role| by_role.0.remove(&ParameterRole::Weight(role));
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
        for (parameter, role) in self.parameters.all.iter().zip(&self.roles) {
            let value = match *role {
                ParameterRole::Factor(site, factor) => {
                    let module = adapter.modules.iter_mut().find(|module| module.site == site);
                    module.expect("a parameter's module is the adapter's").factor_mut(factor)
                }
                ParameterRole::Weight(role) => {
                    let tensor = adapter.whole.iter_mut().find(|tensor| tensor.role == role);
                    &mut tensor.expect("a parameter's tensor is the adapter's").values
                }
            };
            value.clone_from(&parameter.value);
        }
        Some(adapter)
    }

    /// Every weight as it is, the untrained pooler included; `None` when an adapter is trained.
    pub fn weights(&self) -> Option<Weights> {
        let Layout::Full(weights) = &self.trained else { return None };
        let mut weights = weights.clone();
        for (parameter, role) in self.parameters.all.iter().zip(&self.roles) {
            let &ParameterRole::Weight(role) = role else { continue };
            weights.set(role, parameter.value.clone());
        }
        Some(weights)
    }

    fn depth(&self) -> Depth {
        match &self.trained {
            Layout::Full(_) => Depth::Embeddings,
            // A bias of an adapted layer needs no more than its adapter; other tensors may stand anywhere, and are not
            // worth a depth of their own.
            Layout::Lora(Adapter { whole, modules, .. })
                if !whole.iter().all(|tensor| {
                    matches!(tensor.role, Role::Linear(site, _)
                        if modules.iter().any(|module| module.site == site))
                }) =>
            {
                Depth::Embeddings
            }
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
    fn pass<'a>(
        &'a self,
        adapters: &'a [Vec<LoraLayer<'a>>],
        dropout: Option<Dropout>,
    ) -> Pass<'a> {
        let pass = self.encoder.pass(adapters);
        Pass {
            word_vd: self
                .parameter(ParameterRole::Weight(Role::Table(TableKind::Word)))
                .unwrap_or(pass.word_vd),
            dropout,
            depth: self.depth(),
            ..pass
        }
    }

    /// The numbers of a parameter, if it is one.
    fn parameter(&self, role: ParameterRole) -> Option<&[f32]> {
        let at = self.roles.iter().position(|&other| other == role)?;
        Some(&self.parameters.all[at].value)
    }

    /// The gradients of one layer's parameters, or of those of no layer.
    fn gradients<'a>(&self, gradients: &'a mut [Vec<f32>], layer: Option<usize>) -> Gradients<'a> {
        let with_roles = self.roles.iter().copied().zip(gradients);
        let of_layer = with_roles.filter(|(role, _)| role.layer() == layer);
        Gradients(of_layer.map(|(role, gradient)| (role, gradient.as_mut_slice())).collect())
    }

    /// The adapter that is trained; none under full fine-tuning.
    fn adapters(&self) -> Vec<Vec<LoraLayer<'_>>> {
        let Layout::Lora(adapter) = &self.trained else { return Vec::new() };
        let factors = |site| {
            let factor = |factor| self.parameter(ParameterRole::Factor(site, factor));
            let gain_o = self.gains.get(&site).map(Vec::as_slice);
            Some((factor(Factor::A)?, factor(Factor::B)?, gain_o))
        };
        vec![lora_layers(adapter, self.encoder.n_layers(), factors)]
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
    fn tasks(
        mut self,
        sums: LayerSums<'a>,
        magnitudes: impl Fn(LinearSite) -> &'a [f32],
    ) -> Vec<Task<'a>> {
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
                ParameterRole::Factor(site, Factor::Magnitude) => {
                    let magnitude_o = magnitudes(site);
                    sums.magnitude(site.kind, magnitude_o, self.take(role), &mut tasks);
                }
                ParameterRole::Weight(Role::Linear(site, Part::Weight)) => {
                    sums.linear_weight(site.kind, self.take(role), &mut tasks);
                }
                ParameterRole::Weight(Role::Linear(site, Part::Bias)) => {
                    sums.linear_bias(site.kind, self.take(role), &mut tasks);
                }
                // Whichever comes first takes the other with it.
                ParameterRole::Weight(Role::Norm(layer, kind, _)) => {
                    let [weight, bias] = Part::BOTH.map(|part| {
                        self.0.remove(&ParameterRole::Weight(Role::Norm(layer, kind, part)))
                    });
                    if weight.is_some() || bias.is_some() {
                        sums.norm(kind, weight, bias, &mut tasks);
                    }
                }
                // The rest is of no layer.
                ParameterRole::Weight(_) => {}
            }
        }
        tasks
    }
}
