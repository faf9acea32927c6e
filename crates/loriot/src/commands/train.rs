//! `loriot train`: judged pairs to an adapter, or to a fully fine-tuned model.

use super::common::{self, LabelOptions, ModelOptions, RowOptions};
use super::output::check_no_input;
use super::train_display::{Display, print_report};
use crate::interrupt::{self, Interrupted};
use crate::memory;
use crate::message::message;
use crate::recipe;
use crate::report::UsageError;
use anyhow::Context;
use loriot_data::{LabelScale, Pair};
use loriot_encoder::Precision;
use loriot_encoder::adapter::{Adapter, Bias, EmptyName, Init, LoraConfig, Targets};
use loriot_encoder::encoder::{Encoder, TRAINING_MAX_LENGTH};
use loriot_encoder::folder::TrainedOn;
use loriot_encoder::train_model::Trained;
use loriot_train::loss::{LossName, Terms};
use loriot_train::{
    BestMetric, CheckpointEvery, Event, Job, RunFolder, ScheduleKind, Start, TokenPairs,
    TrainError, TrainSettings,
};
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::{Duration, Instant};

/// Training for so long without a checkpoint saves an interim one, which goes once there is a later one.
const INTERIM_EVERY: Duration = Duration::from_secs(600);

/// Train a LoRA adapter (or with `--full` every weight) on judged pairs
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  loriot train --model sentence-transformers/all-MiniLM-L6-v2 \\
    --train train.csv.gz --eval validation.csv.gz --output run
  loriot train --config train.toml --learning-rate 1e-4
  loriot train --config train.toml --resume

Ctrl-C saves the run before it ends (once more ends it at once), and so does every tenth minute without a
checkpoint, in `run/interim_...`, which goes when a later checkpoint is there.

A run that was resumed ends with the same bytes as one that was never interrupted.

The model after the last step stands in `run`, the one after the best epoch in `run/best`: give either to
`--adapter` of the other commands. The defaults are those of PEFT's guide to LoRA for semantic similarity.

Losses (--loss), for pairs with labels from 0 to 1:

  cosine-squared      the guide's: relevant pairs to 1, others to 0 or below
  cosine-similarity   the cosine is to be the label, which is a similarity
  contrastive         labels 0 or 1: others apart until their cosine is 0.5
  online-contrastive  the same, of the pairs of a step still wrongly ordered
  cosent              the order of all pairs of a step by label: for grades
  angle               the same by angles, which differ where cosines are near 1
  multiple-negatives-ranking
                      each pair labelled above 0.5 against all other products
                      of the step: for the search of a whole catalogue
  multiple-negatives-symmetric-ranking
                      the same, and each product against all other queries
  bce                 the label by the cosine, on a scale that is fitted to the
                      model first (BiXSE): for grades, and moves little else
  ranknet             the order of each query's products, by how sure it is
  graded-lists        both, and relevant products against those of other
                      queries, balanced by --loss-terms: for judged lists

Recipes (--recipe):

  search              judged lists of a shop's search, graded or not: whole
                      lists in a step, graded-lists, no dropout, a LoRA of
                      rank 16 on all linear layers, one pass

All but the first three and bce see a whole step (--batch-size times --gradient-accumulation-steps) at once, with the memory of one batch.")]
#[command(mut_arg("adapter", |arg| arg.help("Adapter to start from, instead of a fresh one")))]
#[command(mut_arg("max_length", |arg| arg.help(
    "Longest text in tokens, [CLS] and [SEP] counted; longer ones are cut [default: what the \
     adapter to start from says, else 70]"
)))]
pub struct TrainArgs {
    /// Options under one name, of which the command line can change any; see below
    #[arg(long, value_name = "NAME", value_parser = recipe::names())]
    recipe: Option<String>,
    #[command(flatten)]
    model: ModelOptions,
    /// Judged rows to train on: `.csv`, `.tsv`, `.jsonl`, `.json` (also gzipped) or
    /// `.parquet`; `-` is stdin
    #[arg(long, value_name = "FILE", num_args = 1.., required = true, help_heading = "Rows")]
    train: Vec<PathBuf>,
    /// Judged rows to evaluate on, before training and after each epoch; labels on the training rows'
    /// scale
    #[arg(long, value_name = "FILE", num_args = 1.., required = true, help_heading = "Rows")]
    eval: Vec<PathBuf>,
    #[command(flatten)]
    rows: RowOptions,
    #[command(flatten)]
    labels: LabelOptions,
    #[command(flatten)]
    trained: TrainedOptions,
    #[command(flatten)]
    schedule: StepOptions,
    #[command(flatten)]
    output: OutputOptions,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "What is trained")]
struct TrainedOptions {
    /// Train every weight instead of an adapter
    #[arg(long, conflicts_with_all = FRESH, conflicts_with_all = [
        "adapter", "peft_config", "lora_dropout", "loraplus_lr_ratio",
    ])]
    full: bool,
    /// All about the adapter as PEFT's `adapter_config.json` says it, instead of the options below; what
    /// cannot be honoured is refused by name
    #[arg(long, value_name = "FILE", conflicts_with = "adapter", conflicts_with_all = FRESH)]
    peft_config: Option<PathBuf>,
    /// Rank of the adapter
    #[arg(long, value_name = "R", default_value_t = 8, conflicts_with = "adapter")]
    rank: usize,
    /// Scale of the adapter: its output is multiplied by alpha / rank
    #[arg(long, value_name = "ALPHA", default_value_t = 16.0, conflicts_with = "adapter")]
    alpha: f64,
    /// Linear layers to adapt: names or their endings, a regular expression, or `all-linear`
    #[arg(
        long,
        value_name = "NAMES",
        default_value = "query,key,value",
        conflicts_with = "adapter"
    )]
    target: String,
    /// Linear layers among those of `--target` to leave out, in the same words
    #[arg(long, value_name = "NAMES", conflicts_with = "adapter")]
    exclude_modules: Option<String>,
    /// Adapt only the encoder layers of these numbers, from 0, such as `4,5` [default: all]
    #[arg(long, value_name = "N,…", value_delimiter = ',', conflicts_with = "adapter")]
    layers: Vec<usize>,
    /// Another rank for modules whose name ends in NAME or matches it; once for each
    #[arg(long, value_name = "NAME=R", conflicts_with = "adapter", value_parser = parse_entry::<usize>)]
    rank_pattern: Vec<(String, usize)>,
    /// Another alpha for modules whose name ends in NAME or matches it; once for each
    #[arg(long, value_name = "NAME=ALPHA", conflicts_with = "adapter", value_parser = parse_entry::<f64>)]
    alpha_pattern: Vec<(String, f64)>,
    /// Scale by alpha / √rank (rank-stabilised LoRA)
    #[arg(long, conflicts_with = "adapter")]
    rslora: bool,
    /// Train the length of each row of a weight apart from its direction (DoRA); steps take longer, and
    /// `--lora-dropout` is before the adapter alone
    #[arg(long, conflicts_with = "adapter")]
    dora: bool,
    /// How the adapter starts: `true` (random A, zero B), `gaussian` (the same by a normal distribution),
    /// `pissa` (the weights' largest singular values) or `olora` (their QR decomposition)
    #[arg(long, value_name = "NAME", default_value = "true", conflicts_with = "adapter")]
    init_lora_weights: Init,
    /// Biases trained with the adapter: `none`, `lora_only` (of adapted layers) or `all`
    #[arg(long, value_name = "WHICH", default_value = "none", conflicts_with = "adapter")]
    lora_bias: Bias,
    /// Modules trained and saved whole: LayerNorm, word_embeddings, position_embeddings,
    /// token_type_embeddings, or longer ends of their names
    #[arg(long, value_name = "NAME,…", value_delimiter = ',', conflicts_with = "adapter")]
    modules_to_save: Vec<String>,
    /// Dropout of hidden states, attention and adapter inputs
    /// [default: what the model's config.json says; 0 for the adapter]
    #[arg(long, value_name = "P")]
    dropout: Option<f32>,
    /// Dropout of adapter inputs alone [default: what `--peft-config` says, else that of `--dropout`, else 0]
    #[arg(long, value_name = "P")]
    lora_dropout: Option<f32>,
    /// Learning rate of the factors B as a multiple of that of A (LoRA+), such as 16 [default: the same]
    #[arg(long, value_name = "RATIO")]
    loraplus_lr_ratio: Option<f64>,
}

/// The options that describe a new adapter.
const FRESH: [&str; 12] = [
    "rank",
    "alpha",
    "target",
    "exclude_modules",
    "layers",
    "rank_pattern",
    "alpha_pattern",
    "rslora",
    "dora",
    "init_lora_weights",
    "lora_bias",
    "modules_to_save",
];

/// Parses `NAME=NUMBER`. A name may hold any other `=`.
fn parse_entry<T: FromStr>(text: &str) -> Result<(String, T), String> {
    let (name, number) = text.rsplit_once('=').filter(|(name, _)| !name.is_empty()).unzip();
    match (name, number.and_then(|number| number.parse().ok())) {
        (Some(name), Some(number)) => Ok((name.to_owned(), number)),
        _ => Err("expected a name, `=` and a number, such as `query=4`".into()),
    }
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Steps")]
struct StepOptions {
    /// What is minimised; see below
    #[arg(long, value_name = "NAME", default_value_t = LossName::CosineSquared)]
    loss: LossName,
    /// How long the gradients of the three terms of `graded-lists` are beside each other before training: grades, orders within
    /// lists, other lists' products [default: 1,1,1]
    #[arg(long, value_name = "P,R,N", value_parser = parse_terms)]
    loss_terms: Option<Terms>,
    /// Keep all rows of a query in one step
    #[arg(long)]
    by_query: bool,
    /// Train on the `grade` of each row instead of its label, which evaluations go by
    #[arg(long)]
    grades: bool,
    /// Passes over the training rows
    #[arg(long, value_name = "N", default_value_t = 3)]
    epochs: u64,
    /// Length of the run in steps, instead of `--epochs`
    #[arg(long, value_name = "N")]
    max_steps: Option<u64>,
    /// Pairs of a batch, whose activations are in memory at once
    #[arg(long, value_name = "N", default_value_t = 64)]
    batch_size: usize,
    /// Batches per step: their gradients are added, as if they were one larger batch
    #[arg(long, value_name = "N", default_value_t = 1)]
    gradient_accumulation_steps: usize,
    /// Texts encoded at once in evaluations
    #[arg(
        long,
        value_name = "N",
        default_value_t = 128,
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    eval_batch_size: u32,
    /// The highest learning rate
    #[arg(long, value_name = "RATE", default_value_t = 5e-4)]
    learning_rate: f64,
    /// How the rate changes over the run: linear, cosine, cosine_with_restarts, polynomial, constant or
    /// constant_with_warmup
    #[arg(long, value_name = "NAME", default_value_t = ScheduleKind::Linear)]
    schedule: ScheduleKind,
    /// Steps at the start in which the rate rises from 0
    #[arg(long, value_name = "N", default_value_t = 0)]
    warmup_steps: u64,
    /// Decoupled weight decay; above 0, Adam becomes AdamW
    #[arg(long, value_name = "W", default_value_t = 0.0)]
    weight_decay: f64,
    /// Scale gradients down to this norm [default: no limit]
    #[arg(long, value_name = "NORM")]
    max_grad_norm: Option<f64>,
    /// Keep the rows in the order of the files instead of shuffling them for each epoch
    #[arg(long)]
    no_shuffle: bool,
    /// Seed of the adapter's start, the shuffle and the dropout
    #[arg(long, value_name = "N", default_value_t = 42)]
    seed: u64,
    /// Arithmetic: `f32` or `bf16`. bf16 takes half of the weights' memory and is faster on processors
    /// that have it (AVX-512 BF16 or AMX). Only matrix products are in bf16; their sums, everything
    /// between them, the adapter, the optimiser and all that is saved are f32
    #[arg(
        long,
        value_name = "TYPE",
        default_value_t,
        value_parser = common::parse_training_precision
    )]
    precision: Precision,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Output")]
struct OutputOptions {
    /// Folder of the run
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// Rows with a label above T count as positive in evaluations; the loss uses the label itself
    #[arg(long, value_name = "T", default_value_t = 0.5, value_parser = common::parse_finite)]
    positive_threshold: f32,
    /// Metric that chooses the epoch kept in `best/`: roc_auc, roc_auc_per_query, average_precision, best_f1,
    /// best_accuracy, spearman or loss
    #[arg(long, value_name = "METRIC", default_value_t = BestMetric::RocAuc)]
    best_metric: BestMetric,
    /// Save a checkpoint after each `epoch`, or after every N steps
    #[arg(long, value_name = "epoch|N", default_value = "epoch")]
    checkpoint: CheckpointEvery,
    /// Keep only the N latest checkpoints [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    keep_checkpoints: Option<u32>,
    /// Go on from the latest checkpoint in `--output` (from the beginning if there is none yet), or from
    /// the one at PATH. A new `--output` takes a checkpoint from anywhere, with the log and the best model up
    /// to it. A finished run stays as it is
    #[arg(long, value_name = "PATH")]
    resume: Option<Option<PathBuf>>,
    /// Replace the run that `--output` holds; what the run did not write stays
    #[arg(long, conflicts_with = "resume")]
    overwrite: bool,
}

impl OutputOptions {
    fn start(&self) -> Start {
        match &self.resume {
            Some(None) => Start::Latest,
            Some(Some(path)) => Start::At(path.clone()),
            None if self.overwrite => Start::Overwrite,
            None => Start::New,
        }
    }
}

fn parse_terms(text: &str) -> Result<Terms, String> {
    let sizes: Result<Vec<f64>, _> = text.split(',').map(str::parse).collect();
    match sizes.as_deref() {
        Ok(&[pointwise, pairwise, negatives])
            if [pointwise, pairwise, negatives].iter().all(|size| (0.0..1e6).contains(size))
                && pointwise + pairwise + negatives > 0.0 =>
        {
            Ok(Terms { pointwise, pairwise, negatives })
        }
        _ => Err("expected three numbers from 0 up, not all 0, such as `1,1,0.3`".into()),
    }
}

/// Runs `loriot train`.
pub fn run_train(args: TrainArgs) -> anyhow::Result<()> {
    let begun = Instant::now();
    let folder = RunFolder::open(&args.output.output, &args.output.start())?;
    for replaced in folder.replaced()? {
        let config = crate::config_file::path();
        let rows = args.train.iter().chain(&args.eval).chain(&config).map(PathBuf::as_path);
        check_no_input(&replaced, rows.chain(args.model.paths()))?;
    }
    let is_finished = folder.finished().is_some();
    if args.output.resume.is_some() && folder.checkpoint().is_none() && !is_finished {
        let output = args.output.output.display();
        message!("note: `{output}` has no checkpoint yet; the run starts at the beginning");
    }
    let grade_scale = args.labels.label_scale;
    let train = args.rows.read_judged(&args.train, args.labels.label_scale, grade_scale)?;
    // One label means the same in both.
    let eval = args.rows.read_judged(&args.eval, Some(train.scale), grade_scale)?;
    let trained_on = TrainedOn {
        text_template: args.rows.text_template.as_ref().map(ToString::to_string),
        label_scale: train.scale.to_string(),
    };
    let (train, eval) = (train.pairs, eval.pairs);
    let (mut encoder, start) = open_model(&args)?;
    encoder.set_trained_on(trained_on);
    let fresh = fresh_adapter(&args.trained)?;
    let settings = settings(&args, &encoder, &fresh);
    settings.check()?;
    let trained = trained(&args, &encoder, start, fresh, &settings)?;

    let threshold = settings.positive_threshold;
    let n_positive = train.iter().filter(|pair| pair.relevance_label > threshold).count();
    if n_positive == 0 || n_positive == train.len() {
        let kind = if n_positive == 0 { "negative" } else { "positive" };
        message!("warning: every training row is {kind}; nothing can be told apart by them");
    }
    let scale = scale_of_grades(&args, &train)?;
    let job = Job {
        train: token_pairs(&encoder, &train, scale)?,
        eval: token_pairs(&encoder, &eval, scale)?,
        encoder,
        trained,
        settings,
        eval_batch_size: args.schedule.eval_batch_size as usize,
        folder,
        checkpoint: args.output.checkpoint,
        keep_checkpoints: args.output.keep_checkpoints.map(|keep| keep as usize),
        interim_every: INTERIM_EVERY,
        stop: interrupt::watch(),
    };
    drop((train, eval));
    if job.settings.loss.is_of_lists() {
        check_lists(&job.train)?;
    }
    let mut display = Display::default();
    let batch_bytes = batch_bytes(&job);
    let report = loriot_train::train(job, &mut |event| {
        if let Event::Started { n_parameters, .. } = event {
            warn_if_too_large(batch_bytes, n_parameters);
        }
        display.show(event);
    });
    display.finish();
    let duration = (!is_finished).then(|| begun.elapsed().as_secs_f64());
    let report = report.map_err(interrupted)?;
    let OutputOptions { output, best_metric, .. } = &args.output;
    if is_finished {
        let output = output.display();
        message!("note: the run in `{output}` is finished and stays as it is");
    }
    print_report(output, *best_metric, &report, duration, args.json)
}

/// The range of the training rows' grades where they are trained on: where that was asked for, and with a recipe where every
/// row has one.
fn scale_of_grades(args: &TrainArgs, train: &[Pair]) -> anyhow::Result<Option<LabelScale>> {
    let all_have_one = train.iter().all(|pair| pair.grade.is_some());
    if !args.schedule.grades && (args.recipe.is_none() || !all_have_one) {
        return Ok(None);
    }
    let grades = || train.iter().filter_map(|pair| pair.grade);
    let Some(scale) = LabelScale::of(grades()) else {
        let found = if grades().next().is_some() { "is the same in all" } else { "is in none" };
        return Err(UsageError::new(format!("a column `grade` {found} of the training rows"))
            .with_hint("without `--grades`, labels are trained on")
            .into());
    };
    let (low, high) = (scale.low(), scale.high());
    message!(
        "note: grades run from {low} to {high}: trained on as 0 to 1; labels decide evaluations"
    );
    Ok(Some(scale))
}

/// The rows of `pairs`, with their grades as what is trained on where these have a `scale`.
fn token_pairs(
    encoder: &Encoder,
    pairs: &[Pair],
    scale: Option<LabelScale>,
) -> anyhow::Result<TokenPairs> {
    let Some(scale) = scale else { return Ok(TokenPairs::new(encoder, pairs)) };
    let target = |pair: &Pair| match pair.grade {
        None => Err(UsageError::new(format!("line {}: the row has no grade", pair.line))
            .with_hint("without `--grades`, labels are trained on")),
        // One of an evaluation row beyond those of training is the nearest of them.
        Some(grade) => {
            Ok(scale.apply(grade.clamp(scale.low(), scale.high())).expect("it is in the range"))
        }
    };
    let targets = pairs.iter().map(target).collect::<Result<Vec<f32>, UsageError>>()?;
    Ok(TokenPairs::with_targets(encoder, pairs, &targets))
}

/// Says what lists the rows make, and refuses rows without a list to learn an order from.
fn check_lists(pairs: &TokenPairs) -> anyhow::Result<()> {
    let rows = &pairs.rows;
    let mut range_of: HashMap<u32, (f32, f32, usize)> = HashMap::new();
    for (row, &label) in rows.row_of_candidates().zip(rows.labels()) {
        let (low, high, n) = range_of.entry(rows.queries()[row]).or_insert((label, label, 0));
        (*low, *high, *n) = (low.min(label), high.max(label), *n + 1);
    }
    let n_lists = range_of.len();
    let n_graded = range_of.values().filter(|(low, high, _)| low < high).count();
    if n_graded == 0 {
        let alone = range_of.values().all(|&(_, _, n)| n == 1);
        let why = if alone { "each query has one product" } else { "no query has two labels" };
        return Err(UsageError::new(format!("there is no order to learn: {why}"))
            .with_hint("for pairs of a query and its product: `--loss multiple-negatives-ranking`")
            .into());
    }
    let mean = rows.labels().len() as f64 / n_lists as f64;
    message!(
        "judged lists: {n_lists} queries with {mean:.1} products on average, {n_graded} of them with \
         products of different grades"
    );
    Ok(())
}

/// What a batch of `job` keeps.
fn batch_bytes(job: &Job) -> u64 {
    let config = &job.encoder.folder().config;
    let shape = (config.hidden_size, config.intermediate_size, config.n_layers);
    memory::batch_bytes(&job.train, job.settings.batch_size, shape)
}

/// Warns of a batch of so many bytes that will not fit. A trained number has a gradient and two moments beside it.
fn warn_if_too_large(batch_bytes: u64, n_parameters: usize) {
    let needed = batch_bytes.saturating_add(12 * n_parameters as u64);
    if let Some(text) = memory::free_bytes().and_then(|free| memory::warning(needed, free)) {
        message!("warning: {text}");
    }
}

/// What the user is told of a run that ended early: for Ctrl-C, what was kept and how to go on.
fn interrupted(error: TrainError) -> anyhow::Error {
    let TrainError::Interrupted { step, checkpoint } = error else { return error.into() };
    let kept = match checkpoint {
        Some(dir) => format!("the run is kept in `{}`, after step {step}", dir.display()),
        None => "there was nothing to keep before the first evaluation".into(),
    };
    let go_on = format!("go on with `{}`", resume_command(std::env::args_os()));
    Interrupted { kept, go_on }.into()
}

/// The command line that goes on with the run that `arguments` began or went on with.
fn resume_command(arguments: impl Iterator<Item = OsString>) -> String {
    let mut arguments = arguments.peekable();
    let mut kept = Vec::new();
    while let Some(argument) = arguments.next() {
        match argument.to_str() {
            Some("--overwrite") => {}
            // A path may follow, of a checkpoint that the run has left behind by now.
            Some("--resume") => {
                let is_path = |next: &OsString| !next.as_encoded_bytes().starts_with(b"-");
                let _ = arguments.next_if(is_path);
            }
            _ if argument.as_encoded_bytes().starts_with(b"--resume=") => {}
            _ => kept.push(quoted(&argument)),
        }
    }
    kept.join(" ") + " --resume"
}

/// `word` as a shell reads it; what is not UTF-8 in the form that bash, zsh and ksh know.
fn quoted(word: &OsStr) -> String {
    let Some(text) = word.to_str() else {
        let escaped = word.as_encoded_bytes().iter().map(|&byte| match byte {
            b'\\' | b'\'' => format!("\\{}", char::from(byte)),
            b' '..=b'~' => char::from(byte).to_string(),
            _ => format!("\\x{byte:02x}"),
        });
        return format!("$'{}'", escaped.collect::<String>());
    };
    let is_plain = |c: char| c.is_alphanumeric() || "-_./=:,+@%".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// The base model, and the adapter to start from where one was given.
fn open_model(args: &TrainArgs) -> anyhow::Result<(Encoder, Option<Adapter>)> {
    let mut options = args.model.encoder_options(args.schedule.precision)?;
    if let Some(name) = options.adapter.take() {
        let (encoder, adapter) = common::open_apart(options, &name, Some(TRAINING_MAX_LENGTH))?;
        return Ok((encoder, Some(adapter)));
    }
    options.max_length = options.max_length.or(Some(TRAINING_MAX_LENGTH));
    Ok((common::open_encoder(&options)?, None))
}

/// A new adapter as the options, or a file of PEFT's, describe it.
fn fresh_adapter(options: &TrainedOptions) -> anyhow::Result<LoraConfig> {
    if let Some(path) = &options.peft_config {
        return Ok(LoraConfig::open_for_training(path)?);
    }
    let targets = |option, value: &str| -> Result<Targets, UsageError> {
        let parsed = value.parse();
        parsed
            .map_err(|problem: EmptyName| UsageError::new(format!("`{option} {value}` {problem}")))
    };
    let excluded = options.exclude_modules.as_deref();
    Ok(LoraConfig {
        r: options.rank,
        alpha: options.alpha,
        targets: targets("--target", &options.target)?,
        exclude: excluded.map(|names| targets("--exclude-modules", names)).transpose()?,
        layers: Some(options.layers.clone()).filter(|layers| !layers.is_empty()),
        rank_pattern: options.rank_pattern.clone(),
        alpha_pattern: options.alpha_pattern.clone(),
        use_rslora: options.rslora,
        use_dora: options.dora,
        init: options.init_lora_weights,
        bias: options.lora_bias,
        modules_to_save: options.modules_to_save.clone(),
        ..LoraConfig::default()
    })
}

fn settings(args: &TrainArgs, encoder: &Encoder, fresh: &LoraConfig) -> TrainSettings {
    let TrainedOptions { dropout, lora_dropout, loraplus_lr_ratio, .. } = args.trained;
    let from_file = args.trained.peft_config.as_ref().map(|_| fresh.dropout);
    let config = &encoder.folder().config;
    let steps = &args.schedule;
    TrainSettings {
        loss: steps.loss,
        loss_terms: steps.loss_terms,
        by_query: steps.by_query,
        epochs: steps.epochs,
        max_steps: steps.max_steps,
        batch_size: steps.batch_size,
        gradient_accumulation_steps: steps.gradient_accumulation_steps,
        learning_rate: steps.learning_rate,
        schedule: steps.schedule,
        warmup_steps: steps.warmup_steps,
        loraplus_lr_ratio,
        weight_decay: steps.weight_decay,
        max_grad_norm: steps.max_grad_norm,
        hidden_dropout: dropout.unwrap_or(config.hidden_dropout),
        attention_dropout: dropout.unwrap_or(config.attention_dropout),
        lora_dropout: lora_dropout.or(from_file).or(dropout).unwrap_or(0.0),
        shuffle: !steps.no_shuffle,
        seed: steps.seed,
        positive_threshold: args.output.positive_threshold,
        best_metric: args.output.best_metric,
    }
}

fn trained(
    args: &TrainArgs,
    encoder: &Encoder,
    start: Option<Adapter>,
    fresh: LoraConfig,
    settings: &TrainSettings,
) -> anyhow::Result<Trained> {
    if args.trained.full {
        return Ok(Trained::Full);
    }
    let mut adapter = match start {
        Some(adapter) => adapter,
        None => {
            let weights = encoder.weights().context("the base model keeps its weights")?;
            let config = &encoder.folder().config;
            Adapter::init(&fresh, config, weights, encoder.workers(), settings.seed)?
        }
    };
    adapter.config.base_model = Some(args.model.model.clone());
    adapter.config.dropout = settings.lora_dropout;
    Ok(Trained::Lora(adapter))
}

#[cfg(test)]
mod tests {
    use super::{parse_entry, resume_command};
    use std::ffi::OsString;

    #[test]
    fn an_entry_is_a_name_and_a_number() {
        assert_eq!(parse_entry(r"layer\.(1|2)=4"), Ok((r"layer\.(1|2)".to_owned(), 4)));
        assert_eq!(parse_entry("query=0.5"), Ok(("query".to_owned(), 0.5)));
        for wrong in ["query", "query=", "=4", "query=x"] {
            assert!(parse_entry::<usize>(wrong).is_err(), "{wrong}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_word_that_is_not_utf_8_is_told_as_shells_read_it() {
        use std::os::unix::ffi::OsStringExt;
        let words = [&b"loriot"[..], b"--output", b"it's \xff1", b"--resume=\xff", b"\xc3\xa4"];
        let words = words.map(|word| OsString::from_vec(word.to_vec()));
        let want = r"loriot --output $'it\'s \xff1' ä --resume";
        assert_eq!(resume_command(words.into_iter()), want);
    }

    #[test]
    fn the_command_that_goes_on_is_the_same_with_resume_alone() {
        let go_on = |line: &[&str]| resume_command(line.iter().map(OsString::from));
        let want = "loriot train --output 'my run' --query-prompt 'it'\\''s: ' --resume";
        let begun = ["loriot", "train", "--output", "my run", "--query-prompt", "it's: "];
        assert_eq!(go_on(&begun), want);
        assert_eq!(go_on(&[&begun[..], &["--overwrite"]].concat()), want);
        assert_eq!(go_on(&[&begun[..2], &["--resume", "run/step_4"], &begun[2..]].concat()), want);
        assert_eq!(go_on(&[&begun[..2], &["--resume"], &begun[2..]].concat()), want);
        assert_eq!(go_on(&[&begun[..], &["--resume=run/step_4"]].concat()), want);
    }
}
