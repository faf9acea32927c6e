//! Rounding to bf16 and packing panels of it in the order of [`super::tiles`], for AVX-512's dot products and for AMX.

use std::arch::x86_64::*;

use super::avx512_copy::{Rows, load, load_words, transpose};
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

/// 16 values, or fewer and zeros behind them, times `alpha`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")]
pub(super) fn load_1(values: &[f32], alpha: f32) -> __m512 {
    let alpha = _mm512_set1_ps(alpha);
    if let Some(values) = values.first_chunk() {
        return _mm512_mul_ps(load(values), alpha);
    }
    let lanes = ((1u32 << values.len()) - 1) as __mmask16;
    // SAFETY: the mask has as many bits as there are values, fewer than 16.
    _mm512_mul_ps(unsafe { _mm512_maskz_loadu_ps(lanes, values.as_ptr()) }, alpha)
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

/// The first parts of 32 values, of which three are all: each the bf16 nearest to what the ones before leave over.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma")]
pub(super) fn split<const P: usize>([mut low, mut high]: [__m512; 2]) -> [__m512bh; P] {
    let mut planes = [_mm512_cvtne2ps_pbh(high, low); P];
    for plane in 1..P {
        // SAFETY: both types are 64 bytes, all of whose patterns are values.
        let before: __m512i = unsafe { std::mem::transmute(planes[plane - 1]) };
        let widen = |half: __m256i| {
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(half)))
        };
        low = _mm512_sub_ps(low, widen(_mm512_castsi512_si256(before)));
        high = _mm512_sub_ps(high, widen(_mm512_extracti64x4_epi64::<1>(before)));
        planes[plane] = _mm512_cvtne2ps_pbh(high, low);
    }
    planes
}

/// The strips of a view whose columns are contiguous, in one bf16 or three, filled up with zeros to whole steps.
///
/// `place(row, step, plane)` tells where in `strips` the step of row `row`, the first of 16, begins, and the distance of the
/// following rows. Pairs of a column's values, rounded, are words of 32 bits; 16 rows of 16 of them are transposed in
/// registers.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma")]
pub(super) fn pack_left_transposed<const P: usize>(
    strips: &mut [u16],
    a: Mat,
    alpha: f32,
    place: impl Fn(usize, usize, usize) -> (usize, usize),
) {
    let columns = Rows::new(a.t());
    for (step, k) in (0..a.n_cols()).step_by(BF16_STEP).enumerate() {
        for row in (0..a.n_rows()).step_by(TILE) {
            let mut words = [[_mm512_setzero_ps(); P]; TILE];
            for (pair, words) in words.iter_mut().enumerate() {
                let column = |k: usize| load_1(columns.part(k, row), alpha);
                let k = k + 2 * pair;
                let parts = split::<P>([column(k), column(k + 1)]);
                for (word, part) in words.iter_mut().zip(parts) {
                    let part = interleave_halves(part);
                    // SAFETY: both types are 64 bytes, all of whose patterns are values.
                    *word = unsafe { std::mem::transmute::<__m512bh, __m512>(part) };
                }
            }
            for plane in 0..P {
                let (first, stride) = place(row, step, plane);
                // Behind the last row of `a` come zeros, as far as there is room for them.
                let to = strips[first..].chunks_mut(stride).take(TILE);
                for (to, row) in to.zip(transpose(words.map(|parts| parts[plane]))) {
                    let to = to.first_chunk_mut().expect("a step");
                    // SAFETY: as above.
                    store_bf16(to, unsafe { std::mem::transmute::<__m512, __m512bh>(row) });
                }
            }
        }
    }
}

/// A panel from at most 32 columns.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma")]
pub(super) fn pack_right_bf16(panel: &mut [u16], b: Rows, scale: f32) {
    for k in (0..b.n_rows()).step_by(2) {
        for (tile, col) in (0..b.n_cols()).step_by(TILE).enumerate() {
            let [first, second] = [b.part(k, col), b.part(k + 1, col)];
            let rounded = _mm512_cvtne2ps_pbh(load_1(second, scale), load_1(first, scale));
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
    // 2×2 values a, b, c, d of two bytes become a, c, b, d, in each 8 bytes of a quarter.
    let order =
        _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15));
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
                _mm512_shuffle_epi8(load_words(row), order)
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
