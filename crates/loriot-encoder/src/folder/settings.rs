//! `loriot.json`: what every later command must agree on with the training that left it.
//!
//! ```text
//! schema_version    1
//! query_prompt      text put before a query
//! document_prompt   text put before a document
//! max_length        longest text in tokens, special ones included
//! pooling           "mean" or "cls"
//! normalize         whether vectors get the norm 1
//! base              {"name": as the user gave it, "sha256": of its weights}
//! trained_on        {"text_template": of products' texts or null, "label_scale": "LOW:HIGH"};
//!                   missing in files from before December 2026
//! ```
//!
//! A change to this table needs a new version, and a test that still opens version 1.

use super::{ModelFolder, Pooling};
use crate::error::{ModelError, OpenError};
use loriot_files::{OutputError, read_json, write_atomic_json};
use serde_json::{Map, Value};
use std::path::Path;

const FILE: &str = "loriot.json";
const MAX_BYTES: u64 = 1 << 20;
const VERSION: u64 = 1;

/// The base model of a training run.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Base {
    /// As the user gave it.
    pub name: String,
    /// [`crate::weights::Weights::sha256`] of its weights.
    pub sha256: String,
}

/// How the rows were read that a model was trained on.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct TrainedOn {
    /// What products' texts were made of, instead of one column.
    pub text_template: Option<String>,
    /// Lowest and highest label, as `LOW:HIGH`.
    pub label_scale: String,
}

/// What stands in `loriot.json`.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Settings {
    /// Text put before a query.
    pub query_prompt: String,
    /// Text put before a document.
    pub document_prompt: String,
    /// Longest text in tokens, special ones included.
    pub max_length: usize,
    /// How hidden states become a vector.
    pub pooling: Pooling,
    /// Whether vectors get the norm 1.
    pub normalize: bool,
    /// The base model.
    pub base: Base,
    /// The training rows, where they are known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trained_on: Option<TrainedOn>,
}

impl Settings {
    /// Reads `loriot.json` in `dir`; `None` when there is none, as in folders of other tools.
    pub fn open(dir: &Path) -> Result<Option<Settings>, ModelError> {
        let path = dir.join(FILE);
        if !path.exists() {
            return Ok(None);
        }
        let mut json: Map<String, Value> = read_json(&path, MAX_BYTES)?;
        let field = |key: &str, found: String, expected: &str| ModelError::Field {
            path: path.clone(),
            key: key.into(),
            found,
            expected: expected.into(),
        };
        let version = json.remove("schema_version");
        if version.as_ref().and_then(Value::as_u64) != Some(VERSION) {
            let found = version.map_or("missing".into(), |version| version.to_string());
            return Err(field("schema_version", found, "1, the only one this version knows"));
        }
        let settings: Settings = serde_json::from_value(Value::Object(json))
            .map_err(|error| field("settings", format!("unusable ({error})"), "version 1"))?;
        if settings.max_length < 3 {
            return Err(field("max_length", settings.max_length.to_string(), "at least 3"));
        }
        Ok(Some(settings))
    }

    /// Refuses a base that is not the one these settings were left by: other weights, or another way from hidden
    /// states to a vector. `adapter` is the name of the folder they stand in, as given.
    pub fn check(&self, adapter: &str, base: &crate::Base) -> Result<(), OpenError> {
        if self.base.sha256 != base.identity() {
            return Err(OpenError::OtherBase {
                adapter: adapter.to_owned(),
                wanted: short(&self.base.sha256),
                wanted_name: self.base.name.clone(),
                model: base.folder().name.clone(),
                found: short(base.identity()),
            });
        }
        self.check_reading(adapter, base.folder())
    }

    /// Refuses a model folder that pools otherwise, and vectors of another length than 1, which are not made here.
    pub(crate) fn check_reading(&self, place: &str, folder: &ModelFolder) -> Result<(), OpenError> {
        let (key, expected, found) = if self.pooling != folder.pooling {
            ("pooling", self.pooling.name(), folder.pooling.name())
        } else if !self.normalize {
            ("normalize", "false", "true")
        } else {
            return Ok(());
        };
        Err(OpenError::OtherReading {
            place: place.to_owned(),
            key,
            expected,
            model: folder.name.clone(),
            found,
            base: self.base.name.clone(),
        })
    }

    /// Writes `loriot.json` into `dir`.
    pub fn write(&self, dir: &Path) -> Result<(), OutputError> {
        #[derive(serde::Serialize)]
        struct File<'a> {
            schema_version: u64,
            #[serde(flatten)]
            settings: &'a Settings,
        }
        write_atomic_json(&dir.join(FILE), &File { schema_version: VERSION, settings: self })
    }
}

/// The first twelve characters of a hash; a file may hold anything in its place.
fn short(sha256: &str) -> String {
    sha256.chars().take(12).collect()
}
