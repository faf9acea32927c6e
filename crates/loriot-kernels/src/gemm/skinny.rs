//! Products whose result is a few columns wide, such as LoRA's `dB = dyᵀ·(x·Aᵀ)`, made as their own transpose.
//!
//! With eight columns, three quarters of a tile would be computed in vain, and the long operand, a transposed view, would
//! have to be transposed in memory besides. In `Cᵀ = Bᵀ·Aᵀ` it is the right operand, which is packed by plain copying,
//! and the columns become the rows of full tiles. The chains, and so the bits, stay as they are.

use super::driver::{NC, Product, Right, Scratch, Term};
use super::kernel::Kernel;
use super::ranges::even_ranges;
use super::{Epilogue, Init, Mat, MatMut};
use crate::isa::Isa;

/// Up to here the transpose was faster (AVX-512, 384×256 by 256: 2.0 times at 8 columns, 1.45 at 24).
const MAX_COLS: usize = 32;

impl Product<'_> {
    pub(super) fn is_better_transposed(&self) -> bool {
        let (rows, cols) = (self.c.n_rows(), self.c.n_cols());
        let &[Term { a, b: Right::Plain { .. }, .. }] = self.terms else { return false };
        let a_is_transposed_view = a.row_stride() == 1 && a.col_stride() != 1;
        a_is_transposed_view
            && cols <= MAX_COLS.min(rows)
            && matches!(self.epilogue, Epilogue::None)
    }

    /// [`Product::run_blocks`] by way of `Cᵀ`, a block of rows at a time.
    pub(super) fn run_transposed<K: Kernel>(self, isa: Isa, kernel: K, scratch: &mut Scratch) {
        let Product { mut c, terms, init, .. } = self;
        let &[Term { alpha, a, b: Right::Plain { b, scale } }] = terms else {
            unreachable!("only plain operands are transposed")
        };
        let mut buffer = std::mem::take(&mut scratch.c_transposed);
        let n = c.n_cols();
        for rows in even_ranges(c.n_rows(), NC, 1) {
            let n_rows = rows.len();
            let transposed = buffer.at_least(n * n_rows);
            let c_stride = c.row_stride();
            let c_rows = c.from(rows.start, 0);
            let init = match init {
                Init::Zero => Init::Zero,
                Init::Bias(bias) => {
                    for (row, &bias) in transposed.chunks_mut(n_rows).zip(bias) {
                        row.fill(bias);
                    }
                    Init::Accumulate
                }
                Init::Accumulate => {
                    let c_rows = Mat::strided(c_rows, n_rows, n, c_stride, 1);
                    kernel.copy(transposed, n_rows, c_rows.t(), 1.0);
                    Init::Accumulate
                }
            };
            let product = Product {
                c: MatMut::row_major(transposed, n, n_rows),
                terms: &[Term {
                    alpha: scale,
                    a: b.t(),
                    b: Right::Plain { b: a.rows(rows).t(), scale: alpha },
                }],
                init,
                epilogue: Epilogue::None,
            };
            product.run_blocks(isa, kernel, scratch);
            kernel.copy(c_rows, c_stride, Mat::row_major(transposed, n, n_rows).t(), 1.0);
        }
        scratch.c_transposed = buffer;
    }
}
