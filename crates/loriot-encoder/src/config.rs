//! The sizes of a model and its family, from `config.json`.
//!
//! Only what BERT computes is read; an entry that would make the model compute something else is
//! refused. What stands here and decides a vector without being in the weights must also stand in
//! [`crate::identity`]. Every size is held to a limit before anything is allocated by it. The file itself is
//! kept, so that a merged model can carry it on.

use crate::error::ModelError;
use crate::family::{BERT, Family};
use loriot_files::read_json;
use loriot_kernels::activation::Activation;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// Largest `config.json` that is read.
const MAX_BYTES: u64 = 1 << 20;

/// The shape of an encoder.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Which tensors there are, and what files call them.
    pub family: &'static Family,
    /// Rows of the word embedding.
    pub vocab_size: usize,
    /// Width of the hidden states, `d`.
    pub hidden_size: usize,
    /// Encoder layers.
    pub n_layers: usize,
    /// Attention heads; divides `hidden_size`.
    pub n_heads: usize,
    /// Width of the feed-forward block.
    pub intermediate_size: usize,
    /// Rows of the position embedding: the longest text in tokens.
    pub max_positions: usize,
    /// Rows of the token type embedding; texts use row 0.
    pub type_vocab_size: usize,
    /// The epsilon of every LayerNorm.
    pub layer_norm_eps: f32,
    /// Between the two layers of the feed-forward block.
    pub activation: Activation,
    /// Dropout of hidden states in training.
    pub hidden_dropout: f32,
    /// Dropout of attention probabilities in training.
    pub attention_dropout: f32,
    /// The file as read, to be written back.
    pub json: Map<String, Value>,
}

impl Config {
    /// Reads `config.json` in `dir`.
    pub fn open(dir: &Path) -> Result<Config, ModelError> {
        let path = dir.join("config.json");
        if !path.exists() {
            let adapter = dir.join("adapter_config.json");
            if adapter.exists() {
                let json: Map<String, Value> = read_json(&adapter, MAX_BYTES)?;
                let base = json.get("base_model_name_or_path").and_then(Value::as_str);
                let base = base.filter(|base| !base.is_empty()).map(str::to_owned);
                return Err(ModelError::IsAdapter { dir: dir.to_owned(), base });
            }
            return Err(ModelError::NoFile { dir: dir.to_owned(), wanted: "`config.json`" });
        }
        let json: Map<String, Value> = read_json(&path, MAX_BYTES)?;
        let fields = Fields { path, json: &json };
        let family = fields.family()?;
        fields.check_kind()?;
        let config = Config {
            family,
            vocab_size: fields.size("vocab_size", None, 1 << 22)?,
            hidden_size: fields.size("hidden_size", None, 1 << 14)?,
            n_layers: fields.size("num_hidden_layers", None, 256)?,
            n_heads: fields.size("num_attention_heads", None, 1 << 10)?,
            intermediate_size: fields.size("intermediate_size", None, 1 << 17)?,
            max_positions: fields.size("max_position_embeddings", None, 1 << 17)?,
            type_vocab_size: fields.size("type_vocab_size", Some(2), 1 << 10)?,
            layer_norm_eps: fields.fraction("layer_norm_eps", 1e-12)?,
            activation: fields.activation()?,
            hidden_dropout: fields.fraction("hidden_dropout_prob", 0.1)?,
            attention_dropout: fields.fraction("attention_probs_dropout_prob", 0.1)?,
            json: Map::new(),
        };
        if !config.hidden_size.is_multiple_of(config.n_heads) {
            let expected = format!("a divisor of `hidden_size` {}", config.hidden_size);
            return Err(fields.wrong("num_attention_heads", &expected));
        }
        if config.max_positions < 3 {
            return Err(fields.wrong("max_position_embeddings", "at least 3"));
        }
        Ok(Config { json, ..config })
    }

    /// Width of one attention head.
    pub fn head_width(&self) -> usize {
        self.hidden_size / self.n_heads
    }
}

/// The entries of one `config.json`, with its path for messages.
struct Fields<'a> {
    path: PathBuf,
    json: &'a Map<String, Value>,
}

impl Fields<'_> {
    fn found(&self, key: &str) -> String {
        self.json.get(key).map_or("missing".into(), |value| format!("`{value}`"))
    }

    fn wrong(&self, key: &str, expected: &str) -> ModelError {
        ModelError::Field {
            path: self.path.clone(),
            key: key.into(),
            found: self.found(key),
            expected: expected.into(),
        }
    }

    fn unsupported(&self, what: String, supported: &'static str) -> ModelError {
        ModelError::Unsupported { path: self.path.clone(), what, supported }
    }

    /// A whole number in `1..=limit`.
    fn size(&self, key: &str, default: Option<usize>, limit: u64) -> Result<usize, ModelError> {
        let value = match (self.json.get(key), default) {
            (None | Some(Value::Null), Some(default)) => return Ok(default),
            (value, _) => value.and_then(Value::as_u64),
        };
        match value {
            Some(size) if (1..=limit).contains(&size) => Ok(size as usize),
            _ => Err(self.wrong(key, &format!("a whole number from 1 to {limit}"))),
        }
    }

    /// A number in `0.0..1.0`.
    fn fraction(&self, key: &str, default: f64) -> Result<f32, ModelError> {
        let value = match self.json.get(key) {
            None | Some(Value::Null) => Some(default),
            Some(value) => value.as_f64(),
        };
        match value {
            Some(value) if (0.0..1.0).contains(&value) => Ok(value as f32),
            _ => Err(self.wrong(key, "a number from 0 up to 1")),
        }
    }

    fn activation(&self) -> Result<Activation, ModelError> {
        match self.json.get("hidden_act") {
            None | Some(Value::Null) => Ok(Activation::Gelu),
            Some(value) => match value.as_str() {
                Some("gelu" | "gelu_python") => Ok(Activation::Gelu),
                Some("gelu_new" | "gelu_pytorch_tanh") => Ok(Activation::GeluTanh),
                Some("relu") => Ok(Activation::Relu),
                _ => Err(self.unsupported(
                    format!("`hidden_act` {}", self.found("hidden_act")),
                    "`gelu`, `gelu_new`, `gelu_pytorch_tanh` and `relu`",
                )),
            },
        }
    }

    /// The family that `model_type` names.
    fn family(&self) -> Result<&'static Family, ModelError> {
        match self.json.get("model_type").and_then(Value::as_str) {
            Some(name) => Family::ALL
                .into_iter()
                .find(|family| family.model_type == name)
                .ok_or_else(|| self.unsupported(format!("`model_type` `{name}`"), "`bert`")),
            None => Err(self.wrong("model_type", &format!("`{}`", BERT.model_type))),
        }
    }

    /// Refuses a model that is not a plain BERT encoder.
    fn check_kind(&self) -> Result<(), ModelError> {
        let position = self.json.get("position_embedding_type");
        if !matches!(position, None | Some(Value::Null))
            && position.and_then(Value::as_str) != Some("absolute")
        {
            let found = self.found("position_embedding_type");
            return Err(
                self.unsupported(format!("`position_embedding_type` {found}"), "`absolute`")
            );
        }
        for (key, supported) in [
            ("is_decoder", "encoders, which see the whole text"),
            ("add_cross_attention", "encoders alone"),
            ("quantization_config", "f32, f16 and bf16 weights"),
        ] {
            if !matches!(self.json.get(key), None | Some(Value::Null | Value::Bool(false))) {
                return Err(self.unsupported(format!("`{key}`"), supported));
            }
        }
        // Repositories with their own modelling code reuse the type `bert` for other computations.
        let own_code = self.json.get("auto_map").and_then(|map| map.get("AutoModel"));
        if let Some(code) = own_code {
            let what = format!("a model with its own code ({code})");
            return Err(self.unsupported(what, "BERT as transformers defines it"));
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use loriot_files::Hint;
    use serde_json::json;

    fn bert() -> Value {
        json!({
            "model_type": "bert", "vocab_size": 10, "hidden_size": 8, "num_hidden_layers": 2,
            "num_attention_heads": 2, "intermediate_size": 16, "max_position_embeddings": 12,
            "hidden_act": "gelu", "hidden_dropout_prob": 0.0, "architectures": ["BertModel"]
        })
    }

    fn open(json: &Value) -> Result<Config, ModelError> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.json"), json.to_string()).unwrap();
        Config::open(dir.path())
    }

    /// Two layers of width 8.
    pub(crate) fn config() -> Config {
        open(&bert()).unwrap()
    }

    fn refusal(key: &str, value: Value) -> String {
        let mut json = bert();
        json[key] = value;
        let error = open(&json).unwrap_err();
        assert!(error.hint().is_some(), "{error}");
        error.to_string()
    }

    #[test]
    fn a_config_is_read_with_the_defaults_of_bert() {
        let config = open(&bert()).unwrap();
        assert_eq!((config.hidden_size, config.n_layers, config.head_width()), (8, 2, 4));
        assert_eq!((config.hidden_dropout, config.attention_dropout), (0.0, 0.1));
        assert_eq!((config.type_vocab_size, config.layer_norm_eps), (2, 1e-12));
        assert_eq!(config.json["architectures"], json!(["BertModel"]));
    }

    #[test]
    fn other_model_types_are_refused_by_name() {
        for other in ["roberta", "xlm-roberta", "distilbert", "nomic_bert"] {
            let message = refusal("model_type", json!(other));
            assert!(message.contains(&format!("`model_type` `{other}` is not supported")));
            assert!(message.ends_with("this version knows `bert`"), "{message}");
        }
        assert!(refusal("model_type", Value::Null).contains("expected `bert`"));
    }

    #[test]
    fn what_would_compute_something_else_is_refused() {
        assert!(refusal("position_embedding_type", json!("relative_key")).contains("absolute"));
        assert!(refusal("hidden_act", json!("swish")).contains("`hidden_act` `\"swish\"`"));
        assert!(refusal("is_decoder", json!(true)).contains("`is_decoder`"));
        assert!(refusal("quantization_config", json!({})).contains("`quantization_config`"));
        assert!(refusal("auto_map", json!({"AutoModel": "x.y"})).contains("its own code"));
    }

    #[test]
    fn sizes_outside_their_range_are_refused_with_found_and_expected() {
        let message = refusal("vocab_size", json!(1u64 << 60));
        assert!(message.contains("`vocab_size` is `1152921504606846976`"), "{message}");
        assert!(message.ends_with("expected a whole number from 1 to 4194304"), "{message}");
        for (key, value) in [
            ("hidden_size", json!(0)),
            ("hidden_size", json!(-1)),
            ("hidden_size", json!("8")),
            ("num_hidden_layers", json!(257)),
            ("num_attention_heads", json!(3)),
            ("hidden_dropout_prob", json!(1.0)),
            ("layer_norm_eps", json!("tiny")),
            ("max_position_embeddings", json!(2)),
        ] {
            assert!(refusal(key, value).contains(&format!("`{key}` is ")));
        }
        let mut json = bert();
        json.as_object_mut().unwrap().remove("hidden_size");
        assert!(open(&json).unwrap_err().to_string().contains("`hidden_size` is missing"));
    }

    #[test]
    fn a_missing_or_broken_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = Config::open(dir.path()).unwrap_err();
        assert!(error.to_string().ends_with("has no `config.json`"), "{error}");
        std::fs::write(dir.path().join("config.json"), "[1, 2]").unwrap();
        let error = Config::open(dir.path()).unwrap_err();
        assert!(error.to_string().contains("not the expected JSON"), "{error}");
    }
}
