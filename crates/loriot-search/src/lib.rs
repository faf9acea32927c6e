//! The catalogue: products, their vectors, and the way from a query to results.
//!
//! A catalogue is a folder that is made once and then only read. It names the encoder that made it
//! and refuses the vectors of any other. Everything here is synchronous and writes through
//! `loriot-files`: an interrupted build leaves work to resume, never half a catalogue.
//!
//! In reading order: [`texts`] that are not held in memory · `batches` rows by number and bytes · [`partial`] embedding in progress · [`embed`] many texts to vectors, resumable · [`vector_output`] those vectors
//! for other programs · [`products`] what is known of each product · [`manifest`] what a
//! catalogue says of itself · [`threads`] its threads · [`replace`] what it may replace · [`build`] making one · [`catalogue`]
//! searching it.

mod batches;
pub mod build;
pub mod catalogue;
pub mod embed;
pub mod manifest;
pub mod partial;
pub mod products;
pub mod replace;
pub mod texts;
pub mod threads;
pub mod vector_output;

pub use build::{BuildEvent, BuildOptions, build_catalogue};
pub use catalogue::{
    Candidate, Catalogue, CatalogueError, Found, OpenOptions, SearchOptions, any_product,
};
pub use embed::{EmbedError, EmbedEvent, Embedded, EncoderSide, embed_all};
pub use manifest::{EncoderRecord, IndexKind, Manifest, ManifestError};
pub use partial::partial_dir;
pub use products::{ProductKey, Products, Record};
pub use replace::{check_replaceable, check_vectors_replaceable};
pub use texts::{Templated, Texts};
pub use vector_output::{Labels, VectorFormat, write_vectors};
