//! Layer normalisation, forward and backward, one row at a time.
//!
//! ```text
//! mean = Σ_d x[d] / D      rstd = 1 / sqrt(Σ_d (x[d] − mean)² / D + eps)
//! xhat[d] = (x[d] − mean)·rstd        y[d] = xhat[d]·weight[d] + bias[d]
//! ```
//!
//! Ba, Kiros and Hinton 2016; `torch.nn.LayerNorm`. A row's result depends on that row alone. The backward pass needs
//! `xhat` and `rstd` of the forward pass, which are written where the caller gives room for them.

use crate::Isa;
use crate::dropout::{Mask, Stream, TextDropout, first_block};
use crate::isa::dispatch;
use crate::lanes::{
    Lanes, Vector, fold, fold_2, inlined, load_up_to, map, map_3_sum, prefetch, store_up_to,
    update_with, update_with_2,
};
use std::ops::Range;

/// How many rows ahead terms are prefetched: computing one row takes less time than a read from memory.
const ROWS_AHEAD: usize = 2;

impl Isa {
    /// `y = LayerNorm(x)` of each row, and what [`Isa::layer_norm_backward`] needs of it.
    #[allow(clippy::too_many_arguments, reason = "three outputs and the five parts of the formula")]
    pub fn layer_norm(
        self,
        y_nd: &mut [f32],
        xhat_nd: Option<&mut [f32]>,
        rstd_n: Option<&mut [f32]>,
        x_nd: &[f32],
        weight_d: &[f32],
        bias_d: &[f32],
        eps: f32,
    ) {
        let saved = Saved { xhat_nd, rstd_n };
        y_nd.copy_from_slice(x_nd);
        self.normalise_rows(y_nd, saved, Input::InPlace, Norm { weight_d, bias_d, eps });
    }

    /// `y = LayerNorm(a + residual)` of each row; else like [`Isa::layer_norm`].
    #[allow(clippy::too_many_arguments, reason = "three outputs and the six parts of the formula")]
    pub fn add_layer_norm(
        self,
        y_nd: &mut [f32],
        xhat_nd: Option<&mut [f32]>,
        rstd_n: Option<&mut [f32]>,
        a_nd: &[f32],
        residual_nd: &[f32],
        weight_d: &[f32],
        bias_d: &[f32],
        eps: f32,
    ) {
        self.dropout_add_layer_norm(
            y_nd,
            xhat_nd,
            rstd_n,
            a_nd,
            residual_nd,
            weight_d,
            bias_d,
            eps,
            None,
        );
    }

    /// `y = LayerNorm(dropout(a) + residual)` of each row; else like [`Isa::layer_norm`].
    #[allow(
        clippy::too_many_arguments,
        reason = "three outputs and the seven parts of the formula"
    )]
    pub fn dropout_add_layer_norm(
        self,
        y_nd: &mut [f32],
        xhat_nd: Option<&mut [f32]>,
        rstd_n: Option<&mut [f32]>,
        a_nd: &[f32],
        residual_nd: &[f32],
        weight_d: &[f32],
        bias_d: &[f32],
        eps: f32,
        dropout: Option<&TextDropout<'_>>,
    ) {
        let saved = Saved { xhat_nd, rstd_n };
        let norm = Norm { weight_d, bias_d, eps };
        let input = match dropout.filter(|dropout| dropout.p != 0.0) {
            None => Input::Sum { a_nd, residual_nd },
            Some(dropout) if rows_are_blocks(weight_d.len()) => {
                Input::Dropped { a_nd, residual_nd, dropout }
            }
            Some(dropout) => {
                y_nd.copy_from_slice(a_nd);
                self.dropout_texts(y_nd, weight_d.len(), dropout);
                self.add(y_nd, residual_nd);
                Input::InPlace
            }
        };
        self.normalise_rows(y_nd, saved, input, norm);
    }

    /// `y = LayerNorm(a + b + c)` of rows that may lie anywhere, `[a, b, c]` for each; else like [`Isa::layer_norm`].
    #[allow(clippy::too_many_arguments, reason = "three outputs and the four parts of the formula")]
    pub fn layer_norm_of_sums(
        self,
        y_nd: &mut [f32],
        xhat_nd: Option<&mut [f32]>,
        rstd_n: Option<&mut [f32]>,
        terms_n: &[[&[f32]; 3]],
        weight_d: &[f32],
        bias_d: &[f32],
        eps: f32,
    ) {
        let saved = Saved { xhat_nd, rstd_n };
        let norm = Norm { weight_d, bias_d, eps };
        self.normalise_rows(y_nd, saved, Input::Terms(terms_n), norm);
    }

    fn normalise_rows(self, y_nd: &mut [f32], saved: Saved<'_>, input: Input<'_>, norm: Norm<'_>) {
        dispatch!(self, layer_norm_body(
            y_nd: &mut [f32], saved: Saved<'_>, input: Input<'_>, norm: Norm<'_>,
        ))
    }

    /// `y` of [`Isa::layer_norm`] again, from its `xhat` and with the same bits.
    pub fn layer_norm_result(
        self,
        y_nd: &mut [f32],
        xhat_nd: &[f32],
        weight_d: &[f32],
        bias_d: &[f32],
    ) {
        y_nd.copy_from_slice(xhat_nd);
        dispatch!(self, layer_norm_result_body(
            y_nd: &mut [f32], weight_d: &[f32], bias_d: &[f32],
        ))
    }

    /// The gradient of layer normalisation by its input.
    ///
    /// ```text
    /// dxhat = dy·weight
    /// dx = rstd·(dxhat − Σ_d dxhat[d] / D − xhat·Σ_d dxhat[d]·xhat[d] / D)
    /// ```
    pub fn layer_norm_backward(
        self,
        dx_nd: &mut [f32],
        dy_nd: &[f32],
        xhat_nd: &[f32],
        rstd_n: &[f32],
        weight_d: &[f32],
    ) {
        self.backward_rows(dx_nd, None, dy_nd, xhat_nd, rstd_n, weight_d);
    }

    /// [`Isa::layer_norm_backward`], and the gradient by `a` of [`Isa::dropout_add_layer_norm`], `da = dropout(dx)`; `dx` is
    /// that by the residual.
    #[allow(clippy::too_many_arguments, reason = "two outputs and the five parts of the formula")]
    pub fn dropout_add_layer_norm_backward(
        self,
        dx_nd: &mut [f32],
        da_nd: &mut [f32],
        dy_nd: &[f32],
        xhat_nd: &[f32],
        rstd_n: &[f32],
        weight_d: &[f32],
        dropout: Option<&TextDropout<'_>>,
    ) {
        if let Some(dropout) = dropout.filter(|dropout| dropout.p != 0.0)
            && rows_are_blocks(weight_d.len())
        {
            let dropped = Some((da_nd, dropout));
            self.backward_rows(dx_nd, dropped, dy_nd, xhat_nd, rstd_n, weight_d);
        } else {
            self.layer_norm_backward(dx_nd, dy_nd, xhat_nd, rstd_n, weight_d);
            da_nd.copy_from_slice(dx_nd);
            if let Some(dropout) = dropout {
                self.dropout_texts(da_nd, weight_d.len(), dropout);
            }
        }
    }

    fn backward_rows(
        self,
        dx_nd: &mut [f32],
        dropped: Option<(&mut [f32], &TextDropout<'_>)>,
        dy_nd: &[f32],
        xhat_nd: &[f32],
        rstd_n: &[f32],
        weight_d: &[f32],
    ) {
        dispatch!(self, layer_norm_backward_body(
            dx_nd: &mut [f32], dropped: Option<(&mut [f32], &TextDropout<'_>)>,
            dy_nd: &[f32], xhat_nd: &[f32], rstd_n: &[f32], weight_d: &[f32],
        ))
    }

    /// Adds the gradients of layer normalisation by its parameters, rows in increasing order.
    ///
    /// ```text
    /// dweight[d] += Σ_n dy[n,d]·xhat[n,d]        dbias[d] += Σ_n dy[n,d]
    /// ```
    pub fn layer_norm_param_grads(
        self,
        dweight_d: &mut [f32],
        dbias_d: &mut [f32],
        dy_nd: &[f32],
        xhat_nd: &[f32],
    ) {
        dispatch!(self, param_grads_body(
            dweight_d: &mut [f32], dbias_d: &mut [f32], dy_nd: &[f32], xhat_nd: &[f32],
        ))
    }
}

/// Where the forward pass leaves what the backward pass needs.
struct Saved<'a> {
    xhat_nd: Option<&'a mut [f32]>,
    rstd_n: Option<&'a mut [f32]>,
}

/// What is normalised.
#[derive(Clone, Copy)]
enum Input<'a> {
    /// `x` lies where `y` will be.
    InPlace,
    /// `a + residual`.
    Sum { a_nd: &'a [f32], residual_nd: &'a [f32] },
    /// `dropout(a) + residual`, of rows that are blocks.
    Dropped { a_nd: &'a [f32], residual_nd: &'a [f32], dropout: &'a TextDropout<'a> },
    /// The sum of three for each row.
    Terms(&'a [[&'a [f32]; 3]]),
}

impl<'a> Input<'a> {
    fn check(&self, n_elements: usize, n_rows: usize) {
        match self {
            Input::InPlace => {}
            Input::Sum { a_nd, residual_nd } | Input::Dropped { a_nd, residual_nd, .. } => {
                assert_eq!(a_nd.len(), n_elements, "elements of a");
                assert_eq!(residual_nd.len(), n_elements, "elements of residual");
            }
            Input::Terms(terms_n) => assert_eq!(terms_n.len(), n_rows, "rows of terms"),
        }
    }

    fn dropout(self) -> Option<&'a TextDropout<'a>> {
        match self {
            Input::Dropped { dropout, .. } => Some(dropout),
            _ => None,
        }
    }
}

/// The parameters.
struct Norm<'a> {
    weight_d: &'a [f32],
    bias_d: &'a [f32],
    eps: f32,
}

/// Whether each row of a text begins with a block of random words, so that its mask can be drawn by itself.
#[inline(always)]
fn rows_are_blocks(width: usize) -> bool {
    width.is_multiple_of(4)
}

/// Does everything to one row while it is in the first cache: reads it, drops, adds the residual, normalises, writes.
#[inline(always)]
fn layer_norm_body<L: Lanes>(y_nd: &mut [f32], saved: Saved<'_>, input: Input<'_>, norm: Norm<'_>) {
    let lanes = L::here();
    let width = norm.weight_d.len();
    let n_rows = row_count(y_nd, width);
    let Saved { mut xhat_nd, mut rstd_n } = saved;
    assert!(xhat_nd.as_ref().is_none_or(|xhat| xhat.len() == y_nd.len()), "elements of xhat");
    assert!(rstd_n.as_ref().is_none_or(|rstd| rstd.len() == n_rows), "elements of rstd");
    input.check(y_nd.len(), n_rows);
    let dropout = input.dropout();
    for (rows, stream) in texts(dropout, n_rows) {
        let mut mask = mask_of(lanes, stream, dropout, rows.len() * width);
        for (in_text, n) in rows.enumerate() {
            let row = n * width..(n + 1) * width;
            let y_d = &mut y_nd[row.clone()];
            let sum = match (input, &mut mask) {
                (Input::Sum { a_nd, residual_nd }, _) => {
                    let (a_d, residual_d) = (&a_nd[row.clone()], &residual_nd[row.clone()]);
                    let terms = [a_d, residual_d, residual_d];
                    map_3_sum(lanes, y_d, terms, inlined!(|a, residual, _| a + residual))
                }
                (Input::Terms(terms_n), _) => {
                    if let Some([a_d, ..]) = terms_n.get(n + ROWS_AHEAD) {
                        prefetch(a_d);
                    }
                    map_3_sum(lanes, y_d, terms_n[n], inlined!(|a, b, c| a + b + c))
                }
                (Input::Dropped { a_nd, residual_nd, .. }, Some(mask)) => {
                    mask.go_to((in_text * width / 4) as u32);
                    let (a_d, residual_d) = (&a_nd[row.clone()], &residual_nd[row.clone()]);
                    drop_row(lanes, y_d, a_d, Some(residual_d), mask);
                    fold(lanes, (y_d, 0.0), inlined!(|sum, x| sum + x))
                }
                _ => fold(lanes, (y_d, 0.0), inlined!(|sum, x| sum + x)),
            };
            let xhat_d = xhat_nd.as_mut().map(|xhat_nd| &mut xhat_nd[row]);
            let rstd = normalise_row(lanes, y_d, sum, xhat_d, &norm);
            if let Some(rstd_n) = &mut rstd_n {
                rstd_n[n] = rstd;
            }
        }
    }
}

/// `y·weight + bias` in `y`.
#[inline(always)]
fn layer_norm_result_body<L: Lanes>(y_nd: &mut [f32], weight_d: &[f32], bias_d: &[f32]) {
    let lanes = L::here();
    let width = weight_d.len();
    row_count(y_nd, width);
    for y_d in y_nd.chunks_exact_mut(width) {
        update_with_2(
            lanes,
            y_d,
            weight_d,
            bias_d,
            inlined!(|xhat, weight, bias| xhat.mul_add(weight, bias)),
        );
    }
}

/// Texts with their streams; without dropout, all rows as one.
#[inline(always)]
fn texts(
    dropout: Option<&TextDropout<'_>>,
    n_rows: usize,
) -> impl Iterator<Item = (Range<usize>, Option<Stream>)> {
    let all = dropout.is_none().then_some((0..n_rows, None));
    let texts = dropout.into_iter().flat_map(move |dropout| dropout.texts(n_rows));
    all.into_iter().chain(texts.map(|(rows, stream)| (rows, Some(stream))))
}

/// The mask of a text of `n_elements`, from its first block on.
#[inline(always)]
fn mask_of<L: Lanes>(
    lanes: L,
    stream: Option<Stream>,
    dropout: Option<&TextDropout<'_>>,
    n_elements: usize,
) -> Option<Mask<L>> {
    let (stream, dropout) = (stream?, dropout?);
    Some(Mask::new(lanes, stream, dropout.p, first_block(0, n_elements)))
}

/// `y = dropout(x) + residual`.
#[inline(always)]
fn drop_row<L: Lanes>(
    lanes: L,
    y_d: &mut [f32],
    x_d: &[f32],
    residual_d: Option<&[f32]>,
    mask: &mut Mask<L>,
) {
    for (pair, y) in y_d.chunks_mut(2 * L::N).enumerate() {
        let bits = mask.next_bits();
        for (half, y) in y.chunks_mut(L::N).enumerate() {
            let at = (2 * pair + half) * L::N;
            let at = at..at + y.len();
            let mut value = mask.drop(load_up_to(lanes, &x_d[at.clone()]), bits[half]);
            if let Some(residual_d) = residual_d {
                value = value + load_up_to(lanes, &residual_d[at]);
            }
            store_up_to(lanes, y, value);
        }
    }
}

/// Normalises a row in place, whose elements add up to `sum`, and returns its `rstd`.
#[inline(always)]
fn normalise_row<L: Lanes>(
    lanes: L,
    y_d: &mut [f32],
    sum: f32,
    xhat_d: Option<&mut [f32]>,
    &Norm { weight_d, bias_d, eps }: &Norm<'_>,
) -> f32 {
    let width = y_d.len() as f32;
    let mean = sum / width;
    let mean_lanes = lanes.splat(mean);
    // A second pass over a row in cache: E[x²] − mean² would cancel.
    let squares = fold(
        lanes,
        (y_d, mean),
        inlined!(|sum, x| {
            let centred = x - mean_lanes;
            centred.mul_add(centred, sum)
        }),
    );
    let rstd = 1.0 / (squares / width + eps).sqrt();
    let rstd_lanes = lanes.splat(rstd);
    if let Some(xhat_d) = xhat_d {
        map(lanes, xhat_d, y_d, inlined!(|x| (x - mean_lanes) * rstd_lanes));
    }
    update_with_2(
        lanes,
        y_d,
        weight_d,
        bias_d,
        inlined!(|x, weight, bias| ((x - mean_lanes) * rstd_lanes).mul_add(weight, bias)),
    );
    rstd
}

/// `dx`, and beside it `dropout(dx)`.
#[inline(always)]
fn layer_norm_backward_body<L: Lanes>(
    dx_nd: &mut [f32],
    dropped: Option<(&mut [f32], &TextDropout<'_>)>,
    dy_nd: &[f32],
    xhat_nd: &[f32],
    rstd_n: &[f32],
    weight_d: &[f32],
) {
    let lanes = L::here();
    let width = weight_d.len();
    let n_rows = row_count(dx_nd, width);
    assert_eq!(n_rows, rstd_n.len(), "elements of rstd");
    assert_eq!(xhat_nd.len(), dx_nd.len(), "elements of xhat");
    assert_eq!(dy_nd.len(), dx_nd.len(), "elements of dy");
    let (mut da_nd, dropout) = dropped.unzip();
    assert!(da_nd.as_ref().is_none_or(|da| da.len() == dx_nd.len()), "elements of da");
    for (rows, stream) in texts(dropout, n_rows) {
        let mut mask = mask_of(lanes, stream, dropout, rows.len() * width);
        for (in_text, n) in rows.enumerate() {
            let row = n * width..(n + 1) * width;
            let (dx_d, dy_d) = (&mut dx_nd[row.clone()], &dy_nd[row.clone()]);
            let xhat_d = &xhat_nd[row.clone()];
            gradient_of_row(lanes, dx_d, dy_d, xhat_d, rstd_n[n], weight_d);
            if let (Some(da_nd), Some(mask)) = (&mut da_nd, &mut mask) {
                mask.go_to((in_text * width / 4) as u32);
                drop_row(lanes, &mut da_nd[row], dx_d, None, mask);
            }
        }
    }
}

#[inline(always)]
fn gradient_of_row<L: Lanes>(
    lanes: L,
    dx_d: &mut [f32],
    dy_d: &[f32],
    xhat_d: &[f32],
    rstd: f32,
    weight_d: &[f32],
) {
    let width = dx_d.len() as f32;
    let inputs = [dy_d, weight_d, weight_d];
    let sum = map_3_sum(lanes, dx_d, inputs, inlined!(|dy, weight, _| dy * weight));
    let dot = fold_2(
        lanes,
        (dx_d, 0.0),
        (xhat_d, 0.0),
        inlined!(|sum, dxhat, xhat| dxhat.mul_add(xhat, sum)),
    );
    let (mean, mean_dot) = (lanes.splat(sum / width), lanes.splat(dot / width));
    let rstd = lanes.splat(rstd);
    update_with(
        lanes,
        dx_d,
        xhat_d,
        inlined!(|dxhat, xhat| xhat.neg_mul_add(mean_dot, dxhat - mean) * rstd),
    );
}

#[inline(always)]
fn param_grads_body<L: Lanes>(
    dweight_d: &mut [f32],
    dbias_d: &mut [f32],
    dy_nd: &[f32],
    xhat_nd: &[f32],
) {
    let lanes = L::here();
    let width = dweight_d.len();
    row_count(dy_nd, width);
    assert_eq!(xhat_nd.len(), dy_nd.len(), "elements of xhat");
    for (dy_d, xhat_d) in dy_nd.chunks_exact(width).zip(xhat_nd.chunks_exact(width)) {
        update_with_2(
            lanes,
            dweight_d,
            dy_d,
            xhat_d,
            inlined!(|dweight, dy, xhat| dy.mul_add(xhat, dweight)),
        );
        update_with(lanes, dbias_d, dy_d, inlined!(|dbias, dy| dbias + dy));
    }
}

/// Rows of a matrix `width` wide; panics on a part of one.
#[inline(always)]
fn row_count(x_nd: &[f32], width: usize) -> usize {
    assert!(width > 0 && x_nd.len().is_multiple_of(width), "rows are {width} wide");
    x_nd.len() / width
}

#[cfg(test)]
mod tests;
