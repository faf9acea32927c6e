//! `loriot_run.json`: the mark that a folder is a training run's, and which files at its top are the run's.
//!
//! | field | |
//! |---|---|
//! | `schema_version` | 1 |
//! | `finished` | whether the model after the last step is in the folder |
//! | `files` | names of that model's files, listed before the first of them is there |
//! | `state` | the run: at its beginning; once it is finished, at its end (see [`crate::state`]) |
//!
//! It is the first file of a run. Checkpoints, `best` and the log are the run's by their names; what else is in the
//! folder and not in `files` is the user's.
//!
//! Runs from before there was this file are known by what they hold: a log whose first line is one of
//! `metrics.jsonl`'s, or a checkpoint whose `state.json` can be read. Their model is complete in names if it has
//! `loriot.json`, which training alone writes. They get a record when they are resumed or overwritten.

use crate::folder::RunFolderError;
use crate::metrics_log::{METRICS_FILE, is_log};
use crate::own_files::{MODEL_FILES, is_checkpoint};
use crate::state::State;
use loriot_files::{OutputError, ReadFileError, read_json, write_atomic_json};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind::NotFound;
use std::path::Path;

/// The record's name in a run folder.
pub(crate) const RUN_FILE: &str = "loriot_run.json";

const SCHEMA_VERSION: u64 = 1;

/// 16 MiB, as for a state.
const LIMIT_BYTES: u64 = 1 << 24;

/// What is known of the run in a folder.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) finished: bool,
    pub(crate) files: BTreeSet<String>,
    /// `None` for a run from before there was a record.
    pub(crate) state: Option<State>,
}

/// The file, its state unread.
#[derive(serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct RecordFile<S> {
    schema_version: u64,
    finished: bool,
    files: BTreeSet<String>,
    state: S,
}

impl Record {
    /// The record of the run in the folder `dir`, which holds these `names`; `None` where there is no run.
    pub(crate) fn open(dir: &Path, names: &[String]) -> Result<Option<Record>, RunFolderError> {
        let path = dir.join(RUN_FILE);
        let no_record = |what: String| {
            RunFolderError::Record(format!("`{}` is no record of a run: {what}", path.display()))
        };
        let value: Value = match read_json(&path, LIMIT_BYTES) {
            Ok(value) => value,
            Err(ReadFileError::Io { source, .. }) if source.kind() == NotFound => {
                return Ok(of_old_run(dir, names));
            }
            Err(error) => return Err(RunFolderError::Record(error.to_string())),
        };
        let version = value.get("schema_version").cloned().unwrap_or_default();
        if version != SCHEMA_VERSION {
            let what = format!("its schema version is {version}, expected {SCHEMA_VERSION}");
            return Err(no_record(what));
        }
        let file: RecordFile<Value> =
            serde_json::from_value(value).map_err(|error| no_record(error.to_string()))?;
        let state = State::from_json(file.state, path.clone())
            .map_err(|error| RunFolderError::Record(error.to_string()))?;
        Ok(Some(Record { finished: file.finished, files: file.files, state: Some(state) }))
    }

    /// Writes the record of a run that has a state into the folder `dir`.
    pub(crate) fn write(&self, dir: &Path) -> Result<(), OutputError> {
        let Record { finished, ref files, ref state } = *self;
        let (schema_version, files) = (SCHEMA_VERSION, files.clone());
        let file = RecordFile { schema_version, finished, files, state };
        write_atomic_json(&dir.join(RUN_FILE), &file)
    }
}

/// What is known of a run that has no record; `None` if it is no run.
fn of_old_run(dir: &Path, names: &[String]) -> Option<Record> {
    let is_state = |name: &&String| is_checkpoint(name) && State::open(&dir.join(name)).is_ok();
    let is_run = is_log(&dir.join(METRICS_FILE)) || names.iter().any(|name| is_state(&name));
    is_run.then(|| {
        let files = names.iter().filter(|name| is_of_old_model(dir, name)).cloned().collect();
        Record { finished: false, files, state: None }
    })
}

/// Whether an old run wrote `name`, at the top of its folder `dir`, for its model after the last step.
fn is_of_old_model(dir: &Path, name: &str) -> bool {
    let is_there = |name: &str| dir.join(name).exists();
    let is_lora = ["adapter_model.safetensors", "best/adapter_model.safetensors"]
        .iter()
        .any(|name| is_there(name));
    match name {
        // It was the first; its first lines are always the same.
        "README.md" => fs::read_to_string(dir.join(name))
            .is_ok_and(|card| card.contains("product answers the query. Trained with Loriot on `")),
        _ if !MODEL_FILES.contains(&name) || !is_there("loriot.json") => false,
        "adapter_config.json" | "adapter_model.safetensors" => is_lora,
        "loriot.json"
        | "special_tokens_map.json"
        | "tokenizer.json"
        | "tokenizer_config.json"
        | "vocab.txt" => true,
        _ => !is_lora,
    }
}
