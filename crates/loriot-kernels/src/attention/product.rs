//! Products of the small matrices of one attention head, and the copies that prepare them.
//!
//! Every right operand lies in scratch with rows padded by zeros to whole vectors. An element of a product is one chain
//! of multiply-adds over the inner dimension, whatever rows and columns are computed beside it.

use crate::lanes::{Lanes, Vector};

/// `n` rounded up to whole vectors.
#[inline(always)]
pub(super) fn pad<L: Lanes>(n: usize) -> usize {
    n.next_multiple_of(L::N)
}

/// A left operand: element `(row, inner)`, from rows or from the columns of a matrix that is transposed by reading it so.
#[derive(Clone, Copy)]
pub(super) struct Left<'a> {
    data: &'a [f32],
    stride: usize,
    transposed: bool,
}

impl<'a> Left<'a> {
    /// `a`, `stride` elements from row to row.
    #[inline(always)]
    pub(super) fn rows(data: &'a [f32], stride: usize) -> Left<'a> {
        Left { data, stride, transposed: false }
    }

    /// `aᵀ`, where `a` is padded to whole vectors.
    #[inline(always)]
    pub(super) fn columns(data: &'a [f32], stride: usize) -> Left<'a> {
        Left { data, stride, transposed: true }
    }
}

/// `c = a·b`, each with its elements from row to row, of (`rows`, `inner`, `columns`).
#[inline(always)]
pub(super) fn product<L: Lanes>(
    lanes: L,
    c: &mut [f32],
    c_stride: usize,
    a: Left<'_>,
    b: &[f32],
    b_stride: usize,
    (rows, inner, columns): (usize, usize, usize),
) {
    let mut column = 0;
    while column < columns {
        let part = Part { c_stride, b_stride, rows, inner, columns, column };
        // Eight sums in flight either way, as many as two units need that take four cycles each.
        if columns - column > L::N {
            for row in (0..rows).step_by(4) {
                if a.transposed {
                    part.tile::<L, 4, 2, true>(lanes, c, a, b, row);
                } else {
                    part.tile::<L, 4, 2, false>(lanes, c, a, b, row);
                }
            }
            column += 2 * L::N;
        } else {
            for row in (0..rows).step_by(8) {
                if a.transposed {
                    part.tile::<L, 8, 1, true>(lanes, c, a, b, row);
                } else {
                    part.tile::<L, 8, 1, false>(lanes, c, a, b, row);
                }
            }
            column += L::N;
        }
    }
}

/// Some columns of a product.
#[derive(Clone, Copy)]
struct Part {
    c_stride: usize,
    b_stride: usize,
    rows: usize,
    inner: usize,
    columns: usize,
    column: usize,
}

impl Part {
    /// `R` rows from `row` on, and `C` vectors of columns. Rows behind the last are computed like it, and dropped.
    #[inline(always)]
    fn tile<L: Lanes, const R: usize, const C: usize, const TRANSPOSED: bool>(
        self,
        lanes: L,
        c: &mut [f32],
        a: Left<'_>,
        b: &[f32],
        row: usize,
    ) {
        let Part { c_stride, b_stride, rows, inner, columns, column } = self;
        let mut a_rows = [a.data; R];
        if !TRANSPOSED {
            for (r, a_row) in a_rows.iter_mut().enumerate() {
                *a_row = &a.data[(row + r).min(rows - 1) * a.stride..][..inner];
            }
        }
        let mut sums = [[lanes.splat(0.0); C]; R];
        for w in 0..inner {
            let b_row = &b[w * b_stride + column..][..C * L::N];
            let mut b_lanes = [lanes.splat(0.0); C];
            for (c, b_lanes) in b_lanes.iter_mut().enumerate() {
                *b_lanes = lanes.load(&b_row[c * L::N..]);
            }
            let mut a_column = [0.0; R];
            if TRANSPOSED {
                a_column.copy_from_slice(&a.data[w * a.stride + row..][..R]);
            } else {
                for (a, a_row) in a_column.iter_mut().zip(a_rows) {
                    *a = a_row[w];
                }
            }
            for (sums, a) in sums.iter_mut().zip(a_column) {
                for (sum, b) in sums.iter_mut().zip(b_lanes) {
                    *sum = lanes.splat(a).mul_add(b, *sum);
                }
            }
        }
        for (sums, row) in sums.into_iter().zip(row..rows) {
            let c_row = &mut c[row * c_stride..][..columns];
            for (sum, c) in sums.into_iter().zip(c_row[column..].chunks_mut(L::N)) {
                if c.len() == L::N {
                    lanes.store(c, sum);
                } else {
                    lanes.store_part(c, sum);
                }
            }
        }
    }
}

/// Copies `rows` rows of `columns` elements, and pads them with zeros to `to_stride`.
#[inline(always)]
pub(super) fn copy<L: Lanes>(
    lanes: L,
    to: &mut [f32],
    to_stride: usize,
    from: &[f32],
    from_stride: usize,
    (rows, columns): (usize, usize),
) {
    for (row, to) in to.chunks_exact_mut(to_stride).enumerate().take(rows) {
        let from = &from[row * from_stride..][..columns];
        for (to, from) in to.chunks_exact_mut(L::N).zip(from.chunks(L::N)) {
            let whole = from.len() == L::N;
            let vector = if whole { lanes.load(from) } else { lanes.load_part(from, 0.0) };
            lanes.store(to, vector);
        }
    }
}

/// Writes the transpose of `rows` rows of `columns` elements as `columns` rows, padded with zeros to `to_stride`.
#[inline(always)]
pub(super) fn transpose<L: Lanes>(
    lanes: L,
    to: &mut [f32],
    to_stride: usize,
    from: &[f32],
    from_stride: usize,
    (rows, columns): (usize, usize),
) {
    for row in (0..to_stride).step_by(8) {
        for column in (0..columns).step_by(8) {
            let width = 8.min(columns - column);
            let mut block = [[0.0; 8]; 8];
            for (r, block) in block.iter_mut().enumerate().take(rows.saturating_sub(row)) {
                let from = &from[(row + r) * from_stride + column..];
                match from.first_chunk() {
                    Some(whole) if width == 8 => *block = *whole,
                    _ => block[..width].copy_from_slice(&from[..width]),
                }
            }
            for (c, block) in lanes.transpose(block).iter().enumerate().take(width) {
                to[(column + c) * to_stride + row..][..8].copy_from_slice(block);
            }
        }
    }
}
