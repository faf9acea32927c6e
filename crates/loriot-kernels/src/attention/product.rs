//! Products of the small matrices of one attention head.
//!
//! Probabilities, and what has their shape, lie in *blocks*: of as many queries as a vector has pairs of lanes, by all keys.
//! Vector `j/2` of a block holds keys `j` and `j + 1`, of query `i` in lanes `2·i` and `2·i + 1`. Sums and maxima over keys
//! are then sums and maxima of whole vectors, eight queries fill a vector of sixteen, and an element of a block is read
//! alone as readily by rows as by columns, which is all that the products with values, keys and queries ask for.
//!
//! Rows of queries, keys and values are read where they are. An element of a product is one chain of multiply-adds (two for
//! scores, of the even and the odd elements), whatever is computed beside it.

#![allow(
    clippy::needless_range_loop,
    reason = "sums that an iterator goes over were kept in memory, not in registers"
)]

use crate::lanes::{Lanes, Vector, inlined};

/// Rows of one head, `stride` elements apart. Every row has at least as many readable elements as the widest read.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    pub(super) data: &'a [f32],
    pub(super) stride: usize,
    /// How many there are.
    pub(super) len: usize,
}

impl<'a> Rows<'a> {
    /// Elements `column..column + width` of a row; a row beyond the last one reads as the last one.
    #[inline(always)]
    fn part(&self, row: usize, column: usize, width: usize) -> &'a [f32] {
        &self.data[row.min(self.len - 1) * self.stride + column..][..width]
    }
}

/// Columns that are read from a row by one slice: the length of every row is a multiple.
pub(super) const COLUMNS: usize = 8;

/// `s[i,j] = Σ_c x[i,c]·y[j,c]` of `n_blocks` blocks from query `first` on, with a buffer for `x` transposed. Where the
/// number of keys is odd, the last vector holds the last key twice.
#[inline(always)]
pub(super) fn scores<L: Lanes>(
    lanes: L,
    s: &mut [f32],
    transposed: &mut [f32],
    x: Rows<'_>,
    y: Rows<'_>,
    first: usize,
    (n_blocks, columns): (usize, usize),
) {
    lanes.apart(inlined!(|| transpose(lanes, transposed, x, first, (n_blocks, columns))));
    // At least eight sums in flight, as two units need that take four cycles each, and no more than there are registers.
    match n_blocks {
        1 => lanes.apart(inlined!(|| scores_of::<L, 1, 8>(lanes, s, transposed, y, columns))),
        2 => lanes.apart(inlined!(|| scores_of::<L, 2, 4>(lanes, s, transposed, y, columns))),
        3 => lanes.apart(inlined!(|| scores_of::<L, 3, 4>(lanes, s, transposed, y, columns))),
        _ => lanes.apart(inlined!(|| scores_of::<L, 4, 4>(lanes, s, transposed, y, columns))),
    }
}

/// Writes `columns` columns of the queries of `n_blocks` blocks from `first` on, so that a vector holds two columns of one
/// block: vector `n_blocks·c/2 + block` those of `c` and `c + 1`.
#[inline(always)]
fn transpose<L: Lanes>(
    lanes: L,
    to: &mut [f32],
    from: Rows<'_>,
    first: usize,
    (n_blocks, columns): (usize, usize),
) {
    let stride = n_blocks * L::N;
    for block in 0..n_blocks {
        let first = first + block * L::N / 2;
        let mut rows = [&[][..]; 8];
        for (r, row) in rows.iter_mut().enumerate().take(L::N / 2) {
            *row = &from.part(first + r, 0, columns).as_chunks().0[..columns / COLUMNS];
        }
        for (c, to) in (0..columns / COLUMNS).zip(to.chunks_exact_mut(COLUMNS / 2 * stride)) {
            let mut parts = [&[0.0; COLUMNS]; 8];
            for (part, row) in parts.iter_mut().zip(rows).take(L::N / 2) {
                *part = &row[c];
            }
            let to = &mut to[block * L::N..][..3 * stride + L::N];
            for half in 0..2 {
                let pairs = lanes.load_pairs(inlined!(|r| &parts[r].as_chunks().0[half]));
                lanes.store(&mut to[2 * half * stride..], pairs.0);
                lanes.store(&mut to[(2 * half + 1) * stride..], pairs.1);
            }
        }
    }
}

/// Most queries that [`scores`] takes at a time: their sums fill the registers.
#[inline(always)]
pub(super) fn most_queries<L: Lanes>() -> usize {
    if L::N == 16 { 4 * 8 } else { 3 * 4 }
}

/// [`scores`] of `B` blocks and `R` keys at a time.
#[inline(always)]
fn scores_of<L: Lanes, const B: usize, const R: usize>(
    lanes: L,
    s: &mut [f32],
    x: &[f32],
    y: Rows<'_>,
    columns: usize,
) {
    let block_stride = y.len.div_ceil(2) * L::N;
    for key in (0..y.len).step_by(R) {
        let mut rows = [&[][..]; R];
        for (r, row) in rows.iter_mut().enumerate() {
            *row = &y.part(key + r, 0, columns).as_chunks::<COLUMNS>().0[..columns / COLUMNS];
        }
        let mut sums = [[lanes.splat(0.0); B]; R];
        for (c, x) in (0..columns / COLUMNS).zip(x.chunks_exact(COLUMNS / 2 * B * L::N)) {
            let mut parts = [&[0.0; COLUMNS]; R];
            for r in 0..R {
                parts[r] = &rows[r][c];
            }
            for pair in 0..COLUMNS / 2 {
                let x = load_all::<L, B>(lanes, &x[pair * B * L::N..]);
                for r in 0..R {
                    let y = lanes.splat_pair(&[parts[r][2 * pair], parts[r][2 * pair + 1]]);
                    for b in 0..B {
                        sums[r][b] = x[b].mul_add(y, sums[r][b]);
                    }
                }
            }
        }
        for r in (0..R).step_by(2) {
            if key + r < y.len {
                for b in 0..B {
                    let both = sums[r][b].add_pairs(sums[r + 1][b]);
                    lanes.store(&mut s[b * block_stride + (key + r) / 2 * L::N..], both);
                }
            }
        }
    }
}

/// Rows of one head to be written: `stride` elements from row to row, of which `width` are the head's.
pub(super) struct Out<'a> {
    pub(super) data: &'a mut [f32],
    pub(super) stride: usize,
    pub(super) width: usize,
}

impl Out<'_> {
    /// Writes the vectors of a row from a column on.
    #[inline(always)]
    fn store<L: Lanes, const C: usize>(
        &mut self,
        lanes: L,
        (row, column): (usize, usize),
        sums: [L::F32; C],
    ) {
        let to = &mut self.data[row * self.stride + column..][..self.width - column];
        for c in 0..C {
            if (c + 1) * L::N <= to.len() {
                lanes.store(&mut to[c * L::N..], sums[c]);
            } else if c * L::N < to.len() {
                lanes.store_part(&mut to[c * L::N..], sums[c]);
            }
        }
    }

    /// The same vectors; 0 behind the width.
    #[inline(always)]
    fn load<L: Lanes, const C: usize>(
        &self,
        lanes: L,
        (row, column): (usize, usize),
    ) -> [L::F32; C] {
        let from = &self.data[row * self.stride + column..][..self.width - column];
        let mut sums = [lanes.splat(0.0); C];
        for c in 0..C {
            if (c + 1) * L::N <= from.len() {
                sums[c] = lanes.load(&from[c * L::N..]);
            } else if c * L::N < from.len() {
                sums[c] = lanes.load_part(&from[c * L::N..], 0.0);
            }
        }
        sums
    }
}

/// `C` vectors from the start of a slice.
#[inline(always)]
fn load_all<L: Lanes, const C: usize>(lanes: L, from: &[f32]) -> [L::F32; C] {
    let mut vectors = [lanes.splat(0.0); C];
    for c in 0..C {
        vectors[c] = lanes.load(&from[c * L::N..]);
    }
    vectors
}

/// `out[i] = Σ_j p[i,j]·y[j]` of the queries from `first` on, whose blocks lie end to end in `p`.
#[inline(always)]
pub(super) fn sum_over_keys<L: Lanes>(
    lanes: L,
    mut out: Out<'_>,
    p: &[f32],
    y: Rows<'_>,
    (first, n_queries): (usize, usize),
) {
    let out = &mut out;
    lanes.apart(inlined!(|| {
        let blocks = p.chunks_exact(y.len.div_ceil(2) * L::N);
        for (first, p) in (first..first + n_queries).step_by(L::N / 2).zip(blocks) {
            let n_rows = (L::N / 2).min(y.len - first);
            let mut column = 0;
            while column < out.width {
                let few = n_rows <= L::N / 4;
                column += match (out.width - column > L::N, L::N, few) {
                    (true, 16, false) => {
                        query_tile::<L, 8, 2>(lanes, out, p, y, first, n_rows, column)
                    }
                    (true, _, _) => query_tile::<L, 4, 2>(lanes, out, p, y, first, n_rows, column),
                    (false, 16, false) => {
                        query_tile::<L, 8, 1>(lanes, out, p, y, first, n_rows, column)
                    }
                    (false, _, _) => query_tile::<L, 4, 1>(lanes, out, p, y, first, n_rows, column),
                };
            }
        }
    }));
}

/// [`sum_over_keys`] of the first `R` queries and `C` vectors of columns; returns the number of columns.
#[inline(always)]
fn query_tile<L: Lanes, const R: usize, const C: usize>(
    lanes: L,
    out: &mut Out<'_>,
    p: &[f32],
    y: Rows<'_>,
    first: usize,
    n_rows: usize,
    column: usize,
) -> usize {
    let mut sums = [[lanes.splat(0.0); C]; R];
    for (pair, p) in p.chunks_exact(L::N).enumerate() {
        for parity in 0..2 {
            // Behind an odd number of keys stands a probability of 0.
            let y = load_all::<L, C>(lanes, y.part(2 * pair + parity, column, C * L::N));
            for r in 0..R {
                let p = lanes.splat(p[2 * r + parity]);
                for c in 0..C {
                    sums[r][c] = p.mul_add(y[c], sums[r][c]);
                }
            }
        }
    }
    for r in 0..R {
        if r < n_rows {
            out.store(lanes, (first + r, column), sums[r]);
        }
    }
    C * L::N
}

/// `out[j] = Σ_i p[i,j]·x[i]` of the queries from `first` on, whose blocks lie end to end in `p`; added to what is in `out`
/// if `first` is not the first of all.
#[inline(always)]
pub(super) fn sum_over_queries<L: Lanes>(
    lanes: L,
    mut out: Out<'_>,
    p: &[f32],
    x: Rows<'_>,
    (first, n_queries, n_keys): (usize, usize, usize),
) {
    let out = &mut out;
    lanes.apart(inlined!(|| {
        let mut column = 0;
        while column < out.width {
            let wide = out.width - column > L::N;
            let at = Queries { first, n_queries, n_keys, column };
            let mut key = 0;
            while key < n_keys {
                key += match (wide, L::N == 16 && n_keys - key > 4) {
                    (true, true) => key_tile::<L, 8, 2>(lanes, out, p, x, at, key),
                    (true, false) => key_tile::<L, 4, 2>(lanes, out, p, x, at, key),
                    (false, true) => key_tile::<L, 8, 1>(lanes, out, p, x, at, key),
                    (false, false) => key_tile::<L, 4, 1>(lanes, out, p, x, at, key),
                };
            }
            column += if wide { 2 * L::N } else { L::N };
        }
    }));
}

/// The operands of [`sum_over_queries`].
#[derive(Clone, Copy)]
struct Queries {
    first: usize,
    n_queries: usize,
    n_keys: usize,
    column: usize,
}

/// [`sum_over_queries`] of `R` keys from `key` on and `C` vectors of columns; returns `R`.
#[inline(always)]
fn key_tile<L: Lanes, const R: usize, const C: usize>(
    lanes: L,
    out: &mut Out<'_>,
    p: &[f32],
    x: Rows<'_>,
    Queries { first, n_queries, n_keys, column }: Queries,
    key: usize,
) -> usize {
    let mut sums = [[lanes.splat(0.0); C]; R];
    if first > 0 {
        for r in 0..R {
            if key + r < n_keys {
                sums[r] = out.load(lanes, (key + r, column));
            }
        }
    }
    let n_pairs = n_keys.div_ceil(2);
    for (block, p) in p.chunks_exact(n_pairs * L::N).enumerate() {
        let start = block * L::N / 2;
        let mut pairs = [&[][..]; R];
        for r in 0..R / 2 {
            pairs[r] = &p[(key / 2 + r).min(n_pairs - 1) * L::N..][..L::N];
        }
        for i in 0..(L::N / 2).min(n_queries.saturating_sub(start)) {
            let x = load_all::<L, C>(lanes, x.part(first + start + i, column, C * L::N));
            for r in 0..R {
                let p = lanes.splat(pairs[r / 2][2 * i + r % 2]);
                for c in 0..C {
                    sums[r][c] = p.mul_add(x[c], sums[r][c]);
                }
            }
        }
    }
    for r in 0..R {
        if key + r < n_keys {
            out.store(lanes, (key + r, column), sums[r]);
        }
    }
    R
}

/// Copies the first `width` elements of each row, and pads them with zeros to whole vectors.
#[inline(always)]
pub(super) fn copy<L: Lanes>(lanes: L, to: &mut [f32], from: Rows<'_>, width: usize) {
    for (row, to) in to.chunks_exact_mut(width.next_multiple_of(L::N)).enumerate() {
        let from = from.part(row, 0, width);
        for (to, from) in to.chunks_exact_mut(L::N).zip(from.chunks(L::N)) {
            let whole = from.len() == L::N;
            lanes.store(to, if whole { lanes.load(from) } else { lanes.load_part(from, 0.0) });
        }
    }
}
