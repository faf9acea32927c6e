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
use crate::isa::dispatch;
use crate::lanes::{Lanes, Vector, fold, fold_2, inlined, map, update_with, update_with_2};

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
        y_nd.copy_from_slice(x_nd);
        self.layer_norm_in_place(y_nd, xhat_nd, rstd_n, weight_d, bias_d, eps);
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
        let residual_nd = Some(residual_nd);
        y_nd.copy_from_slice(a_nd);
        dispatch!(self, layer_norm_body(
            y_nd: &mut [f32], xhat_nd: Option<&mut [f32]>, rstd_n: Option<&mut [f32]>,
            residual_nd: Option<&[f32]>, weight_d: &[f32], bias_d: &[f32], eps: f32,
        ))
    }

    /// [`Isa::layer_norm`] that replaces `x` by `y`.
    pub fn layer_norm_in_place(
        self,
        y_nd: &mut [f32],
        xhat_nd: Option<&mut [f32]>,
        rstd_n: Option<&mut [f32]>,
        weight_d: &[f32],
        bias_d: &[f32],
        eps: f32,
    ) {
        let residual_nd = None;
        dispatch!(self, layer_norm_body(
            y_nd: &mut [f32], xhat_nd: Option<&mut [f32]>, rstd_n: Option<&mut [f32]>,
            residual_nd: Option<&[f32]>, weight_d: &[f32], bias_d: &[f32], eps: f32,
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
        dx_nd.copy_from_slice(dy_nd);
        self.layer_norm_backward_in_place(dx_nd, xhat_nd, rstd_n, weight_d);
    }

    /// [`Isa::layer_norm_backward`] that replaces `dy` by `dx`.
    pub fn layer_norm_backward_in_place(
        self,
        dx_nd: &mut [f32],
        xhat_nd: &[f32],
        rstd_n: &[f32],
        weight_d: &[f32],
    ) {
        dispatch!(self, layer_norm_backward_body(
            dx_nd: &mut [f32], xhat_nd: &[f32], rstd_n: &[f32], weight_d: &[f32],
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

/// Normalises `y + residual` in `y`.
#[inline(always)]
fn layer_norm_body<L: Lanes>(
    y_nd: &mut [f32],
    mut xhat_nd: Option<&mut [f32]>,
    mut rstd_n: Option<&mut [f32]>,
    residual_nd: Option<&[f32]>,
    weight_d: &[f32],
    bias_d: &[f32],
    eps: f32,
) {
    let lanes = L::here();
    let width = weight_d.len();
    let n_rows = row_count(y_nd, width);
    if let Some(xhat_nd) = &xhat_nd {
        assert_eq!(xhat_nd.len(), y_nd.len(), "elements of xhat");
    }
    if let Some(rstd_n) = &rstd_n {
        assert_eq!(rstd_n.len(), n_rows, "elements of rstd");
    }
    if let Some(residual_nd) = residual_nd {
        assert_eq!(residual_nd.len(), y_nd.len(), "elements of residual");
    }
    for (n, y_d) in y_nd.chunks_exact_mut(width).enumerate() {
        let row = n * width..(n + 1) * width;
        if let Some(residual_nd) = residual_nd {
            update_with(
                lanes,
                y_d,
                &residual_nd[row.clone()],
                inlined!(|y, residual| y + residual),
            );
        }
        let sum = fold(lanes, (y_d, 0.0), inlined!(|sum, x| sum + x));
        let mean = sum / width as f32;
        let mean_lanes = lanes.splat(mean);
        // Two passes over a row in cache: E[x²] − mean² would cancel.
        let squares = fold(
            lanes,
            (y_d, mean),
            inlined!(|sum, x| {
                let centred = x - mean_lanes;
                centred.mul_add(centred, sum)
            }),
        );
        let rstd = 1.0 / (squares / width as f32 + eps).sqrt();
        let rstd_lanes = lanes.splat(rstd);
        if let Some(xhat_nd) = &mut xhat_nd {
            map(lanes, &mut xhat_nd[row], y_d, inlined!(|x| (x - mean_lanes) * rstd_lanes));
        }
        if let Some(rstd_n) = &mut rstd_n {
            rstd_n[n] = rstd;
        }
        update_with_2(
            lanes,
            y_d,
            weight_d,
            bias_d,
            inlined!(|x, weight, bias| ((x - mean_lanes) * rstd_lanes).mul_add(weight, bias)),
        );
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

#[inline(always)]
fn layer_norm_backward_body<L: Lanes>(
    dx_nd: &mut [f32],
    xhat_nd: &[f32],
    rstd_n: &[f32],
    weight_d: &[f32],
) {
    let lanes = L::here();
    let width = weight_d.len();
    assert_eq!(row_count(dx_nd, width), rstd_n.len(), "elements of rstd");
    assert_eq!(xhat_nd.len(), dx_nd.len(), "elements of xhat");
    let rows = dx_nd.chunks_exact_mut(width).zip(xhat_nd.chunks_exact(width));
    for ((dx_d, xhat_d), rstd) in rows.zip(rstd_n) {
        update_with(lanes, dx_d, weight_d, inlined!(|dy, weight| dy * weight));
        let sum = fold(lanes, (dx_d, 0.0), inlined!(|sum, dxhat| sum + dxhat));
        let dot = fold_2(
            lanes,
            (dx_d, 0.0),
            (xhat_d, 0.0),
            inlined!(|sum, dxhat, xhat| dxhat.mul_add(xhat, sum)),
        );
        let mean = lanes.splat(sum / width as f32);
        let mean_dot = lanes.splat(dot / width as f32);
        let rstd = lanes.splat(*rstd);
        update_with(
            lanes,
            dx_d,
            xhat_d,
            inlined!(|dxhat, xhat| xhat.neg_mul_add(mean_dot, dxhat - mean) * rstd),
        );
    }
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
mod tests {
    use super::*;
    use crate::reference::layer_norm as reference;
    use crate::testing::{EPSILON, assert_within, greatest, noise, wide};

    /// As `torch.nn.LayerNorm` of BERT.
    const EPS: f32 = 1e-12;

    #[test]
    fn layer_norm_matches_reference_at_every_width_on_every_isa() {
        let n = 3;
        for d in 2..=130 {
            let (x, residual) = (noise(n * d + 1, 1), noise(n * d + 1, 2));
            let (x, residual) = (&x[1..], &residual[1..]); // Off the alignment.
            let (weight, bias) = (noise(d, 3), noise(d, 4));
            let sum: Vec<f32> = x.iter().zip(residual).map(|(x, residual)| x + residual).collect();
            for isa in Isa::available() {
                for (what, input) in [("layer_norm", x), ("add_layer_norm", &sum)] {
                    let (mut y, mut xhat) = (vec![7.0; n * d], vec![7.0; n * d]);
                    let mut rstd = vec![7.0; n];
                    let saved = (Some(&mut xhat[..]), Some(&mut rstd[..]));
                    if what == "layer_norm" {
                        isa.layer_norm(&mut y, saved.0, saved.1, x, &weight, &bias, EPS);
                    } else {
                        let add = (x, residual);
                        isa.add_layer_norm(
                            &mut y, saved.0, saved.1, add.0, add.1, &weight, &bias, EPS,
                        );
                    }
                    let want = reference::layer_norm(
                        &wide(input),
                        &wide(&weight),
                        &wide(&bias),
                        f64::from(EPS),
                    );
                    // The mean is off by d·ε·max|x|, which rstd magnifies; everything else by a few ε of itself.
                    let (unit, greatest) = ((d + 8) as f64 * EPSILON, greatest(&wide(input)));
                    let share = |n: usize| unit * (1.0 + want.rstd_n[n] * greatest);
                    let xhat_bound = |i: usize| share(i / d) * (1.0 + want.xhat_nd[i].abs());
                    let y_bound = |i: usize| xhat_bound(i) + 2.0 * EPSILON;
                    let what = format!("{isa}, {what}, width {d}");
                    assert_within(&y, &want.y_nd, y_bound, &what);
                    assert_within(&xhat, &want.xhat_nd, xhat_bound, &what);
                    assert_within(&rstd, &want.rstd_n, |n| share(n) * want.rstd_n[n], &what);
                }
            }
        }
    }

    #[test]
    fn a_row_of_one_element_is_its_bias() {
        for isa in Isa::available() {
            let mut y = [7.0; 2];
            isa.layer_norm(&mut y, None, None, &[3.0, -4.0], &[5.0], &[0.25], EPS);
            assert_eq!(y, [0.25; 2], "{isa}");
        }
    }

    #[test]
    fn what_is_saved_does_not_change_the_result_nor_do_the_rows_around_it() {
        let (n, d) = (5, 77);
        let (x, weight, bias) = (noise(n * d, 1), noise(d, 2), noise(d, 3));
        for isa in Isa::available() {
            let (mut together, mut saving) = (vec![0.0; n * d], vec![0.0; n * d]);
            isa.layer_norm(&mut together, None, None, &x, &weight, &bias, EPS);
            let mut xhat = vec![0.0; n * d];
            isa.layer_norm(&mut saving, Some(&mut xhat), None, &x, &weight, &bias, EPS);
            assert_eq!(together, saving, "{isa}");
            let mut again = vec![0.0; n * d];
            isa.layer_norm_result(&mut again, &xhat, &weight, &bias);
            assert_eq!(together, again, "{isa}");
            for (x, together) in x.chunks(d).zip(together.chunks(d)) {
                let mut alone = vec![0.0; d];
                isa.layer_norm(&mut alone, None, None, x, &weight, &bias, EPS);
                assert_eq!(alone, together, "{isa}");
            }
        }
    }

    #[test]
    fn backward_matches_reference_at_every_width_on_every_isa() {
        let n = 3;
        for d in 1..=130 {
            let (dy, xhat, weight) = (noise(n * d + 1, 1), noise(n * d, 2), noise(d, 3));
            let (dy, rstd) = (&dy[1..], [0.5, 1.0, 3.0]);
            let (wide_dy, wide_xhat, wide_weight) = (wide(dy), wide(&xhat), wide(&weight));
            let want =
                reference::layer_norm_backward(&wide_dy, &wide_xhat, &wide(&rstd), &wide_weight);
            let (mut want_dweight, mut want_dbias) = (wide(&weight), wide(&weight));
            let grads = (&mut want_dweight, &mut want_dbias);
            reference::layer_norm_param_grads(grads.0, grads.1, &wide_dy, &wide_xhat);
            for isa in Isa::available() {
                let what = format!("{isa}, width {d}");
                let mut dx = vec![7.0; n * d];
                isa.layer_norm_backward(&mut dx, dy, &xhat, &rstd, &weight);
                // Three terms, each below max|dy|·max|weight| < 1: sums of d terms are off by d·ε of that.
                let bound = |i: usize| 3.0 * (d + 8) as f64 * EPSILON * f64::from(rstd[i / d]);
                assert_within(&dx, &want, bound, &what);

                let (mut dweight, mut dbias) = (weight.clone(), weight.clone());
                isa.layer_norm_param_grads(&mut dweight, &mut dbias, dy, &xhat);
                // n additions to a number below 1, each of a number below 1.
                let bound = |_| (n * (n + 1)) as f64 * EPSILON;
                assert_within(&dweight, &want_dweight, bound, &what);
                assert_within(&dbias, &want_dbias, bound, &what);
            }
        }
    }

    #[test]
    #[should_panic(expected = "elements of rstd")]
    fn a_wrong_length_panics() {
        let (mut y, mut rstd) = ([0.0; 8], [0.0; 3]);
        Isa::best().layer_norm(&mut y, None, Some(&mut rstd), &[0.0; 8], &[1.0; 4], &[0.0; 4], EPS);
    }
}
