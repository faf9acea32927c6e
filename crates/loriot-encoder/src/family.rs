//! Roles of tensors, and families of models: which roles there are, and what files call them. No sizes, no numbers.

/// A linear layer inside an encoder layer, by what it does.
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
    /// First layer of the feed-forward block, `d -> f`.
    Intermediate,
    /// Second layer of the feed-forward block, `f -> d`.
    Output,
}

impl LinearKind {
    /// How many there are. Dropout masks count on the numbers of the kinds, so a new kind goes to the end.
    pub const COUNT: usize = 6;

    /// The input that this kind reads, counted in the order of the forward pass; kinds of one stage read the same.
    pub fn stage(self) -> usize {
        match self {
            LinearKind::Query | LinearKind::Key | LinearKind::Value => 0,
            LinearKind::AttentionOutput => 1,
            LinearKind::Intermediate => 2,
            LinearKind::Output => 3,
        }
    }
}

/// Inputs that the linear layers of an encoder layer read, [`LinearKind::stage`]'s range.
pub(crate) const N_STAGES: usize = 4;

/// One linear layer of the whole encoder. Orders as the forward pass runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinearSite {
    /// Encoder layer, from 0.
    pub layer: usize,
    /// Which of its linear layers.
    pub kind: LinearKind,
}

/// A LayerNorm inside an encoder layer, by where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NormKind {
    /// After the attention block and its residual.
    Attention,
    /// After the feed-forward block and its residual.
    Output,
}

/// A table that a token's embedding has a row of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TableKind {
    /// By token id.
    Word,
    /// By position in the text.
    Position,
    /// By segment; a text alone is segment 0.
    TokenType,
}

/// One of the two tensors of a linear layer or a LayerNorm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// `(outputs, inputs)` of a linear layer, `(d)` of a norm.
    Weight,
    /// One number for each output.
    Bias,
}

impl Part {
    pub(crate) const BOTH: [Part; 2] = [Part::Weight, Part::Bias];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Part::Weight => "weight",
            Part::Bias => "bias",
        }
    }
}

/// What a tensor does, whatever its family calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// An embedding table, `(rows, d)`.
    Table(TableKind),
    /// The norm of the sum of the embeddings.
    EmbeddingNorm(Part),
    /// A linear layer.
    Linear(LinearSite, Part),
    /// A norm inside the encoder layer of this number.
    Norm(usize, NormKind, Part),
    /// The layer on `[CLS]` that BERT was pre-trained with. No vector depends on it: it is kept to be written back,
    /// and a file may lack it.
    Pooler(Part),
}

impl Role {
    /// The encoder layer that the tensor belongs to.
    pub(crate) fn layer(self) -> Option<usize> {
        match self {
            Role::Linear(site, _) => Some(site.layer),
            Role::Norm(layer, ..) => Some(layer),
            _ => None,
        }
    }

    /// Whether the encoder computes nothing with it.
    pub fn is_unused(self) -> bool {
        matches!(self, Role::Pooler(_))
    }
}

/// What stands in an encoder layer.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Module {
    Linear(LinearKind),
    Norm(NormKind),
}

/// A family of models: which tensors they have, and what their files call them.
#[derive(Debug)]
pub struct Family {
    /// `model_type` in `config.json`.
    pub model_type: &'static str,
    /// The class of transformers that is the bare encoder.
    pub class: &'static str,
    /// What training may have wrapped the encoder in: prefixes of names, removed in this order.
    pub(crate) wrappers: &'static [&'static str],
    /// Names that older files use for the end of a name, and today's.
    pub(crate) old_ends: &'static [(&'static str, &'static str)],
    pub(crate) tables: &'static [(TableKind, &'static str)],
    pub(crate) embedding_norm: &'static str,
    /// The beginning of a linear layer's name that users of PEFT leave out.
    pub(crate) unsaid: &'static str,
    /// What stands before a layer's number.
    pub(crate) layers: &'static str,
    /// The modules of a layer, in the order in which their tensors are listed.
    pub(crate) modules: &'static [(Module, &'static str)],
    pub(crate) pooler: &'static str,
}

/// BERT, as `transformers.BertModel` defines it.
pub static BERT: Family = Family {
    model_type: "bert",
    class: "BertModel",
    wrappers: &["0.auto_model.", "0.model.", "model.", "bert."],
    old_ends: &[("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias")],
    tables: &[
        (TableKind::Word, "embeddings.word_embeddings"),
        (TableKind::Position, "embeddings.position_embeddings"),
        (TableKind::TokenType, "embeddings.token_type_embeddings"),
    ],
    embedding_norm: "embeddings.LayerNorm",
    unsaid: "attention.self.",
    layers: "encoder.layer",
    modules: &[
        (Module::Linear(LinearKind::Query), "attention.self.query"),
        (Module::Linear(LinearKind::Key), "attention.self.key"),
        (Module::Linear(LinearKind::Value), "attention.self.value"),
        (Module::Linear(LinearKind::AttentionOutput), "attention.output.dense"),
        (Module::Norm(NormKind::Attention), "attention.output.LayerNorm"),
        (Module::Linear(LinearKind::Intermediate), "intermediate.dense"),
        (Module::Linear(LinearKind::Output), "output.dense"),
        (Module::Norm(NormKind::Output), "output.LayerNorm"),
    ],
    pooler: "pooler.dense",
};

impl Family {
    /// The families that are known.
    pub const ALL: [&'static Family; 1] = [&BERT];

    /// The kinds of linear layers in an encoder layer, in the order of the forward pass.
    pub fn linear_kinds(&self) -> impl Iterator<Item = LinearKind> + use<> {
        let modules = self.modules;
        modules.iter().filter_map(|(module, _)| match module {
            Module::Linear(kind) => Some(*kind),
            Module::Norm(_) => None,
        })
    }

    /// Every linear layer of an encoder of this family, in the order of the forward pass.
    pub fn linear_sites(&self, n_layers: usize) -> impl Iterator<Item = LinearSite> + use<> {
        let kinds: Vec<LinearKind> = self.linear_kinds().collect();
        (0..n_layers).flat_map(move |layer| {
            kinds.clone().into_iter().map(move |kind| LinearSite { layer, kind })
        })
    }

    /// A linear layer's name inside its encoder layer, such as `attention.self.query`.
    ///
    /// # Panics
    ///
    /// If the family has no layer of this kind.
    pub fn suffix(&self, kind: LinearKind) -> &'static str {
        let found = self.modules.iter().find(|(m, _)| matches!(m, Module::Linear(k) if *k == kind));
        found.unwrap_or_else(|| panic!("{} has no {kind:?}", self.class)).1
    }

    /// A linear layer's full name, such as `encoder.layer.3.attention.self.query`.
    pub fn module_name(&self, site: LinearSite) -> String {
        format!("{}.{}.{}", self.layers, site.layer, self.suffix(site.kind))
    }

    /// A tensor's name, without a wrapper's prefix.
    ///
    /// # Panics
    ///
    /// If the family has no tensor for it.
    pub fn tensor_name(&self, role: Role) -> String {
        let (module, part) = match role {
            Role::Table(table) => {
                let found = self.tables.iter().find(|(kind, _)| *kind == table);
                let (_, name) = found.unwrap_or_else(|| panic!("{} has no {table:?}", self.class));
                ((*name).to_owned(), Part::Weight)
            }
            Role::EmbeddingNorm(part) => (self.embedding_norm.to_owned(), part),
            Role::Linear(site, part) => (self.module_name(site), part),
            Role::Norm(layer, kind, part) => {
                let is_it = |module: &Module| matches!(module, Module::Norm(k) if *k == kind);
                let found = self.modules.iter().find(|(module, _)| is_it(module));
                let (_, suffix) = found.unwrap_or_else(|| panic!("{} has no {kind:?}", self.class));
                (format!("{}.{layer}.{suffix}", self.layers), part)
            }
            Role::Pooler(part) => (self.pooler.to_owned(), part),
        };
        format!("{module}.{}", part.name())
    }

    /// The number of the layer that a tensor of this name belongs to, as written; `None` outside the layers.
    pub(crate) fn layer_in_name<'a>(&self, name: &'a str) -> Option<&'a str> {
        let rest = name.strip_prefix(self.layers)?.strip_prefix('.')?;
        let (number, _) = rest.split_once('.')?;
        let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        is_number.then_some(number)
    }

    /// The pooler's name, which rules about linear layers may pick.
    pub(crate) fn pooler_name(&self) -> &'static str {
        self.pooler
    }

    /// A file's name for a tensor, without wrappers' prefixes and by today's names.
    pub(crate) fn canonical_name(&self, key: &str) -> String {
        let name = self.unwrapped(key);
        for (old, new) in self.old_ends {
            if let Some(start) = name.strip_suffix(old) {
                return format!("{start}{new}");
            }
        }
        name.to_owned()
    }

    /// `name` without what its training wrapped the encoder in.
    pub(crate) fn unwrapped<'a>(&self, name: &'a str) -> &'a str {
        let strip = |name: &'a str, prefix: &&str| name.strip_prefix(prefix).unwrap_or(name);
        self.wrappers.iter().fold(name, strip)
    }
}

impl PartialEq for Family {
    /// Whether both are the family of one `model_type`.
    fn eq(&self, other: &Family) -> bool {
        self.model_type == other.model_type
    }
}
