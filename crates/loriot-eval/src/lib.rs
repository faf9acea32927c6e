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
//! [`bootstrap`] resamples and percentile intervals · [`metric`] their names · `lists` means over queries ·
//! [`report`] all of it at once · [`verdict`] what a comparison says in a sentence · [`noise`] the best that
//! noisy labels allow · [`mod@retrieval`] the search of a whole catalogue · [`overlap`] the word-overlap baseline.

pub mod bootstrap;
pub mod classify;
pub mod correlate;
mod lists;
pub mod metric;
pub mod noise;
pub mod overlap;
pub mod ranked;
pub mod report;
pub mod retrieval;
pub mod verdict;

pub use bootstrap::Interval;
pub use classify::{
    Cut, PrecisionCut, average_precision, best_accuracy, best_f1, cut_for_precision, roc_auc,
    roc_auc_per_query,
};
pub use correlate::spearman;
pub use metric::Metric;
pub use noise::{Ceiling, ceiling};
pub use overlap::{jaccard, number_words, word_overlap};
pub use ranked::RankedList;
pub use report::{
    Comparison, Difference, Judged, Measured, Options, Report, compare, evaluate, number_queries,
};
pub use retrieval::{Retrieval, Retrieved, retrieval};
pub use verdict::Verdict;
