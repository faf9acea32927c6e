//! The micro-kernels of AVX-512 BF16 and VNNI: dot products of pairs of bf16, and of quadruples of bytes.
//!
//! Both are the kernel of `avx512` with 32-bit words of several elements in the place of f32: a word of a row of the left
//! operand is broadcast and multiplied with the words of 32 columns, which lie in the order of [`super::tiles`].

use std::arch::x86_64::*;

use super::avx512_copy::{Avx512, load, load_words, store};
use super::avx512_int8::{Int8Columns, quantize};
use super::avx512_pack::{
    load_2, pack_left_transposed, pack_right_bf16, pack_transposed, store_bf16,
};
use super::kernel::{self, Start, Tile};
use super::tiles::{self, BF16_STEP, INT8_KC, INT8_STEP, TILE};
use super::weight;
use super::{Mat, PackedWeight};
use crate::isa::{Isa, Level};
use std::marker::PhantomData;
use std::ops::Range;

/// 12×32 words, as in `avx512`.
const MR: usize = 14;

/// Of `k`, in words: 512 of bf16 leave a block of the right operand, and the next one, room in the L2 cache.
const BF16_KC: usize = 512;

/// Proof that this CPU has the features of [`Level::Avx512Bf16`].
#[derive(Clone, Copy)]
pub(super) struct Bf16(Avx512);

impl Bf16 {
    pub(super) fn new(isa: Isa) -> Bf16 {
        assert!(isa.level() >= Level::Avx512Bf16, "instruction set");
        Bf16(Avx512::new(isa))
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
        if a.row_stride() == 1 && a.col_stride() != 1 {
            let place = |row: usize, step: usize, _| {
                (row * Self::A_STRIDE + step * BF16_STEP, Self::A_STRIDE)
            };
            // SAFETY: `self` exists only where an `Isa` proved the features that `pack_left_transposed` enables.
            return unsafe { pack_left_transposed::<1>(strips, a, alpha, place) };
        }
        self.0.with_rows(a, |row, values| {
            // SAFETY: `self` exists only where an `Isa` proved the features that `round_row` enables.
            unsafe { round_row(&mut strips[row * Self::A_STRIDE..], values, alpha) };
        });
    }

    fn pack_right(self, panel: &mut [u16], b: Mat, scale: f32) {
        // SAFETY: `self` exists only where an `Isa` proved the features that `pack_right` enables.
        self.0.with_contiguous(b, |b| unsafe { pack_right_bf16(panel, b, scale) });
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
        self.0.copy(dst, dst_stride, src, alpha);
    }
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

/// What a tile brings into the second cache, an even share with each of `n` words.
struct Ahead {
    first: *const u8,
    step: usize,
}

impl Ahead {
    /// Without anything to prefetch it touches one and the same address of `b`: that of an empty slice is on no page, for
    /// which the CPU would look each time.
    fn new<T>(prefetch: &[u8], n: usize, b: &[T]) -> Ahead {
        let first = if prefetch.is_empty() { b.as_ptr().cast() } else { prefetch.as_ptr() };
        Ahead { first, step: prefetch.len().div_ceil(n.max(1)) }
    }

    #[inline]
    fn prefetch(&self, k: usize) {
        // SAFETY: a prefetch reads nothing that the program sees, wherever it points; SSE is part of every x86-64.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(self.first.wrapping_add(k * self.step).cast()) };
    }
}

/// `R` rows.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma")]
fn bf16_tile<const R: usize>(tile: Tile<'_, u16>) {
    const STRIDE: usize = <Bf16 as kernel::Kernel>::A_STRIDE / 2;
    let Tile { depth, a, b, c, c_stride, start, prefetch, .. } = tile;
    let a: &[[[u16; 2]; STRIDE]; R] =
        a.as_chunks().0.as_chunks().0.first_chunk().expect("a strip has R rows");
    let n_words = depth.div_ceil(BF16_STEP) * TILE;
    let b = &b.as_chunks::<BF16_STEP>().0[..2 * n_words];
    assert!(n_words <= STRIDE, "depth of a strip");
    let mut rows = Rows::<R>::new(c, c_stride);
    // What is loaded at once cannot be asked for in time here; the tile before has done it, or will do it for the next.
    rows.prefetch(if let Start::Load = start { tiles::NR } else { 0 });
    let mut sums = starts::<R>(&mut rows, start);
    let ahead = Ahead::new(prefetch, n_words, b);
    for k in 0..n_words {
        ahead.prefetch(k);
        // SAFETY: `b` has `2·n_words` rows, and `n_words` is a multiple of `TILE`.
        let b = unsafe { panel_words(b, k) };
        for r in 0..R {
            // SAFETY: both are four bytes, all of whose patterns are values.
            let a = unsafe { std::mem::transmute::<[u16; 2], i32>(a[r][k]) };
            let a = _mm512_set1_epi32(a);
            for v in 0..2 {
                // SAFETY: `__m512bh` and `__m512i` are 64 bytes, all of whose patterns are values.
                let [a, b]: [__m512bh; 2] = unsafe { std::mem::transmute([a, b[v]]) };
                sums[r][v] = _mm512_dpbf16_ps(sums[r][v], a, b);
            }
        }
    }
    for (r, sums) in sums.into_iter().enumerate() {
        let [left, right] = rows.row(r);
        store(left, sums[0]);
        store(right, sums[1]);
    }
}

/// The rows of the result that a tile writes: 32 values each.
struct Rows<'a, const R: usize> {
    first: *mut f32,
    stride: usize,
    of: PhantomData<&'a mut [f32]>,
}

impl<'a, const R: usize> Rows<'a, R> {
    /// Checks once that all rows are there.
    #[inline]
    fn new(c: &'a mut [f32], stride: usize) -> Rows<'a, R> {
        let needed = stride.checked_mul(R - 1).and_then(|start| start.checked_add(tiles::NR));
        assert!(needed.is_some_and(|needed| needed <= c.len()), "rows of the result");
        Rows { first: c.as_mut_ptr(), stride, of: PhantomData }
    }

    #[inline]
    fn row(&mut self, r: usize) -> &mut [[f32; TILE]; 2] {
        debug_assert!(r < R);
        // SAFETY: private to the tiles, which count `r` to `R`: by `new`, 32 values from `r·stride` on lie in the slice
        // that this borrows mutably, and the row is borrowed from `self`. Arrays of f32 are aligned as f32.
        unsafe { &mut *self.first.add(r * self.stride).cast() }
    }

    /// Brings the values `cols` to the right of the rows into the first cache: they are written long after, and come from
    /// the third where the result is large.
    #[inline]
    fn prefetch(&self, cols: usize) {
        for r in 0..R {
            for line in 0..2 {
                let at = self.first.wrapping_add(r * self.stride + cols + line * TILE);
                // SAFETY: a prefetch reads nothing that the program sees, wherever it points; SSE is part of every x86-64.
                unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) };
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")]
fn starts<const R: usize>(rows: &mut Rows<R>, start: Start) -> [[__m512; 2]; R] {
    match start {
        Start::Zero => [[_mm512_setzero_ps(); 2]; R],
        Start::Row(values) => {
            let values = values.as_chunks().0;
            [[load(&values[0]), load(&values[1])]; R]
        }
        Start::Load => std::array::from_fn(|r| {
            let row = rows.row(r);
            [load(&row[0]), load(&row[1])]
        }),
    }
}

/// Activations as bytes with a scale per row, times an int8 weight.
#[derive(Clone, Copy)]
pub(super) struct Int8<'w> {
    avx512: Avx512,
    w: &'w weight::Int8,
}

impl<'w> Int8<'w> {
    pub(super) fn new(isa: Isa, w: &'w weight::Int8) -> Int8<'w> {
        assert!(isa.level() >= Level::Avx512Bf16, "instruction set");
        Int8 { avx512: Avx512::new(isa), w }
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
        self.avx512.with_rows(a, |row, values| {
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
        self.avx512.copy(dst, dst_stride, src, alpha);
    }
}

/// `R` rows.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma")]
fn int8_tile<const R: usize>(w: &weight::Int8, tile: Tile<'_, u8>) {
    let Tile { depth, block, first_col, a, b, c, c_stride, start, prefetch, .. } = tile;
    let a: &[[[u8; 4]; INT8_STRIDE / 4]; R] =
        a.as_chunks().0.as_chunks().0.first_chunk().expect("a strip has R rows");
    let n_words = depth.div_ceil(INT8_STEP) * TILE;
    let b = &b.as_chunks::<INT8_STEP>().0[..2 * n_words];
    assert!(n_words <= INT8_KC / 4, "depth of a strip");
    let mut rows = Rows::<R>::new(c, c_stride);
    rows.prefetch(0);
    let mut sums = [[_mm512_setzero_si512(); 2]; R];
    let ahead = Ahead::new(prefetch, n_words, b);
    for k in 0..n_words {
        ahead.prefetch(k);
        // SAFETY: `b` has `2·n_words` rows, and `n_words` is a multiple of `TILE`.
        let b = unsafe { panel_words(b, k) };
        for r in 0..R {
            let a = _mm512_set1_epi32(i32::from_ne_bytes(a[r][k]));
            for v in 0..2 {
                sums[r][v] = _mm512_dpbusd_epi32(sums[r][v], a, b[v]);
            }
        }
    }
    let columns = [0, 1].map(|v| Int8Columns::new(w, (block, first_col + v * TILE)));
    // One short loop for each kind of start: of a longer one the compiler makes turns, and puts the sums on the stack.
    macro_rules! finish {
        (|$r:ident, $v:ident| $start:expr) => {
            for $r in 0..R {
                let scale = f32::from_ne_bytes(a[$r][INT8_KC / 4]);
                for $v in 0..2 {
                    let number = columns[$v].dequantize(sums[$r][$v], scale, $start);
                    store(&mut rows.row($r)[$v], number);
                }
            }
        };
    }
    // Zero and a row share a loop: of one for zeros alone the compiler makes turns too.
    let row = match start {
        Start::Zero => Some([_mm512_setzero_ps(); 2]),
        Start::Row(values) => {
            let values = values.as_chunks().0;
            Some([load(&values[0]), load(&values[1])])
        }
        Start::Load => None,
    };
    match row {
        Some(row) => finish!(|r, v| row[v]),
        None => finish!(|r, v| load(&rows.row(r)[v])),
    }
}

/// The words of 32 columns at word `k` of a panel, whose rows of 64 bytes are `b`: 16 of the tile on the left, then 16 of
/// that on the right.
///
/// A single loop over `k` that reads so keeps the sums in registers; of two loops, over steps and the words of a step, the
/// compiler stored most sums in every turn.
///
/// # Safety
///
/// `b` has two rows for each word of `k`, in whole tiles.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn panel_words<T, const N: usize>(b: &[[T; N]], k: usize) -> [__m512i; 2] {
    let left = k + k / TILE * TILE;
    debug_assert!(left + TILE < b.len());
    // SAFETY: `k` is below half the number of rows, and both are whole tiles: so is `left + TILE`.
    unsafe { [load_words(b.get_unchecked(left)), load_words(b.get_unchecked(left + TILE))] }
}
