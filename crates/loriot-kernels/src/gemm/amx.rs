//! The micro-kernels of AMX: products of tiles of 16 rows of 64 bytes.
//!
//! Four of the eight tile registers hold 32×32 sums, the others two tiles of each operand. The compiler has no stable
//! intrinsics for tiles and never uses their registers, so that each kernel is one block of assembly: it loads what the
//! sums start from, runs down `k`, and stores them.
//!
//! A strip is 32 rows (or up to 16, at the end of the rows), step by step along `k`: the tiles of rows 0 to 15 and 16 to
//! 31, one behind the other, for each of three planes in turn where f32 is split. Panels are as [`super::tiles`] says,
//! again with three planes in each step where f32 is split.

mod micro_kernels;

use std::arch::asm;
use std::arch::x86_64::*;

use super::avx512_copy::{Avx512, Rows, load, load_words, store};
use super::avx512_int8::{Int8Columns, quantize};
use super::avx512_pack::{
    interleave_halves, load_1, load_2, pack_left_transposed, pack_right_bf16, pack_transposed,
    split, store_bf16,
};
use super::kernel::{self, Start, Tile};
use super::tiles::{self, BF16_STEP, INT8_KC, INT8_STEP, PLANES, TILE, TILE_BYTES};
use super::weight;
use super::{Mat, PackedWeight};
use crate::isa::{Isa, Level};
use crate::lanes;
use micro_kernels::*;
use std::cell::Cell;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::Range;

/// Rows of a strip.
const MR: usize = 2 * TILE;
const NR: usize = tiles::NR;

/// Proof that this thread's tile registers are in use. It is made and ended by [`with_tiles`] alone, neither outlives its
/// `body` nor goes to another thread, and a thread has one at a time.
#[derive(Clone, Copy)]
pub(super) struct Tiles<'t> {
    avx512: Avx512,
    /// Rows of the tiles of the left operand and of the sums.
    rows: usize,
    /// Bound to the lifetime of the registers' use, and to this thread: raw pointers are not sent.
    of: PhantomData<(&'t (), *const ())>,
}

thread_local! {
    /// Whether this thread holds [`Tiles`].
    static IN_USE: Cell<bool> = const { Cell::new(false) };
}

/// Runs `body` with this thread's tile registers in use: those of the right operand are 16 rows of 64 bytes, and so are
/// those of the left operand and the sums, unless there are fewer than 16 rows at all: then they have these, so that
/// nothing else is read, multiplied or written.
///
/// # Panics
///
/// If the level is not [`Level::Amx`], or inside of another `body`, whose tiles would be others afterwards.
pub(super) fn with_tiles<R>(
    isa: Isa,
    n_rows: usize,
    body: impl for<'t> FnOnce(Tiles<'t>) -> R,
) -> R {
    /// `LDTILECFG`'s operand (Intel's manual, volume 1, 18.2).
    #[repr(C, align(64))]
    struct TileConfig {
        palette: u8,
        start_row: u8,
        reserved: [u8; 14],
        row_bytes: [u16; 16],
        rows: [u8; 16],
    }
    /// Gives the registers back, also when `body` panics: a thread that holds them is slower to switch.
    struct Release;
    impl Drop for Release {
        fn drop(&mut self) {
            // SAFETY: made only below, where the CPU has tiles.
            unsafe { asm!("tilerelease", options(nostack, nomem, preserves_flags)) };
            IN_USE.set(false);
        }
    }
    assert_eq!(isa.level(), Level::Amx, "instruction set");
    let avx512 = Avx512::new(isa);
    let tile_rows = n_rows.clamp(1, TILE);
    let mut config = TileConfig {
        palette: 1,
        start_row: 0,
        reserved: [0; 14],
        row_bytes: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
        rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
    };
    config.rows[..6].fill(tile_rows as u8);
    assert!(!IN_USE.replace(true), "tiles inside of tiles");
    // SAFETY: an `Isa` of this level exists only where the CPU has tiles and the system lets the process use them; the
    // operand is 64 readable bytes that describe a valid configuration.
    unsafe {
        asm!("ldtilecfg [{}]", in(reg) &raw const config, options(nostack, readonly, preserves_flags));
    }
    let _release = Release;
    body(Tiles { avx512, rows: tile_rows, of: PhantomData })
}

/// What the tiles of up to 32 rows of 32 sums start from, or end in.
type Sums = [[f32; NR]; MR];

/// Brings the part of the result that the tile after next writes into the first cache. The weight that passes between two
/// uses of a few rows is larger than the second cache, so that they come from the third.
fn prefetch_result(c: &[f32], c_stride: usize, rows: usize) {
    for row in 0..rows {
        for line in 0..NR / TILE {
            let ahead = c.as_ptr().wrapping_add(row * c_stride + 2 * NR + line * TILE);
            // SAFETY: a prefetch reads nothing that the program sees, wherever it points; SSE is part of every x86-64.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(ahead.cast()) };
        }
    }
}

/// How many tiles the rows of a strip fill.
fn row_tiles(rows: usize, tile_rows: usize) -> usize {
    let row_tiles = rows.div_ceil(TILE);
    let fit = if row_tiles == 1 { rows <= tile_rows } else { tile_rows == TILE };
    assert!(fit, "{rows} rows in tiles of {tile_rows}");
    row_tiles
}

/// Runs a tile of f32 sums with the micro-kernel for its rows.
///
/// # Safety
///
/// The micro-kernels are for up to 16 and up to 32 rows, and their steps have `planes` planes.
#[inline]
unsafe fn run_tile(
    tile: Tile<'_, u16>,
    Tiles { rows: tile_rows, .. }: Tiles<'_>,
    planes: usize,
    [rows_16, rows_32]: [unsafe fn(&Run); 2],
) {
    let Tile { rows, depth, a, b, c, c_stride, start, .. } = tile;
    let n_steps = depth.div_ceil(BF16_STEP);
    let row_tiles = row_tiles(rows, tile_rows);
    assert!(a.len() >= n_steps * planes * row_tiles * TILE_BYTES / 2, "length of a strip");
    assert!(b.len() >= n_steps * planes * TILE_BYTES, "length of a panel");
    static ZEROS: [f32; NR] = [0.0; NR];
    let is_whole = rows == row_tiles * tile_rows;
    assert!(c.len() >= (rows - 1) * c_stride + NR, "length of the result");
    if row_tiles == 1 {
        prefetch_result(c, c_stride, rows);
    }
    let mut loaded: Sums;
    // What stands in the result is read and written through one pointer.
    let result: *mut u8 = c.as_mut_ptr().cast();
    let (start, start_stride): (*const u8, usize) = match start {
        Start::Zero => (ZEROS.as_ptr().cast(), 0),
        Start::Row(values) => (values[..NR].as_ptr().cast(), 0),
        Start::Load if is_whole => (result, 4 * c_stride),
        Start::Load => {
            loaded = [[0.0; NR]; MR];
            for (loaded, c) in loaded[..rows].iter_mut().zip(c.chunks(c_stride)) {
                loaded.copy_from_slice(&c[..NR]);
            }
            (loaded.as_ptr().cast(), 4 * NR)
        }
    };
    let micro_kernel = if row_tiles == 1 { rows_16 } else { rows_32 };
    let (a, b) = (a.as_ptr().cast(), b.as_ptr().cast());
    if is_whole {
        let (sums, sums_stride) = (result, 4 * c_stride);
        let run = Run { a, b, n_steps, start, start_stride, sums, sums_stride };
        // SAFETY: the caller's promise; the tiles are in use, the lengths were checked above, and the rows are all there.
        unsafe { micro_kernel(&run) };
    } else {
        let mut made = MaybeUninit::<Sums>::uninit();
        let (sums, sums_stride) = (made.as_mut_ptr().cast(), 4 * NR);
        let run = Run { a, b, n_steps, start, start_stride, sums, sums_stride };
        // SAFETY: the caller's promise; the tiles are in use, the lengths were checked above, and `made` has 32 rows, of
        // which those that are to be read have been written then.
        let made: &[[f32; NR]] = unsafe {
            micro_kernel(&run);
            std::slice::from_raw_parts(made.as_ptr().cast(), rows)
        };
        for (made, c) in made.iter().zip(c.chunks_mut(c_stride)) {
            c[..NR].copy_from_slice(made);
        }
    }
}

/// Where a row of a group goes in strips: its first step, and the distances from plane to plane and from step to step.
struct RowPlace {
    first: usize,
    plane: usize,
    step: usize,
}

impl RowPlace {
    /// Of row `row` of `n_rows`, whose strips of `a_stride` a row have `planes` planes of `step` elements a row and step.
    fn new(row: usize, n_rows: usize, (planes, step, a_stride): (usize, usize, usize)) -> RowPlace {
        let strip = row / MR * MR;
        let row_tiles = (n_rows - strip).min(MR).div_ceil(TILE);
        let (tile, row_in_strip) = (TILE * step, row - strip);
        let plane = row_tiles * tile;
        let first = strip * a_stride + row_in_strip / TILE * tile + row_in_strip % TILE * step;
        RowPlace { first, plane, step: planes * plane }
    }
}

/// Where [`pack_left_transposed`] puts 16 rows of `a`, in strips of `planes` planes and `a_stride` a row.
fn place_in_strips(
    a: Mat<'_>,
    planes: usize,
    a_stride: usize,
) -> impl Fn(usize, usize, usize) -> (usize, usize) {
    let n_rows = a.n_rows();
    move |row, step, plane| {
        let place = RowPlace::new(row, n_rows, (planes, BF16_STEP, a_stride));
        (place.first + step * place.step + plane * place.plane, BF16_STEP)
    }
}

/// bf16 times bf16.
#[derive(Clone, Copy)]
pub(super) struct Bf16<'t> {
    tiles: Tiles<'t>,
}

/// Of `k`: a strip of 32 rows fills two thirds of a 48 KiB L1 cache.
const BF16_KC: usize = 512;

impl<'t> Bf16<'t> {
    pub(super) fn new(tiles: Tiles<'t>) -> Bf16<'t> {
        Bf16 { tiles }
    }
}

impl kernel::Kernel for Bf16<'_> {
    type Unit = u16;
    const MR: usize = MR;
    const NR: usize = NR;
    const KC: usize = BF16_KC;
    const ROW_UNIT: usize = MR;
    const K_UNIT: usize = BF16_STEP;
    const A_STRIDE: usize = BF16_KC;

    fn tile(self, tile: Tile<'_, u16>) {
        // SAFETY: micro-kernels for up to 16 and up to 32 rows, of one plane.
        unsafe { run_tile(tile, self.tiles, 1, [bf16_16, bf16_32]) }
    }

    fn pack_left(self, strips: &mut [u16], a: Mat, alpha: f32) {
        // SAFETY: `self` exists only where an `Isa` proved the features that the packing functions enable.
        unsafe {
            if a.row_stride() == 1 {
                pack_left_transposed::<1>(strips, a, alpha, place_in_strips(a, 1, BF16_KC));
            } else {
                self.tiles.avx512.with_contiguous(a, |a| pack_left_bf16(strips, a, alpha));
            }
        }
    }

    fn pack_right(self, panel: &mut [u16], b: Mat, scale: f32) {
        // SAFETY: `self` exists only where an `Isa` proved the features that are enabled.
        self.tiles.avx512.with_contiguous(b, |b| unsafe { pack_right_bf16(panel, b, scale) });
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
        self.tiles.avx512.copy(dst, dst_stride, src, alpha);
    }
}

/// The strips of some rows, rounded to bf16 and filled up with zeros to whole steps.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma")]
fn pack_left_bf16(strips: &mut [u16], a: Rows, alpha: f32) {
    for row in 0..a.n_rows() {
        let RowPlace { first, step, .. } = RowPlace::new(row, a.n_rows(), (1, BF16_STEP, BF16_KC));
        let values = a.row(row);
        for (to, values) in strips[first..].chunks_mut(step).zip(values.chunks(BF16_STEP)) {
            let [low, high] = load_2(values, alpha);
            store_bf16(to.first_chunk_mut().expect("a step"), _mm512_cvtne2ps_pbh(high, low));
        }
    }
}

/// f32 times f32, each split in three bf16.
#[derive(Clone, Copy)]
pub(super) struct Split<'t> {
    tiles: Tiles<'t>,
    is_mirrored: bool,
}

/// Of `k`: a strip of 32 rows is 72 KiB, which streams through L1 at a quarter of what AMX takes to multiply it.
const SPLIT_KC: usize = 384;

impl<'t> Split<'t> {
    pub(super) fn new(tiles: Tiles<'t>) -> Split<'t> {
        Split { tiles, is_mirrored: false }
    }
}

impl kernel::Kernel for Split<'_> {
    type Unit = u16;
    const MR: usize = MR;
    const NR: usize = NR;
    const KC: usize = SPLIT_KC;
    const ROW_UNIT: usize = MR;
    const K_UNIT: usize = BF16_STEP;
    const PLANES: usize = PLANES;
    // The strips of 512 rows would take more than half of the L2 cache.
    const MC: usize = 384;
    const A_STRIDE: usize = PLANES * SPLIT_KC;

    fn tile(self, tile: Tile<'_, u16>) {
        let micro_kernels: [unsafe fn(&Run); 2] =
            if self.is_mirrored { [mirrored_16, mirrored_32] } else { [split_16, split_32] };
        // SAFETY: micro-kernels for up to 16 and up to 32 rows, of three planes.
        unsafe { run_tile(tile, self.tiles, PLANES, micro_kernels) }
    }

    fn pack_left(self, strips: &mut [u16], a: Mat, alpha: f32) {
        // SAFETY: `self` exists only where an `Isa` proved the features that the packing functions enable.
        unsafe {
            if a.row_stride() == 1 {
                let place = place_in_strips(a, PLANES, PLANES * SPLIT_KC);
                pack_left_transposed::<PLANES>(strips, a, alpha, place);
            } else {
                self.tiles.avx512.with_contiguous(a, |a| pack_left_split(strips, a, alpha));
            }
        }
    }

    fn pack_right(self, panel: &mut [u16], b: Mat, scale: f32) {
        // SAFETY: `self` exists only where an `Isa` proved the features that `pack_right_split` enables.
        self.tiles.avx512.with_contiguous(b, |b| unsafe { pack_right_split(panel, b, scale) });
    }

    fn pack_transposed(
        self,
        panel: &mut [u16],
        w: &PackedWeight,
        o: Range<usize>,
        i: Range<usize>,
    ) -> bool {
        let Some(stored) = w.split_panels() else { return false };
        // SAFETY: `self` exists only where an `Isa` proved the features that `pack_transposed` enables.
        unsafe { pack_transposed::<PLANES>(panel, w, stored, o, i) };
        true
    }

    fn stored(w: &PackedWeight) -> Option<&[u16]> {
        w.split_panels()
    }

    fn copy(self, dst: &mut [f32], dst_stride: usize, src: Mat, alpha: f32) {
        self.tiles.avx512.copy(dst, dst_stride, src, alpha);
    }

    fn mirrored(self) -> Self {
        Split { is_mirrored: !self.is_mirrored, ..self }
    }
}

/// Makes a panel of zeros that of `b`, split in three, for [`Split`]. It takes no tiles.
///
/// # Panics
///
/// If the level is not [`Level::Amx`].
pub(super) fn pack_split_panel(isa: Isa, panel: &mut [u16], b: Mat) {
    assert_eq!(isa.level(), Level::Amx, "instruction set");
    // SAFETY: an `Isa` of this level exists only where there are the features that `pack_right_split` enables.
    Avx512::new(isa).with_contiguous(b, |b| unsafe { pack_right_split(panel, b, 1.0) });
}

/// The strips of some rows: three planes, filled up with zeros to whole steps.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma")]
fn pack_left_split(strips: &mut [u16], a: Rows, alpha: f32) {
    for row in 0..a.n_rows() {
        let place = RowPlace::new(row, a.n_rows(), (PLANES, BF16_STEP, PLANES * SPLIT_KC));
        let RowPlace { first, plane, step } = place;
        let values = a.row(row);
        for (to, values) in strips[first..].chunks_mut(step).zip(values.chunks(BF16_STEP)) {
            for (at, part) in split::<PLANES>(load_2(values, alpha)).into_iter().enumerate() {
                store_bf16(to[at * plane..].first_chunk_mut().expect("a step"), part);
            }
        }
    }
}

/// A panel of three planes from at most 32 columns.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma")]
fn pack_right_split(panel: &mut [u16], b: Rows, scale: f32) {
    const PLANE: usize = NR * BF16_STEP;
    for k in (0..b.n_rows()).step_by(2) {
        for (tile, col) in (0..b.n_cols()).step_by(TILE).enumerate() {
            let [first, second] = [b.part(k, col), b.part(k + 1, col)];
            let parts = split::<PLANES>([load_1(first, scale), load_1(second, scale)]);
            let at = k / BF16_STEP * PLANES * PLANE + tiles::place(2, k % BF16_STEP, tile);
            let to = &mut panel[at..];
            for (plane, part) in parts.into_iter().enumerate() {
                let to = to[plane * PLANE..].first_chunk_mut().expect("a row of a tile");
                store_bf16(to, interleave_halves(part));
            }
        }
    }
}

/// Activations as bytes with a scale per row, times an int8 weight.
#[derive(Clone, Copy)]
pub(super) struct Int8<'t> {
    tiles: Tiles<'t>,
    w: &'t weight::Int8,
}

impl<'t> Int8<'t> {
    pub(super) fn new(tiles: Tiles<'t>, w: &'t weight::Int8) -> Int8<'t> {
        Int8 { tiles, w }
    }
}

/// Bytes of a strip's row, tiles and scales together.
const INT8_STRIDE: usize = INT8_KC + 64;

impl kernel::Kernel for Int8<'_> {
    type Unit = u8;
    const MR: usize = MR;
    const NR: usize = NR;
    const KC: usize = INT8_KC;
    const ROW_UNIT: usize = MR;
    const K_UNIT: usize = INT8_STEP;
    const PREFETCHES: bool = true;
    const A_STRIDE: usize = INT8_STRIDE;

    fn tile(self, tile: Tile<'_, u8>) {
        let Tile { rows, depth, block, first_col, a, b, c, c_stride, start, prefetch, .. } = tile;
        let n_steps = depth.div_ceil(INT8_STEP);
        let row_tiles = row_tiles(rows, self.tiles.rows);
        assert!(a.len() >= n_steps * row_tiles * TILE_BYTES, "length of a strip");
        assert!(b.len() >= n_steps * 2 * TILE_BYTES, "length of a panel");
        static ZEROS: [i32; NR] = [0; NR];
        if row_tiles == 1 {
            // Loads alone keep the memory busy here; asking for the next panel besides took a tenth longer.
            prefetch_result(c, c_stride, rows);
        } else {
            lanes::prefetch(prefetch);
        }
        let mut sums = MaybeUninit::<[[i32; NR]; MR]>::uninit();
        let run = Run {
            a: a.as_ptr(),
            b: b.as_ptr(),
            n_steps,
            start: ZEROS.as_ptr().cast(),
            start_stride: 0,
            sums: sums.as_mut_ptr().cast(),
            sums_stride: 4 * NR,
        };
        let scales = &a[MR * INT8_KC..].as_chunks::<4>().0[..rows];
        // SAFETY: the tiles are in use, with as many rows as `row_tiles` checked; the operands' lengths were checked above, `ZEROS` is a row read for each of the sums', of which there are up to 32. They are
        // there to be read as soon as the micro-kernel has written them. `self` exists only where an `Isa` proved the
        // features that `finish_int8` enables.
        unsafe {
            if row_tiles == 1 {
                int8_16(&run)
            } else {
                int8_32(&run)
            }
            let sums = std::slice::from_raw_parts(sums.as_ptr().cast(), rows);
            finish_int8(self.w, (block, first_col), sums, scales, (c, c_stride), start);
        }
    }

    fn pack_left(self, strips: &mut [u8], a: Mat, alpha: f32) {
        self.tiles.avx512.with_contiguous(a, |a| {
            for row in 0..a.n_rows() {
                let place = RowPlace::new(row, a.n_rows(), (1, INT8_STEP, INT8_STRIDE));
                let values = a.row(row);
                let mut bytes = [[0; 2 * TILE]; INT8_KC / (2 * TILE)];
                // SAFETY: `self` exists only where an `Isa` proved the features that `quantize` enables.
                let scale = unsafe { quantize(&mut bytes, values, alpha) };
                let n_steps = values.len().div_ceil(INT8_STEP);
                let steps = bytes.as_flattened().chunks_exact(INT8_STEP).take(n_steps);
                for (to, step) in strips[place.first..].chunks_mut(place.step).zip(steps) {
                    to[..INT8_STEP].copy_from_slice(step);
                }
                let scales = &mut strips[row / MR * MR * INT8_STRIDE + MR * INT8_KC..];
                scales[row % MR * 4..][..4].copy_from_slice(&scale.to_ne_bytes());
            }
        });
    }

    fn pack_right(self, _panel: &mut [u8], _b: Mat, _scale: f32) {
        unreachable!("int8 weights are used as they are stored");
    }

    fn stored(w: &PackedWeight) -> Option<&[u8]> {
        w.int8_panels().map(|int8| &*int8.bytes)
    }

    fn copy(self, dst: &mut [f32], dst_stride: usize, src: Mat, alpha: f32) {
        self.tiles.avx512.copy(dst, dst_stride, src, alpha);
    }
}

/// The numbers that rows of finished sums stand for, added to what a tile starts from.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")]
fn finish_int8(
    w: &weight::Int8,
    (block, first_col): (usize, usize),
    sums: &[[i32; NR]],
    scales: &[[u8; 4]],
    (c, c_stride): (&mut [f32], usize),
    start: Start,
) {
    let columns = [0, 1].map(|half| Int8Columns::new(w, (block, first_col + half * TILE)));
    let row_start = match start {
        Start::Zero | Start::Load => [_mm512_setzero_ps(); 2],
        Start::Row(values) => [0, 1].map(|half| load(&values.as_chunks().0[half])),
    };
    for (r, (sums, scale)) in sums.iter().zip(scales).enumerate() {
        let (sums, c) = (sums.as_chunks().0, c[r * c_stride..][..NR].as_chunks_mut().0);
        for half in 0..2 {
            let start = if let Start::Load = start { load(&c[half]) } else { row_start[half] };
            let sums = load_words::<i32, TILE>(&sums[half]);
            store(&mut c[half], columns[half].dequantize(sums, f32::from_ne_bytes(*scale), start));
        }
    }
}
