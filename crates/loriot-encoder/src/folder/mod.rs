//! What a model folder says beside its weights and tokens: pooling, norm, prompts, longest text.
//!
//! Read in both layouts of sentence-transformers (the one that every version writes, and that of
//! 5.4 and later); without its files a folder means mean pooling and unit vectors, and a note says
//! so. Written in the old layout, which everything reads:
//!
//! ```text
//! config.json                         the base's, for f32 weights without a prefix
//! model.safetensors                   f32
//! tokenizer.json, tokenizer_config.json, special_tokens_map.json, vocab.txt (if the base has it)
//! modules.json                        Transformer, Pooling, Normalize
//! 1_Pooling/config.json               word_embedding_dimension, pooling_mode_*_tokens
//! sentence_bert_config.json           max_seq_length, do_lower_case
//! config_sentence_transformers.json   prompts, default_prompt_name (the document's, if there is one), similarity_fn_name
//! ```
//!
//! [`settings`] is what Loriot itself leaves beside an adapter, `loriot.json`.

mod sentence_transformers;
pub mod settings;

use crate::config::Config;
use crate::error::{ModelError, SaveError};
use crate::tokenizer::Tokenizer;
use crate::weights::Weights;
use loriot_files::write_atomic_json;
use serde_json::{Value, json};
pub use settings::{Base, Settings, TrainedOn};
use std::path::{Path, PathBuf};

/// How the hidden states of a text become one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pooling {
    /// The mean over all tokens, `[CLS]` and `[SEP]` included.
    Mean,
    /// The first token's.
    Cls,
}

impl Pooling {
    /// As files have it.
    pub fn name(self) -> &'static str {
        match self {
            Pooling::Mean => "mean",
            Pooling::Cls => "cls",
        }
    }
}

/// What is put before a text, by its role.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prompts {
    /// Before a query, such as `query: `.
    pub query: String,
    /// Before a document, such as `passage: `.
    pub document: String,
}

/// A model folder, but for weights and tokens.
#[derive(Clone, Debug)]
pub struct ModelFolder {
    /// Where `config.json`, the weights and the tokenizer lie; a folder inside the one given when
    /// `modules.json` says so, as sentence-transformers did before version 2.
    pub path: PathBuf,
    /// As the user gave it.
    pub name: String,
    /// The architecture.
    pub config: Config,
    /// How hidden states become a vector.
    pub pooling: Pooling,
    /// Whether vectors get the norm 1.
    pub normalize: bool,
    /// What is put before a text.
    pub prompts: Prompts,
    /// The longest text in tokens, special ones included, at most the model's positions. `None`
    /// when no file says it.
    pub max_length: Option<usize>,
    /// What the user should know about how the folder was read.
    pub notes: Vec<String>,
}

impl ModelFolder {
    /// Reads everything but weights and tokens. `name` is the path; the caller may put what the
    /// user gave instead.
    pub fn open(path: &Path) -> Result<ModelFolder, ModelError> {
        let layout = sentence_transformers::Layout::open(path)?;
        let config = Config::open(&layout.transformer)?;
        let mut notes = Vec::new();
        let (pooling, normalize) = match &layout.pooling {
            Some(dir) => {
                let pooling = sentence_transformers::open_pooling(dir, config.hidden_size)?;
                (pooling, layout.normalize)
            }
            None => {
                notes.push(format!(
                    "`{}` has no `modules.json`: mean pooling and unit vectors are assumed",
                    path.display()
                ));
                (Pooling::Mean, true)
            }
        };
        let mut max_length = sentence_transformers::open_max_length(&layout.transformer)?;
        if let Some(longer) = max_length.filter(|&length| length > config.max_positions) {
            notes.push(format!(
                "the folder allows texts of {longer} tokens, the model has {} positions: longer \
                 texts are cut there",
                config.max_positions
            ));
            max_length = Some(config.max_positions);
        }
        Ok(ModelFolder {
            path: layout.transformer,
            name: path.display().to_string(),
            pooling,
            normalize,
            prompts: sentence_transformers::open_prompts(path)?,
            max_length,
            config,
            notes,
        })
    }

    /// Fills the existing, empty folder `dest` (best a `NewDir`'s) with a model of this
    /// architecture, pooling, prompts and tokenizer, with these weights.
    pub fn write(
        &self,
        dest: &Path,
        weights: &Weights,
        tokenizer: &Tokenizer,
        max_length: usize,
    ) -> Result<(), SaveError> {
        weights.write(&dest.join("model.safetensors"))?;
        tokenizer.write(dest)?;
        let write = |name: &str, value: Value| write_atomic_json(&dest.join(name), &value);
        write("config.json", self.config_json())?;
        write("modules.json", self.modules_json())?;
        write(
            "1_Pooling/config.json",
            // No newer keys: sentence-transformers 2.0 takes no others.
            json!({
                "word_embedding_dimension": self.config.hidden_size,
                "pooling_mode_cls_token": self.pooling == Pooling::Cls,
                "pooling_mode_mean_tokens": self.pooling == Pooling::Mean,
                "pooling_mode_max_tokens": false,
                "pooling_mode_mean_sqrt_len_tokens": false,
            }),
        )?;
        write(
            "sentence_bert_config.json",
            json!({
                "max_seq_length": max_length,
                "do_lower_case": tokenizer.lowercases_first(),
            }),
        )?;
        let Prompts { query, document } = &self.prompts;
        let prompts = match (query.as_str(), document.as_str()) {
            ("", "") => json!({}),
            (query, document) => json!({ "query": query, "document": document }),
        };
        // `encode` without a prompt's name is what embeds a collection; a query has `encode_query`.
        let default_prompt = if document.is_empty() { Value::Null } else { json!("document") };
        write(
            "config_sentence_transformers.json",
            json!({
                "__version__": { "loriot": env!("CARGO_PKG_VERSION") },
                "prompts": prompts,
                "default_prompt_name": default_prompt,
                "similarity_fn_name": "cosine",
            }),
        )?;
        Ok(())
    }

    /// `README.md` of a folder that [`ModelFolder::write`] filled with this base and `adapter` folded in, both as the user
    /// named them.
    pub fn merged_card(&self, adapter: &str, max_length: usize) -> String {
        let Prompts { query, document } = &self.prompts;
        let prompts = match (query.as_str(), document.as_str()) {
            ("", "") => "Texts have no prompt.".to_owned(),
            (query, document) => format!(
                "`encode_query` puts {} before a text, `encode_document` {}. Plain `encode` reads every text as a {}.",
                Value::from(query),
                Value::from(document),
                if document.is_empty() {
                    "text without a prompt"
                } else {
                    "document; use `encode_query` for queries"
                }
            ),
        };
        format!(
            "---\n\
             base_model: {}\n\
             library_name: sentence-transformers\n\
             pipeline_tag: sentence-similarity\n\
             tags:\n\
             - semantic-search\n\
             - loriot\n\
             ---\n\n\
             # An encoder for product search\n\n\
             `{}` with the adapter `{adapter}` folded in by Loriot. Queries and product titles become vectors of {} \
             numbers and length 1, whose inner product says how well the product answers the query. Texts are cut at \
             {max_length} tokens. {prompts}\n\n\
             ```python\n\
             from sentence_transformers import SentenceTransformer\n\n\
             model = SentenceTransformer(\".\")  # this folder\n\
             queries = model.encode_query([\"red kettle\"])\n\
             products = model.encode_document([\"Kettle, red, 1.7 l\", \"Toaster\"])\n\
             print(queries @ products.T)\n\
             ```\n\n\
             With Loriot: `loriot index --model FOLDER --input products.csv --output shop`.\n",
            Value::from(self.name.as_str()),
            self.name,
            self.config.hidden_size,
        )
    }

    /// The base's `config.json`, changed where the weights written beside it differ.
    fn config_json(&self) -> Value {
        let mut json = self.config.json.clone();
        json.insert("architectures".into(), json!([self.config.family.class]));
        for key in ["torch_dtype", "dtype"] {
            if json.contains_key(key) {
                json.insert(key.into(), json!("float32"));
            }
        }
        Value::Object(json)
    }

    fn modules_json(&self) -> Value {
        let modules = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")];
        let kept = if self.normalize { &modules[..] } else { &modules[..2] };
        let entries = kept.iter().enumerate().map(|(idx, (path, kind))| {
            json!({
                "idx": idx,
                "name": idx.to_string(),
                "path": path,
                "type": format!("sentence_transformers.models.{kind}"),
            })
        });
        entries.collect()
    }
}
