//! What decides a document's vector, as one hash and part by part.
//!
//! The identity is SHA-256 over these fields, each after its length:
//!
//! ```text
//! "loriot document encoder 2"
//! weights, adapter               SHA-256 each; the adapter's is empty where there is none
//! computation                    name and value of each field of `Computation`, in its order
//! document prompt
//! maximum length                 u64 little-endian
//! ```
//!
//! Version 1 knew no computation but the pooling, and hashed the tokenizer as the crate `tokenizers` writes it.
//! Catalogues and checkpoints of that version are still read, so it can still be computed.
//!
//! A change to either table needs a new version, and a test that still recognises the old ones.

use crate::base::Base;
use crate::folder::{ModelFolder, Pooling};
use loriot_files::Sha256Hasher;
use loriot_kernels::activation::Activation;

/// How an encoder makes a vector of a text, beside the numbers in its weights and its adapter.
///
/// Stored beside the identity, so that a difference can be named.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct Computation {
    /// The family of models.
    pub model_type: String,
    /// Encoder layers.
    pub num_hidden_layers: usize,
    /// Attention heads.
    pub num_attention_heads: usize,
    /// The activation, by the one name that stands for all that mean it.
    pub hidden_act: String,
    /// The epsilon of every LayerNorm.
    pub layer_norm_eps: f32,
    /// How a token's position enters.
    pub position_embedding_type: String,
    /// How the hidden states become one vector.
    pub pooling: String,
    /// What comes after pooling.
    pub head: String,
    /// [`crate::tokenizer::Tokenizer::sha256`]; not written where it is empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub tokenizer: String,
}

impl Computation {
    pub(crate) fn new(folder: &ModelFolder, tokenizer: &str) -> Computation {
        let config = &folder.config;
        let hidden_act = match config.activation {
            Activation::Gelu => "gelu",
            Activation::GeluTanh => "gelu_pytorch_tanh",
            Activation::Relu => "relu",
        };
        Computation {
            model_type: config.family.model_type.into(),
            num_hidden_layers: config.n_layers,
            num_attention_heads: config.n_heads,
            hidden_act: hidden_act.into(),
            layer_norm_eps: config.layer_norm_eps,
            // `Config` refuses every other.
            position_embedding_type: "absolute".into(),
            pooling: folder.pooling.name().into(),
            // A folder without Normalize gets unit vectors too: its own wish changes nothing.
            head: "unit vector".into(),
            tokenizer: tokenizer.into(),
        }
    }

    /// Name and value of each part. An f32 is written with the fewest digits that read back as the same bits.
    fn parts(&self) -> [(&'static str, String); 9] {
        [
            ("model_type", self.model_type.clone()),
            ("num_hidden_layers", self.num_hidden_layers.to_string()),
            ("num_attention_heads", self.num_attention_heads.to_string()),
            ("hidden_act", self.hidden_act.clone()),
            ("layer_norm_eps", format!("{:e}", self.layer_norm_eps)),
            ("position_embedding_type", self.position_embedding_type.clone()),
            ("pooling", self.pooling.clone()),
            ("head", self.head.clone()),
            ("tokenizer", self.tokenizer.clone()),
        ]
    }

    /// The first part that differs from `expected`: its name, the value here and the expected one.
    pub fn difference(&self, expected: &Computation) -> Option<(&'static str, String, String)> {
        let mut pairs = self.parts().into_iter().zip(expected.parts());
        let (found, expected) = pairs.find(|(found, expected)| found != expected)?;
        Some((found.0, found.1, expected.1))
    }
}

/// What identifies an encoder, before it is hashed.
pub(crate) struct Parts<'a> {
    pub(crate) base: &'a Base,
    pub(crate) computation: &'a Computation,
    /// SHA-256 of the adapter; empty where there is none.
    pub(crate) adapter: &'a str,
    pub(crate) document_prompt: &'a str,
    pub(crate) max_length: usize,
}

impl Parts<'_> {
    /// The identity of today's version.
    pub(crate) fn identity(&self) -> String {
        let mut hasher = Sha256Hasher::new();
        hasher.field(b"loriot document encoder 2");
        hasher.field(self.base.identity.as_bytes());
        hasher.field(self.adapter.as_bytes());
        for (name, value) in self.computation.parts() {
            hasher.field(name.as_bytes());
            hasher.field(value.as_bytes());
        }
        hasher.field(self.document_prompt.as_bytes());
        hasher.field(&(self.max_length as u64).to_le_bytes());
        hasher.finish()
    }

    /// The identity that version 1 gave this encoder.
    pub(crate) fn identity_v1(&self) -> String {
        let mut hasher = Sha256Hasher::new();
        hasher.field(b"loriot document encoder 1");
        hasher.field(self.base.identity.as_bytes());
        hasher.field(self.adapter.as_bytes());
        hasher.field(self.base.tokenizer_v1.as_bytes());
        hasher.field(match self.base.folder.pooling {
            Pooling::Mean => b"mean",
            Pooling::Cls => b"cls",
        });
        hasher.field(self.document_prompt.as_bytes());
        hasher.field(&(self.max_length as u64).to_le_bytes());
        hasher.finish()
    }
}
