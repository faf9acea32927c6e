//! `loriot calibrate`: judged lists to a scorer on top of an encoder.

use super::common::{self, LabelOptions, ModelOptions, PrecisionOption, RowOptions};
use super::eval::{grades, labels, overlap_report};
use super::eval_text::{ListReport, Models};
use super::scoring::{ScoredLists, made_for};
use super::texts::Texts;
use crate::message::message;
use crate::progress::seconds;
use crate::table;
use loriot_data::Pair;
use loriot_eval::{
    Comparison, Judged, Metric, Options, PrecisionCut, compare, cut_for_precision, number_words,
};
use loriot_files::{OutputError, OutputLock, is_absent};
use loriot_rank::features::NAMES;
use loriot_rank::{FitList, Fitted, Scorer, Spread, Threshold, fit};
use loriot_train::evaluation::check_classes;
use serde_json::{Map, Value, json};
use std::path::PathBuf;
use std::time::Instant;

/// Strengths that are tried.
const STRENGTHS: [f64; 5] = [0.0, 0.25, 0.5, 0.75, 1.0];
/// Standard deviations of a normal variable in its central 95 %.
const DEVIATIONS: f64 = 3.92;
/// A precision of fewer rows is chance.
const MIN_ROWS: usize = 20;

/// Fit a scorer on top of an encoder: cosine, words and likeness to the other results, in a second
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  loriot calibrate --model BASE --train train.csv --eval validation.csv \\
    --output scorer.json
  loriot calibrate --model BASE --adapter run/best --train train.csv \\
    --eval validation.csv --output run/best/scorer.json --min-precision 0.9
  loriot search shop \"red kettle\" --scorer scorer.json

The scorer is a ridge regression in closed form on the rows of --train: of the grade where every row has
one, else of the label, on cosine, character trigrams, words and rare words in common, the word for the
product, lengths, and how like a title is to the query's other results. How much it counts beside the
cosine alone (0, 0.25 .. 1) is chosen on the rows of --eval: the greatest sum of the gains pooled and per
query, in standard errors. Measure it on other rows with `loriot eval --scorer`.

Its score estimates the label, so that one threshold serves all queries: --min-precision finds it.
A scorer belongs to the encoder that it was fitted over, and is refused with another.")]
pub struct CalibrateArgs {
    #[command(flatten)]
    model: ModelOptions,
    /// Judged rows to fit on: `.csv`, `.tsv`, `.jsonl`, `.json` (also gzipped) or `.parquet`
    #[arg(long, value_name = "FILE", num_args = 1.., required = true, help_heading = "Rows")]
    train: Vec<PathBuf>,
    /// Judged rows to choose the strength and the threshold on, of other queries
    #[arg(long, value_name = "FILE", num_args = 1.., required = true, help_heading = "Rows")]
    eval: Vec<PathBuf>,
    #[command(flatten)]
    rows: RowOptions,
    #[command(flatten)]
    labels: LabelOptions,
    #[command(flatten)]
    arithmetic: PrecisionOption,
    /// File to write the scorer to
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
    /// Replace the file that `--output` names
    #[arg(long)]
    overwrite: bool,
    /// Fit to the differences within each query's list alone: a better order, but no threshold that means
    /// the same for every query
    #[arg(long)]
    within_lists: bool,
    /// Find the score from which on this share of the results is right, from 0 to 1
    #[arg(long, value_name = "SHARE", value_parser = parse_share)]
    min_precision: Option<f64>,
    /// Rows with a label above T count as positive
    #[arg(long, value_name = "T", default_value_t = 0.5, help_heading = "Measuring")]
    #[arg(value_parser = common::parse_finite)]
    positive_threshold: f32,
    /// Bootstrap resamples for the intervals and the choice of the strength, at most 100,000
    #[arg(long, value_name = "N", default_value_t = 1000, help_heading = "Measuring")]
    #[arg(value_parser = clap::value_parser!(u32).range(100..=100_000))]
    bootstrap: u32,
    /// Seed of the resamples
    #[arg(long, value_name = "N", default_value_t = 42, help_heading = "Measuring")]
    seed: u64,
    /// Print one JSON object instead of a table
    #[arg(long, help_heading = "Measuring")]
    json: bool,
}

fn parse_share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|share: &f64| *share > 0.0 && *share <= 1.0);
    share.ok_or_else(|| "expected a number above 0, at most 1".into())
}

/// Runs `loriot calibrate`.
pub fn run_calibrate(args: CalibrateArgs) -> anyhow::Result<()> {
    let _lock = OutputLock::take(&args.output)?;
    if !args.overwrite && !is_absent(&args.output) {
        return Err(OutputError::Exists { path: args.output }.into());
    }
    let scale = args.labels.label_scale;
    let train = args.rows.read_judged(&args.train, scale, scale)?;
    // One label means the same in both.
    let eval = args.rows.read_judged(&args.eval, Some(train.scale), scale)?.pairs;
    let train = train.pairs;
    check_classes(&labels(&eval), args.positive_threshold)?;
    let options = args.model.encoder_options(args.arithmetic.precision)?;
    let encoder = common::open_encoder(&options)?;

    let train_texts = Texts::new(&train, &[]);
    let vectors = train_texts.embed(&encoder);
    let begun = Instant::now();
    let lists = ScoredLists::new(&train_texts, &vectors);
    let targets = targets(&train);
    let targets_of = |rows: &Vec<usize>| rows.iter().map(|&row| targets[row]).collect();
    let targets: Vec<Vec<f64>> = lists.rows.iter().map(targets_of).collect();
    let fit_lists: Vec<FitList<'_>> = targets
        .iter()
        .enumerate()
        .map(|(query, targets)| FitList { list: lists.list(query), targets })
        .collect();
    let spread = if args.within_lists { Spread::WithinLists } else { Spread::Pooled };
    let titles = train_texts.titles.iter().copied();
    let mut fitted = fit(&fit_lists, titles, made_for(&encoder), spread)?;
    let fit_seconds = begun.elapsed().as_secs_f64();

    let eval_texts = Texts::new(&eval, &[]);
    let vectors = eval_texts.embed(&encoder);
    let estimates = ScoredLists::new(&eval_texts, &vectors).estimates(&fitted.scorer);
    let at =
        |strength: f64| -> Vec<f64> { estimates.iter().map(|both| both.mix(strength)).collect() };
    let measure = Measure::new(&args, &eval, &eval_texts.query_of);
    let gains = STRENGTHS.map(|strength| measure.compare(&at(strength), &at(0.0)));
    fitted.scorer.strength = STRENGTHS[best_strength(&gains)];
    let scores = at(fitted.scorer.strength);
    let cut = args.min_precision.and_then(|wanted| measure.cut(&scores, wanted));
    fitted.scorer.threshold = args
        .min_precision
        .zip(cut)
        .map(|(precision, cut)| Threshold { precision, score: cut.threshold });
    fitted.scorer.write(&args.output)?;

    let report = measure.report(&scores, &vectors.cosines(&eval_texts));
    if args.json {
        let mut object = report.to_json();
        object.insert("scorer".into(), scorer_json(&fitted, &gains, fit_seconds, cut));
        common::print_json(&object)?;
    } else {
        common::print_text(&text(&report, &fitted, fit_seconds, cut))?;
    }
    if let (Some(wanted), None) = (args.min_precision, cut) {
        message!(
            "note: no score has a precision of {wanted} over {MIN_ROWS} rows or more of --eval"
        );
    }
    message!("the scorer is in `{}`", args.output.display());
    Ok(())
}

/// What the score is to estimate: the grades brought to 0 to 1 where every row has one, else the labels.
fn targets(pairs: &[Pair]) -> Vec<f64> {
    let Some(grades) = grades(pairs) else {
        return labels(pairs).into_iter().map(f64::from).collect();
    };
    let low = grades.iter().copied().fold(f64::INFINITY, f64::min);
    let high = grades.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let range = if high > low { high - low } else { 1.0 };
    grades.into_iter().map(|grade| (grade - low) / range).collect()
}

/// Of comparisons with the cosine alone the one with the greatest sum of gains in standard errors; of equal ones
/// the first. All gains are counted in the errors of the last: those of a weaker mixture would flatter it.
fn best_strength(gains: &[Comparison]) -> usize {
    let difference = |comparison: &Comparison, metric: Metric| {
        comparison.differences.iter().find(|d| d.metric == metric).copied()
    };
    let error = |metric: Metric| {
        let interval = difference(gains.last()?, metric)?.interval?;
        let error = (interval.high - interval.low) / DEVIATIONS;
        (error > 0.0).then_some(error)
    };
    let metrics = [Metric::RocAuc, Metric::RocAucPerQuery];
    let errors: Vec<_> = metrics.into_iter().filter_map(|m| Some((m, error(m)?))).collect();
    let sum = |comparison: &Comparison| -> f64 {
        let gain = |metric| difference(comparison, metric).and_then(|d| d.value).unwrap_or(0.0);
        errors.iter().map(|&(metric, error)| gain(metric) / error).sum()
    };
    let mut best = (0, 0.0);
    for (at, comparison) in gains.iter().enumerate() {
        let sum = sum(comparison);
        if sum > best.1 {
            best = (at, sum);
        }
    }
    best.0
}

/// The rows that the strength is chosen on.
struct Measure<'a> {
    pairs: &'a [Pair],
    queries: &'a [u32],
    labels: Vec<f64>,
    grades: Option<Vec<f64>>,
    words: Vec<Vec<u32>>,
    options: Options,
}

impl<'a> Measure<'a> {
    fn new(args: &CalibrateArgs, pairs: &'a [Pair], queries: &'a [u32]) -> Measure<'a> {
        Measure {
            pairs,
            queries,
            labels: labels(pairs).into_iter().map(f64::from).collect(),
            grades: grades(pairs),
            words: number_words(pairs.iter().map(|pair| pair.product_title.as_str())),
            options: Options {
                positive_threshold: f64::from(args.positive_threshold),
                n_bootstrap: args.bootstrap as usize,
                seed: args.seed,
                only: Metric::OF_ORDER,
                ..Options::default()
            },
        }
    }

    fn judged<'b>(&'b self, scores: &'b [f64]) -> Judged<'b> {
        Judged {
            scores,
            labels: &self.labels,
            queries: Some(self.queries),
            grades: self.grades.as_deref(),
            titles: Some(&self.words),
        }
    }

    fn compare(&self, scores: &[f64], base: &[f64]) -> Comparison {
        compare(&self.judged(scores), base, &self.options)
    }

    fn report(&self, scores: &[f64], cosines: &[f64]) -> ListReport {
        ListReport {
            models: Models::BesideBase(self.compare(scores, cosines)),
            overlap: overlap_report(self.pairs, &self.judged(scores), &self.options),
            ceiling: None,
            names: ["cosine", "scorer"],
        }
    }

    fn cut(&self, scores: &[f64], precision: f64) -> Option<PrecisionCut> {
        let above = |label: &f64| *label > self.options.positive_threshold;
        let positive: Vec<bool> = self.labels.iter().map(above).collect();
        cut_for_precision(scores, &positive, precision, MIN_ROWS)
    }
}

fn text(
    report: &ListReport,
    fitted: &Fitted,
    fit_seconds: f64,
    cut: Option<PrecisionCut>,
) -> String {
    let Fitted { scorer, lambda, n_rows } = fitted;
    let mut text = report.order_table();
    text += &format!(
        "\nstrength {} (chosen on these rows), lambda {lambda}; fitted on {n_rows} rows in {}\n\n",
        scorer.strength,
        seconds(fit_seconds)
    );
    let rows = NAMES.iter().zip(&scorer.features).map(|(name, weighed)| {
        let numbers = [weighed.mean, weighed.scale, weighed.weight];
        let numbers = numbers.map(|number| format!("{number:.4}"));
        [(*name).to_owned()].into_iter().chain(numbers).collect()
    });
    let header = ["feature", "mean", "deviation", "weight of a deviation"];
    text += &table::render(&header, &rows.collect::<Vec<_>>());
    if let Some(PrecisionCut { threshold, precision, recall, n_rows }) = cut {
        text += &format!(
            "\n{:.1} % of the {n_rows} rows with a score of {threshold:.4} or more are right: {:.1} % of all right ones\n",
            100.0 * precision,
            100.0 * recall
        );
    }
    text
}

fn scorer_json(
    fitted: &Fitted,
    gains: &[Comparison],
    fit_seconds: f64,
    cut: Option<PrecisionCut>,
) -> Value {
    let Fitted { scorer, lambda, n_rows } = fitted;
    let Scorer { strength, features, .. } = scorer;
    let weights: Map<String, Value> = NAMES
        .iter()
        .zip(features)
        .map(|(name, weighed)| ((*name).to_owned(), weighed.weight.into()))
        .collect();
    let tried = STRENGTHS.iter().zip(gains).map(|(strength, comparison)| {
        let model = &comparison.model;
        json!({
            "strength": strength,
            "roc_auc": model.value(Metric::RocAuc),
            "roc_auc_per_query": model.value(Metric::RocAucPerQuery),
        })
    });
    json!({
        "strength": strength,
        "tried": tried.collect::<Vec<_>>(),
        "lambda": lambda,
        "rows": n_rows,
        "fit_seconds": fit_seconds,
        "weights": weights,
        "threshold": cut.map(|cut| json!({
            "score": cut.threshold,
            "precision": cut.precision,
            "recall": cut.recall,
            "rows": cut.n_rows,
        })),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use loriot_eval::{Difference, Interval, Report};

    /// A comparison with these gains, pooled and per query, and intervals of these widths.
    fn gains(pooled: f64, per_query: f64, widths: [f64; 2]) -> Comparison {
        let report = || Report { n_rows: 0, n_positive: 0, n_queries: None, metrics: Vec::new() };
        let difference = |metric, value: f64, width: f64| Difference {
            metric,
            value: Some(value),
            interval: Some(Interval { low: value - width / 2.0, high: value + width / 2.0 }),
        };
        let differences = vec![
            difference(Metric::RocAuc, pooled, widths[0]),
            difference(Metric::RocAucPerQuery, per_query, widths[1]),
        ];
        Comparison { model: report(), base: report(), differences }
    }

    #[test]
    fn the_strength_has_the_greatest_sum_of_gains_and_of_equal_ones_is_the_least() {
        let nothing = gains(0.0, 0.0, [0.0; 2]);
        let wide = [0.02, 0.04];
        let best = |tried: [Comparison; 2]| {
            best_strength(&[nothing.clone(), tried[0].clone(), tried[1].clone()])
        };
        // A pooled gain of 0.01 counts twice one per query.
        assert_eq!(best([gains(0.03, 0.0, wide), gains(0.01, 0.03, wide)]), 1);
        assert_eq!(best([gains(0.01, 0.0, wide), gains(0.01, 0.01, wide)]), 2);
        assert_eq!(best([gains(0.01, 0.01, wide), gains(0.01, 0.01, wide)]), 1);
        // The first's own error is small, but does not count.
        assert_eq!(best([gains(0.01, 0.01, [0.001; 2]), gains(0.02, 0.01, wide)]), 2);
        assert_eq!(best([gains(-0.01, 0.0, wide), gains(0.0, -0.1, wide)]), 0, "words mislead");
    }
}
