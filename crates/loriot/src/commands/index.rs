//! `loriot index`: products to a catalogue that can be searched.

use super::common::{self, ModelOptions, PrecisionOption, RowOptions};
use super::embed::embed_with_progress;
use super::output::{check_no_input, exists_already};
use crate::interrupt;
use crate::memory;
use crate::message::message;
use crate::progress::{Progress, seconds};
use loriot_data::{
    ColumnName, Conflict, Deduplicate, Product, ProductTexts, Rows, Spool, SpoolWriter,
    read_products,
};
use loriot_encoder::Side;
use loriot_files::{OutputError, OutputLock, is_absent};
use loriot_index::HnswConfig;
use loriot_search::build::{BuildError, EXACT_UP_TO, IndexChoice, LOW_RECALL};
use loriot_search::{
    BuildEvent, BuildOptions, EncoderRecord, IndexKind, Manifest, Products, Templated,
    build_catalogue, check_replaceable,
};
use serde_json::json;
use std::borrow::Cow;
use std::collections::HashMap;
use std::io;
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

A product is indexed once: by its `id`, or by its text where it has none. Other columns are kept,
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
    #[arg(long, value_name = "DIR", help_heading = "Output")]
    pub output: PathBuf,
    /// Replace a catalogue in `--output`
    #[arg(long, help_heading = "Output")]
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
    #[arg(long, help_heading = "Output")]
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
        return Err(exists_already(args.output));
    }
    if let Some(theirs) = args.text_column.take() {
        args.rows.columns.push(ColumnName { ours: "product_title", theirs });
    }
    let Read { products, template, n_repeated, n_conflicts } = read_catalogue(&args)?;

    let encoder_options = args.model.encoder_options(args.arithmetic.precision)?;
    let encoder = common::open_encoder(&encoder_options)?;
    let source = args.rows.text_template.as_ref().map(ToString::to_string);
    common::warn_of_another_template(&encoder, source.as_deref());
    let kind = match args.kind {
        Kind::Auto => IndexChoice::Auto,
        Kind::Exact => IndexChoice::Exact,
        Kind::Hnsw => IndexChoice::Hnsw,
    };
    if kind.is_graph(products.rows.len())
        && let Some(free) = memory::free_bytes()
        && let (n, m) = (products.rows.len(), args.connectivity.into())
        && let Some(text) = memory::graph_warning(n, encoder.dim(), m, free)
    {
        message!("warning: {text}");
    }
    let embedded = match &template {
        Some(template) => {
            let texts = Templated { products: &products.rows, template };
            embed_with_progress(&encoder, Side::Product, &texts, &args.output)?
        }
        None => embed_with_progress(&encoder, Side::Product, &products.rows, &args.output)?,
    };
    let options = BuildOptions {
        index: kind,
        hnsw: HnswConfig {
            connectivity: args.connectivity.into(),
            ef_construction: args.ef_construction.into(),
        },
        overwrite: args.overwrite,
        n_threads: args.model.reading.n_threads(),
        isa: encoder.isa(),
    };
    let record = EncoderRecord::new(&encoder, &encoder_options).with_text_template(source);
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
    /// What makes the texts that they are embedded by, where it is not the title.
    template: Option<ProductTexts>,
    /// How many were left out for being there already.
    n_repeated: u64,
    /// How many of these had another text than the one that is kept.
    n_conflicts: u64,
}

fn read_catalogue(args: &IndexArgs) -> anyhow::Result<Read> {
    let options = args.rows.read_options()?;
    let mut rows = read_products(&args.input, &options)?;
    common::report_notes(&rows);
    let template_for = |columns: &[String]| {
        let template = args.rows.text_template.as_ref()?;
        Some(template.of_products(&options.columns, columns))
    };
    let mut once = Deduplicate::new();
    let mut kept = SpoolWriter::beside(&args.output)?;
    let (mut template, mut n_columns, mut n_empty) = (template_for(rows.other_columns()), 0, 0);
    while let Some(product) = rows.next() {
        let product = product?;
        // A later line of jsonl may bring a new column.
        if rows.other_columns().len() != n_columns {
            n_columns = rows.other_columns().len();
            template = template_for(rows.other_columns());
        }
        let text = text_of(template.as_ref(), &product);
        if once.is_first(&product, &text) {
            n_empty += usize::from(text.is_empty());
            kept.push(&product).map_err(OutputError::io(&args.output))?;
        }
    }
    common::report_skipped(rows.skipped());
    let products = Products {
        rows: kept.finish().map_err(OutputError::io(&args.output))?,
        other_columns: rows.other_columns().to_vec(),
    };
    report_conflicts(&once, &products.rows, template.as_ref(), &rows)
        .map_err(OutputError::io(&args.output))?;
    if let Some(template) = args.rows.text_template.as_ref().filter(|_| n_empty > 0) {
        message!("warning: products without a value in any column of `{template}`: {n_empty}");
    }
    let (n_repeated, n_conflicts) = (once.n_dropped(), once.n_conflicts());
    Ok(Read { products, template, n_repeated, n_conflicts })
}

/// What `product` is embedded by.
fn text_of<'a>(template: Option<&ProductTexts>, product: &'a Product) -> Cow<'a, str> {
    match template {
        Some(template) => Cow::Owned(template.text(product)),
        None => Cow::Borrowed(&product.product_title),
    }
}

/// Tells the user which products were left out although their texts are new.
fn report_conflicts(
    once: &Deduplicate,
    kept: &Spool,
    template: Option<&ProductTexts>,
    rows: &Rows<Product>,
) -> io::Result<()> {
    if once.n_conflicts() == 0 {
        return Ok(());
    }
    message!(
        "warning: products left out because their id came before, with another {}: {}; the first \
         of them:",
        if template.is_some() { "text" } else { "title" },
        once.n_conflicts()
    );
    let last = once.conflicts().iter().map(|conflict| conflict.kept).max().unwrap_or_default();
    let mut kept_of = HashMap::new();
    for (place, product) in kept.products().take(last + 1).enumerate() {
        let product = product?;
        if once.conflicts().iter().any(|conflict| conflict.kept == place) {
            kept_of.insert(place, product);
        }
    }
    for Conflict { id, kept, dropped_text, dropped_at: (file_idx, line) } in once.conflicts() {
        let kept = &kept_of[kept];
        message!(
            "  {}: id `{}` is `{}`; kept is `{}` of {}",
            rows.place(*file_idx, *line),
            shortened(id),
            shortened(dropped_text),
            shortened(&text_of(template, kept)),
            rows.place(kept.file_idx, kept.line)
        );
    }
    Ok(())
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
