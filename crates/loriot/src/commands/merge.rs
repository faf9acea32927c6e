//! `loriot merge`: an adapter folded into its base model as a folder of its own, several made one, or one taken out again.

use super::common::{self, ReadingOptions};
use super::merged_folder;
use super::output::check_no_input;
use crate::message::message;
use crate::report::UsageError;
use anyhow::{Context, ensure};
use loriot_encoder::adapter::{Adapter, Combination};
use loriot_encoder::batch::Side;
use loriot_encoder::encoder::{Encoder, EncoderOptions};
use loriot_encoder::folder::Settings;
use loriot_encoder::train_model::{TrainModel, Trained};
use loriot_encoder::{DropoutRates, Precision, hub};
use loriot_files::{NewDir, OutputLock};
use std::path::{Path, PathBuf};

/// Largest difference of an element of a unit vector that rounding explains.
const TOLERANCE: f32 = 1e-4;

/// Fold an adapter into its base model and write a model folder
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  loriot merge --model sentence-transformers/all-MiniLM-L6-v2 \\
    --adapter run/best --output merged
  loriot merge --model BASE --adapter A --adapter B --weights 0.7,0.3 \\
    --adapter-only --output both
  loriot merge --model merged --adapter run/best --unmerge --output base

The folder opens in Sentence Transformers, in transformers and as `--model` here. Before it gets its
name, a set of texts is embedded with it and with base and adapter apart; the largest difference is
printed.

Several adapters are combined as PEFT's `add_weighted_adapter` does it:

  cat     the weighted sum of what they change; the ranks add up
  svd     that sum cut to its largest singular values: the largest of the
          adapters' ranks, or `--rank`
  linear  the factors are added, which must have equal ranks; not the sum of
          what the adapters change")]
pub struct MergeArgs {
    /// Base model: a folder as saved by transformers or Sentence Transformers, or a Hub id
    #[arg(long, value_name = "DIR|HUB_ID", help_heading = "Model")]
    model: String,
    /// LoRA adapter in PEFT's format, a folder or a Hub id; several are combined
    #[arg(long, value_name = "DIR|HUB_ID", help_heading = "Model")]
    adapter: Vec<String>,
    #[command(flatten)]
    reading: ReadingOptions,
    /// Weight of each of several adapters, in their order [default: equal ones, of sum 1]
    #[arg(long, value_name = "W,…", value_delimiter = ',', allow_negative_numbers = true)]
    #[arg(value_parser = common::parse_strength)]
    weights: Vec<f64>,
    /// How several adapters become one: `cat`, `svd` or `linear`; see below
    #[arg(long, value_name = "NAME", default_value_t)]
    combination: Combination,
    /// Rank of the result of `--combination svd` [default: the largest of the adapters']
    #[arg(long, value_name = "R")]
    rank: Option<usize>,
    /// Multiply what the adapter changes by S [default: 1]
    #[arg(long, value_name = "S", allow_negative_numbers = true)]
    #[arg(value_parser = common::parse_strength)]
    strength: Option<f64>,
    /// Write the adapter that results, in PEFT's format, instead of a model folder
    #[arg(long, help_heading = "Output")]
    adapter_only: bool,
    /// Take the adapter out of a model that it was folded into: the base as it was, up to rounding
    #[arg(long, conflicts_with_all = ["adapter_only", "strength"])]
    unmerge: bool,
    /// Folder to write to
    #[arg(long, value_name = "DIR", help_heading = "Output")]
    output: PathBuf,
    /// Replace what `merge` wrote to `--output`
    #[arg(long, help_heading = "Output")]
    overwrite: bool,
    /// Print one JSON object instead of a sentence
    #[arg(long, help_heading = "Output")]
    json: bool,
}

/// Runs `loriot merge`.
pub fn run_merge(args: MergeArgs) -> anyhow::Result<()> {
    check_options(&args)?;
    let _lock = OutputLock::take(&args.output)?;
    if args.overwrite {
        let inputs = args.adapter.iter().chain([&args.model]);
        check_no_input(&args.output, inputs.map(Path::new))?;
        merged_folder::check_replaceable(&args.output)?;
    }
    let new = NewDir::begin(&args.output, args.overwrite)?;
    let options = common::encoder_options(&args.model, None, &args.reading, Precision::F32)?;
    let result = if args.unmerge {
        unmerge(&args, options, new.path())?
    } else {
        merge(&args, options, new.path())?
    };
    merged_folder::mark(new.path())?;
    new.commit()?;
    let output = args.output.display();
    if args.json {
        let mut json = serde_json::json!({"output": args.output});
        if let Some(difference) = result.difference {
            json["largest_difference"] = difference.into();
        }
        if let Some(is_base) = result.is_base {
            json["is_base"] = is_base.into();
        }
        return common::print_json(&json);
    }
    let texts = |difference: f32| {
        let n_texts = TEXTS.len();
        format!(
            "over {n_texts} texts, no element of a vector differs by more than {difference:.1e}"
        )
    };
    common::print_text(&match result {
        Merged { difference: None, .. } => format!("wrote one adapter to `{output}`\n"),
        Merged { difference: Some(difference), is_base: None } => {
            format!("merged into `{output}`; {}\n", texts(difference))
        }
        Merged { difference: Some(difference), is_base: Some(is_base) } => {
            let same = if is_base {
                "these are the base's weights, bit for bit"
            } else {
                "these are the base's weights but for rounding"
            };
            format!(
                "took the adapter out into `{output}`: {same}; with it again, {}\n",
                texts(difference)
            )
        }
    })
}

/// Refuses options that do not go together.
fn check_options(args: &MergeArgs) -> Result<(), UsageError> {
    let n = args.adapter.len();
    let refuse = |text: String, hint: &str| Err(UsageError::new(text).with_hint(hint));
    if n == 0 {
        return refuse("`merge` needs an adapter".into(), "give one with `--adapter`");
    }
    if !args.weights.is_empty() && args.weights.len() != n {
        let found = args.weights.len();
        let text = format!("`--weights` has {found} numbers for {n} adapters");
        return refuse(text, "give one for each `--adapter`, in their order");
    }
    if n > 1 && args.unmerge {
        let text = format!("`--unmerge` takes out one adapter, not {n}");
        return refuse(text, "take them out one by one, or combine them first");
    }
    if args.rank.is_some() && args.combination != Combination::Svd {
        let text = format!("`--rank` is for `--combination svd`, not `{}`", args.combination);
        return refuse(text, "leave it out");
    }
    Ok(())
}

/// What was written.
struct Merged {
    /// The largest difference of an element of a vector; `None` where no model was written.
    difference: Option<f32>,
    /// Of a model without its adapter: whether it has the weights that the adapter was trained on, bit for bit.
    is_base: Option<bool>,
}

/// Folds the adapters into the base, or writes the one they make.
fn merge(args: &MergeArgs, options: EncoderOptions, dir: &Path) -> anyhow::Result<Merged> {
    let (base, first) = common::open_apart(options.clone(), &args.adapter[0], None)?;
    let mut adapter = combined(args, &base, first)?;
    if let Some(strength) = args.strength {
        adapter.set_strength(&args.adapter.join(", "), strength)?;
    }
    if args.adapter_only {
        adapter.config.base_model = Some(args.model.clone());
        adapter.write(dir)?;
        base.settings().write(dir)?;
        return Ok(Merged { difference: None, is_base: None });
    }
    let mut weights = base.weights().context("the base model keeps its weights")?.clone();
    adapter.merge_into(&mut weights)?;
    let mut folder = base.folder().clone();
    folder.prompts = base.prompts().clone();
    folder.write(dir, &weights, base.tokenizer(), base.max_length())?;
    let trained = Settings::open(&hub::resolve_adapter(&args.adapter[0])?)?;
    let trained_on = trained.and_then(|trained| trained.trained_on);
    Settings { trained_on, ..base.settings() }.write(dir)?;
    let card = folder.merged_card(&args.adapter.join("`, `"), base.max_length());
    loriot_files::write_atomic_bytes(&dir.join("README.md"), card.as_bytes())?;
    drop(weights);

    let merged = Encoder::open(&EncoderOptions { model: dir.display().to_string(), ..options })?;
    let apart = TrainModel::new(base, Trained::Lora(adapter), DropoutRates::NONE, 0)?;
    let difference = largest_difference(&apart, &merged);
    check_difference(difference)?;
    Ok(Merged { difference: Some(difference), is_base: None })
}

/// The adapters as one. They read texts alike, or the user is told whose way is kept.
fn combined(args: &MergeArgs, base: &Encoder, first: Adapter) -> anyhow::Result<Adapter> {
    let n = args.adapter.len();
    if n == 1 && args.weights.is_empty() {
        return Ok(first);
    }
    let mut adapters = vec![first];
    for name in &args.adapter[1..] {
        let dir = hub::resolve_adapter(name)?;
        if let Some(trained) = Settings::open(&dir)? {
            trained.check(name, base.base())?;
            let here = base.settings();
            let is_alike = trained.max_length == here.max_length
                && trained.query_prompt == here.query_prompt
                && trained.document_prompt == here.document_prompt;
            if !is_alike {
                message!(
                    "note: `{name}` was trained with another maximum length or other prompts; those of `{}` are kept",
                    args.adapter[0]
                );
            }
        }
        let adapter = Adapter::open(&dir, &base.folder().config)
            .with_context(|| format!("cannot open the adapter `{name}`"))?;
        adapter.notes.iter().for_each(|note| message!("note: {note}"));
        adapters.push(adapter);
    }
    let equal = vec![1.0 / n as f64; n];
    let weights = if args.weights.is_empty() { &equal } else { &args.weights };
    let parts: Vec<(&str, &Adapter, f64)> = args
        .adapter
        .iter()
        .zip(&adapters)
        .zip(weights)
        .map(|((name, adapter), &weight)| (name.as_str(), adapter, weight))
        .collect();
    Ok(Adapter::combine(&parts, args.combination, args.rank)?)
}

/// Takes the adapter out of the model. Each weight was rounded when the adapter was folded in and is rounded again.
fn unmerge(args: &MergeArgs, options: EncoderOptions, dir: &Path) -> anyhow::Result<Merged> {
    let name = &args.adapter[0];
    let merged = common::open_encoder(&options)?;
    let path = hub::resolve_adapter(name)?;
    let adapter = Adapter::open(&path, &merged.folder().config)
        .with_context(|| format!("cannot open the adapter `{name}`"))?;
    adapter.notes.iter().for_each(|note| message!("note: {note}"));
    let mut weights = merged.weights().context("the model keeps its weights")?.clone();
    adapter.clone().negated(name)?.merge_into(&mut weights)?;
    let mut folder = merged.folder().clone();
    folder.prompts = merged.prompts().clone();
    folder.write(dir, &weights, merged.tokenizer(), merged.max_length())?;
    drop(weights);

    let base = Encoder::open(&EncoderOptions { model: dir.display().to_string(), ..options })?;
    let trained_on = Settings::open(&path)?.map(|settings| settings.base.sha256);
    let is_base = trained_on.as_deref() == Some(base.base_identity());
    let apart = TrainModel::new(base, Trained::Lora(adapter), DropoutRates::NONE, 0)?;
    let difference = largest_difference(&apart, &merged);
    check_difference(difference)?;
    Ok(Merged { difference: Some(difference), is_base: Some(is_base) })
}

fn check_difference(difference: f32) -> anyhow::Result<()> {
    ensure!(
        difference <= TOLERANCE,
        "the merged model's vectors differ by {difference:e} from those of base and adapter, more \
         than the {TOLERANCE:e} that rounding explains"
    );
    Ok(())
}

fn largest_difference(apart: &TrainModel, merged: &Encoder) -> f32 {
    let differences = [Side::Query, Side::Product].into_iter().flat_map(|side| {
        let ids = merged.tokenize(&TEXTS, side);
        let (a_bd, b_bd) = (apart.embed_ids(&ids), merged.embed_ids(&ids));
        a_bd.into_iter().zip(b_bd).map(|(a, b)| (a - b).abs())
    });
    // A NaN must not hide behind `max`.
    differences.fold(0.0, |worst: f32, d| if d > worst || d.is_nan() { d } else { worst })
}

/// Texts of several lengths and scripts.
const TEXTS: [&str; 16] = [
    "",
    "a",
    "kettle",
    "red kettle",
    "RED KETTLE 1.7 L",
    "stainless steel whistling tea kettle for induction hobs",
    "running shoes women size 38",
    "usb-c cable 2m 100w",
    "1/2 in. x 10 ft. copper pipe",
    "Bouilloire électrique en verre, 1,5 litre",
    "Wasserkocher mit Temperatureinstellung",
    "чайник электрический",
    "赤いケトル",
    "☕ mug — gift, 12 oz",
    "cordless drill driver kit with two 20 V lithium-ion batteries, fast charger, 30-piece bit set, \
     belt hook, LED work light and a soft carrying case, variable speed, keyless half-inch chuck",
    "replacement carbon water filter cartridge for refrigerators, pack of three, reduces chlorine \
     taste and odour, fits most side-by-side models, lasts up to six months or 200 gallons each, \
     certified, easy to install without tools, please check your model number before ordering",
];
