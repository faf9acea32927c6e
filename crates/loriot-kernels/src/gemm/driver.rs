//! The blocked loops around a micro-kernel; the same for every instruction set.

use std::cell::RefCell;
use std::ops::Range;

use super::kernel::{Kernel, Start, Tile, panel_len};
use super::ranges::{EvenRanges, even_ranges};
use super::weight::Int8;
use super::{Epilogue, Init, Mat, MatMut, PackedWeight};
use crate::aligned::{AlignedBuf, Plain, bytes_of};
use crate::isa::Isa;

/// Columns of a block. For each strip, which is in the L1 cache by then, all of them come from L2.
pub(super) const NC: usize = 128;

/// Blocks of `k` begin at multiples of this where they can: whole panels of a packed weight, whole transposes.
const K_UNIT: usize = 32;

/// Products that are summed in one result: a layer's and an adapter's.
const MAX_TERMS: usize = 2;

/// The largest tile of any kernel, and its columns.
const MAX_TILE: usize = 32 * MAX_NR;
const MAX_NR: usize = 32;

/// `c (+)= (alpha·a)·b + …`, and what happens to `c` then.
pub(super) struct Product<'a> {
    pub c: MatMut<'a>,
    /// At least one.
    pub terms: &'a [Term<'a>],
    pub init: Init<'a>,
    pub epilogue: Epilogue<'a>,
}

/// `(alpha·a)·b`.
#[derive(Clone, Copy)]
pub(super) struct Term<'a> {
    pub alpha: f32,
    pub a: Mat<'a>,
    pub b: Right<'a>,
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
    pub a: AlignedBuf<u8>,
    /// A block of the right operand.
    b: AlignedBuf<u8>,
    /// A panel of the right operand, of a weight in another kernel's order.
    widened: AlignedBuf<f32>,
    /// Some rows of the result, transposed.
    pub c_transposed: AlignedBuf<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl<'a> Product<'a> {
    /// The weight of an int8 product.
    pub(super) fn int8_weight(&self) -> &'a Int8 {
        match self.terms {
            [Term { b: Right::Packed(w), .. }] => w.int8_panels().expect("an int8 weight"),
            _ => unreachable!("only packed weights are int8"),
        }
    }

    pub(super) fn run<K: Kernel>(self, isa: Isa, kernel: K) {
        let (m, n) = (self.c.n_rows(), self.c.n_cols());
        for Term { a, b, .. } in self.terms {
            assert_eq!(a.n_rows(), m, "rows of the left operand and of the result");
            assert_eq!(b.shape(), (a.n_cols(), n), "shape of the right operand");
        }
        if let Init::Bias(bias) = self.init {
            assert_eq!(bias.len(), n, "length of the bias");
        }
        self.epilogue.check((m, n));
        if m == 0 || n == 0 {
            return;
        }
        SCRATCH.with_borrow_mut(|scratch| {
            if self.is_better_transposed() {
                self.run_transposed(isa, kernel.mirrored(), scratch);
            } else if let Some(few_rows) = self.as_few_rows::<K>() {
                self.run_few_rows(isa, kernel, few_rows, scratch);
            } else {
                self.run_blocks(isa, kernel, scratch);
            }
        });
    }

    pub(super) fn run_blocks<K: Kernel>(self, isa: Isa, kernel: K, scratch: &mut Scratch) {
        let Product { mut c, terms, init, mut epilogue } = self;
        let (m, n) = (c.n_rows(), c.n_cols());
        let max_rows = K::MC.next_multiple_of(K::MR).min(m.next_multiple_of(K::MR));
        let Scratch { a: strips, b: panels, widened, .. } = scratch;
        let strips = strips.at_least_of::<K::Unit>(max_rows * K::A_STRIDE);
        let schedule = Schedule::new::<K>(terms, (m, n), max_rows);
        let panels = panels.at_least_of::<K::Unit>(schedule.panels_len::<K>());
        for idx in 0..schedule.n_blocks() {
            let Block { rows, cols, depth, depth_idx, term, panels_at } = schedule.block::<K>(idx);
            let next = schedule.next::<K>(idx).filter(|_| K::PREFETCHES);
            let next = next.map(|next| next.term.b.source(next.depth, next.cols));
            if cols.start == 0 {
                let a_block = term.a.rows(rows.clone()).columns(depth.clone());
                kernel.pack_left(strips, a_block, term.alpha);
            }
            let panels = &mut panels[panels_at.start * panel_len::<K>(depth.len())..];
            if panels_at.is_new {
                term.b.pack(kernel, depth.clone(), cols.clone(), panels, widened);
            }
            let panels = term.b.panels::<K>(depth.clone(), cols.clone(), panels);
            let init = if depth_idx == 0 { init } else { Init::Accumulate };
            let n_tiles = rows.len().div_ceil(K::MR) * cols.len().div_ceil(K::NR);
            let mut tile_idx = 0;
            for strip in even_ranges(rows.len(), K::MR, K::ROW_UNIT) {
                let first_row = rows.start + strip.start;
                let is_last =
                    depth_idx + 1 == schedule.n_depths() && !matches!(epilogue, Epilogue::None);
                if is_last {
                    epilogue.prefetch(first_row..first_row + strip.len(), cols.clone());
                }
                for (panel_idx, col) in cols.clone().step_by(K::NR).enumerate() {
                    let tile = Tile {
                        rows: strip.len(),
                        depth: depth.len(),
                        block: depth_idx,
                        cols: K::NR.min(cols.end - col),
                        first_col: col,
                        a: &strips[strip.start * K::A_STRIDE..],
                        b: panels.panel(panel_idx),
                        c_stride: c.row_stride(),
                        c: c.from(first_row, col),
                        start: Start::of(init, col),
                        prefetch: next.map_or(&[], |next| next.share(tile_idx, n_tiles)),
                    };
                    if tile.cols == K::NR {
                        kernel.tile(tile);
                    } else {
                        narrow_tile(kernel, tile);
                    }
                    tile_idx += 1;
                }
                if is_last {
                    // The rows are still in the first cache.
                    let rows = first_row..first_row + strip.len();
                    epilogue.apply(isa, &mut c, rows, cols.clone());
                }
            }
        }
    }
}

/// What is multiplied at once: some rows, some columns, and some of `k`.
struct Block<'a> {
    rows: Range<usize>,
    cols: Range<usize>,
    depth: Range<usize>,
    /// Which of the blocks of `k` this is, over all terms.
    depth_idx: usize,
    term: &'a Term<'a>,
    panels_at: PanelsAt,
}

/// Where the panels of a block lie in the buffer for them, if they are not used as they are stored.
struct PanelsAt {
    /// Panels before them.
    start: usize,
    /// Whether they still have to be packed.
    is_new: bool,
}

/// The blocks of a product in their order: rows, then `k`, then columns, so that the sums of some rows are finished while
/// they are in the L2 cache. Where the right operand has to be packed, and there is more than one block of rows, `k` comes
/// first: what is packed is kept for all rows.
struct Schedule<'a> {
    terms: &'a [Term<'a>],
    rows: EvenRanges,
    cols: EvenRanges,
    /// Blocks of `k` of each term.
    depths: [EvenRanges; MAX_TERMS],
    keeps_panels: bool,
}

impl<'a> Schedule<'a> {
    fn new<K: Kernel>(terms: &'a [Term<'a>], (m, n): (usize, usize), max_rows: usize) -> Self {
        assert!(terms.len() <= MAX_TERMS, "terms of a product");
        let depths = std::array::from_fn(|term| {
            depths_of::<K>(terms.get(term).map_or(0, |term| term.a.n_cols()))
        });
        let rows = EvenRanges::new(m, max_rows, K::MR);
        let cols = EvenRanges::new(n, NC, K::NR);
        let keeps_panels = rows.len() > 1 && !terms.iter().any(|term| term.b.is_stored::<K>());
        Schedule { terms, rows, cols, depths, keeps_panels }
    }

    fn n_depths(&self) -> usize {
        self.depths[..self.terms.len()].iter().map(EvenRanges::len).sum()
    }

    fn n_blocks(&self) -> usize {
        self.rows.len() * self.n_depths() * self.cols.len()
    }

    /// Units of the buffer for panels.
    fn panels_len<K: Kernel>(&self) -> usize {
        let needs = |term: usize| {
            let n_cols = if self.keeps_panels { self.cols.total } else { self.cols.max_len() };
            panel_len::<K>(self.depths[term].max_len()) * n_cols.div_ceil(K::NR)
        };
        (0..self.terms.len())
            .filter(|&term| !self.terms[term].b.is_stored::<K>())
            .map(needs)
            .max()
            .unwrap_or(0)
    }

    fn block<K: Kernel>(&self, idx: usize) -> Block<'a> {
        let (outer, col) = (idx / self.cols.len(), idx % self.cols.len());
        let (row, depth_idx) = if self.keeps_panels {
            (outer % self.rows.len(), outer / self.rows.len())
        } else {
            (outer / self.n_depths(), outer % self.n_depths())
        };
        let n_first = self.depths[0].len();
        let (term, depth) =
            if depth_idx < n_first { (0, depth_idx) } else { (1, depth_idx - n_first) };
        let cols = self.cols.get(col);
        Block {
            rows: self.rows.get(row),
            panels_at: PanelsAt {
                start: if self.keeps_panels { cols.start / K::NR } else { 0 },
                is_new: !self.keeps_panels || row == 0,
            },
            cols,
            depth: self.depths[term].get(depth),
            depth_idx,
            term: &self.terms[term],
        }
    }

    fn next<K: Kernel>(&self, idx: usize) -> Option<Block<'a>> {
        (idx + 1 < self.n_blocks()).then(|| self.block::<K>(idx + 1))
    }
}

/// The blocks of `k`. Without any, one empty block still writes what the product starts from.
pub(super) fn depths_of<K: Kernel>(k: usize) -> EvenRanges {
    EvenRanges::new(k, K::KC, K_UNIT.max(K::K_UNIT))
}

impl<'a> Start<'a> {
    pub(super) fn of(init: Init<'a>, col: usize) -> Start<'a> {
        match init {
            Init::Zero => Start::Zero,
            Init::Bias(bias) => Start::Row(&bias[col..]),
            Init::Accumulate => Start::Load,
        }
    }
}

/// A tile at the right edge: made in a buffer of full width, so that kernels need no masks.
pub(super) fn narrow_tile<K: Kernel>(kernel: K, tile: Tile<'_, K::Unit>) {
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
struct Panels<'a, U> {
    data: &'a [U],
    panel_stride: usize,
    panel_len: usize,
}

impl<'a, U> Panels<'a, U> {
    fn panel(&self, panel_idx: usize) -> &'a [U] {
        &self.data[panel_idx * self.panel_stride..][..self.panel_len]
    }
}

/// The memory that a block is made from: rows of bytes.
#[derive(Clone, Copy)]
struct Source<'a> {
    bytes: &'a [u8],
    n_rows: usize,
    row_len: usize,
    row_stride: usize,
}

impl<'a> Source<'a> {
    const NONE: Source<'static> = Source { bytes: &[], n_rows: 1, row_len: 0, row_stride: 0 };

    /// `n_rows` rows of `row_len` values, `row_stride` apart.
    fn new<T: Plain>(values: &'a [T], n_rows: usize, row_len: usize, row_stride: usize) -> Self {
        if n_rows == 0 {
            return Source::NONE;
        }
        let size = size_of::<T>();
        let (row_len, row_stride) = (row_len * size, row_stride * size);
        Source { bytes: bytes_of(values), n_rows, row_len, row_stride }
    }

    /// The part that the `idx`-th of `n_tiles` tiles prefetches: of one row, an even share.
    fn share(self, idx: usize, n_tiles: usize) -> &'a [u8] {
        let row = idx * self.n_rows / n_tiles;
        let first_tile_of = |row: usize| (row * n_tiles).div_ceil(self.n_rows);
        let (first_tile, end_tile) = (first_tile_of(row), first_tile_of(row + 1));
        let row = &self.bytes[row * self.row_stride..][..self.row_len];
        let len = row.len().div_ceil((end_tile - first_tile).max(1));
        let start = row.len().min((idx - first_tile) * len);
        &row[start..row.len().min(start + len)]
    }
}

impl<'a> Right<'a> {
    /// `(k, n)`.
    fn shape(&self) -> (usize, usize) {
        match self {
            Right::Packed(w) => (w.n_inputs(), w.n_outputs()),
            Right::PackedTransposed(w) => (w.n_outputs(), w.n_inputs()),
            Right::Plain { b, .. } => (b.n_rows(), b.n_cols()),
        }
    }

    /// Whether its panels can be used as they lie.
    fn is_stored<K: Kernel>(&self) -> bool {
        matches!(self, Right::Packed(w) if K::stored(w).is_some())
    }

    /// Makes the panels of rows `depth` and columns `cols`, unless they are stored.
    fn pack<K: Kernel>(
        &self,
        kernel: K,
        depth: Range<usize>,
        cols: Range<usize>,
        panels: &mut [K::Unit],
        widened: &mut AlignedBuf<f32>,
    ) {
        if self.is_stored::<K>() {
            return;
        }
        let panels = panels.chunks_exact_mut(panel_len::<K>(depth.len()).max(1));
        for (col, panel) in cols.clone().step_by(K::NR).zip(panels) {
            let panel_cols = col..cols.end.min(col + K::NR);
            if panel_cols.len() < K::NR || !depth.len().is_multiple_of(K::K_UNIT) {
                panel.fill(K::Unit::default());
            }
            self.pack_panel(kernel, depth.clone(), panel_cols, panel, widened);
        }
    }

    /// The panels of rows `depth` and columns `cols`: those stored, or those packed.
    fn panels<'s, K: Kernel>(
        &'s self,
        depth: Range<usize>,
        cols: Range<usize>,
        packed: &'s [K::Unit],
    ) -> Panels<'s, K::Unit> {
        let panel_len = panel_len::<K>(depth.len());
        if let Right::Packed(w) = self
            && let Some(panels) = K::stored(w)
        {
            let data = &panels[w.start_of(cols.start / K::NR, depth.start)..];
            return Panels { data, panel_stride: w.panel_stride(), panel_len };
        }
        Panels { data: packed, panel_stride: panel_len, panel_len }
    }

    /// The memory that [`Right::panels`] comes from.
    fn source(&self, depth: Range<usize>, cols: Range<usize>) -> Source<'a> {
        match *self {
            Right::Packed(w) => w.source(cols, depth),
            Right::PackedTransposed(w) => w.source(depth, cols),
            Right::Plain { b, .. } => {
                let b = b.rows(depth).columns(cols);
                let b = if b.col_stride() == 1 { b } else { b.t() };
                if b.col_stride() == 1 {
                    Source::new(b.data(), b.n_rows(), b.n_cols(), b.row_stride())
                } else {
                    Source::NONE
                }
            }
        }
    }

    fn pack_panel<K: Kernel>(
        &self,
        kernel: K,
        depth: Range<usize>,
        cols: Range<usize>,
        panel: &mut [K::Unit],
        widened: &mut AlignedBuf<f32>,
    ) {
        match self {
            Right::Plain { b, scale } => {
                kernel.pack_right(panel, b.rows(depth).columns(cols), *scale);
            }
            Right::Packed(w) => {
                let widened = widen(w, depth, cols, false, widened);
                kernel.pack_right(panel, widened, 1.0);
            }
            Right::PackedTransposed(w) => {
                if let Some(panels) = w.f32_panels() {
                    let mut o = depth.start;
                    while o < depth.end {
                        // The outputs of one of the weight's own panels are the rows of its transpose.
                        let n_o = (K::NR - o % K::NR).min(depth.end - o);
                        let w_panel = &panels[w.start_of(o / K::NR, cols.start) + o % K::NR..];
                        let src = Mat::strided(w_panel, n_o, cols.len(), 1, K::NR);
                        kernel.pack_right(&mut panel[(o - depth.start) * K::NR..], src, 1.0);
                        o += n_o;
                    }
                } else if !kernel.pack_transposed(panel, w, depth.clone(), cols.clone()) {
                    let widened = widen(w, depth, cols, true, widened);
                    kernel.pack_right(panel, widened, 1.0);
                }
            }
        }
    }
}

/// Rows `depth` and columns `cols` of `Wᵀ`, or of `W` if `transposed`, from a weight in another kernel's order.
fn widen<'s>(
    w: &PackedWeight,
    depth: Range<usize>,
    cols: Range<usize>,
    transposed: bool,
    widened: &'s mut AlignedBuf<f32>,
) -> Mat<'s> {
    let (k, n) = (depth.len(), cols.len());
    let (first_k, first_col) = (depth.start, cols.start);
    let widened = widened.at_least(k * n);
    let (inputs, outputs) = if transposed { (cols, depth) } else { (depth, cols) };
    w.widen(inputs, outputs, |o, i, value| {
        let (row, col) = if transposed { (o, i) } else { (i, o) };
        widened[(row - first_k) * n + col - first_col] = value;
    });
    Mat::row_major(widened, k, n)
}

impl PackedWeight {
    /// The panels of some outputs, as far as they hold some inputs.
    fn source(&self, o: Range<usize>, i: Range<usize>) -> Source<'_> {
        let first_panel = o.start / self.panel_cols();
        let n_panels = o.end.div_ceil(self.panel_cols()) - first_panel;
        let start = self.start_of(first_panel, i.start);
        let (row_len, stride) = (i.len() * self.units_of_i(), self.panel_stride());
        if let Some(panels) = self.f32_panels() {
            Source::new(&panels[start..], n_panels, row_len, stride)
        } else if let Some(panels) = self.bf16_panels().or(self.split_panels()) {
            Source::new(&panels[start..], n_panels, row_len, stride)
        } else if let Some(int8) = self.int8_panels() {
            Source::new(&int8.bytes[start..], n_panels, row_len, stride)
        } else {
            Source::NONE
        }
    }
}
