//! Eight lanes in a 256-bit register, with fused multiply-add.

use super::{Lanes, Vector};
use std::arch::x86_64::*;
use std::ops::{Add, Div, Mul, Sub};

/// Proof that the CPU has AVX2 and FMA: only [`Lanes::here`] makes one, after asking.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(());

/// Eight lanes. Only an [`Avx2`] makes one, so it is a proof as well.
#[derive(Clone, Copy)]
pub(crate) struct F32x8(__m256);

/// Whole lanes, then none: eight elements from `8 - n` on are a mask of the first `n` lanes.
static MASKS: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];

impl Avx2 {
    /// A mask of the first `n` lanes.
    #[inline(always)]
    fn mask(self, n: usize) -> __m256i {
        let mask: &[i32; 8] = MASKS[8 - n..].first_chunk().expect("8 of the last 8 + n");
        // SAFETY: `mask` is 32 readable bytes and `loadu` needs no alignment; `self` proves the CPU's features.
        unsafe { _mm256_loadu_si256(mask.as_ptr().cast()) }
    }
}

impl Lanes for Avx2 {
    type F32 = F32x8;

    const N: usize = 8;

    #[inline(always)]
    fn here() -> Self {
        assert!(is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"), "no AVX2");
        Avx2(())
    }

    #[inline(always)]
    fn splat(self, x: f32) -> F32x8 {
        // SAFETY: `self` proves the CPU's features.
        F32x8(unsafe { _mm256_set1_ps(x) })
    }

    #[inline(always)]
    fn load(self, x: &[f32]) -> F32x8 {
        let x: &[f32; 8] = x.first_chunk().expect("at least a vector");
        // SAFETY: `x` is 32 readable bytes and `loadu` needs no alignment; `self` proves the CPU's features.
        F32x8(unsafe { _mm256_loadu_ps(x.as_ptr()) })
    }

    #[inline(always)]
    fn load_part(self, x: &[f32], fill: f32) -> F32x8 {
        let mask = self.mask(x.len());
        // SAFETY: the mask selects the first `x.len()` elements, and no others are read; `self` proves the CPU's features.
        unsafe {
            let loaded = _mm256_maskload_ps(x.as_ptr(), mask);
            F32x8(_mm256_blendv_ps(_mm256_set1_ps(fill), loaded, _mm256_castsi256_ps(mask)))
        }
    }

    #[inline(always)]
    fn store(self, y: &mut [f32], value: F32x8) {
        let y: &mut [f32; 8] = y.first_chunk_mut().expect("at least a vector");
        // SAFETY: `y` is 32 writable bytes and `storeu` needs no alignment; `self` proves the CPU's features.
        unsafe { _mm256_storeu_ps(y.as_mut_ptr(), value.0) }
    }

    #[inline(always)]
    fn store_part(self, y: &mut [f32], value: F32x8) {
        let mask = self.mask(y.len());
        // SAFETY: the mask selects the first `y.len()` elements, and no others are written; `self` proves the CPU's features.
        unsafe { _mm256_maskstore_ps(y.as_mut_ptr(), mask, value.0) }
    }

    /// The three-stage network: pairs, quadruples, halves.
    #[inline(always)]
    fn transpose(self, rows: [[f32; 8]; 8]) -> [[f32; 8]; 8] {
        let mut columns = [[0.0; 8]; 8];
        // SAFETY: each row and column is 32 bytes, unaligned access is allowed; `self` proves the CPU's features.
        unsafe {
            let row = |i: usize| _mm256_loadu_ps(rows[i].as_ptr());
            let [r0, r1, r2, r3] = [row(0), row(1), row(2), row(3)];
            let [r4, r5, r6, r7] = [row(4), row(5), row(6), row(7)];
            let (p0, p1) = (_mm256_unpacklo_ps(r0, r1), _mm256_unpackhi_ps(r0, r1));
            let (p2, p3) = (_mm256_unpacklo_ps(r2, r3), _mm256_unpackhi_ps(r2, r3));
            let (p4, p5) = (_mm256_unpacklo_ps(r4, r5), _mm256_unpackhi_ps(r4, r5));
            let (p6, p7) = (_mm256_unpacklo_ps(r6, r7), _mm256_unpackhi_ps(r6, r7));
            // 0x44 takes the low halves of both operands, 0xee the high ones; in each 128-bit half by itself.
            let (q0, q1) = (_mm256_shuffle_ps::<0x44>(p0, p2), _mm256_shuffle_ps::<0xee>(p0, p2));
            let (q2, q3) = (_mm256_shuffle_ps::<0x44>(p1, p3), _mm256_shuffle_ps::<0xee>(p1, p3));
            let (q4, q5) = (_mm256_shuffle_ps::<0x44>(p4, p6), _mm256_shuffle_ps::<0xee>(p4, p6));
            let (q6, q7) = (_mm256_shuffle_ps::<0x44>(p5, p7), _mm256_shuffle_ps::<0xee>(p5, p7));
            let done = [
                _mm256_permute2f128_ps::<0x20>(q0, q4),
                _mm256_permute2f128_ps::<0x20>(q1, q5),
                _mm256_permute2f128_ps::<0x20>(q2, q6),
                _mm256_permute2f128_ps::<0x20>(q3, q7),
                _mm256_permute2f128_ps::<0x31>(q0, q4),
                _mm256_permute2f128_ps::<0x31>(q1, q5),
                _mm256_permute2f128_ps::<0x31>(q2, q6),
                _mm256_permute2f128_ps::<0x31>(q3, q7),
            ];
            for (column, done) in columns.iter_mut().zip(done) {
                _mm256_storeu_ps(column.as_mut_ptr(), done);
            }
        }
        columns
    }
}

/// An operator by its intrinsic.
macro_rules! operator {
    ($trait:ident, $method:ident, $intrinsic:ident) => {
        impl $trait for F32x8 {
            type Output = F32x8;

            #[inline(always)]
            fn $method(self, other: F32x8) -> F32x8 {
                // SAFETY: `self` proves the CPU's features.
                F32x8(unsafe { $intrinsic(self.0, other.0) })
            }
        }
    };
}

operator!(Add, add, _mm256_add_ps);
operator!(Sub, sub, _mm256_sub_ps);
operator!(Mul, mul, _mm256_mul_ps);
operator!(Div, div, _mm256_div_ps);

impl Vector for F32x8 {
    #[inline(always)]
    fn mul_add(self, factor: F32x8, term: F32x8) -> F32x8 {
        // SAFETY: `self` proves the CPU's features.
        F32x8(unsafe { _mm256_fmadd_ps(self.0, factor.0, term.0) })
    }

    #[inline(always)]
    fn neg_mul_add(self, factor: F32x8, term: F32x8) -> F32x8 {
        // SAFETY: `self` proves the CPU's features.
        F32x8(unsafe { _mm256_fnmadd_ps(self.0, factor.0, term.0) })
    }

    #[inline(always)]
    fn min(self, other: F32x8) -> F32x8 {
        // SAFETY: `self` proves the CPU's features.
        F32x8(unsafe { _mm256_min_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn max(self, other: F32x8) -> F32x8 {
        // SAFETY: `self` proves the CPU's features.
        F32x8(unsafe { _mm256_max_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn abs(self) -> F32x8 {
        // SAFETY: `self` proves the CPU's features.
        F32x8(unsafe { _mm256_andnot_ps(_mm256_set1_ps(-0.0), self.0) })
    }

    #[inline(always)]
    fn sqrt(self) -> F32x8 {
        // SAFETY: `self` proves the CPU's features.
        F32x8(unsafe { _mm256_sqrt_ps(self.0) })
    }

    #[inline(always)]
    fn if_less(self, limit: F32x8, yes: F32x8, no: F32x8) -> F32x8 {
        // SAFETY: `self` proves the CPU's features.
        unsafe {
            let less = _mm256_cmp_ps::<_CMP_LT_OQ>(self.0, limit.0);
            F32x8(_mm256_blendv_ps(no.0, yes.0, less))
        }
    }

    #[inline(always)]
    fn scale_by_exponent(self, shifted: F32x8) -> F32x8 {
        // SAFETY: `self` proves the CPU's features.
        unsafe {
            let n = _mm256_slli_epi32::<23>(_mm256_castps_si256(shifted.0));
            let bits = _mm256_add_epi32(_mm256_castps_si256(self.0), n);
            F32x8(_mm256_castsi256_ps(bits))
        }
    }

    #[inline(always)]
    fn sum(self) -> f32 {
        // SAFETY: `self` proves the CPU's features.
        unsafe {
            let (low, high) = (_mm256_castps256_ps128(self.0), _mm256_extractf128_ps::<1>(self.0));
            let four = _mm_add_ps(low, high);
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
        }
    }

    #[inline(always)]
    fn greatest(self) -> f32 {
        // SAFETY: `self` proves the CPU's features.
        unsafe {
            let (low, high) = (_mm256_castps256_ps128(self.0), _mm256_extractf128_ps::<1>(self.0));
            let four = _mm_max_ps(low, high);
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
        }
    }
}
