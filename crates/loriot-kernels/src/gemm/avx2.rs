//! The AVX2 micro-kernel.

use std::arch::x86_64::*;

use super::Mat;
use super::kernel::{self, Start, Tile, copy_plain, f32_operands};
use crate::isa::{Isa, Level};

/// 6×16: twelve accumulators, two registers of the right operand and a broadcast fill 15 of 16 registers.
const MR: usize = 6;
const NR: usize = 16;
const KC: usize = 384;
const LANES: usize = 8;

/// Proof that this CPU has the features of [`Level::Avx2`].
#[derive(Clone, Copy)]
pub(super) struct Kernel(());

impl Kernel {
    pub(super) fn new(isa: Isa) -> Kernel {
        assert_eq!(isa.level(), Level::Avx2, "instruction set");
        Kernel(())
    }
}

impl kernel::Kernel for Kernel {
    f32_operands!();
    const MR: usize = MR;
    const NR: usize = NR;
    const KC: usize = KC;
    const PREFETCHES: bool = true;

    fn tile(self, tile: Tile<'_, f32>) {
        macro_rules! tile_of {
            ($($rows:literal)*) => {
                match (tile.rows, tile.cols > LANES) {
                    // SAFETY: `self` exists only where an `Isa` proved the features that `tile_of` enables.
                    $(($rows, true) => unsafe { tile_of::<$rows, 2>(tile) },)*
                    // SAFETY: as above.
                    $(($rows, false) => unsafe { tile_of::<$rows, 1>(tile) },)*
                    (rows, _) => unreachable!("a tile of {rows} rows"),
                }
            };
        }
        tile_of!(1 2 3 4 5 6)
    }

    fn copy(self, dst: &mut [f32], dst_stride: usize, src: Mat, alpha: f32) {
        // SAFETY: `self` exists only where an `Isa` proved the features that `copy` enables.
        unsafe { copy(dst, dst_stride, src, alpha) }
    }
}

/// `R` rows of `V` registers.
#[target_feature(enable = "avx2,fma")]
fn tile_of<const R: usize, const V: usize>(tile: Tile<'_, f32>) {
    const A_STRIDE: usize = <Kernel as kernel::Kernel>::A_STRIDE;
    let Tile { depth, a, b, c, c_stride, start, prefetch, .. } = tile;
    // A stride known here makes one pointer serve all rows; fourteen pointers and as many bounds checks cost a quarter.
    let a: &[[f32; A_STRIDE]; R] = a.as_chunks().0.first_chunk().expect("a strip has R rows");
    assert!(depth <= A_STRIDE, "depth of a strip");
    let b = &b.as_chunks::<LANES>().0.as_chunks::<2>().0[..depth];

    let mut sums = [[_mm256_setzero_ps(); V]; R];
    match start {
        Start::Zero => {}
        Start::Row(values) => {
            let values = values.as_chunks().0;
            sums = [std::array::from_fn(|v| load(&values[v])); R];
        }
        Start::Load => {
            for r in 0..R {
                let row = c[r * c_stride..][..NR].as_chunks().0;
                sums[r] = std::array::from_fn(|v| load(&row[v]));
            }
        }
    }
    // Without anything to prefetch this touches one and the same address, which costs nothing.
    let prefetch_step = prefetch.len().div_ceil(depth.max(1));
    for k in 0..depth {
        let ahead = prefetch.as_ptr().wrapping_add(k * prefetch_step);
        _mm_prefetch::<_MM_HINT_T1>(ahead.cast());
        let b: [__m256; V] = std::array::from_fn(|v| load(&b[k][v]));
        for r in 0..R {
            let a = _mm256_set1_ps(a[r][k]);
            for v in 0..V {
                sums[r][v] = _mm256_fmadd_ps(a, b[v], sums[r][v]);
            }
        }
    }
    for r in 0..R {
        let row = c[r * c_stride..][..NR].as_chunks_mut().0;
        for v in 0..V {
            store(&mut row[v], sums[r][v]);
        }
    }
}

#[target_feature(enable = "avx2,fma")]
fn copy(dst: &mut [f32], dst_stride: usize, src: Mat, alpha: f32) {
    if src.col_stride() == 1 {
        copy_rows(dst, dst_stride, src, alpha);
    } else if src.row_stride() == 1 {
        copy_columns(dst, dst_stride, src, alpha);
    } else {
        copy_plain(dst, dst_stride, src, alpha);
    }
}

/// Copies a view whose rows are contiguous.
#[target_feature(enable = "avx2,fma")]
fn copy_rows(dst: &mut [f32], dst_stride: usize, src: Mat, alpha: f32) {
    let cols = src.n_cols();
    let alpha_8 = _mm256_set1_ps(alpha);
    for row in 0..src.n_rows() {
        let from = &src.data()[row * src.row_stride()..][..cols];
        let to = &mut dst[row * dst_stride..][..cols];
        let ((from, from_tail), (to, to_tail)) = (from.as_chunks(), to.as_chunks_mut());
        for (to, from) in to.iter_mut().zip(from) {
            store(to, _mm256_mul_ps(alpha_8, load(from)));
        }
        for (to, from) in to_tail.iter_mut().zip(from_tail) {
            *to = alpha * from;
        }
    }
}

/// Copies a view whose columns are contiguous, by transposing 8×8 in registers.
#[target_feature(enable = "avx2,fma")]
fn copy_columns(dst: &mut [f32], dst_stride: usize, src: Mat, alpha: f32) {
    let (rows, cols) = (src.n_rows(), src.n_cols());
    let alpha = _mm256_set1_ps(alpha);
    for row in (0..rows).step_by(LANES) {
        let n_rows = LANES.min(rows - row);
        for col in (0..cols).step_by(LANES) {
            let n_cols = LANES.min(cols - col);
            let mut block = [_mm256_setzero_ps(); LANES];
            for (c, values) in block[..n_cols].iter_mut().enumerate() {
                let from = &src.data()[(col + c) * src.col_stride() + row..][..n_rows];
                // SAFETY: the mask covers `n_rows` lanes, and `from` has as many readable values.
                let from = unsafe { _mm256_maskload_ps(from.as_ptr(), first_lanes(n_rows)) };
                *values = _mm256_mul_ps(alpha, from);
            }
            let block = transpose(block);
            for (r, &values) in block[..n_rows].iter().enumerate() {
                let to = &mut dst[(row + r) * dst_stride + col..][..n_cols];
                // SAFETY: the mask covers `n_cols` lanes, and `to` has as many writable values.
                unsafe { _mm256_maskstore_ps(to.as_mut_ptr(), first_lanes(n_cols), values) };
            }
        }
    }
}

/// The transpose of 8 rows of 8.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn transpose(rows: [__m256; 8]) -> [__m256; 8] {
    // Turn the 4×4 blocks within the 128-bit halves, then swap the halves.
    let mut halves = [_mm256_setzero_ps(); 8];
    for g in 0..2 {
        let [a, b, c, d] = [rows[4 * g], rows[4 * g + 1], rows[4 * g + 2], rows[4 * g + 3]];
        let (ab_low, ab_high) = (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
        let (cd_low, cd_high) = (_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
        halves[4 * g] = _mm256_shuffle_ps::<0b01_00_01_00>(ab_low, cd_low);
        halves[4 * g + 1] = _mm256_shuffle_ps::<0b11_10_11_10>(ab_low, cd_low);
        halves[4 * g + 2] = _mm256_shuffle_ps::<0b01_00_01_00>(ab_high, cd_high);
        halves[4 * g + 3] = _mm256_shuffle_ps::<0b11_10_11_10>(ab_high, cd_high);
    }
    let mut columns = [_mm256_setzero_ps(); 8];
    for j in 0..4 {
        columns[j] = _mm256_permute2f128_ps::<0x20>(halves[j], halves[4 + j]);
        columns[4 + j] = _mm256_permute2f128_ps::<0x31>(halves[j], halves[4 + j]);
    }
    columns
}

/// All bits set in the first `count` lanes, none in the others.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn first_lanes(count: usize) -> __m256i {
    let lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    _mm256_cmpgt_epi32(_mm256_set1_epi32(count as i32), lane)
}

#[inline]
#[target_feature(enable = "avx2,fma")]
pub(super) fn load(values: &[f32; LANES]) -> __m256 {
    // SAFETY: `values` is 32 readable bytes, and `loadu` needs no alignment.
    unsafe { _mm256_loadu_ps(values.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx2,fma")]
pub(super) fn store(values: &mut [f32; LANES], value: __m256) {
    // SAFETY: `values` is 32 writable bytes, and `storeu` needs no alignment.
    unsafe { _mm256_storeu_ps(values.as_mut_ptr(), value) }
}
