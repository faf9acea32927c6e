//! `loriot merge`: an adapter folded into its base model, as a folder of its own.

use super::common::{self, ModelOptions};
use super::merged_folder;
use super::output::check_no_input;
use anyhow::{Context, ensure};
use loriot_encoder::DropoutRates;
use loriot_encoder::Precision;
use loriot_encoder::batch::Side;
use loriot_encoder::encoder::{Encoder, EncoderOptions};
use loriot_encoder::folder::Settings;
use loriot_encoder::hub;
use loriot_encoder::train_model::{TrainModel, Trained};
use loriot_files::{NewDir, OutputLock};
use std::path::PathBuf;

/// Largest difference of an element of a unit vector that rounding explains.
const TOLERANCE: f32 = 1e-4;

/// Fold an adapter into its base model and write a model folder
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  loriot merge --model sentence-transformers/all-MiniLM-L6-v2 \\
    --adapter run/best --output merged

The folder opens in Sentence Transformers, in transformers and as `--model` here. Before it gets its
name, a set of texts is embedded with it and with base and adapter apart; the largest difference is
printed.")]
pub struct MergeArgs {
    #[command(flatten)]
    model: ModelOptions,
    /// Folder to write the merged model to
    #[arg(long, value_name = "DIR", help_heading = "Output")]
    output: PathBuf,
    /// Replace a merged model in `--output`
    #[arg(long, help_heading = "Output")]
    overwrite: bool,
    /// Print one JSON object instead of a sentence
    #[arg(long, help_heading = "Output")]
    json: bool,
}

/// Runs `loriot merge`.
pub fn run_merge(args: MergeArgs) -> anyhow::Result<()> {
    let options = args.model.encoder_options(Precision::F32)?;
    let Some(name) = options.adapter.clone() else {
        return Err(crate::report::UsageError::new("`merge` needs an adapter")
            .with_hint("give one with `--adapter`")
            .into());
    };
    let _lock = OutputLock::take(&args.output)?;
    if args.overwrite {
        check_no_input(&args.output, args.model.paths())?;
        merged_folder::check_replaceable(&args.output)?;
    }
    let new = NewDir::begin(&args.output, args.overwrite)?;
    let (base, adapter) = common::open_apart(options.clone(), &name, None)?;

    let mut weights = base.weights().context("the base model keeps its weights")?.clone();
    adapter.merge_into(&mut weights)?;
    let mut folder = base.folder().clone();
    folder.prompts = base.prompts().clone();
    folder.write(new.path(), &weights, base.tokenizer(), base.max_length())?;
    let trained = Settings::open(&hub::resolve_adapter(&name)?)?;
    let trained_on = trained.and_then(|trained| trained.trained_on);
    Settings { trained_on, ..base.settings() }.write(new.path())?;
    let card = folder.merged_card(&name, base.max_length());
    loriot_files::write_atomic_bytes(&new.path().join("README.md"), card.as_bytes())?;
    drop(weights);

    let merged = Encoder::open(&EncoderOptions {
        model: new.path().display().to_string(),
        adapter: None,
        ..options
    })?;
    let apart = TrainModel::new(base, Trained::Lora(adapter), DropoutRates::NONE, 0)?;
    let difference = largest_difference(&apart, &merged);
    ensure!(
        difference <= TOLERANCE,
        "the merged model's vectors differ by {difference:e} from those of base and adapter, more \
         than the {TOLERANCE:e} that rounding explains"
    );
    merged_folder::mark(new.path())?;
    new.commit()?;
    if args.json {
        let json = serde_json::json!({"output": args.output, "largest_difference": difference});
        return common::print_json(&json);
    }
    common::print_text(&format!(
        "merged into `{}`; over {} texts, no element of a vector differs by more than \
         {difference:.1e}\n",
        args.output.display(),
        TEXTS.len()
    ))
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
