//! One core's peak of f32 multiply-adds, by a loop of independent ones at the width of a level.

use loriot_kernels::isa::Isa;
use std::hint::black_box;
use std::time::Instant;

/// Independent multiply-adds, as many in flight as hide their latency.
const CHAINS: usize = 12;

/// Measured now: clocks and neighbours change from second to second.
pub(crate) fn peak_gflops(isa: Isa) -> f64 {
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
    let level = isa.level();
    if level >= Level::Avx512 {
        // SAFETY: an `Isa` of this level, or of one above it, exists only where the CPU has AVX-512.
        unsafe { avx512(n_steps) }
    } else if level == Level::Avx2 {
        // SAFETY: an `Isa` of this level exists only where the CPU has AVX2 and FMA.
        unsafe { avx2(n_steps) }
    } else {
        peak_loop_portable(n_steps)
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
