//! One vector against several rows of a matrix, in any order: what a search of a graph spends its time on.

use crate::Isa;
use crate::elementwise::dot_body;
use crate::isa::dispatch;
use crate::lanes::{Lanes, Vector};

/// Rows that are multiplied together, so that each vector of the query is loaded once for both.
const AT_ONCE: usize = 2;

/// Rows that are fetched before they are needed. A row of 384 numbers takes longer to come from the third cache than to
/// be multiplied.
const AHEAD: usize = 4;

impl Isa {
    /// `scores[i] = Σ_d query[d]·matrix[rows[i], d]` with the bits of [`Isa::dot`].
    ///
    /// The rows to come are fetched while one is multiplied. Panics when a row is past the end of `matrix_cd`.
    pub fn dot_rows(self, scores: &mut [f32], query_d: &[f32], matrix_cd: &[f32], rows: &[u32]) {
        assert_eq!(scores.len(), rows.len(), "a score for each row");
        dispatch!(
            self,
            dot_rows_body(scores: &mut [f32], query_d: &[f32], matrix_cd: &[f32], rows: &[u32])
        )
    }
}

#[inline(always)]
fn dot_rows_body<L: Lanes>(scores: &mut [f32], query_d: &[f32], matrix_cd: &[f32], rows: &[u32]) {
    let dim = query_d.len();
    let row = |at: usize| &matrix_cd[rows[at] as usize * dim..][..dim];
    for at in 0..AHEAD.min(rows.len()) {
        fetch(row(at));
    }
    let (mut at, end) = (0, rows.len() - rows.len() % AT_ONCE);
    while at < end {
        for next in at + AHEAD..(at + AHEAD + AT_ONCE).min(rows.len()) {
            fetch(row(next));
        }
        let pair = dot_2_body::<L>(query_d, [row(at), row(at + 1)]);
        scores[at..][..AT_ONCE].copy_from_slice(&pair);
        at += AT_ONCE;
    }
    if at < rows.len() {
        scores[at] = dot_body::<L>(query_d, row(at));
    }
}

/// The products of `x` with both rows, each with the order of additions of [`dot_body`].
#[inline(always)]
fn dot_2_body<L: Lanes>(x: &[f32], rows: [&[f32]; AT_ONCE]) -> [f32; AT_ONCE] {
    let lanes = L::here();
    let len = x.len();
    assert!(rows.iter().all(|row| row.len() == len), "rows as long as the query");
    let mut sums = [[lanes.splat(0.0); 4]; AT_ONCE];
    let (mut at, end) = (0, len - len % (4 * L::N));
    while at < end {
        let x = &x[at..][..4 * L::N];
        let rows = [&rows[0][at..][..4 * L::N], &rows[1][at..][..4 * L::N]];
        for u in 0..4 {
            let x = lanes.load(&x[u * L::N..]);
            for (sums, row) in sums.iter_mut().zip(rows) {
                sums[u] = x.mul_add(lanes.load(&row[u * L::N..]), sums[u]);
            }
        }
        at += 4 * L::N;
    }
    let end = len - len % L::N;
    for u in 0..3 {
        if at < end {
            let x = lanes.load(&x[at..]);
            for (sums, row) in sums.iter_mut().zip(rows) {
                sums[u] = x.mul_add(lanes.load(&row[at..]), sums[u]);
            }
            at += L::N;
        }
    }
    if end < len {
        let x = lanes.load_part(&x[end..], 0.0);
        for (sums, row) in sums.iter_mut().zip(rows) {
            sums[3] = x.mul_add(lanes.load_part(&row[end..], 0.0), sums[3]);
        }
    }
    sums.map(|sums| ((sums[0] + sums[1]) + (sums[2] + sums[3])).sum())
}

/// Brings `x` into the first cache.
#[inline(always)]
fn fetch(x: &[f32]) {
    #[cfg(target_arch = "x86_64")]
    for line in x.chunks(16) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch reads nothing that the program sees; SSE is part of every x86-64.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = x;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::noise;

    #[test]
    fn each_row_has_the_bits_of_dot_at_every_length_on_every_isa() {
        for dim in 0..=140 {
            // Off the alignment.
            let (matrix_cd, query_d) = (noise(7 * dim + 1, 3), noise(dim + 1, 4));
            let (matrix_cd, query_d) = (&matrix_cd[1..], &query_d[1..]);
            for rows in [&[][..], &[6], &[0, 0], &[3, 1, 6], &[6, 5, 4, 3, 2, 1, 0, 3]] {
                for isa in Isa::available() {
                    let mut scores = vec![f32::NAN; rows.len()];
                    isa.dot_rows(&mut scores, query_d, matrix_cd, rows);
                    let row = |row: u32| &matrix_cd[row as usize * dim..][..dim];
                    let want: Vec<f32> = rows.iter().map(|&at| isa.dot(query_d, row(at))).collect();
                    assert_eq!(scores, want, "{isa}, {dim} numbers, rows {rows:?}");
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "range")]
    fn a_row_past_the_end_panics() {
        Isa::best().dot_rows(&mut [0.0], &[1.0; 3], &[1.0; 6], &[2]);
    }
}
