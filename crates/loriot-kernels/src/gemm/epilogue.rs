//! What happens to a result while it is in the first cache.

use super::{Mat, MatMut};
use crate::activation::Activation;
use crate::isa::Isa;
use std::ops::Range;

/// What a product does with each element of its finished result.
#[derive(Debug)]
pub enum Epilogue<'a> {
    /// Nothing.
    None,
    /// `out = f(y)`; `y` stays as well, for the backward pass.
    Activation {
        /// `f`.
        f: Activation,
        /// As large as the result.
        out: MatMut<'a>,
    },
    /// `y = f(y)`.
    ActivationInPlace(Activation),
    /// `dy = dy·f'(x)`.
    ActivationBackward {
        /// `f`.
        f: Activation,
        /// Its input in the forward pass, as large as the result.
        x: Mat<'a>,
    },
}

impl Epilogue<'_> {
    pub(super) fn check(&self, shape: (usize, usize)) {
        match self {
            Epilogue::None | Epilogue::ActivationInPlace(_) => {}
            Epilogue::Activation { out, .. } => {
                assert_eq!((out.n_rows(), out.n_cols()), shape, "shape of the activated result");
            }
            Epilogue::ActivationBackward { x, .. } => {
                assert_eq!((x.n_rows(), x.n_cols()), shape, "shape of the activation's input");
                assert_eq!(x.col_stride(), 1, "rows are contiguous");
            }
        }
    }

    /// Brings what [`Epilogue::apply`] will touch of some rows into the second cache while their products are made: pieces
    /// of rows are too short for the CPU to see where the next one comes from.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn prefetch(&mut self, rows: Range<usize>, cols: Range<usize>) {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        let fetch = |values: &[f32]| {
            for line in values.chunks(16) {
                // SAFETY: a prefetch reads nothing that the program sees; SSE is part of every x86-64.
                unsafe { _mm_prefetch::<_MM_HINT_T1>(line.as_ptr().cast()) };
            }
        };
        match self {
            Epilogue::None | Epilogue::ActivationInPlace(_) => {}
            Epilogue::Activation { out, .. } => {
                rows.for_each(|row| fetch(&out.from(row, cols.start)[..cols.len()]));
            }
            Epilogue::ActivationBackward { x, .. } => {
                let x = x.columns(cols.clone());
                rows.for_each(|row| fetch(&x.data()[row * x.row_stride()..][..cols.len()]));
            }
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    pub(super) fn prefetch(&mut self, _rows: Range<usize>, _cols: Range<usize>) {}

    /// Treats the columns `cols` of row `row`.
    pub(super) fn apply(&mut self, isa: Isa, y: &mut [f32], row: usize, cols: Range<usize>) {
        match self {
            Epilogue::None => {}
            Epilogue::Activation { f, out } => {
                isa.activation(&mut out.from(row, cols.start)[..cols.len()], y, *f);
            }
            Epilogue::ActivationInPlace(f) => isa.activation_in_place(y, *f),
            Epilogue::ActivationBackward { f, x } => {
                let x = &x.rows(row..row + 1).columns(cols).data()[..y.len()];
                isa.activation_backward_in_place(y, x, *f);
            }
        }
    }
}
