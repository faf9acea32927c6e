//! The report as the command line uses it: what is defined when, and what the intervals mean.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use loriot_eval::{
    Judged, Metric, Options, Report, compare, evaluate, number_queries, word_overlap,
};

/// Uniform numbers in 0..1 from a small generator, so that the tests need no crate.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// Rows whose true ROC-AUC is 0.68: scores uniform on 0..1, positive ones moved up by 0.2.
fn rows(seed: u64, n: usize) -> (Vec<f64>, Vec<f64>) {
    let mut noise = Noise(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    (0..n)
        .map(|_| {
            let label = if noise.next() < 0.4 { 1.0 } else { 0.0 };
            (noise.next() + 0.2 * label, label)
        })
        .unzip()
}

fn options(n_bootstrap: usize) -> Options {
    Options { n_bootstrap, ..Options::default() }
}

fn interval(report: &Report, metric: Metric) -> (f64, f64) {
    let measured = report.metrics.iter().find(|measured| measured.metric == metric).unwrap();
    let interval = measured.interval.unwrap();
    assert!(interval.low <= interval.high);
    (interval.low, interval.high)
}

#[test]
fn the_interval_covers_the_truth_about_95_times_in_100() {
    let covers = |seed: &u64| {
        let (scores, labels) = rows(*seed, 300);
        let judged =
            Judged { scores: &scores, labels: &labels, queries: None, grades: None, titles: None };
        let (low, high) = interval(&evaluate(&judged, &options(200)), Metric::RocAuc);
        low <= 0.68 && 0.68 <= high
    };
    let n_covered = (1..=300).filter(covers).count();
    assert!((270..=296).contains(&n_covered), "{n_covered} of 300");
}

#[test]
fn rows_of_a_query_are_drawn_together() {
    let (scores, labels) = rows(7, 200);
    let tenfold = |values: &[f64]| -> Vec<f64> { values.iter().flat_map(|v| [*v; 10]).collect() };
    let queries: Vec<u32> = (0..200).flat_map(|query| [query; 10]).collect();
    let (many_scores, many_labels) = (tenfold(&scores), tenfold(&labels));
    let once =
        Judged { scores: &scores, labels: &labels, queries: None, grades: None, titles: None };
    let rows = Judged {
        scores: &many_scores,
        labels: &many_labels,
        queries: None,
        grades: None,
        titles: None,
    };
    let clusters = Judged { queries: Some(&queries), ..rows };
    let of = |judged: &Judged| interval(&evaluate(judged, &options(300)), Metric::RocAuc);
    // Ten copies of each row say nothing new, and clusters know it; rows do not.
    let (once, rows, clusters) = (of(&once), of(&rows), of(&clusters));
    assert!((once.0 - clusters.0).abs() < 1e-12 && (once.1 - clusters.1).abs() < 1e-12);
    assert!(rows.1 - rows.0 < 0.5 * (clusters.1 - clusters.0));
}

#[test]
fn the_same_seed_gives_the_same_bits() {
    let (scores, labels) = rows(3, 150);
    let queries: Vec<u32> = (0..150).map(|row| row / 7).collect();
    let judged = Judged {
        scores: &scores,
        labels: &labels,
        queries: Some(&queries),
        grades: None,
        titles: None,
    };
    let first = evaluate(&judged, &options(100));
    assert_eq!(first, evaluate(&judged, &options(100)));
    let other = evaluate(&judged, &Options { seed: 1, ..options(100) });
    assert_ne!(interval(&first, Metric::RocAuc), interval(&other, Metric::RocAuc));
    assert_eq!(first.value(Metric::RocAuc), other.value(Metric::RocAuc));
}

#[test]
fn two_models_on_the_same_rows_are_told_apart_by_the_paired_difference() {
    let (scores, labels) = rows(11, 400);
    // Better by little and on the same rows: the intervals overlap, the difference's is above 0.
    let better: Vec<f64> = scores.iter().zip(&labels).map(|(s, l)| s + 0.05 * l).collect();
    let judged =
        Judged { scores: &better, labels: &labels, queries: None, grades: None, titles: None };
    let comparison = compare(&judged, &scores, &options(500));
    let (model, base) = (&comparison.model, &comparison.base);
    assert!(interval(model, Metric::RocAuc).0 < interval(base, Metric::RocAuc).1);
    let difference = comparison.differences[0];
    assert_eq!(difference.metric, Metric::RocAuc);
    assert!(difference.interval.unwrap().low > 0.0);
    let by_hand = model.value(Metric::RocAuc).unwrap() - base.value(Metric::RocAuc).unwrap();
    assert_eq!(difference.value, Some(by_hand));
    // A model beside itself differs by nothing, in every resample.
    let same = compare(&judged, &better, &options(50));
    for difference in same.differences {
        assert_eq!(difference.value, Some(0.0), "{}", difference.metric);
        let interval = difference.interval.unwrap();
        assert_eq!((interval.low, interval.high), (0.0, 0.0), "{}", difference.metric);
    }
}

#[test]
fn one_class_leaves_roc_auc_undefined_and_the_rest_measured() {
    let judged = Judged {
        scores: &[0.3, 0.2],
        labels: &[1.0, 0.6],
        queries: None,
        grades: None,
        titles: None,
    };
    let report = evaluate(&judged, &options(100));
    assert_eq!((report.n_rows, report.n_positive, report.n_queries), (2, 2, None));
    assert_eq!(report.value(Metric::RocAuc), None);
    assert_eq!(report.metrics[0].interval, None);
    assert_eq!(report.value(Metric::BestAccuracy), Some(1.0));
    assert!((report.value(Metric::Spearman).unwrap() - 1.0).abs() < 1e-12);
}

#[test]
fn no_rows_and_one_row_are_no_panic() {
    let none = Judged { scores: &[], labels: &[], queries: Some(&[]), grades: None, titles: None };
    let report = evaluate(&none, &options(10));
    assert!(report.metrics.iter().all(|measured| measured.value.is_none()));
    let one = Judged {
        scores: &[0.5],
        labels: &[1.0],
        queries: Some(&[4]),
        grades: Some(&[3.0]),
        titles: None,
    };
    let report = evaluate(&one, &options(10));
    assert_eq!(report.n_queries, Some(1));
    assert_eq!(report.value(Metric::Mrr), Some(1.0));
    assert!(report.metrics.iter().all(|measured| measured.interval.is_none()));
}

#[test]
fn grouped_metrics_are_means_over_queries_beside_the_random_order() {
    let queries = number_queries(["red kettle", "tv", "red kettle", "tv", "red kettle", "lamp"]);
    assert_eq!(queries, [0, 1, 0, 1, 0, 2]);
    let judged = Judged {
        scores: &[0.9, 0.8, 0.1, 0.2, 0.5, 0.7],
        labels: &[1.0, 0.0, 0.0, 1.0, 0.0, 0.0],
        queries: Some(&queries),
        grades: Some(&[3.0, 0.0, 0.0, 2.0, 0.0, 0.0]),
        titles: None,
    };
    let report = evaluate(&judged, &options(0));
    assert_eq!(report.n_queries, Some(3));
    let measured = |metric: Metric| *report.metrics.iter().find(|m| m.metric == metric).unwrap();
    // The kettle is found first of three, the television second of two, the lamp has no label.
    let mrr = measured(Metric::Mrr);
    assert_eq!((mrr.value, mrr.n_queries, mrr.interval), (Some(0.75), Some(2), None));
    let random = ((1.0 + 1.0 / 2.0 + 1.0 / 3.0) / 3.0 + (1.0 + 1.0 / 2.0) / 2.0) / 2.0;
    assert!((mrr.random_order.unwrap() - random).abs() < 1e-12);
    assert_eq!(measured(Metric::Recall(1)).value, Some(0.5));
    assert_eq!(measured(Metric::RocAucPerQuery).value, Some(0.5));
    assert_eq!(measured(Metric::RocAucPerQuery).random_order, Some(0.5));
    let ndcg = (1.0 + 3.0_f64.log2().recip()) / 2.0;
    assert!((measured(Metric::Ndcg(10)).value.unwrap() - ndcg).abs() < 1e-12);
}

#[test]
fn a_model_that_scores_all_alike_gets_the_random_orders_values() {
    let (_, labels) = rows(5, 120);
    let queries: Vec<u32> = (0..120).map(|row| row / 6).collect();
    let judged = Judged {
        scores: &[0.3; 120],
        labels: &labels,
        queries: Some(&queries),
        grades: None,
        titles: None,
    };
    for measured in evaluate(&judged, &options(0)).metrics {
        if measured.n_queries.is_some() {
            assert_eq!(measured.value, measured.random_order, "{}", measured.metric);
        }
    }
}

/// 1,000 resamples of two models on 20,000 rows: what `loriot eval` does on real data.
#[test]
fn a_thousand_resamples_of_many_rows_are_a_matter_of_seconds() {
    let (scores, labels) = rows(1, 20_000);
    let base: Vec<f64> = rows(2, 20_000).0;
    let queries: Vec<u32> = (0..20_000).map(|row| row / 6).collect();
    let judged = Judged {
        scores: &scores,
        labels: &labels,
        queries: Some(&queries),
        grades: None,
        titles: None,
    };
    let started = std::time::Instant::now();
    let comparison = compare(&judged, &base, &options(1000));
    let seconds = started.elapsed().as_secs_f64();
    assert!(comparison.differences.iter().all(|difference| difference.interval.is_some()));
    assert!(seconds < 60.0, "{seconds} s: the resamples must not sort again");
}

#[test]
fn word_overlap_is_a_score_like_any_other() {
    let rows = [("red kettle", "kettle, red"), ("red kettle", "red towel"), ("tv", "lamp")];
    let scores: Vec<f64> = rows.iter().map(|(query, title)| word_overlap(query, title)).collect();
    let judged = Judged {
        scores: &scores,
        labels: &[1.0, 0.0, 0.0],
        queries: None,
        grades: None,
        titles: None,
    };
    assert_eq!(evaluate(&judged, &options(0)).value(Metric::RocAuc), Some(1.0));
}
