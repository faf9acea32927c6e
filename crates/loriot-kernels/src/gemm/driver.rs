//! The blocked loops around a micro-kernel; the same for every instruction set.

use std::cell::RefCell;
use std::ops::Range;

use super::kernel::{Kernel, Start, Tile};
use super::{Init, Mat, MatMut, PackedWeight};
use crate::aligned::AlignedBuf;

/// Columns of a block: with `KC` rows, this block and the next one fill half of a 2 MiB L2 cache.
pub(super) const NC: usize = 384;

/// Tiles whose rows of the left operand are packed at once. Of a transposed view, one alone would read 56 bytes a line
/// of memory, and at strides of many KiB the rest of the cache line would be gone when its turn came.
const GROUP: usize = 8;

/// Blocks of `k` begin at multiples of this where they can: whole panels of a packed weight, whole transposes.
const K_UNIT: usize = 32;

/// The largest tile of any kernel, and its columns.
const MAX_TILE: usize = 14 * MAX_NR;
const MAX_NR: usize = 32;

/// `c (+)= (alpha·a)·b`.
pub(super) struct Product<'a> {
    pub c: MatMut<'a>,
    pub alpha: f32,
    pub a: Mat<'a>,
    pub b: Right<'a>,
    pub init: Init<'a>,
}

/// The right operand.
#[derive(Clone, Copy)]
pub(super) enum Right<'a> {
    /// `Wᵀ`, whose panels can be used as they lie.
    Packed(&'a PackedWeight),
    /// `W`.
    PackedTransposed(&'a PackedWeight),
    /// `scale·b`.
    Plain { b: Mat<'a>, scale: f32 },
}

#[derive(Default)]
pub(super) struct Scratch {
    /// Strips of the left operand.
    a: AlignedBuf,
    /// A block of the right operand.
    b: AlignedBuf,
    /// Some rows of the result, transposed.
    pub c_transposed: AlignedBuf,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl Product<'_> {
    pub(super) fn run<K: Kernel>(self, kernel: K) {
        let (m, n, k) = (self.c.n_rows(), self.c.n_cols(), self.a.n_cols());
        assert_eq!(self.a.n_rows(), m, "rows of the left operand and of the result");
        assert_eq!(self.b.shape(), (k, n), "shape of the right operand");
        if let Init::Bias(bias) = self.init {
            assert_eq!(bias.len(), n, "length of the bias");
        }
        if m == 0 || n == 0 {
            return;
        }
        SCRATCH.with_borrow_mut(|scratch| {
            if self.is_better_transposed() {
                self.run_transposed(kernel, scratch);
            } else {
                self.run_blocks(kernel, scratch);
            }
        });
    }

    pub(super) fn run_blocks<K: Kernel>(self, kernel: K, scratch: &mut Scratch) {
        let Product { mut c, alpha, a, b, init } = self;
        let (m, n, k) = (c.n_rows(), c.n_cols(), a.n_cols());
        let group_rows = GROUP * K::MR;
        let strips = scratch.a.at_least(group_rows * K::A_STRIDE);
        // Without any k, one empty block still writes what the product starts from.
        let blocks = even_ranges(n, NC, K::NR)
            .flat_map(|cols| even_ranges(k, K::KC, K_UNIT).map(move |depth| (cols.clone(), depth)));
        let mut blocks = blocks.peekable();
        while let Some((cols, depth)) = blocks.next() {
            let block = b.block(kernel, depth.clone(), cols.clone(), &mut scratch.b);
            let next =
                blocks.peek().map(|(cols, depth)| b.source::<K>(depth.clone(), cols.clone()));
            let init = if depth.start == 0 { init } else { Init::Accumulate };
            let n_tiles = m.div_ceil(K::MR) * cols.len().div_ceil(K::NR);
            let mut tile_idx = 0;
            for group in even_ranges(m, group_rows, K::MR) {
                let a_block = a.rows(group.clone()).columns(depth.clone());
                kernel.pack(strips, K::A_STRIDE, a_block, alpha);
                for rows in even_ranges(group.len(), K::MR, 1) {
                    for (panel_idx, col) in cols.clone().step_by(K::NR).enumerate() {
                        let tile = Tile {
                            rows: rows.len(),
                            depth: depth.len(),
                            cols: K::NR.min(cols.end - col),
                            a: &strips[rows.start * K::A_STRIDE..],
                            b: block.panel(panel_idx),
                            c_stride: c.row_stride(),
                            c: c.from(group.start + rows.start, col),
                            start: Start::of(init, col),
                            prefetch: next.map_or(&[], |next| share(next, tile_idx, n_tiles)),
                        };
                        if tile.cols == K::NR {
                            kernel.tile(tile);
                        } else {
                            narrow_tile(kernel, tile);
                        }
                        tile_idx += 1;
                    }
                }
            }
        }
    }
}

/// The part of `source` that the `idx`-th of `n_tiles` tiles prefetches: of one row, an even share.
fn share(source: Mat<'_>, idx: usize, n_tiles: usize) -> &[f32] {
    let row = idx * source.n_rows() / n_tiles;
    let first_tile_of = |row: usize| (row * n_tiles).div_ceil(source.n_rows());
    let (first_tile, end_tile) = (first_tile_of(row), first_tile_of(row + 1));
    let row = &source.data()[row * source.row_stride()..][..source.n_cols()];
    let len = row.len().div_ceil((end_tile - first_tile).max(1));
    let start = row.len().min((idx - first_tile) * len);
    &row[start..row.len().min(start + len)]
}

impl<'a> Start<'a> {
    fn of(init: Init<'a>, col: usize) -> Start<'a> {
        match init {
            Init::Zero => Start::Zero,
            Init::Bias(bias) => Start::Row(&bias[col..]),
            Init::Accumulate => Start::Load,
        }
    }
}

/// A tile at the right edge: made in a buffer of full width, so that kernels need no masks.
fn narrow_tile<K: Kernel>(kernel: K, tile: Tile) {
    let mut wide = [0.0; MAX_TILE];
    let mut start_row = [0.0; MAX_NR];
    let (cols, rows, c, c_stride) = (tile.cols, tile.rows, tile.c, tile.c_stride);
    let start = match tile.start {
        Start::Zero => Start::Zero,
        Start::Row(values) => {
            start_row[..cols].copy_from_slice(&values[..cols]);
            Start::Row(&start_row)
        }
        Start::Load => {
            for r in 0..rows {
                wide[r * K::NR..][..cols].copy_from_slice(&c[r * c_stride..][..cols]);
            }
            Start::Load
        }
    };
    kernel.tile(Tile { c: &mut wide, c_stride: K::NR, start, ..tile });
    for r in 0..rows {
        c[r * c_stride..][..cols].copy_from_slice(&wide[r * K::NR..][..cols]);
    }
}

/// Panels of a block of the right operand.
struct Block<'a> {
    data: &'a [f32],
    panel_stride: usize,
    panel_len: usize,
}

impl<'a> Block<'a> {
    fn panel(&self, panel_idx: usize) -> &'a [f32] {
        &self.data[panel_idx * self.panel_stride..][..self.panel_len]
    }
}

impl Right<'_> {
    /// `(k, n)`.
    fn shape(&self) -> (usize, usize) {
        match self {
            Right::Packed(w) => (w.n_inputs(), w.n_outputs()),
            Right::PackedTransposed(w) => (w.n_outputs(), w.n_inputs()),
            Right::Plain { b, .. } => (b.n_rows(), b.n_cols()),
        }
    }

    /// Rows `depth` and columns `cols` as panels.
    fn block<'s, K: Kernel>(
        &'s self,
        kernel: K,
        depth: Range<usize>,
        cols: Range<usize>,
        scratch: &'s mut AlignedBuf,
    ) -> Block<'s> {
        let panel_len = depth.len() * K::NR;
        if let Right::Packed(w) = self {
            let data = w.panels_from(cols.start / K::NR, depth.start);
            return Block { data, panel_stride: w.n_inputs() * K::NR, panel_len };
        }
        let data = scratch.at_least(panel_len * cols.len().div_ceil(K::NR));
        for (panel_idx, col) in cols.clone().step_by(K::NR).enumerate() {
            let panel_cols = col..cols.end.min(col + K::NR);
            let panel = &mut data[panel_idx * panel_len..][..panel_len];
            if panel_cols.len() < K::NR {
                panel.fill(0.0);
            }
            self.pack_panel(kernel, depth.clone(), panel_cols, panel);
        }
        Block { data, panel_stride: panel_len, panel_len }
    }

    /// The memory that [`Right::block`] would read, as rows of contiguous values.
    fn source<K: Kernel>(&self, depth: Range<usize>, cols: Range<usize>) -> Mat<'_> {
        match self {
            Right::Packed(w) => Mat::strided(
                w.panels_from(cols.start / K::NR, depth.start),
                cols.len().div_ceil(K::NR),
                depth.len() * K::NR,
                w.n_inputs() * K::NR,
                1,
            ),
            Right::PackedTransposed(w) => Mat::strided(
                w.panels_from(depth.start / K::NR, cols.start),
                depth.len().div_ceil(K::NR),
                cols.len() * K::NR,
                w.n_inputs() * K::NR,
                1,
            ),
            Right::Plain { b, .. } => {
                let b = b.rows(depth).columns(cols);
                if b.col_stride() == 1 {
                    b
                } else if b.row_stride() == 1 {
                    b.t()
                } else {
                    Mat::strided(&[], 1, 0, 0, 1)
                }
            }
        }
    }

    fn pack_panel<K: Kernel>(
        &self,
        kernel: K,
        depth: Range<usize>,
        cols: Range<usize>,
        panel: &mut [f32],
    ) {
        match self {
            Right::Plain { b, scale } => {
                kernel.pack(panel, K::NR, b.rows(depth).columns(cols), *scale);
            }
            Right::Packed(_) => unreachable!("packed already"),
            Right::PackedTransposed(w) => {
                let mut o = depth.start;
                while o < depth.end {
                    // The outputs of one of the weight's own panels are the rows of its transpose.
                    let n_o = (K::NR - o % K::NR).min(depth.end - o);
                    let w_panel = &w.panel(o / K::NR)[cols.start * K::NR + o % K::NR..];
                    let src = Mat::strided(w_panel, n_o, cols.len(), 1, K::NR);
                    kernel.pack(&mut panel[(o - depth.start) * K::NR..], K::NR, src, 1.0);
                    o += n_o;
                }
            }
        }
    }
}

/// Cuts `0..total` into the fewest ranges of at most `max`, as even as multiples of `unit` allow; one empty range for 0.
pub(super) fn even_ranges(
    total: usize,
    max: usize,
    unit: usize,
) -> impl Iterator<Item = Range<usize>> {
    let n_ranges = total.div_ceil(max).max(1);
    let n_units = total.div_ceil(unit);
    let bound = move |range_idx: usize| (range_idx * n_units / n_ranges * unit).min(total);
    (0..n_ranges).map(move |range_idx| bound(range_idx)..bound(range_idx + 1))
}
