//! `state.json` of a checkpoint: where the run stands, and what it was begun with.
//!
//! Schema version 2. Numbers are written so that they read back bit for bit. No times and no paths:
//! a checkpoint of a resumed run has the bytes of an uninterrupted one's.
//!
//! | field | |
//! |---|---|
//! | `schema_version` | 2; 1 is still read |
//! | `step` | optimiser steps done |
//! | `epoch` | epochs done and evaluated |
//! | `position` | rows of the next epoch done |
//! | `loss_sum` | sum of the step losses of that epoch |
//! | `evaluations` | one per evaluation so far, the first before training |
//! | `isa` | the instruction set that computed it |
//! | `run` | settings, hashes of model and data; see [`RunIdentity`] |
//!
//! Version 1 has no `run.model.computation`, and its `tokenizer_sha256` is that of the encoder's identity of version 1.

use crate::evaluation::Evaluation;
use crate::sampler::Sampler;
use crate::settings::{Plan, TrainSettings};
use loriot_encoder::{Computation, Precision};
use loriot_files::{Hint, ReadFileError, read_json, write_atomic_json};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// The state's file in a checkpoint.
pub const STATE_FILE: &str = "state.json";

const SCHEMA_VERSION: u64 = 2;

/// What to do about a damaged checkpoint.
pub(crate) const DAMAGE_HINT: &str = "the checkpoint is damaged; resume from another one: `--resume PATH`, or begin anew \
                                      with `--overwrite`";

/// 16 MiB: an evaluation is 400 bytes, so this is more epochs than anyone trains.
const LIMIT_BYTES: u64 = 1 << 24;

/// What decides the result of a run. Two runs with the same identity (and instruction set) give the same bytes.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunIdentity {
    /// How it trains.
    pub settings: TrainSettings,
    /// What it trains.
    pub trained: TrainedIdentity,
    /// The encoder.
    pub model: ModelIdentity,
    /// The training rows.
    pub train: DataIdentity,
    /// The evaluation rows.
    pub eval: DataIdentity,
}

/// What a run trains.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, tag = "kind", rename_all = "lowercase")]
pub enum TrainedIdentity {
    /// An adapter.
    Lora {
        /// Its rank.
        rank: usize,
        /// Its alpha.
        alpha: f64,
        /// The kinds of linear layers it adapts.
        targets: Vec<String>,
        /// SHA-256 of the adapter that training began from.
        start_sha256: String,
    },
    /// Every weight.
    Full,
}

/// Everything about an encoder that decides its vectors.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelIdentity {
    /// SHA-256 of the weights.
    pub weights_sha256: String,
    /// SHA-256 of the tokeniser.
    pub tokenizer_sha256: String,
    /// The same as version 1 of this file had it; not written.
    #[serde(skip)]
    pub tokenizer_sha256_v1: String,
    /// How the encoder computes, its tokeniser left empty; `None` in version 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub computation: Option<Computation>,
    /// Longest text in tokens.
    pub max_length: usize,
    /// Before a query.
    pub query_prompt: String,
    /// Before a product.
    pub document_prompt: String,
    /// What its linear layers compute in; f32 in checkpoints from before there was a choice.
    #[serde(default = "f32_name")]
    pub precision: String,
}

fn f32_name() -> String {
    Precision::F32.to_string()
}

/// Rows of a data set.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataIdentity {
    /// How many.
    pub rows: usize,
    /// SHA-256 over texts and labels in order.
    pub sha256: String,
}

/// Where a run stands.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// Version of this file.
    pub schema_version: u64,
    /// Optimiser steps done.
    pub step: u64,
    /// Epochs done and evaluated.
    pub epoch: u64,
    /// Rows of the next epoch done.
    pub position: usize,
    /// Sum of the step losses of that epoch.
    pub loss_sum: f64,
    /// All evaluations so far, the first before training.
    pub evaluations: Vec<Evaluation>,
    /// The instruction set that computed it.
    pub isa: String,
    /// What decides the run's result.
    pub run: RunIdentity,
}

/// A checkpoint's state cannot be continued.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The file cannot be read or is not JSON.
    #[error(transparent)]
    Read(#[from] ReadFileError),
    /// The file was written by another version.
    #[error("`{}` has schema version {found}, expected 1 or {SCHEMA_VERSION}", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version, or what stands there.
        found: String,
    },
    /// The file is JSON of another kind.
    #[error("`{}` is not a checkpoint's state: {source}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What was wrong.
        source: serde_json::Error,
    },
    /// Two numbers contradict each other.
    #[error("`{}` contradicts itself: {what}", path.display())]
    Contradiction {
        /// The file.
        path: PathBuf,
        /// Which ones, and how.
        what: String,
    },
    /// The checkpoint is one of another run.
    #[error(
        "`{}` belongs to another run: `{name}` was {expected} there and is {found} now",
        path.display()
    )]
    OtherRun {
        /// The file.
        path: PathBuf,
        /// What differs.
        name: String,
        /// The checkpoint's.
        expected: String,
        /// This run's.
        found: String,
    },
}

impl StateError {
    /// Whether the file is damaged, and not one of another version or run.
    pub fn is_damage(&self) -> bool {
        match self {
            StateError::Read(_) | StateError::Format { .. } | StateError::Contradiction { .. } => {
                true
            }
            StateError::Version { .. } | StateError::OtherRun { .. } => false,
        }
    }
}

impl Hint for StateError {
    fn hint(&self) -> Option<String> {
        match self {
            StateError::Read(_) | StateError::Format { .. } | StateError::Contradiction { .. } => {
                Some(DAMAGE_HINT.into())
            }
            StateError::Version { .. } => Some(
                "resume with the Loriot that wrote it, or begin anew with `--overwrite`".into(),
            ),
            StateError::OtherRun { .. } => Some(
                "resume with what the run was begun with, or begin anew with `--overwrite`".into(),
            ),
        }
    }
}

impl State {
    /// The state before the first step.
    pub fn new(run: RunIdentity, isa: String) -> State {
        let evaluations = Vec::new();
        let (step, epoch, position, loss_sum) = (0, 0, 0, 0.0);
        let schema_version = SCHEMA_VERSION;
        State { schema_version, step, epoch, position, loss_sum, evaluations, isa, run }
    }

    /// Reads the state of the checkpoint in `dir`.
    pub fn open(dir: &Path) -> Result<State, StateError> {
        let path = dir.join(STATE_FILE);
        State::from_json(read_json(&path, LIMIT_BYTES)?, path)
    }

    /// The state that stands as `value` in the file `path`.
    pub(crate) fn from_json(value: Value, path: PathBuf) -> Result<State, StateError> {
        match value.get("schema_version") {
            Some(version)
                if version.as_u64().is_some_and(|v| (1..=SCHEMA_VERSION).contains(&v)) => {}
            found => {
                let found = found.map_or_else(|| "none".to_owned(), Value::to_string);
                return Err(StateError::Version { path, found });
            }
        }
        serde_json::from_value(value).map_err(|source| StateError::Format { path, source })
    }

    /// Writes `state.json` into `dir`.
    pub fn write(&self, dir: &Path) -> Result<(), loriot_files::OutputError> {
        write_atomic_json(&dir.join(STATE_FILE), self)
    }

    /// Refuses the state read from `dir` unless a run that began as `fresh` passes through it.
    pub fn check(
        &self,
        dir: &Path,
        fresh: &State,
        plan: &Plan,
        sampler: &Sampler,
    ) -> Result<(), StateError> {
        let path = dir.join(STATE_FILE);
        self.check_run(&path, fresh)?;
        let contradiction = |what| Err(StateError::Contradiction { path, what });
        let State { step, epoch, position, .. } = *self;
        let first_step = plan.start_of_epoch(epoch);
        if epoch > plan.n_epochs() || step < first_step || step > plan.end_of_epoch(epoch) {
            return contradiction(format!("step {step} is not in epoch {epoch}"));
        }
        let expected = sampler.steps(epoch).n_rows_before(step - first_step);
        if position != expected {
            return contradiction(format!("step {step} is at row {expected}, not {position}"));
        }
        if !(self.loss_sum.is_finite() && self.loss_sum >= 0.0) {
            return contradiction(format!("the loss sum is {}", self.loss_sum));
        }
        let epochs = self.evaluations.iter().map(|evaluation| evaluation.epoch);
        if !epochs.eq(-1..epoch as i64) {
            return contradiction(format!(
                "there is not one evaluation for each of {epoch} epochs"
            ));
        }
        Ok(())
    }

    /// Refuses the state read from the file `path` if `fresh` began another run.
    pub(crate) fn check_run(&self, path: &Path, fresh: &State) -> Result<(), StateError> {
        let mut run = fresh.run.clone();
        if self.schema_version == 1 {
            run.model.tokenizer_sha256 = run.model.tokenizer_sha256_v1.clone();
            run.model.computation = None;
        }
        match first_difference(&self.run, &run) {
            Some((name, expected, found)) => {
                Err(StateError::OtherRun { path: path.to_owned(), name, expected, found })
            }
            None => Ok(()),
        }
    }
}

/// The first leaf in which two runs differ: its name, the one's value and the other's.
fn first_difference(a: &RunIdentity, b: &RunIdentity) -> Option<(String, String, String)> {
    let (a, b) = (as_json(a), as_json(b));
    let (name, a, b) = differing_leaf(String::new(), &a, &b)?;
    let name = name.trim_start_matches('.');
    let name = name.trim_start_matches("settings.").trim_start_matches("model.");
    let name = name.trim_start_matches("computation.").to_owned();
    Some((name, a, b))
}

/// `value` as it stands in a file. (`serde_json::to_value` would widen an f32 of 0.1 to
/// 0.10000000149011612.)
pub(crate) fn as_json(value: &impl serde::Serialize) -> Value {
    let text = serde_json::to_string(value).unwrap_or_default();
    serde_json::from_str(&text).unwrap_or_default()
}

fn differing_leaf(name: String, a: &Value, b: &Value) -> Option<(String, String, String)> {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            let keys = a.keys().chain(b.keys().filter(|key| !a.contains_key(*key)));
            keys.map(|key| (key, a.get(key), b.get(key))).find_map(|(key, a, b)| {
                let null = Value::Null;
                differing_leaf(format!("{name}.{key}"), a.unwrap_or(&null), b.unwrap_or(&null))
            })
        }
        _ if a == b => None,
        _ => Some((name, shown(a), shown(b))),
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null => "not set".into(),
        value => format!("`{}`", value.to_string().trim_matches('"')),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::evaluation::tests::evaluation;
    use std::fs;

    /// The state of a run over ten rows in batches of four, three steps an epoch, before its first.
    pub(crate) fn state() -> State {
        let data = DataIdentity { rows: 10, sha256: "d".repeat(64) };
        let run = RunIdentity {
            settings: TrainSettings { batch_size: 4, ..TrainSettings::default() },
            trained: TrainedIdentity::Lora {
                rank: 8,
                alpha: 16.0,
                targets: vec!["attention.self.query".into()],
                start_sha256: "a".repeat(64),
            },
            model: ModelIdentity {
                weights_sha256: "b".repeat(64),
                tokenizer_sha256: "c".repeat(64),
                tokenizer_sha256_v1: String::new(),
                computation: Some(Computation { num_attention_heads: 4, ..Computation::default() }),
                max_length: 70,
                query_prompt: String::new(),
                document_prompt: String::new(),
                precision: "f32".into(),
            },
            train: data.clone(),
            eval: data,
        };
        State::new(run, "avx2".into())
    }

    fn after_five_steps() -> State {
        let evaluations = vec![evaluation(-1, 0.6, 0.3), evaluation(0, 0.1 + 0.2, 1.0 / 3.0)];
        State { step: 5, epoch: 1, position: 8, loss_sum: 0.7 / 3.0, evaluations, ..state() }
    }

    fn check(changed: &State) -> Result<(), StateError> {
        let fresh = state();
        let mut rows = crate::rows::Rows::default();
        (0..10).for_each(|row| rows.push(row, [(row, 0.0)]));
        let sampler = fresh.run.settings.sampler(&rows);
        changed.check(Path::new("ck"), &fresh, &fresh.run.settings.plan(&sampler), &sampler)
    }

    #[test]
    fn a_state_comes_back_bit_for_bit() {
        let dir = tempfile::tempdir().unwrap();
        let mut state = after_five_steps();
        // Numbers that a decimal reader in a hurry gets wrong in the last bit.
        let awkward = [1.0 / 3.0, 5e-324, 0.1 + 0.2, 2.225_073_858_507_201e-308, 1e23];
        for number in awkward {
            state.loss_sum = number;
            state.evaluations[0].loss = number;
            state.write(dir.path()).unwrap();
            assert_eq!(State::open(dir.path()).unwrap(), state);
        }
    }

    #[test]
    fn the_states_of_a_run_are_accepted() {
        check(&state_at_first_step()).unwrap();
        check(&after_five_steps()).unwrap();
        // The last step of an epoch, before its evaluation and after it.
        let before = State { step: 6, position: 10, ..after_five_steps() };
        check(&before).unwrap();
        let mut after = State { step: 6, epoch: 2, position: 0, loss_sum: 0.0, ..before };
        after.evaluations.push(evaluation(1, 0.7, 0.2));
        check(&after).unwrap();
    }

    fn state_at_first_step() -> State {
        State { evaluations: vec![evaluation(-1, 0.6, 0.3)], ..state() }
    }

    #[test]
    fn another_runs_state_is_refused_with_what_was_and_what_is() {
        let mut other = after_five_steps();
        other.run.settings.learning_rate = 0.1;
        let error = check(&other).unwrap_err().to_string();
        let want = "`ck/state.json` belongs to another run: `learning_rate` was `0.1` there and is \
                    `0.0005` now";
        assert_eq!(error, want);
        let mut other = after_five_steps();
        other.run.train.rows = 9;
        assert!(check(&other).unwrap_err().to_string().contains("`train.rows` was `9` there"));
        let mut other = after_five_steps();
        other.run.settings.max_steps = Some(3);
        assert!(check(&other).unwrap_err().to_string().contains("is not set now"));
        let mut other = after_five_steps();
        other.run.model.computation.as_mut().unwrap().num_attention_heads = 8;
        let error = check(&other).unwrap_err().to_string();
        assert!(error.ends_with("`num_attention_heads` was `8` there and is `4` now"), "{error}");
        let mut other = after_five_steps();
        other.run.model.precision = "bf16".into();
        let error = check(&other).unwrap_err().to_string();
        assert!(error.ends_with("`precision` was `bf16` there and is `f32` now"), "{error}");
    }

    #[test]
    fn a_checkpoint_from_before_there_was_a_choice_is_f32s() {
        let dir = tempfile::tempdir().unwrap();
        let text = serde_json::to_string(&after_five_steps()).unwrap();
        let old = text.replace(",\"precision\":\"f32\"", "");
        assert_ne!(old, text);
        fs::write(dir.path().join(STATE_FILE), old).unwrap();
        assert_eq!(State::open(dir.path()).unwrap(), after_five_steps());
    }

    #[test]
    fn a_state_that_contradicts_itself_is_refused() {
        let error = |state: State| check(&state).unwrap_err().to_string();
        let ok = after_five_steps;
        assert!(error(State { step: 7, ..ok() }).ends_with("step 7 is not in epoch 1"));
        assert!(error(State { epoch: u64::MAX, ..ok() }).contains("is not in epoch"));
        assert!(error(State { position: 9, ..ok() }).ends_with("step 5 is at row 8, not 9"));
        assert!(error(State { loss_sum: -1.0, ..ok() }).ends_with("the loss sum is -1"));
        assert!(error(State { evaluations: Vec::new(), ..ok() }).contains("one evaluation for"));
    }

    #[test]
    fn hostile_files_are_refused_with_one_sentence() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(STATE_FILE);
        let good = serde_json::to_string(&after_five_steps()).unwrap();
        let refuse = |text: &str, want: &str| {
            fs::write(&path, text).unwrap();
            let error = State::open(dir.path()).unwrap_err();
            assert!(error.to_string().contains(want), "{error}");
            assert!(error.hint().is_some());
        };
        refuse("", "not the expected JSON");
        refuse(&good[..good.len() / 2], "not the expected JSON");
        refuse("[]", "has schema version none, expected 1 or 2");
        refuse(
            &good.replace("\"schema_version\":2", "\"schema_version\":3"),
            "version 3, expected 1 or 2",
        );
        refuse(&good.replace("\"step\":5", "\"step\":-5"), "is not a checkpoint's state");
        refuse(&good.replace("\"step\":5", "\"step\":1e99"), "is not a checkpoint's state");
        refuse(&good.replace("\"isa\"", "\"isb\""), "is not a checkpoint's state");
        refuse(&"[".repeat(100_000), "not the expected JSON");
    }
}
