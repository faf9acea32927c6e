//! What a chunk of texts keeps between the forward and the backward pass.
//!
//! ```text
//! of each layer from the lowest trained one on    qkv, f's input, x̂ and rstd of both norms, dropout(x)·Aᵀ
//! where attention's output layer is trained        its input
//! where DoRA is on one of the two output layers     its result
//! once                                             the lowest trained layer's input
//! where the embeddings are trained                 x̂ and rstd of their norm
//! ```
//!
//! Everything else is computed again while the backward pass is at its layer, with the same bits: the
//! other inputs of linear layers ([`Inputs`]) from what stands before them, the probabilities of
//! attention, the masks of dropout. Of layers below the lowest trained one nothing is kept.
//!
//! Buffers grow to the largest chunk they have seen and are never given back, so that a training
//! step allocates nothing once the longest batch has passed.

use crate::architecture::{LinearKind, N_STAGES};
use crate::batch::{Packed, Segment, TextKey, Work};
use crate::head::HeadTape;
use loriot_kernels::attention::AttentionScratch;
use loriot_kernels::dropout::{Site, Stream};

/// Dropout of one training step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dropout {
    pub(crate) rates: DropoutRates,
    pub(crate) seed: u64,
    pub(crate) step: u32,
}

/// The shares of elements that training zeroes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DropoutRates {
    /// After the embeddings and after each block: BERT's `hidden_dropout_prob`.
    pub hidden: f32,
    /// Of attention probabilities: BERT's `attention_probs_dropout_prob`.
    pub attention: f32,
    /// Of the inputs of each LoRA pair: PEFT's `lora_dropout`.
    pub lora: f32,
}

impl DropoutRates {
    /// No dropout at all.
    pub const NONE: DropoutRates = DropoutRates { hidden: 0.0, attention: 0.0, lora: 0.0 };
}

impl Dropout {
    pub(crate) fn stream(&self, key: TextKey, layer: usize, site: Site) -> Stream {
        Stream::new(self.seed, self.step, key, layer as u16, site)
    }
}

/// The site of a linear layer's LoRA dropout.
pub(crate) fn lora_site(kind: LinearKind) -> Site {
    Site::Lora(kind as u8)
}

/// One buffer for each input that linear layers of a layer read; what belongs to query, key and value
/// stands side by side in theirs.
#[derive(Default)]
pub(crate) struct PerStage([Vec<f32>; N_STAGES]);

impl PerStage {
    pub(crate) fn get(&self, kind: LinearKind) -> &[f32] {
        &self.0[kind.stage()]
    }

    pub(crate) fn get_mut(&mut self, kind: LinearKind) -> &mut Vec<f32> {
        &mut self.0[kind.stage()]
    }
}

/// One layer's activations.
#[derive(Default)]
pub(crate) struct LayerTape {
    pub(crate) qkv_n3d: Vec<f32>,
    /// Attention's result, the input of its output layer; only where that is trained.
    pub(crate) context_nd: Vec<f32>,
    pub(crate) attention_xhat_nd: Vec<f32>,
    pub(crate) attention_rstd_n: Vec<f32>,
    /// Before the activation function.
    pub(crate) preactivation_nf: Vec<f32>,
    pub(crate) output_xhat_nd: Vec<f32>,
    pub(crate) output_rstd_n: Vec<f32>,
    /// `dropout(x)·Aᵀ` of each adapted linear layer.
    pub(crate) xa_nr: PerStage,
    /// The results of linear layers with DoRA's gains, where nothing else keeps them: attention's output layer and the
    /// feed-forward block's.
    pub(crate) gained_no: PerStage,
}

/// One chunk: its texts, what the forward pass kept, and the gradients of the layer at hand.
#[derive(Default)]
pub(crate) struct ChunkTape {
    pub(crate) packed: Packed,
    pub(crate) keys: Vec<TextKey>,
    /// Which rows are for which adapter.
    pub(crate) segments: Vec<Segment>,
    pub(crate) embeddings_xhat_nd: Vec<f32>,
    pub(crate) embeddings_rstd_n: Vec<f32>,
    /// The input of the lowest trained layer.
    pub(crate) lowest_x_nd: Vec<f32>,
    /// From the lowest trained layer on.
    pub(crate) layers: Vec<LayerTape>,
    pub(crate) head: HeadTape,
    pub(crate) gradients: LayerGradients,
    pub(crate) scratch: Scratch,
}

impl ChunkTape {
    /// Makes this the tape of new texts, keeping the buffers.
    pub(crate) fn begin(&mut self, work: &[Work<'_>], n_tapes: usize) {
        self.packed = Packed::new(work.iter().map(|work| work.text.ids));
        self.keys = work.iter().map(|work| work.text.key).collect();
        self.segments.clear();
        for (rows, &Work { adapter, .. }) in self.packed.rows().zip(work) {
            match self.segments.last_mut() {
                Some(last) if last.adapter == adapter => last.rows.end = rows.end,
                _ => self.segments.push(Segment { rows, adapter }),
            }
        }
        self.layers.resize_with(n_tapes, LayerTape::default);
    }
}

/// Gradients by the results of one layer's parts, for one chunk; the next layer down overwrites them.
#[derive(Default)]
pub(crate) struct LayerGradients {
    /// By the layer's result; after the layer's backward pass, by its input.
    pub(crate) dy_nd: Vec<f32>,
    /// By the results of its two norms.
    pub(crate) doutput_norm_nd: Vec<f32>,
    pub(crate) dattention_norm_nd: Vec<f32>,
    /// By the results of its linear layers, where they are trained; query, key and value share theirs.
    pub(crate) dy_no: PerStage,
    /// `dy·B` of each adapted linear layer.
    pub(crate) dyb_nr: PerStage,
    pub(crate) inputs: Inputs,
}

/// The inputs of one layer's linear layers that are trained, computed again; the next layer down
/// overwrites them. The tape itself has those of the lowest layer and of attention's output layer.
#[derive(Default)]
pub(crate) struct Inputs {
    /// Of query, key and value: the result of the norm below.
    pub(crate) x_nd: Vec<f32>,
    /// Of the feed-forward block: the result of the norm after attention.
    pub(crate) middle_nd: Vec<f32>,
    /// Of `Output`: the activation function's result.
    pub(crate) activated_nf: Vec<f32>,
}

/// Buffers that mean nothing between two calls.
#[derive(Default)]
pub(crate) struct Scratch {
    /// The input of a layer, then its result.
    pub(crate) x_nd: Vec<f32>,
    pub(crate) context_nd: Vec<f32>,
    /// After attention and its norm.
    pub(crate) middle_nd: Vec<f32>,
    /// What a block adds to its input; in the backward pass, the gradient by it.
    pub(crate) branch_nd: Vec<f32>,
    /// Result of the activation function; in the backward pass, the gradient by the function's input.
    pub(crate) activated_nf: Vec<f32>,
    /// Stands in for the tape of a layer that keeps nothing.
    pub(crate) unkept: LayerTape,
    /// An input with LoRA's dropout, or the factors of several adapters.
    pub(crate) lora: Vec<f32>,
    pub(crate) streams: Vec<Stream>,
    pub(crate) attention: AttentionScratch,
}
