//! The names of the metrics.

use std::fmt;

/// A metric, named in JSON and tables by its `Display`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Metric {
    /// Over all rows, whatever their query.
    RocAuc,
    /// Over all rows.
    AveragePrecision,
    /// Over all rows.
    BestF1,
    /// Over all rows.
    BestAccuracy,
    /// Of scores and labels.
    Spearman,
    /// Of scores and labels.
    Pearson,
    /// Mean over the queries with both labels.
    RocAucPerQuery,
    /// Share of the pairs of rows of one query, their grades at least a third of the grades' range apart, that
    /// the scores order as the grades do, ties ½. Each pair counts once, so that long lists count more.
    Concordance,
    /// The same, of pairs whose titles have less than three words in ten in common.
    ConcordanceUnlike,
    /// Mean over the queries with a gain.
    Ndcg(usize),
    /// Mean reciprocal rank over the queries with a positive row.
    Mrr,
    /// Mean over the queries with a positive row of the reciprocal rank, which is 0 from rank `k + 1` on.
    MrrWithin(usize),
    /// Mean over the queries with a positive row.
    Map,
    /// Mean over the queries with a positive row.
    Recall(usize),
}

impl Metric {
    /// How a model orders rows: over all, and as a shopper sees it, within each query.
    pub const OF_ORDER: &[Metric] =
        &[Metric::RocAuc, Metric::RocAucPerQuery, Metric::Concordance, Metric::ConcordanceUnlike];
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Metric::RocAuc => f.write_str("roc_auc"),
            Metric::RocAucPerQuery => f.write_str("roc_auc_per_query"),
            Metric::Concordance => f.write_str("concordance"),
            Metric::ConcordanceUnlike => f.write_str("concordance_unlike"),
            Metric::AveragePrecision => f.write_str("average_precision"),
            Metric::BestF1 => f.write_str("best_f1"),
            Metric::BestAccuracy => f.write_str("best_accuracy"),
            Metric::Spearman => f.write_str("spearman"),
            Metric::Pearson => f.write_str("pearson"),
            Metric::Ndcg(k) => write!(f, "ndcg@{k}"),
            Metric::Mrr => f.write_str("mrr"),
            Metric::MrrWithin(k) => write!(f, "mrr@{k}"),
            Metric::Map => f.write_str("map"),
            Metric::Recall(k) => write!(f, "recall@{k}"),
        }
    }
}
