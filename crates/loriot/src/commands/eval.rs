//! `loriot eval`: how well a model ranks judged pairs, beside its base and beside chance, and what it finds of a
//! whole catalogue.

use super::catalogue_eval::{self, Right, Task};
use super::common::{self, LabelOptions, ModelOptions, PrecisionOption, RowOptions};
use super::eval_text::{ListReport, Models};
use super::scoring::{list_scores, made_for, row_scores};
use super::texts::{TextVectors, Texts};
use crate::message::message;
use crate::report::UsageError;
use loriot_data::{LabelScale, Pair};
use loriot_encoder::encoder::{Encoder, Reading};
use loriot_eval::{
    Judged, Metric, Options, Report, Retrieval, ceiling, compare, evaluate, number_words,
    retrieval, word_overlap,
};
use loriot_index::Isa;
use loriot_rank::Scorer;
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

With `--scorer` the model's score is the scorer's, compared with the cosine of the base (or, without an
adapter, of the model itself); of a catalogue it puts the 100 nearest titles in another order.

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
    /// Multiply what the adapter changes by S [default: 1]
    #[arg(long, value_name = "S", requires = "adapter", allow_negative_numbers = true)]
    #[arg(value_parser = common::parse_strength, help_heading = "Model")]
    strength: Option<f64>,
    /// Rows with a label above T count as positive
    #[arg(long, value_name = "T", default_value_t = 0.5, help_heading = "Measuring")]
    #[arg(value_parser = common::parse_finite)]
    positive_threshold: f32,
    /// Score by this scorer, of `loriot calibrate`, beside the base's cosine
    #[arg(long, value_name = "FILE", help_heading = "Model")]
    scorer: Option<PathBuf>,
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

    let scorer = args.scorer.as_deref().map(Scorer::open).transpose()?;
    let mut options = args.model.encoder_options(args.arithmetic.precision)?;
    options.strength = args.strength;
    let encoder = common::open_encoder(&options)?;
    if let Some((path, scorer)) = args.scorer.as_deref().zip(scorer.as_ref()) {
        scorer.check_encoder(path, &made_for(&encoder))?;
    }
    let texts = Texts::new(&pairs, &catalogue_titles);
    let vectors = texts.embed(&encoder);
    let base_vectors = match options.adapter {
        None => None,
        Some(_) => Some(texts.embed(&base_of(&encoder)?)),
    };

    let judge = Judge {
        args: &args,
        pairs: &pairs,
        texts: &texts,
        vectors: &vectors,
        base: base_vectors.as_ref(),
        scorer: scorer.as_ref(),
    };
    let lists = match is_one_class {
        true => {
            message!("note: all rows count alike, so that there is no order of lists to measure");
            None
        }
        false => Some(judge.lists()),
    };
    let found = right.map(|right| judge.catalogue(right, encoder.isa()));
    if args.json {
        let mut object = lists.map(|lists| lists.to_json()).unwrap_or_default();
        if let Some((found, n_titles)) = &found {
            object.insert("catalogue".into(), catalogue_eval::to_json(found, *n_titles));
        }
        return common::print_json(&object);
    }
    let mut text = lists.map(|lists| lists.to_text()).unwrap_or_default();
    if let Some((found, n_titles)) = &found {
        text += &catalogue_eval::to_text(found, *n_titles, judge.names());
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

pub(super) fn labels(pairs: &[Pair]) -> Vec<f32> {
    pairs.iter().map(|pair| pair.relevance_label).collect()
}

/// What is measured: a model's vectors, those of its base where it has an adapter, and a scorer over the former.
struct Judge<'a> {
    args: &'a EvalArgs,
    pairs: &'a [Pair],
    texts: &'a Texts<'a>,
    vectors: &'a TextVectors,
    base: Option<&'a TextVectors>,
    scorer: Option<&'a Scorer>,
}

impl Judge<'_> {
    /// What the tables call the base and the model.
    fn names(&self) -> [&'static str; 2] {
        match (self.base, self.scorer) {
            (_, None) => ["base", "adapter"],
            (Some(_), Some(_)) => ["base", "scorer"],
            (None, Some(_)) => ["cosine", "scorer"],
        }
    }

    /// What the model is compared with: the base, and for a scorer without one the cosine alone.
    fn base_vectors(&self) -> Option<&TextVectors> {
        self.base.or(self.scorer.map(|_| self.vectors))
    }

    fn lists(&self) -> ListReport {
        let Judge { args, pairs, texts, vectors, .. } = *self;
        let scores = match self.scorer {
            None => vectors.cosines(texts),
            Some(scorer) => row_scores(scorer, texts, vectors),
        };
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
            positive_threshold: f64::from(args.positive_threshold),
            n_bootstrap: args.bootstrap as usize,
            seed: args.seed,
            ..Options::default()
        };
        let models = match self.base_vectors() {
            None => Models::Alone(evaluate(&judged, &options)),
            Some(base) => Models::BesideBase(compare(&judged, &base.cosines(texts), &options)),
        };
        ListReport {
            models,
            overlap: overlap_report(pairs, &judged, &options),
            ceiling: ceiling(&judged, &texts.title_of, options.positive_threshold, args.seed),
            names: self.names(),
        }
    }

    /// What is found in the catalogue, and how many titles it has.
    fn catalogue(&self, right: Right, isa: Isa) -> (Retrieval, usize) {
        let Judge { args, pairs, texts, vectors, .. } = *self;
        let task = Task::new(texts, pairs, right);
        let of_model = match self.scorer {
            None => task.results(vectors, isa, None),
            Some(scorer) => {
                let rescore = |query: u32, titles: &[u32], scores: &mut [f64]| {
                    let rescored = list_scores(scorer, texts, vectors, (query, titles), scores);
                    scores.copy_from_slice(&rescored);
                };
                task.results(vectors, isa, Some(&rescore))
            }
        };
        let of_base = self.base_vectors().map(|vectors| task.results(vectors, isa, None));
        let n_resamples = args.bootstrap as usize;
        let found = retrieval(&of_model, of_base.as_deref(), n_resamples, args.seed);
        (found, task.n_titles())
    }
}

/// How word overlap orders the rows of `judged`.
pub(super) fn overlap_report(pairs: &[Pair], judged: &Judged<'_>, options: &Options) -> Report {
    let scores: Vec<f64> =
        pairs.iter().map(|pair| word_overlap(&pair.query, &pair.product_title)).collect();
    let of_order = Options { n_bootstrap: 0, only: Metric::OF_ORDER, ..options.clone() };
    evaluate(&Judged { scores: &scores, ..*judged }, &of_order)
}

/// The grades, where every row has one.
pub(super) fn grades(pairs: &[Pair]) -> Option<Vec<f64>> {
    let grades: Vec<f64> = pairs.iter().filter_map(|pair| pair.grade.map(f64::from)).collect();
    if !grades.is_empty() && grades.len() < pairs.len() {
        let missing = pairs.len() - grades.len();
        message!("note: {missing} rows have no grade; nDCG takes the labels of all rows instead");
    }
    (grades.len() == pairs.len()).then_some(grades)
}
