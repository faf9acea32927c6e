//! `loriot eval`: how well a model ranks judged pairs, beside its base and beside chance, and what it finds of a
//! whole catalogue.

use super::catalogue_eval::{self, Right, Task};
use super::common::{self, LabelOptions, ModelOptions, PrecisionOption, RowOptions};
use super::eval_text::{ListReport, Models};
use super::texts::{TextVectors, Texts};
use crate::message::message;
use crate::report::UsageError;
use loriot_data::{LabelScale, Pair};
use loriot_encoder::encoder::{Encoder, Reading};
use loriot_eval::{
    Judged, Metric, Options, ceiling, compare, evaluate, number_words, retrieval, word_overlap,
};
use loriot_train::evaluation::check_classes;
use std::path::PathBuf;

/// Measure a model on judged pairs; with an adapter, beside its base model
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  loriot eval --model sentence-transformers/all-MiniLM-L6-v2 --data test.csv
  loriot eval --model BASE --adapter run/best --data test.csv --json
  loriot eval --model BASE --adapter run/best --data test.csv \\
    --catalogue shop.csv --relevant-grade 2.67

Labels are from 0 (irrelevant) to 1 (relevant).

`roc_auc` is over all rows; `roc_auc_per_query` is the mean over the queries with both labels, which is
what a shopper sees. `concordance` is the share of pairs of one query's rows in the right order, of those
whose grades differ by a third of the grades' range or more; `concordance_unlike` takes only pairs
whose titles share less than 30 % of their words, as grades of like titles differ by little but noise.
Intervals are 95 %, by bootstrap over queries. The thresholds of `best_f1` and `best_accuracy` are chosen
on the rows themselves, for each model its own. Word overlap is the share of the query's words that are
in the title: a useful model ranks better than that.

With an adapter one sentence says what it comes to: shoppers gain (the paired interval of roc_auc_per_query
is above 0), shoppers lose, the pooled figure alone rose or fell, or no difference that this data can show.

With `--catalogue` each query is searched for among all titles: recall@10 and @100 are the share of the
products judged right that are found, mrr@10 and ndcg@10 how high. What nobody judged counts as wrong.")]
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
    /// Rows with a label above T count as positive
    #[arg(long, value_name = "T", default_value_t = 0.5, help_heading = "Measuring")]
    #[arg(value_parser = common::parse_finite)]
    positive_threshold: f32,
    /// Search all titles of these files for the rows' queries as well; without a file, the titles of the rows
    #[arg(long, value_name = "FILE", num_args = 0.., help_heading = "Measuring")]
    catalogue: Option<Vec<PathBuf>>,
    /// In that search rows of this grade or a higher one are right, on the file's own scale: of the grades
    /// where every row has one, else of the labels [default: rows that count as positive]
    #[arg(long, value_name = "G", value_parser = common::parse_finite, help_heading = "Measuring")]
    #[arg(requires = "catalogue")]
    relevant_grade: Option<f32>,
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
    let judged = args.rows.read_judged(&args.data, scale, scale)?;
    let pairs = judged.pairs;
    let classes = check_classes(&labels(&pairs), args.positive_threshold);
    let catalogue = match (&args.catalogue, classes) {
        (None, classes) => {
            classes?;
            None
        }
        (Some(paths), classes) => {
            let right = match args.relevant_grade {
                None => Right::LabelAbove(args.positive_threshold),
                Some(grade) => right_from(grade, &pairs, scale, judged.scale)?,
            };
            Some((catalogue_eval::titles(paths, &pairs, &args.rows)?, right, classes.is_err()))
        }
    };
    let (catalogue_titles, right, is_one_class) = match catalogue {
        None => (Vec::new(), None, false),
        Some((titles, right, is_one_class)) => (titles, Some(right), is_one_class),
    };

    let options = args.model.encoder_options(args.arithmetic.precision)?;
    let encoder = common::open_encoder(&options)?;
    let texts = Texts::new(&pairs, &catalogue_titles);
    let vectors = texts.embed(&encoder);
    let base_vectors = match options.adapter {
        None => None,
        Some(_) => Some(texts.embed(&base_of(&encoder)?)),
    };

    let lists = match is_one_class {
        true => {
            message!("note: all rows count alike, so that there is no order of lists to measure");
            None
        }
        false => Some(args.measure_lists(&pairs, &texts, &vectors, base_vectors.as_ref())),
    };
    let found = right.map(|right| {
        let task = Task::new(&texts, &pairs, right);
        let of_model = task.results(&vectors, encoder.isa(), None);
        let of_base = base_vectors.map(|vectors| task.results(&vectors, encoder.isa(), None));
        let n_resamples = args.bootstrap as usize;
        (retrieval(&of_model, of_base.as_deref(), n_resamples, args.seed), task.n_titles())
    });
    if args.json {
        let mut object = lists.map(|lists| lists.to_json()).unwrap_or_default();
        if let Some((found, n_titles)) = &found {
            object.insert("catalogue".into(), catalogue_eval::to_json(found, *n_titles));
        }
        return common::print_json(&object);
    }
    let mut text = lists.map(|lists| lists.to_text()).unwrap_or_default();
    if let Some((found, n_titles)) = &found {
        text += &catalogue_eval::to_text(found, *n_titles, "adapter");
    }
    common::print_text(&text)
}

/// What `--relevant-grade` calls right.
fn right_from(
    grade: f32,
    pairs: &[Pair],
    read: Option<LabelScale>,
    scale: LabelScale,
) -> Result<Right, UsageError> {
    Right::of_grade(grade, pairs, read, scale).ok_or_else(|| {
        let scale = read.unwrap_or(scale);
        UsageError::new(format!("`--relevant-grade {grade}` is not on the labels' scale, {scale}"))
            .with_hint("give a grade as the file has it, or `--label-scale`")
    })
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

fn labels(pairs: &[Pair]) -> Vec<f32> {
    pairs.iter().map(|pair| pair.relevance_label).collect()
}

impl EvalArgs {
    fn measure_lists(
        &self,
        pairs: &[Pair],
        texts: &Texts<'_>,
        vectors: &TextVectors,
        base: Option<&TextVectors>,
    ) -> ListReport {
        let scores = vectors.cosines(texts);
        let labels: Vec<f64> = labels(pairs).into_iter().map(f64::from).collect();
        let grades = grades(pairs);
        let words = number_words(pairs.iter().map(|pair| pair.product_title.as_str()));
        let judged = Judged {
            scores: &scores,
            labels: &labels,
            queries: Some(&texts.query_of),
            grades: grades.as_deref(),
            titles: Some(&words),
        };
        let options = Options {
            positive_threshold: f64::from(self.positive_threshold),
            n_bootstrap: self.bootstrap as usize,
            seed: self.seed,
            ..Options::default()
        };
        let models = match base {
            None => Models::Alone(evaluate(&judged, &options)),
            Some(base) => Models::BesideBase(compare(&judged, &base.cosines(texts), &options)),
        };
        let overlap: Vec<f64> =
            pairs.iter().map(|pair| word_overlap(&pair.query, &pair.product_title)).collect();
        let of_order = Options { n_bootstrap: 0, only: Metric::OF_ORDER, ..options.clone() };
        ListReport {
            models,
            overlap: evaluate(&Judged { scores: &overlap, ..judged }, &of_order),
            ceiling: ceiling(&judged, &texts.title_of, options.positive_threshold, self.seed),
            name: "adapter",
        }
    }
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
