//! `adapter_config.json`: PEFT's `LoraConfig`, as far as it is honoured here.
//!
//! ```text
//! honoured    r, lora_alpha, lora_dropout, use_rslora, use_dora, init_lora_weights (not "loftq", "corda" …),
//!             target_modules, exclude_modules, rank_pattern, alpha_pattern, layers_to_transform,
//!             layers_pattern, bias, modules_to_save, base_model_name_or_path, revision, task_type
//! must be off lora_bias, fan_in_fan_out, … ([`MUST_BE_OFF`])
//! no effect   inference_mode, peft_version, … ([`NO_EFFECT`])
//! ```
//!
//! Any other key of an adapter is told to the user: it may be a newer PEFT's. A file that says how to train
//! ([`LoraConfig::open_for_training`]) may have no other key. Written are the keys that every version of PEFT knows,
//! sorted.

use super::targets::{ALL_LINEAR, Targets};
use crate::error::AdapterError;
use loriot_files::{OutputError, read_json, write_atomic_json};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The file's name in an adapter's folder.
pub(super) const FILE: &str = "adapter_config.json";
const MAX_BYTES: u64 = 4 << 20;
/// The largest rank; widths here are at most 16,384.
const MAX_RANK: usize = 1 << 14;

/// Features of PEFT's that change the result: each must be absent, `null`, `false` or empty.
const MUST_BE_OFF: [&str; 15] = [
    "alora_invocation_tokens",
    "arrow_config",
    "ensure_weight_tying",
    "fan_in_fan_out",
    "kasa_config",
    "layer_replication",
    "lora_bias",
    "megatron_config",
    "monteclora_config",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_qalora",
    "velora_config",
    "loftq_config",
];

/// Keys that change nothing about an adapter that is only loaded.
const NO_EFFECT: [&str; 9] = [
    "auto_mapping",
    "corda_config",
    "eva_config",
    "inference_mode",
    "lora_ga_config",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "runtime_config",
];

/// Keys that change nothing about training.
const NO_EFFECT_IN_TRAINING: [&str; 6] = [
    "auto_mapping",
    "inference_mode",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "runtime_config",
];

const FEATURE_EXTRACTION: &str = "FEATURE_EXTRACTION";

/// How the factors start. B is zero, unless they are taken out of the weight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Init {
    /// Uniform in ±1/√inputs: PEFT's `true`.
    #[default]
    Kaiming,
    /// Normal with standard deviation 1/r: PEFT's `"gaussian"`.
    Gaussian,
    /// The weight's largest singular values, taken out of it: PEFT's `"pissa"`. Always by the whole decomposition, which
    /// `"pissa_niter_N"` approximates.
    Pissa,
    /// The first rows and columns of the weight's QR decomposition, taken out of it: PEFT's `"olora"`.
    Olora,
}

impl Init {
    /// Whether the factors are taken out of the weight.
    pub(super) fn is_in_weight(self) -> bool {
        matches!(self, Init::Pissa | Init::Olora)
    }
}

impl std::str::FromStr for Init {
    type Err = String;

    /// By PEFT's names; `kaiming` is its `true`.
    fn from_str(name: &str) -> Result<Init, String> {
        let n_iterations = name.strip_prefix("pissa_niter_").map(str::parse::<u16>);
        match name {
            "true" | "kaiming" => Ok(Init::Kaiming),
            "gaussian" => Ok(Init::Gaussian),
            "pissa" => Ok(Init::Pissa),
            "olora" => Ok(Init::Olora),
            _ if n_iterations.is_some_and(|n| n.is_ok()) => Ok(Init::Pissa),
            _ => Err(format!("expected {INIT}")),
        }
    }
}

/// Which biases are trained with the adapter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Bias {
    /// None of them.
    #[default]
    None,
    /// Those of adapted linear layers.
    LoraOnly,
    /// Every bias but the pooler's: those of linear layers and of norms.
    All,
}

impl Bias {
    const ALL: [Bias; 3] = [Bias::None, Bias::LoraOnly, Bias::All];

    /// PEFT's name.
    pub fn name(self) -> &'static str {
        match self {
            Bias::None => "none",
            Bias::LoraOnly => "lora_only",
            Bias::All => "all",
        }
    }
}

impl std::str::FromStr for Bias {
    type Err = String;

    fn from_str(name: &str) -> Result<Bias, String> {
        let found = Bias::ALL.into_iter().find(|bias| bias.name() == name);
        found.ok_or_else(|| format!("expected {BIAS}"))
    }
}

/// PEFT's `LoraConfig`, without the fields that are not honoured.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraConfig {
    /// The model it was trained for, as its training named it.
    pub base_model: Option<String>,
    /// That model's revision on the Hub.
    pub revision: Option<String>,
    /// PEFT's name of the task; embeddings are `FEATURE_EXTRACTION`.
    pub task_type: Option<String>,
    /// Rank of modules that `rank_pattern` does not match.
    pub r: usize,
    /// Alpha of modules that `alpha_pattern` does not match.
    pub alpha: f64,
    /// Dropout before A in training.
    pub dropout: f32,
    /// Whether the scale is alpha/√r instead of alpha/r.
    pub use_rslora: bool,
    /// How the factors start.
    pub init: Init,
    /// Whether the length of each row of the weight is trained apart from its direction: DoRA.
    pub use_dora: bool,
    /// Which modules.
    pub targets: Targets,
    /// Which of them not.
    pub exclude: Option<Targets>,
    /// Ranks by pattern, in the order in which they are tried.
    pub rank_pattern: Vec<(String, usize)>,
    /// Alphas by pattern, in the order in which they are tried.
    pub alpha_pattern: Vec<(String, f64)>,
    /// Only layers of these numbers.
    pub layers: Option<Vec<usize>>,
    /// What may stand before a layer's number; anything, when empty.
    pub layers_pattern: Vec<String>,
    /// Which biases are trained as well.
    pub bias: Bias,
    /// Modules that are trained whole, by the ends of their names: embedding tables and norms.
    pub modules_to_save: Vec<String>,
}

impl Default for LoraConfig {
    /// PEFT's defaults, on every linear layer.
    fn default() -> Self {
        LoraConfig {
            base_model: None,
            revision: None,
            task_type: Some(FEATURE_EXTRACTION.into()),
            r: 8,
            alpha: 8.0,
            dropout: 0.0,
            use_rslora: false,
            init: Init::Kaiming,
            use_dora: false,
            targets: Targets::AllLinear,
            exclude: None,
            rank_pattern: Vec::new(),
            alpha_pattern: Vec::new(),
            layers: None,
            layers_pattern: Vec::new(),
            bias: Bias::None,
            modules_to_save: Vec::new(),
        }
    }
}

impl LoraConfig {
    /// The factor of `B·A` in a module of this rank and alpha.
    pub fn scale(&self, r: usize, alpha: f64) -> f32 {
        let r = r as f64;
        (alpha / if self.use_rslora { r.sqrt() } else { r }) as f32
    }

    /// Reads `adapter_config.json` in `dir`, with notes on keys that are not known.
    pub(super) fn open(dir: &Path) -> Result<(LoraConfig, Vec<String>), AdapterError> {
        let (config, entries) = LoraConfig::read(dir.join(FILE), false)?;
        let unknown: Vec<String> = entries.json.keys().map(|key| format!("`{key}`")).collect();
        let notes = if unknown.is_empty() {
            Vec::new()
        } else {
            let (path, keys) = (entries.path.display(), unknown.join(", "));
            vec![format!("`{path}` has keys that this version does not know, ignored: {keys}")]
        };
        Ok((config, notes))
    }

    /// Reads a file of PEFT's that says how to train. What would change the training and is not known here is refused,
    /// so that nothing that was asked for is left out.
    pub fn open_for_training(path: &Path) -> Result<LoraConfig, AdapterError> {
        let (config, mut entries) = LoraConfig::read(path.to_owned(), true)?;
        if let Some(task) = &config.task_type
            && task != FEATURE_EXTRACTION
        {
            let expected = format!("`{FEATURE_EXTRACTION}` or nothing");
            return Err(entries.wrong("task_type", &json!(task), &expected));
        }
        entries.json.retain(|_, value| !is_off(value));
        match entries.json.iter().next() {
            Some((key, value)) => Err(entries.unsupported(key, value)),
            None => Ok(config),
        }
    }

    /// Reads a configuration; the second value has the entries that are not known.
    fn read(path: PathBuf, is_training: bool) -> Result<(LoraConfig, Entries), AdapterError> {
        let file: File = read_json(&path, MAX_BYTES)?;
        let mut entries = Entries { path, json: file.rest };
        entries.check_features(if is_training { &NO_EFFECT_IN_TRAINING } else { &NO_EFFECT })?;
        let config = LoraConfig {
            base_model: entries.text("base_model_name_or_path")?,
            revision: entries.text("revision")?,
            task_type: entries.text("task_type")?,
            r: entries.rank("r", 8)?,
            alpha: entries.number("lora_alpha", 8.0)?,
            dropout: entries.number("lora_dropout", 0.0)? as f32,
            use_rslora: entries.flag("use_rslora")?,
            init: if is_training { entries.init()? } else { entries.loaded_init()? },
            use_dora: entries.flag("use_dora")?,
            targets: entries
                .targets("target_modules")?
                .ok_or_else(|| entries.wrong("target_modules", &Value::Null, TARGETS))?,
            exclude: entries.targets("exclude_modules")?,
            rank_pattern: entries.pattern("rank_pattern", file.rank_pattern, as_rank, RANK)?,
            alpha_pattern: entries.pattern("alpha_pattern", file.alpha_pattern, as_alpha, ALPHA)?,
            layers: entries.layers()?,
            layers_pattern: entries.texts("layers_pattern")?.unwrap_or_default(),
            bias: entries.bias()?,
            modules_to_save: entries.texts("modules_to_save")?.unwrap_or_default(),
        };
        config.check()?;
        Ok((config, entries))
    }

    /// Refuses numbers outside their range and rules that contradict each other.
    pub(super) fn check(&self) -> Result<(), AdapterError> {
        let range =
            |what, found: String, expected| Err(AdapterError::Range { what, found, expected });
        let ranks = self.rank_pattern.iter().map(|(_, r)| *r).chain([self.r]);
        if let Some(r) = ranks.into_iter().find(|r| !(1..=MAX_RANK).contains(r)) {
            return range("rank", r.to_string(), RANK);
        }
        let alphas = self.alpha_pattern.iter().map(|(_, alpha)| *alpha).chain([self.alpha]);
        if let Some(alpha) = alphas.into_iter().find(|alpha| !alpha.is_finite()) {
            return range("alpha", alpha.to_string(), ALPHA);
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return range("dropout", self.dropout.to_string(), "a number from 0 up to 1");
        }
        if self.layers.is_some() && matches!(self.targets, Targets::Pattern(_)) {
            let found = "given with a regular expression as target".into();
            return range("`layers_to_transform`", found, "a list of targets beside it");
        }
        if self.layers.is_none() && !self.layers_pattern.is_empty() {
            let found = "given alone".into();
            return range("`layers_pattern`", found, "`layers_to_transform` beside it");
        }
        Ok(())
    }

    /// What [`super::Adapter::standing_alone`] is configured by: every rank twice as large, every scale the same.
    pub(super) fn of_twice_the_rank(&self) -> LoraConfig {
        let factor = if self.use_rslora { std::f64::consts::SQRT_2 } else { 2.0 };
        let ranks = self.rank_pattern.iter().map(|(key, r)| (key.clone(), 2 * r));
        let alphas = self.alpha_pattern.iter().map(|(key, alpha)| (key.clone(), factor * alpha));
        LoraConfig {
            r: 2 * self.r,
            alpha: factor * self.alpha,
            rank_pattern: ranks.collect(),
            alpha_pattern: alphas.collect(),
            init: Init::Kaiming,
            ..self.clone()
        }
    }

    /// Writes `adapter_config.json` into `dir`.
    pub(super) fn write(&self, dir: &Path) -> Result<(), OutputError> {
        let alphas = self.alpha_pattern.iter().map(|(key, alpha)| (key, number(*alpha)));
        // Fields in alphabetical order: that is the order in the file.
        #[derive(serde::Serialize)]
        struct Written<'a> {
            alpha_pattern: BTreeMap<&'a String, Value>,
            auto_mapping: (),
            base_model_name_or_path: &'a Option<String>,
            bias: &'static str,
            exclude_modules: Value,
            fan_in_fan_out: bool,
            inference_mode: bool,
            init_lora_weights: Value,
            layers_pattern: Option<&'a Vec<String>>,
            layers_to_transform: &'a Option<Vec<usize>>,
            lora_alpha: Value,
            lora_bias: bool,
            lora_dropout: f32,
            modules_to_save: Option<&'a Vec<String>>,
            peft_type: &'static str,
            r: usize,
            rank_pattern: BTreeMap<&'a String, usize>,
            revision: &'a Option<String>,
            target_modules: Value,
            task_type: &'a Option<String>,
            use_dora: bool,
            use_rslora: bool,
        }
        let written = Written {
            alpha_pattern: alphas.collect(),
            auto_mapping: (),
            base_model_name_or_path: &self.base_model,
            bias: self.bias.name(),
            exclude_modules: self.exclude.as_ref().map_or(Value::Null, targets_json),
            fan_in_fan_out: false,
            inference_mode: true,
            init_lora_weights: match self.init {
                Init::Kaiming => json!(true),
                Init::Gaussian => json!("gaussian"),
                // What is written stands alone.
                Init::Pissa | Init::Olora => json!(true),
            },
            layers_pattern: Some(&self.layers_pattern).filter(|patterns| !patterns.is_empty()),
            layers_to_transform: &self.layers,
            lora_alpha: number(self.alpha),
            lora_bias: false,
            lora_dropout: self.dropout,
            modules_to_save: Some(&self.modules_to_save).filter(|names| !names.is_empty()),
            peft_type: "LORA",
            r: self.r,
            rank_pattern: self.rank_pattern.iter().map(|(key, r)| (key, *r)).collect(),
            revision: &self.revision,
            target_modules: targets_json(&self.targets),
            task_type: &self.task_type,
            use_dora: self.use_dora,
            use_rslora: self.use_rslora,
        };
        write_atomic_json(&dir.join(FILE), &written)
    }
}

const BIAS: &str = "`none`, `lora_only` or `all`";
const INIT: &str = "`true`, `gaussian`, `pissa`, `pissa_niter_N` or `olora`";
const RANK: &str = "a whole number from 1 to 16384";
const ALPHA: &str = "a finite number";
const TARGETS: &str = "a text or a list of texts";

/// PEFT types alpha as an integer: 16 is written as `16`, 0.5 as it is.
fn number(value: f64) -> Value {
    let is_whole = value.fract() == 0.0 && value.abs() < 1e15;
    if is_whole { json!(value as i64) } else { json!(value) }
}

fn targets_json(targets: &Targets) -> Value {
    match targets {
        Targets::AllLinear => json!(ALL_LINEAR),
        Targets::Pattern(pattern) => json!(pattern),
        Targets::Names(names) => json!(names),
    }
}

fn as_rank(value: &Value) -> Option<usize> {
    let r = usize::try_from(value.as_u64()?).ok()?;
    (1..=MAX_RANK).contains(&r).then_some(r)
}

fn as_alpha(value: &Value) -> Option<f64> {
    value.as_f64().filter(|alpha| alpha.is_finite())
}

/// The file. Two maps are read apart, because the order of their keys counts.
#[derive(serde::Deserialize)]
struct File {
    #[serde(default)]
    rank_pattern: Option<Ordered>,
    #[serde(default)]
    alpha_pattern: Option<Ordered>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

/// A JSON object in the order of the file.
struct Ordered(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Ordered {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Ordered;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object of patterns")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Ordered, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Ordered(entries))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

/// The entries not yet read; what remains at the end is unknown.
struct Entries {
    path: PathBuf,
    json: Map<String, Value>,
}

impl Entries {
    fn wrong(&self, key: &str, found: &Value, expected: &str) -> AdapterError {
        let (path, key, expected) = (self.path.clone(), key.to_owned(), expected.to_owned());
        let found = if found.is_null() { "missing".into() } else { format!("`{found}`") };
        AdapterError::Field { path, key, found, expected }
    }

    fn unsupported(&self, key: &str, found: &Value) -> AdapterError {
        let (path, key) = (self.path.clone(), key.to_owned());
        AdapterError::Unsupported { path, key, found: format!("`{found}`") }
    }

    /// Takes an entry, `None` when it is absent or null.
    fn take(&mut self, key: &str) -> Option<Value> {
        self.json.remove(key).filter(|value| !value.is_null())
    }

    /// Takes an entry that, if there, must be what `read` makes of it.
    fn read<T>(
        &mut self,
        key: &str,
        read: impl Fn(&Value) -> Option<T>,
        expected: &str,
    ) -> Result<Option<T>, AdapterError> {
        let Some(value) = self.take(key) else { return Ok(None) };
        read(&value).map(Some).ok_or_else(|| self.wrong(key, &value, expected))
    }

    /// Refuses what would change the result, and drops what would not.
    fn check_features(&mut self, no_effect: &[&str]) -> Result<(), AdapterError> {
        match self.take("peft_type") {
            Some(Value::String(kind)) if kind == "LORA" => {}
            Some(other) => return Err(self.unsupported("peft_type", &other)),
            None => return Err(self.wrong("peft_type", &Value::Null, "`LORA`")),
        }
        for key in MUST_BE_OFF {
            if let Some(value) = self.take(key).filter(|value| !is_off(value)) {
                return Err(self.unsupported(key, &value));
            }
        }
        for key in no_effect {
            self.json.remove(*key);
        }
        Ok(())
    }

    fn bias(&mut self) -> Result<Bias, AdapterError> {
        let read = |value: &Value| value.as_str().and_then(|name| name.parse().ok());
        Ok(self.read("bias", read, BIAS)?.unwrap_or_default())
    }

    fn text(&mut self, key: &str) -> Result<Option<String>, AdapterError> {
        self.read(key, |value| value.as_str().map(str::to_owned), "a text")
    }

    fn flag(&mut self, key: &str) -> Result<bool, AdapterError> {
        Ok(self.read(key, Value::as_bool, "`true` or `false`")?.unwrap_or(false))
    }

    fn number(&mut self, key: &str, default: f64) -> Result<f64, AdapterError> {
        Ok(self.read(key, as_alpha, ALPHA)?.unwrap_or(default))
    }

    fn rank(&mut self, key: &str, default: usize) -> Result<usize, AdapterError> {
        Ok(self.read(key, as_rank, RANK)?.unwrap_or(default))
    }

    /// A text or a list of texts.
    fn texts(&mut self, key: &str) -> Result<Option<Vec<String>>, AdapterError> {
        self.read(
            key,
            |value| value.as_str().map(|text| vec![text.to_owned()]).or(list(value)),
            TARGETS,
        )
    }

    fn targets(&mut self, key: &str) -> Result<Option<Targets>, AdapterError> {
        let read = |value: &Value| match value.as_str() {
            Some(text) => Some(Targets::from_text(text)),
            None => list(value).map(Targets::Names),
        };
        self.read(key, read, TARGETS)
    }

    fn layers(&mut self) -> Result<Option<Vec<usize>>, AdapterError> {
        let read = |value: &Value| match value {
            Value::Array(items) => {
                items.iter().map(|item| item.as_u64().map(|layer| layer as usize)).collect()
            }
            one => one.as_u64().map(|layer| vec![layer as usize]),
        };
        let layers: Option<Vec<usize>> =
            self.read("layers_to_transform", read, "a layer's number or a list of them")?;
        Ok(layers.filter(|layers| !layers.is_empty()))
    }

    /// How training is to start.
    fn init(&mut self) -> Result<Init, AdapterError> {
        match self.take("init_lora_weights") {
            None | Some(Value::Bool(true)) => Ok(Init::Kaiming),
            Some(other) => other
                .as_str()
                .and_then(|name| name.parse().ok())
                .ok_or_else(|| self.wrong("init_lora_weights", &other, INIT)),
        }
    }

    /// How the training of an adapter that is read started. Where it changed the weights, the factors mean nothing for
    /// the model as it is.
    fn loaded_init(&mut self) -> Result<Init, AdapterError> {
        match self.take("init_lora_weights") {
            None | Some(Value::Bool(_)) => Ok(Init::Kaiming),
            Some(Value::String(name)) if name == "gaussian" => Ok(Init::Gaussian),
            Some(Value::String(name)) if ["eva", "mica", "orthogonal"].contains(&&*name) => {
                Ok(Init::Kaiming)
            }
            Some(Value::String(name)) if name.parse().is_ok_and(Init::is_in_weight) => {
                Err(AdapterError::Unconverted { path: self.path.clone(), init: name })
            }
            Some(other) => Err(self.unsupported("init_lora_weights", &other)),
        }
    }

    fn pattern<T>(
        &self,
        key: &str,
        pattern: Option<Ordered>,
        read: impl Fn(&Value) -> Option<T>,
        expected: &str,
    ) -> Result<Vec<(String, T)>, AdapterError> {
        let entries = pattern.map_or_else(Vec::new, |Ordered(entries)| entries);
        let read = |(name, value): (String, Value)| match read(&value) {
            Some(number) => Ok((name, number)),
            None => Err(self.wrong(&format!("{key}.{name}"), &value, expected)),
        };
        entries.into_iter().map(read).collect()
    }
}

/// Whether a feature with this value is not used.
fn is_off(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(on) => !on,
        Value::Array(items) => items.is_empty(),
        Value::Object(entries) => entries.is_empty(),
        _ => false,
    }
}

fn list(value: &Value) -> Option<Vec<String>> {
    value.as_array()?.iter().map(|item| item.as_str().map(str::to_owned)).collect()
}
