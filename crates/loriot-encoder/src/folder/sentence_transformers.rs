//! The files of sentence-transformers, in the layout of versions 2 to 5.3 and in that of 5.4.
//!
//! Both name the modules by their Python classes, whose paths changed: the last part counts. A
//! module that would change the vectors and is not known here is refused.

use super::{Pooling, Prompts};
use crate::error::ModelError;
use crate::weights::inside;
use loriot_files::read_json;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// Largest of these files that is read.
const MAX_BYTES: u64 = 16 << 20;
/// `model_max_length` above this means that nobody set it: transformers writes 1e30.
const MAX_LENGTH: f64 = 1e6;
const KNOWN: &str = "Transformer, Pooling and Normalize, in this order";

/// Where `modules.json` says things are.
pub(super) struct Layout {
    /// The folder of `config.json`, weights and tokenizer.
    pub(super) transformer: PathBuf,
    /// The folder of the pooling's `config.json`; `None` without `modules.json`.
    pub(super) pooling: Option<PathBuf>,
    pub(super) normalize: bool,
}

#[derive(serde::Deserialize)]
struct Module {
    #[serde(rename = "type")]
    class: String,
    path: String,
}

impl Layout {
    pub(super) fn open(dir: &Path) -> Result<Layout, ModelError> {
        let path = dir.join("modules.json");
        if !path.exists() {
            return Ok(Layout { transformer: dir.to_owned(), pooling: None, normalize: true });
        }
        let modules: Vec<Module> = read_json(&path, MAX_BYTES)?;
        let kinds: Vec<&str> =
            modules.iter().map(|module| last_part(module.class.as_str())).collect();
        let normalize = match kinds[..] {
            ["Transformer", "Pooling"] => false,
            ["Transformer", "Pooling", "Normalize"] => true,
            _ => {
                let known = ["Transformer", "Pooling", "Normalize"];
                let what = match kinds.iter().find(|kind| !known.contains(kind)) {
                    Some(other) => format!("the module `{other}`"),
                    None => format!("the list of modules [{}]", kinds.join(", ")),
                };
                return Err(ModelError::Unsupported { path, what, supported: KNOWN });
            }
        };
        let folder = |module: &Module| {
            if module.path.is_empty() {
                return Ok(dir.to_owned());
            }
            inside(dir, &module.path).ok_or_else(|| ModelError::Outside {
                path: path.clone(),
                name: module.path.clone(),
            })
        };
        let layout = Layout {
            transformer: folder(&modules[0])?,
            pooling: Some(folder(&modules[1])?),
            normalize,
        };
        expect_texts(
            &layout.transformer.join("sentence_bert_config.json"),
            &[
                ("transformer_task", "feature-extraction"),
                ("module_output_name", "token_embeddings"),
            ],
        )?;
        if let Some(module) = modules.get(2) {
            expect_texts(
                &folder(module)?.join("config.json"),
                &[
                    ("module_input_name", "sentence_embedding"),
                    ("module_output_name", "sentence_embedding"),
                ],
            )?;
        }
        Ok(layout)
    }
}

fn last_part(class: &str) -> &str {
    class.rsplit('.').next().unwrap_or(class)
}

/// Refuses a file, if it is there, in which one of these entries is something else.
fn expect_texts(path: &Path, expected: &[(&'static str, &'static str)]) -> Result<(), ModelError> {
    let json = open_object(path)?;
    for &(key, supported) in expected {
        if json.get(key).is_some_and(|found| found.as_str() != Some(supported)) {
            let (path, what) = (path.to_owned(), format!("`{key}` {}", json[key]));
            return Err(ModelError::Unsupported { path, what, supported });
        }
    }
    Ok(())
}

/// A JSON object, empty when the file is not there.
fn open_object(path: &Path) -> Result<Map<String, Value>, ModelError> {
    Ok(if path.exists() { read_json(path, MAX_BYTES)? } else { Map::new() })
}

/// Reads the pooling's `config.json` in `dir`, for a model of width `hidden_size`.
pub(super) fn open_pooling(dir: &Path, hidden_size: usize) -> Result<Pooling, ModelError> {
    let path = dir.join("config.json");
    let json: Map<String, Value> = read_json(&path, MAX_BYTES)?;
    let unsupported = |what: String| ModelError::Unsupported {
        path: path.clone(),
        what,
        supported: "mean and CLS pooling over the whole text",
    };
    for key in ["embedding_dimension", "word_embedding_dimension"] {
        if json.get(key).is_some_and(|width| width.as_u64() != Some(hidden_size as u64)) {
            return Err(ModelError::Field {
                path,
                key: key.into(),
                found: json[key].to_string(),
                expected: format!("{hidden_size}, the `hidden_size` of `config.json`"),
            });
        }
    }
    if json.get("include_prompt").and_then(Value::as_bool) == Some(false) {
        return Err(unsupported("pooling without the prompt's tokens (`include_prompt`)".into()));
    }
    let modes: Vec<&str> = match json.get("pooling_mode") {
        Some(Value::String(mode)) => vec![mode],
        Some(Value::Array(modes)) => modes.iter().filter_map(Value::as_str).collect(),
        _ => {
            let on = json.iter().filter(|(_, on)| on.as_bool() == Some(true));
            on.filter_map(|(key, _)| key.strip_prefix("pooling_mode_")).collect()
        }
    };
    match modes[..] {
        ["mean" | "mean_tokens"] => Ok(Pooling::Mean),
        ["cls" | "cls_token"] => Ok(Pooling::Cls),
        [] => Err(ModelError::Field {
            path,
            key: "pooling_mode".into(),
            found: "missing".into(),
            expected: "`mean` or `cls`".into(),
        }),
        _ => Err(unsupported(format!("the pooling `{}`", modes.join(" + ")))),
    }
}

/// The longest text in tokens that the folder's files allow.
pub(super) fn open_max_length(transformer: &Path) -> Result<Option<usize>, ModelError> {
    let places = [
        ("sentence_bert_config.json", "max_seq_length"),
        ("tokenizer_config.json", "model_max_length"),
    ];
    for (file, key) in places {
        let path = transformer.join(file);
        let value = match open_object(&path)?.remove(key) {
            None | Some(Value::Null) => continue,
            Some(value) => value,
        };
        match value.as_f64() {
            Some(length) if length > MAX_LENGTH => continue,
            Some(length) if length >= 3.0 && length.fract() == 0.0 => {
                return Ok(Some(length as usize));
            }
            _ => {
                return Err(ModelError::Field {
                    path,
                    key: key.into(),
                    found: value.to_string(),
                    expected: "a whole number from 3, two of them for special tokens".into(),
                });
            }
        }
    }
    Ok(None)
}

/// Prompts of queries and documents, else the default one, else none.
pub(super) fn open_prompts(dir: &Path) -> Result<Prompts, ModelError> {
    let path = dir.join("config_sentence_transformers.json");
    let json = open_object(&path)?;
    let default = json.get("default_prompt_name").and_then(Value::as_str);
    let prompt = |names: &[&str]| -> Result<String, ModelError> {
        let Some(Value::Object(prompts)) = json.get("prompts") else { return Ok(String::new()) };
        for name in names.iter().copied().chain(default) {
            match prompts.get(name) {
                None | Some(Value::Null) => {}
                Some(Value::String(prompt)) => return Ok(prompt.clone()),
                Some(other) => {
                    return Err(ModelError::Field {
                        path: path.clone(),
                        key: format!("prompts.{name}"),
                        found: other.to_string(),
                        expected: "a text".into(),
                    });
                }
            }
        }
        Ok(String::new())
    };
    Ok(Prompts {
        query: prompt(&["query"])?,
        document: prompt(&["document", "passage", "corpus"])?,
    })
}
