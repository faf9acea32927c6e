//! A product summed over the rows of chunk after chunk.

use loriot_kernels::Isa;
use loriot_kernels::gemm::{Init, Mat, MatMut, Precision};

/// Rows that an instruction set may add in one link of its chain of sums: [`loriot_kernels::gemm`]
/// promises the same bits only for sums that are split at multiples of it.
const LINK_ROWS: usize = 32;

/// `c += alpha·aᵀ·b`, with the bits of one product over all rows wherever the chunks were cut.
///
/// Rows that a cut leaves over wait for the first ones of the next chunk.
pub(crate) struct RowProduct<'a> {
    isa: Isa,
    precision: Precision,
    alpha: f32,
    c_mk: &'a mut [f32],
    /// `m` and `k`.
    shape: (usize, usize),
    left: Left,
}

/// Fewer than [`LINK_ROWS`] rows of both operands.
#[derive(Default)]
struct Left {
    n: usize,
    a_nm: Vec<f32>,
    b_nk: Vec<f32>,
}

impl<'a> RowProduct<'a> {
    pub(crate) fn new(
        isa: Isa,
        precision: Precision,
        alpha: f32,
        c_mk: &'a mut [f32],
        shape: (usize, usize),
    ) -> RowProduct<'a> {
        RowProduct { isa, precision, alpha, c_mk, shape, left: Left::default() }
    }

    /// Adds the next rows.
    pub(crate) fn add(&mut self, a_nm: Mat, b_nk: Mat) {
        let n = a_nm.n_rows();
        let first = ((LINK_ROWS - self.left.n) % LINK_ROWS).min(n);
        if first > 0 {
            self.left.push(a_nm.rows(0..first), b_nk.rows(0..first));
        }
        if self.left.n == LINK_ROWS {
            self.flush();
        }
        let last = first + (n - first) / LINK_ROWS * LINK_ROWS;
        if first < last {
            self.multiply(a_nm.rows(first..last), b_nk.rows(first..last));
        }
        if last < n {
            self.left.push(a_nm.rows(last..n), b_nk.rows(last..n));
        }
    }

    /// Adds what waits for rows that do not come any more.
    pub(crate) fn finish(mut self) {
        if self.left.n > 0 {
            self.flush();
        }
    }

    fn flush(&mut self) {
        let (m, k) = self.shape;
        let Left { n, a_nm, b_nk } = std::mem::take(&mut self.left);
        self.multiply(Mat::row_major(&a_nm, n, m), Mat::row_major(&b_nk, n, k));
    }

    fn multiply(&mut self, a_nm: Mat, b_nk: Mat) {
        let (m, k) = self.shape;
        let c = MatMut::row_major(self.c_mk, m, k);
        self.isa.gemm_in(self.precision, c, self.alpha, a_nm.t(), b_nk, Init::Accumulate);
    }
}

impl Left {
    fn push(&mut self, a_nm: Mat, b_nk: Mat) {
        self.n += a_nm.n_rows();
        for (rows, of) in [(&mut self.a_nm, a_nm), (&mut self.b_nk, b_nk)] {
            for row in 0..of.n_rows() {
                rows.extend((0..of.n_cols()).map(|col| of.at(row, col)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_leave_the_bits_as_they_are() {
        let (n, m, k) = (150, 5, 37);
        let noise = |len: usize, by: usize| -> Vec<f32> {
            (0..len).map(|at| ((at * by) % 1_009) as f32 / 997.0 - 0.5).collect()
        };
        let (a_nm, b_nk) = (noise(n * m, 787), noise(n * k, 331));
        let (a, b) = (Mat::row_major(&a_nm, n, m), Mat::row_major(&b_nk, n, k));
        for isa in Isa::available() {
            for precision in [Precision::F32, Precision::Bf16] {
                let mut want = noise(m * k, 13);
                let c = MatMut::row_major(&mut want, m, k);
                isa.gemm_in(precision, c, 0.5, a.t(), b, Init::Accumulate);
                for cuts in [vec![], vec![1], vec![31, 32, 33], vec![10, 20, 63, 65], vec![64, 96]]
                {
                    let mut got = noise(m * k, 13);
                    let mut product = RowProduct::new(isa, precision, 0.5, &mut got, (m, k));
                    let mut start = 0;
                    for end in cuts.iter().copied().chain([n]) {
                        product.add(a.rows(start..end), b.rows(start..end));
                        start = end;
                    }
                    product.finish();
                    assert_eq!(got, want, "{isa}, {precision}, cut at {cuts:?}");
                }
            }
        }
    }
}
