//! The AVX-512 micro-kernel.

use std::arch::x86_64::*;

use super::Mat;
use super::kernel::{self, Start, Tile, copy_plain, f32_operands};
use crate::isa::{Isa, Level};

/// 14×32: 28 accumulators, two registers of the right operand and a broadcast fill 31 of 32 registers.
const MR: usize = 14;
const NR: usize = 32;
const KC: usize = 384;
const LANES: usize = 16;

/// Proof that this CPU has the features of [`Level::Avx512`].
#[derive(Clone, Copy)]
pub(super) struct Kernel(());

impl Kernel {
    pub(super) fn new(isa: Isa) -> Kernel {
        assert!(isa.level() >= Level::Avx512, "instruction set");
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
        tile_of!(1 2 3 4 5 6 7 8 9 10 11 12 13 14)
    }

    fn copy(self, dst: &mut [f32], dst_stride: usize, src: Mat, alpha: f32) {
        // SAFETY: `self` exists only where an `Isa` proved the features that `copy` enables.
        unsafe { copy(dst, dst_stride, src, alpha) }
    }
}

/// `R` rows of `V` registers.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")]
fn tile_of<const R: usize, const V: usize>(tile: Tile<'_, f32>) {
    const A_STRIDE: usize = <Kernel as kernel::Kernel>::A_STRIDE;
    let Tile { depth, a, b, c, c_stride, start, prefetch, .. } = tile;
    // A stride known here makes one pointer serve all rows; fourteen pointers and as many bounds checks cost a quarter.
    let a: &[[f32; A_STRIDE]; R] = a.as_chunks().0.first_chunk().expect("a strip has R rows");
    assert!(depth <= A_STRIDE, "depth of a strip");
    let b = &b.as_chunks::<LANES>().0.as_chunks::<2>().0[..depth];

    let mut sums = [[_mm512_setzero_ps(); V]; R];
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
        let b: [__m512; V] = std::array::from_fn(|v| load(&b[k][v]));
        for r in 0..R {
            let a = _mm512_set1_ps(a[r][k]);
            for v in 0..V {
                sums[r][v] = _mm512_fmadd_ps(a, b[v], sums[r][v]);
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

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")]
pub(super) fn copy(dst: &mut [f32], dst_stride: usize, src: Mat, alpha: f32) {
    if src.col_stride() == 1 {
        copy_rows(dst, dst_stride, src, alpha);
    } else if src.row_stride() == 1 {
        copy_columns(dst, dst_stride, src, alpha);
    } else {
        copy_plain(dst, dst_stride, src, alpha);
    }
}

/// Copies a view whose rows are contiguous.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")]
fn copy_rows(dst: &mut [f32], dst_stride: usize, src: Mat, alpha: f32) {
    let cols = src.n_cols();
    let alpha = _mm512_set1_ps(alpha);
    for row in 0..src.n_rows() {
        let from = &src.data()[row * src.row_stride()..][..cols];
        let to = &mut dst[row * dst_stride..][..cols];
        let ((from, from_tail), (to, to_tail)) = (from.as_chunks(), to.as_chunks_mut());
        for (to, from) in to.iter_mut().zip(from) {
            store(to, _mm512_mul_ps(alpha, load(from)));
        }
        if !from_tail.is_empty() {
            let tail = first_lanes(from_tail.len());
            // SAFETY: the mask has as many bits as both tails have values.
            unsafe {
                let values = _mm512_maskz_loadu_ps(tail, from_tail.as_ptr());
                let values = _mm512_mul_ps(alpha, values);
                _mm512_mask_storeu_ps(to_tail.as_mut_ptr(), tail, values);
            }
        }
    }
}

/// Copies a view whose columns are contiguous, by transposing 16×16 in registers.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")]
fn copy_columns(dst: &mut [f32], dst_stride: usize, src: Mat, alpha: f32) {
    let (rows, cols) = (src.n_rows(), src.n_cols());
    let alpha = _mm512_set1_ps(alpha);
    for row in (0..rows).step_by(LANES) {
        let n_rows = LANES.min(rows - row);
        for col in (0..cols).step_by(LANES) {
            let n_cols = LANES.min(cols - col);
            let mut block = [_mm512_setzero_ps(); LANES];
            for (c, values) in block[..n_cols].iter_mut().enumerate() {
                let from = &src.data()[(col + c) * src.col_stride() + row..][..n_rows];
                // SAFETY: the mask has `n_rows` bits, and `from` has as many readable values.
                let from = unsafe { _mm512_maskz_loadu_ps(first_lanes(n_rows), from.as_ptr()) };
                *values = _mm512_mul_ps(alpha, from);
            }
            let block = transpose(block);
            for (r, &values) in block[..n_rows].iter().enumerate() {
                let to = &mut dst[(row + r) * dst_stride + col..][..n_cols];
                // SAFETY: the mask has `n_cols` bits, and `to` has as many writable values.
                unsafe { _mm512_mask_storeu_ps(to.as_mut_ptr(), first_lanes(n_cols), values) };
            }
        }
    }
}

/// The transpose of 16 rows of 16.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")]
pub(super) fn transpose(rows: [__m512; 16]) -> [__m512; 16] {
    // Two rounds turn 4×4 blocks within the 128-bit quarters: then quarter q of row 4g + j holds rows 4g..4g+4 of
    // column 4q + j. Two more rounds turn the 4×4 matrix of quarters.
    let mut quarters = [_mm512_setzero_ps(); 16];
    for g in 0..4 {
        let [a, b, c, d] = [rows[4 * g], rows[4 * g + 1], rows[4 * g + 2], rows[4 * g + 3]];
        let (ab_low, ab_high) = (_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
        let (cd_low, cd_high) = (_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
        quarters[4 * g] = _mm512_shuffle_ps::<0b01_00_01_00>(ab_low, cd_low);
        quarters[4 * g + 1] = _mm512_shuffle_ps::<0b11_10_11_10>(ab_low, cd_low);
        quarters[4 * g + 2] = _mm512_shuffle_ps::<0b01_00_01_00>(ab_high, cd_high);
        quarters[4 * g + 3] = _mm512_shuffle_ps::<0b11_10_11_10>(ab_high, cd_high);
    }
    let mut columns = [_mm512_setzero_ps(); 16];
    for j in 0..4 {
        let [a, b, c, d] = [quarters[j], quarters[4 + j], quarters[8 + j], quarters[12 + j]];
        // Quarters 0 and 2, then 1 and 3, of each.
        let (ab_even, ab_odd) = (
            _mm512_shuffle_f32x4::<0b10_00_10_00>(a, b),
            _mm512_shuffle_f32x4::<0b11_01_11_01>(a, b),
        );
        let (cd_even, cd_odd) = (
            _mm512_shuffle_f32x4::<0b10_00_10_00>(c, d),
            _mm512_shuffle_f32x4::<0b11_01_11_01>(c, d),
        );
        columns[j] = _mm512_shuffle_f32x4::<0b10_00_10_00>(ab_even, cd_even);
        columns[4 + j] = _mm512_shuffle_f32x4::<0b10_00_10_00>(ab_odd, cd_odd);
        columns[8 + j] = _mm512_shuffle_f32x4::<0b11_01_11_01>(ab_even, cd_even);
        columns[12 + j] = _mm512_shuffle_f32x4::<0b11_01_11_01>(ab_odd, cd_odd);
    }
    columns
}

fn first_lanes(count: usize) -> __mmask16 {
    ((1u32 << count) - 1) as __mmask16
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load(values: &[f32; LANES]) -> __m512 {
    // SAFETY: `values` is 64 readable bytes, and `loadu` needs no alignment.
    unsafe { _mm512_loadu_ps(values.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store(values: &mut [f32; LANES], value: __m512) {
    // SAFETY: `values` is 64 writable bytes, and `storeu` needs no alignment.
    unsafe { _mm512_storeu_ps(values.as_mut_ptr(), value) }
}
