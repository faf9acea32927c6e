//! Weights as the passes want them: packed, fused, in memory.
//!
//! Query, key and value projections are one linear layer of `3d` outputs. A packed weight serves the
//! forward pass and the input gradient alike.

use crate::config::Config;
use crate::modules::{LinearKind, LinearSite};
use crate::weights::{Table, Weights};
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

/// A tensor by its name without prefix, such as `encoder.layer.0.output.dense.bias`.
pub(crate) type TensorOf<'a> = dyn Fn(&str) -> Cow<'a, [f32]> + Sync + 'a;

impl Model {
    /// Packs `weights`, layers in parallel, and lets go of their pages as it does.
    pub(crate) fn pack(
        weights: &Weights,
        config: &Config,
        isa: Isa,
        precision: Precision,
        workers: &Workers,
    ) -> Model {
        let tensor = |name: &str| weights.get(name);
        let pack = |layer| {
            let packed = Layer::pack(isa, precision, &tensor, layer, config);
            let prefix = format!("encoder.layer.{layer}.");
            let names = weights.names().filter(|name| name.starts_with(&prefix));
            names.for_each(|name| weights.release(name));
            packed
        };
        Model {
            config: config.clone(),
            isa,
            precision,
            embeddings: Embeddings::read(weights.table(WORDS), &tensor, config),
            layers: workers.map((0..config.n_layers).collect(), pack),
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

const WORDS: &str = "embeddings.word_embeddings.weight";

impl Embeddings {
    fn read(word_vd: Table, tensor: &TensorOf<'_>, config: &Config) -> Embeddings {
        let token_type = tensor("embeddings.token_type_embeddings.weight");
        Embeddings {
            word_vd,
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
    fn pack(
        isa: Isa,
        precision: Precision,
        tensor: &TensorOf<'_>,
        names: &[String],
        i: usize,
    ) -> Linear {
        let weight = with_weights(tensor, names, |blocks| isa.pack(blocks, i, precision));
        Linear { weight, bias_o: biases(tensor, names) }
    }

    /// Overwrites what [`Linear::pack`] made.
    fn repack(&mut self, tensor: &TensorOf<'_>, names: &[String]) {
        with_weights(tensor, names, |blocks| self.weight.repack(blocks));
        self.bias_o = biases(tensor, names);
    }

    /// Width of the output.
    pub(crate) fn o(&self) -> usize {
        self.bias_o.len()
    }
}

fn with_weights<R>(
    tensor: &TensorOf<'_>,
    names: &[String],
    pack: impl FnOnce(&[&[f32]]) -> R,
) -> R {
    let weights: Vec<_> = names.iter().map(|name| tensor(&format!("{name}.weight"))).collect();
    let blocks: Vec<&[f32]> = weights.iter().map(|weight| &weight[..]).collect();
    pack(&blocks)
}

fn biases(tensor: &TensorOf<'_>, names: &[String]) -> Vec<f32> {
    names.iter().flat_map(|name| tensor(&format!("{name}.bias")).into_owned()).collect()
}

impl Layer {
    fn pack(
        isa: Isa,
        precision: Precision,
        tensor: &TensorOf<'_>,
        layer: usize,
        config: &Config,
    ) -> Layer {
        let linear = |kinds: &[LinearKind]| {
            let i = kinds[0].shape(config).1;
            Linear::pack(isa, precision, tensor, &names_of(layer, kinds), i)
        };
        let norm = |block| LayerNorm::read(tensor, &norm_name(layer, block));
        Layer {
            qkv: linear(&QKV),
            attention_output: linear(&[LinearKind::AttentionOutput]),
            attention_norm: norm(ATTENTION_NORM),
            intermediate: linear(&[LinearKind::Intermediate]),
            output: linear(&[LinearKind::Output]),
            output_norm: norm(OUTPUT_NORM),
        }
    }

    /// Overwrites what [`Layer::pack`] made.
    fn repack(&mut self, tensor: &TensorOf<'_>, layer: usize) {
        let linear = |linear: &mut Linear, kinds: &[LinearKind]| {
            linear.repack(tensor, &names_of(layer, kinds));
        };
        linear(&mut self.qkv, &QKV);
        linear(&mut self.attention_output, &[LinearKind::AttentionOutput]);
        linear(&mut self.intermediate, &[LinearKind::Intermediate]);
        linear(&mut self.output, &[LinearKind::Output]);
        self.attention_norm = LayerNorm::read(tensor, &norm_name(layer, ATTENTION_NORM));
        self.output_norm = LayerNorm::read(tensor, &norm_name(layer, OUTPUT_NORM));
    }
}

/// The linear layers that are packed as one.
const QKV: [LinearKind; 3] = [LinearKind::Query, LinearKind::Key, LinearKind::Value];

const ATTENTION_NORM: &str = "attention.output.LayerNorm";
const OUTPUT_NORM: &str = "output.LayerNorm";

fn names_of(layer: usize, kinds: &[LinearKind]) -> Vec<String> {
    kinds.iter().map(|&kind| LinearSite { layer, kind }.name()).collect()
}

fn norm_name(layer: usize, norm: &str) -> String {
    format!("encoder.layer.{layer}.{norm}")
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
