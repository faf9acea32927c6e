//! Rounding to bf16 and packing panels of it in the order of [`super::tiles`], for AVX-512's dot products and for AMX.

use std::arch::x86_64::*;

use super::avx512_copy::{load, load_words, row_part};
use super::tiles::{self, BF16_STEP, TILE};
use super::{Mat, PackedWeight};
use std::ops::Range;

/// 32 values, or fewer and zeros behind them, times `alpha`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")]
pub(super) fn load_2(values: &[f32], alpha: f32) -> [__m512; 2] {
    let alpha = _mm512_set1_ps(alpha);
    if let ([low, high], _) = values.as_chunks() {
        return [_mm512_mul_ps(load(low), alpha), _mm512_mul_ps(load(high), alpha)];
    }
    let lanes = |from: usize| {
        let n = values.len().saturating_sub(from).min(TILE);
        ((1u32 << n) - 1) as __mmask16
    };
    // SAFETY: each mask has as many bits as there are values from its offset on.
    unsafe {
        let low = _mm512_maskz_loadu_ps(lanes(0), values.as_ptr());
        let high = _mm512_maskz_loadu_ps(lanes(TILE), values.as_ptr().wrapping_add(TILE));
        [_mm512_mul_ps(low, alpha), _mm512_mul_ps(high, alpha)]
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn store_bf16(to: &mut [u16; BF16_STEP], values: __m512bh) {
    // SAFETY: both are 64 bytes, all of whose patterns are values, and `storeu` needs no alignment.
    unsafe {
        let values: __m512i = std::mem::transmute(values);
        _mm512_storeu_si512(to.as_mut_ptr().cast(), values);
    }
}

/// Words of two bf16 from the two halves of a register: lane `c` of the first and of the second.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn interleave_halves(halves: __m512bh) -> __m512bh {
    const ORDER: [u16; 32] = {
        let mut order = [0; 32];
        let mut c = 0;
        while c < 16 {
            (order[2 * c], order[2 * c + 1]) = (c as u16, 16 + c as u16);
            c += 1;
        }
        order
    };
    // SAFETY: the array and the vectors are 64 bytes, all of whose patterns are values.
    unsafe {
        let order: __m512i = std::mem::transmute(ORDER);
        let halves: __m512i = std::mem::transmute(halves);
        std::mem::transmute(_mm512_permutexvar_epi16(order, halves))
    }
}

/// A panel from at most 32 columns of contiguous rows.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma")]
pub(super) fn pack_right_bf16(panel: &mut [u16], b: Mat, scale: f32) {
    let row = |k: usize, col: usize| row_part(b, k, col);
    for k in (0..b.n_rows()).step_by(2) {
        for (tile, col) in (0..b.n_cols()).step_by(TILE).enumerate() {
            let [first, second] = [row(k, col), row(k + 1, col)];
            let rounded = _mm512_cvtne2ps_pbh(load_2(second, scale)[0], load_2(first, scale)[0]);
            let at = tiles::place(2, k, tile);
            let to = panel[at..].first_chunk_mut().expect("a row of a tile");
            store_bf16(to, interleave_halves(rounded));
        }
    }
}

/// A panel of `W` from those of `Wᵀ`; see [`super::kernel::Kernel::pack_transposed`].
///
/// A stored tile is 16 pairs of inputs by 16 outputs. Of 8 pairs by 8 pairs of outputs, quadruples of 2×2 values are
/// transposed where they stand, and then the quadruples as numbers of 64 bits.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")]
pub(super) fn pack_transposed<const PLANES: usize>(
    panel: &mut [u16],
    w: &PackedWeight,
    stored: &[u16],
    o: Range<usize>,
    i: Range<usize>,
) {
    /// bf16 of one row of a tile.
    const ROW: usize = 2 * TILE;
    const HALF: usize = TILE / 2;
    /// bf16 of a step of one plane.
    const STEP: usize = 4 * TILE * TILE;
    assert!(o.start.is_multiple_of(BF16_STEP) && i.start.is_multiple_of(BF16_STEP));
    assert!(i.len() <= tiles::NR, "columns of a panel");
    let steps = o.step_by(BF16_STEP).flat_map(|o| {
        let from = &stored[w.start_of(o / tiles::NR, i.start)..][..PLANES * STEP];
        from.as_chunks::<STEP>().0
    });
    for (from, to) in steps.zip(panel.as_chunks_mut::<STEP>().0) {
        for (from_tile, to_tile) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            let from = &from[(from_tile * TILE + to_tile * HALF) * ROW..];
            let to = &mut to[(to_tile * TILE + from_tile * HALF) * ROW..];
            let rows: [__m512i; HALF] = std::array::from_fn(|r| {
                let row: &[u16; ROW] = from[r * ROW..].first_chunk().expect("a row of a tile");
                // 2×2 values a, b, c, d become a, c, b, d.
                let row = _mm512_shufflelo_epi16::<0b11_01_10_00>(load_words(row));
                _mm512_shufflehi_epi16::<0b11_01_10_00>(row)
            });
            for (r, row) in transpose_words_64(rows).into_iter().enumerate() {
                let to: &mut [u16; ROW] = to[r * ROW..].first_chunk_mut().expect("a row of a tile");
                // SAFETY: `to` is 64 writable bytes, and `storeu` needs no alignment.
                unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), row) };
            }
        }
    }
}

/// The transpose of 8 rows of 8 numbers of 64 bits.
#[inline]
#[target_feature(enable = "avx512f")]
fn transpose_words_64(rows: [__m512i; 8]) -> [__m512i; 8] {
    // First the 2×2 blocks of each 128-bit quarter, then the quarters.
    let mut pairs = [_mm512_setzero_si512(); 8];
    for r in [0, 2, 4, 6] {
        pairs[r] = _mm512_unpacklo_epi64(rows[r], rows[r + 1]);
        pairs[r + 1] = _mm512_unpackhi_epi64(rows[r], rows[r + 1]);
    }
    let mut columns = [_mm512_setzero_si512(); 8];
    for j in 0..2 {
        let [a, b, c, d] = [pairs[j], pairs[2 + j], pairs[4 + j], pairs[6 + j]];
        let (ab_even, ab_odd) = (
            _mm512_shuffle_i64x2::<0b10_00_10_00>(a, b),
            _mm512_shuffle_i64x2::<0b11_01_11_01>(a, b),
        );
        let (cd_even, cd_odd) = (
            _mm512_shuffle_i64x2::<0b10_00_10_00>(c, d),
            _mm512_shuffle_i64x2::<0b11_01_11_01>(c, d),
        );
        columns[j] = _mm512_shuffle_i64x2::<0b10_00_10_00>(ab_even, cd_even);
        columns[2 + j] = _mm512_shuffle_i64x2::<0b10_00_10_00>(ab_odd, cd_odd);
        columns[4 + j] = _mm512_shuffle_i64x2::<0b11_01_11_01>(ab_even, cd_even);
        columns[6 + j] = _mm512_shuffle_i64x2::<0b11_01_11_01>(ab_odd, cd_odd);
    }
    columns
}
