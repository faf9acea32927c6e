//! Layer normalisation against its reference, and with dropout against its parts.

use super::*;
use crate::dropout::{Site, TextKey};
use crate::reference::layer_norm as reference;
use crate::testing::{EPSILON, assert_within, greatest, isas, noise, wide};

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
        for isa in isas() {
            for (what, input) in [("layer_norm", x), ("add_layer_norm", &sum)] {
                let (mut y, mut xhat) = (vec![7.0; n * d], vec![7.0; n * d]);
                let mut rstd = vec![7.0; n];
                let saved = (Some(&mut xhat[..]), Some(&mut rstd[..]));
                if what == "layer_norm" {
                    isa.layer_norm(&mut y, saved.0, saved.1, x, &weight, &bias, EPS);
                } else {
                    let add = (x, residual);
                    isa.add_layer_norm(&mut y, saved.0, saved.1, add.0, add.1, &weight, &bias, EPS);
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
    for isa in isas() {
        let mut y = [7.0; 2];
        isa.layer_norm(&mut y, None, None, &[3.0, -4.0], &[5.0], &[0.25], EPS);
        assert_eq!(y, [0.25; 2], "{isa}");
    }
}

#[test]
fn what_is_saved_does_not_change_the_result_nor_do_the_rows_around_it() {
    let (n, d) = (5, 77);
    let (x, weight, bias) = (noise(n * d, 1), noise(d, 2), noise(d, 3));
    for isa in isas() {
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
fn rows_of_three_terms_have_the_bits_of_their_sums_wherever_they_lie() {
    let n = 6;
    for d in 1..=130 {
        let table = noise(4 * d + 1, 1);
        let term = |n: usize| &table[1 + n % 4 * d..][..d]; // Off the alignment.
        let terms: Vec<[&[f32]; 3]> = (0..n).map(|n| [term(n * n), term(n), term(3)]).collect();
        let sum_of = |[a, b, c]: [&[f32]; 3]| (0..d).map(|d| a[d] + b[d] + c[d]).collect();
        let sums: Vec<f32> =
            terms.iter().flat_map(|terms| -> Vec<f32> { sum_of(*terms) }).collect();
        let (weight, bias) = (noise(d, 3), noise(d, 4));
        for isa in isas() {
            let [mut y, mut xhat, mut want_y, mut want_xhat] = [(); 4].map(|()| vec![7.0; n * d]);
            let (mut rstd, mut want_rstd) = (vec![7.0; n], vec![7.0; n]);
            let saved = (Some(&mut want_xhat[..]), Some(&mut want_rstd[..]));
            isa.layer_norm(&mut want_y, saved.0, saved.1, &sums, &weight, &bias, 1e-3);
            let saved = (Some(&mut xhat[..]), Some(&mut rstd[..]));
            isa.layer_norm_of_sums(&mut y, saved.0, saved.1, &terms, &weight, &bias, 1e-3);
            assert_eq!((y, xhat, rstd), (want_y, want_xhat, want_rstd), "{isa}, width {d}");
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
        let want = reference::layer_norm_backward(&wide_dy, &wide_xhat, &wide(&rstd), &wide_weight);
        let (mut want_dweight, mut want_dbias) = (wide(&weight), wide(&weight));
        let grads = (&mut want_dweight, &mut want_dbias);
        reference::layer_norm_param_grads(grads.0, grads.1, &wide_dy, &wide_xhat);
        for isa in isas() {
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
fn with_dropout_both_passes_have_the_bits_of_their_parts_at_every_width_on_every_isa() {
    let offsets = [2, 5, 5, 6, 9];
    let stream = |row| Stream::new(7, 1, TextKey::query(row), 2, Site::FfnOutput);
    let streams = [stream(0), stream(1), stream(2), stream(3)];
    let n = 7;
    for d in 1..=130 {
        let (a, residual, dy) = (noise(n * d + 1, 1), noise(n * d + 1, 2), noise(n * d + 1, 5));
        let (a, residual, dy) = (&a[1..], &residual[1..], &dy[1..]); // Off the alignment.
        let (weight, bias) = (noise(d, 3), noise(d, 4));
        for (isa, p) in isas().into_iter().flat_map(|isa| [(isa, 0.0), (isa, 0.3)]) {
            let what = format!("{isa}, width {d}, p {p}");
            let dropout = TextDropout { p, streams_b: &streams, offsets: &offsets };
            let mut dropped = a.to_vec();
            isa.dropout_texts(&mut dropped, d, &dropout);
            let [mut y, mut xhat, mut want_y, mut want_xhat] = [(); 4].map(|()| vec![7.0; n * d]);
            let (mut rstd, mut want_rstd) = (vec![7.0; n], vec![7.0; n]);
            let saved = (Some(&mut want_xhat[..]), Some(&mut want_rstd[..]));
            isa.add_layer_norm(
                &mut want_y,
                saved.0,
                saved.1,
                &dropped,
                residual,
                &weight,
                &bias,
                1e-3,
            );
            let saved = (Some(&mut xhat[..]), Some(&mut rstd[..]));
            let streams = Some(&dropout);
            isa.dropout_add_layer_norm(
                &mut y, saved.0, saved.1, a, residual, &weight, &bias, 1e-3, streams,
            );
            assert_eq!((y, &xhat, &rstd), (want_y, &want_xhat, &want_rstd), "{what}");

            let [mut dx, mut da, mut want_dx] = [(); 3].map(|()| vec![7.0; n * d]);
            isa.layer_norm_backward(&mut want_dx, dy, &xhat, &rstd, &weight);
            let mut want_da = want_dx.clone();
            isa.dropout_texts(&mut want_da, d, &dropout);
            isa.dropout_add_layer_norm_backward(
                &mut dx, &mut da, dy, &xhat, &rstd, &weight, streams,
            );
            assert_eq!((dx, da), (want_dx, want_da), "{what}");
        }
    }
}

#[test]
#[should_panic(expected = "elements of rstd")]
fn a_wrong_length_panics() {
    let (mut y, mut rstd) = ([0.0; 8], [0.0; 3]);
    Isa::best().layer_norm(&mut y, None, Some(&mut rstd), &[0.0; 8], &[1.0; 4], &[0.0; 4], EPS);
}
