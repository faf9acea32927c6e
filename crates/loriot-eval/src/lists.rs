//! Metrics of each query's list, and their means over queries.

use crate::classify::roc_auc;
use crate::metric::Metric;
use crate::overlap::jaccard;
use crate::ranked::RankedList;
use crate::report::{Judged, Options};

/// Titles that share less than this of their words are unlike. Grades of titles that share more differ by little
/// beside the noise of the labels.
const UNLIKE_BELOW: f64 = 0.3;
/// Two grades that are so far apart, as a share of the range of all, are taken to differ in earnest.
const GAP: f64 = 1.0 / 3.0;
/// Grades are often rounded to two digits: on a scale from 1 to 3 two thirds may be written 0.66.
const ROUNDING: f64 = 0.01;
/// Rows of a list whose pairs are compared; of a longer one so many are taken, evenly spaced.
const MAX_COMPARED: usize = 1000;

/// A metric that is the mean of its values for each query.
pub(crate) struct PerQuery {
    pub(crate) metric: Metric,
    pub(crate) values: Vec<Option<f64>>,
    /// The same if the query's rows were ordered at random.
    random_order: Vec<Option<f64>>,
    /// How much a query counts in the mean.
    weights: Vec<f64>,
}

impl PerQuery {
    /// The mean with each query counted so many times.
    pub(crate) fn mean(&self, multiplicities: &[u32]) -> Option<f64> {
        self.mean_of(&self.values, multiplicities)
    }

    /// The mean in random order.
    pub(crate) fn random_mean(&self, multiplicities: &[u32]) -> Option<f64> {
        self.mean_of(&self.random_order, multiplicities)
    }

    fn mean_of(&self, values: &[Option<f64>], multiplicities: &[u32]) -> Option<f64> {
        let (mut sum, mut n) = (0.0, 0.0);
        for ((value, weight), times) in values.iter().zip(&self.weights).zip(multiplicities) {
            if let Some(value) = value {
                sum += f64::from(*times) * weight * value;
                n += f64::from(*times) * weight;
            }
        }
        (n > 0.0).then(|| sum / n)
    }

    fn push(&mut self, value: Option<f64>, random_order: Option<f64>, weight: f64) {
        self.values.push(value);
        self.random_order.push(random_order);
        self.weights.push(weight);
    }
}

/// The metrics of every query's list, and those of the list in random order.
pub(crate) fn per_query(
    judged: &Judged<'_>,
    positive: &[bool],
    clusters: &[u32],
    n_clusters: usize,
    options: &Options,
) -> Vec<PerQuery> {
    let mut metrics = vec![Metric::RocAucPerQuery, Metric::Concordance, Metric::ConcordanceUnlike];
    metrics.extend([Metric::Mrr, Metric::Map]);
    metrics.extend(options.ks.iter().map(|k| Metric::Ndcg(*k)));
    metrics.extend(options.ks.iter().map(|k| Metric::Recall(*k)));
    let is_wanted = |metric: &Metric| options.only.is_empty() || options.only.contains(metric);
    let has_words =
        |metric: &Metric| *metric != Metric::ConcordanceUnlike || judged.titles.is_some();
    metrics.retain(|metric| is_wanted(metric) && has_words(metric));
    let mut all: Vec<PerQuery> = metrics
        .into_iter()
        .map(|metric| PerQuery {
            metric,
            values: Vec::new(),
            random_order: Vec::new(),
            weights: Vec::new(),
        })
        .collect();

    let mut rows_of = vec![Vec::new(); n_clusters];
    for (row, cluster) in clusters.iter().enumerate() {
        rows_of[*cluster as usize].push(row);
    }
    let all_gains = judged.grades.unwrap_or(judged.labels);
    let gap = gap(all_gains);
    for rows in &rows_of {
        let of_rows =
            |values: &[f64]| -> Vec<f64> { rows.iter().map(|&row| values[row]).collect() };
        let (scores, gains) = (of_rows(judged.scores), of_rows(all_gains));
        let positive: Vec<bool> = rows.iter().map(|&row| positive[row]).collect();
        let alike = vec![0.0; rows.len()];
        let ranked = RankedList::new(&scores, &gains, &positive);
        let random = RankedList::new(&alike, &gains, &positive);
        let concordant = concordances(judged, rows, gap);
        for per_query in &mut all {
            let metric = per_query.metric;
            let of_pairs = match metric {
                Metric::Concordance => Some(concordant[0]),
                Metric::ConcordanceUnlike => Some(concordant[1]),
                _ => None,
            };
            match of_pairs {
                Some(Concordant { won, n_pairs }) => {
                    let is_defined = n_pairs > 0.0;
                    let value = is_defined.then(|| won / n_pairs);
                    per_query.push(value, is_defined.then_some(0.5), n_pairs);
                }
                None => per_query.push(
                    of_list(metric, &ranked, &scores, &positive),
                    of_list(metric, &random, &alike, &positive),
                    1.0,
                ),
            }
        }
    }
    all
}

/// How far apart two grades are at least, that the order of their rows should tell.
fn gap(grades: &[f64]) -> f64 {
    let lowest = grades.iter().copied().fold(f64::INFINITY, f64::min);
    let highest = grades.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    (GAP - ROUNDING) * (highest - lowest)
}

/// Pairs of a list.
#[derive(Clone, Copy, Default)]
struct Concordant {
    /// Pairs that the scores order as the grades do; a tie is half of one.
    won: f64,
    n_pairs: f64,
}

/// Of all pairs of `rows`, and of those with unlike titles.
fn concordances(judged: &Judged<'_>, rows: &[usize], gap: f64) -> [Concordant; 2] {
    let grades = judged.grades.unwrap_or(judged.labels);
    let [mut all, mut unlike] = [Concordant::default(); 2];
    let compared = || rows.iter().step_by(rows.len().div_ceil(MAX_COMPARED).max(1));
    for (place, &row) in compared().enumerate() {
        for &other in compared().skip(place + 1) {
            let differ = grades[row] - grades[other];
            if differ == 0.0 || differ.abs() < gap {
                continue;
            }
            let (better, worse) = if differ > 0.0 { (row, other) } else { (other, row) };
            let (better, worse) = (judged.scores[better], judged.scores[worse]);
            let won = if better == worse { 0.5 } else { f64::from(u8::from(better > worse)) };
            let mut pairs = vec![&mut all];
            if judged.titles.is_some_and(|t| jaccard(&t[row], &t[other]) < UNLIKE_BELOW) {
                pairs.push(&mut unlike);
            }
            for pairs in pairs {
                pairs.won += won;
                pairs.n_pairs += 1.0;
            }
        }
    }
    [all, unlike]
}

fn of_list(metric: Metric, list: &RankedList, scores: &[f64], positive: &[bool]) -> Option<f64> {
    match metric {
        Metric::RocAucPerQuery => roc_auc(scores, positive),
        Metric::Ndcg(k) => list.ndcg(k),
        Metric::Recall(k) => list.recall(k),
        Metric::Mrr => list.reciprocal_rank(),
        Metric::MrrWithin(k) => list.reciprocal_rank_within(k),
        Metric::Map => list.average_precision(),
        _ => None,
    }
}
