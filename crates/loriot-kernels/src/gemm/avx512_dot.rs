//! The micro-kernels of AVX-512 BF16 and VNNI: dot products of pairs of bf16, and of quadruples of bytes.
//!
//! Both are the kernel of `avx512` with 32-bit words of several elements in the place of f32: a word of a row of the left
//! operand is broadcast and multiplied with the words of 32 columns, which lie in the order of [`super::tiles`].

use std::arch::x86_64::*;

use super::kernel::{self, Start, Tile};
use super::tiles::{self, BF16_STEP, INT8_KC, INT8_STEP, TILE};
use super::weight;
use super::{Mat, PackedWeight, avx512};
use crate::isa::{Isa, Level};
use std::ops::Range;

/// 14×32 words, as in `avx512`.
const MR: usize = 14;

/// Of `k`, in words: 512 of bf16 leave a block of the right operand, and the next one, room in the L2 cache.
const BF16_KC: usize = 512;

/// Proof that this CPU has the features of [`Level::Avx512Bf16`].
#[derive(Clone, Copy)]
pub(super) struct Bf16(());

impl Bf16 {
    pub(super) fn new(isa: Isa) -> Bf16 {
        assert!(isa.level() >= Level::Avx512Bf16, "instruction set");
        Bf16(())
    }
}

impl kernel::Kernel for Bf16 {
    type Unit = u16;
    const MR: usize = MR;
    const NR: usize = tiles::NR;
    const KC: usize = BF16_KC;
    const PREFETCHES: bool = true;
    const K_UNIT: usize = BF16_STEP;
    const A_STRIDE: usize = BF16_KC + BF16_STEP;

    fn tile(self, tile: Tile<'_, u16>) {
        macro_rules! tile_of {
            ($($rows:literal)*) => {
                match tile.rows {
                    // SAFETY: `self` exists only where an `Isa` proved the features that `bf16_tile` enables.
                    $($rows => unsafe { bf16_tile::<$rows>(tile) },)*
                    rows => unreachable!("a tile of {rows} rows"),
                }
            };
        }
        tile_of!(1 2 3 4 5 6 7 8 9 10 11 12 13 14)
    }

    fn pack_left(self, strips: &mut [u16], a: Mat, alpha: f32) {
        with_rows(a, |row, values| {
            // SAFETY: `self` exists only where an `Isa` proved the features that `round_row` enables.
            unsafe { round_row(&mut strips[row * Self::A_STRIDE..], values, alpha) };
        });
    }

    fn pack_right(self, panel: &mut [u16], b: Mat, scale: f32) {
        // SAFETY: `self` exists only where an `Isa` proved the features that `pack_right` enables.
        with_contiguous(b, |b| unsafe { pack_right_bf16(panel, b, scale) });
    }

    fn pack_transposed(
        self,
        panel: &mut [u16],
        w: &PackedWeight,
        o: Range<usize>,
        i: Range<usize>,
    ) -> bool {
        let Some(stored) = w.bf16_panels() else { return false };
        // SAFETY: `self` exists only where an `Isa` proved the features that `pack_transposed` enables.
        unsafe { pack_transposed::<1>(panel, w, stored, o, i) };
        true
    }

    fn stored(w: &PackedWeight) -> Option<&[u16]> {
        w.bf16_panels()
    }

    fn copy(self, dst: &mut [f32], dst_stride: usize, src: Mat, alpha: f32) {
        // SAFETY: `self` exists only where an `Isa` proved the features that `copy` enables.
        unsafe { avx512::copy(dst, dst_stride, src, alpha) }
    }
}

/// Calls `each(row, its values)`, copying rows together where they are not contiguous.
fn with_rows(a: Mat, mut each: impl FnMut(usize, &[f32])) {
    with_contiguous(a, |a| {
        for row in 0..a.n_rows() {
            each(row, row_of(a, row));
        }
    });
}

thread_local! {
    static ROWS: std::cell::RefCell<crate::aligned::AlignedBuf<f32>> = std::cell::RefCell::default();
}

/// Calls `body` with `src`, or with a copy of it whose rows are contiguous. Only where AVX-512 is there.
pub(super) fn with_contiguous<R>(src: Mat, body: impl FnOnce(Mat) -> R) -> R {
    if src.col_stride() == 1 || src.n_cols() <= 1 && src.n_rows() <= 1 {
        return body(src);
    }
    ROWS.with_borrow_mut(|rows| {
        let (n_rows, n_cols) = (src.n_rows(), src.n_cols());
        // An odd number of cache lines, so that columns fall into different sets.
        let stride = n_cols.next_multiple_of(TILE) + TILE;
        let rows = rows.at_least(n_rows * stride);
        // SAFETY: the callers' kernels exist only where an `Isa` proved the features of AVX-512.
        unsafe { avx512::copy(rows, stride, src, 1.0) };
        body(Mat::strided(rows, n_rows, n_cols, stride, 1))
    })
}

/// `alpha·values`, rounded to bf16, and zeros up to a whole step.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma")]
fn round_row(row: &mut [u16], values: &[f32], alpha: f32) {
    let row = &mut row[..values.len().next_multiple_of(BF16_STEP)];
    for (row, values) in row.as_chunks_mut::<BF16_STEP>().0.iter_mut().zip(values.chunks(BF16_STEP))
    {
        let [low, high] = load_2(values, alpha);
        store_bf16(row, _mm512_cvtne2ps_pbh(high, low));
    }
}

/// Rows that packing asks for ahead of the one it reads: a row of a block is too short for the CPU to see where the next
/// one comes from.
const ROWS_AHEAD: usize = 4;

/// Row `row` of a block, contiguous; brings a later one into the first cache.
#[inline]
pub(super) fn row_of<'a>(a: Mat<'a>, row: usize) -> &'a [f32] {
    let start = (row + ROWS_AHEAD) * a.row_stride();
    if let Some(ahead) = a.data().get(start..start + a.n_cols()) {
        for line in ahead.chunks(TILE) {
            // SAFETY: a prefetch reads nothing that the program sees; SSE is part of every x86-64.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) };
        }
    }
    &a.data()[row * a.row_stride()..][..a.n_cols()]
}

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

/// A panel of `W` from those of `Wᵀ`; see [`kernel::Kernel::pack_transposed`].
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

/// At most 16 values of row `k` from `col` on; none behind the last row.
#[inline]
pub(super) fn row_part<'a>(b: Mat<'a>, k: usize, col: usize) -> &'a [f32] {
    if k < b.n_rows() {
        &b.data()[k * b.row_stride() + col..][..TILE.min(b.n_cols() - col)]
    } else {
        &[]
    }
}

/// `R` rows.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma")]
fn bf16_tile<const R: usize>(tile: Tile<'_, u16>) {
    const STRIDE: usize = <Bf16 as kernel::Kernel>::A_STRIDE / 2;
    let Tile { depth, a, b, c, c_stride, start, prefetch, .. } = tile;
    let a: &[[[u16; 2]; STRIDE]; R] =
        a.as_chunks().0.as_chunks().0.first_chunk().expect("a strip has R rows");
    let n_steps = depth.div_ceil(BF16_STEP);
    let b = &b.as_chunks::<BF16_STEP>().0.as_chunks::<TILE>().0.as_chunks::<2>().0[..n_steps];
    assert!(n_steps * TILE <= STRIDE, "depth of a strip");
    let mut sums = starts::<R>(c, c_stride, start);
    let prefetch_step = prefetch.len().div_ceil(n_steps.max(1) * TILE);
    for (step, [left, right]) in b.iter().enumerate() {
        for word in 0..TILE {
            let k = step * TILE + word;
            let ahead = prefetch.as_ptr().wrapping_add(k * prefetch_step);
            _mm_prefetch::<_MM_HINT_T1>(ahead.cast());
            let b = [load_words(&left[word]), load_words(&right[word])];
            for r in 0..R {
                let [low, high] = a[r][k];
                let a = _mm512_set1_epi32((u32::from(low) | u32::from(high) << 16).cast_signed());
                for v in 0..2 {
                    // SAFETY: `__m512bh` and `__m512i` are 64 bytes, all of whose patterns are values.
                    let [a, b]: [__m512bh; 2] = unsafe { std::mem::transmute([a, b[v]]) };
                    sums[r][v] = _mm512_dpbf16_ps(sums[r][v], a, b);
                }
            }
        }
    }
    for r in 0..R {
        let row = c[r * c_stride..][..tiles::NR].as_chunks_mut().0;
        for v in 0..2 {
            store(&mut row[v], sums[r][v]);
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")]
fn starts<const R: usize>(c: &[f32], c_stride: usize, start: Start) -> [[__m512; 2]; R] {
    match start {
        Start::Zero => [[_mm512_setzero_ps(); 2]; R],
        Start::Row(values) => {
            let values = values.as_chunks().0;
            [[load(&values[0]), load(&values[1])]; R]
        }
        Start::Load => std::array::from_fn(|r| {
            let row = c[r * c_stride..][..tiles::NR].as_chunks().0;
            [load(&row[0]), load(&row[1])]
        }),
    }
}

/// Activations as bytes with a scale per row, times an int8 weight.
#[derive(Clone, Copy)]
pub(super) struct Int8<'w> {
    w: &'w weight::Int8,
}

impl<'w> Int8<'w> {
    pub(super) fn new(isa: Isa, w: &'w weight::Int8) -> Int8<'w> {
        assert!(isa.level() >= Level::Avx512Bf16, "instruction set");
        Int8 { w }
    }
}

/// Bytes of a strip's row; the scale stands at the beginning of the last 64.
const INT8_STRIDE: usize = INT8_KC + 64;

impl kernel::Kernel for Int8<'_> {
    type Unit = u8;
    const MR: usize = MR;
    const NR: usize = tiles::NR;
    const KC: usize = INT8_KC;
    const PREFETCHES: bool = true;
    const K_UNIT: usize = INT8_STEP;
    const A_STRIDE: usize = INT8_STRIDE;

    fn tile(self, tile: Tile<'_, u8>) {
        macro_rules! tile_of {
            ($($rows:literal)*) => {
                match tile.rows {
                    // SAFETY: `self` exists only where an `Isa` proved the features that `int8_tile` enables.
                    $($rows => unsafe { int8_tile::<$rows>(self.w, tile) },)*
                    rows => unreachable!("a tile of {rows} rows"),
                }
            };
        }
        tile_of!(1 2 3 4 5 6 7 8 9 10 11 12 13 14)
    }

    fn pack_left(self, strips: &mut [u8], a: Mat, alpha: f32) {
        with_rows(a, |row, values| {
            let (bytes, scale) = strips[row * INT8_STRIDE..][..INT8_STRIDE].split_at_mut(INT8_KC);
            // SAFETY: `self` exists only where an `Isa` proved the features that `quantize` enables.
            let row_scale = unsafe { quantize(bytes.as_chunks_mut().0, values, alpha) };
            scale[..4].copy_from_slice(&row_scale.to_ne_bytes());
        });
    }

    fn pack_right(self, _panel: &mut [u8], _b: Mat, _scale: f32) {
        unreachable!("int8 weights are used as they are stored");
    }

    fn stored(w: &PackedWeight) -> Option<&[u8]> {
        w.int8_panels().map(|int8| &*int8.bytes)
    }

    fn copy(self, dst: &mut [f32], dst_stride: usize, src: Mat, alpha: f32) {
        // SAFETY: `self` exists only where an `Isa` proved the features that `copy` enables.
        unsafe { avx512::copy(dst, dst_stride, src, alpha) }
    }
}

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

/// `R` rows.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma")]
fn int8_tile<const R: usize>(w: &weight::Int8, tile: Tile<'_, u8>) {
    let Tile { depth, block, first_col, a, b, c, c_stride, start, prefetch, .. } = tile;
    let a: &[[[u8; 4]; INT8_STRIDE / 4]; R] =
        a.as_chunks().0.as_chunks().0.first_chunk().expect("a strip has R rows");
    let n_steps = depth.div_ceil(INT8_STEP);
    let b = &b.as_chunks::<INT8_STEP>().0.as_chunks::<TILE>().0.as_chunks::<2>().0[..n_steps];
    assert!(n_steps * TILE <= INT8_KC / 4, "depth of a strip");
    let mut sums = [[_mm512_setzero_si512(); 2]; R];
    let prefetch_step = prefetch.len().div_ceil(n_steps.max(1) * TILE);
    for (step, [left, right]) in b.iter().enumerate() {
        for word in 0..TILE {
            let k = step * TILE + word;
            let ahead = prefetch.as_ptr().wrapping_add(k * prefetch_step);
            _mm_prefetch::<_MM_HINT_T1>(ahead.cast());
            let b = [load_words(&left[word]), load_words(&right[word])];
            for r in 0..R {
                let a = _mm512_set1_epi32(i32::from_ne_bytes(a[r][k]));
                for v in 0..2 {
                    sums[r][v] = _mm512_dpbusd_epi32(sums[r][v], a, b[v]);
                }
            }
        }
    }
    let starts = starts::<R>(c, c_stride, start);
    let columns = [0, 1].map(|v| Int8Columns::new(w, (block, first_col + v * TILE)));
    for r in 0..R {
        let scale = f32::from_ne_bytes(a[r][INT8_KC / 4]);
        let row = c[r * c_stride..][..tiles::NR].as_chunks_mut().0;
        for v in 0..2 {
            store(&mut row[v], columns[v].dequantize(sums[r][v], scale, starts[r][v]));
        }
    }
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
