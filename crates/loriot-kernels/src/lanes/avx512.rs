//! Sixteen lanes in a 512-bit register; tails by masked loads and stores.

use super::{Avx2, Lanes, Vector};
use std::arch::x86_64::*;
use std::ops::{Add, Div, Mul, Sub};

/// Proof that the CPU has AVX2, FMA and AVX-512 F: only [`Lanes::here`] makes one, after asking.
#[derive(Clone, Copy)]
pub(crate) struct Avx512(Avx2);

/// Sixteen lanes. Only an [`Avx512`] makes one, so it is a proof as well.
#[derive(Clone, Copy)]
pub(crate) struct F32x16(__m512);

/// A mask of the first `n` lanes.
#[inline(always)]
fn mask(n: usize) -> __mmask16 {
    assert!(n < 16, "a part of a vector");
    (1 << n) - 1
}

impl Lanes for Avx512 {
    type F32 = F32x16;

    const N: usize = 16;

    #[inline(always)]
    fn here() -> Self {
        assert!(is_x86_feature_detected!("avx512f"), "no AVX-512");
        Avx512(Avx2::here())
    }

    #[inline(always)]
    fn splat(self, x: f32) -> F32x16 {
        // SAFETY: `self` proves the CPU's features.
        F32x16(unsafe { _mm512_set1_ps(x) })
    }

    #[inline(always)]
    fn load(self, x: &[f32]) -> F32x16 {
        let x: &[f32; 16] = x.first_chunk().expect("at least a vector");
        // SAFETY: `x` is 64 readable bytes and `loadu` needs no alignment; `self` proves the CPU's features.
        F32x16(unsafe { _mm512_loadu_ps(x.as_ptr()) })
    }

    #[inline(always)]
    fn load_part(self, x: &[f32], fill: f32) -> F32x16 {
        let mask = mask(x.len());
        // SAFETY: the mask selects the first `x.len()` elements, and no others are read; `self` proves the CPU's features.
        F32x16(unsafe { _mm512_mask_loadu_ps(_mm512_set1_ps(fill), mask, x.as_ptr()) })
    }

    #[inline(always)]
    fn store(self, y: &mut [f32], value: F32x16) {
        let y: &mut [f32; 16] = y.first_chunk_mut().expect("at least a vector");
        // SAFETY: `y` is 64 writable bytes and `storeu` needs no alignment; `self` proves the CPU's features.
        unsafe { _mm512_storeu_ps(y.as_mut_ptr(), value.0) }
    }

    #[inline(always)]
    fn store_part(self, y: &mut [f32], value: F32x16) {
        let mask = mask(y.len());
        // SAFETY: the mask selects the first `y.len()` elements, and no others are written; `self` proves the CPU's features.
        unsafe { _mm512_mask_storeu_ps(y.as_mut_ptr(), mask, value.0) }
    }

    #[inline(always)]
    fn transpose(self, rows: [[f32; 8]; 8]) -> [[f32; 8]; 8] {
        self.0.transpose(rows)
    }
}

/// An operator by its intrinsic.
macro_rules! operator {
    ($trait:ident, $method:ident, $intrinsic:ident) => {
        impl $trait for F32x16 {
            type Output = F32x16;

            #[inline(always)]
            fn $method(self, other: F32x16) -> F32x16 {
                // SAFETY: `self` proves the CPU's features.
                F32x16(unsafe { $intrinsic(self.0, other.0) })
            }
        }
    };
}

operator!(Add, add, _mm512_add_ps);
operator!(Sub, sub, _mm512_sub_ps);
operator!(Mul, mul, _mm512_mul_ps);
operator!(Div, div, _mm512_div_ps);

impl Vector for F32x16 {
    #[inline(always)]
    fn mul_add(self, factor: F32x16, term: F32x16) -> F32x16 {
        // SAFETY: `self` proves the CPU's features.
        F32x16(unsafe { _mm512_fmadd_ps(self.0, factor.0, term.0) })
    }

    #[inline(always)]
    fn neg_mul_add(self, factor: F32x16, term: F32x16) -> F32x16 {
        // SAFETY: `self` proves the CPU's features.
        F32x16(unsafe { _mm512_fnmadd_ps(self.0, factor.0, term.0) })
    }

    #[inline(always)]
    fn min(self, other: F32x16) -> F32x16 {
        // SAFETY: `self` proves the CPU's features.
        F32x16(unsafe { _mm512_min_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn max(self, other: F32x16) -> F32x16 {
        // SAFETY: `self` proves the CPU's features.
        F32x16(unsafe { _mm512_max_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn abs(self) -> F32x16 {
        // SAFETY: `self` proves the CPU's features.
        F32x16(unsafe { _mm512_abs_ps(self.0) })
    }

    #[inline(always)]
    fn sqrt(self) -> F32x16 {
        // SAFETY: `self` proves the CPU's features.
        F32x16(unsafe { _mm512_sqrt_ps(self.0) })
    }

    #[inline(always)]
    fn if_less(self, limit: F32x16, yes: F32x16, no: F32x16) -> F32x16 {
        // SAFETY: `self` proves the CPU's features.
        unsafe {
            let less = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(self.0, limit.0);
            F32x16(_mm512_mask_blend_ps(less, no.0, yes.0))
        }
    }

    #[inline(always)]
    fn scale_by_exponent(self, shifted: F32x16) -> F32x16 {
        // SAFETY: `self` proves the CPU's features.
        unsafe {
            let n = _mm512_slli_epi32::<23>(_mm512_castps_si512(shifted.0));
            let bits = _mm512_add_epi32(_mm512_castps_si512(self.0), n);
            F32x16(_mm512_castsi512_ps(bits))
        }
    }

    #[inline(always)]
    fn sum(self) -> f32 {
        // SAFETY: `self` proves the CPU's features.
        unsafe { _mm512_reduce_add_ps(self.0) }
    }

    #[inline(always)]
    fn greatest(self) -> f32 {
        // SAFETY: `self` proves the CPU's features.
        unsafe { _mm512_reduce_max_ps(self.0) }
    }
}
