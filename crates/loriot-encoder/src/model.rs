//! Weights as the passes want them: packed, fused, in memory.
//!
//! Query, key and value projections are one linear layer of `3d` outputs. A packed weight serves the
//! forward pass and the input gradient alike.

use crate::architecture::{LinearKind, LinearSite, NormKind, Part, QKV, Role, TableKind};
use crate::config::Config;
use crate::weights::{Table, Weights};
use crate::workers::Workers;
use loriot_kernels::Isa;
use loriot_kernels::gemm::{PackedWeight, Precision};
use std::borrow::Cow;

/// A linear layer: `y = x·Wᵀ + bias`.
pub(crate) struct Linear {
    pub(crate) weight: PackedWeight,
    pub(crate) bias_o: Vec<f32>,
}

/// The affine part of a LayerNorm.
pub(crate) struct LayerNorm {
    pub(crate) weight_d: Vec<f32>,
    pub(crate) bias_d: Vec<f32>,
}

/// One encoder layer.
pub(crate) struct Layer {
    pub(crate) qkv: Linear,
    pub(crate) attention_output: Linear,
    pub(crate) attention_norm: LayerNorm,
    pub(crate) intermediate: Linear,
    pub(crate) output: Linear,
    pub(crate) output_norm: LayerNorm,
}

/// Word, position and token-type tables, and the norm of their sum.
pub(crate) struct Embeddings {
    pub(crate) word_vd: Table,
    pub(crate) position_pd: Vec<f32>,
    /// Token type 0: the only one that a single text has.
    pub(crate) token_type_d: Vec<f32>,
    pub(crate) norm: LayerNorm,
}

/// An encoder in memory.
pub(crate) struct Model {
    pub(crate) config: Config,
    pub(crate) isa: Isa,
    /// Of the linear layers' weights; tables, biases and norms are f32.
    pub(crate) precision: Precision,
    pub(crate) embeddings: Embeddings,
    pub(crate) layers: Vec<Layer>,
}

/// A tensor's numbers by its role.
pub(crate) type TensorOf<'a> = dyn Fn(Role) -> Cow<'a, [f32]> + Sync + 'a;

impl Model {
    /// Packs `weights`, layers in parallel, and lets go of their pages as it does.
    pub(crate) fn pack(
        weights: &Weights,
        config: &Config,
        isa: Isa,
        precision: Precision,
        workers: &Workers,
    ) -> Model {
        let tensor = |role| weights.of(role);
        let pack = |layer| {
            let packed = Layer::pack(isa, precision, &tensor, layer, config);
            let of_layer = weights.specs().filter(|spec| spec.role.layer() == Some(layer));
            of_layer.for_each(|spec| weights.release(spec.role));
            packed
        };
        Model {
            config: config.clone(),
            isa,
            precision,
            embeddings: Embeddings::read(
                weights.table(Role::Table(TableKind::Word)),
                &tensor,
                config,
            ),
            layers: workers.map((0..config.n_layers).collect(), pack),
        }
    }

    /// Sets a tensor that is not packed: a bias, a part of a norm, the position or token-type table.
    ///
    /// # Panics
    ///
    /// If the tensor is another, or `values` has another length.
    pub(crate) fn set(&mut self, role: Role, values: &[f32]) {
        let d = self.config.hidden_size;
        let norm = |norm: &'_ mut LayerNorm, part| match part {
            Part::Weight => norm.weight_d.copy_from_slice(values),
            Part::Bias => norm.bias_d.copy_from_slice(values),
        };
        match role {
            Role::Table(TableKind::Position) => self.embeddings.position_pd.copy_from_slice(values),
            Role::Table(TableKind::TokenType) => {
                self.embeddings.token_type_d.copy_from_slice(&values[..d]);
            }
            Role::EmbeddingNorm(part) => norm(&mut self.embeddings.norm, part),
            Role::Norm(layer, NormKind::Attention, part) => {
                norm(&mut self.layers[layer].attention_norm, part);
            }
            Role::Norm(layer, NormKind::Output, part) => {
                norm(&mut self.layers[layer].output_norm, part);
            }
            Role::Linear(site, Part::Bias) => {
                let columns = site.kind.columns(&self.config);
                let layer = &mut self.layers[site.layer];
                let linear = match site.kind {
                    LinearKind::Query | LinearKind::Key | LinearKind::Value => &mut layer.qkv,
                    LinearKind::AttentionOutput => &mut layer.attention_output,
                    LinearKind::Intermediate => &mut layer.intermediate,
                    LinearKind::Output => &mut layer.output,
                };
                linear.bias_o[columns].copy_from_slice(values);
            }
            Role::Table(TableKind::Word) | Role::Linear(_, Part::Weight) | Role::Pooler(_) => {
                panic!("{role:?} is packed, or kept elsewhere")
            }
        }
    }

    /// Packs the tensors anew, after they were trained; all but the word embedding, which a pass finds
    /// with the trained parameters.
    pub(crate) fn repack(&mut self, tensor: &TensorOf<'_>, workers: &Workers) {
        let config = &self.config;
        self.embeddings = Embeddings::read(self.embeddings.word_vd.clone(), tensor, config);
        let layers = self.layers.iter_mut().enumerate().collect();
        workers.for_each(layers, |(layer, packed): (usize, &mut Layer)| {
            packed.repack(tensor, layer);
        });
    }
}

impl Embeddings {
    fn read(word_vd: Table, tensor: &TensorOf<'_>, config: &Config) -> Embeddings {
        let token_type = tensor(Role::Table(TableKind::TokenType));
        Embeddings {
            word_vd,
            position_pd: tensor(Role::Table(TableKind::Position)).into_owned(),
            token_type_d: token_type[..config.hidden_size].to_vec(),
            norm: LayerNorm::read(tensor, &Role::EmbeddingNorm),
        }
    }
}

impl LayerNorm {
    fn read(tensor: &TensorOf<'_>, role: &dyn Fn(Part) -> Role) -> LayerNorm {
        LayerNorm {
            weight_d: tensor(role(Part::Weight)).into_owned(),
            bias_d: tensor(role(Part::Bias)).into_owned(),
        }
    }
}

impl Linear {
    /// Packs linear layers with the same inputs as one, their outputs side by side.
    fn pack(
        isa: Isa,
        precision: Precision,
        tensor: &TensorOf<'_>,
        sites: &[LinearSite],
        i: usize,
    ) -> Linear {
        let weight = with_weights(tensor, sites, |blocks| isa.pack(blocks, i, precision));
        Linear { weight, bias_o: biases(tensor, sites) }
    }

    /// Overwrites what [`Linear::pack`] made.
    fn repack(&mut self, tensor: &TensorOf<'_>, sites: &[LinearSite]) {
        with_weights(tensor, sites, |blocks| self.weight.repack(blocks));
        self.bias_o = biases(tensor, sites);
    }

    /// Width of the output.
    pub(crate) fn o(&self) -> usize {
        self.bias_o.len()
    }
}

fn with_weights<R>(
    tensor: &TensorOf<'_>,
    sites: &[LinearSite],
    pack: impl FnOnce(&[&[f32]]) -> R,
) -> R {
    let weights: Vec<_> =
        sites.iter().map(|&site| tensor(Role::Linear(site, Part::Weight))).collect();
    let blocks: Vec<&[f32]> = weights.iter().map(|weight| &weight[..]).collect();
    pack(&blocks)
}

fn biases(tensor: &TensorOf<'_>, sites: &[LinearSite]) -> Vec<f32> {
    sites.iter().flat_map(|&site| tensor(Role::Linear(site, Part::Bias)).into_owned()).collect()
}

impl Layer {
    fn linear(&self, kind: LinearKind) -> &Linear {
        match kind {
            LinearKind::Query | LinearKind::Key | LinearKind::Value => &self.qkv,
            LinearKind::AttentionOutput => &self.attention_output,
            LinearKind::Intermediate => &self.intermediate,
            LinearKind::Output => &self.output,
        }
    }

    /// The bias of one linear layer.
    pub(crate) fn bias_of(&self, kind: LinearKind, config: &Config) -> &[f32] {
        &self.linear(kind).bias_o[kind.columns(config)]
    }

    fn pack(
        isa: Isa,
        precision: Precision,
        tensor: &TensorOf<'_>,
        layer: usize,
        config: &Config,
    ) -> Layer {
        let linear = |kinds: &[LinearKind]| {
            let i = kinds[0].shape(config).1;
            Linear::pack(isa, precision, tensor, &sites_of(layer, kinds), i)
        };
        let norm = |kind| LayerNorm::read(tensor, &|part| Role::Norm(layer, kind, part));
        Layer {
            qkv: linear(&QKV),
            attention_output: linear(&[LinearKind::AttentionOutput]),
            attention_norm: norm(NormKind::Attention),
            intermediate: linear(&[LinearKind::Intermediate]),
            output: linear(&[LinearKind::Output]),
            output_norm: norm(NormKind::Output),
        }
    }

    /// Overwrites what [`Layer::pack`] made.
    fn repack(&mut self, tensor: &TensorOf<'_>, layer: usize) {
        let linear = |linear: &mut Linear, kinds: &[LinearKind]| {
            linear.repack(tensor, &sites_of(layer, kinds));
        };
        linear(&mut self.qkv, &QKV);
        linear(&mut self.attention_output, &[LinearKind::AttentionOutput]);
        linear(&mut self.intermediate, &[LinearKind::Intermediate]);
        linear(&mut self.output, &[LinearKind::Output]);
        let norm = |kind| LayerNorm::read(tensor, &|part| Role::Norm(layer, kind, part));
        self.attention_norm = norm(NormKind::Attention);
        self.output_norm = norm(NormKind::Output);
    }
}

fn sites_of(layer: usize, kinds: &[LinearKind]) -> Vec<LinearSite> {
    kinds.iter().map(|&kind| LinearSite { layer, kind }).collect()
}
