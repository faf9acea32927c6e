//! `loriot search`: a query, or many from stdin, to the nearest products of a catalogue.

use super::columns::Columns;
use super::common::{self, PrecisionOption, ReadingOptions};
use super::scoring::made_for;
use crate::lines::Lines;
use crate::message::message;
use crate::report::UsageError;
use crate::visible::one_line;
use anyhow::Context;
use loriot_encoder::Side;
use loriot_encoder::encoder::{Encoder, EncoderOptions};
use loriot_kernels::Isa;
use loriot_rank::{List, Scorer, likeness};
use loriot_search::{
    Candidate, Catalogue, EncoderRecord, Found, OpenOptions, ProductKey, SearchOptions, any_product,
};
use std::io::{IsTerminal, Read};
use std::path::PathBuf;

/// Queries from stdin that are embedded and searched for together, at most.
const BATCH_QUERIES: usize = 256;
/// Nearest products that a scorer puts in order, at least.
const N_RESCORED: usize = 100;

/// Search a catalogue
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  loriot search shop \"red kettle\"
  loriot search shop \"red kettle\" -k 3 --threshold 0.7 --json
  loriot search shop \"red kettle\" --columns rank,id,price
  loriot search shop --json < queries.txt
  loriot search shop \"red kettle\" --scorer scorer.json

The catalogue records the model and the adapter that embedded it. Give `--model` and `--adapter` only
if they have moved; they must be the same.

Without a query, each line of stdin that is not blank is one, and is answered when it has arrived.")]
pub struct SearchArgs {
    /// Catalogue, as `loriot index` wrote it
    #[arg(value_name = "DIR")]
    catalogue: PathBuf,
    /// What to search for
    query: Option<String>,
    /// Results per query
    #[arg(short, value_name = "N", default_value_t = 10)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    k: u32,
    /// Vectors that a graph search keeps, at least k: more finds more and takes longer
    #[arg(long, value_name = "N", default_value_t = 100)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    ef: u32,
    /// Leave out results with a lower cosine, or with `--scorer` a lower score [default: none are left out]
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    #[arg(value_parser = common::parse_finite)]
    threshold: Option<f32>,
    /// Order the nearest products by this scorer, of `loriot calibrate`: k of the 100 nearest, or of the k
    /// nearest where k is more
    #[arg(long, value_name = "FILE")]
    scorer: Option<PathBuf>,
    /// Compare the query with every product even if the catalogue has a graph
    #[arg(long)]
    exact: bool,
    /// Check every file of the catalogue against its SHA-256 first
    #[arg(long)]
    verify: bool,
    /// What to print of a result after its title: rank, id, score and the catalogue's own columns. `--json`
    /// has them all
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    columns: Vec<String>,
    /// Print a JSON object per query
    #[arg(long)]
    json: bool,
    /// Base model [default: the catalogue's]
    #[arg(long, value_name = "DIR|HUB_ID", help_heading = "Model")]
    model: Option<String>,
    /// LoRA adapter [default: the catalogue's, unless `--model` is given]
    #[arg(long, value_name = "DIR|HUB_ID", help_heading = "Model")]
    adapter: Option<String>,
    #[command(flatten)]
    reading: ReadingOptions,
    #[command(flatten)]
    arithmetic: PrecisionOption,
}

/// Runs `loriot search`.
pub fn run_search(args: SearchArgs) -> anyhow::Result<()> {
    if args.query.is_none() && std::io::stdin().is_terminal() {
        return Err(UsageError::new("nothing to search for")
            .with_hint("give a query, or a file of them: `loriot search DIR < queries.txt`")
            .into());
    }
    if args.query.as_ref().is_some_and(|query| query.trim().is_empty()) {
        return Err(UsageError::new("the query is empty")
            .with_hint("give the words to search for: `loriot search DIR \"red kettle\"`")
            .into());
    }
    let open_options = OpenOptions {
        exact: args.exact,
        n_threads: args.reading.n_threads(),
        isa: Isa::from_env()?,
    };
    let scorer = args.scorer.as_deref().map(Scorer::open).transpose()?;
    let catalogue = Catalogue::open(&args.catalogue, &open_options)?;
    // Of the catalogue that is open: another may have taken its name.
    let recorded = &catalogue.manifest().encoder;
    let encoder_options = encoder_options(&args, recorded.clone())?;
    let columns = Columns::new(&args.columns, &catalogue.other_columns())?;
    if args.verify {
        catalogue.verify()?;
    }
    let encoder = common::open_encoder(&encoder_options).with_context(|| match args.model {
        Some(_) => "cannot embed the query".to_owned(),
        None => format!(
            "cannot open what embedded `{}`; if it has moved, give `--model` and `--adapter`",
            args.catalogue.display()
        ),
    })?;
    // A query is one text: the template is the products' alone.
    let template = recorded.text_template.as_deref();
    let record = EncoderRecord::new(&encoder, &encoder_options)
        .with_text_template(template.map(str::to_owned));
    catalogue.check_encoder(&record)?;
    common::warn_of_another_template(&encoder, template);
    if let Some((path, scorer)) = args.scorer.as_deref().zip(scorer.as_ref()) {
        scorer.check_encoder(path, &made_for(&encoder))?;
    }

    let (args, catalogue, encoder) = (&args, &catalogue, &encoder);
    let search = Search { args, catalogue, columns, encoder, scorer: scorer.as_ref() };
    match &args.query {
        Some(query) => search.run(std::slice::from_ref(query)),
        None => search.run_lines(std::io::stdin()),
    }
}

/// The catalogue's encoder, except where the command line says otherwise.
fn encoder_options(args: &SearchArgs, recorded: EncoderRecord) -> anyhow::Result<EncoderOptions> {
    let (model, adapter) = match (&args.model, &args.adapter) {
        (Some(model), adapter) => (model.clone(), adapter.clone()),
        (None, Some(adapter)) => (recorded.model, Some(adapter.clone())),
        (None, None) => (recorded.model, recorded.adapter),
    };
    let reading = ReadingOptions {
        max_length: args.reading.max_length.or(Some(recorded.max_length)),
        query_prompt: args.reading.query_prompt.clone().or(Some(recorded.query_prompt)),
        document_prompt: args.reading.document_prompt.clone().or(Some(recorded.document_prompt)),
        threads: args.reading.threads,
    };
    common::encoder_options(&model, adapter.as_deref(), &reading, args.arithmetic.precision)
}

/// What `--json` prints for a query.
#[derive(serde::Serialize)]
struct Answer<'a> {
    query: &'a str,
    results: &'a [Scored],
}

/// A result.
#[derive(serde::Serialize)]
struct Scored {
    #[serde(flatten)]
    found: Found,
    /// The scorer's estimate of the label, where there is a scorer.
    #[serde(skip_serializing_if = "Option::is_none")]
    relevance: Option<f64>,
}

struct Search<'a> {
    args: &'a SearchArgs,
    catalogue: &'a Catalogue,
    columns: Columns,
    encoder: &'a Encoder,
    scorer: Option<&'a Scorer>,
}

impl Search<'_> {
    /// Searches for each line that is not blank, and prints results in the order of the lines. What has arrived
    /// is answered before more is waited for.
    fn run_lines(&self, input: impl Read) -> anyhow::Result<()> {
        let (mut lines, mut n_queries) = (Lines::new(input), 0);
        loop {
            let batch = lines.next_batch(BATCH_QUERIES);
            if !batch.lines.is_empty() {
                self.run(&batch.lines)?;
                n_queries += batch.lines.len();
            }
            if let Some(end) = batch.end {
                end?;
                if n_queries == 0 {
                    message!("note: stdin has no query: all of it is blank");
                }
                return Ok(());
            }
        }
    }

    fn run(&self, queries: &[String]) -> anyhow::Result<()> {
        let options = SearchOptions {
            k: self.args.k as usize,
            ef: self.args.ef as usize,
            threshold: self.args.threshold,
        };
        let queries: Vec<&str> = queries.iter().map(String::as_str).collect();
        let vectors_qd = self.encoder.embed(&queries, Side::Query);
        let results: Vec<Vec<Scored>> = match self.scorer {
            None => {
                let results = self.catalogue.search(&vectors_qd, &options)?.into_iter();
                let scored = |found| Scored { found, relevance: None };
                results.map(|found| found.into_iter().map(scored).collect()).collect()
            }
            Some(scorer) => self.rescored(scorer, &queries, &vectors_qd, &options)?,
        };
        for (query, results) in queries.iter().zip(&results) {
            if self.args.json {
                common::print_json(&Answer { query, results })?;
                continue;
            }
            let heading = match self.args.query {
                Some(_) => String::new(),
                None => format!("query='{}'\n", one_line(query)),
            };
            let lines = results.iter().map(|scored| self.line_of(scored));
            common::print_text(&(heading + &lines.collect::<String>()))?;
            if let (Some(threshold), []) = (self.args.threshold, &results[..]) {
                let what = if self.scorer.is_some() { "score for" } else { "cosine with" };
                message!("note: no product's {what} `{query}` reaches {threshold}");
            }
        }
        Ok(())
    }

    /// The nearest products of each query in the order of the scorer.
    fn rescored(
        &self,
        scorer: &Scorer,
        queries: &[&str],
        vectors_qd: &[f32],
        options: &SearchOptions,
    ) -> anyhow::Result<Vec<Vec<Scored>>> {
        let n_nearest = options.k.max(N_RESCORED);
        let ef = options.ef.max(n_nearest);
        let candidates = self.catalogue.candidates(vectors_qd, n_nearest, ef, any_product);
        let of_query = |(query, candidates): (&&str, Vec<Candidate>)| -> anyhow::Result<_> {
            let keys: Vec<ProductKey> = candidates.iter().map(|found| found.key).collect();
            let records = self.catalogue.records(&keys)?;
            let titles: Vec<&str> = records.iter().map(|record| &*record.product_title).collect();
            let cosines: Vec<f64> = candidates.iter().map(|found| f64::from(found.score)).collect();
            let likeness = likeness(&self.catalogue.vectors_of(&keys)?, &cosines);
            let list = List { query, titles: &titles, cosines: &cosines, likeness: &likeness };
            let scores = scorer.scores(&list);
            let mut results: Vec<_> = records.into_iter().zip(candidates).zip(scores).collect();
            // Equal scores stay in the order of their cosines.
            results.sort_by(|a, b| b.1.total_cmp(&a.1));
            let reaches =
                |score: f64| options.threshold.is_none_or(|least| score >= f64::from(least));
            let kept = results.into_iter().filter(|result| reaches(result.1)).take(options.k);
            let scored = kept.zip(1..).map(|(((record, candidate), relevance), rank)| Scored {
                found: Found {
                    rank,
                    id: record.id,
                    score: candidate.score,
                    product_title: record.product_title,
                    fields: record.fields,
                },
                relevance: Some(relevance),
            });
            Ok(scored.collect())
        };
        queries.iter().zip(candidates).map(of_query).collect()
    }

    /// The line of the reference, and after it what was asked for besides, so that a reader of the former goes
    /// on working.
    fn line_of(&self, Scored { found, relevance }: &Scored) -> String {
        let (title, columns) = (one_line(&found.product_title), self.columns.line(found));
        let relevance =
            relevance.map_or_else(String::new, |score| format!(" relevance={score:.2}"));
        format!("cosine_sim_score={:.2} product='{title}'{relevance}{columns}\n", found.score)
    }
}
