//! The backward pass: first by the activations of each chunk, then by the parameters of each layer.
//!
//! Layers go from the top down. [`backward_layer`] carries one chunk's gradient through a layer and
//! leaves in [`LayerGradients`] the gradients by the results of the layer's parts. When every chunk
//! has done so, the layer's parameter gradients are sums over the rows of all chunks, in the order
//! of the texts, whatever the cuts between chunks and whichever thread computes which part.
//!
//! Nothing is computed for what is frozen: no weight gradient, no input gradient below the lowest
//! trained linear layer.

use crate::folder::Pooling;
use crate::forward::{Pass, Texts};
use crate::lora::Member;
use crate::model::{Layer, output_columns};
use crate::modules::{LinearKind, LinearSite};
use crate::tape::{ChunkTape, LayerGradients, LayerTape, Scratch, sized};
use loriot_kernels::dropout::Site;
use loriot_kernels::gemm::{Init, Mat, MatMut};

/// How far down the gradient has to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Depth {
    /// To the embedding tables: full fine-tuning.
    Embeddings,
    /// To the parameters of this linear layer, the lowest with an adapter.
    Site(LinearSite),
}

impl Depth {
    /// Whether the gradient by the input of this linear layer is wanted by anything below it. Query,
    /// key and value read the same input, so none of them stands below another.
    fn passes(self, layer: usize, kind: LinearKind) -> bool {
        match self {
            Depth::Embeddings => true,
            Depth::Site(lowest) => (lowest.layer, lowest.kind.stage()) < (layer, kind.stage()),
        }
    }

    /// Whether the gradient by the result of this linear layer is wanted at all.
    fn reaches(self, layer: usize, kind: LinearKind) -> bool {
        match self {
            Depth::Embeddings => true,
            Depth::Site(lowest) => (lowest.layer, lowest.kind.stage()) <= (layer, kind.stage()),
        }
    }

    /// The lowest layer with something trained.
    pub(crate) fn lowest_layer(self) -> usize {
        match self {
            Depth::Embeddings => 0,
            Depth::Site(site) => site.layer,
        }
    }
}

/// The gradient by the last hidden state, from the one by the unit vectors.
pub(crate) fn backward_pool(pass: &Pass<'_>, chunk: &mut ChunkTape, dunit_bd: &[f32]) {
    let isa = pass.isa();
    let mut dpooled_bd = vec![0.0; dunit_bd.len()];
    isa.normalize_backward(&mut dpooled_bd, dunit_bd, &chunk.unit_bd, &chunk.norm_b);
    let offsets = &chunk.packed.offsets;
    let dy_nd = sized(&mut chunk.gradients.dy_nd, chunk.packed.n_tokens() * pass.d());
    match pass.pooling {
        Pooling::Mean => isa.mean_pool_backward(dy_nd, &dpooled_bd, offsets),
        Pooling::Cls => isa.cls_pool_backward(dy_nd, &dpooled_bd, offsets),
    }
}

/// Carries a chunk's gradient through one layer: `gradients.dy_nd` is by its result before and, where
/// anything below is trained, by its input after.
pub(crate) fn backward_layer(pass: &Pass<'_>, layer: usize, depth: Depth, chunk: &mut ChunkTape) {
    let ChunkTape { packed, keys, layers, gradients, scratch, .. } = chunk;
    let texts = Texts { offsets: &packed.offsets, keys };
    let tape = &layers[pass.tape_of(layer)];
    let mut step = Step { pass, layer, depth, texts, tape, gradients, scratch };
    if step.feed_forward() && step.attention_block() {
        step.attention();
    }
}

/// One layer's backward pass over one chunk. Each method goes one block down and says whether the
/// gradient has to go further.
struct Step<'a> {
    pass: &'a Pass<'a>,
    layer: usize,
    depth: Depth,
    texts: Texts<'a>,
    tape: &'a LayerTape,
    gradients: &'a mut LayerGradients,
    scratch: &'a mut Scratch,
}

impl Step<'_> {
    fn layer(&self) -> &Layer {
        &self.pass.model.layers[self.layer]
    }

    /// `y = LN(m + dropout(f(m·W₁ᵀ)·W₂ᵀ))`: from `dy_nd` to the gradient by `m`, in the same place.
    fn feed_forward(&mut self) -> bool {
        let (isa, config) = (self.pass.isa(), &self.pass.model.config);
        let (d, f) = (config.hidden_size, config.intermediate_size);
        let n = self.tape.x_nd.len() / d;
        std::mem::swap(&mut self.gradients.doutput_norm_nd, &mut self.gradients.dy_nd);
        let dy_nd = sized(&mut self.gradients.dy_nd, n * d);
        isa.layer_norm_backward(
            dy_nd,
            &self.gradients.doutput_norm_nd,
            &self.tape.output_xhat_nd,
            &self.tape.output_rstd_n,
            &self.pass.model.layers[self.layer].output_norm.weight_d,
        );
        let doutput_nd = sized(&mut self.gradients.doutput_nd, n * d);
        doutput_nd.copy_from_slice(dy_nd);
        self.pass.drop_hidden(doutput_nd, self.texts, self.layer, Site::FfnOutput);

        self.project(LinearKind::Output);
        if self.depth == Depth::Embeddings
            || self.pass.lora(self.layer, LinearKind::Output).is_some()
        {
            let activated_nf = sized(&mut self.gradients.activated_nf, n * f);
            isa.activation(activated_nf, &self.tape.preactivation_nf, config.activation);
        }
        if !self.depth.passes(self.layer, LinearKind::Output) {
            return false;
        }
        let mut dintermediate_nf = std::mem::take(&mut self.gradients.dintermediate_nf);
        isa.linear_backward(
            MatMut::row_major(sized(&mut dintermediate_nf, n * f), n, f),
            Mat::row_major(&self.gradients.doutput_nd, n, d),
            &self.layer().output.weight,
            Init::Zero,
        );
        self.add_lora_input_gradient(LinearKind::Output, &mut dintermediate_nf);
        let preactivation_nf = &self.tape.preactivation_nf;
        isa.activation_backward_in_place(
            &mut dintermediate_nf,
            preactivation_nf,
            config.activation,
        );
        self.gradients.dintermediate_nf = dintermediate_nf;

        self.project(LinearKind::Intermediate);
        if !self.depth.passes(self.layer, LinearKind::Intermediate) {
            return false;
        }
        let mut dmiddle_nd = std::mem::take(&mut self.gradients.dy_nd);
        isa.linear_backward(
            MatMut::row_major(&mut dmiddle_nd, n, d),
            Mat::row_major(&self.gradients.dintermediate_nf, n, f),
            &self.layer().intermediate.weight,
            Init::Accumulate,
        );
        self.add_lora_input_gradient(LinearKind::Intermediate, &mut dmiddle_nd);
        self.gradients.dy_nd = dmiddle_nd;
        true
    }

    /// `m = LN(x + dropout(c·Woᵀ))`: from the gradient by `m` to those by `c`, in `scratch.nd`, and by
    /// `x` along the residual, in `dy_nd`.
    fn attention_block(&mut self) -> bool {
        let isa = self.pass.isa();
        let d = self.pass.d();
        let n = self.tape.x_nd.len() / d;
        std::mem::swap(&mut self.gradients.dattention_norm_nd, &mut self.gradients.dy_nd);
        let dx_nd = sized(&mut self.gradients.dy_nd, n * d);
        isa.layer_norm_backward(
            dx_nd,
            &self.gradients.dattention_norm_nd,
            &self.tape.attention_xhat_nd,
            &self.tape.attention_rstd_n,
            &self.pass.model.layers[self.layer].attention_norm.weight_d,
        );
        let dattention_nd = sized(&mut self.gradients.dattention_output_nd, n * d);
        dattention_nd.copy_from_slice(dx_nd);
        self.pass.drop_hidden(dattention_nd, self.texts, self.layer, Site::AttentionOutput);

        self.project(LinearKind::AttentionOutput);
        if !self.depth.passes(self.layer, LinearKind::AttentionOutput) {
            return false;
        }
        let mut dcontext_nd = std::mem::take(&mut self.scratch.nd);
        isa.linear_backward(
            MatMut::row_major(sized(&mut dcontext_nd, n * d), n, d),
            Mat::row_major(&self.gradients.dattention_output_nd, n, d),
            &self.layer().attention_output.weight,
            Init::Zero,
        );
        self.add_lora_input_gradient(LinearKind::AttentionOutput, &mut dcontext_nd);
        self.scratch.nd = dcontext_nd;
        true
    }

    /// `c = attention(x·Wqkvᵀ)`: adds the gradient by `x` through the projections to `dy_nd`.
    fn attention(&mut self) {
        let isa = self.pass.isa();
        let d = self.pass.d();
        let n = self.tape.x_nd.len() / d;
        let n_heads = self.pass.model.config.n_heads;
        let dqkv_n3d = sized(&mut self.gradients.dqkv_n3d, n * 3 * d);
        let Scratch { nd: dcontext_nd, streams, attention, .. } = &mut *self.scratch;
        self.pass.with_attention_dropout(streams, self.texts, self.layer, |dropout| {
            isa.attention_backward(
                dqkv_n3d,
                dcontext_nd,
                &self.tape.qkv_n3d,
                self.texts.offsets,
                n_heads,
                dropout,
                attention,
            );
        });
        self.project(LinearKind::Query);
        if !self.depth.passes(self.layer, LinearKind::Query) {
            return;
        }
        let mut dx_nd = std::mem::take(&mut self.gradients.dy_nd);
        isa.linear_backward(
            MatMut::row_major(&mut dx_nd, n, d),
            Mat::row_major(&self.gradients.dqkv_n3d, n, 3 * d),
            &self.layer().qkv.weight,
            Init::Accumulate,
        );
        self.add_lora_input_gradient(LinearKind::Query, &mut dx_nd);
        self.gradients.dy_nd = dx_nd;
    }

    /// `dy·B` of the adapters that read the same input as `kind`, whose `dy` is known by now.
    fn project(&mut self, kind: LinearKind) {
        let group = self.pass.lora_group(self.layer, kind);
        if group.rank() == 0 || !self.depth.reaches(self.layer, kind) {
            return;
        }
        let mut dyb_nr = std::mem::take(self.gradients.dyb_nr.get_mut(kind));
        for Member { kind, lora, columns } in group.members() {
            let dy = self.gradients.dy(self.pass, *kind);
            let dyb_nr = sized(&mut dyb_nr, dy.n_rows() * group.rank());
            let dyb = MatMut::row_major(dyb_nr, dy.n_rows(), group.rank());
            self.pass.isa().gemm(dyb.columns(columns.clone()), 1.0, dy, lora.b(), Init::Zero);
        }
        *self.gradients.dyb_nr.get_mut(kind) = dyb_nr;
    }

    /// Adds the gradient by an input along the adapters that read it: `dx += s·(dy·B)·A`.
    fn add_lora_input_gradient(&mut self, kind: LinearKind, dx_ni: &mut [f32]) {
        let group = self.pass.lora_group(self.layer, kind);
        if group.rank() == 0 {
            return;
        }
        let (_, i) = kind.shape(&self.pass.model.config);
        let (isa, n) = (self.pass.isa(), dx_ni.len() / i);
        let dyb = Mat::row_major(self.gradients.dyb_nr.get(kind), n, group.rank());
        if !self.pass.drops_lora() {
            let a = group.stack_a(&mut self.scratch.lora, true);
            isa.gemm(MatMut::row_major(dx_ni, n, i), 1.0, dyb, a, Init::Accumulate);
            return;
        }
        for Member { kind, lora, columns } in group.members() {
            let dropped_ni = sized(&mut self.scratch.lora, n * i);
            let dx = MatMut::row_major(dropped_ni, n, i);
            isa.gemm(dx, lora.scale, dyb.columns(columns.clone()), lora.a(), Init::Zero);
            self.pass.drop_lora_in_place(dropped_ni, self.texts, self.layer, *kind);
            isa.add(dx_ni, dropped_ni);
        }
    }
}

impl LayerGradients {
    /// The gradient by the result of a linear layer.
    pub(crate) fn dy(&self, pass: &Pass<'_>, kind: LinearKind) -> Mat<'_> {
        let config = &pass.model.config;
        let (dy, width) = match kind {
            LinearKind::Query | LinearKind::Key | LinearKind::Value => {
                (&self.dqkv_n3d, 3 * config.hidden_size)
            }
            LinearKind::AttentionOutput => (&self.dattention_output_nd, config.hidden_size),
            LinearKind::Intermediate => (&self.dintermediate_nf, config.intermediate_size),
            LinearKind::Output => (&self.doutput_nd, config.hidden_size),
        };
        Mat::row_major(dy, dy.len() / width, width).columns(output_columns(kind, config))
    }
}
