//! AVX-512 code that moves f32 about: copies, transposes, loads and stores, for packing and for the micro-kernels.

use std::arch::x86_64::*;
use std::cell::RefCell;

use super::Mat;
use super::kernel::copy_plain;
use super::tiles::TILE;
use crate::aligned::AlignedBuf;
use crate::isa::{Isa, Level};

/// Proof that this CPU has the features of [`Level::Avx512`].
#[derive(Clone, Copy)]
pub(super) struct Avx512(());

thread_local! {
    static ROWS: RefCell<AlignedBuf<f32>> = RefCell::default();
}

impl Avx512 {
    pub(super) fn new(isa: Isa) -> Avx512 {
        assert!(isa.level() >= Level::Avx512, "instruction set");
        Avx512(())
    }

    /// `dst[r·dst_stride + c] = alpha·src[r, c]`.
    pub(super) fn copy(self, dst: &mut [f32], dst_stride: usize, src: Mat, alpha: f32) {
        // SAFETY: `self` exists only where an `Isa` proved the features that `copy` enables.
        unsafe { copy(dst, dst_stride, src, alpha) }
    }

    /// Calls `body` with the rows of `src`, or with a copy of them where they are not contiguous.
    pub(super) fn with_contiguous<R>(self, src: Mat, body: impl FnOnce(Rows) -> R) -> R {
        if src.col_stride() == 1 {
            return body(Rows::new(src));
        }
        ROWS.with_borrow_mut(|rows| {
            let (n_rows, n_cols) = (src.n_rows(), src.n_cols());
            // An odd number of cache lines, so that columns fall into different sets.
            let stride = n_cols.next_multiple_of(TILE) + TILE;
            let rows = rows.at_least(n_rows * stride);
            self.copy(rows, stride, src, 1.0);
            body(Rows::new(Mat::strided(rows, n_rows, n_cols, stride, 1)))
        })
    }

    /// Calls `each(row, its values)`, copying rows together where they are not contiguous.
    pub(super) fn with_rows(self, a: Mat, mut each: impl FnMut(usize, &[f32])) {
        self.with_contiguous(a, |a| {
            for row in 0..a.n_rows() {
                each(row, a.row(row));
            }
        });
    }
}

/// Rows that packing asks for ahead of the one it reads: a row of a block is too short for the CPU to see where the next
/// one comes from.
const ROWS_AHEAD: usize = 4;

/// A view whose rows are contiguous.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a>(Mat<'a>);

impl<'a> Rows<'a> {
    /// # Panics
    ///
    /// If the values of a row are not end to end.
    pub(super) fn new(view: Mat<'a>) -> Rows<'a> {
        assert_eq!(view.col_stride(), 1, "contiguous rows");
        Rows(view)
    }

    pub(super) fn n_rows(self) -> usize {
        self.0.n_rows()
    }

    pub(super) fn n_cols(self) -> usize {
        self.0.n_cols()
    }

    /// Row `row`; brings a later one into the first cache.
    #[inline]
    pub(super) fn row(self, row: usize) -> &'a [f32] {
        let (data, stride, cols) = (self.0.data(), self.0.row_stride(), self.0.n_cols());
        let start = (row + ROWS_AHEAD) * stride;
        if let Some(ahead) = data.get(start..start + cols) {
            for line in ahead.chunks(TILE) {
                // SAFETY: a prefetch reads nothing that the program sees; SSE is part of every x86-64.
                unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) };
            }
        }
        &data[row * stride..][..cols]
    }

    /// At most 16 values of row `row` from `col` on; none behind the last row.
    #[inline]
    pub(super) fn part(self, row: usize, col: usize) -> &'a [f32] {
        if row < self.0.n_rows() {
            &self.0.data()[row * self.0.row_stride() + col..][..TILE.min(self.0.n_cols() - col)]
        } else {
            &[]
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")]
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
    for row in (0..rows).step_by(TILE) {
        let n_rows = TILE.min(rows - row);
        for col in (0..cols).step_by(TILE) {
            let n_cols = TILE.min(cols - col);
            let mut block = [_mm512_setzero_ps(); TILE];
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

/// A row of a tile: 16 words.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn load_words<T, const N: usize>(row: &[T; N]) -> __m512i {
    const { assert!(size_of::<[T; N]>() == 64) };
    // SAFETY: `row` is 64 readable bytes, and `loadu` needs no alignment.
    unsafe { _mm512_loadu_si512(row.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn load(values: &[f32; TILE]) -> __m512 {
    // SAFETY: `values` is 64 readable bytes, and `loadu` needs no alignment.
    unsafe { _mm512_loadu_ps(values.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn store(values: &mut [f32; TILE], value: __m512) {
    // SAFETY: `values` is 64 writable bytes, and `storeu` needs no alignment.
    unsafe { _mm512_storeu_ps(values.as_mut_ptr(), value) }
}
