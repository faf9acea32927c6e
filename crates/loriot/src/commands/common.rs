//! Options and output that several commands share.

use crate::memory;
use crate::message::message;
use crate::report::StdoutError;
use crate::visible;
use anyhow::Context;
use clap::Args;
use loriot_data::{
    ColumnName, Columns, Format, Judged, LabelScale, ReadOptions, Rows, SkippedRows, TextTemplate,
    read_judged,
};
use loriot_encoder::Precision;
use loriot_encoder::adapter::Adapter;
use loriot_encoder::encoder::{Encoder, EncoderOptions};
use loriot_encoder::folder::{ModelFolder, Settings};
use loriot_encoder::hub;
use loriot_kernels::Isa;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Which encoder, and how it reads text.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Model")]
pub struct ModelOptions {
    /// Base model: a folder as saved by transformers or Sentence Transformers, or a Hub id
    #[arg(long, value_name = "DIR|HUB_ID")]
    pub model: String,
    /// LoRA adapter in PEFT's format: a folder or a Hub id
    #[arg(long, value_name = "DIR|HUB_ID")]
    pub adapter: Option<String>,
    #[command(flatten)]
    pub reading: ReadingOptions,
}

/// How texts are read, whichever the encoder is.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Model")]
pub struct ReadingOptions {
    /// Longest text in tokens, `[CLS]` and `[SEP]` counted; longer ones are cut
    /// [default: what the adapter or the model says]
    #[arg(long, value_name = "N")]
    pub max_length: Option<usize>,
    /// Text to put before every query, such as `query: ` for e5 [default: what the adapter or model says]
    #[arg(long, value_name = "TEXT")]
    pub query_prompt: Option<String>,
    /// Text to put before every product, such as `passage: ` [default: what the adapter or model says]
    #[arg(long, value_name = "TEXT")]
    pub document_prompt: Option<String>,
    /// Threads to compute with; the result has the same bits for any number
    /// [default: all cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
}

/// Arithmetic of the commands that embed without training.
#[derive(Clone, Copy, Debug, Args)]
#[command(next_help_heading = "Model")]
pub struct PrecisionOption {
    /// Arithmetic of the encoder: `f32`, `bf16` or `int8`. bf16 takes half of the weights' memory and
    /// int8 a quarter; both are faster on processors that have them (AVX-512 BF16 and VNNI, or AMX).
    /// Of 100 titles, 99 have a cosine of at least 0.9999 (bf16) or 0.99 (int8) with their f32 vectors:
    /// a catalogue indexed in one arithmetic can be searched in another
    #[arg(long, value_name = "TYPE", default_value_t, value_parser = parse_precision)]
    pub precision: Precision,
}

impl ReadingOptions {
    /// The number of threads asked for, or as many as the machine lets us have.
    pub fn n_threads(&self) -> usize {
        let available = || std::thread::available_parallelism().map_or(1, usize::from);
        self.threads.map_or_else(available, usize::from)
    }
}

impl ModelOptions {
    /// Model and adapter as paths, which they are unless they are Hub ids.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        [Some(&self.model), self.adapter.as_ref()].into_iter().flatten().map(Path::new)
    }

    /// These options as the encoder takes them, with the instruction set of this machine.
    pub fn encoder_options(&self, precision: Precision) -> anyhow::Result<EncoderOptions> {
        encoder_options(&self.model, self.adapter.as_deref(), &self.reading, precision)
    }
}

/// The options of an encoder that was named in another way than by [`ModelOptions`].
pub fn encoder_options(
    model: &str,
    adapter: Option<&str>,
    reading: &ReadingOptions,
    precision: Precision,
) -> anyhow::Result<EncoderOptions> {
    Ok(EncoderOptions {
        model: model.to_owned(),
        adapter: adapter.map(str::to_owned),
        strength: None,
        max_length: reading.max_length,
        query_prompt: reading.query_prompt.clone(),
        document_prompt: reading.document_prompt.clone(),
        threads: reading.n_threads(),
        isa: Isa::from_env()?,
        precision,
    })
}

/// Opens an encoder, and prints its notes: what its files did not say and was assumed.
pub fn open_encoder(options: &EncoderOptions) -> anyhow::Result<Encoder> {
    // Whatever is wrong with the folder is told when it is opened.
    let folder = hub::resolve(&options.model).ok().and_then(|dir| ModelFolder::open(&dir).ok());
    if let (Some(folder), Some(free)) = (folder, memory::free_bytes())
        && let Some(text) = memory::model_warning(&folder.config, options.precision, free)
    {
        message!("warning: {text}");
    }
    let encoder = Encoder::open(options)
        .with_context(|| format!("cannot open the encoder `{}`", options.model))?;
    for note in encoder.notes() {
        message!("note: {note}");
    }
    Ok(encoder)
}

/// Warns where products' texts are made by another `template` (of one column, where there is none) than in training.
pub fn warn_of_another_template(encoder: &Encoder, template: Option<&str>) {
    let Some(trained) = encoder.trained_on().filter(|on| on.text_template.as_deref() != template)
    else {
        return;
    };
    let said = |template: Option<&str>| match template {
        Some(template) => format!("of the template `{template}`"),
        None => "of one column".to_owned(),
    };
    message!(
        "warning: the model was trained on products' texts {}, and these are {}: see `--text-template`",
        said(trained.text_template.as_deref()),
        said(template)
    );
}

/// Opens the base model and the adapter apart, the base reading texts as the adapter was trained to:
/// by the options, else by the adapter's `loriot.json`, else (the length) by `default_max_length`.
pub fn open_apart(
    options: EncoderOptions,
    adapter_name: &str,
    default_max_length: Option<usize>,
) -> anyhow::Result<(Encoder, Adapter)> {
    let dir = hub::resolve_adapter(adapter_name)?;
    let trained = Settings::open(&dir)?;
    let said = trained.as_ref();
    let encoder = open_encoder(&EncoderOptions {
        adapter: None,
        max_length: options.max_length.or(said.map(|s| s.max_length)).or(default_max_length),
        query_prompt: options.query_prompt.or(said.map(|s| s.query_prompt.clone())),
        document_prompt: options.document_prompt.or(said.map(|s| s.document_prompt.clone())),
        ..options
    })?;
    if let Some(trained) = trained {
        trained.check(adapter_name, encoder.base())?;
    }
    let adapter = Adapter::open(&dir, &encoder.folder().config)
        .with_context(|| format!("cannot open the adapter `{adapter_name}`"))?;
    adapter.notes.iter().for_each(|note| message!("note: {note}"));
    Ok((encoder, adapter))
}

/// How rows are read.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Rows")]
pub struct RowOptions {
    /// The file's own name for a column, such as `product_title=name`. Give it once for each of
    /// query, product_title, relevance_label, id and grade that has another name in the file
    #[arg(long = "column", value_name = "NAME=FILE_NAME")]
    pub columns: Vec<ColumnName>,
    /// Text of a product made of several columns, such as `{product_title} {brand}`: our names of
    /// columns or the file's. A value that is missing gives nothing; `{{` and `}}` are braces
    #[arg(long, value_name = "TEMPLATE")]
    pub text_template: Option<TextTemplate>,
    /// What the files are, whatever their names say: csv, tsv, jsonl, json, txt or parquet. Without
    /// it stdin (`-`) is told by its first byte: `{` jsonl, `[` json, else csv
    #[arg(long, value_name = "NAME")]
    pub format: Option<Format>,
    /// Leave out rows that cannot be read, and count them, instead of stopping at the first
    #[arg(long)]
    pub skip_bad_rows: bool,
}

/// How labels of judged rows are read.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Rows")]
pub struct LabelOptions {
    /// Lowest and highest label, such as `1:3`: labels, and grades, are read as 0 to 1. Without it
    /// labels are 0 to 1, or E, S, C and I of ESCI (1, 0.1, 0.01 and 0); if they plainly run over
    /// another range from 0 up, that is taken and said
    #[arg(long, value_name = "LOW:HIGH", allow_hyphen_values = true)]
    pub label_scale: Option<LabelScale>,
}

impl RowOptions {
    /// These options as the readers take them.
    pub fn read_options(&self) -> anyhow::Result<ReadOptions> {
        Ok(ReadOptions {
            columns: Columns::new(self.columns.iter().cloned())?,
            skip_bad_rows: self.skip_bad_rows,
            text_template: self.text_template.clone(),
            format: self.format,
            ..ReadOptions::default()
        })
    }

    /// All judged rows of `paths`, after telling the user what was assumed and what was left out.
    pub fn read_judged(
        &self,
        paths: &[PathBuf],
        label_scale: Option<LabelScale>,
        grade_scale: Option<LabelScale>,
    ) -> anyhow::Result<Judged> {
        let options = ReadOptions { label_scale, grade_scale, ..self.read_options()? };
        let judged = read_judged(paths, &options)?;
        judged.notes.iter().for_each(|note| message!("note: {note}"));
        if judged.is_found {
            let (low, high) = (judged.scale.low(), judged.scale.high());
            message!(
                "note: labels run from {low} to {high}: read as 0 to 1 (`--label-scale {low}:{high}`)"
            );
        }
        report_skipped(&judged.skipped);
        Ok(judged)
    }
}

/// Tells the user what was assumed about the files.
pub fn report_notes<T>(rows: &Rows<T>) {
    rows.notes().iter().for_each(|note| message!("note: {note}"));
}

/// Parses a threshold, which NaN or infinity cannot be.
pub fn parse_finite(text: &str) -> Result<f32, String> {
    let value = text.parse().ok().filter(|value: &f32| value.is_finite());
    value.ok_or_else(|| "expected a finite number".into())
}

/// Parses a strength, which NaN or infinity cannot be.
pub fn parse_strength(text: &str) -> Result<f64, String> {
    let value = text.parse().ok().filter(|value: &f64| value.is_finite());
    value.ok_or_else(|| "expected a finite number, 1 for the adapter as it is".into())
}

/// Parses the `--precision` of a command that only embeds.
pub fn parse_precision(text: &str) -> Result<Precision, String> {
    let wanted = Precision::ALL.into_iter().find(|precision| precision.name() == text);
    wanted.ok_or_else(|| "expected one of: f32, bf16, int8".into())
}

/// Parses the `--precision` of training.
pub fn parse_training_precision(text: &str) -> Result<Precision, String> {
    match parse_precision(text) {
        Ok(Precision::Int8) => {
            Err("int8 has no gradients; train in bf16 or f32, and embed in int8".into())
        }
        Ok(precision) => Ok(precision),
        Err(_) => Err("expected `f32` or `bf16`".into()),
    }
}

/// Tells the user which rows were left out, if any.
pub fn report_skipped(skipped: &SkippedRows) {
    if skipped.count == 0 {
        return;
    }
    message!("warning: rows left out: {}; the first of them:", skipped.count);
    for message in &skipped.first {
        message!("  {message}");
    }
}

/// Writes `text` to stdout as it is. A closed pipe is an error that [`crate::report`] forgives.
pub fn print_text(text: &str) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    let written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    Ok(written.map_err(StdoutError)?)
}

/// Writes `value` to stdout as one line of JSON.
pub fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    print_text(&(visible::json(serde_json::to_string(value)?) + "\n"))
}
