//! Ranking and similarity metrics with bootstrap intervals: slices in, numbers out.
//!
//! No dependencies, no files, no models; the same input gives the same bits. Undefined is `None`,
//! never 0 or NaN. Ties are never broken by the order of the input: curves step over a group of
//! equal scores at once (as scikit-learn's do), and list metrics take the mean over all orders
//! of the group, so a model that scores everything alike gets exactly the random order's value.
//! A NaN or infinite score, or slices of different lengths, are the caller's mistake and panic.
//!
//! In reading order: [`classify`] ROC-AUC, average precision, best F1 and accuracy ·
//! [`correlate`] Spearman and Pearson · [`ranked`] nDCG, MRR, MAP, recall@k of one list ·
//! [`bootstrap`] resamples and percentile intervals · [`report`] all of it at once ·
//! [`overlap`] the word-overlap baseline.

pub mod bootstrap;
pub mod classify;
pub mod correlate;
pub mod overlap;
pub mod ranked;
pub mod report;

pub use bootstrap::Interval;
pub use classify::{Cut, average_precision, best_accuracy, best_f1, roc_auc, roc_auc_per_query};
pub use correlate::spearman;
pub use overlap::word_overlap;
pub use ranked::RankedList;
pub use report::{
    Comparison, Difference, Judged, Measured, Metric, Options, Report, compare, evaluate,
    number_queries,
};
