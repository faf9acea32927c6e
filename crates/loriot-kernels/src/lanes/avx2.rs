//! Eight lanes in a 256-bit register, with fused multiply-add.

use super::{Lanes, Vector, Words};
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

    type Table = [F32x8; 2];

    type Words = U64x4;

    const N: usize = 8;

    #[inline(always)]
    fn here() -> Self {
        assert!(is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"), "no AVX2");
        Avx2(())
    }

    #[inline(always)]
    fn apart<R>(self, f: impl FnOnce() -> R) -> R {
        #[inline(never)]
        #[target_feature(enable = "avx2,fma")]
        fn apart<R>(f: impl FnOnce() -> R) -> R {
            f()
        }
        // SAFETY: `self` proves the CPU's features.
        unsafe { apart(f) }
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

    #[inline(always)]
    fn splat_pair(self, pair: &[f32; 2]) -> F32x8 {
        let pair = u64::from(pair[0].to_bits()) | u64::from(pair[1].to_bits()) << 32;
        // SAFETY: `self` proves the CPU's features.
        F32x8(unsafe { _mm256_castsi256_ps(_mm256_set1_epi64x(pair as i64)) })
    }

    #[inline(always)]
    fn load_pairs<'a>(self, row: impl Fn(usize) -> &'a [f32; 4]) -> (F32x8, F32x8) {
        // SAFETY: each row is 16 readable bytes and `loadu` needs no alignment; `self` proves the CPU's features.
        unsafe {
            let (r0, r1) = (_mm_loadu_ps(row(0).as_ptr()), _mm_loadu_ps(row(1).as_ptr()));
            let (r2, r3) = (_mm_loadu_ps(row(2).as_ptr()), _mm_loadu_ps(row(3).as_ptr()));
            let even = _mm256_castps_pd(_mm256_set_m128(r2, r0));
            let odd = _mm256_castps_pd(_mm256_set_m128(r3, r1));
            let first = _mm256_castpd_ps(_mm256_unpacklo_pd(even, odd));
            (F32x8(first), F32x8(_mm256_castpd_ps(_mm256_unpackhi_pd(even, odd))))
        }
    }

    #[inline(always)]
    fn table(self, entries: &[f32; 16]) -> [F32x8; 2] {
        [self.load(&entries[..8]), self.load(&entries[8..])]
    }

    #[inline(always)]
    fn look_up(self, [low, high]: [F32x8; 2], index: F32x8) -> F32x8 {
        // SAFETY: `self` proves the CPU's features.
        unsafe {
            let index = _mm256_castps_si256(index.0);
            let low = _mm256_permutevar8x32_ps(low.0, index);
            let high = _mm256_permutevar8x32_ps(high.0, index);
            // The blend goes by sign bits: the index's fourth bit moves there.
            let which = _mm256_castsi256_ps(_mm256_slli_epi32::<28>(index));
            F32x8(_mm256_blendv_ps(low, high, which))
        }
    }

    #[inline(always)]
    fn splat_word(self, word: u32) -> U64x4 {
        // SAFETY: `self` proves the CPU's features.
        U64x4(unsafe { _mm256_set1_epi32(word as i32) })
    }

    #[inline(always)]
    fn count(self, first: u32, step: u32) -> U64x4 {
        // SAFETY: `self` proves the CPU's features.
        unsafe {
            let steps = _mm256_mul_epu32(_mm256_setr_epi64x(0, 1, 2, 3), self.splat_word(step).0);
            U64x4(_mm256_add_epi32(steps, _mm256_set1_epi64x(first.into())))
        }
    }

    #[inline(always)]
    fn count_zipped(self, first: u32) -> U64x4 {
        // SAFETY: `self` proves the CPU's features.
        unsafe {
            let lanes = _mm256_setr_epi64x(0, 2, 1, 3);
            U64x4(_mm256_add_epi32(lanes, _mm256_set1_epi64x(first.into())))
        }
    }
}

/// Four 64-bit lanes. Only an [`Avx2`] makes one, so it is a proof as well.
#[derive(Clone, Copy)]
pub(crate) struct U64x4(__m256i);

impl Words for U64x4 {
    #[inline(always)]
    fn times(self, factor: U64x4) -> U64x4 {
        // SAFETY: `self` proves the CPU's features.
        U64x4(unsafe { _mm256_mul_epu32(self.0, factor.0) })
    }

    #[inline(always)]
    fn high(self) -> U64x4 {
        // A shuffle, as the shift would go where the products go. SAFETY: `self` proves the CPU's features.
        U64x4(unsafe { _mm256_shuffle_epi32::<0xf5>(self.0) })
    }

    #[inline(always)]
    fn xor(self, a: U64x4, b: U64x4) -> U64x4 {
        // SAFETY: `self` proves the CPU's features.
        U64x4(unsafe { _mm256_xor_si256(_mm256_xor_si256(self.0, a.0), b.0) })
    }

    #[inline(always)]
    fn join(self, high: U64x4) -> U64x4 {
        // SAFETY: `self` proves the CPU's features.
        U64x4(unsafe { _mm256_blend_epi32::<0xaa>(self.0, _mm256_shuffle_epi32::<0xa0>(high.0)) })
    }

    #[inline(always)]
    fn unzip(self, other: U64x4) -> (U64x4, U64x4) {
        // SAFETY: `self` proves the CPU's features.
        unsafe {
            let low = _mm256_unpacklo_epi64(self.0, other.0);
            (U64x4(low), U64x4(_mm256_unpackhi_epi64(self.0, other.0)))
        }
    }

    #[inline(always)]
    fn at_least(self, threshold: u32) -> u16 {
        // SAFETY: `self` proves the CPU's features.
        unsafe {
            let greater = _mm256_max_epu32(self.0, _mm256_set1_epi32(threshold as i32));
            let kept = _mm256_castsi256_ps(_mm256_cmpeq_epi32(greater, self.0));
            _mm256_movemask_ps(kept) as u16
        }
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
    fn with_sign_of(self, other: F32x8) -> F32x8 {
        // SAFETY: `self` proves the CPU's features.
        unsafe {
            let sign = _mm256_and_ps(other.0, _mm256_set1_ps(-0.0));
            F32x8(_mm256_xor_ps(self.0, sign))
        }
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
    fn add_pairs(self, other: F32x8) -> F32x8 {
        // SAFETY: `self` proves the CPU's features.
        unsafe {
            let straight = _mm256_blend_ps::<0xaa>(self.0, other.0);
            let crossed = F32x8(_mm256_blend_ps::<0xaa>(other.0, self.0)).swap_pairs();
            F32x8(_mm256_add_ps(straight, crossed.0))
        }
    }

    #[inline(always)]
    fn swap_pairs(self) -> F32x8 {
        // SAFETY: `self` proves the CPU's features.
        F32x8(unsafe { _mm256_permute_ps::<0xb1>(self.0) })
    }

    #[inline(always)]
    fn keep(self, bits: u16) -> F32x8 {
        // SAFETY: `self` proves the CPU's features.
        unsafe {
            let lane = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
            let bits = _mm256_and_si256(_mm256_set1_epi32(bits.into()), lane);
            let keep = _mm256_castsi256_ps(_mm256_cmpeq_epi32(bits, lane));
            F32x8(_mm256_and_ps(self.0, keep))
        }
    }
}
