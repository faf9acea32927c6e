//! How far down the gradient goes. The forward pass keeps activations only from there on.

use crate::architecture::{LinearKind, LinearSite};

/// How far down the gradient has to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Depth {
    /// To the embedding tables: full fine-tuning.
    Embeddings,
    /// To the parameters of this linear layer, the lowest with an adapter.
    Site(LinearSite),
    /// Nowhere: nothing is trained.
    Nowhere,
}

impl Depth {
    /// Whether the gradient by the input of this linear layer is wanted by anything below it. Query,
    /// key and value read the same input, so none of them stands below another.
    pub(crate) fn passes(self, layer: usize, kind: LinearKind) -> bool {
        match self {
            Depth::Embeddings => true,
            Depth::Site(lowest) => (lowest.layer, lowest.kind.stage()) < (layer, kind.stage()),
            Depth::Nowhere => false,
        }
    }

    /// Whether the gradient by the result of this linear layer is wanted at all.
    pub(crate) fn reaches(self, layer: usize, kind: LinearKind) -> bool {
        match self {
            Depth::Embeddings => true,
            Depth::Site(lowest) => (lowest.layer, lowest.kind.stage()) <= (layer, kind.stage()),
            Depth::Nowhere => false,
        }
    }

    /// The lowest layer with something trained, of `n_layers`; `n_layers` where nothing is.
    pub(crate) fn lowest_layer(self, n_layers: usize) -> usize {
        match self {
            Depth::Embeddings => 0,
            Depth::Site(site) => site.layer,
            Depth::Nowhere => n_layers,
        }
    }
}
