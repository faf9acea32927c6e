//! Matrix products, and linear layers whose weights are packed once for both directions.
//!
//! # Precision
//!
//! A weight is packed in a [`Precision`]. f32 is f32 throughout. In bf16 both operands are rounded and products summed
//! in f32. In int8 weights have a scale per output channel and activations one per token (over at most 1,536 inputs),
//! and sums of bytes are exact: int8 products of finite numbers have the same bits on every level that multiplies integers. What an
//! instruction set cannot multiply as it is goes through f32 ([`Isa::has_native`]).
//!
//! # Bits
//!
//! Every element of a result is one chain of sums over `k` in increasing order, starting from what [`Init`] says. It
//! follows that blocking, tiling, and any split of a product by rows or columns among calls and threads leave the bits as
//! they are; so does splitting `k` at multiples of 32, that is, consecutive calls with [`Init::Accumulate`] (int8 apart,
//! whose scales belong to a stretch of `k`). The links of the chain are single multiply-adds on the levels below
//! `avx512bf16`, and in f32 below `amx`: fused on AVX2 and AVX-512, so that these two agree to the bit; scalar code
//! rounds the product first.
//!
//! AMX has no f32. There each operand is split in three bf16, `a = a₀ + a₁ + a₂`, which loses nothing (24 bits), and
//! the six products `aᵢ·bⱼ` with `i + j ≤ 2` are summed in f32; what is left out is below 2⁻²⁴ of the product, as f32's
//! own rounding is. (Henry, Tang and Heinecke, "Leveraging the bfloat16 Artificial Intelligence Datatype for
//! Higher-Precision Computations", 2019.) Numbers below 2⁻¹¹⁰ lose their last bits, infinities become NaN.
//!
//! # How it goes
//!
//! A product is cut into blocks (`driver`): a block of the right operand becomes panels that stay in the L2 cache, some
//! rows of the left operand become strips, of which one at a time stays in L1, and a micro-kernel per instruction set
//! and precision (`amx`, `avx512_dot`, `avx512`, `avx2_int8`, `avx2`, `scalar`, behind the trait of `kernel`) runs down
//! `k` with a tile of the result in registers. Between two blocks of `k` the tile waits in the result itself, as f32,
//! which does not change its bits; after the last one the rows just made get their [`Epilogue`].
//! What operands are made of stands apart, and knows no micro-kernel: how ranges are cut (`ranges`), the order of stored
//! elements (`tiles`), the weight as it is stored (`weight`), and moving and rounding rows with AVX-512 (`avx512_copy`,
//! `avx512_pack`, `avx512_int8`). Only `pack`, which makes a weight, calls kernels for it.
//! Results a few columns wide go by way of their transpose (`skinny`), those a few rows high panel by panel (`few_rows`).
//!
//! Scratch belongs to the thread and is reused: kernels allocate only until they have seen their largest block.

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx2_int8;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod avx512_copy;
#[cfg(target_arch = "x86_64")]
mod avx512_dot;
#[cfg(target_arch = "x86_64")]
mod avx512_int8;
#[cfg(target_arch = "x86_64")]
mod avx512_pack;
mod driver;
mod epilogue;
mod few_rows;
mod kernel;
mod matrix;
mod pack;
mod precision;
mod ranges;
mod scalar;
mod skinny;
mod tiles;
mod weight;

pub use epilogue::Epilogue;
pub use matrix::{Mat, MatMut};
pub use precision::Precision;
pub use weight::PackedWeight;

use crate::isa::{Isa, Level};
use driver::{Product, Right, Term};

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

/// A second product added to that of a linear layer: `(alpha·a)·b`, LoRA's share with a narrow `a`.
#[derive(Clone, Copy, Debug)]
pub struct Added<'a> {
    /// Multiplied into the elements of `a`.
    pub alpha: f32,
    /// Rows as the layer's.
    pub a: Mat<'a>,
    /// Columns as the result's.
    pub b: Mat<'a>,
}

impl<'a> Added<'a> {
    fn term(self) -> Term<'a> {
        Term { alpha: self.alpha, a: self.a, b: Right::Plain { b: self.b, scale: 1.0 } }
    }
}

impl Isa {
    /// `y (+)= x·Wᵀ`: a linear layer, or part of its rows.
    pub fn linear(self, y_no: MatMut, x_ni: Mat, w: &PackedWeight, init: Init) {
        self.linear_with(y_no, x_ni, w, init, None, Epilogue::None);
    }

    /// [`Isa::linear`], to which `added` is added before the epilogue.
    ///
    /// # Panics
    ///
    /// Where `added` meets an int8 weight.
    pub fn linear_with(
        self,
        y_no: MatMut,
        x_ni: Mat,
        w: &PackedWeight,
        init: Init,
        added: Option<Added>,
        epilogue: Epilogue,
    ) {
        w.assert_packed_for(self);
        let main = Term { alpha: 1.0, a: x_ni, b: Right::Packed(w) };
        self.run_terms(w.precision(), y_no, main, added, init, epilogue);
    }

    /// `dx (+)= dy·W`: the gradient by the input of [`Isa::linear`].
    ///
    /// # Panics
    ///
    /// For int8 weights.
    pub fn linear_backward(self, dx_ni: MatMut, dy_no: Mat, w: &PackedWeight, init: Init) {
        self.linear_backward_with(dx_ni, dy_no, w, init, None, Epilogue::None);
    }

    /// [`Isa::linear_backward`], to which `added` is added before the epilogue.
    ///
    /// # Panics
    ///
    /// For int8 weights.
    pub fn linear_backward_with(
        self,
        dx_ni: MatMut,
        dy_no: Mat,
        w: &PackedWeight,
        init: Init,
        added: Option<Added>,
        epilogue: Epilogue,
    ) {
        w.assert_packed_for(self);
        assert_ne!(w.precision(), Precision::Int8, "int8 weights have no backward pass");
        let main = Term { alpha: 1.0, a: dy_no, b: Right::PackedTransposed(w) };
        self.run_terms(w.precision(), dx_ni, main, added, init, epilogue);
    }

    /// `C (+)= (alpha·A)·B`; `alpha` is multiplied into the elements of `A` before the products are taken.
    ///
    /// A transposed operand is a transposed view: a weight gradient is `gemm(dw, 1.0, dy.t(), x, init)`.
    pub fn gemm(self, c_mn: MatMut, alpha: f32, a_mk: Mat, b_kn: Mat, init: Init) {
        self.gemm_in(Precision::F32, c_mn, alpha, a_mk, b_kn, init);
    }

    /// [`Isa::gemm`] with its operands rounded.
    ///
    /// # Panics
    ///
    /// For int8, which only weights can have.
    pub fn gemm_in(
        self,
        precision: Precision,
        c_mn: MatMut,
        alpha: f32,
        a_mk: Mat,
        b_kn: Mat,
        init: Init,
    ) {
        assert_ne!(precision, Precision::Int8, "only packed weights are int8");
        let main = Term { alpha, a: a_mk, b: Right::Plain { b: b_kn, scale: 1.0 } };
        self.run_terms(precision, c_mn, main, None, init, Epilogue::None);
    }

    fn run_terms(
        self,
        precision: Precision,
        c: MatMut,
        main: Term,
        added: Option<Added>,
        init: Init,
        epilogue: Epilogue,
    ) {
        match added {
            None => self.run(precision, Product { c, terms: &[main], init, epilogue }),
            Some(added) => {
                assert_ne!(precision, Precision::Int8, "nothing is added to int8 products");
                let terms = &[main, added.term()];
                self.run(precision, Product { c, terms, init, epilogue });
            }
        }
    }

    fn run(self, precision: Precision, product: Product) {
        match (self.level(), precision) {
            (Level::Scalar, _) => product.run(self, scalar::Kernel),
            #[cfg(target_arch = "x86_64")]
            (Level::Avx2, Precision::F32 | Precision::Bf16) => {
                product.run(self, avx2::Kernel::new(self));
            }
            #[cfg(target_arch = "x86_64")]
            (Level::Avx2, Precision::Int8) => {
                let w = product.int8_weight();
                product.run(self, avx2_int8::Int8::new(self, w));
            }
            #[cfg(target_arch = "x86_64")]
            (Level::Avx512, _) | (Level::Avx512Bf16, Precision::F32) => {
                product.run(self, avx512::Kernel::new(self));
            }
            #[cfg(target_arch = "x86_64")]
            (Level::Avx512Bf16, Precision::Bf16) => {
                product.run(self, avx512_dot::Bf16::new(self));
            }
            #[cfg(target_arch = "x86_64")]
            (Level::Avx512Bf16, Precision::Int8) => {
                let w = product.int8_weight();
                product.run(self, avx512_dot::Int8::new(self, w));
            }
            #[cfg(target_arch = "x86_64")]
            (Level::Amx, Precision::F32) => {
                amx::with_tiles(self, product.c.n_rows(), |tiles| {
                    product.run(self, amx::Split::new(tiles));
                });
            }
            #[cfg(target_arch = "x86_64")]
            (Level::Amx, Precision::Bf16) => {
                amx::with_tiles(self, product.c.n_rows(), |tiles| {
                    product.run(self, amx::Bf16::new(tiles));
                });
            }
            #[cfg(target_arch = "x86_64")]
            (Level::Amx, Precision::Int8) => {
                let w = product.int8_weight();
                amx::with_tiles(self, product.c.n_rows(), |tiles| {
                    product.run(self, amx::Int8::new(tiles, w));
                });
            }
            #[cfg(not(target_arch = "x86_64"))]
            _ => unreachable!("`Isa` has no other level on this architecture"),
        }
    }
}
