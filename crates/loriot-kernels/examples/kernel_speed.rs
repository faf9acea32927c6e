//! How fast everything but the matrix products is, at the shapes of a training step of all-MiniLM-L6-v2.
//!
//! ```text
//! cargo run --release -p loriot-kernels --example kernel_speed [-- FILTER [REPEATS]]
//! ```
//!
//! Nanoseconds per token; for attention also the share of the core's multiply-add peak that its products reach, the peak
//! being measured in the same run. Every answer is checked against [`reference`] before it is timed. `LORIOT_ISA` forces
//! an instruction set; FILTER keeps the lines that contain it; REPEATS is for a
//! profiler.
#![allow(clippy::print_stdout, reason = "a bench prints its results")]

use std::hint::black_box;
use std::time::Instant;

use loriot_kernels::activation::Activation;
use loriot_kernels::attention::{AttentionDropout, AttentionScratch};
use loriot_kernels::dropout::{Site, Stream, TextDropout, TextKey};
use loriot_kernels::gemm::Precision;
use loriot_kernels::isa::{Isa, IsaError};
use loriot_kernels::reference;

mod peak;

/// Width, heads and width of the feed-forward block of all-MiniLM-L6-v2.
const D: usize = 384;
const HEADS: usize = 12;
const FFN: usize = 1536;
const EPS: f32 = 1e-12;
const P: f32 = 0.1;

/// Texts of one length each: some that fit the second cache, then about a chunk's tokens, which do not.
const TEXTS: [(usize, usize); 8] =
    [(16, 7), (6, 20), (64, 7), (64, 12), (42, 20), (25, 33), (6, 128), (2, 512)];

/// Short timings, of which the best counts: on a shared machine some fall between other work.
const N_REPEATS: usize = 25;

fn main() -> Result<(), IsaError> {
    let isa = Isa::from_env()?;
    let argument = |n| std::env::args().nth(n);
    let n_repeats = argument(2).and_then(|repeats| repeats.parse().ok()).unwrap_or(N_REPEATS);
    let bench = Bench { isa, filter: argument(1).unwrap_or_default(), n_repeats };
    println!("{isa}: nanoseconds per token, and the share of one core's measured peak");
    println!("{:<38} {:>9} {:>7}", "kernel", "ns/token", "share");
    for (b, len) in TEXTS {
        for dropout in [None, Some(P)] {
            bench.attention(b, len, dropout);
        }
    }
    bench.activations();
    bench.layer_norms();
    Ok(())
}

struct Bench {
    isa: Isa,
    filter: String,
    n_repeats: usize,
}

impl Bench {
    fn attention(&self, b: usize, len: usize, dropout: Option<f32>) {
        let what = format!("{b}x{len}{}", if dropout.is_some() { ", dropout" } else { "" });
        let (forward, backward) =
            (format!("attention forward  {what}"), format!("attention backward {what}"));
        if !forward.contains(&self.filter) && !backward.contains(&self.filter) {
            return;
        }
        let isa = self.isa;
        let (n, offsets) = (b * len, (0..=b).map(|b| b * len).collect::<Vec<_>>());
        let (qkv, dctx) = (noise(1, n * 3 * D), noise(2, n * D));
        let streams = streams(b, Site::AttentionProbs);
        let (mut ctx, mut dqkv) = (vec![0.0; n * D], vec![0.0; n * 3 * D]);
        let mut scratch = AttentionScratch::new();
        let dropped = dropout.map(|p| AttentionDropout { p, streams_b: &streams });
        isa.attention(&mut ctx, &qkv, &offsets, HEADS, dropped, &mut scratch);
        isa.attention_backward(&mut dqkv, &dctx, &qkv, &offsets, HEADS, dropped, &mut scratch);

        // The last text alone, which lies at the end of everything.
        let (dropout_b, last) = (dropout.map(|p| (p, &streams[b - 1..])), n - len);
        let definition = reference::attention::Attention {
            offsets: &[0, len],
            d: D,
            heads: HEADS,
            dropout: dropout_b,
        };
        let (wide_qkv, wide_dctx) = (wide(&qkv[last * 3 * D..]), wide(&dctx[last * D..]));
        check("attention", &ctx[last * D..], &definition.forward(&wide_qkv), 1e-4);
        let want = definition.backward(&wide_dctx, &wide_qkv);
        check("attention_backward", &dqkv[last * 3 * D..], &want, 1e-4);

        let flops = 2.0 * (len * D) as f64;
        self.report(&forward, n, 2.0 * flops, || {
            isa.attention(&mut ctx, black_box(&qkv), &offsets, HEADS, dropped, &mut scratch);
        });
        self.report(&backward, n, 5.0 * flops, || {
            let (dctx, qkv) = (black_box(&dctx), black_box(&qkv));
            isa.attention_backward(&mut dqkv, dctx, qkv, &offsets, HEADS, dropped, &mut scratch);
        });
    }

    fn activations(&self) {
        // As many as leave the second cache room: what is timed is arithmetic.
        let (isa, n) = (self.isa, 64);
        let x: Vec<f32> = noise(3, n * FFN).iter().map(|x| 4.0 * x).collect();
        let dy = noise(4, n * FFN);
        for f in [Activation::Gelu, Activation::GeluTanh, Activation::Relu] {
            let (mut y, mut dx) = (vec![0.0; n * FFN], vec![0.0; n * FFN]);
            isa.activation(&mut y, &x, f);
            isa.activation_backward(&mut dx, &dy, &x, f);
            let value = |x: &f32| reference::activation::activation(f64::from(*x), f);
            check("activation", &y, &x.iter().map(value).collect::<Vec<_>>(), 3e-6);
            let slope = |(x, dy): (&f32, &f32)| {
                reference::activation::activation_derivative(f64::from(*x), f) * f64::from(*dy)
            };
            let want: Vec<f64> = x.iter().zip(&dy).map(slope).collect();
            check("activation_backward", &dx, &want, 3e-6);
            self.report(&format!("{f:?} forward"), n, 0.0, || {
                isa.activation(&mut y, black_box(&x), f);
            });
            self.report(&format!("{f:?} forward, 32 at a time"), n, 0.0, || {
                for (y, x) in y.chunks_exact_mut(32).zip(black_box(&x).chunks_exact(32)) {
                    isa.activation(y, x, f);
                }
            });
            // Not in place: a gradient that goes through again and again ends in subnormal numbers, which are slow.
            self.report(&format!("{f:?} backward"), n, 0.0, || {
                isa.activation_backward(&mut dx, black_box(&dy), &x, f);
            });
        }
    }

    fn layer_norms(&self) {
        let (isa, b, len) = (self.isa, 42, 20);
        let n = b * len;
        let (branch, residual, dy) = (noise(5, n * D), noise(6, n * D), noise(7, n * D));
        let (weight, bias) = (noise(8, D), noise(9, D));
        let (mut y, mut xhat, mut rstd) = (vec![0.0; n * D], vec![0.0; n * D], vec![0.0; n]);
        isa.add_layer_norm(
            &mut y,
            Some(&mut xhat),
            Some(&mut rstd),
            &branch,
            &residual,
            &weight,
            &bias,
            EPS,
        );
        let sum: Vec<f64> = branch.iter().zip(&residual).map(|(a, b)| f64::from(a + b)).collect();
        let want =
            reference::layer_norm::layer_norm(&sum, &wide(&weight), &wide(&bias), f64::from(EPS));
        check("add_layer_norm", &y, &want.y_nd, 1e-5);
        self.report("add_layer_norm", n, 0.0, || {
            let (xhat, rstd) = (Some(&mut xhat[..]), Some(&mut rstd[..]));
            isa.add_layer_norm(
                &mut y,
                xhat,
                rstd,
                black_box(&branch),
                &residual,
                &weight,
                &bias,
                EPS,
            );
        });
        // As in inference: nothing saved, and few enough rows for the second cache.
        let few = 320;
        let (branch_few, residual_few) = (&branch[..few * D], &residual[..few * D]);
        let y_few = &mut y[..few * D];
        self.report("add_layer_norm, nothing saved", few, 0.0, || {
            let branch = black_box(branch_few);
            isa.add_layer_norm(y_few, None, None, branch, residual_few, &weight, &bias, EPS);
        });
        let mut dx = vec![0.0; n * D];
        isa.layer_norm_backward(&mut dx, &dy, &xhat, &rstd, &weight);
        let want = reference::layer_norm::layer_norm_backward(
            &wide(&dy),
            &wide(&xhat),
            &wide(&rstd),
            &wide(&weight),
        );
        check("layer_norm_backward", &dx, &want, 1e-5);
        self.report("layer_norm_backward", n, 0.0, || {
            isa.layer_norm_backward(&mut dx, black_box(&dy), &xhat, &rstd, &weight);
        });
        let streams = streams(b, Site::FfnOutput);
        let offsets: Vec<usize> = (0..=b).map(|b| b * len).collect();
        let dropout = TextDropout { p: P, streams_b: &streams, offsets: &offsets };
        let mut da = vec![0.0; n * D];
        self.report("dropout, add_layer_norm", n, 0.0, || {
            let (xhat, rstd) = (Some(&mut xhat[..]), Some(&mut rstd[..]));
            da.copy_from_slice(black_box(&branch));
            isa.dropout_texts(&mut da, D, &dropout);
            isa.add_layer_norm(&mut y, xhat, rstd, &da, &residual, &weight, &bias, EPS);
        });
        self.report("dropout_add_layer_norm", n, 0.0, || {
            let (xhat, rstd, dropout) = (Some(&mut xhat[..]), Some(&mut rstd[..]), Some(&dropout));
            isa.dropout_add_layer_norm(
                &mut y,
                xhat,
                rstd,
                black_box(&branch),
                &residual,
                &weight,
                &bias,
                EPS,
                dropout,
            );
        });
        self.report("layer_norm_backward, copy, dropout", n, 0.0, || {
            isa.layer_norm_backward(&mut dx, black_box(&dy), &xhat, &rstd, &weight);
            da.copy_from_slice(&dx);
            isa.dropout_texts(&mut da, D, &dropout);
        });
        self.report("dropout_add_layer_norm_backward", n, 0.0, || {
            let (dy, dropout) = (black_box(&dy), Some(&dropout));
            isa.dropout_add_layer_norm_backward(
                &mut dx, &mut da, dy, &xhat, &rstd, &weight, dropout,
            );
        });
        self.report("dropout", n, 0.0, || {
            for (rows, stream) in y.chunks_exact_mut(len * D).zip(&streams) {
                isa.dropout(black_box(rows), *stream, 0, P);
            }
        });
        self.report("dropout_to", n, 0.0, || {
            let texts = y.chunks_exact_mut(len * D).zip(branch.chunks_exact(len * D));
            for ((to, from), stream) in texts.zip(&streams) {
                isa.dropout_to(to, black_box(from), *stream, 0, P);
            }
        });
    }

    /// Prints the best time of `run` per token, and its share of the peak if it has `flops` per token worth counting.
    fn report(&self, name: &str, n_tokens: usize, flops: f64, mut run: impl FnMut()) {
        if !name.contains(&self.filter) {
            return;
        }
        let n_runs = 1 + 2000 / n_tokens as u32;
        let (mut best, mut peak) = (f64::INFINITY, 0.0f64);
        for _ in 0..self.n_repeats {
            peak = peak.max(peak::peak_gflops(self.isa, Precision::F32));
            let start = Instant::now();
            for _ in 0..n_runs {
                run();
            }
            best = best.min(start.elapsed().as_secs_f64() / f64::from(n_runs));
        }
        let ns = best * 1e9 / n_tokens as f64;
        if flops > 0.0 {
            println!("{name:<38} {ns:>9.1} {:>6.1}%", 100.0 * flops / ns / peak);
        } else {
            println!("{name:<38} {ns:>9.1}");
        }
    }
}

/// Panics unless `got` is `want` to within `share` of the greatest of `want`.
fn check(name: &str, got: &[f32], want: &[f64], share: f64) {
    let greatest = want.iter().fold(0.0_f64, |greatest, x| greatest.max(x.abs()));
    assert_eq!(got.len(), want.len(), "{name}: lengths differ");
    for (at, (got, want)) in got.iter().zip(want).enumerate() {
        let error = (f64::from(*got) - want).abs();
        assert!(error <= share * greatest, "{name} is wrong at {at}: do not time it");
    }
}

/// One stream per text.
fn streams(b: usize, site: Site) -> Vec<Stream> {
    (0..b as u32).map(|row| Stream::new(42, 1, TextKey::product(row, 0), 3, site)).collect()
}

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|x| f64::from(*x)).collect()
}

/// Uniform in -1..1, from the seed alone.
fn noise(seed: u64, len: usize) -> Vec<f32> {
    let mut state = (seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}
