//! How much of one core's peak the matrix products reach, at the shapes of MiniLM and e5-large.
//!
//! ```text
//! cargo run --release -p loriot-kernels --example gemm_peak [-- FILTER]
//! ```
//!
//! The peak is measured in the same run, by a loop of independent multiply-adds of the same width, before each shape:
//! clocks and neighbours change from second to second. Every answer is checked before it is timed. `LORIOT_ISA` forces
//! an instruction set; FILTER keeps the lines that contain it.
#![allow(clippy::print_stdout, reason = "a bench prints its results")]

use std::hint::black_box;
use std::time::Instant;

use loriot_kernels::gemm::{Init, Mat, MatMut};
use loriot_kernels::isa::{Isa, IsaError};

/// `(inputs, outputs)` of the linear layers: query, key and value fused; output; feed-forward up and down.
const LAYERS: [(usize, usize); 8] = [
    (384, 1152),
    (384, 384),
    (384, 1536),
    (1536, 384),
    (1024, 3072),
    (1024, 1024),
    (1024, 4096),
    (4096, 1024),
];

/// Rows: one token, one query, a few texts, a batch of 64 short texts.
const ROWS: [usize; 6] = [1, 7, 20, 64, 256, 1300];

/// Short timings, of which the best counts: on a shared machine some fall between other work.
const N_REPEATS: usize = 25;

fn main() -> Result<(), IsaError> {
    let isa = Isa::from_env()?;
    let filter = std::env::args().nth(1).unwrap_or_default();
    println!("{isa}: GFLOP/s, and the share of one core's measured peak");
    println!("{:<30} {:>9} {:>9} {:>7}", "product", "GFLOP/s", "peak", "share");
    for (i, o) in LAYERS {
        for n in ROWS {
            layer(isa, &filter, n, i, o);
        }
    }
    for n in [256, 1300] {
        for rank in [8, 24, 72] {
            lora(isa, &filter, n, 384, rank);
        }
    }
    Ok(())
}

/// The three products of one linear layer.
fn layer(isa: Isa, filter: &str, n: usize, i: usize, o: usize) {
    let (x, w, dy) = (noise(1, n * i), noise(2, o * i), noise(3, n * o));
    let (mut y, mut dx, mut dw) = (vec![0.0; n * o], vec![0.0; n * i], vec![0.0; o * i]);
    let packed = isa.pack(&[&w], i);
    let (x, w, dy) =
        (Mat::row_major(&x, n, i), Mat::row_major(&w, o, i), Mat::row_major(&dy, n, o));
    let flops = 2.0 * (n * i * o) as f64;

    let name = format!("forward  {n}x{i} {i}x{o}");
    report(isa, filter, &name, flops, (x, w.t()), &mut y, |y| {
        isa.linear(MatMut::row_major(y, n, o), x, &packed, Init::Zero);
    });
    let name = format!("backward {n}x{o} {o}x{i}");
    report(isa, filter, &name, flops, (dy, w), &mut dx, |dx| {
        isa.linear_backward(MatMut::row_major(dx, n, i), dy, &packed, Init::Zero);
    });
    let name = format!("dW       {o}x{n} {n}x{i}");
    report(isa, filter, &name, flops, (dy.t(), x), &mut dw, |dw| {
        isa.gemm(MatMut::row_major(dw, o, i), 1.0, dy.t(), x, Init::Zero);
    });
}

/// The skinny products of LoRA: `x·Aᵀ`, `(x·Aᵀ)·Bᵀ`, `dyᵀ·(x·Aᵀ)` and `(dy·B)ᵀ·x`.
fn lora(isa: Isa, filter: &str, n: usize, d: usize, r: usize) {
    let (x, xa, a, b) = (noise(1, n * d), noise(2, n * r), noise(3, r * d), noise(4, d * r));
    let (x, xa) = (Mat::row_major(&x, n, d), Mat::row_major(&xa, n, r));
    let (a, b) = (Mat::row_major(&a, r, d), Mat::row_major(&b, d, r));
    let products =
        [("x·Aᵀ", x, a.t()), ("xa·Bᵀ", xa, b.t()), ("dyᵀ·xa", x.t(), xa), ("dybᵀ·x", xa.t(), x)];
    for (name, left, right) in products {
        let (rows, cols) = (left.n_rows(), right.n_cols());
        let mut c = vec![0.0; rows * cols];
        let name = format!("{name:<8} {rows}x{} {}x{cols}", left.n_cols(), left.n_cols());
        report(isa, filter, &name, 2.0 * (n * d * r) as f64, (left, right), &mut c, |c| {
            isa.gemm(MatMut::row_major(c, rows, cols), 1.0, left, right, Init::Zero);
        });
    }
}

/// Checks `run`, then prints its best speed beside the peak of the same moment.
fn report(
    isa: Isa,
    filter: &str,
    name: &str,
    flops: f64,
    (left, right): (Mat, Mat),
    c: &mut [f32],
    run: impl Fn(&mut [f32]),
) {
    if !name.contains(filter) {
        return;
    }
    run(c);
    check(name, c, left, right);
    let n_runs = (2e8 / flops).clamp(1.0, 1e5) as usize;
    let (mut best, mut peak) = (f64::INFINITY, 0.0f64);
    for _ in 0..N_REPEATS {
        peak = peak.max(peak_gflops(isa));
        let start = Instant::now();
        for _ in 0..n_runs {
            run(black_box(c));
        }
        best = best.min(start.elapsed().as_secs_f64() / n_runs as f64);
    }
    let gflops = flops / best / 1e9;
    println!("{name:<30} {gflops:>9.1} {peak:>9.1} {:>6.1}%", 100.0 * gflops / peak);
}

/// Some elements, by the definition in f64.
fn check(name: &str, c: &[f32], left: Mat, right: Mat) {
    let (rows, cols, depth) = (left.n_rows(), right.n_cols(), left.n_cols());
    for at in (0..rows * cols).step_by(1 + rows * cols / 50) {
        let (row, col) = (at / cols, at % cols);
        let products = (0..depth).map(|k| f64::from(left.at(row, k)) * f64::from(right.at(k, col)));
        let (want, magnitude) =
            products.fold((0.0, 0.0), |(sum, abs), product| (sum + product, abs + product.abs()));
        let error = (f64::from(c[at]) - want).abs();
        let bound = (depth + 2) as f64 * f64::from(f32::EPSILON) * magnitude;
        assert!(error <= bound, "{name} is wrong at ({row}, {col}): do not time it");
    }
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

/// Independent multiply-adds, as many in flight as hide their latency.
const CHAINS: usize = 12;

fn peak_gflops(isa: Isa) -> f64 {
    let n_steps = 300_000;
    let start = Instant::now();
    let lanes = peak_loop(isa, n_steps);
    2.0 * (lanes * CHAINS * n_steps) as f64 / start.elapsed().as_secs_f64() / 1e9
}

/// Returns the number of lanes of each multiply-add.
#[cfg(target_arch = "x86_64")]
fn peak_loop(isa: Isa, n_steps: usize) -> usize {
    #![allow(
        unsafe_code,
        reason = "the peak of an instruction set is measured with its instructions"
    )]
    use loriot_kernels::isa::Level;
    use std::arch::x86_64::*;

    #[target_feature(enable = "avx512f")]
    fn avx512(n_steps: usize) -> usize {
        let mut sums = [_mm512_setzero_ps(); CHAINS];
        let x = _mm512_set1_ps(black_box(0.5));
        for _ in 0..n_steps {
            for sum in &mut sums {
                *sum = _mm512_fmadd_ps(x, x, *sum);
            }
        }
        black_box(sums);
        16
    }
    #[target_feature(enable = "avx2,fma")]
    fn avx2(n_steps: usize) -> usize {
        let mut sums = [_mm256_setzero_ps(); CHAINS];
        let x = _mm256_set1_ps(black_box(0.5));
        for _ in 0..n_steps {
            for sum in &mut sums {
                *sum = _mm256_fmadd_ps(x, x, *sum);
            }
        }
        black_box(sums);
        8
    }
    match isa.level() {
        // SAFETY: the `Isa` proves the features.
        Level::Avx512 => unsafe { avx512(n_steps) },
        // SAFETY: the `Isa` proves the features.
        Level::Avx2 => unsafe { avx2(n_steps) },
        Level::Scalar => peak_loop_portable(n_steps),
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn peak_loop(_isa: Isa, n_steps: usize) -> usize {
    peak_loop_portable(n_steps)
}

/// Multiply, then add, in four lanes, as SSE2 and NEON have them.
fn peak_loop_portable(n_steps: usize) -> usize {
    let mut sums = [[0.0f32; 4]; CHAINS];
    let x = black_box(0.5f32);
    for _ in 0..n_steps {
        for sum in sums.as_flattened_mut() {
            *sum = *sum * x + x;
        }
    }
    black_box(sums);
    4
}
