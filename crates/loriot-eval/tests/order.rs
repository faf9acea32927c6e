//! Concordance within lists, and the sentence that a comparison comes to.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use loriot_eval::{Interval, Judged, Metric, Options, Verdict, compare, evaluate, number_words};

fn value(judged: &Judged<'_>, metric: Metric) -> Option<f64> {
    let options = Options { n_bootstrap: 0, only: Metric::OF_ORDER, ..Options::default() };
    evaluate(judged, &options).value(metric)
}

#[test]
fn concordance_is_the_share_of_pairs_whose_grades_differ_enough() {
    // On a scale from 1 to 3 two thirds are enough, written 0.66 as well; one third is not.
    let grades = [3.0, 2.34, 2.67, 1.0, 3.0];
    let judged = Judged {
        scores: &[0.5, 0.9, 0.1, 0.1, 0.2],
        labels: &[1.0, 0.0, 1.0, 0.0, 1.0],
        queries: Some(&[7, 7, 7, 7, 8]),
        grades: Some(&grades),
        titles: None,
    };
    // 3 : 2.34 lost, 3 : 1 won, 2.34 : 1 won, 2.67 : 1 tied; other pairs differ by a third.
    assert_eq!(value(&judged, Metric::Concordance), Some(2.5 / 4.0));
    assert_eq!(value(&judged, Metric::ConcordanceUnlike), None, "there are no titles");
    let titles = number_words(["red kettle", "red towel", "red kettle", "lamp", "tv"]);
    let with_titles = Judged { titles: Some(&titles), ..judged };
    // The pair of red things shares one word of three.
    assert_eq!(value(&with_titles, Metric::ConcordanceUnlike), Some(2.5 / 3.0));
    let alike = Judged { grades: Some(&[2.0; 5]), ..judged };
    assert_eq!(value(&alike, Metric::Concordance), None, "no pair differs");
}

#[test]
fn each_pair_counts_once_whatever_its_list() {
    // Query 0: three pairs won of three. Query 1: one lost of one.
    let judged = Judged {
        scores: &[0.9, 0.5, 0.4, 0.3, 0.1, 0.2],
        labels: &[1.0, 0.0, 0.0, 0.0, 1.0, 0.0],
        queries: Some(&[0, 0, 0, 0, 1, 1]),
        grades: None,
        titles: None,
    };
    assert_eq!(value(&judged, Metric::Concordance), Some(0.75));
    assert_eq!(value(&judged, Metric::RocAucPerQuery), Some(0.5));
}

#[test]
fn a_long_list_is_compared_in_part_and_not_for_hours() {
    let n = 200_000;
    let scores: Vec<f64> = (0..n).map(f64::from).collect();
    let labels: Vec<f64> = (0..n).map(|row| f64::from(row % 4 / 2)).collect();
    let judged = Judged {
        scores: &scores,
        labels: &labels,
        queries: Some(&vec![0; n as usize]),
        grades: Some(&scores),
        titles: None,
    };
    assert_eq!(value(&judged, Metric::Concordance), Some(1.0));
}

#[test]
fn only_what_was_asked_for_is_measured() {
    let judged = Judged {
        scores: &[0.9, 0.5],
        labels: &[1.0, 0.0],
        queries: Some(&[0, 0]),
        grades: None,
        titles: None,
    };
    let options = Options { n_bootstrap: 0, only: Metric::OF_ORDER, ..Options::default() };
    let metrics: Vec<_> = evaluate(&judged, &options).metrics.iter().map(|m| m.metric).collect();
    assert_eq!(metrics, [Metric::RocAuc, Metric::RocAucPerQuery, Metric::Concordance]);
}

#[test]
fn the_order_within_queries_decides_the_verdict() {
    let interval = |low, high| Interval { low, high };
    let [up, none, down] = [interval(0.01, 0.03), interval(-0.01, 0.02), interval(-0.05, -0.01)];
    let cases = [
        (up, up, "shoppers gain"),
        (up, down, "shoppers gain"),
        (none, none, "no difference that this data can show"),
        (none, up, "the pooled figure rose, the order within a query did not"),
        (none, down, "the pooled figure fell, the order within a query did not"),
        (down, up, "shoppers lose"),
        (interval(0.0, 0.1), none, "no difference that this data can show"),
    ];
    for (per_query, pooled, want) in cases {
        let verdict = Verdict::of(per_query, pooled).unwrap();
        assert_eq!(verdict.to_string(), want, "{per_query:?} {pooled:?}");
    }
    assert_eq!(Verdict::of(interval(f64::NAN, 1.0), up), None);
}

/// 300 queries of six rows; `score` of (easy query, positive row, a number without meaning).
fn verdict(score: impl Fn(f64, f64, f64) -> f64) -> Option<Verdict> {
    let noise = |row: u32| f64::from(row.wrapping_mul(2_654_435_761) >> 8) / f64::from(1 << 24);
    let n = 1800;
    let queries: Vec<u32> = (0..n).map(|row| row / 6).collect();
    let easy = |row: u32| f64::from(row / 6 % 2);
    // Of easy queries most rows are right, of hard ones few.
    let positive = |row: u32| f64::from(u8::from(noise(row + n) < 0.3 + 0.4 * easy(row)));
    let rows: Vec<u32> = (0..n).collect();
    let labels: Vec<f64> = rows.iter().map(|&row| positive(row)).collect();
    let base: Vec<f64> = rows.iter().map(|&row| noise(row) + 0.2 * positive(row)).collect();
    let scores: Vec<f64> = rows
        .iter()
        .zip(&base)
        .map(|(&row, base)| base + score(easy(row), positive(row), noise(row + 2 * n)))
        .collect();
    let judged = Judged {
        scores: &scores,
        labels: &labels,
        queries: Some(&queries),
        grades: None,
        titles: None,
    };
    let options = Options { n_bootstrap: 200, only: Metric::OF_ORDER, ..Options::default() };
    compare(&judged, &base, &options).verdict()
}

#[test]
fn made_models_get_the_verdict_that_they_were_made_for() {
    assert_eq!(verdict(|_, positive, _| 0.2 * positive), Some(Verdict::ShoppersGain));
    assert_eq!(verdict(|_, positive, _| -0.1 * positive), Some(Verdict::ShoppersLose));
    assert_eq!(verdict(|easy, _, _| 0.5 * easy), Some(Verdict::OnlyPooledRose));
    assert_eq!(verdict(|easy, _, _| -0.5 * easy), Some(Verdict::OnlyPooledFell));
    assert_eq!(verdict(|_, _, noise| 0.001 * noise), Some(Verdict::NoDifference));
}
