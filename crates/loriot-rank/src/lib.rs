//! A scorer on top of an encoder: a few features of a query and a title, weighed by ridge regression in closed form.
//!
//! What an encoder misses in a shop's lists is often plain: the product's own word, a model number, a title that is
//! like no other result. A handful of features fitted on judged rows in a second says so. Their score is an estimate
//! of the label, so that one threshold means the same for every query.
//!
//! It knows texts and cosines, no encoder and no index; it starts no thread and draws no random number.
//!
//! In reading order: [`words`] of a text · [`features`] of a query and its results · `ridge` the regression · [`mod@fit`]
//! from judged lists to a [`Scorer`] · [`scorer`] its scores · [`mod@file`] its file.

pub mod features;
pub mod file;
pub mod fit;
mod ridge;
pub mod scorer;
pub mod words;

pub use features::{List, likeness};
pub use file::ScorerError;
pub use fit::{FitError, FitList, Fitted, Spread, fit};
pub use scorer::{MadeFor, Scorer, Threshold};
