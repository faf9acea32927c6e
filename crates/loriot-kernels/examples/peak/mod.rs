//! One core's peak, by loops of independent instructions of the kind that products of a precision use.

use loriot_kernels::gemm::Precision;
use loriot_kernels::isa::{Isa, Level};
use std::hint::black_box;
use std::time::Instant;

/// Independent instructions, as many in flight as hide their latency.
const CHAINS: usize = 12;

/// The peak of what an instruction set multiplies this precision with.
pub(crate) fn peak_gflops(isa: Isa, precision: Precision) -> f64 {
    let n_steps = 30_000;
    let start = Instant::now();
    let products = peak_loop(isa, precision, n_steps);
    2.0 * products as f64 / start.elapsed().as_secs_f64() / 1e9
}

/// Returns the number of multiply-adds that were done.
#[cfg(target_arch = "x86_64")]
fn peak_loop(isa: Isa, precision: Precision, n_steps: usize) -> usize {
    #![allow(
        unsafe_code,
        reason = "the peak of an instruction set is measured with its instructions"
    )]
    use std::arch::{asm, x86_64::*};

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
        16 * CHAINS * n_steps
    }
    #[target_feature(enable = "avx512f,avx512bf16")]
    fn bf16(n_steps: usize) -> usize {
        let mut sums = [_mm512_setzero_ps(); CHAINS];
        let x = _mm512_cvtne2ps_pbh(_mm512_set1_ps(black_box(0.5)), _mm512_set1_ps(0.5));
        for _ in 0..n_steps {
            for sum in &mut sums {
                *sum = _mm512_dpbf16_ps(*sum, x, x);
            }
        }
        black_box(sums);
        32 * CHAINS * n_steps
    }
    #[target_feature(enable = "avx512f,avx512vnni")]
    fn int8(n_steps: usize) -> usize {
        let mut sums = [_mm512_setzero_si512(); CHAINS];
        let x = _mm512_set1_epi8(black_box(1));
        for _ in 0..n_steps {
            for sum in &mut sums {
                *sum = _mm512_dpbusd_epi32(*sum, x, x);
            }
        }
        black_box(sums);
        64 * CHAINS * n_steps
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
        8 * CHAINS * n_steps
    }
    /// AVX2 has no dot product of bytes: products of 16 bits, and their sums.
    #[target_feature(enable = "avx2")]
    fn int8_avx2(n_steps: usize) -> usize {
        let mut sums = [_mm256_setzero_si256(); CHAINS];
        // As constants, the products of a step would be one, and a sum of them a multiplication.
        let mut x = _mm256_set1_epi16(black_box(1));
        for _ in 0..n_steps {
            for sum in &mut sums {
                // SAFETY: nothing but one vector register is read and written.
                unsafe { asm!("/* {x} */", x = inout(ymm_reg) x, options(pure, nomem, nostack)) };
                *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(x, x));
            }
        }
        black_box(sums);
        16 * CHAINS * n_steps
    }
    /// Four sums of 16×16, as a micro-kernel has them, on tiles of zeros.
    macro_rules! tiles {
        ($instruction:literal, $per_word:literal, $n_steps:expr) => {{
            let mut config = [0u8; 64];
            config[0] = 1;
            for tile in 0..8 {
                (config[16 + 2 * tile], config[48 + tile]) = (64, 16);
            }
            // SAFETY: an `Isa` of this level proves that tiles may be used; they are given back at the end.
            unsafe {
                asm!(
                    "ldtilecfg [{config}]",
                    "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
                    "tilezero tmm4", "tilezero tmm5", "tilezero tmm6", "tilezero tmm7",
                    "2:",
                    concat!($instruction, " tmm0, tmm4, tmm6"),
                    concat!($instruction, " tmm1, tmm4, tmm7"),
                    concat!($instruction, " tmm2, tmm5, tmm6"),
                    concat!($instruction, " tmm3, tmm5, tmm7"),
                    "dec {n}",
                    "jnz 2b",
                    "tilerelease",
                    config = in(reg) config.as_ptr(),
                    n = inout(reg) $n_steps => _,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                );
            }
            4 * 16 * 16 * 16 * $per_word * $n_steps
        }};
    }
    match (isa.level(), precision) {
        (Level::Scalar, _) => peak_loop_portable(n_steps),
        (Level::Amx, Precision::Bf16) => tiles!("tdpbf16ps", 2, n_steps / 10),
        (Level::Amx, Precision::Int8) => tiles!("tdpbusd", 4, n_steps / 10),
        // SAFETY: the `Isa` proves the features.
        (Level::Avx2, Precision::Int8) => unsafe { int8_avx2(n_steps) },
        // SAFETY: the `Isa` proves the features.
        (Level::Avx2, _) => unsafe { avx2(n_steps) },
        // SAFETY: the `Isa` proves the features.
        (Level::Avx512Bf16, Precision::Bf16) => unsafe { bf16(n_steps) },
        // SAFETY: the `Isa` proves the features.
        (Level::Avx512Bf16, Precision::Int8) => unsafe { int8(n_steps) },
        // SAFETY: the `Isa` proves the features.
        (Level::Avx512 | Level::Avx512Bf16 | Level::Amx, _) => unsafe { avx512(n_steps) },
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn peak_loop(_isa: Isa, _precision: Precision, n_steps: usize) -> usize {
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
    4 * CHAINS * n_steps
}
