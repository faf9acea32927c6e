//! What an encoder is made of: the tensors of a family of models, their roles, shapes and names in files.
//!
//! Everything else asks by [`Role`]; no other module spells the name of a tensor, knows how many there are or in
//! which order they stand. A [`Family`] says which roles there are and what its files call them. Shapes follow from
//! the role and the sizes in [`Config`]. A new family is one more description in `family`, and whatever its
//! mathematics adds to the passes. Still BERT's alone: the keys of `config.json` (`config`), a table of token types, a
//! bias with every weight, and blocks that end in a norm, as below.
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
pub use crate::family::{BERT, Family, LinearKind, LinearSite, NormKind, Part, Role, TableKind};
pub(crate) use crate::family::{Module, N_STAGES};
use std::ops::Range;

/// The kinds whose weights are packed as one layer, side by side.
pub(crate) const QKV: [LinearKind; 3] = [LinearKind::Query, LinearKind::Key, LinearKind::Value];

impl LinearKind {
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

impl Family {
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
        unsaid: "attention.",
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
        unsaid: "",
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
            assert!(tensors.iter().all(|tensor| family.tensor_name(tensor.role) == tensor.name));
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

        let workers = crate::workers::Workers::start(1).unwrap();
        let lora = LoraConfig { targets: "q_lin,lin2".parse().unwrap(), ..LoraConfig::default() };
        let adapter = Adapter::init(&lora, &renamed, &read, &workers, 7).unwrap();
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
