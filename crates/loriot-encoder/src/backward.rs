//! The backward pass: first by the activations of each chunk, then by the parameters of each layer.
//!
//! Layers go from the top down. [`backward_layer`] carries one chunk's gradient through a layer and
//! leaves in [`LayerGradients`] the gradients by the results of the layer's parts. When every chunk
//! has done so, the layer's parameter gradients are sums over the rows of all chunks, in the order
//! of the texts, whatever the cuts between chunks and whichever thread computes which part.
//!
//! Nothing is computed for what is frozen: no weight gradient, no input gradient below the lowest
//! trained linear layer.

use crate::architecture::LinearKind;
use crate::buffer::sized;
use crate::forward::{Pass, Texts};
use crate::lora::Member;
use crate::model::{Layer, LayerNorm, Linear};
use crate::tape::{ChunkTape, Inputs, LayerGradients, LayerTape, Scratch};
use loriot_kernels::dropout::Site;
use loriot_kernels::gemm::{Added, Epilogue, Init, Mat, MatMut};

/// The gradient by the last hidden state, from the one by the outputs.
pub(crate) fn backward_head(pass: &Pass<'_>, chunk: &mut ChunkTape, doutput_bo: &[f32]) {
    let offsets = &chunk.packed.offsets;
    let dy_nd = sized(&mut chunk.gradients.dy_nd, chunk.packed.n_tokens() * pass.d());
    pass.head.backward(pass.isa(), dy_nd, doutput_bo, &chunk.head, offsets);
}

/// Carries a chunk's gradient through one layer: `gradients.dy_nd` is by its result before and, where
/// anything below is trained, by its input after.
pub(crate) fn backward_layer(pass: &Pass<'_>, layer: usize, chunk: &mut ChunkTape) {
    let ChunkTape { packed, keys, layers, gradients, scratch, .. } = chunk;
    let texts = Texts { offsets: &packed.offsets, keys };
    let (below, from_here) = layers.split_at(layer - pass.lowest_layer());
    let (tape, below) = (&from_here[0], below.last());
    compute_inputs(pass, layer, tape, below, &mut gradients.inputs);
    let mut step = Step { pass, layer, texts, tape, gradients, scratch };
    if step.feed_forward() && step.attention_block() {
        step.attention();
    }
}

/// Computes again the inputs of a layer's trained linear layers; `below` is the tape of the layer below
/// unless this is the lowest.
fn compute_inputs(
    pass: &Pass<'_>,
    layer: usize,
    tape: &LayerTape,
    below: Option<&LayerTape>,
    inputs: &mut Inputs,
) {
    let isa = pass.isa();
    let norm_result = |y_nd: &mut Vec<f32>, xhat_nd: &[f32], norm: &LayerNorm| {
        let y_nd = sized(y_nd, xhat_nd.len());
        isa.layer_norm_result(y_nd, xhat_nd, &norm.weight_d, &norm.bias_d);
    };
    let layers = &pass.model.layers;
    if let Some(below) = below.filter(|_| pass.trains(layer, LinearKind::Query)) {
        norm_result(&mut inputs.x_nd, &below.output_xhat_nd, &layers[layer - 1].output_norm);
    }
    if pass.trains(layer, LinearKind::Intermediate) {
        let xhat_nd = &tape.attention_xhat_nd;
        norm_result(&mut inputs.middle_nd, xhat_nd, &layers[layer].attention_norm);
    }
    if pass.trains(layer, LinearKind::Output) {
        let preactivation_nf = &tape.preactivation_nf;
        let activated_nf = sized(&mut inputs.activated_nf, preactivation_nf.len());
        isa.activation(activated_nf, preactivation_nf, pass.model.config.activation);
    }
}

/// One layer's backward pass over one chunk. Each method goes one block down and says whether the
/// gradient has to go further.
struct Step<'a> {
    pass: &'a Pass<'a>,
    layer: usize,
    texts: Texts<'a>,
    tape: &'a LayerTape,
    gradients: &'a mut LayerGradients,
    scratch: &'a mut Scratch,
}

impl<'a> Step<'a> {
    fn layer(&self) -> &'a Layer {
        &self.pass.model.layers[self.layer]
    }

    /// Tokens of the chunk.
    fn n(&self) -> usize {
        self.tape.output_rstd_n.len()
    }

    fn passes(&self, kind: LinearKind) -> bool {
        self.pass.depth.passes(self.layer, kind)
    }

    /// `y = LN(m + dropout(f(m·W₁ᵀ)·W₂ᵀ))`: from `dy_nd` to the gradient by `m`, in the same place.
    fn feed_forward(&mut self) -> bool {
        let isa = self.pass.isa();
        let (f, n) = (self.pass.model.config.intermediate_size, self.n());
        let mut doutput_nd = self.take_dy(LinearKind::Output);
        let LayerGradients { dy_nd, doutput_norm_nd, .. } = &mut *self.gradients;
        std::mem::swap(doutput_norm_nd, dy_nd);
        let streams = &mut self.scratch.streams;
        let site = Site::FfnOutput;
        let dropout = self.pass.hidden_dropout(streams, self.texts, self.layer, site);
        isa.dropout_add_layer_norm_backward(
            sized(dy_nd, doutput_norm_nd.len()),
            sized(&mut doutput_nd, doutput_norm_nd.len()),
            doutput_norm_nd,
            &self.tape.output_xhat_nd,
            &self.tape.output_rstd_n,
            &self.pass.model.layers[self.layer].output_norm.weight_d,
            dropout.as_ref(),
        );

        self.project(LinearKind::Output, &mut doutput_nd);
        let mut dintermediate_nf = self.take_dy(LinearKind::Intermediate);
        if self.passes(LinearKind::Output) {
            let dx = sized(&mut dintermediate_nf, n * f);
            let activation_input = Some(&self.tape.preactivation_nf[..]);
            let (kind, output) = (LinearKind::Output, &self.layer().output);
            self.backward_linear(kind, output, dx, &doutput_nd, Init::Zero, activation_input);
            self.project(LinearKind::Intermediate, &mut dintermediate_nf);
        }
        if self.passes(LinearKind::Intermediate) {
            let mut dmiddle_nd = std::mem::take(&mut self.gradients.dy_nd);
            let (kind, intermediate) = (LinearKind::Intermediate, &self.layer().intermediate);
            let (dx, dy) = (&mut dmiddle_nd, &dintermediate_nf);
            self.backward_linear(kind, intermediate, dx, dy, Init::Accumulate, None);
            self.gradients.dy_nd = dmiddle_nd;
        }
        self.give_dy(LinearKind::Output, doutput_nd);
        self.give_dy(LinearKind::Intermediate, dintermediate_nf);
        self.passes(LinearKind::Intermediate)
    }

    /// `m = LN(x + dropout(c·Woᵀ))`: from the gradient by `m` to those by `c`, in `scratch.context_nd`,
    /// and by `x` along the residual, in `dy_nd`.
    fn attention_block(&mut self) -> bool {
        let (isa, d, n) = (self.pass.isa(), self.pass.d(), self.n());
        let mut dattention_nd = self.take_dy(LinearKind::AttentionOutput);
        let LayerGradients { dy_nd, dattention_norm_nd, .. } = &mut *self.gradients;
        std::mem::swap(dattention_norm_nd, dy_nd);
        let streams = &mut self.scratch.streams;
        let site = Site::AttentionOutput;
        let dropout = self.pass.hidden_dropout(streams, self.texts, self.layer, site);
        isa.dropout_add_layer_norm_backward(
            sized(dy_nd, dattention_norm_nd.len()),
            sized(&mut dattention_nd, dattention_norm_nd.len()),
            dattention_norm_nd,
            &self.tape.attention_xhat_nd,
            &self.tape.attention_rstd_n,
            &self.pass.model.layers[self.layer].attention_norm.weight_d,
            dropout.as_ref(),
        );

        self.project(LinearKind::AttentionOutput, &mut dattention_nd);
        if self.passes(LinearKind::AttentionOutput) {
            let mut dcontext_nd = std::mem::take(&mut self.scratch.context_nd);
            let dx = sized(&mut dcontext_nd, n * d);
            let (kind, linear) = (LinearKind::AttentionOutput, &self.layer().attention_output);
            self.backward_linear(kind, linear, dx, &dattention_nd, Init::Zero, None);
            self.scratch.context_nd = dcontext_nd;
        }
        self.give_dy(LinearKind::AttentionOutput, dattention_nd);
        self.passes(LinearKind::AttentionOutput)
    }

    /// `c = attention(x·Wqkvᵀ)`: adds the gradient by `x` through the projections to `dy_nd`.
    fn attention(&mut self) {
        let (isa, d, n) = (self.pass.isa(), self.pass.d(), self.n());
        let n_heads = self.pass.model.config.n_heads;
        let mut dqkv_n3d = self.take_dy(LinearKind::Query);
        let Scratch { context_nd: dcontext_nd, streams, attention, .. } = &mut *self.scratch;
        self.pass.with_attention_dropout(streams, self.texts, self.layer, |dropout| {
            isa.attention_backward(
                sized(&mut dqkv_n3d, n * 3 * d),
                dcontext_nd,
                &self.tape.qkv_n3d,
                self.texts.offsets,
                n_heads,
                dropout,
                attention,
            );
        });
        self.project(LinearKind::Query, &mut dqkv_n3d);
        if self.passes(LinearKind::Query) {
            let mut dx_nd = std::mem::take(&mut self.gradients.dy_nd);
            let (kind, qkv) = (LinearKind::Query, &self.layer().qkv);
            self.backward_linear(kind, qkv, &mut dx_nd, &dqkv_n3d, Init::Accumulate, None);
            self.gradients.dy_nd = dx_nd;
        }
        self.give_dy(LinearKind::Query, dqkv_n3d);
    }

    /// A buffer for the gradient by the result of a linear layer. It is kept for the sums over all
    /// chunks where the layer is trained, and scratch where it is not; see [`Step::give_dy`].
    fn take_dy(&mut self, kind: LinearKind) -> Vec<f32> {
        std::mem::take(self.dy_buffer(kind))
    }

    /// Puts back what [`Step::take_dy`] gave.
    fn give_dy(&mut self, kind: LinearKind, dy_no: Vec<f32>) {
        *self.dy_buffer(kind) = dy_no;
    }

    fn dy_buffer(&mut self, kind: LinearKind) -> &mut Vec<f32> {
        match kind {
            _ if self.pass.trains(self.layer, kind) => self.gradients.dy_no.get_mut(kind),
            LinearKind::Output | LinearKind::AttentionOutput => &mut self.scratch.branch_nd,
            // What is before the activation function is wide enough for query, key and value.
            _ => &mut self.scratch.activated_nf,
        }
    }

    /// `dy·B` of the adapters that read the same input as `kind`, given the `dy` that they share.
    ///
    /// Where DoRA multiplies the results by its gains, `dy` is multiplied by them first, in place: all that comes after
    /// is then as without gains.
    fn project(&mut self, kind: LinearKind, dy_no: &mut [f32]) {
        let group = self.pass.lora_group(self.layer, kind);
        if group.rank() == 0 || !self.pass.depth.reaches(self.layer, kind) {
            return;
        }
        let config = &self.pass.model.config;
        let width = stage_width(self.pass, kind);
        let columns_of = |kind: LinearKind| kind.columns(config);
        if let Some(gain_o) = group.gains(&mut self.scratch.lora, width, columns_of) {
            for dy_o in dy_no.chunks_exact_mut(width) {
                dy_o.iter_mut().zip(gain_o).for_each(|(dy, gain)| *dy *= gain);
            }
        }
        let dy_no = &*dy_no;
        let dyb_nr = self.gradients.dyb_nr.get_mut(kind);
        for Member { kind, lora, columns } in group.members() {
            let dy = output_of(self.pass, *kind, dy_no);
            let dyb_nr = sized(dyb_nr, dy.n_rows() * group.rank());
            let dyb = MatMut::row_major(dyb_nr, dy.n_rows(), group.rank());
            self.pass.lora_gemm(dyb.columns(columns.clone()), 1.0, dy, lora.b(), Init::Zero);
        }
    }

    /// The gradient by the input of a linear layer and of the adapters that read it,
    /// `dx (+)= dy·W + s·(dy·B)·A`, times the activation function's where its input is given.
    fn backward_linear(
        &mut self,
        kind: LinearKind,
        linear: &Linear,
        dx_ni: &mut [f32],
        dy_no: &[f32],
        init: Init,
        activation_input: Option<&[f32]>,
    ) {
        let (isa, config) = (self.pass.isa(), &self.pass.model.config);
        let group = self.pass.lora_group(self.layer, kind);
        let (r, (_, i), f) = (group.rank(), kind.shape(config), config.activation);
        let n = dx_ni.len() / i;
        // Masks stand between the adapters and their input: each is a product of its own, and added.
        let is_apart = r > 0 && self.pass.drops_lora();
        let dyb_nr = self.gradients.dyb_nr.get(kind);
        let dyb = || Mat::row_major(dyb_nr, n, r);
        let added = (r > 0 && !is_apart).then(|| {
            let a = group.stack_a(&mut self.scratch.lora, true);
            Added { alpha: 1.0, a: dyb(), b: a }
        });
        let epilogue = match activation_input {
            Some(x) if !is_apart => Epilogue::ActivationBackward { f, x: Mat::row_major(x, n, i) },
            _ => Epilogue::None,
        };
        let dx = MatMut::row_major(dx_ni, n, i);
        let dy = Mat::row_major(dy_no, n, linear.o());
        isa.linear_backward_with(dx, dy, &linear.weight, init, added, epilogue);
        if !is_apart {
            return;
        }
        for Member { kind, lora, columns } in group.members() {
            let dropped_ni = sized(&mut self.scratch.lora, n * i);
            let dx = MatMut::row_major(dropped_ni, n, i);
            self.pass.lora_gemm(
                dx,
                lora.scale,
                dyb().columns(columns.clone()),
                lora.a(),
                Init::Zero,
            );
            self.pass.drop_lora_in_place(dropped_ni, self.texts, self.layer, *kind);
            isa.add(dx_ni, dropped_ni);
        }
        if let Some(x) = activation_input {
            isa.activation_backward_in_place(dx_ni, x, f);
        }
    }
}

impl LayerGradients {
    /// The gradient by the result of a trained linear layer; with DoRA, by the result before its gains.
    pub(crate) fn dy(&self, pass: &Pass<'_>, kind: LinearKind) -> Mat<'_> {
        output_of(pass, kind, self.dy_no.get(kind))
    }
}

/// The columns of one linear layer in what it shares with those that read the same input.
pub(crate) fn output_of<'a>(pass: &Pass<'_>, kind: LinearKind, y_no: &'a [f32]) -> Mat<'a> {
    let width = stage_width(pass, kind);
    Mat::row_major(y_no, y_no.len() / width, width).columns(kind.columns(&pass.model.config))
}

/// How many columns the linear layers have together that read the same input as `kind`.
fn stage_width(pass: &Pass<'_>, kind: LinearKind) -> usize {
    let (o, _) = kind.shape(&pass.model.config);
    if kind.stage() == 0 { 3 * o } else { o }
}
