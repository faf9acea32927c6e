//! `loriot embed`: a column of texts to a file of vectors.

use super::common::{self, ModelOptions, PrecisionOption, RowOptions};
use super::output::{check_no_input, exists_already};
use crate::interrupt;
use crate::message::message;
use crate::progress::{Progress, seconds};
use loriot_data::{Product, SpoolWriter, Text, read_texts};
use loriot_encoder::Side;
use loriot_encoder::encoder::Encoder;
use loriot_files::{OutputError, OutputLock};
use loriot_search::{
    EmbedError, EmbedEvent, Embedded, EncoderSide, Labels, Texts, VectorFormat,
    check_vectors_replaceable, embed_all, partial_dir, write_vectors,
};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Embed a column of texts as unit vectors
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  loriot embed --model all-MiniLM-L6-v2 --input products.csv --output titles.npy
  loriot embed --model run --input log.parquet --text-column query \\
    --as-queries --output q.parquet
  zcat t.txt.gz | loriot embed --model run --input - --format txt --output v.npy

Vectors come in the order of the rows, one for each; blank lines are no rows, and equal
texts are embedded once. An interrupted run (Ctrl-C) leaves `OUTPUT.partial` behind, and the
same command goes on from there.")]
pub struct EmbedArgs {
    #[command(flatten)]
    model: ModelOptions,
    /// Rows to embed: `.csv`, `.tsv`, `.jsonl`, `.json`, `.txt` (one text a line; all also gzipped) or
    /// `.parquet`; `-` is stdin
    #[arg(long, value_name = "FILE", num_args = 1.., required = true, help_heading = "Rows")]
    input: Vec<PathBuf>,
    /// Column to embed
    #[arg(long, value_name = "NAME", default_value = "product_title", help_heading = "Rows")]
    #[arg(conflicts_with = "text_template")]
    text_column: String,
    #[command(flatten)]
    rows: RowOptions,
    /// Put the query prompt before the texts instead of the product prompt
    #[arg(long, help_heading = "Rows")]
    as_queries: bool,
    #[command(flatten)]
    arithmetic: PrecisionOption,
    /// File to write: `.npy`, `.parquet` (with ids and texts) or `.safetensors`
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub output: PathBuf,
    /// Replace vectors of the same format in `--output`
    #[arg(long, help_heading = "Output")]
    overwrite: bool,
}

/// Runs `loriot embed`.
pub fn run_embed(args: EmbedArgs) -> anyhow::Result<()> {
    let begun = Instant::now();
    let format = VectorFormat::of_path(&args.output)?;
    let _lock = OutputLock::take(&args.output)?;
    if args.overwrite {
        let read = args.input.iter().map(PathBuf::as_path).chain(args.model.paths());
        check_no_input(&args.output, read)?;
        check_vectors_replaceable(&args.output, format)?;
    } else if args.output.exists() {
        return Err(exists_already(args.output));
    }
    let mut rows = read_texts(&args.input, &args.text_column, &args.rows.read_options()?)?;
    common::report_notes(&rows);
    let mut texts = SpoolWriter::beside(&args.output)?;
    for row in rows.by_ref() {
        let Text { id, text, line, file_idx } = row?;
        let text = Product { id, product_title: text, other: Vec::new(), line, file_idx };
        texts.push(&text).map_err(OutputError::io(&args.output))?;
    }
    common::report_skipped(rows.skipped());
    let texts = texts.finish().map_err(OutputError::io(&args.output))?;

    let options = args.model.encoder_options(args.arithmetic.precision)?;
    let encoder = common::open_encoder(&options)?;
    let side = if args.as_queries { Side::Query } else { Side::Product };
    if side == Side::Product {
        let template = args.rows.text_template.as_ref().map(ToString::to_string);
        common::warn_of_another_template(&encoder, template.as_deref());
    }
    let embedded = embed_with_progress(&encoder, side, &texts, &args.output)?;
    if !args.overwrite && args.output.exists() {
        return Err(OutputError::Exists { path: args.output }.into()); // Somebody was quicker.
    }
    let text_column = match args.rows.text_template {
        Some(_) => "text",
        None => args.text_column.as_str(),
    };
    let labels = Labels { text_column, rows: &texts };
    write_vectors(&args.output, format, &embedded, labels)?;
    let (n, dim) = (embedded.len(), embedded.dim());
    embedded.discard_partial()?;
    message!(
        "Embedded {n} texts as vectors of {dim} in {} to `{}`",
        seconds(begun.elapsed().as_secs_f64()),
        args.output.display()
    );
    Ok(())
}

/// Embeds `texts` for an output at `output`, with a progress bar, going on where an interrupted run
/// stopped, and stopping at Ctrl-C with what is done kept.
pub(super) fn embed_with_progress(
    encoder: &Encoder,
    side: Side,
    texts: &impl Texts,
    output: &Path,
) -> anyhow::Result<Embedded> {
    let partial = partial_dir(output);
    let mut progress: Option<Progress> = None;
    let begun = Instant::now();
    let (mut n_done, mut n_texts, mut n_tokens) = (0, 0, 0);
    let on_event = |event| match event {
        EmbedEvent::Begun { n_distinct } => {
            progress = Some(Progress::new("embedding", n_distinct as u64));
        }
        EmbedEvent::StartedOver => message!(
            "note: `{}` was left by another run (other texts, model or options); starting over",
            partial.display()
        ),
        EmbedEvent::Resumed { n_done: before } => {
            message!("Resuming: {before} texts were embedded by a run that was interrupted");
            n_done = before;
            if let Some(progress) = &mut progress {
                progress.start_at(before as u64);
            }
        }
        EmbedEvent::Embedded { n_texts: texts, n_tokens: tokens } => {
            n_done += texts;
            n_texts += texts;
            n_tokens += tokens;
            let elapsed = begun.elapsed().as_secs_f64().max(1e-9);
            let (texts, tokens) = (n_texts as f64 / elapsed, n_tokens as f64 / elapsed);
            if let Some(progress) = &mut progress {
                progress.set(n_done as u64, &format!("{texts:.0} texts/s  {tokens:.0} tokens/s"));
            }
        }
    };
    let stop = interrupt::watch();
    let embedded = embed_all(&EncoderSide { encoder, side }, texts, &partial, stop, on_event);
    if let Some(progress) = progress {
        progress.finish();
    }
    embedded.map_err(|error| match error {
        EmbedError::Stopped { n_done, n_distinct, partial } => interrupt::Interrupted {
            kept: format!("`{}` keeps {n_done} of {n_distinct} texts", partial.display()),
            go_on: "give the same command again to go on from there".into(),
        }
        .into(),
        error => error.into(),
    })
}
