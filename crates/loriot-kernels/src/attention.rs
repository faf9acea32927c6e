//! Multi-head self-attention over packed sequences, forward and backward.
//!
//! ```text
//! s[i,j] = q[i]·k[j] / √K        p[i,:] = softmax(s[i,:])        c[i] = Σ_j dropout(p)[i,j]·v[j]
//! ```
//!
//! Vaswani et al. 2017; `torch.nn.functional.scaled_dot_product_attention` of each sequence and head. `qkv_n3d` holds
//! `q | k | v` in each row, each split in heads. Sequences lie end to end and never see each other: a sequence's result
//! has the same bits alone and in any batch. `offsets` are cumulative; sequence `b` is the rows
//! `offsets[b] − offsets[0] .. offsets[b+1] − offsets[0]`, so that a part of a batch goes with a part of its offsets.
//!
//! The backward pass computes the probabilities again; nothing of `n·n` outlives one head of one sequence. All five
//! products of the two passes are one function, `product`, on the operands of one head copied side by side.

use crate::Isa;
use crate::dropout::{Stream, fill_factors};
use crate::isa::dispatch;
use crate::lanes::math::exp;
use crate::lanes::{Lanes, Vector, fold_2, inlined, update, update_with};
use product::{Left, copy, pad, product, transpose};

mod product;

/// Dropout of the probabilities.
#[derive(Clone, Copy, Debug)]
pub struct AttentionDropout<'a> {
    /// The share that is dropped.
    pub p: f32,
    /// One stream per sequence. Element `(head·len + i)·len₄ + j` of its mask is for `p[i,j]` of `head`, where `len₄` is
    /// the sequence's length rounded up to a multiple of 4.
    pub streams_b: &'a [Stream],
}

/// What attention works in; grows to the longest sequence it has seen, and carries nothing from call to call.
#[derive(Debug, Default)]
pub struct AttentionScratch {
    /// Operands of one head, rows padded to whole vectors.
    queries: Vec<f32>,
    keys: Vec<f32>,
    values: Vec<f32>,
    dcontexts: Vec<f32>,
    /// Keys and values of one head, transposed.
    keys_t: Vec<f32>,
    values_t: Vec<f32>,
    /// `p` of some or all queries, and its gradient.
    probabilities: Vec<f32>,
    dprobabilities: Vec<f32>,
    /// Dropout's factors, for as many queries.
    factors: Vec<f32>,
}

impl AttentionScratch {
    /// Nothing yet.
    pub fn new() -> AttentionScratch {
        AttentionScratch::default()
    }
}

impl Isa {
    /// `ctx = attention(qkv)`.
    pub fn attention(
        self,
        ctx_nd: &mut [f32],
        qkv_n3d: &[f32],
        offsets: &[usize],
        heads: usize,
        dropout: Option<AttentionDropout<'_>>,
        scratch: &mut AttentionScratch,
    ) {
        dispatch!(self, attention_body(
            ctx_nd: &mut [f32], qkv_n3d: &[f32], offsets: &[usize], heads: usize,
            dropout: Option<AttentionDropout<'_>>, scratch: &mut AttentionScratch,
        ))
    }

    /// Overwrites `dqkv` with the gradient of [`Isa::attention`]; `dropout` is that of the forward pass.
    ///
    /// ```text
    /// dp = dropout(dctx·vᵀ)                     ds[i,j] = p[i,j]·(dp[i,j] − Σ_l p[i,l]·dp[i,l]) / √K
    /// dq = ds·k        dk = dsᵀ·q        dv = dropout(p)ᵀ·dctx
    /// ```
    #[allow(clippy::too_many_arguments, reason = "the forward pass's and a gradient")]
    pub fn attention_backward(
        self,
        dqkv_n3d: &mut [f32],
        dctx_nd: &[f32],
        qkv_n3d: &[f32],
        offsets: &[usize],
        heads: usize,
        dropout: Option<AttentionDropout<'_>>,
        scratch: &mut AttentionScratch,
    ) {
        dispatch!(self, attention_backward_body(
            dqkv_n3d: &mut [f32], dctx_nd: &[f32], qkv_n3d: &[f32], offsets: &[usize],
            heads: usize, dropout: Option<AttentionDropout<'_>>, scratch: &mut AttentionScratch,
        ))
    }
}

/// Queries of a long sequence that go through the forward pass together: their scores stay in the second cache.
const QUERY_BLOCK: usize = 64;

#[inline(always)]
fn attention_body<L: Lanes>(
    ctx_nd: &mut [f32],
    qkv_n3d: &[f32],
    offsets: &[usize],
    heads: usize,
    dropout: Option<AttentionDropout<'_>>,
    scratch: &mut AttentionScratch,
) {
    let lanes = L::here();
    check(ctx_nd, qkv_n3d, offsets, &dropout);
    for (b, pair) in offsets.windows(2).enumerate() {
        let Some(shape) = Shape::new::<L>(offsets, ctx_nd.len(), heads, pair) else { continue };
        let Shape { start, len, stride, d, k, k_stride, .. } = shape;
        let qkv = &qkv_n3d[3 * d * start..][..3 * d * len];
        let ctx = &mut ctx_nd[d * start..][..d * len];
        let keys_t = room(&mut scratch.keys_t, k * stride);
        let values = room(&mut scratch.values, len * k_stride);
        let probabilities = room(&mut scratch.probabilities, QUERY_BLOCK.min(len) * stride);
        for head in 0..heads {
            transpose(lanes, keys_t, stride, &qkv[d + head * k..], 3 * d, (len, k));
            copy(lanes, values, k_stride, &qkv[2 * d + head * k..], 3 * d, (len, k));
            for first in (0..len).step_by(QUERY_BLOCK) {
                let rows = QUERY_BLOCK.min(len - first);
                let p = &mut probabilities[..rows * stride];
                let queries = Left::rows(&qkv[3 * d * first + head * k..], 3 * d);
                product(lanes, p, stride, queries, keys_t, stride, (rows, k, stride));
                softmax(lanes, p, &shape);
                if let Some(dropout) = &dropout {
                    let factors =
                        shape.factors::<L>(dropout, b, head, first, rows, &mut scratch.factors);
                    multiply(lanes, p, factors, &shape);
                }
                let out = &mut ctx[d * first + head * k..];
                product(lanes, out, d, Left::rows(p, stride), values, k_stride, (rows, len, k));
            }
        }
    }
}

#[inline(always)]
fn attention_backward_body<L: Lanes>(
    dqkv_n3d: &mut [f32],
    dctx_nd: &[f32],
    qkv_n3d: &[f32],
    offsets: &[usize],
    heads: usize,
    dropout: Option<AttentionDropout<'_>>,
    scratch: &mut AttentionScratch,
) {
    let lanes = L::here();
    check(dctx_nd, qkv_n3d, offsets, &dropout);
    assert_eq!(dqkv_n3d.len(), qkv_n3d.len(), "elements of dqkv");
    for (b, pair) in offsets.windows(2).enumerate() {
        let Some(shape) = Shape::new::<L>(offsets, dctx_nd.len(), heads, pair) else { continue };
        let Shape { start, len, stride, d, k, k_stride, scale } = shape;
        let qkv = &qkv_n3d[3 * d * start..][..3 * d * len];
        let dqkv = &mut dqkv_n3d[3 * d * start..][..3 * d * len];
        let dctx = &dctx_nd[d * start..][..d * len];
        let keys_t = room(&mut scratch.keys_t, k * stride);
        let values_t = room(&mut scratch.values_t, k * stride);
        let queries = room(&mut scratch.queries, len * k_stride);
        let keys = room(&mut scratch.keys, len * k_stride);
        let dcontexts = room(&mut scratch.dcontexts, len * k_stride);
        let p = room(&mut scratch.probabilities, len * stride);
        let dp = room(&mut scratch.dprobabilities, len * stride);
        for head in 0..heads {
            let (at_q, at_k, at_v) = (head * k, d + head * k, 2 * d + head * k);
            copy(lanes, queries, k_stride, &qkv[at_q..], 3 * d, (len, k));
            copy(lanes, keys, k_stride, &qkv[at_k..], 3 * d, (len, k));
            copy(lanes, dcontexts, k_stride, &dctx[at_q..], d, (len, k));
            transpose(lanes, keys_t, stride, &qkv[at_k..], 3 * d, (len, k));
            transpose(lanes, values_t, stride, &qkv[at_v..], 3 * d, (len, k));

            let left = Left::rows(queries, k_stride);
            product(lanes, p, stride, left, keys_t, stride, (len, k, stride));
            softmax(lanes, p, &shape);
            let left = Left::rows(dcontexts, k_stride);
            product(lanes, dp, stride, left, values_t, stride, (len, k, stride));

            let factors = dropout.as_ref().map(|dropout| {
                &*shape.factors::<L>(dropout, b, head, 0, len, &mut scratch.factors)
            });
            if let Some(factors) = factors {
                multiply(lanes, dp, factors, &shape);
            }
            softmax_backward(lanes, dp, p, stride, scale);
            if let Some(factors) = factors {
                multiply(lanes, p, factors, &shape);
            }

            let (ds, ds_t) = (Left::rows(dp, stride), Left::columns(dp, stride));
            let p_t = Left::columns(p, stride);
            let shape = (len, len, k);
            product(lanes, &mut dqkv[at_q..], 3 * d, ds, keys, k_stride, shape);
            product(lanes, &mut dqkv[at_k..], 3 * d, ds_t, queries, k_stride, shape);
            product(lanes, &mut dqkv[at_v..], 3 * d, p_t, dcontexts, k_stride, shape);
        }
    }
}

/// One sequence, and how its head's matrices lie in scratch.
struct Shape {
    /// Its first row and its number of rows.
    start: usize,
    len: usize,
    /// Elements from row to row of a matrix with one column per key.
    stride: usize,
    d: usize,
    /// Width of a head, and elements from row to row of a matrix that wide.
    k: usize,
    k_stride: usize,
    /// `1/√k`.
    scale: f32,
}

impl Shape {
    /// `None` for a sequence without tokens.
    #[inline(always)]
    fn new<L: Lanes>(
        offsets: &[usize],
        ctx_len: usize,
        heads: usize,
        pair: &[usize],
    ) -> Option<Shape> {
        let (start, len) = (pair[0] - offsets[0], pair[1] - pair[0]);
        if len == 0 {
            return None;
        }
        let d = ctx_len / (offsets[offsets.len() - 1] - offsets[0]);
        assert!(heads > 0 && d.is_multiple_of(heads), "width {d} in {heads} heads");
        let k = d / heads;
        let scale = 1.0 / (k as f32).sqrt();
        Some(Shape { start, len, stride: pad::<L>(len), d, k, k_stride: pad::<L>(k), scale })
    }

    /// The mask's factors for `rows` queries from `first` on, `len₄` from row to row.
    #[inline(always)]
    fn factors<'a, L: Lanes>(
        &self,
        dropout: &AttentionDropout<'_>,
        b: usize,
        head: usize,
        first: usize,
        rows: usize,
        factors: &'a mut Vec<f32>,
    ) -> &'a mut [f32] {
        let stride = self.len.next_multiple_of(4);
        let factors = room(factors, rows * stride);
        let first_element = ((head * self.len + first) * stride) as u64;
        fill_factors::<L>(factors, dropout.streams_b[b], first_element, dropout.p);
        factors
    }
}

/// Panics where the lengths do not fit each other.
#[inline(always)]
fn check(
    ctx_nd: &[f32],
    qkv_n3d: &[f32],
    offsets: &[usize],
    dropout: &Option<AttentionDropout<'_>>,
) {
    assert!(!offsets.is_empty() && offsets.is_sorted(), "offsets are cumulative");
    let n_tokens = offsets[offsets.len() - 1] - offsets[0];
    assert!(ctx_nd.len().is_multiple_of(n_tokens.max(1)), "rows of {n_tokens} tokens");
    assert!(n_tokens > 0 || ctx_nd.is_empty(), "rows without tokens");
    assert_eq!(qkv_n3d.len(), 3 * ctx_nd.len(), "elements of qkv");
    if let Some(dropout) = dropout {
        assert_eq!(dropout.streams_b.len(), offsets.len() - 1, "one stream per sequence");
    }
}

/// The first `n_elements` of a buffer, which grows if it has fewer.
#[inline(always)]
fn room(buffer: &mut Vec<f32>, n_elements: usize) -> &mut [f32] {
    if buffer.len() < n_elements {
        buffer.resize(n_elements, 0.0);
    }
    &mut buffer[..n_elements]
}

/// `p[j] = exp(scale·(s[j] − max s)) / Σ` of each row, in place; 0 behind the keys.
#[inline(always)]
fn softmax<L: Lanes>(lanes: L, scores: &mut [f32], shape: &Shape) {
    let scale = lanes.splat(shape.scale);
    for row in scores.chunks_exact_mut(shape.stride) {
        row[shape.len..].fill(f32::NEG_INFINITY);
        let mut greatest = lanes.splat(f32::NEG_INFINITY);
        for chunk in row.chunks_exact(L::N) {
            greatest = greatest.max(lanes.load(chunk));
        }
        let greatest = lanes.splat(greatest.greatest());
        let mut sum = lanes.splat(0.0);
        for chunk in row.chunks_exact_mut(L::N) {
            let power = exp(lanes, (lanes.load(chunk) - greatest) * scale);
            lanes.store(chunk, power);
            sum = sum + power;
        }
        let share = lanes.splat(1.0 / sum.sum());
        update(lanes, row, inlined!(|power| power * share));
    }
}

/// `ds[j] = scale·p[j]·(dp[j] − Σ_l p[l]·dp[l])` of each row, in place of `dp`.
#[inline(always)]
fn softmax_backward<L: Lanes>(lanes: L, dp: &mut [f32], p: &[f32], stride: usize, scale: f32) {
    let scale = lanes.splat(scale);
    for (dp, p) in dp.chunks_exact_mut(stride).zip(p.chunks_exact(stride)) {
        let dot = fold_2(lanes, (dp, 0.0), (p, 0.0), inlined!(|sum, dp, p| dp.mul_add(p, sum)));
        let dot = lanes.splat(dot);
        update_with(lanes, dp, p, inlined!(|dp, p| (dp - dot) * p * scale));
    }
}

/// Multiplies each row by its factors.
#[inline(always)]
fn multiply<L: Lanes>(lanes: L, x: &mut [f32], factors: &[f32], shape: &Shape) {
    let rows = x.chunks_exact_mut(shape.stride);
    for (x, factors) in rows.zip(factors.chunks_exact(shape.len.next_multiple_of(4))) {
        let (x, factors) = (&mut x[..shape.len], &factors[..shape.len]);
        update_with(lanes, x, factors, inlined!(|x, factor| x * factor));
    }
}

#[cfg(test)]
mod tests;
