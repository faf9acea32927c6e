//! Names and shapes of the linear layers of an encoder.
//!
//! The names are those of `transformers.BertModel` without a prefix, as PEFT's targets and
//! safetensors' keys have them.

use crate::config::Config;

/// One of the six linear layers of an encoder layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LinearKind {
    /// Query projection, `d -> d`.
    Query,
    /// Key projection, `d -> d`.
    Key,
    /// Value projection, `d -> d`.
    Value,
    /// Projection after attention, `d -> d`.
    AttentionOutput,
    /// First layer of the feed-forward block, `d -> intermediate_size`.
    Intermediate,
    /// Second layer of the feed-forward block, `intermediate_size -> d`.
    Output,
}

impl LinearKind {
    /// All six, in the order of the forward pass.
    pub const ALL: [LinearKind; 6] = [
        LinearKind::Query,
        LinearKind::Key,
        LinearKind::Value,
        LinearKind::AttentionOutput,
        LinearKind::Intermediate,
        LinearKind::Output,
    ];

    /// The module's name inside its layer, as in `encoder.layer.N.<suffix>`.
    pub fn suffix(self) -> &'static str {
        match self {
            LinearKind::Query => "attention.self.query",
            LinearKind::Key => "attention.self.key",
            LinearKind::Value => "attention.self.value",
            LinearKind::AttentionOutput => "attention.output.dense",
            LinearKind::Intermediate => "intermediate.dense",
            LinearKind::Output => "output.dense",
        }
    }

    /// Which of the four inputs of a layer this reads: query, key and value share the first.
    pub fn stage(self) -> usize {
        (self as usize).saturating_sub(LinearKind::Value as usize)
    }

    /// `(outputs, inputs)` in a model of this configuration.
    pub fn shape(self, config: &Config) -> (usize, usize) {
        let (d, f) = (config.hidden_size, config.intermediate_size);
        match self {
            LinearKind::Intermediate => (f, d),
            LinearKind::Output => (d, f),
            _ => (d, d),
        }
    }
}

/// One linear layer of the whole encoder. Orders as the forward pass runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinearSite {
    /// Encoder layer, from 0.
    pub layer: usize,
    /// Which of its linear layers.
    pub kind: LinearKind,
}

impl LinearSite {
    /// Every linear layer of the encoder, in the order of the forward pass.
    pub fn all(n_layers: usize) -> impl Iterator<Item = LinearSite> {
        (0..n_layers).flat_map(|layer| {
            LinearKind::ALL.into_iter().map(move |kind| LinearSite { layer, kind })
        })
    }

    /// The module's full name, such as `encoder.layer.3.attention.self.query`.
    pub fn name(self) -> String {
        format!("encoder.layer.{}.{}", self.layer, self.kind.suffix())
    }
}
