//! `loriot index`: products to a catalogue that can be searched.

use super::common::{self, ModelOptions, PrecisionOption, RowOptions};
use super::embed::embed_with_progress;
use super::output::check_no_input;
use crate::interrupt;
use crate::message::message;
use crate::progress::{Progress, seconds};
use loriot_data::{ColumnName, Conflict, Deduplicate, read_products};
use loriot_encoder::Side;
use loriot_files::{OutputError, OutputLock, is_absent};
use loriot_index::HnswConfig;
use loriot_search::build::{BuildError, EXACT_UP_TO, IndexChoice, LOW_RECALL};
use loriot_search::{
    BuildEvent, BuildOptions, EncoderRecord, IndexKind, Manifest, Products, build_catalogue,
    check_replaceable,
};
use serde_json::json;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Embed a catalogue and build a search index from it
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  loriot index --model all-MiniLM-L6-v2 --input products.csv --output shop
  loriot index --model all-MiniLM-L6-v2 --adapter run/best \\
    --input a.parquet b.parquet --output shop

A product is indexed once: by its `id`, or by its title where it has none. Other columns are kept,
with their types, and shown by `loriot search --json`. An interrupted run (Ctrl-C) leaves
`OUTPUT.partial` behind, and the same command goes on from there.")]
pub struct IndexArgs {
    #[command(flatten)]
    model: ModelOptions,
    /// Products to index: `.csv`, `.tsv`, `.jsonl`, `.json`, `.txt` (one title a line; all also gzipped)
    /// or `.parquet`; `-` is stdin
    #[arg(long, value_name = "FILE", num_args = 1.., required = true, help_heading = "Rows")]
    input: Vec<PathBuf>,
    /// Column to show and to embed; the same as `--column product_title=NAME`. With
    /// `--text-template` the template's text is embedded and this column shown
    #[arg(long, value_name = "NAME", help_heading = "Rows")]
    text_column: Option<String>,
    #[command(flatten)]
    rows: RowOptions,
    #[command(flatten)]
    arithmetic: PrecisionOption,
    /// Folder to write the catalogue to
    #[arg(long, value_name = "DIR")]
    pub output: PathBuf,
    /// Replace a catalogue in `--output`
    #[arg(long)]
    overwrite: bool,
    /// How the catalogue is searched: `exact` compares a query with every product, `hnsw` follows a
    /// graph to a few; `auto` builds a graph above 20,000 products
    #[arg(long, value_enum, default_value_t = Kind::Auto, help_heading = "Index")]
    kind: Kind,
    /// Neighbours kept per vector (HNSW's M): more finds more, and makes the index larger
    #[arg(long, value_name = "N", default_value_t = 100, help_heading = "Index")]
    #[arg(value_parser = clap::value_parser!(u16).range(2..=1024))]
    connectivity: u16,
    /// Candidates compared for each vector inserted: more gives a better graph and takes longer
    #[arg(long, value_name = "N", default_value_t = 200, help_heading = "Index")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..))]
    ef_construction: u16,
    /// Print one JSON object about what was built
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Kind {
    Auto,
    Exact,
    Hnsw,
}

/// Runs `loriot index`.
pub fn run_index(mut args: IndexArgs) -> anyhow::Result<()> {
    let begun = Instant::now();
    let _lock = OutputLock::take(&args.output)?;
    if args.overwrite {
        let read = args.input.iter().map(PathBuf::as_path).chain(args.model.paths());
        check_no_input(&args.output, read)?;
        check_replaceable(&args.output)?;
    } else if !is_absent(&args.output) {
        return Err(OutputError::Exists { path: args.output }.into());
    }
    if let Some(theirs) = args.text_column.take() {
        args.rows.columns.push(ColumnName { ours: "product_title", theirs });
    }
    let Read { products, n_repeated, n_conflicts } = read_catalogue(&args)?;
    let templated = templated_texts(&args, &products)?;
    let titles: Vec<&str> = match &templated {
        Some(texts) => texts.iter().map(String::as_str).collect(),
        None => products.rows.iter().map(|row| row.product_title.as_str()).collect(),
    };

    let encoder_options = args.model.encoder_options(args.arithmetic.precision)?;
    let encoder = common::open_encoder(&encoder_options)?;
    let embedded = embed_with_progress(&encoder, Side::Product, &titles, &args.output)?;
    let options = BuildOptions {
        index: match args.kind {
            Kind::Auto => IndexChoice::Auto,
            Kind::Exact => IndexChoice::Exact,
            Kind::Hnsw => IndexChoice::Hnsw,
        },
        hnsw: HnswConfig {
            connectivity: args.connectivity.into(),
            ef_construction: args.ef_construction.into(),
        },
        overwrite: args.overwrite,
        n_threads: args.model.reading.n_threads(),
        isa: encoder.isa(),
    };
    let template = args.rows.text_template.as_ref().map(ToString::to_string);
    let record = EncoderRecord::new(&encoder, &encoder_options).with_text_template(template);
    let graph = GraphProgress::default();
    let on_event = |event| graph.tell(event);
    let stop = interrupt::watch();
    let built =
        build_catalogue(&args.output, &products, &embedded, record, &options, stop, on_event);
    graph.finish();
    let manifest = built.map_err(|error| match error {
        BuildError::Stopped { partial } => anyhow::Error::new(interrupt::Interrupted {
            kept: format!("`{}` keeps all {} texts", partial.display(), embedded.n_distinct()),
            go_on: "give the same command again: only the graph is left to build".into(),
        }),
        error => error.into(),
    })?;
    embedded.discard_partial()?;

    let took = begun.elapsed().as_secs_f64();
    message!(
        "Indexed {} products ({n_repeated} repeated ones left out) in {} to `{}`: {}, {:.1} MB",
        manifest.n_products,
        seconds(took),
        args.output.display(),
        described(&manifest),
        manifest.size_bytes() as f64 / 1e6
    );
    if let Some(warning) = low_recall(&manifest.index) {
        message!("{warning}");
    }
    if args.json {
        common::print_json(&json!({
            "output": args.output,
            "n_products": manifest.n_products,
            "n_repeated": n_repeated,
            "n_repeated_with_another_title": n_conflicts,
            "dim": manifest.dim,
            "precision": manifest.encoder.precision,
            "index": manifest.index,
            "size_bytes": manifest.size_bytes(),
            "seconds": took,
        }))?;
    }
    Ok(())
}

/// What was read.
struct Read {
    /// The products of all files, each once.
    products: Products,
    /// How many were left out for being there already.
    n_repeated: u64,
    /// How many of these had another title than the one that is kept.
    n_conflicts: u64,
}

fn read_catalogue(args: &IndexArgs) -> anyhow::Result<Read> {
    let mut rows = read_products(&args.input, &args.rows.read_options()?)?;
    common::report_notes(&rows);
    let mut once = Deduplicate::new();
    for product in rows.by_ref() {
        once.push(product?);
    }
    common::report_skipped(rows.skipped());
    report_conflicts(&once, &args.input);
    let (n_repeated, n_conflicts) = (once.n_dropped(), once.n_conflicts());
    let products = Products {
        rows: once.into_products(),
        // Known only now: a later line of jsonl may have brought a new column.
        other_columns: rows.other_columns().to_vec(),
    };
    Ok(Read { products, n_repeated, n_conflicts })
}

/// Tells the user which products were left out although their titles are new.
fn report_conflicts(once: &Deduplicate, files: &[PathBuf]) {
    if once.n_conflicts() == 0 {
        return;
    }
    message!(
        "warning: products left out because their id came before, with another title: {}; the \
         first of them:",
        once.n_conflicts()
    );
    let at = |(file, line): (usize, u64)| {
        let is_parquet = files[file].extension().is_some_and(|ending| ending == "parquet");
        let unit = if is_parquet { "row" } else { "line" };
        format!("`{}` {unit} {line}", files[file].display())
    };
    for Conflict { id, kept_title, kept_at, dropped_title, dropped_at } in once.conflicts() {
        message!(
            "  {}: id `{}` is `{}`; kept is `{}` of {}",
            at(*dropped_at),
            shortened(id),
            shortened(dropped_title),
            shortened(kept_title),
            at(*kept_at)
        );
    }
}

/// The first 60 characters, on one line.
fn shortened(text: &str) -> String {
    let visible = |c: char| if c.is_control() { ' ' } else { c };
    let mut short: String = text.chars().take(60).map(visible).collect();
    if text.chars().nth(60).is_some() {
        short.push('…');
    }
    short
}

/// The texts that products are embedded by, where a template makes them.
fn templated_texts(args: &IndexArgs, products: &Products) -> anyhow::Result<Option<Vec<String>>> {
    let Some(template) = &args.rows.text_template else { return Ok(None) };
    let columns = args.rows.read_options()?.columns;
    let of = template.of_products(&columns, &products.other_columns);
    let texts: Vec<String> = products.rows.iter().map(|product| of.text(product)).collect();
    let n_empty = texts.iter().filter(|text| text.is_empty()).count();
    if n_empty > 0 {
        message!("warning: products without a value in any column of `{template}`: {n_empty}");
    }
    Ok(Some(texts))
}

fn described(manifest: &Manifest) -> String {
    match manifest.index {
        IndexKind::Exact => format!("exact search (graphs begin above {EXACT_UP_TO})"),
        IndexKind::Hnsw { recall_at_10: Some(recall), .. } => {
            format!("HNSW, recall@10 {recall:.4} at ef 100 over a sample of the products")
        }
        IndexKind::Hnsw { recall_at_10: None, .. } => "HNSW".into(),
    }
}

/// A warning and a remedy, if searches of the graph miss much.
fn low_recall(index: &IndexKind) -> Option<String> {
    let IndexKind::Hnsw { recall_at_10: Some(recall), .. } = *index else { return None };
    (recall < LOW_RECALL).then(|| {
        format!(
            "warning: a search finds only {:.0} % of the 10 nearest products; index again with a larger \
             `--ef-construction` or `--connectivity`, or with `--kind exact`, or search with a larger \
             `--ef` than 100",
            (100.0 * recall).floor()
        )
    })
}

/// A bar for the insertions, which come from several threads.
#[derive(Default)]
struct GraphProgress(Mutex<Option<Progress>>);

impl GraphProgress {
    fn tell(&self, event: BuildEvent) {
        let mut progress = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            BuildEvent::GraphBegun { n_vectors } => {
                *progress = Some(Progress::new("indexing", n_vectors as u64));
            }
            BuildEvent::Inserted => {
                if let Some(progress) = &mut *progress {
                    progress.add(1);
                }
            }
            BuildEvent::GraphBuilt => {
                drop(progress);
                self.finish();
            }
        }
    }

    /// Takes the bar away, if there is one.
    fn finish(&self) {
        let mut progress = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(progress) = progress.take() {
            progress.finish();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_graph_that_misses_much_is_warned_of_with_a_remedy() {
        let graph = |recall| IndexKind::hnsw(HnswConfig::default(), recall);
        let said = low_recall(&graph(Some(0.8999))).unwrap();
        assert!(said.starts_with("warning: a search finds only 89 % "), "{said}");
        for remedy in ["--ef-construction", "--connectivity", "--kind exact", "--ef`"] {
            assert!(said.contains(remedy), "{said}");
        }
        for index in [graph(Some(0.9)), graph(Some(1.0)), graph(None), IndexKind::Exact] {
            assert_eq!(low_recall(&index), None);
        }
    }
}
