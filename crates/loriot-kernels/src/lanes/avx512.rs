//! Sixteen lanes in a 512-bit register; tails by masked loads and stores.

use super::{Avx2, Lanes, Vector, Words};
use std::arch::x86_64::*;
use std::ops::{Add, Div, Mul, Sub};

/// Proof that the CPU has AVX2, FMA and AVX-512 F, BW, VL and DQ: only [`Lanes::here`] makes one, after asking.
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

    type Table = F32x16;

    type Words = U64x8;

    const N: usize = 16;

    #[inline(always)]
    fn here() -> Self {
        let has = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512dq");
        assert!(has, "no AVX-512");
        Avx512(Avx2::here())
    }

    #[inline(always)]
    fn apart<R>(self, f: impl FnOnce() -> R) -> R {
        #[inline(never)]
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")]
        fn apart<R>(f: impl FnOnce() -> R) -> R {
            f()
        }
        // SAFETY: `self` proves the CPU's features.
        unsafe { apart(f) }
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
    fn splat_pair(self, pair: &[f32; 2]) -> F32x16 {
        let pair = u64::from(pair[0].to_bits()) | u64::from(pair[1].to_bits()) << 32;
        // SAFETY: `self` proves the CPU's features.
        F32x16(unsafe { _mm512_castsi512_ps(_mm512_set1_epi64(pair as i64)) })
    }

    #[inline(always)]
    fn load_pairs<'a>(self, row: impl Fn(usize) -> &'a [f32; 4]) -> (F32x16, F32x16) {
        // SAFETY: each row is 16 readable bytes and `loadu` needs no alignment; `self` proves the CPU's features.
        unsafe {
            let mut quarters = [_mm512_setzero_ps(); 2];
            // Four rows in the quarters of a register: masked broadcasts cost no shuffle.
            for (first, x) in quarters.iter_mut().enumerate() {
                *x = _mm512_castps128_ps512(_mm_loadu_ps(row(first).as_ptr()));
                let third = _mm_loadu_ps(row(first + 2).as_ptr());
                *x = _mm512_mask_broadcast_f32x4(*x, 0x00f0, third);
                let fifth = _mm_loadu_ps(row(first + 4).as_ptr());
                *x = _mm512_mask_broadcast_f32x4(*x, 0x0f00, fifth);
                let seventh = _mm_loadu_ps(row(first + 6).as_ptr());
                *x = _mm512_mask_broadcast_f32x4(*x, 0xf000, seventh);
            }
            let (even, odd) = (_mm512_castps_pd(quarters[0]), _mm512_castps_pd(quarters[1]));
            let first = _mm512_castpd_ps(_mm512_unpacklo_pd(even, odd));
            (F32x16(first), F32x16(_mm512_castpd_ps(_mm512_unpackhi_pd(even, odd))))
        }
    }

    #[inline(always)]
    fn table(self, entries: &[f32; 16]) -> F32x16 {
        self.load(entries)
    }

    #[inline(always)]
    fn look_up(self, table: F32x16, index: F32x16) -> F32x16 {
        // SAFETY: `self` proves the CPU's features.
        F32x16(unsafe { _mm512_permutexvar_ps(_mm512_castps_si512(index.0), table.0) })
    }

    #[inline(always)]
    fn splat_word(self, word: u32) -> U64x8 {
        // SAFETY: `self` proves the CPU's features.
        U64x8(unsafe { _mm512_set1_epi32(word as i32) })
    }

    #[inline(always)]
    fn count(self, first: u32, step: u32) -> U64x8 {
        // SAFETY: `self` proves the CPU's features.
        unsafe {
            let lanes = _mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7);
            let steps = _mm512_mul_epu32(lanes, self.splat_word(step).0);
            U64x8(_mm512_add_epi32(steps, _mm512_set1_epi64(first.into())))
        }
    }

    #[inline(always)]
    fn count_zipped(self, first: u32) -> U64x8 {
        // SAFETY: `self` proves the CPU's features.
        unsafe {
            let lanes = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7);
            U64x8(_mm512_add_epi32(lanes, _mm512_set1_epi64(first.into())))
        }
    }
}

/// Eight 64-bit lanes. Only an [`Avx512`] makes one, so it is a proof as well.
#[derive(Clone, Copy)]
pub(crate) struct U64x8(__m512i);

impl Words for U64x8 {
    #[inline(always)]
    fn times(self, factor: U64x8) -> U64x8 {
        // SAFETY: `self` proves the CPU's features.
        U64x8(unsafe { _mm512_mul_epu32(self.0, factor.0) })
    }

    #[inline(always)]
    fn high(self) -> U64x8 {
        // A shuffle, as the shift would go where the products go. SAFETY: `self` proves the CPU's features.
        U64x8(unsafe { _mm512_shuffle_epi32::<0xf5>(self.0) })
    }

    #[inline(always)]
    fn xor(self, a: U64x8, b: U64x8) -> U64x8 {
        // SAFETY: `self` proves the CPU's features.
        U64x8(unsafe { _mm512_ternarylogic_epi64::<0x96>(self.0, a.0, b.0) })
    }

    #[inline(always)]
    fn join(self, high: U64x8) -> U64x8 {
        // SAFETY: `self` proves the CPU's features.
        U64x8(unsafe { _mm512_mask_shuffle_epi32::<0xa0>(self.0, 0xaaaa, high.0) })
    }

    #[inline(always)]
    fn unzip(self, other: U64x8) -> (U64x8, U64x8) {
        // SAFETY: `self` proves the CPU's features.
        unsafe {
            let low = _mm512_unpacklo_epi64(self.0, other.0);
            (U64x8(low), U64x8(_mm512_unpackhi_epi64(self.0, other.0)))
        }
    }

    #[inline(always)]
    fn at_least(self, threshold: u32) -> u16 {
        // SAFETY: `self` proves the CPU's features.
        unsafe { _mm512_cmpge_epu32_mask(self.0, _mm512_set1_epi32(threshold as i32)) }
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
    fn with_sign_of(self, other: F32x16) -> F32x16 {
        // SAFETY: `self` proves the CPU's features.
        unsafe {
            let (x, sign) = (_mm512_castps_si512(self.0), _mm512_castps_si512(other.0));
            let mask = _mm512_set1_epi32(i32::MIN);
            // a ^ (b & c).
            F32x16(_mm512_castsi512_ps(_mm512_ternarylogic_epi32::<0x78>(x, sign, mask)))
        }
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
    fn add_pairs(self, other: F32x16) -> F32x16 {
        // SAFETY: `self` proves the CPU's features.
        unsafe {
            let straight = _mm512_mask_blend_ps(0xaaaa, self.0, other.0);
            let crossed = F32x16(_mm512_mask_blend_ps(0xaaaa, other.0, self.0)).swap_pairs();
            F32x16(_mm512_add_ps(straight, crossed.0))
        }
    }

    #[inline(always)]
    fn swap_pairs(self) -> F32x16 {
        // SAFETY: `self` proves the CPU's features.
        F32x16(unsafe { _mm512_permute_ps::<0xb1>(self.0) })
    }

    #[inline(always)]
    fn keep(self, bits: u16) -> F32x16 {
        // SAFETY: `self` proves the CPU's features.
        F32x16(unsafe { _mm512_maskz_mov_ps(bits, self.0) })
    }
}
