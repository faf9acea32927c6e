//! What every kernel computes: f64, plain loops in the order of the formula, no blocking, no intrinsics.
//!
//! This is the definition. The kernels are tested against it; nothing that ships calls it.

pub mod activation;
pub mod adam;
pub mod attention;
pub mod bf16;
pub mod dropout;
pub mod elementwise;
pub mod gemm;
pub mod layer_norm;
pub mod pooling;
