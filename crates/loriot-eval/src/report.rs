//! All metrics of a judged set at once, with intervals, and two models side by side.

use std::collections::HashMap;
use std::hash::Hash;

use crate::bootstrap::{Interval, draw};
use crate::classify::Sweep;
use crate::correlate::{Ranks, weighted_pearson};
use crate::lists::{PerQuery, per_query};
use crate::metric::Metric;
use crate::verdict::Verdict;

/// Judged rows and a model's scores of them.
#[derive(Clone, Copy, Debug)]
pub struct Judged<'a> {
    /// One score per row, finite.
    pub scores: &'a [f64],
    /// One label per row: 0 irrelevant … 1 relevant.
    pub labels: &'a [f64],
    /// The query of each row, as a number ([`number_queries`] gives one). Without it the metrics
    /// per query are left out and the bootstrap draws rows.
    pub queries: Option<&'a [u32]>,
    /// Gains for nDCG, 0 or more, one per row; the labels where there are none. Concordance is by them as well.
    pub grades: Option<&'a [f64]>,
    /// The words of each row's title as numbers, ascending and each once ([`crate::number_words`] gives
    /// them; token ids do as well). Without them there is no concordance of unlike titles.
    pub titles: Option<&'a [Vec<u32>]>,
}

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// A label above this is positive.
    pub positive_threshold: f64,
    /// The `k` of nDCG@k and recall@k.
    pub ks: Vec<usize>,
    /// Resamples; 0 for no intervals.
    pub n_bootstrap: usize,
    /// Seed of the resamples.
    pub seed: u64,
    /// The metrics to measure, such as [`Metric::OF_ORDER`]; all where it is empty.
    pub only: &'static [Metric],
}

impl Default for Options {
    fn default() -> Options {
        Options {
            positive_threshold: 0.5,
            ks: vec![1, 5, 10],
            n_bootstrap: 1000,
            seed: 42,
            only: &[],
        }
    }
}

/// One metric of one model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measured {
    /// Which.
    pub metric: Metric,
    /// `None` where it is undefined: ROC-AUC with one class only, and so on.
    pub value: Option<f64>,
    /// 95 %, by bootstrap. `None` without resamples, or with a single query or row to draw from.
    pub interval: Option<Interval>,
    /// Of best F1 and accuracy: rows with at least this score are called positive.
    pub threshold: Option<f64>,
    /// Of a metric per query: how many queries it is the mean of.
    pub n_queries: Option<usize>,
    /// Of a metric per query: its expectation if each query's rows were ordered at random.
    pub random_order: Option<f64>,
}

/// All metrics of one model.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// Judged rows.
    pub n_rows: usize,
    /// Rows whose label is above the threshold.
    pub n_positive: usize,
    /// Distinct queries, where queries were given.
    pub n_queries: Option<usize>,
    /// First the metrics over all rows, then, where queries were given, those per query.
    pub metrics: Vec<Measured>,
}

impl Report {
    /// A metric's value; `None` where it is undefined or was not measured.
    pub fn value(&self, metric: Metric) -> Option<f64> {
        self.metrics.iter().find(|measured| measured.metric == metric)?.value
    }
}

/// How much better a model is than its base.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Difference {
    /// Which.
    pub metric: Metric,
    /// Model minus base; `None` where either is undefined.
    pub value: Option<f64>,
    /// 95 %, both models measured on the same resamples.
    pub interval: Option<Interval>,
}

/// Two models on the same rows.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// The model.
    pub model: Report,
    /// The model it is compared with.
    pub base: Report,
    /// Model minus base, in the order of the metrics.
    pub differences: Vec<Difference>,
}

impl Comparison {
    /// What the comparison says in one sentence; `None` where the order within queries was not measured, or has
    /// no interval.
    pub fn verdict(&self) -> Option<Verdict> {
        let interval = |metric: Metric| {
            self.differences.iter().find(|difference| difference.metric == metric)?.interval
        };
        Verdict::of(interval(Metric::RocAucPerQuery)?, interval(Metric::RocAuc)?)
    }
}

/// Numbers queries from 0 in the order in which they first appear.
pub fn number_queries<Q: Eq + Hash>(queries: impl IntoIterator<Item = Q>) -> Vec<u32> {
    let mut numbers = HashMap::new();
    let mut number = |query| {
        let next = u32::try_from(numbers.len()).expect("fewer than 2^32 queries");
        *numbers.entry(query).or_insert(next)
    };
    queries.into_iter().map(&mut number).collect()
}

/// Measures one model.
pub fn evaluate(judged: &Judged<'_>, options: &Options) -> Report {
    let prepared = Prepared::new(judged, options);
    let samples = resample(&[&prepared], options);
    prepared.report(&samples[0])
}

/// Measures the model that gave `judged.scores` beside the one that gave `base_scores`.
pub fn compare(judged: &Judged<'_>, base_scores: &[f64], options: &Options) -> Comparison {
    let model = Prepared::new(judged, options);
    let base = Prepared::new(&Judged { scores: base_scores, ..*judged }, options);
    let samples = resample(&[&model, &base], options);
    let (model_report, base_report) = (model.report(&samples[0]), base.report(&samples[1]));
    let difference = |i: usize| {
        let pairs = samples[0][i].iter().zip(&samples[1][i]);
        let differences: Vec<f64> = pairs.map(|(model, base)| model - base).collect();
        let (ours, theirs) = (&model_report.metrics[i], &base_report.metrics[i]);
        let value = ours.value.zip(theirs.value).map(|(ours, theirs)| ours - theirs);
        let interval = value.and_then(|_| Interval::of(&differences));
        Difference { metric: ours.metric, value, interval }
    };
    let differences = (0..model.metrics.len()).map(difference).collect();
    Comparison { model: model_report, base: base_report, differences }
}

/// Everything about a set of scores that does not depend on the resample.
struct Prepared<'a> {
    judged: Judged<'a>,
    positive: Vec<bool>,
    clusters: Vec<u32>,
    n_clusters: usize,
    sweep: Sweep,
    ranks: Ranks,
    metrics: Vec<Metric>,
    per_query: Vec<PerQuery>,
}

impl<'a> Prepared<'a> {
    fn new(judged: &Judged<'a>, options: &Options) -> Prepared<'a> {
        let n_rows = judged.scores.len();
        assert_eq!(judged.labels.len(), n_rows, "one label per score");
        assert!(
            judged.queries.is_none_or(|queries| queries.len() == n_rows),
            "one query per score"
        );
        assert!(judged.grades.is_none_or(|grades| grades.len() == n_rows), "one grade per score");
        assert!(judged.titles.is_none_or(|titles| titles.len() == n_rows), "one title per score");
        let is_positive = |label: &f64| *label > options.positive_threshold;
        let positive: Vec<bool> = judged.labels.iter().map(is_positive).collect();
        let clusters = match judged.queries {
            Some(queries) => number_queries(queries),
            None => (0..u32::try_from(n_rows).expect("fewer than 2^32 rows")).collect(),
        };
        let n_clusters = clusters.iter().max().map_or(0, |last| *last as usize + 1);
        let per_query = match judged.queries {
            Some(_) => per_query(judged, &positive, &clusters, n_clusters, options),
            None => Vec::new(),
        };
        let mut metrics = vec![
            Metric::RocAuc,
            Metric::AveragePrecision,
            Metric::BestF1,
            Metric::BestAccuracy,
            Metric::Spearman,
            Metric::Pearson,
        ];
        metrics.extend(per_query.iter().map(|per_query| per_query.metric));
        if !options.only.is_empty() {
            metrics.retain(|metric| options.only.contains(metric));
        }
        Prepared {
            judged: *judged,
            sweep: Sweep::new(judged.scores, &positive, &clusters),
            ranks: Ranks::new(judged.scores, judged.labels, &clusters),
            positive,
            clusters,
            n_clusters,
            metrics,
            per_query,
        }
    }

    /// Every metric with each cluster counted `weights` times.
    fn measure(&self, weights: &[u32]) -> Vec<Option<f64>> {
        let weight = |row: usize| f64::from(weights[self.clusters[row] as usize]);
        let measure = |metric: &Metric| match metric {
            Metric::RocAuc => self.sweep.roc_auc(weights),
            Metric::AveragePrecision => self.sweep.average_precision(weights),
            Metric::BestF1 => self.sweep.best_f1(weights).map(|cut| cut.value),
            Metric::BestAccuracy => self.sweep.best_accuracy(weights).map(|cut| cut.value),
            Metric::Spearman => self.ranks.spearman(weights),
            Metric::Pearson => weighted_pearson(self.judged.scores, self.judged.labels, weight),
            _ => self.of_queries(*metric)?.mean(weights),
        };
        self.metrics.iter().map(measure).collect()
    }

    fn of_queries(&self, metric: Metric) -> Option<&PerQuery> {
        self.per_query.iter().find(|per_query| per_query.metric == metric)
    }

    fn report(&self, samples: &[Vec<f64>]) -> Report {
        let ones = vec![1; self.n_clusters];
        let values = self.measure(&ones);
        let measured = |(i, metric): (usize, &Metric)| {
            let of_queries = self.of_queries(*metric);
            Measured {
                metric: *metric,
                value: values[i],
                interval: values[i].and_then(|_| Interval::of(&samples[i])),
                threshold: match metric {
                    Metric::BestF1 => self.sweep.best_f1(&ones).map(|cut| cut.threshold),
                    Metric::BestAccuracy => {
                        self.sweep.best_accuracy(&ones).map(|cut| cut.threshold)
                    }
                    _ => None,
                },
                n_queries: of_queries.map(|of| of.values.iter().flatten().count()),
                random_order: of_queries.and_then(|of| of.random_mean(&ones)),
            }
        };
        Report {
            n_rows: self.judged.scores.len(),
            n_positive: self.positive.iter().filter(|label| **label).count(),
            n_queries: self.judged.queries.map(|_| self.n_clusters),
            metrics: self.metrics.iter().enumerate().map(measured).collect(),
        }
    }
}

/// `[model][metric][resample]`, NaN where undefined; no resamples where there is nothing to draw.
fn resample(models: &[&Prepared<'_>], options: &Options) -> Vec<Vec<Vec<f64>>> {
    let n_clusters = models[0].n_clusters;
    let n_resamples = if n_clusters < 2 { 0 } else { options.n_bootstrap };
    // They grow as they come: no number asks for memory that it does not use.
    let no_samples = |model: &&Prepared<'_>| vec![Vec::new(); model.metrics.len()];
    let mut samples: Vec<Vec<Vec<f64>>> = models.iter().map(no_samples).collect();
    let mut multiplicities = vec![0; n_clusters];
    for number in 0..n_resamples {
        draw(&mut multiplicities, options.seed, number as u64);
        for (model, samples) in models.iter().zip(&mut samples) {
            for (value, samples) in model.measure(&multiplicities).into_iter().zip(samples) {
                samples.push(value.unwrap_or(f64::NAN));
            }
        }
    }
    samples
}
