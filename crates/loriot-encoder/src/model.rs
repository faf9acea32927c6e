//! Weights as the passes want them: packed, fused, in memory.
//!
//! Query, key and value projections are one linear layer of `3d` outputs. A packed weight serves the
//! forward pass and the input gradient alike.

use crate::config::Config;
use crate::modules::LinearKind;
use crate::weights::Weights;
use crate::workers::Workers;
use loriot_kernels::Isa;
use loriot_kernels::gemm::{PackedWeight, Precision};
use std::borrow::Cow;
use std::ops::Range;

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
    pub(crate) word_vd: Vec<f32>,
    pub(crate) position_pd: Vec<f32>,
    /// Token type 0: the only one that a single text has.
    pub(crate) token_type_d: Vec<f32>,
    pub(crate) norm: LayerNorm,
}

/// An encoder in memory.
pub(crate) struct Model {
    pub(crate) config: Config,
    pub(crate) isa: Isa,
    pub(crate) embeddings: Embeddings,
    pub(crate) layers: Vec<Layer>,
}

/// A tensor by its name without prefix, such as `encoder.layer.0.output.dense.bias`.
pub(crate) type TensorOf<'a> = dyn Fn(&str) -> Cow<'a, [f32]> + Sync + 'a;

impl Model {
    /// Packs `weights`, layers in parallel.
    pub(crate) fn pack(weights: &Weights, config: &Config, isa: Isa, workers: &Workers) -> Model {
        let tensor = |name: &str| weights.get(name);
        let layers = (0..config.n_layers).collect();
        Model {
            config: config.clone(),
            isa,
            embeddings: Embeddings::read(&tensor, config),
            layers: workers.map(layers, |layer| Layer::pack(isa, &tensor, layer, config)),
        }
    }

    /// Packs the tensors anew, after they were trained.
    pub(crate) fn repack(&mut self, tensor: &TensorOf<'_>, workers: &Workers) {
        self.embeddings = Embeddings::read(tensor, &self.config);
        let (isa, config) = (self.isa, &self.config);
        let layers = self.layers.iter_mut().enumerate().collect();
        workers.for_each(layers, |(layer, packed): (usize, &mut Layer)| {
            *packed = Layer::pack(isa, tensor, layer, config);
        });
    }
}

impl Embeddings {
    fn read(tensor: &TensorOf<'_>, config: &Config) -> Embeddings {
        let token_type = tensor("embeddings.token_type_embeddings.weight");
        Embeddings {
            word_vd: tensor("embeddings.word_embeddings.weight").into_owned(),
            position_pd: tensor("embeddings.position_embeddings.weight").into_owned(),
            token_type_d: token_type[..config.hidden_size].to_vec(),
            norm: LayerNorm::read(tensor, "embeddings.LayerNorm"),
        }
    }
}

impl LayerNorm {
    fn read(tensor: &TensorOf<'_>, name: &str) -> LayerNorm {
        LayerNorm {
            weight_d: tensor(&format!("{name}.weight")).into_owned(),
            bias_d: tensor(&format!("{name}.bias")).into_owned(),
        }
    }
}

impl Linear {
    /// Packs linear layers with the same inputs as one, their outputs side by side.
    fn pack(isa: Isa, tensor: &TensorOf<'_>, names: &[String], i: usize) -> Linear {
        let weights: Vec<_> = names.iter().map(|name| tensor(&format!("{name}.weight"))).collect();
        let blocks: Vec<&[f32]> = weights.iter().map(|weight| &weight[..]).collect();
        let bias_o = names.iter().flat_map(|name| tensor(&format!("{name}.bias")).into_owned());
        Linear { weight: isa.pack(&blocks, i, Precision::F32), bias_o: bias_o.collect() }
    }

    /// Width of the output.
    pub(crate) fn o(&self) -> usize {
        self.bias_o.len()
    }
}

impl Layer {
    fn pack(isa: Isa, tensor: &TensorOf<'_>, layer: usize, config: &Config) -> Layer {
        let name = |suffix: &str| format!("encoder.layer.{layer}.{suffix}");
        let linear = |kinds: &[LinearKind]| {
            let names: Vec<String> = kinds.iter().map(|kind| name(kind.suffix())).collect();
            Linear::pack(isa, tensor, &names, kinds[0].shape(config).1)
        };
        Layer {
            qkv: linear(&[LinearKind::Query, LinearKind::Key, LinearKind::Value]),
            attention_output: linear(&[LinearKind::AttentionOutput]),
            attention_norm: LayerNorm::read(tensor, &name("attention.output.LayerNorm")),
            intermediate: linear(&[LinearKind::Intermediate]),
            output: linear(&[LinearKind::Output]),
            output_norm: LayerNorm::read(tensor, &name("output.LayerNorm")),
        }
    }
}

/// Where the outputs of a linear layer stand in the matrix they are computed into: query, key and
/// value share one, `3d` wide; the others have their own.
pub(crate) fn output_columns(kind: LinearKind, config: &Config) -> Range<usize> {
    let (o, _) = kind.shape(config);
    match kind {
        LinearKind::Key => o..2 * o,
        LinearKind::Value => 2 * o..3 * o,
        _ => 0..o,
    }
}
