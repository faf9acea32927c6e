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
