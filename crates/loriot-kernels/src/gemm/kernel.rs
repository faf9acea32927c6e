//! What the blocked driver asks of an instruction set.

use super::{Mat, PackedWeight};
use crate::aligned::Plain;
use std::ops::Range;

/// A micro-kernel and the packing that feeds it. A value is proof that its instructions may run.
///
/// A kernel reads its left operand from *strips* of up to `MR` rows and its right operand from *panels* of `NR` columns,
/// both in an order of its own that only its `pack_left`, `pack_right` and `tile` know.
pub(super) trait Kernel: Copy {
    /// What packed operands are made of.
    type Unit: Plain;
    /// Most rows of a tile.
    const MR: usize;
    /// Columns of a tile, and so of a panel.
    const NR: usize;
    /// Most of `k` that a tile runs down at once.
    const KC: usize;
    /// Rows of a block, whose strips are packed once for each part of `k` and stay in the L2 cache. The right operand is read
    /// once for each of them.
    const MC: usize = 512;
    /// Rows are cut into strips at multiples of this.
    const ROW_UNIT: usize = 1;
    /// Panels hold a multiple of this much of `k`, filled up with zeros.
    const K_UNIT: usize = 1;
    /// Units that stand for one element.
    const PLANES: usize = 1;
    /// Whether tiles bring the next block of the right operand into the L2 cache. Those of AMX wait for the very buffers
    /// between L1 and L2 that this takes, and are slower for it.
    const PREFETCHES: bool = false;
    /// Units of a strip's row, on average; the strip that begins with row `r` begins at `r·A_STRIDE`.
    const A_STRIDE: usize;

    /// Computes one tile.
    fn tile(self, tile: Tile<'_, Self::Unit>);

    /// Makes the strips of a group of rows: `alpha·a`, at most `KC` wide.
    fn pack_left(self, strips: &mut [Self::Unit], a: Mat, alpha: f32);

    /// Makes a panel of zeros that of `scale·b`, at most `KC` rows of at most `NR` values.
    fn pack_right(self, panel: &mut [Self::Unit], b: Mat, scale: f32);

    /// Makes a whole panel of `W` from the panels of `Wᵀ` that `w` holds: outputs `o` are its rows and inputs `i`, at most
    /// `NR`, its columns. `false`, and nothing is done, where the weight is not in this kernel's order.
    fn pack_transposed(
        self,
        _panel: &mut [Self::Unit],
        _w: &PackedWeight,
        _o: Range<usize>,
        _i: Range<usize>,
    ) -> bool {
        false
    }

    /// The weight's panels, if they are in this kernel's order.
    fn stored(w: &PackedWeight) -> Option<&[Self::Unit]>;

    /// `dst[r·dst_stride + c] = alpha·src[r, c]`.
    fn copy(self, dst: &mut [f32], dst_stride: usize, src: Mat, alpha: f32);

    /// The kernel that makes `Bᵀ·Aᵀ` with the bits of `A·B`.
    fn mirrored(self) -> Self {
        self
    }
}

/// Units of a panel of `depth`.
pub(super) fn panel_len<K: Kernel>(depth: usize) -> usize {
    depth.next_multiple_of(K::K_UNIT) * K::NR * K::PLANES
}

/// One tile: `c[r][..NR] = start + Σ_k a[r][k]·b[k][..NR]`, for `rows` rows.
pub(super) struct Tile<'a, U> {
    /// `1..=MR`.
    pub rows: usize,
    /// Of `k`, `0..=KC`; the how manieth block of it.
    pub depth: usize,
    pub block: usize,
    /// How many of the `NR` columns matter; a kernel may leave the others as they were. The first is `first_col`.
    pub cols: usize,
    pub first_col: usize,
    /// A strip.
    pub a: &'a [U],
    /// A panel.
    pub b: &'a [U],
    /// Rows `c_stride` apart, each of at least `NR` values.
    pub c: &'a mut [f32],
    pub c_stride: usize,
    pub start: Start<'a>,
    /// What to bring into the L2 cache meanwhile; a hint. Empty where the kernel does not prefetch.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "portable code cannot"))]
    pub prefetch: &'a [u8],
}

/// What a tile's sums start from.
#[derive(Clone, Copy)]
pub(super) enum Start<'a> {
    Zero,
    /// The same `NR` values in every row.
    Row(&'a [f32]),
    /// What `c` holds.
    Load,
}

/// [`Kernel::copy`] in plain loops, for views that are contiguous in neither direction.
pub(super) fn copy_plain(dst: &mut [f32], dst_stride: usize, src: Mat, alpha: f32) {
    if src.n_cols() == 0 {
        return;
    }
    for row in 0..src.n_rows() {
        for (col, out) in dst[row * dst_stride..][..src.n_cols()].iter_mut().enumerate() {
            *out = alpha * src.at(row, col);
        }
    }
}

/// The parts of [`Kernel`] that are the same wherever operands are packed as f32: rows of `A_STRIDE`, and rows of `NR`.
macro_rules! f32_operands {
    () => {
        type Unit = f32;
        // Not a multiple of 4 KiB, lest all rows share the same few cache sets.
        const A_STRIDE: usize = Self::KC + 16;

        fn pack_left(self, strips: &mut [f32], a: Mat, alpha: f32) {
            self.copy(strips, Self::A_STRIDE, a, alpha);
        }

        fn pack_right(self, panel: &mut [f32], b: Mat, scale: f32) {
            self.copy(panel, Self::NR, b, scale);
        }

        fn stored(w: &$crate::gemm::PackedWeight) -> Option<&[f32]> {
            w.f32_panels()
        }
    };
}
pub(super) use f32_operands;
