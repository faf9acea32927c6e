//! Nearest neighbours by inner product: exact, and approximate by HNSW.
//!
//! It knows ids and vectors, no text and no model: what a vector stands for is its caller's affair.
//! A [`Row`] is where a vector stands in its file; its [`VectorId`] stays when others are removed. A
//! score is always [`loriot_kernels::Isa::dot`] of the query and the stored row, whichever index
//! found the row, so that both give the same bits. Every search takes a filter over rows.
//!
//! In reading order: [`hit`] rows, ids, hits and their order · [`vectors`] the vector file ·
//! [`exact`] every vector looked at · [`hnsw`] few of them looked at · [`mod@recall`] what the few
//! missed.

#[cfg(target_endian = "big")]
compile_error!("vector files are little-endian and are used as they lie on the disk");

pub mod exact;
pub mod hit;
pub mod hnsw;
pub mod recall;
pub mod vectors;

pub use exact::search_exact;
pub use hit::{Hit, Row, VectorId, any_row};
pub use hnsw::{Hnsw, HnswConfig, HnswError};
pub use recall::recall;
pub use vectors::{Identity, Vectors, VectorsError};

pub use loriot_kernels::Isa;
