//! How much of one core's peak the matrix products reach, at the shapes of MiniLM and e5-large.
//!
//! ```text
//! cargo run --release -p loriot-kernels --example gemm_peak [-- [--json] [--seconds 0.3] [FILTER]]
//! ```
//!
//! The peak is measured in the same run, just before and after each product, by a loop of independent instructions of
//! the kind that the product uses: multiply-adds of f32, dot products of bf16 and bytes, or tiles. f32 is always held
//! against multiply-adds, also where it is made of tiles of bf16. Every answer is checked before it is timed; figures
//! are medians. `LORIOT_ISA` forces an instruction set; FILTER keeps the lines that contain it. `--json` prints one
//! object a line: `precision`, `product`, `m`, `k`, `n`, `gflops`, `best_gflops`, `peak_gflops`.
#![allow(clippy::print_stdout, reason = "a bench prints its results")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use loriot_kernels::gemm::{Init, Mat, MatMut, Precision};
use loriot_kernels::isa::{Isa, IsaError};
use peak::peak_gflops;

mod peak;

/// As in the `loriot` binary: pages of 2 MiB.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `(inputs, outputs)` of the linear layers: output, feed-forward up and down.
const LAYERS: [(usize, usize); 6] =
    [(384, 384), (384, 1536), (1536, 384), (1024, 1024), (1024, 4096), (4096, 1024)];

/// Rows: one query, a few texts, and batches.
const ROWS: [usize; 6] = [7, 16, 64, 512, 850, 2048];

fn main() -> Result<(), IsaError> {
    let isa = Isa::from_env()?;
    let mut bench =
        Bench { isa, json: false, filter: String::new(), time: Duration::from_millis(300) };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--json" => bench.json = true,
            "--seconds" => {
                let seconds = arguments.next().and_then(|text| text.parse().ok());
                bench.time = Duration::from_secs_f64(seconds.expect("--seconds takes a number"));
            }
            _ => bench.filter = argument,
        }
    }
    if !bench.json {
        println!("{isa}: GFLOP/s, and the share of one core's measured peak");
        println!("{:<40} {:>9} {:>9} {:>9} {:>7}", "product", "GFLOP/s", "best", "peak", "share");
    }
    for precision in Precision::ALL {
        for (i, o) in LAYERS {
            for n in ROWS {
                bench.layer(precision, n, i, o);
            }
        }
    }
    for precision in [Precision::F32, Precision::Bf16] {
        for rank in [8, 24] {
            bench.lora(precision, 850, 384, rank);
        }
    }
    Ok(())
}

struct Bench {
    isa: Isa,
    json: bool,
    filter: String,
    /// How long each product is run.
    time: Duration,
}

/// A product to time: `left·right`.
struct Product<'a> {
    precision: Precision,
    name: &'a str,
    left: Mat<'a>,
    right: Mat<'a>,
}

impl Bench {
    /// The three products of one linear layer.
    fn layer(&self, precision: Precision, n: usize, i: usize, o: usize) {
        let isa = self.isa;
        let name = |what: &str| format!("{precision} {what} {n} rows, {i} to {o}");
        let names = [name("forward"), name("backward"), name("dW")];
        if !names.iter().any(|name| name.contains(&self.filter)) {
            return;
        }
        let (x, w, dy) = (noise(1, n * i), noise(2, o * i), noise(3, n * o));
        let packed = isa.pack(&[&w], i, precision);
        let (x, w, dy) =
            (Mat::row_major(&x, n, i), Mat::row_major(&w, o, i), Mat::row_major(&dy, n, o));

        let product = Product { precision, name: &names[0], left: x, right: w.t() };
        self.report(product, &mut vec![0.0; n * o], |y| {
            isa.linear(MatMut::row_major(y, n, o), x, &packed, Init::Zero);
        });
        if precision == Precision::Int8 {
            return;
        }
        let product = Product { precision, name: &names[1], left: dy, right: w };
        self.report(product, &mut vec![0.0; n * i], |dx| {
            isa.linear_backward(MatMut::row_major(dx, n, i), dy, &packed, Init::Zero);
        });
        let product = Product { precision, name: &names[2], left: dy.t(), right: x };
        self.report(product, &mut vec![0.0; o * i], |dw| {
            let dw = MatMut::row_major(dw, o, i);
            isa.gemm_in(precision, dw, 1.0, dy.t(), x, Init::Zero);
        });
    }

    /// The skinny products of LoRA: `x·Aᵀ`, `(x·Aᵀ)·Bᵀ`, `dyᵀ·(x·Aᵀ)` and `(dy·B)ᵀ·x`.
    fn lora(&self, precision: Precision, n: usize, d: usize, r: usize) {
        let (x, xa, a, b) = (noise(1, n * d), noise(2, n * r), noise(3, r * d), noise(4, d * r));
        let (x, xa) = (Mat::row_major(&x, n, d), Mat::row_major(&xa, n, r));
        let (a, b) = (Mat::row_major(&a, r, d), Mat::row_major(&b, d, r));
        let products = [
            ("x·Aᵀ", x, a.t()),
            ("xa·Bᵀ", xa, b.t()),
            ("dyᵀ·xa", x.t(), xa),
            ("dybᵀ·x", xa.t(), x),
        ];
        for (what, left, right) in products {
            let (rows, cols) = (left.n_rows(), right.n_cols());
            let name = format!("{precision} LoRA {what} {n} rows, {d}, rank {r}");
            let product = Product { precision, name: &name, left, right };
            self.report(product, &mut vec![0.0; rows * cols], |c| {
                let c = MatMut::row_major(c, rows, cols);
                self.isa.gemm_in(precision, c, 1.0, left, right, Init::Zero);
            });
        }
    }

    /// Checks `run`, then prints its median speed beside the peak of the same moments.
    fn report(&self, product: Product, c: &mut [f32], run: impl Fn(&mut [f32])) {
        let Product { precision, name, left, right } = product;
        if !name.contains(&self.filter) {
            return;
        }
        run(c);
        check(&product, c);
        let (m, k, n) = (left.n_rows(), left.n_cols(), right.n_cols());
        let flops = 2.0 * (m * k * n) as f64;
        let n_runs = (1e8 / flops).clamp(1.0, 1e5) as usize;
        let (mut speeds, mut peaks) = (Vec::new(), Vec::new());
        let begin = Instant::now();
        while begin.elapsed() < self.time || speeds.len() < 5 {
            peaks.push(peak_gflops(self.isa, precision));
            let start = Instant::now();
            for _ in 0..n_runs {
                run(black_box(c));
            }
            speeds.push(flops * n_runs as f64 / start.elapsed().as_secs_f64() / 1e9);
        }
        let best = speeds.iter().copied().fold(0.0, f64::max);
        let (gflops, peak) = (median(speeds), median(peaks));
        if self.json {
            println!(
                "{{\"precision\":\"{precision}\",\"product\":\"{name}\",\"m\":{m},\"k\":{k},\"n\":{n},\
                 \"gflops\":{gflops:.1},\"best_gflops\":{best:.1},\"peak_gflops\":{peak:.1}}}"
            );
        } else {
            let share = 100.0 * gflops / peak;
            println!("{name:<40} {gflops:>9.1} {best:>9.1} {peak:>9.1} {share:>6.1}%");
        }
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Some elements, by the definition in f64.
fn check(product: &Product, c: &[f32]) {
    let &Product { precision, name, left, right } = product;
    // Of the sum of the products' magnitudes: what rounding both operands, and each sum, can come to. Bytes are within
    // 1/254 of the greatest of their row or column.
    let share = match precision {
        Precision::F32 => 0.0,
        Precision::Bf16 => 2.0 / 256.0,
        Precision::Int8 => 4.0 / 127.0,
    };
    let (rows, cols, depth) = (left.n_rows(), right.n_cols(), left.n_cols());
    for at in (0..rows * cols).step_by(1 + rows * cols / 50) {
        let (row, col) = (at / cols, at % cols);
        let products = (0..depth).map(|k| f64::from(left.at(row, k)) * f64::from(right.at(k, col)));
        let (want, magnitude) =
            products.fold((0.0, 0.0), |(sum, abs), product| (sum + product, abs + product.abs()));
        let error = (f64::from(c[at]) - want).abs();
        let bound = (share + (depth + 2) as f64 * f64::from(f32::EPSILON)) * magnitude;
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
