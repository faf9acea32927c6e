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
//! The backward pass computes the probabilities again; nothing of `n·n` outlives one head of one sequence. Both passes take
//! the queries in groups. Of a short sequence they take several heads at once and do each step for all of them, so that
//! one head computes while another waits for a maximum or a division.

use crate::Isa;
use crate::aligned::AlignedBuf;
use crate::dropout::Stream;
use crate::isa::dispatch;
use crate::lanes::math::exp_2_of_negative;
use crate::lanes::{Lanes, Vector, inlined};
use masks::Masks;
use product::{COLUMNS, Out, Rows, copy, most_queries, scores, sum_over_keys, sum_over_queries};
use std::ops::Range;

mod masks;
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

/// Working memory of attention. It grows to the longest sequence it has seen; its content means nothing between calls.
#[derive(Debug, Default)]
pub struct AttentionScratch {
    /// Copies of one head's queries, keys, values and gradient, used if their width is not a multiple of a vector's.
    padded: [AlignedBuf; 4],
    /// The queries of a group, or the gradient by their results, two columns to a vector.
    transposed: AlignedBuf,
    /// Probabilities of a group of queries and some heads, and their gradient.
    probabilities: AlignedBuf,
    dprobabilities: AlignedBuf,
    /// One sequence's dropout.
    masks: Vec<u8>,
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
    let AttentionScratch { padded, transposed, probabilities, masks, .. } = scratch;
    let [queries_pad, keys_pad, values_pad, _] = padded;
    for (b, pair) in offsets.windows(2).enumerate() {
        let Some(shape) = Shape::new::<L>(offsets, ctx_nd.len(), heads, pair) else { continue };
        let Shape { start, len, d, k, columns, .. } = shape;
        let qkv = &qkv_n3d[3 * d * start..][..3 * d * len];
        let ctx = &mut ctx_nd[d * start..][..d * len];
        let masks = draw_masks(lanes, masks, &dropout, (b, len, heads));
        for heads in shape.head_groups::<L>() {
            let queries = Operand::new(lanes, (qkv, 3 * d, 0), &shape, &heads, queries_pad);
            let keys = Operand::new(lanes, (qkv, 3 * d, d), &shape, &heads, keys_pad);
            let values = Operand::new(lanes, (qkv, 3 * d, 2 * d), &shape, &heads, values_pad);
            for group in shape.query_groups::<L>() {
                let p = probabilities.at_least(heads.len() * group.size);
                for (head, p) in heads.clone().zip(p.chunks_exact_mut(group.size)) {
                    let size = (group.n_blocks, columns);
                    let x = transposed.at_least(group.n_blocks * L::N * columns / 2);
                    scores(lanes, p, x, queries.head(head), keys.head(head), group.first, size);
                }
                let by_block = p.chunks_exact_mut(group.block);
                let rows = group.rows::<L>(&heads, len);
                lanes.apart(inlined!(|| for (first_row, p) in rows.zip(by_block) {
                    softmax(lanes, p, &shape, masks, first_row);
                }));
                for (head, p) in heads.clone().zip(p.chunks_exact(group.size)) {
                    let out = Out { data: &mut ctx[head * k..], stride: d, width: k };
                    let sums = (group.first, group.n_queries);
                    sum_over_keys(lanes, out, p, values.head(head), sums);
                }
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
    let AttentionScratch { padded, transposed, probabilities, dprobabilities, masks } = scratch;
    let [queries_pad, keys_pad, values_pad, dctx_pad] = padded;
    for (b, pair) in offsets.windows(2).enumerate() {
        let Some(shape) = Shape::new::<L>(offsets, dctx_nd.len(), heads, pair) else { continue };
        let Shape { start, len, d, k, columns, .. } = shape;
        let qkv = &qkv_n3d[3 * d * start..][..3 * d * len];
        let dqkv = &mut dqkv_n3d[3 * d * start..][..3 * d * len];
        let dctx = &dctx_nd[d * start..][..d * len];
        let masks = draw_masks(lanes, masks, &dropout, (b, len, heads));
        for heads in shape.head_groups::<L>() {
            let queries = Operand::new(lanes, (qkv, 3 * d, 0), &shape, &heads, queries_pad);
            let keys = Operand::new(lanes, (qkv, 3 * d, d), &shape, &heads, keys_pad);
            let values = Operand::new(lanes, (qkv, 3 * d, 2 * d), &shape, &heads, values_pad);
            let dcontexts = Operand::new(lanes, (dctx, d, 0), &shape, &heads, dctx_pad);
            for group in shape.query_groups::<L>() {
                let p = probabilities.at_least(heads.len() * group.size);
                let dp = dprobabilities.at_least(heads.len() * group.size);
                let by_head = p.chunks_exact_mut(group.size).zip(dp.chunks_exact_mut(group.size));
                for (head, (p, dp)) in heads.clone().zip(by_head) {
                    let size = (group.n_blocks, columns);
                    let x = transposed.at_least(group.n_blocks * L::N * columns / 2);
                    scores(lanes, p, x, queries.head(head), keys.head(head), group.first, size);
                    let (dctx, values) = (dcontexts.head(head), values.head(head));
                    scores(lanes, dp, x, dctx, values, group.first, size);
                }
                let by_block =
                    p.chunks_exact_mut(group.block).zip(dp.chunks_exact_mut(group.block));
                let rows = group.rows::<L>(&heads, len);
                lanes.apart(inlined!(|| for (first_row, (p, dp)) in rows.zip(by_block) {
                    softmax_backward(lanes, p, dp, &shape, masks, first_row);
                }));
                let by_head = p.chunks_exact(group.size).zip(dp.chunks_exact(group.size));
                for (head, (p, ds)) in heads.clone().zip(by_head) {
                    let stride = 3 * d;
                    let dq = Out { data: &mut dqkv[head * k..], stride, width: k };
                    let sums = (group.first, group.n_queries);
                    sum_over_keys(lanes, dq, ds, keys.head(head), sums);
                    let sums = (group.first, group.n_queries, len);
                    let dk = Out { data: &mut dqkv[d + head * k..], stride, width: k };
                    sum_over_queries(lanes, dk, ds, queries.head(head), sums);
                    let dv = Out { data: &mut dqkv[2 * d + head * k..], stride, width: k };
                    sum_over_queries(lanes, dv, p, dcontexts.head(head), sums);
                }
            }
        }
    }
}

/// One sequence.
struct Shape {
    /// Its first row and its number of rows.
    start: usize,
    len: usize,
    heads: usize,
    d: usize,
    /// Width of a head, and the number of columns that its scores sum over.
    k: usize,
    columns: usize,
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
        let columns = k.next_multiple_of(COLUMNS);
        Some(Shape { start, len, heads, d, k, columns, scale: 1.0 / (k as f32).sqrt() })
    }

    /// Heads that are worked on together: as many as fit the first cache; one at a time for a long sequence.
    #[inline(always)]
    fn head_groups<L: Lanes>(&self) -> impl Iterator<Item = Range<usize>> {
        /// Vectors of probabilities; there may be as many of their gradients.
        const N_VECTORS: usize = 192;
        let (heads, first) = (self.heads, Group::new::<L>(self.len, 0));
        let n_heads = if self.copies::<L>() { 1 } else { N_VECTORS * L::N / first.size };
        let n_heads = n_heads.clamp(1, heads);
        (0..heads).step_by(n_heads).map(move |head| head..(head + n_heads).min(heads))
    }

    /// Queries that are worked on together; all of a short sequence.
    #[inline(always)]
    fn query_groups<L: Lanes>(&self) -> impl Iterator<Item = Group> {
        let len = self.len;
        (0..len).step_by(most_queries::<L>()).map(move |first| Group::new::<L>(len, first))
    }

    /// Whether a head's operands are copied. They are if the head's width is not a multiple of a vector's, and if there are
    /// so many rows that those of one head, each a page apart, would evict each other from the first cache.
    #[inline(always)]
    fn copies<L: Lanes>(&self) -> bool {
        self.len > most_queries::<L>() || !self.k.is_multiple_of(L::N)
    }
}

/// Some queries of a sequence.
struct Group {
    first: usize,
    n_queries: usize,
    n_blocks: usize,
    /// Elements of one block of probabilities, and of all of one head.
    block: usize,
    size: usize,
}

impl Group {
    #[inline(always)]
    fn new<L: Lanes>(len: usize, first: usize) -> Group {
        let n_queries = most_queries::<L>().min(len - first);
        let n_blocks = n_queries.div_ceil(L::N / 2);
        let block = len.div_ceil(2) * L::N;
        Group { first, n_queries, n_blocks, block, size: n_blocks * block }
    }

    /// The first row of each block of each head; rows are counted over all heads of the sequence.
    #[inline(always)]
    fn rows<L: Lanes>(&self, heads: &Range<usize>, len: usize) -> impl Iterator<Item = usize> {
        let (first, n_blocks) = (self.first, self.n_blocks);
        let row = move |head, block| head * len + first + block * L::N / 2;
        heads.clone().flat_map(move |head| (0..n_blocks).map(move |block| row(head, block)))
    }
}

/// Queries, keys, values or gradients of some heads.
struct Operand<'a> {
    /// From the first element of the first head on.
    data: &'a [f32],
    stride: usize,
    len: usize,
    first_head: usize,
    k: usize,
}

impl<'a> Operand<'a> {
    /// Columns from `first_column` on of rows that are `stride` apart: where they are, or those of the only head copied to
    /// `pad`.
    #[inline(always)]
    fn new<L: Lanes>(
        lanes: L,
        (x, stride, first_column): (&'a [f32], usize, usize),
        shape: &Shape,
        heads: &Range<usize>,
        pad: &'a mut AlignedBuf,
    ) -> Operand<'a> {
        let &Shape { len, k, .. } = shape;
        let data = &x[first_column + heads.start * k..];
        let operand = Operand { data, stride, len, first_head: heads.start, k };
        if !shape.copies::<L>() {
            return operand;
        }
        let stride = k.next_multiple_of(L::N);
        let pad = pad.at_least(len * stride);
        copy(lanes, pad, operand.head(heads.start), k);
        Operand { data: pad, stride, ..operand }
    }

    #[inline(always)]
    fn head(&self, head: usize) -> Rows<'_> {
        let data = &self.data[(head - self.first_head) * self.k..];
        Rows { data, stride: self.stride, len: self.len }
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

/// Sequence `b`'s masks, if there is dropout.
#[inline(always)]
fn draw_masks<'a, L: Lanes>(
    lanes: L,
    buffer: &'a mut Vec<u8>,
    dropout: &Option<AttentionDropout<'_>>,
    size: (usize, usize, usize),
) -> Option<Masks<'a>> {
    let dropout = dropout.as_ref()?;
    Some(lanes.apart(inlined!(|| Masks::draw(lanes, buffer, dropout, size))))
}

/// How many lanes of a block's last vector hold keys.
#[inline(always)]
fn last_keys(len: usize) -> u16 {
    if len.is_multiple_of(2) { 0xffff } else { 0x5555 }
}

/// `exp(scale·(s[j] − max s))` of each query, in place, 0 behind the keys; and the reciprocals of their sums.
#[inline(always)]
fn exponentials<L: Lanes>(lanes: L, scores: &mut [f32], shape: &Shape) -> L::F32 {
    let scale = lanes.splat(shape.scale * std::f32::consts::LOG2_E);
    let mut greatest = lanes.splat(f32::NEG_INFINITY);
    for s in scores.chunks_exact(L::N) {
        greatest = lanes.load(s).max(greatest);
    }
    let greatest = greatest.swap_pairs().max(greatest);
    let mut sum = lanes.splat(0.0);
    let (whole, last) = scores.split_at_mut(scores.len() - L::N);
    for s in whole.chunks_exact_mut(L::N) {
        let power = exp_2_of_negative(lanes, (lanes.load(s) - greatest) * scale);
        lanes.store(s, power);
        sum = sum + power;
    }
    let power = exp_2_of_negative(lanes, (lanes.load(last) - greatest) * scale);
    let power = power.keep(last_keys(shape.len));
    lanes.store(last, power);
    sum = sum + power;
    lanes.splat(1.0) / (sum + sum.swap_pairs())
}

/// `dropout(softmax(s))` of one block, in place.
#[inline(always)]
fn softmax<L: Lanes>(
    lanes: L,
    scores: &mut [f32],
    shape: &Shape,
    masks: Option<Masks<'_>>,
    first_row: usize,
) {
    let share = exponentials(lanes, scores, shape);
    let blocks = scores.chunks_exact_mut(L::N);
    if let Some(masks) = masks {
        let share = share * lanes.splat(masks.factor);
        for (pair, p) in blocks.enumerate() {
            lanes.store(p, (lanes.load(p) * share).keep(masks.bits(first_row, pair)));
        }
    } else {
        for p in blocks {
            lanes.store(p, lanes.load(p) * share);
        }
    }
}

/// `p = softmax(s)`, `dp = dropout(dp)`, `ds[j] = scale·p[j]·(dp[j] − Σ_l p[l]·dp[l])` of one block: `dropout(p)` in place of
/// `s`, `ds` in place of `dp`.
#[inline(always)]
fn softmax_backward<L: Lanes>(
    lanes: L,
    s: &mut [f32],
    dp: &mut [f32],
    shape: &Shape,
    masks: Option<Masks<'_>>,
    first_row: usize,
) {
    let share = exponentials(lanes, s, shape);
    let scale = lanes.splat(shape.scale);
    let mut dot = lanes.splat(0.0);
    let both = s.chunks_exact_mut(L::N).zip(dp.chunks_exact_mut(L::N));
    if let Some(masks) = masks {
        let factor = lanes.splat(masks.factor);
        for (pair, (s, dp)) in both.enumerate() {
            let p = lanes.load(s) * share;
            let dropped = (lanes.load(dp) * factor).keep(masks.bits(first_row, pair));
            dot = p.mul_add(dropped, dot);
            lanes.store(s, p);
            lanes.store(dp, dropped);
        }
        dot = dot + dot.swap_pairs();
        let both = s.chunks_exact_mut(L::N).zip(dp.chunks_exact_mut(L::N));
        for (pair, (p, dp)) in both.enumerate() {
            let probability = lanes.load(p);
            lanes.store(dp, (lanes.load(dp) - dot) * (probability * scale));
            lanes.store(p, (probability * factor).keep(masks.bits(first_row, pair)));
        }
    } else {
        for (s, dp) in both {
            let p = lanes.load(s) * share;
            dot = p.mul_add(lanes.load(dp), dot);
            lanes.store(s, p);
        }
        dot = dot + dot.swap_pairs();
        for (p, dp) in s.chunks_exact(L::N).zip(dp.chunks_exact_mut(L::N)) {
            lanes.store(dp, (lanes.load(dp) - dot) * (lanes.load(p) * scale));
        }
    }
}

#[cfg(test)]
mod tests;
