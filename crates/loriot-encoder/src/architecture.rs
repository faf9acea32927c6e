//! What an encoder is made of: the tensors of a family of models, their roles, shapes and names in files.
//!
//! Everything else asks by [`Role`]; no other module spells the name of a tensor, knows how many there are or in
//! which order they stand. A [`Family`] says which roles there are and what its files call them. Shapes follow from
//! the role and the sizes in [`Config`]. A new family is one more description here, and whatever its mathematics
//! adds to the passes.
//!
//! What BERT computes with them (`n` tokens, width `d`, feed-forward width `f`):
//!
//! ```text
//! x = LN(word[id] + position[p] + token_type[0])                          Table, EmbeddingNorm
//! each layer:  stage 0   c = attention(x·Wᵀ + b of query, key and value)  Linear(Query, Key, Value)
//!              stage 1   m = LN(x + c·Wᵀ + b)                             Linear(AttentionOutput), Norm(Attention)
//!              stage 2   h = activation(m·Wᵀ + b)                         Linear(Intermediate)
//!              stage 3   x = LN(m + h·Wᵀ + b)                             Linear(Output), Norm(Output)
//! ```

use crate::config::Config;
use std::ops::Range;

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
    /// How many there are. Dropout sites and the random start of adapters count on the numbers of the kinds: a new
    /// kind goes to the end.
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

    /// `(outputs, inputs)` in a model of this configuration.
    pub fn shape(self, config: &Config) -> (usize, usize) {
        let (d, f) = (config.hidden_size, config.intermediate_size);
        match self {
            LinearKind::Intermediate => (f, d),
            LinearKind::Output => (d, f),
            _ => (d, d),
        }
    }

    /// The columns of this kind's outputs in the matrix that its stage computes. Query, key and value stand side by
    /// side in one, `3d` wide.
    pub(crate) fn columns(self, config: &Config) -> Range<usize> {
        let (o, _) = self.shape(config);
        match self {
            LinearKind::Key => o..2 * o,
            LinearKind::Value => 2 * o..3 * o,
            _ => 0..o,
        }
    }
}

/// Inputs that the linear layers of an encoder layer read, [`LinearKind::stage`]'s range.
pub(crate) const N_STAGES: usize = 4;

/// The kinds whose weights are packed as one layer, side by side.
pub(crate) const QKV: [LinearKind; 3] = [LinearKind::Query, LinearKind::Key, LinearKind::Value];

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
    const BOTH: [Part; 2] = [Part::Weight, Part::Bias];

    fn name(self) -> &'static str {
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

/// A tensor that a model has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// What it does.
    pub role: Role,
    /// What files call it, without a wrapper's prefix.
    pub name: String,
    /// Row-major, as PyTorch has it.
    pub shape: Vec<usize>,
}

/// What stands in an encoder layer.
#[derive(Clone, Copy, Debug)]
enum Module {
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
    tables: &'static [(TableKind, &'static str)],
    embedding_norm: &'static str,
    /// What stands before a layer's number.
    layers: &'static str,
    /// The modules of a layer, in the order in which their tensors are listed.
    modules: &'static [(Module, &'static str)],
    pooler: &'static str,
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

    /// Every tensor of a model of this configuration in canonical order: embeddings, the layers from the first, the
    /// pooler last.
    pub fn tensors(&self, config: &Config) -> Vec<TensorSpec> {
        let d = config.hidden_size;
        let mut tensors = Vec::new();
        for &(table, module) in self.tables {
            let rows = match table {
                TableKind::Word => config.vocab_size,
                TableKind::Position => config.max_positions,
                TableKind::TokenType => config.type_vocab_size,
            };
            let name = format!("{module}.weight");
            tensors.push(TensorSpec { role: Role::Table(table), name, shape: vec![rows, d] });
        }
        let mut pair = |module: String, weight: Vec<usize>, role: &dyn Fn(Part) -> Role| {
            let bias = vec![weight[0]];
            for (part, shape) in Part::BOTH.into_iter().zip([weight, bias]) {
                let name = format!("{module}.{}", part.name());
                tensors.push(TensorSpec { role: role(part), name, shape });
            }
        };
        pair(self.embedding_norm.to_owned(), vec![d], &Role::EmbeddingNorm);
        for layer in 0..config.n_layers {
            for (module, suffix) in self.modules {
                let name = format!("{}.{layer}.{suffix}", self.layers);
                match *module {
                    Module::Linear(kind) => {
                        let (o, i) = kind.shape(config);
                        let site = LinearSite { layer, kind };
                        pair(name, vec![o, i], &|part| Role::Linear(site, part));
                    }
                    Module::Norm(kind) => {
                        pair(name, vec![d], &|part| Role::Norm(layer, kind, part));
                    }
                }
            }
        }
        pair(self.pooler.to_owned(), vec![d, d], &Role::Pooler);
        tensors
    }
}

impl PartialEq for Family {
    /// Whether both are the family of one `model_type`.
    fn eq(&self, other: &Family) -> bool {
        self.model_type == other.model_type
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::adapter::{Adapter, LoraConfig};
    use crate::config::tests::config;
    use crate::weights::Weights;
    use crate::weights::tensor_file::write_tensors;
    use std::collections::{HashMap, HashSet};
    use std::path::Path;

    /// DistilBERT's names over BERT's roles, to show that nothing outside this file spells a name.
    pub(crate) static RENAMED: Family = Family {
        model_type: "renamed",
        class: "RenamedModel",
        wrappers: &["distilbert."],
        old_ends: &[],
        embedding_norm: "embeddings.LayerNorm",
        layers: "transformer.layer",
        modules: &[
            (Module::Linear(LinearKind::Query), "attention.q_lin"),
            (Module::Linear(LinearKind::Key), "attention.k_lin"),
            (Module::Linear(LinearKind::Value), "attention.v_lin"),
            (Module::Linear(LinearKind::AttentionOutput), "attention.out_lin"),
            (Module::Norm(NormKind::Attention), "sa_layer_norm"),
            (Module::Linear(LinearKind::Intermediate), "ffn.lin1"),
            (Module::Linear(LinearKind::Output), "ffn.lin2"),
            (Module::Norm(NormKind::Output), "output_layer_norm"),
        ],
        ..BERT_LIKE
    };

    const BERT_LIKE: Family = Family {
        model_type: "bert",
        class: "BertModel",
        wrappers: &[],
        old_ends: &[],
        tables: &[
            (TableKind::Word, "embeddings.word_embeddings"),
            (TableKind::Position, "embeddings.position_embeddings"),
            (TableKind::TokenType, "embeddings.token_type_embeddings"),
        ],
        embedding_norm: "",
        layers: "",
        modules: &[],
        pooler: "pooler.dense",
    };

    #[test]
    fn every_tensor_has_a_role_and_a_name_of_its_own() {
        let config = config();
        for family in [&BERT, &RENAMED] {
            let tensors = family.tensors(&config);
            assert_eq!(tensors.len(), 3 + 2 + 16 * config.n_layers + 2);
            let roles: HashSet<Role> = tensors.iter().map(|tensor| tensor.role).collect();
            let names: HashSet<&str> = tensors.iter().map(|tensor| tensor.name.as_str()).collect();
            assert_eq!((roles.len(), names.len()), (tensors.len(), tensors.len()));
        }
    }

    /// A model and an adapter whose files have other names: read and written by role, with the same numbers.
    #[test]
    fn a_family_is_told_by_its_description_alone() {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/tiny_bert");
        let bert = Config::open(&golden).unwrap();
        let renamed = Config { family: &RENAMED, ..bert.clone() };
        let weights = Weights::open(&golden, &bert).unwrap();
        let wrapped = |name: &str| format!("distilbert.{name}");
        let roles: HashMap<String, Role> = RENAMED
            .tensors(&renamed)
            .into_iter()
            .map(|spec| (wrapped(&spec.name), spec.role))
            .collect();
        let specs = RENAMED.tensors(&renamed).into_iter();
        let specs = specs.map(|spec| (wrapped(&spec.name), spec.shape)).collect();

        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("model.safetensors");
        write_tensors(&file, specs, |name| weights.of(roles[name])).unwrap();
        let read = Weights::open(dir.path(), &renamed).unwrap();
        assert!(read.contains("transformer.layer.1.attention.q_lin.weight"));
        assert!(weights.specs().all(|spec| read.of(spec.role) == weights.of(spec.role)));

        let lora = LoraConfig { targets: "q_lin,lin2".parse().unwrap(), ..LoraConfig::default() };
        let adapter = Adapter::init(&lora, &renamed, 7).unwrap();
        let kinds: Vec<_> = adapter.modules.iter().map(|module| module.site.kind).collect();
        assert_eq!(kinds[..2], [LinearKind::Query, LinearKind::Output]);
        adapter.write(dir.path()).unwrap();
        assert_eq!(Adapter::open(dir.path(), &renamed).unwrap(), adapter);
        assert!(Adapter::open(dir.path(), &bert).is_err());
    }

    #[test]
    fn names_and_shapes_are_those_of_transformers() {
        let tensors = BERT.tensors(&config());
        let shape = |name: &str| -> &[usize] {
            &tensors.iter().find(|tensor| tensor.name == name).expect(name).shape
        };
        assert_eq!(shape("embeddings.word_embeddings.weight"), [10, 8]);
        assert_eq!(shape("encoder.layer.1.attention.output.LayerNorm.bias"), [8]);
        assert_eq!(shape("encoder.layer.0.intermediate.dense.weight"), [16, 8]);
        assert_eq!(shape("encoder.layer.0.output.dense.weight"), [8, 16]);
        assert_eq!(shape("pooler.dense.bias"), [8]);
    }

    #[test]
    fn files_names_lose_wrappers_and_old_ends() {
        let name = BERT.canonical_name("bert.embeddings.LayerNorm.gamma");
        assert_eq!(name, "embeddings.LayerNorm.weight");
        let name = BERT.canonical_name("0.auto_model.encoder.layer.0.output.LayerNorm.beta");
        assert_eq!(name, "encoder.layer.0.output.LayerNorm.bias");
        assert_eq!(BERT.canonical_name("classifier.weight"), "classifier.weight");
    }

    #[test]
    fn the_columns_of_a_stage_lie_side_by_side() {
        let config = config();
        assert_eq!(LinearKind::COUNT, BERT.linear_kinds().count());
        for stage in 0..N_STAGES {
            let mut end = 0;
            for kind in BERT.linear_kinds().filter(|kind| kind.stage() == stage) {
                let columns = kind.columns(&config);
                assert_eq!((columns.start, columns.len()), (end, kind.shape(&config).0));
                end = columns.end;
            }
            assert!(end > 0);
        }
    }
}
