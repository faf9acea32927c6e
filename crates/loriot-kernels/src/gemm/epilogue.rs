//! What happens to a result while it is in the first cache.

use super::{Mat, MatMut};
use crate::activation::{
    Activation, activation_backward_in_place_body, activation_body, activation_in_place_body,
};
use crate::isa::{Isa, dispatch};
use crate::lanes::{Lanes, prefetch};
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
    pub(super) fn prefetch(&mut self, rows: Range<usize>, cols: Range<usize>) {
        match self {
            Epilogue::None | Epilogue::ActivationInPlace(_) => {}
            Epilogue::Activation { out, .. } => {
                rows.for_each(|row| prefetch(&out.from(row, cols.start)[..cols.len()]));
            }
            Epilogue::ActivationBackward { x, .. } => {
                let x = x.columns(cols.clone());
                rows.for_each(|row| prefetch(&x.data()[row * x.row_stride()..][..cols.len()]));
            }
        }
    }

    /// Treats a whole result whose product was made without an epilogue: the same bits as with it.
    ///
    /// # Panics
    ///
    /// If the epilogue is for a result of another shape.
    pub fn finish(mut self, isa: Isa, mut y: MatMut<'_>) {
        let (rows, cols) = (y.n_rows(), y.n_cols());
        self.check((rows, cols));
        self.apply(isa, &mut y, 0..rows, 0..cols);
    }

    /// Treats the columns `cols` of rows `rows` of the result.
    pub(super) fn apply(
        &mut self,
        isa: Isa,
        y: &mut MatMut<'_>,
        rows: Range<usize>,
        cols: Range<usize>,
    ) {
        let epilogue = self;
        dispatch!(isa, apply_body(
            epilogue: &mut Epilogue<'_>, y: &mut MatMut<'_>, rows: Range<usize>, cols: Range<usize>,
        ))
    }
}

#[inline(always)]
fn apply_body<L: Lanes>(
    epilogue: &mut Epilogue<'_>,
    y: &mut MatMut<'_>,
    rows: Range<usize>,
    cols: Range<usize>,
) {
    for row in rows {
        let y = &mut y.from(row, cols.start)[..cols.len()];
        match epilogue {
            Epilogue::None => {}
            Epilogue::Activation { f, out } => {
                activation_body::<L>(&mut out.from(row, cols.start)[..cols.len()], y, *f);
            }
            Epilogue::ActivationInPlace(f) => activation_in_place_body::<L>(y, *f),
            Epilogue::ActivationBackward { f, x } => {
                let x = &x.data()[row * x.row_stride() + cols.start..][..cols.len()];
                activation_backward_in_place_body::<L>(y, x, *f);
            }
        }
    }
}
