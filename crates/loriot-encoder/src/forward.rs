//! The forward pass of one chunk of packed texts.
//!
//! ```text
//! x₀ = dropout(LN(word + position + type))
//! per layer:  c = attention(x·Wqkvᵀ + b)      m = LN(x + dropout(c·Woᵀ + b))
//!             y = LN(m + dropout(f(m·W₁ᵀ + b)·W₂ᵀ + b))
//! ```
//!
//! as in `transformers.BertModel`; the rest is the [`Head`]'s.

use crate::adapter::{Adapter, LoraModule};
use crate::architecture::{LinearKind, LinearSite, QKV};
use crate::batch::{Segment, TextKey};
use crate::buffer::{copied, sized};
use crate::depth::Depth;
use crate::head::Head;
use crate::lora::{Group, Lora, Member};
use crate::model::{Layer, Linear, Model};
use crate::tape::{ChunkTape, Dropout, LayerTape, PerStage, Scratch, lora_site};
use loriot_kernels::Isa;
use loriot_kernels::attention::AttentionDropout;
use loriot_kernels::dropout::{Site, Stream, TextDropout};
use loriot_kernels::gemm::{Added, Epilogue, Init, Mat, MatMut, Precision};
use std::ops::Range;

/// The adapted linear layers of one layer.
pub(crate) type LoraLayer<'a> = [Option<Lora<'a>>; LinearKind::COUNT];

/// The linear layers of every layer that `adapter` adapts, with the factors A and B, and DoRA's gains, that `factors` gives
/// for each.
pub(crate) fn lora_layers<'a>(
    adapter: &Adapter,
    n_layers: usize,
    factors: impl Fn(LinearSite) -> Option<(&'a [f32], &'a [f32], Option<&'a [f32]>)>,
) -> Vec<LoraLayer<'a>> {
    let mut layers = vec![LoraLayer::default(); n_layers];
    for &LoraModule { site, r, scale, .. } in &adapter.modules {
        let lora = factors(site).map(|(a_ri, b_or, gain_o)| Lora { r, scale, a_ri, b_or, gain_o });
        layers[site.layer][site.kind as usize] = lora;
    }
    layers
}

/// What a pass runs with, beside the chunk.
#[derive(Clone, Copy)]
pub(crate) struct Pass<'a> {
    pub(crate) model: &'a Model,
    /// The word embedding: the model's, or the one that is being trained.
    pub(crate) word_vd: &'a [f32],
    /// What is laid beside the weights: each adapter has one entry a layer, or none at all. A chunk's
    /// [`Segment`]s say which rows each is for. A pass that trains has one for all rows.
    pub(crate) adapters: &'a [Vec<LoraLayer<'a>>],
    pub(crate) dropout: Option<Dropout>,
    pub(crate) head: Head,
    pub(crate) depth: Depth,
}

impl Pass<'_> {
    /// Width of the model.
    pub(crate) fn d(&self) -> usize {
        self.model.config.hidden_size
    }

    pub(crate) fn isa(&self) -> Isa {
        self.model.isa
    }

    /// What products with adapters' factors are taken in: the model's precision, or f32 where that is for packed weights
    /// alone.
    pub(crate) fn lora_precision(&self) -> Precision {
        match self.model.precision {
            Precision::Int8 => Precision::F32,
            precision => precision,
        }
    }

    /// A product of activations and an adapter's factor; see [`Isa::gemm`].
    pub(crate) fn lora_gemm(&self, c_mn: MatMut, alpha: f32, a_mk: Mat, b_kn: Mat, init: Init) {
        let precision = self.lora_precision();
        self.isa().for_narrow(precision).gemm_in(precision, c_mn, alpha, a_mk, b_kn, init);
    }

    /// The lowest layer with something trained in it; the number of layers if nothing is.
    pub(crate) fn lowest_layer(&self) -> usize {
        self.depth.lowest_layer(self.model.config.n_layers)
    }

    /// How many layers' activations a chunk keeps: those from the lowest trained one on.
    pub(crate) fn n_tapes(&self) -> usize {
        self.model.config.n_layers - self.lowest_layer()
    }

    /// Whether a linear layer that reads the same input as `kind` is trained: by its adapter, or whole.
    pub(crate) fn trains(&self, layer: usize, kind: LinearKind) -> bool {
        match self.depth {
            Depth::Embeddings => true,
            Depth::Site(_) => self.lora_group(layer, kind).rank() > 0,
            Depth::Nowhere => false,
        }
    }

    /// The adapted layer of the adapter that is trained.
    pub(crate) fn lora(&self, layer: usize, kind: LinearKind) -> Option<Lora<'_>> {
        self.lora_of(0, layer, kind)
    }

    /// Whether the adapter that is trained is DoRA's, on this linear layer.
    pub(crate) fn has_gain(&self, layer: usize, kind: LinearKind) -> bool {
        self.lora(layer, kind).is_some_and(|lora| lora.gain_o.is_some())
    }

    /// The adapted layers that read the same input as `kind`, of the adapter that is trained.
    pub(crate) fn lora_group(&self, layer: usize, kind: LinearKind) -> Group<'_> {
        self.lora_group_of(0, layer, kind)
    }

    fn lora_of(&self, adapter: usize, layer: usize, kind: LinearKind) -> Option<Lora<'_>> {
        self.adapters.get(adapter)?.get(layer).and_then(|kinds| kinds[kind as usize])
    }

    fn lora_group_of(&self, adapter: usize, layer: usize, kind: LinearKind) -> Group<'_> {
        let kinds = self.model.config.family.linear_kinds();
        let same_input = kinds.filter(|other| other.stage() == kind.stage());
        Group::new(same_input.filter_map(|kind| Some((kind, self.lora_of(adapter, layer, kind)?))))
    }

    /// Whether each adapter drops its own part of its input.
    pub(crate) fn drops_lora(&self) -> bool {
        self.dropout.is_some_and(|dropout| dropout.rates.lora > 0.0)
    }

    /// Multiplies the embeddings, or a gradient by them, by their mask.
    pub(crate) fn drop_embeddings(&self, x_nd: &mut [f32], texts: Texts<'_>) {
        let mut streams = Vec::new();
        if let Some(dropout) = self.hidden_dropout(&mut streams, texts, 0, Site::Embeddings) {
            self.isa().dropout_texts(x_nd, self.d(), &dropout);
        }
    }

    /// Dropout of hidden states at `site`, if there is any, with its streams in `streams`.
    pub(crate) fn hidden_dropout<'b>(
        &self,
        streams: &'b mut Vec<Stream>,
        texts: Texts<'b>,
        layer: usize,
        site: Site,
    ) -> Option<TextDropout<'b>> {
        let dropout = self.dropout.filter(|dropout| dropout.rates.hidden > 0.0)?;
        streams.clear();
        streams.extend(texts.keys.iter().map(|&key| dropout.stream(key, layer, site)));
        Some(TextDropout { p: dropout.rates.hidden, streams_b: streams, offsets: texts.offsets })
    }

    /// `x` with the LoRA dropout of `kind`, in `dropped` where there is any.
    pub(crate) fn drop_lora<'b>(
        &self,
        dropped: &'b mut Vec<f32>,
        x_ni: &'b [f32],
        chunk: Texts<'_>,
        layer: usize,
        kind: LinearKind,
    ) -> &'b [f32] {
        if !self.drops_lora() {
            return x_ni;
        }
        copied(dropped, x_ni);
        self.drop_lora_in_place(dropped, chunk, layer, kind);
        dropped
    }

    /// As [`Pass::drop_lora`], on a gradient.
    pub(crate) fn drop_lora_in_place(
        &self,
        x_ni: &mut [f32],
        chunk: Texts<'_>,
        layer: usize,
        kind: LinearKind,
    ) {
        let Some(dropout) = self.dropout.filter(|dropout| dropout.rates.lora > 0.0) else { return };
        let (_, width) = kind.shape(&self.model.config);
        for (rows, key) in chunk.rows() {
            let x = &mut x_ni[rows.start * width..rows.end * width];
            self.isa().dropout(
                x,
                dropout.stream(key, layer, lora_site(kind)),
                0,
                dropout.rates.lora,
            );
        }
    }

    /// Runs `attention` with the streams of this layer's probabilities, if they are dropped.
    pub(crate) fn with_attention_dropout(
        &self,
        streams: &mut Vec<Stream>,
        chunk: Texts<'_>,
        layer: usize,
        attention: impl FnOnce(Option<AttentionDropout<'_>>),
    ) {
        match self.dropout.filter(|dropout| dropout.rates.attention > 0.0) {
            None => attention(None),
            Some(dropout) => {
                let stream = |&key| dropout.stream(key, layer, Site::AttentionProbs);
                streams.clear();
                streams.extend(chunk.keys.iter().map(stream));
                attention(Some(AttentionDropout {
                    p: dropout.rates.attention,
                    streams_b: streams,
                }));
            }
        }
    }
}

/// Where a chunk's texts lie and what names their masks.
#[derive(Clone, Copy)]
pub(crate) struct Texts<'a> {
    pub(crate) offsets: &'a [usize],
    pub(crate) keys: &'a [TextKey],
}

impl<'a> Texts<'a> {
    fn rows(self) -> impl Iterator<Item = (Range<usize>, TextKey)> + 'a {
        self.offsets.windows(2).map(|pair| pair[0]..pair[1]).zip(self.keys.iter().copied())
    }
}

/// Runs a chunk from ids to the outputs of its texts, which it leaves in `chunk.head`.
pub(crate) fn forward(pass: &Pass<'_>, chunk: &mut ChunkTape) {
    embed_tokens(pass, chunk);
    let ChunkTape { packed, keys, segments, layers, head, scratch, .. } = chunk;
    let texts = Texts { offsets: &packed.offsets, keys };
    let lowest_layer = pass.lowest_layer();
    for layer in 0..pass.model.config.n_layers {
        if layer == lowest_layer {
            copied(&mut chunk.lowest_x_nd, &scratch.x_nd);
        }
        let kept = layer.checked_sub(lowest_layer).map(|tape| &mut layers[tape]);
        forward_layer(pass, layer, kept, texts, segments, scratch);
    }
    pass.head.forward(pass.isa(), head, &scratch.x_nd, &packed.offsets, pass.d());
}

/// `x₀` of every token, into `scratch.x_nd`.
fn embed_tokens(pass: &Pass<'_>, chunk: &mut ChunkTape) {
    let (d, n) = (pass.d(), chunk.packed.n_tokens());
    let embeddings = &pass.model.embeddings;
    let x_nd = sized(&mut chunk.scratch.x_nd, n * d);
    let tokens = chunk.packed.ids.iter().zip(chunk.packed.positions());
    let terms_n: Vec<[&[f32]; 3]> = tokens
        .map(|(&id, position)| {
            let word_d = &pass.word_vd[id as usize * d..][..d];
            let position_d = &embeddings.position_pd[position * d..][..d];
            [word_d, &embeddings.token_type_d, position_d]
        })
        .collect();
    let keeps = pass.depth == Depth::Embeddings;
    pass.isa().layer_norm_of_sums(
        x_nd,
        keeps.then(|| sized(&mut chunk.embeddings_xhat_nd, n * d)),
        keeps.then(|| sized(&mut chunk.embeddings_rstd_n, n)),
        &terms_n,
        &embeddings.norm.weight_d,
        &embeddings.norm.bias_d,
        pass.model.config.layer_norm_eps,
    );
    let texts = Texts { offsets: &chunk.packed.offsets, keys: &chunk.keys };
    pass.drop_embeddings(x_nd, texts);
}

/// One layer, from its input in `scratch.x_nd` to its result in the same place. What the backward pass
/// needs is left in `kept`, if anything is.
fn forward_layer(
    pass: &Pass<'_>,
    layer: usize,
    kept: Option<&mut LayerTape>,
    texts: Texts<'_>,
    segments: &[Segment],
    scratch: &mut Scratch,
) {
    let config = &pass.model.config;
    let (d, f, n) = (config.hidden_size, config.intermediate_size, scratch.x_nd.len() / pass.d());
    let isa = pass.isa();
    let Layer { qkv, attention_output, attention_norm, intermediate, output, output_norm } =
        &pass.model.layers[layer];

    let linear = LinearPass { pass, layer, texts, segments };
    let Scratch { x_nd, unkept, lora, .. } = scratch;
    let keeps = kept.is_some();
    let tape = kept.unwrap_or(unkept);
    let xa_nr = &mut tape.xa_nr;

    let qkv_n3d = sized(&mut tape.qkv_n3d, n * 3 * d);
    linear.run(&QKV, qkv, qkv_n3d, x_nd, xa_nr, lora, Epilogue::None);
    let keeps_context = pass.trains(layer, LinearKind::AttentionOutput);
    let context_nd = if keeps_context { &mut tape.context_nd } else { &mut scratch.context_nd };
    let context_nd = sized(context_nd, n * d);
    pass.with_attention_dropout(&mut scratch.streams, texts, layer, |dropout| {
        let attention = &mut scratch.attention;
        isa.attention(context_nd, qkv_n3d, texts.offsets, config.n_heads, dropout, attention);
    });

    let branch_nd = sized(&mut scratch.branch_nd, n * d);
    let kinds = [LinearKind::AttentionOutput];
    linear.run(&kinds, attention_output, branch_nd, context_nd, xa_nr, lora, Epilogue::None);
    if keeps && pass.has_gain(layer, LinearKind::AttentionOutput) {
        copied(tape.gained_no.get_mut(LinearKind::AttentionOutput), branch_nd);
    }
    let dropout = pass.hidden_dropout(&mut scratch.streams, texts, layer, Site::AttentionOutput);
    let middle_nd = sized(&mut scratch.middle_nd, n * d);
    isa.dropout_add_layer_norm(
        middle_nd,
        keeps.then(|| sized(&mut tape.attention_xhat_nd, n * d)),
        keeps.then(|| sized(&mut tape.attention_rstd_n, n)),
        branch_nd,
        x_nd,
        &attention_norm.weight_d,
        &attention_norm.bias_d,
        config.layer_norm_eps,
        dropout.as_ref(),
    );

    let kinds = [LinearKind::Intermediate];
    let activated_nf = sized(&mut scratch.activated_nf, n * f);
    if keeps {
        let preactivation_nf = sized(&mut tape.preactivation_nf, n * f);
        let out = MatMut::row_major(activated_nf, n, f);
        let activate = Epilogue::Activation { f: config.activation, out };
        linear.run(&kinds, intermediate, preactivation_nf, middle_nd, xa_nr, lora, activate);
    } else {
        let activate = Epilogue::ActivationInPlace(config.activation);
        linear.run(&kinds, intermediate, activated_nf, middle_nd, xa_nr, lora, activate);
    }
    let kinds = [LinearKind::Output];
    linear.run(&kinds, output, branch_nd, activated_nf, xa_nr, lora, Epilogue::None);
    if keeps && pass.has_gain(layer, LinearKind::Output) {
        copied(tape.gained_no.get_mut(LinearKind::Output), branch_nd);
    }
    let dropout = pass.hidden_dropout(&mut scratch.streams, texts, layer, Site::FfnOutput);
    isa.dropout_add_layer_norm(
        x_nd,
        keeps.then(|| sized(&mut tape.output_xhat_nd, n * d)),
        keeps.then(|| sized(&mut tape.output_rstd_n, n)),
        branch_nd,
        middle_nd,
        &output_norm.weight_d,
        &output_norm.bias_d,
        config.layer_norm_eps,
        dropout.as_ref(),
    );
}

/// `y = bias + gain·(y − bias)`, row by row.
fn scale_outputs(y_no: &mut [f32], gain_o: &[f32], bias_o: &[f32]) {
    for y_o in y_no.chunks_exact_mut(gain_o.len()) {
        for ((y, gain), bias) in y_o.iter_mut().zip(gain_o).zip(bias_o) {
            *y = bias + gain * (*y - bias);
        }
    }
}

/// The linear layers of one layer, each with what its adapters add.
struct LinearPass<'a> {
    pass: &'a Pass<'a>,
    layer: usize,
    texts: Texts<'a>,
    segments: &'a [Segment],
}

impl LinearPass<'_> {
    /// `y = x·Wᵀ + bias` of the layers of `kinds`, which share `x` and lie side by side in `y`, and to each segment's
    /// rows what its adapter adds.
    ///
    /// One adapter for all rows is added tile by tile while the product is made. Several are added to the finished
    /// product of all rows, so that the weight is read once. The bits are the same: the sum of an element goes on where
    /// it stopped. int8 products take nothing in their tiles, so that adapters come afterwards there, in f32.
    #[allow(clippy::too_many_arguments, reason = "a product and what goes into it on either side")]
    fn run(
        &self,
        kinds: &[LinearKind],
        linear: &Linear,
        y_no: &mut [f32],
        x_ni: &[f32],
        xa_nr: &mut PerStage,
        scratch: &mut Vec<f32>,
        epilogue: Epilogue<'_>,
    ) {
        let (isa, config) = (self.pass.isa(), &self.pass.model.config);
        let (o, i) = (linear.o(), kinds[0].shape(config).1);
        let n = x_ni.len() / i;
        let x = Mat::row_major(x_ni, n, i);
        let (weight, init) = (&linear.weight, Init::Bias(&linear.bias_o));
        let group_of =
            |segment: &Segment| self.pass.lora_group_of(segment.adapter, self.layer, kinds[0]);
        let adapted: Vec<(&Segment, Group<'_>)> = self
            .segments
            .iter()
            .map(|segment| (segment, group_of(segment)))
            .filter(|(_, group)| group.rank() > 0)
            .collect();
        let xa_nr = xa_nr.get_mut(kinds[0]);
        let columns_of = |kind: LinearKind| kind.columns(config);
        match adapted.as_slice() {
            [] => {
                let y = MatMut::row_major(y_no, n, o);
                isa.linear_with(y, x, weight, init, None, epilogue);
            }
            [(segment, group)] if segment.rows == (0..n) && !self.is_int8() => {
                let r = group.rank();
                self.project(xa_nr, group, x_ni, scratch);
                let b = group.stack_b(scratch, o, columns_of);
                let added = Added { alpha: 1.0, a: Mat::row_major(xa_nr, n, r), b };
                let y = MatMut::row_major(y_no, n, o);
                let mut gains = Vec::new();
                let Some(gain_o) = group.gains(&mut gains, o, columns_of) else {
                    isa.linear_with(y, x, weight, init, Some(added), epilogue);
                    return;
                };
                isa.linear_with(y, x, weight, init, Some(added), Epilogue::None);
                scale_outputs(y_no, gain_o, &linear.bias_o);
                epilogue.finish(isa, MatMut::row_major(y_no, n, o));
            }
            several => {
                let y = MatMut::row_major(y_no, n, o);
                isa.linear_with(y, x, weight, init, None, Epilogue::None);
                let precision = self.pass.lora_precision();
                for (Segment { rows, .. }, group) in several {
                    let r = group.rank();
                    self.project(xa_nr, group, &x_ni[rows.start * i..rows.end * i], scratch);
                    let b = group.stack_b(scratch, o, columns_of);
                    let xa = Mat::row_major(xa_nr, rows.len(), r);
                    let y_no = &mut y_no[rows.start * o..rows.end * o];
                    let y = MatMut::row_major(y_no, rows.len(), o);
                    isa.gemm_in(precision, y, 1.0, xa, b, Init::Accumulate);
                    if let Some(gain_o) = group.gains(scratch, o, columns_of) {
                        scale_outputs(y_no, gain_o, &linear.bias_o);
                    }
                }
                epilogue.finish(isa, MatMut::row_major(y_no, n, o));
            }
        }
    }

    fn is_int8(&self) -> bool {
        self.pass.model.precision == Precision::Int8
    }

    /// `dropout(x)·Aᵀ` of the adapted layers of `group`, side by side, into `xa_nr`.
    fn project(
        &self,
        xa_nr: &mut Vec<f32>,
        group: &Group<'_>,
        x_ni: &[f32],
        scratch: &mut Vec<f32>,
    ) {
        let (r, i) = (group.rank(), group.n_inputs());
        let n = x_ni.len() / i;
        let xa_nr = sized(xa_nr, n * r);
        if self.pass.drops_lora() {
            for Member { kind, lora, columns } in group.members() {
                let x_ni = self.pass.drop_lora(scratch, x_ni, self.texts, self.layer, *kind);
                let xa = MatMut::row_major(xa_nr, n, r).columns(columns.clone());
                self.pass.lora_gemm(xa, 1.0, Mat::row_major(x_ni, n, i), lora.a().t(), Init::Zero);
            }
        } else {
            let (a, x) = (group.stack_a(scratch, false), Mat::row_major(x_ni, n, i));
            self.pass.lora_gemm(MatMut::row_major(xa_nr, n, r), 1.0, x, a.t(), Init::Zero);
        }
    }
}
