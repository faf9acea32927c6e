//! `loriot search`: a query, or many from stdin, to the nearest products of a catalogue.

use super::common::{self, PrecisionOption, ReadingOptions};
use crate::message::message;
use crate::report::UsageError;
use anyhow::{Context, bail};
use loriot_encoder::Side;
use loriot_encoder::encoder::{Encoder, EncoderOptions};
use loriot_search::{Catalogue, EncoderRecord, Found, OpenOptions, SearchOptions};
use std::io::{BufRead, IsTerminal};
use std::path::PathBuf;

/// Queries from stdin that are embedded and searched for together.
const BATCH_QUERIES: usize = 256;

/// Search a catalogue
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  loriot search shop \"red kettle\"
  loriot search shop \"red kettle\" -k 3 --threshold 0.7 --json
  loriot search shop --json < queries.txt

The catalogue records the model and the adapter that embedded it. Give `--model` and `--adapter`
only if they have moved; they must be the same. Without a query, each line of stdin is one.")]
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
    /// Leave out results with a lower cosine [default: none are left out]
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    threshold: Option<f32>,
    /// Compare the query with every product even if the catalogue has a graph
    #[arg(long)]
    exact: bool,
    /// Check every file of the catalogue against its SHA-256 first
    #[arg(long)]
    verify: bool,
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
    let encoder_options = encoder_options(&args)?;
    let open_options = OpenOptions {
        exact: args.exact,
        n_threads: encoder_options.threads,
        isa: encoder_options.isa,
    };
    let catalogue = Catalogue::open(&args.catalogue, &open_options)?;
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
    let template = Catalogue::manifest_of(&args.catalogue)?.encoder.text_template;
    let record = EncoderRecord::new(&encoder, &encoder_options).with_text_template(template);
    catalogue.check_encoder(&record)?;

    let search = Search { args: &args, catalogue: &catalogue, encoder: &encoder };
    match &args.query {
        Some(query) => search.run(&[query.as_str()]),
        None => search.run_lines(std::io::stdin().lock()),
    }
}

/// The catalogue's encoder, except where the command line says otherwise.
fn encoder_options(args: &SearchArgs) -> anyhow::Result<EncoderOptions> {
    let recorded = Catalogue::manifest_of(&args.catalogue)?.encoder;
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
    results: &'a [Found],
}

struct Search<'a> {
    args: &'a SearchArgs,
    catalogue: &'a Catalogue,
    encoder: &'a Encoder,
}

impl Search<'_> {
    /// Searches for each line that is not blank, and prints results in the order of the lines.
    fn run_lines(&self, mut input: impl BufRead) -> anyhow::Result<()> {
        let (mut queries, mut line, mut number) = (Vec::new(), Vec::new(), 0);
        loop {
            line.clear();
            number += 1;
            let is_end = input.read_until(b'\n', &mut line).context("cannot read stdin")? == 0;
            let Ok(query) = std::str::from_utf8(&line) else {
                bail!("stdin line {number} is not UTF-8 text");
            };
            if !query.trim().is_empty() {
                queries.push(query.trim().to_owned());
            }
            if is_end || queries.len() == BATCH_QUERIES {
                let batch: Vec<&str> = queries.iter().map(String::as_str).collect();
                self.run(&batch)?;
                queries.clear();
            }
            if is_end {
                return Ok(());
            }
        }
    }

    fn run(&self, queries: &[&str]) -> anyhow::Result<()> {
        let options = SearchOptions {
            k: self.args.k as usize,
            ef: self.args.ef as usize,
            threshold: self.args.threshold,
        };
        let vectors_qd = self.encoder.embed(queries, Side::Query);
        let results = self.catalogue.search(&vectors_qd, &options)?;
        for (query, results) in queries.iter().zip(&results) {
            if self.args.json {
                common::print_json(&Answer { query, results })?;
                continue;
            }
            let heading = match self.args.query {
                Some(_) => String::new(),
                None => format!("query='{}'\n", one_line(query)),
            };
            common::print_text(&(heading + &results.iter().map(result_line).collect::<String>()))?;
            if let (Some(threshold), []) = (self.args.threshold, &results[..]) {
                message!("note: no product's cosine with `{query}` reaches {threshold}");
            }
        }
        Ok(())
    }
}

fn result_line(found: &Found) -> String {
    let title = one_line(&found.product_title);
    format!("cosine_sim_score={:.2} product='{title}'\n", found.score)
}

/// A title of several lines would look like several results.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
