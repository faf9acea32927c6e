//! The forward pass of one chunk of packed texts.
//!
//! ```text
//! x₀ = dropout(LN(word + position + type))
//! per layer:  c = attention(x·Wqkvᵀ + b)      m = LN(x + dropout(c·Woᵀ + b))
//!             y = LN(m + dropout(f(m·W₁ᵀ + b)·W₂ᵀ + b))
//! u = pool(y) / ‖pool(y)‖
//! ```
//!
//! as in `transformers.BertModel` and sentence-transformers' Pooling and Normalize.

use crate::batch::TextKey;
use crate::depth::Depth;
use crate::folder::Pooling;
use crate::lora::{Group, Lora, Member};
use crate::model::{Layer, Linear, Model, output_columns};
use crate::modules::LinearKind;
use crate::tape::{ChunkTape, Dropout, LayerTape, PerStage, Scratch, copied, lora_site, sized};
use loriot_kernels::Isa;
use loriot_kernels::attention::AttentionDropout;
use loriot_kernels::dropout::{Site, Stream, TextDropout};
use loriot_kernels::gemm::{Added, Epilogue, Init, Mat, MatMut};
use std::ops::Range;

/// The adapted linear layers of one layer.
pub(crate) type LoraLayer<'a> = [Option<Lora<'a>>; 6];

/// What a pass runs with, beside the chunk.
#[derive(Clone, Copy)]
pub(crate) struct Pass<'a> {
    pub(crate) model: &'a Model,
    /// The word embedding: the model's, or the one that is being trained.
    pub(crate) word_vd: &'a [f32],
    /// One entry a layer, or none at all.
    pub(crate) lora: &'a [LoraLayer<'a>],
    pub(crate) dropout: Option<Dropout>,
    pub(crate) pooling: Pooling,
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

    /// A product of activations and an adapter's factor, in the model's precision; see [`Isa::gemm`].
    pub(crate) fn lora_gemm(&self, c_mn: MatMut, alpha: f32, a_mk: Mat, b_kn: Mat, init: Init) {
        let precision = self.model.precision;
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

    pub(crate) fn lora(&self, layer: usize, kind: LinearKind) -> Option<Lora<'_>> {
        self.lora.get(layer).and_then(|kinds| kinds[kind as usize])
    }

    /// The adapters that read the same input as `kind`.
    pub(crate) fn lora_group(&self, layer: usize, kind: LinearKind) -> Group<'_> {
        let same_input = LinearKind::ALL.into_iter().filter(|other| other.stage() == kind.stage());
        Group::new(same_input.filter_map(|kind| Some((kind, self.lora(layer, kind)?))))
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

/// Runs a chunk from ids to unit vectors, which it leaves in `chunk.unit_bd`.
pub(crate) fn forward(pass: &Pass<'_>, chunk: &mut ChunkTape) {
    embed_tokens(pass, chunk);
    let ChunkTape { packed, keys, layers, scratch, .. } = chunk;
    let texts = Texts { offsets: &packed.offsets, keys };
    let lowest_layer = pass.lowest_layer();
    for layer in 0..pass.model.config.n_layers {
        if layer == lowest_layer {
            copied(&mut chunk.lowest_x_nd, &scratch.x_nd);
        }
        let kept = layer.checked_sub(lowest_layer).map(|tape| &mut layers[tape]);
        forward_layer(pass, layer, kept, texts, scratch);
    }
    pool(pass, &scratch.x_nd, texts, &mut chunk.norm_b, &mut chunk.unit_bd);
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
    scratch: &mut Scratch,
) {
    let config = &pass.model.config;
    let (d, f, n) = (config.hidden_size, config.intermediate_size, scratch.x_nd.len() / pass.d());
    let isa = pass.isa();
    let Layer { qkv, attention_output, attention_norm, intermediate, output, output_norm } =
        &pass.model.layers[layer];

    let linear = LinearPass { pass, layer, texts };
    let Scratch { x_nd, unkept, lora, .. } = scratch;
    let keeps = kept.is_some();
    let tape = kept.unwrap_or(unkept);
    let xa_nr = &mut tape.xa_nr;

    let qkv_n3d = sized(&mut tape.qkv_n3d, n * 3 * d);
    let kinds = [LinearKind::Query, LinearKind::Key, LinearKind::Value];
    linear.run(&kinds, qkv, qkv_n3d, x_nd, xa_nr, lora, Epilogue::None);
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

/// The linear layers of one layer, each with what its adapter adds.
struct LinearPass<'a> {
    pass: &'a Pass<'a>,
    layer: usize,
    texts: Texts<'a>,
}

impl LinearPass<'_> {
    /// `y = x·Wᵀ + bias` of the layers of `kinds`, which share `x` and lie side by side in `y`.
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
        let (y, x) = (MatMut::row_major(y_no, n, o), Mat::row_major(x_ni, n, i));
        let (weight, init) = (&linear.weight, Init::Bias(&linear.bias_o));
        let group = self.pass.lora_group(self.layer, kinds[0]);
        let r = group.rank();
        if r == 0 {
            isa.linear_with(y, x, weight, init, None, epilogue);
            return;
        }
        let xa_nr = sized(xa_nr.get_mut(kinds[0]), n * r);
        if self.pass.drops_lora() {
            for Member { kind, lora, columns } in group.members() {
                let x_ni = self.pass.drop_lora(scratch, x_ni, self.texts, self.layer, *kind);
                let xa = MatMut::row_major(xa_nr, n, r).columns(columns.clone());
                self.pass.lora_gemm(xa, 1.0, Mat::row_major(x_ni, n, i), lora.a().t(), Init::Zero);
            }
        } else {
            let a = group.stack_a(scratch, false);
            self.pass.lora_gemm(MatMut::row_major(xa_nr, n, r), 1.0, x, a.t(), Init::Zero);
        }
        let b = group.stack_b(scratch, o, |kind| output_columns(kind, config));
        let added = Added { alpha: 1.0, a: Mat::row_major(xa_nr, n, r), b };
        isa.linear_with(y, x, weight, init, Some(added), epilogue);
    }
}

/// Pools the last hidden state of each text and scales it to length 1.
fn pool(
    pass: &Pass<'_>,
    hidden_nd: &[f32],
    texts: Texts<'_>,
    norm_b: &mut Vec<f32>,
    unit_bd: &mut Vec<f32>,
) {
    let b = texts.offsets.len() - 1;
    let isa = pass.isa();
    let mut pooled_bd = vec![0.0; b * pass.d()];
    match pass.pooling {
        Pooling::Mean => isa.mean_pool(&mut pooled_bd, hidden_nd, texts.offsets),
        Pooling::Cls => isa.cls_pool(&mut pooled_bd, hidden_nd, texts.offsets),
    }
    isa.normalize(sized(unit_bd, b * pass.d()), sized(norm_b, b), &pooled_bd);
}
