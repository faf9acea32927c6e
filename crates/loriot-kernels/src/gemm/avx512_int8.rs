//! Activations as bytes with a scale per row, and numbers from sums of products of bytes, for AVX-512's dot products and
//! for AMX.

use std::arch::x86_64::*;

use super::avx512_copy::{load, load_words};
use super::avx512_pack::load_2;
use super::tiles::TILE;
use super::weight;

/// `bytes = round(127·values/max|values|) + 128`, in groups of 32, the last filled up with 128; returns the scale
/// `alpha·max|values|/127`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")]
pub(super) fn quantize(bytes: &mut [[u8; 2 * TILE]], values: &[f32], alpha: f32) -> f32 {
    let mut greatest = _mm512_setzero_ps();
    for values in values.chunks(2 * TILE) {
        let [low, high] = load_2(values, 1.0);
        let pair = _mm512_max_ps(_mm512_abs_ps(low), _mm512_abs_ps(high));
        greatest = _mm512_max_ps(greatest, pair);
    }
    let greatest = _mm512_reduce_max_ps(greatest);
    let per_unit = if greatest > 0.0 { 127.0 / greatest } else { 0.0 };
    for (bytes, values) in bytes.iter_mut().zip(values.chunks(2 * TILE)) {
        let halves = bytes.as_chunks_mut::<TILE>().0;
        for (half, values) in halves.iter_mut().zip(load_2(values, per_unit)) {
            let rounded = _mm512_cvtps_epi32(values);
            let shifted = _mm512_cvtepi32_epi8(_mm512_add_epi32(rounded, _mm512_set1_epi32(128)));
            // SAFETY: `half` is 16 writable bytes, and `storeu` needs no alignment.
            unsafe { _mm_storeu_si128(half.as_mut_ptr().cast(), shifted) };
        }
    }
    alpha * (greatest / 127.0)
}

/// What turns sums of 16 columns into numbers.
#[derive(Clone, Copy)]
pub(super) struct Int8Columns {
    /// `128·Σw`: activations are shifted by 128.
    shift: __m512i,
    scale: __m512,
}

impl Int8Columns {
    /// Of the columns from `col` on.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")]
    pub(super) fn new(w: &weight::Int8, (block, col): (usize, usize)) -> Int8Columns {
        let sums_o: &[i32; TILE] =
            w.sums_ko[block * w.scale_o.len() + col..].first_chunk().expect("a whole panel");
        let scale_o = w.scale_o[col..].first_chunk().expect("a whole panel");
        Int8Columns { shift: _mm512_slli_epi32::<7>(load_words(sums_o)), scale: load(scale_o) }
    }

    /// `start + (sums − 128·Σw)·(scale of the row · scale of the column)`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")]
    pub(super) fn dequantize(self, sums: __m512i, row_scale: f32, start: __m512) -> __m512 {
        let sums = _mm512_cvtepi32_ps(_mm512_sub_epi32(sums, self.shift));
        _mm512_fmadd_ps(sums, _mm512_mul_ps(_mm512_set1_ps(row_scale), self.scale), start)
    }
}
