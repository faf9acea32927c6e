//! Matrix products, and linear layers whose weights are packed once for both directions.
//!
//! # Bits
//!
//! Every element of a result is one chain of multiply-adds over `k` in increasing order, starting from what [`Init`]
//! says. It follows that blocking, tiling, and any split of a product by rows, columns or `k` among calls and threads
//! leave the bits as they are; splitting `k` means consecutive calls with [`Init::Accumulate`]. The multiply-add is
//! fused on AVX2 and AVX-512, so that these two agree to the bit; scalar code rounds the product first.
//!
//! # How it goes
//!
//! A product is cut into blocks (`driver`): a block of the right operand becomes panels that stay in the L2 cache, some
//! rows of the left operand become strips, of which one at a time stays in L1, and a micro-kernel per instruction set
//! (`avx512`, `avx2`, `scalar`, behind the trait of `kernel`) runs down `k` with a tile of the result in registers while
//! it prefetches the next block. Between two blocks of `k` the tile waits in the result itself, as f32, which does not
//! change its bits. Results a few columns wide go by way of their transpose (`skinny`).
//!
//! Scratch belongs to the thread and is reused: kernels allocate only until they have seen their largest block.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod driver;
mod kernel;
mod matrix;
mod scalar;
mod skinny;
mod weight;

pub use matrix::{Mat, MatMut};
pub use weight::PackedWeight;

use crate::isa::{Isa, Level};
use driver::{Product, Right};

/// What a product starts from.
#[derive(Clone, Copy, Debug)]
pub enum Init<'a> {
    /// Zero: the result is overwritten.
    Zero,
    /// One value per output column: the result is overwritten.
    Bias(&'a [f32]),
    /// The old result: the product is added.
    Accumulate,
}

impl Isa {
    /// `y (+)= x·Wᵀ`: a linear layer, or part of its rows.
    pub fn linear(self, y_no: MatMut, x_ni: Mat, w: &PackedWeight, init: Init) {
        w.assert_packed_for(self);
        let product = Product { c: y_no, alpha: 1.0, a: x_ni, b: Right::Packed(w), init };
        self.run(product);
    }

    /// `dx (+)= dy·W`: the gradient by the input of [`Isa::linear`].
    pub fn linear_backward(self, dx_ni: MatMut, dy_no: Mat, w: &PackedWeight, init: Init) {
        w.assert_packed_for(self);
        let product =
            Product { c: dx_ni, alpha: 1.0, a: dy_no, b: Right::PackedTransposed(w), init };
        self.run(product);
    }

    /// `C (+)= (alpha·A)·B`; `alpha` is multiplied into the elements of `A` before the products are taken.
    ///
    /// A transposed operand is a transposed view: a weight gradient is `gemm(dw, 1.0, dy.t(), x, init)`.
    pub fn gemm(self, c_mn: MatMut, alpha: f32, a_mk: Mat, b_kn: Mat, init: Init) {
        let product =
            Product { c: c_mn, alpha, a: a_mk, b: Right::Plain { b: b_kn, scale: 1.0 }, init };
        self.run(product);
    }

    fn run(self, product: Product) {
        match self.level() {
            Level::Scalar => product.run(scalar::Kernel),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => product.run(avx2::Kernel::new(self)),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => product.run(avx512::Kernel::new(self)),
            #[cfg(not(target_arch = "x86_64"))]
            _ => unreachable!("`Isa` has no other level on this architecture"),
        }
    }
}
