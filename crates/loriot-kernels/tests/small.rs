//! Every kernel once, on a few rows that fill no vector and no tile: small enough for Miri, which watches each load and
//! store (`.ci/miri`). That the numbers are right at every length is for the other tests; here all levels agree.

use loriot_kernels::Isa;
use loriot_kernels::activation::Activation;
use loriot_kernels::adam::AdamStep;
use loriot_kernels::attention::{AttentionDropout, AttentionScratch};
use loriot_kernels::dropout::{Site, Stream, TextDropout, TextKey};
use loriot_kernels::gemm::{Added, Epilogue, Init, Mat, MatMut, PackedWeight, Precision};
use loriot_kernels::isa::ISA_VARIABLE;
use loriot_kernels::random::SplitMix64;

/// Two texts of 3 and 2 tokens.
const OFFSETS: [usize; 3] = [0, 3, 5];
/// Tokens, width and heads: no width of a vector divides 22 or 11.
const N: usize = 5;
const D: usize = 22;
const HEADS: usize = 2;

fn isas() -> Vec<Isa> {
    match std::env::var_os(ISA_VARIABLE) {
        Some(_) => vec![Isa::from_env().expect("a level of this CPU")],
        None => Isa::available(),
    }
}

/// Uniform in -1..1.
fn noise(len: usize, seed: u64) -> Vec<f32> {
    let mut random = SplitMix64::new(seed);
    (0..len).map(|_| (random.next_u64() >> 40) as f32 / (1 << 23) as f32 - 1.0).collect()
}

/// What `compute` gives has the same numbers, within `bound`, as on the portable level.
#[track_caller]
fn check(bound: f32, compute: impl Fn(Isa) -> Vec<f32>) {
    let want = compute(Isa::SCALAR);
    assert!(want.iter().any(|&x| x != 0.0), "nothing was computed");
    for isa in isas() {
        let got = compute(isa);
        assert_eq!(got.len(), want.len());
        for (got, want) in got.iter().zip(&want) {
            assert!((got - want).abs() <= bound * want.abs().max(1.0), "{isa}: {got}, not {want}");
        }
    }
}

fn streams(site: Site) -> [Stream; 2] {
    [0, 1].map(|row| Stream::new(7, 1, TextKey::query(row), 0, site))
}

#[test]
fn products_agree() {
    for (m, n, k) in [(1, 7, 3), (5, 19, 9), (17, 33, 5), (3, 2, 0)] {
        let (a, b, c) = (noise(m * k, 1), noise(k * n, 2), noise(m * n, 3));
        check(1e-5, |isa| {
            let mut c = c.clone();
            let (a, b) = (Mat::row_major(&a, m, k), Mat::row_major(&b, k, n));
            isa.gemm(MatMut::row_major(&mut c, m, n), 0.5, a, b, Init::Accumulate);
            c
        });
    }
    // Both operands transposed.
    let (a, b) = (noise(9 * 5, 1), noise(19 * 9, 2));
    check(1e-5, |isa| {
        let mut c = vec![0.0; 5 * 19];
        let (a, b) = (Mat::row_major(&a, 9, 5).t(), Mat::row_major(&b, 19, 9).t());
        isa.gemm(MatMut::row_major(&mut c, 5, 19), 1.0, a, b, Init::Zero);
        c
    });
}

#[test]
fn linear_layers_agree() {
    let (n, i, o, r) = (5, 9, 19, 2);
    let (w, x, dy, bias) = (noise(o * i, 1), noise(n * i, 2), noise(n * o, 3), noise(o, 4));
    let (a, b) = (noise(n * r, 5), noise(r * o, 6));
    for (precision, bound) in
        [(Precision::F32, 1e-5), (Precision::Bf16, 0.05), (Precision::Int8, 0.05)]
    {
        let pack = |isa: Isa| -> PackedWeight { isa.pack(&[&w], i, precision) };
        check(bound, |isa| {
            let mut y = vec![0.0; n * o];
            let added =
                Added { alpha: 2.0, a: Mat::row_major(&a, n, r), b: Mat::row_major(&b, r, o) };
            let added = (precision != Precision::Int8).then_some(added);
            let (y_no, x_ni) = (MatMut::row_major(&mut y, n, o), Mat::row_major(&x, n, i));
            let epilogue = Epilogue::ActivationInPlace(Activation::Gelu);
            isa.linear_with(y_no, x_ni, &pack(isa), Init::Bias(&bias), added, epilogue);
            y
        });
        if precision == Precision::Int8 {
            continue;
        }
        check(bound, |isa| {
            let mut dx = vec![0.0; n * i];
            let (dx_ni, dy_no) = (MatMut::row_major(&mut dx, n, i), Mat::row_major(&dy, n, o));
            isa.linear_backward(dx_ni, dy_no, &pack(isa), Init::Zero);
            dx
        });
    }
}

#[test]
fn attention_agrees() {
    let (qkv, dctx) = (noise(N * 3 * D, 1), noise(N * D, 2));
    let streams = streams(Site::AttentionProbs);
    for dropout in [None, Some(AttentionDropout { p: 0.3, streams_b: &streams })] {
        check(1e-5, |isa| {
            let (mut ctx, mut dqkv) = (vec![0.0; N * D], vec![0.0; N * 3 * D]);
            let mut scratch = AttentionScratch::new();
            isa.attention(&mut ctx, &qkv, &OFFSETS, HEADS, dropout, &mut scratch);
            isa.attention_backward(&mut dqkv, &dctx, &qkv, &OFFSETS, HEADS, dropout, &mut scratch);
            [ctx, dqkv].concat()
        });
    }
}

#[test]
fn layer_norms_agree() {
    let (x, residual, dy) = (noise(N * D, 1), noise(N * D, 2), noise(N * D, 3));
    let (weight, bias) = (noise(D, 4), noise(D, 5));
    let streams = streams(Site::FfnOutput);
    let dropout = TextDropout { p: 0.3, streams_b: &streams, offsets: &OFFSETS };
    for dropout in [None, Some(&dropout)] {
        check(1e-4, |isa| {
            let (mut y, mut xhat, mut rstd) = (vec![0.0; N * D], vec![0.0; N * D], vec![0.0; N]);
            let kept = (Some(&mut xhat[..]), Some(&mut rstd[..]));
            isa.dropout_add_layer_norm(
                &mut y, kept.0, kept.1, &x, &residual, &weight, &bias, 1e-12, dropout,
            );
            let (mut dx, mut da) = (vec![0.0; N * D], vec![0.0; N * D]);
            isa.dropout_add_layer_norm_backward(
                &mut dx, &mut da, &dy, &xhat, &rstd, &weight, dropout,
            );
            let (mut dweight, mut dbias) = (vec![0.0; D], vec![0.0; D]);
            isa.layer_norm_param_grads(&mut dweight, &mut dbias, &dy, &xhat);
            [y, xhat, rstd, dx, da, dweight, dbias].concat()
        });
    }
}

#[test]
fn everything_else_agrees() {
    let (x, dy) = (noise(N * D, 1), noise(N * D, 2));
    check(1e-5, |isa| {
        let (mut y, mut dx) = (vec![0.0; N * D], vec![0.0; N * D]);
        isa.activation(&mut y, &x, Activation::Gelu);
        isa.activation_backward(&mut dx, &dy, &x, Activation::GeluTanh);
        isa.add(&mut y, &dx);
        isa.axpy(&mut y, 0.5, &x);
        isa.scale(&mut dx, 0.25);
        isa.dropout_texts(
            &mut dx,
            D,
            &TextDropout { p: 0.3, streams_b: &streams(Site::Lora(0)), offsets: &OFFSETS },
        );
        let mut column_sums = vec![0.0; D];
        isa.add_column_sums(&mut column_sums, &dy);
        [y, dx, column_sums, vec![isa.dot(&x, &dy), isa.sum_squares(&x) as f32]].concat()
    });
    check(1e-5, |isa| {
        let mut pooled = [vec![0.0; 2 * D], vec![0.0; 2 * D]];
        isa.mean_pool(&mut pooled[0], &x, &OFFSETS);
        isa.cls_pool(&mut pooled[1], &x, &OFFSETS);
        let pooled = pooled.concat();
        let (mut unit, mut norm, mut dpooled) = (vec![0.0; 4 * D], vec![0.0; 4], vec![0.0; 4 * D]);
        isa.normalize(&mut unit, &mut norm, &pooled);
        isa.normalize_backward(&mut dpooled, &dy[..4 * D], &unit, &norm);
        let mut dx = [vec![0.0; N * D], vec![0.0; N * D]];
        isa.mean_pool_backward(&mut dx[0], &dpooled[..2 * D], &OFFSETS);
        isa.cls_pool_backward(&mut dx[1], &dpooled[2 * D..], &OFFSETS);
        [pooled, unit, norm, dx.concat()].concat()
    });
    check(1e-5, |isa| {
        let (mut w, mut m, mut v) = (noise(D, 5), vec![0.0; D], vec![0.0; D]);
        let (learning_rate, weight_decay) = (1e-2, 0.1);
        let (beta1, beta2, eps) = (0.9, 0.999, 1e-8);
        let step = AdamStep { learning_rate, beta1, beta2, eps, weight_decay, step: 1 };
        isa.adam(&mut w, &mut m, &mut v, &dy[..D], &step);
        let mut scores = vec![0.0; 3];
        isa.dot_rows(&mut scores, &x[..D], &dy, &[4, 0, 2]);
        [w, m, v, scores].concat()
    });
}
