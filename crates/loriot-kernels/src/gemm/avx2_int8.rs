//! The int8 micro-kernel of AVX2, which has no dot product of bytes.
//!
//! `vpmaddubsw` multiplies bytes, but saturates: a pair of its products can come to 2·255·127, and 16 bits hold half of
//! that. Here both operands are widened to 16 bits and `vpmaddwd` adds pairs of products in 32, so that sums are exact.
//! They are the integers of AVX-512 VNNI and of AMX, and they become numbers by the same formula: int8 products of
//! finite numbers have the same bits on all three levels.
//!
//! Activations are widened when they are packed, weights in the loop: a stored weight stays one byte, and what is read
//! from L2 or beyond is half of what 16 bits would be. The other exact way, `vpmaddubsw` of magnitudes and signed values,
//! then `vpmaddwd` by ones, takes as many instructions for a product, and more registers.

use std::arch::x86_64::*;

use super::kernel::{self, Start, Tile};
use super::tiles::{self, INT8_KC, INT8_STEP, TILE};
use super::{Mat, PackedWeight, avx2, weight};
use crate::isa::Isa;

/// 6×8: twelve sums (two for each column, of even and of odd pairs of `k`), two vectors of weights, one of activations,
/// and one for products fill the 16 registers.
const MR: usize = 6;
const NR: usize = tiles::NR;

/// Columns of a vector of weights: four, of four consecutive `k` each.
const COLS: usize = 4;

/// Bytes of a step of a strip's row: activations of 16 bits.
const STEP: usize = 2 * INT8_STEP;

/// Bytes of a strip's row: the steps of `INT8_KC` activations, then one that begins with the scale.
const STRIDE: usize = 2 * INT8_KC + STEP;

/// Activations as 16-bit integers within ±127 with a scale per row, times an int8 weight.
#[derive(Clone, Copy)]
pub(super) struct Int8<'w> {
    avx2: avx2::Kernel,
    w: &'w weight::Int8,
}

impl<'w> Int8<'w> {
    pub(super) fn new(isa: Isa, w: &'w weight::Int8) -> Int8<'w> {
        Int8 { avx2: avx2::Kernel::new(isa), w }
    }
}

impl kernel::Kernel for Int8<'_> {
    type Unit = u8;
    const MR: usize = MR;
    const NR: usize = NR;
    const KC: usize = INT8_KC;
    const PREFETCHES: bool = true;
    const K_UNIT: usize = INT8_STEP;
    const A_STRIDE: usize = STRIDE;

    fn tile(self, tile: Tile<'_, u8>) {
        macro_rules! tile_of {
            ($($rows:literal $vectors:literal,)*) => {
                match tile.rows {
                    // SAFETY: `self` exists only where an `Isa` proved the features that `int8_tile` enables.
                    $($rows => unsafe { int8_tile::<$rows, $vectors>(self.w, tile) },)*
                    rows => unreachable!("a tile of {rows} rows"),
                }
            };
        }
        // One or two rows leave registers for 16 columns: a whole cache line of the weight at a time.
        tile_of!(1 4, 2 4, 3 2, 4 2, 5 2, 6 2,)
    }

    fn pack_left(self, strips: &mut [u8], a: Mat, alpha: f32) {
        let mut copied = [0.0; INT8_KC];
        for (row, strip) in (0..a.n_rows()).zip(strips.chunks_mut(STRIDE)) {
            let values = if a.col_stride() == 1 {
                &a.data()[row * a.row_stride()..][..a.n_cols()]
            } else {
                let copied = &mut copied[..a.n_cols()];
                copied.iter_mut().enumerate().for_each(|(col, to)| *to = a.at(row, col));
                copied
            };
            let (integers, scale) = strip.split_at_mut(2 * INT8_KC);
            // SAFETY: `self` exists only where an `Isa` proved the features that `quantize` enables.
            let row_scale = unsafe { quantize(integers.as_chunks_mut().0, values, alpha) };
            scale[..4].copy_from_slice(&row_scale.to_ne_bytes());
        }
    }

    fn pack_right(self, _panel: &mut [u8], _b: Mat, _scale: f32) {
        unreachable!("int8 weights are used as they are stored");
    }

    fn stored(w: &PackedWeight) -> Option<&[u8]> {
        w.int8_panels().map(|int8| &*int8.bytes)
    }

    fn copy(self, dst: &mut [f32], dst_stride: usize, src: Mat, alpha: f32) {
        self.avx2.copy(dst, dst_stride, src, alpha);
    }
}

/// `integers = round(127·values/max|values|)`, 16 bits each, in groups of 8, the last filled up with zeros; returns the
/// scale `alpha·max|values|/127`.
#[target_feature(enable = "avx2,fma")]
fn quantize(integers: &mut [[u8; 16]], values: &[f32], alpha: f32) -> f32 {
    let (groups, tail) = values.as_chunks::<8>();
    let mut last = [0.0; 8];
    last[..tail.len()].copy_from_slice(tail);
    let groups = || groups.iter().chain((!tail.is_empty()).then_some(&last));

    let sign = _mm256_set1_ps(-0.0);
    let mut greatest = _mm256_setzero_ps();
    for group in groups() {
        greatest = _mm256_max_ps(greatest, _mm256_andnot_ps(sign, avx2::load(group)));
    }
    let greatest = greatest_lane(greatest);
    let per_unit = if greatest > 0.0 { 127.0 / greatest } else { 0.0 };
    let per_unit_8 = _mm256_set1_ps(per_unit);
    for (to, group) in integers.iter_mut().zip(groups()) {
        let rounded = _mm256_cvtps_epi32(_mm256_mul_ps(avx2::load(group), per_unit_8));
        // The low byte, as the other levels take it: NaN becomes 0.
        let bytes = _mm256_srai_epi32::<24>(_mm256_slli_epi32::<24>(rounded));
        let (low, high) = (_mm256_castsi256_si128(bytes), _mm256_extracti128_si256::<1>(bytes));
        // SAFETY: `to` is 16 writable bytes, and `storeu` needs no alignment.
        unsafe { _mm_storeu_si128(to.as_mut_ptr().cast(), _mm_packs_epi32(low, high)) };
    }
    alpha * (greatest / 127.0)
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn greatest_lane(values: __m256) -> f32 {
    let four = _mm_max_ps(_mm256_castps256_ps128(values), _mm256_extractf128_ps::<1>(values));
    let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
}

/// `R` rows, `V` vectors of four columns at a time.
#[target_feature(enable = "avx2,fma")]
fn int8_tile<const R: usize, const V: usize>(w: &weight::Int8, tile: Tile<'_, u8>) {
    let Tile { depth, cols, first_col, a, b, c, c_stride, start, prefetch, .. } = tile;
    // Four activations for each word of the weight.
    let a: &[[[[u8; 8]; TILE]; STRIDE / STEP]; R] =
        a.as_chunks().0.as_chunks().0.as_chunks().0.first_chunk().expect("a strip has R rows");
    let n_steps = depth.div_ceil(INT8_STEP);
    // Of a step: two tiles of 16 words of four `k`, each for 16 columns.
    let b: &[[[[u8; 4 * TILE]; TILE]; 2]] = &b.as_chunks().0.as_chunks().0.as_chunks().0[..n_steps];
    assert!(n_steps * INT8_STEP <= INT8_KC, "depth of a strip");
    let n_parts = cols.div_ceil(V * COLS);
    let prefetch_step = prefetch.len().div_ceil((n_parts * n_steps).max(1));
    for part in 0..n_parts {
        let col = part * V * COLS;
        let mut sums = [[_mm256_setzero_si256(); V]; R];
        for (step, b) in b.iter().enumerate() {
            let ahead = prefetch.as_ptr().wrapping_add((part * n_steps + step) * prefetch_step);
            for line in (0..prefetch_step).step_by(64) {
                _mm_prefetch::<_MM_HINT_T1>(ahead.wrapping_add(line).cast());
            }
            for (word, b) in b[col / TILE].iter().enumerate() {
                let b = &b[col % TILE * 4..][..V * COLS * 4].as_chunks().0;
                let b: [__m256i; V] = std::array::from_fn(|v| widen(&b[v]));
                for r in 0..R {
                    let a = _mm256_set1_epi64x(i64::from_ne_bytes(a[r][step][word]));
                    for v in 0..V {
                        let products = _mm256_madd_epi16(a, b[v]);
                        sums[r][v] = _mm256_add_epi32(sums[r][v], products);
                    }
                }
            }
        }
        for r in 0..R {
            let row_scale = a[r][2 * INT8_KC / STEP][0].first_chunk().expect("a scale");
            let row_scale = _mm256_set1_ps(f32::from_ne_bytes(*row_scale));
            for (half, sums) in sums[r].as_chunks().0.iter().enumerate() {
                let col = col + half * 2 * COLS;
                let scale_o = w.scale_o[first_col + col..].first_chunk().expect("a whole panel");
                let scale = _mm256_mul_ps(row_scale, avx2::load(scale_o));
                let to = c[r * c_stride + col..].first_chunk_mut().expect("a row of the result");
                let start = match start {
                    Start::Zero => _mm256_setzero_ps(),
                    Start::Row(values) => {
                        avx2::load(values[col..].first_chunk().expect("a start for each column"))
                    }
                    Start::Load => avx2::load(to),
                };
                let sums = _mm256_cvtepi32_ps(add_pairs(*sums));
                avx2::store(to, _mm256_fmadd_ps(sums, scale, start));
            }
        }
    }
}

/// Four weights of each of four columns, in 16 bits.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn widen(bytes: &[u8; 16]) -> __m256i {
    // SAFETY: `bytes` is 16 readable bytes, and `loadu` needs no alignment.
    _mm256_cvtepi8_epi16(unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) })
}

/// The sums of eight columns from two for each.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn add_pairs([low, high]: [__m256i; 2]) -> __m256i {
    // Columns 0, 1, 4, 5, 2, 3, 6, 7.
    let sums = _mm256_hadd_epi32(low, high);
    _mm256_permute4x64_epi64::<0b11_01_10_00>(sums)
}
