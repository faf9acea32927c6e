//! `loriot eval`: how well a model ranks judged pairs, beside its base and beside chance.

use super::common::{self, LabelOptions, ModelOptions, PrecisionOption, RowOptions};
use crate::message::message;
use crate::progress::Progress;
use crate::table;
use loriot_data::Pair;
use loriot_encoder::encoder::{Encoder, Reading};
use loriot_eval::{
    Comparison, Difference, Interval, Judged, Measured, Options, Report, compare, evaluate,
    number_queries, roc_auc, word_overlap,
};
use loriot_train::TokenPairs;
use loriot_train::evaluation::check_classes;
use serde_json::{Map, Value, json};
use std::ops::ControlFlow;
use std::path::PathBuf;

/// Texts between two movements of the progress bar.
const PROGRESS_TEXTS: usize = 256;

/// Measure a model on judged pairs; with an adapter, beside its base model
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  loriot eval --model sentence-transformers/all-MiniLM-L6-v2 --data test.csv
  loriot eval --model BASE --adapter run/best --data test.csv --json

Labels are from 0 (irrelevant) to 1 (relevant).

`roc_auc` is over all rows; `roc_auc_per_query` is the mean over the queries with both labels, which is
what a shopper sees. Intervals are 95 %, by bootstrap over queries. The thresholds of `best_f1` and
`best_accuracy` are chosen on the rows themselves, for each model its own. Word overlap is the share of the
query's words that are in the title: a useful model ranks better than that.")]
pub struct EvalArgs {
    #[command(flatten)]
    model: ModelOptions,
    /// Judged rows: `.csv`, `.tsv`, `.jsonl`, `.json` (also gzipped) or `.parquet`; `-` is stdin
    #[arg(long, value_name = "FILE", num_args = 1.., required = true, help_heading = "Rows")]
    data: Vec<PathBuf>,
    #[command(flatten)]
    rows: RowOptions,
    #[command(flatten)]
    labels: LabelOptions,
    #[command(flatten)]
    arithmetic: PrecisionOption,
    /// Multiply what the adapter changes by S [default: 1]
    #[arg(long, value_name = "S", requires = "adapter", allow_negative_numbers = true)]
    #[arg(value_parser = common::parse_strength, help_heading = "Model")]
    strength: Option<f64>,
    /// Rows with a label above T count as positive
    #[arg(long, value_name = "T", default_value_t = 0.5, help_heading = "Measuring")]
    #[arg(value_parser = common::parse_finite)]
    positive_threshold: f32,
    /// Bootstrap resamples for the intervals, at most 100,000; 0 for none
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1000,
        help_heading = "Measuring",
        value_parser = clap::value_parser!(u32).range(..=100_000)
    )]
    bootstrap: u32,
    /// Seed of the resamples
    #[arg(long, value_name = "N", default_value_t = 42, help_heading = "Measuring")]
    seed: u64,
    /// Print one JSON object instead of a table
    #[arg(long, help_heading = "Measuring")]
    json: bool,
}

/// Runs `loriot eval`.
pub fn run_eval(args: EvalArgs) -> anyhow::Result<()> {
    let scale = args.labels.label_scale;
    let pairs = args.rows.read_judged(&args.data, scale, scale)?.pairs;
    let labels: Vec<f32> = pairs.iter().map(|pair| pair.relevance_label).collect();
    check_classes(&labels, args.positive_threshold)?;

    let mut options = args.model.encoder_options(args.arithmetic.precision)?;
    options.strength = args.strength;
    let encoder = common::open_encoder(&options)?;
    let scores = scores(&encoder, &pairs);
    let base_scores = match options.adapter {
        None => None,
        Some(_) => Some(self::scores(&base_of(&encoder)?, &pairs)),
    };

    let labels: Vec<f64> = labels.into_iter().map(f64::from).collect();
    let queries = number_queries(pairs.iter().map(|pair| pair.query.as_str()));
    let grades = grades(&pairs);
    let judged = Judged {
        scores: &scores,
        labels: &labels,
        queries: Some(&queries),
        grades: grades.as_deref(),
    };
    let options = Options {
        positive_threshold: f64::from(args.positive_threshold),
        n_bootstrap: args.bootstrap as usize,
        seed: args.seed,
        ..Options::default()
    };
    let result = match &base_scores {
        None => Measurement::Alone(evaluate(&judged, &options)),
        Some(base_scores) => Measurement::BesideBase(compare(&judged, base_scores, &options)),
    };
    let overlap = overlap_roc_auc(&pairs, &labels, options.positive_threshold);
    if args.json {
        common::print_json(&result.to_json(overlap))
    } else {
        common::print_text(&result.to_text(overlap))
    }
}

enum Measurement {
    Alone(Report),
    BesideBase(Comparison),
}

/// The same encoder without its adapter, reading texts in the same way.
fn base_of(encoder: &Encoder) -> anyhow::Result<Encoder> {
    Ok(encoder.base().read(&Reading {
        max_length: Some(encoder.max_length()),
        query_prompt: Some(encoder.prompts().query.clone()),
        document_prompt: Some(encoder.prompts().document.clone()),
        ..Reading::default()
    })?)
}

fn scores(encoder: &Encoder, pairs: &[Pair]) -> Vec<f64> {
    let pairs = TokenPairs::new(encoder, pairs);
    let mut progress = Progress::new("embedding", pairs.n_texts() as u64);
    let scores = pairs.scores(|ids| encoder.embed_ids(ids), PROGRESS_TEXTS, &mut |done, _| {
        progress.set(done as u64, "");
        ControlFlow::Continue(())
    });
    progress.finish();
    scores.unwrap_or_default()
}

/// The grades, where every row has one.
fn grades(pairs: &[Pair]) -> Option<Vec<f64>> {
    let grades: Vec<f64> = pairs.iter().filter_map(|pair| pair.grade.map(f64::from)).collect();
    if !grades.is_empty() && grades.len() < pairs.len() {
        let missing = pairs.len() - grades.len();
        message!("note: {missing} rows have no grade; nDCG takes the labels of all rows instead");
    }
    (grades.len() == pairs.len()).then_some(grades)
}

fn overlap_roc_auc(pairs: &[Pair], labels: &[f64], threshold: f64) -> Option<f64> {
    let score = |pair: &Pair| word_overlap(&pair.query, &pair.product_title);
    let scores: Vec<f64> = pairs.iter().map(score).collect();
    let positive: Vec<bool> = labels.iter().map(|&label| label > threshold).collect();
    roc_auc(&scores, &positive)
}

impl Measurement {
    fn model(&self) -> &Report {
        match self {
            Measurement::Alone(report) => report,
            Measurement::BesideBase(comparison) => &comparison.model,
        }
    }

    fn to_json(&self, overlap: Option<f64>) -> Value {
        let mut object = report_json(self.model());
        object.insert("word_overlap_roc_auc".into(), overlap.into());
        if let Measurement::BesideBase(comparison) = self {
            object.insert("base".into(), report_json(&comparison.base).into());
            object.insert("difference".into(), differences_json(&comparison.differences).into());
        }
        object.into()
    }

    fn to_text(&self, overlap: Option<f64>) -> String {
        let report = self.model();
        let Report { n_rows, n_positive, n_queries, .. } = report;
        let mut text = format!(
            "{n_rows} rows, {n_positive} positive, {} queries; intervals 95 %\n\n",
            n_queries.unwrap_or(0)
        );
        text += &match self {
            Measurement::Alone(report) => alone_table(report),
            Measurement::BesideBase(comparison) => comparison_tables(comparison),
        };
        text += &self.thresholds_text();
        if let Some(overlap) = overlap {
            text += &format!("word overlap alone has a ROC-AUC of {overlap:.4}\n");
        }
        text
    }

    /// Whose thresholds the best F1 and accuracy are.
    fn thresholds_text(&self) -> String {
        let cuts = |report: &Report| -> Vec<_> {
            report.metrics.iter().filter_map(|m| Some((m.metric, m.threshold?))).collect()
        };
        let cuts_of = cuts(self.model());
        if cuts_of.is_empty() {
            return "\n".into();
        }
        let mut text = String::from(
            "\nbest_f1 and best_accuracy are at the thresholds that are best on these very rows\n",
        );
        match self {
            Measurement::Alone(_) => {
                for (metric, cut) in cuts_of {
                    text += &format!("{metric}: positive from a score of {cut:.4} on\n");
                }
            }
            Measurement::BesideBase(comparison) => {
                text += "(each model's own):\n";
                for ((metric, cut), (_, base_cut)) in
                    cuts_of.into_iter().zip(cuts(&comparison.base))
                {
                    text += &format!(
                        "{metric}: positive from {base_cut:.4} on (base), {cut:.4} on (adapter)\n"
                    );
                }
            }
        }
        text
    }
}

fn alone_table(report: &Report) -> String {
    let rows = report
        .metrics
        .iter()
        .map(|m| vec![m.metric.to_string(), number(m.value), range(m.interval), number(random(m))]);
    table::render(&["metric", "value", "interval", "random order"], &rows.collect::<Vec<_>>())
}

/// What differs, with its interval, and below it the intervals of each: side by side they would need more than
/// the 80 columns of a terminal.
fn comparison_tables(comparison: &Comparison) -> String {
    let Comparison { model, base, differences } = comparison;
    let both = || model.metrics.iter().zip(&base.metrics);
    let rows = both().zip(differences).map(|((m, b), d)| {
        vec![
            m.metric.to_string(),
            number(b.value),
            number(m.value),
            d.value.map_or_else(|| "–".into(), |value| format!("{value:+.4}")),
            range(d.interval),
            number(random(m)),
        ]
    });
    let header = ["metric", "base", "adapter", "difference", "interval", "random order"];
    let mut text = table::render(&header, &rows.collect::<Vec<_>>());
    let has_interval = both().any(|(m, b)| m.interval.is_some() || b.interval.is_some());
    if has_interval {
        let rows =
            both().map(|(m, b)| vec![m.metric.to_string(), range(b.interval), range(m.interval)]);
        let header = ["interval of", "base", "adapter"];
        text += &format!("\n{}", table::render(&header, &rows.collect::<Vec<_>>()));
    }
    text
}

/// The value of a random order, of metrics for which it depends on the data.
fn random(measured: &Measured) -> Option<f64> {
    measured.random_order
}

fn number(value: Option<f64>) -> String {
    value.map_or_else(|| "–".into(), |value| format!("{value:.4}"))
}

fn range(interval: Option<Interval>) -> String {
    interval.map_or_else(String::new, |range| format!("{:.4}…{:.4}", range.low, range.high))
}

/// `{"roc_auc":…,…,"intervals":{"roc_auc":[…,…]},"thresholds":{…},"random_order":{…},…}`.
fn report_json(report: &Report) -> Map<String, Value> {
    let mut object = Map::new();
    let named = |value: fn(&Measured) -> Option<Value>| -> Map<String, Value> {
        let named = |m: &Measured| Some((m.metric.to_string(), value(m)?));
        report.metrics.iter().filter_map(named).collect()
    };
    object.extend(report.metrics.iter().map(|m| (m.metric.to_string(), m.value.into())));
    object.insert("intervals".into(), named(|m| m.interval.map(interval_json)).into());
    object.insert("thresholds".into(), named(|m| m.threshold.map(Value::from)).into());
    object.insert("random_order".into(), named(|m| m.random_order.map(Value::from)).into());
    object.insert("n_queries_of".into(), named(|m| m.n_queries.map(Value::from)).into());
    object.insert("rows".into(), report.n_rows.into());
    object.insert("positive".into(), report.n_positive.into());
    object.insert("queries".into(), report.n_queries.into());
    object
}

fn differences_json(differences: &[Difference]) -> Map<String, Value> {
    let mut object: Map<String, Value> =
        differences.iter().map(|d| (d.metric.to_string(), d.value.into())).collect();
    let intervals =
        differences.iter().filter_map(|d| Some((d.metric.to_string(), interval_json(d.interval?))));
    let intervals: Map<String, Value> = intervals.collect();
    object.insert("intervals".into(), intervals.into());
    object
}

fn interval_json(interval: Interval) -> Value {
    json!([interval.low, interval.high])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both forms of the text, of 40 rows of 8 queries.
    fn texts() -> [String; 2] {
        let scores: Vec<f64> = (0..40).map(|row| f64::from(row * 7 % 40) / 40.0).collect();
        let base_scores: Vec<f64> = (0..40).map(|row| f64::from(row * 3 % 40) / -40.0).collect();
        let labels: Vec<f64> = (0..40).map(|row| f64::from(row % 3 == 0)).collect();
        let queries: Vec<u32> = (0..40).map(|row| row / 5).collect();
        let judged =
            Judged { scores: &scores, labels: &labels, queries: Some(&queries), grades: None };
        let options = Options { n_bootstrap: 100, ..Options::default() };
        let beside = Measurement::BesideBase(compare(&judged, &base_scores, &options));
        let alone = Measurement::Alone(evaluate(&judged, &options));
        [alone.to_text(Some(0.5)), beside.to_text(Some(0.5))]
    }

    #[test]
    fn the_tables_fit_a_terminal_of_80_columns() {
        for text in texts() {
            let widest = text.lines().max_by_key(|line| line.chars().count()).unwrap();
            assert!(widest.chars().count() <= 80, "{widest}\n{text}");
            assert!(text.contains("0.") && text.contains('…'), "{text}");
        }
    }

    #[test]
    fn a_threshold_says_whose_it_is_and_where_it_was_chosen() {
        let [alone, beside] = texts();
        for text in [&alone, &beside] {
            assert!(text.contains("at the thresholds that are best on these very rows"), "{text}");
        }
        let line =
            |text: &str| text.lines().find(|l| l.starts_with("best_f1: ")).unwrap().to_owned();
        assert!(line(&alone).starts_with("best_f1: positive from a score of 0."), "{alone}");
        let said = line(&beside);
        assert!(said.contains("(base), 0.") && said.ends_with("on (adapter)"), "{beside}");
        assert!(said.contains("positive from -0."), "each model has its own: {beside}");
    }
}
