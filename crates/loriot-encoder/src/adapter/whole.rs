//! Tensors that an adapter holds whole: the biases that `bias` picks, and the modules of `modules_to_save`.
//!
//! ```text
//! bias              none | lora_only: of adapted linear layers | all: of every linear layer and norm
//! modules_to_save   modules whose name ends with an entry: embedding tables and norms
//! ```
//!
//! A linear layer is not saved whole: its adapter is what trains it, and `loriot train --full` trains it whole. A file's
//! tensors are named as in the model, but for the biases of adapted layers, which PEFT puts below `base_layer`. Nothing
//! depends on the pooler: its tensors are left out, and a new adapter cannot ask for them.

use super::ROOT;
use super::config::Bias;
use super::rules::Planned;
use crate::architecture::{Family, LinearSite, Part, Role, TensorSpec};
use crate::config::Config;
use crate::error::AdapterError;
use std::collections::BTreeSet;

/// A tensor of the model as the adapter has it.
#[derive(Clone, Debug, PartialEq)]
pub struct WholeTensor {
    /// Which one.
    pub role: Role,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its numbers, row-major.
    pub values: Vec<f32>,
}

/// The module that a tensor of this name belongs to.
fn module_of(tensor: &str) -> &str {
    tensor.rsplit_once('.').map_or("", |(module, _)| module)
}

/// Whether an entry of `modules_to_save` means the pooler alone.
pub(super) fn is_pooler(family: &Family, entry: &str) -> bool {
    let pooler = family.pooler_name();
    entry == pooler || pooler.split_once('.').is_some_and(|(parent, _)| entry == parent)
}

/// The modules that entries of `modules_to_save` pick in a model whose names begin with `prefix`: a module's name ends
/// with the entry, as in PEFT also within a word. The pooler is left out; an entry that picks anything else but tables
/// and norms is refused.
pub(super) fn saved(
    entries: &[String],
    config: &Config,
    prefix: &str,
) -> Result<BTreeSet<String>, AdapterError> {
    let specs = config.family.tensors(config);
    let of_kind = |can_be_saved: bool| {
        let is_right = move |role: Role| match role {
            Role::Table(_) | Role::EmbeddingNorm(_) | Role::Norm(..) => can_be_saved,
            Role::Linear(..) | Role::Pooler(_) => !can_be_saved,
        };
        specs.iter().filter(move |spec| is_right(spec.role)).map(|spec| module_of(&spec.name))
    };
    let mut saved = BTreeSet::new();
    for entry in entries.iter().filter(|entry| !is_pooler(config.family, entry)) {
        let picks = |name: &str| format!("{prefix}{name}").ends_with(entry.as_str());
        let has_parent = |name: &str| name.match_indices('.').any(|(at, _)| picks(&name[..at]));
        let mut all = of_kind(true).chain(of_kind(false));
        let is_wrong = of_kind(false).any(picks) || all.any(has_parent);
        saved.extend(of_kind(true).filter(|name| picks(name)).map(str::to_owned));
        if is_wrong || entry.is_empty() || !of_kind(true).any(picks) {
            return Err(not_saved(entry, of_kind(true)));
        }
    }
    Ok(saved)
}

/// Why an entry of `modules_to_save` cannot be honoured, with the ends of the names that could be given.
fn not_saved<'a>(entry: &str, names: impl Iterator<Item = &'a str>) -> AdapterError {
    let last = |name: &'a str| name.rsplit_once('.').map_or(name, |(_, last)| last);
    let ends: BTreeSet<&str> = names.map(last).collect();
    let available = ends.into_iter().collect::<Vec<_>>().join(", ");
    AdapterError::NotSaved { entry: entry.to_owned(), available }
}

/// Refuses entries that training cannot honour.
pub(super) fn check_asked(entries: &[String], config: &Config) -> Result<(), AdapterError> {
    match entries.iter().find(|entry| is_pooler(config.family, entry)) {
        Some(entry) => {
            let specs = config.family.tensors(config);
            let others = specs.iter().filter(|spec| {
                matches!(spec.role, Role::Table(_) | Role::EmbeddingNorm(_) | Role::Norm(..))
            });
            Err(not_saved(entry, others.map(|spec| module_of(&spec.name))))
        }
        None => Ok(()),
    }
}

/// The tensors that are trained whole, in the order of the model's.
pub(super) fn roles(
    bias: Bias,
    saved: &BTreeSet<String>,
    adapted: &[Planned],
    config: &Config,
) -> Vec<TensorSpec> {
    let is_adapted = |site: LinearSite| adapted.iter().any(|planned| planned.site == site);
    let is_trained = |spec: &TensorSpec| match spec.role {
        Role::Pooler(_) => false,
        Role::Linear(site, Part::Bias) if bias == Bias::LoraOnly => is_adapted(site),
        Role::Linear(_, Part::Bias)
        | Role::Norm(.., Part::Bias)
        | Role::EmbeddingNorm(Part::Bias)
            if bias == Bias::All =>
        {
            true
        }
        _ => saved.contains(module_of(&spec.name)),
    };
    let specs = config.family.tensors(config).into_iter();
    specs.filter(is_trained).collect()
}

/// `entries` without the pooler; by the whole names of the modules they pick where they would mean others in a model
/// without a prefix.
pub(super) fn canonical(
    entries: &[String],
    prefix: &str,
    config: &Config,
) -> Result<Vec<String>, AdapterError> {
    let wanted = saved(entries, config, prefix)?;
    let entries: Vec<String> =
        entries.iter().filter(|entry| !is_pooler(config.family, entry)).cloned().collect();
    let is_same = saved(&entries, config, "").is_ok_and(|again| again == wanted);
    Ok(if is_same { entries } else { wanted.into_iter().collect() })
}

/// The key of a tensor in PEFT's files; `is_adapted` says which linear layers the adapter adapts.
pub(crate) fn key(family: &Family, role: Role, is_adapted: impl Fn(LinearSite) -> bool) -> String {
    match role {
        Role::Linear(site, part) if is_adapted(site) => {
            format!("{ROOT}{}{BASE_LAYER}.{}", family.module_name(site), part.name())
        }
        _ => format!("{ROOT}{}", family.tensor_name(role)),
    }
}

/// What PEFT calls an adapted layer's own module.
pub(super) const BASE_LAYER: &str = ".base_layer";
