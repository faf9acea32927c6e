//! What the blocked driver asks of an instruction set.

use super::Mat;

/// A micro-kernel and the packing that feeds it. A value is proof that its instructions may run.
pub(super) trait Kernel: Copy {
    /// Most rows of a tile.
    const MR: usize;
    /// Columns of a tile, and so of a panel.
    const NR: usize;
    /// Most of `k` that a tile runs down at once.
    const KC: usize;
    /// From one row of a strip to the next. Not a multiple of 4 KiB, lest all rows share the same few cache sets.
    const A_STRIDE: usize = Self::KC + 16;

    /// Computes one tile.
    fn tile(self, tile: Tile);

    /// `dst[r·dst_stride + c] = alpha·src[r, c]`.
    fn pack(self, dst: &mut [f32], dst_stride: usize, src: Mat, alpha: f32);
}

/// One tile: `c[r][..NR] = start + Σ_k a[r][k]·b[k][..NR]`, for `rows` rows.
pub(super) struct Tile<'a> {
    /// `1..=MR`.
    pub rows: usize,
    /// Of `k`, `0..=KC`.
    pub depth: usize,
    /// How many of the `NR` columns matter; a kernel may leave the others as they were.
    pub cols: usize,
    /// A strip: rows `A_STRIDE` apart.
    pub a: &'a [f32],
    /// A panel: `depth` rows of `NR`.
    pub b: &'a [f32],
    /// Rows `c_stride` apart, each of at least `NR` values.
    pub c: &'a mut [f32],
    pub c_stride: usize,
    pub start: Start<'a>,
    /// What to bring into the L2 cache meanwhile; a hint.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "portable code cannot"))]
    pub prefetch: &'a [f32],
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

/// [`Kernel::pack`] in plain loops, for views that are contiguous in neither direction.
pub(super) fn pack_plain(dst: &mut [f32], dst_stride: usize, src: Mat, alpha: f32) {
    if src.n_cols() == 0 {
        return;
    }
    for row in 0..src.n_rows() {
        for (col, out) in dst[row * dst_stride..][..src.n_cols()].iter_mut().enumerate() {
            *out = alpha * src.at(row, col);
        }
    }
}
