//! Dense kernels of a BERT-type encoder, in f32 with products also in bf16 and int8: slices in, slices out, no I/O, no threads, no model names.
//!
//! Every kernel exists as [`mod@reference`] (f64, plain loops: the definition), in portable scalar form, and for the
//! instruction sets of [`isa`], chosen at run time. Callers split rows among threads; no kernel's result depends on how.
//!
//! # Dimension key
//!
//! A tensor's name ends in its shape, outermost axis first: `hidden_nd` is `(n, d)`, row-major.
//!
//! `n` packed tokens of a batch · `b` texts · `d` model width · `h` heads · `k` width of a head
//! `i`, `o` inputs, outputs of a linear layer · `r` LoRA rank · `q` queries · `c` catalogue
//!
//! A glued `d` in front is "derivative of the loss by": `dy_no` has the shape of `y_no`. [`gemm`] alone speaks of
//! `m`, `n` and `k`, the rows, columns and summed dimension of a product, as its field does.
//!
//! # Modules, in reading order
//!
//! - [`isa`]: the instruction sets of this CPU, as values that prove it
//! - [`mod@reference`]: what each kernel computes, in f64
//! - `lanes`: one vector of f32 per instruction set, which the kernels below are written in
//! - `aligned`: buffers on cache lines
//! - [`gemm`]: matrix products, and linear layers with weights packed once
//! - [`layer_norm`], [`activation`], [`attention`], [`dropout`], [`elementwise`], [`pooling`]: the rest of an encoder
//! - [`dot_rows`]: one vector against several rows, for a search
//! - [`adam`]: the optimiser's step
//! - [`random`]: random numbers by SplitMix64, for shuffles, fresh adapters and tests

#![allow(unsafe_code, reason = "intrinsics need it; each block says why it is sound")]

pub mod isa;

mod aligned;
pub mod reference;

mod lanes;

pub mod gemm;

pub mod layer_norm;

pub mod activation;

pub mod attention;

pub mod dropout;

pub mod elementwise;

pub mod dot_rows;

pub mod pooling;

pub mod adam;

pub mod random;

#[cfg(test)]
mod testing;

pub use isa::Isa;
