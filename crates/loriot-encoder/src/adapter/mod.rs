//! LoRA: small trained matrices beside frozen linear layers, in PEFT's files.
//!
//! ```text
//! y = x·Wᵀ + bias + scale·(x·Aᵀ)·Bᵀ      scale = alpha / r, or alpha / √r (rank-stabilised)
//! A is (r, i), B is (o, r)               merged: W += scale·B·A
//! ```
//!
//! Biases, embedding tables and norms can be trained beside the factors; they stand in the adapter's file whole.
//!
//! An adapter is refused when it does not fit the model tensor by tensor, or uses something of
//! PEFT's that would change its result and is not known here. Nothing of it is ever left out but a
//! pooler's part, which no vector here depends on, and then a note says so.
//!
//! In reading order: `targets` a choice of layers · [`config`] what `adapter_config.json` says · `rules` which
//! layers it means · [`whole`] what is trained whole · `layer` one adapted layer and
//! its weight · `init` how factors start · `decompose` singular values · `combine` several adapters as one, or one weaker ·
//! `files` reading and writing the folder.

mod combine;
pub mod config;
mod decompose;
mod files;
mod init;
mod layer;
mod rules;
mod targets;
pub mod whole;

use crate::architecture::{Family, LinearSite, Part, Role};
use crate::config::Config;
pub use crate::error::AdapterError;
use crate::weights::Weights;
use crate::weights::tensor_writer::le_bytes;
use crate::workers::Workers;
pub use combine::Combination;
pub use config::{Bias, Init, LoraConfig};
pub(crate) use layer::Numbers;
pub use layer::{LoraModule, Start};
use loriot_files::Sha256Hasher;
use rules::Planned;
use std::borrow::Cow;
pub use targets::{EmptyName, Targets};
pub use whole::WholeTensor;

/// One of the trained tensors of an adapted layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Factor {
    /// `(r, i)`, [`LoraModule::a_ri`].
    A,
    /// `(o, r)`, [`LoraModule::b_or`].
    B,
    /// `(o)`, [`LoraModule::magnitude_o`].
    Magnitude,
}

impl Factor {
    /// All, in the order of the files.
    pub const ALL: [Factor; 3] = [Factor::A, Factor::B, Factor::Magnitude];

    /// What stands after a module's name in PEFT's files.
    pub(crate) fn end(self) -> &'static str {
        match self {
            Factor::A => ".lora_A.weight",
            Factor::B => ".lora_B.weight",
            Factor::Magnitude => ".lora_magnitude_vector",
        }
    }

    /// The tensor's key in PEFT's files, such as `base_model.model.encoder.layer.0.output.dense.lora_A.weight`.
    pub fn key(self, family: &Family, site: LinearSite) -> String {
        format!("{ROOT}{}{}", family.module_name(site), self.end())
    }
}

/// What PEFT puts before every key of an adapter's file.
pub(crate) const ROOT: &str = "base_model.model.";

/// A whole adapter.
#[derive(Clone, Debug, PartialEq)]
pub struct Adapter {
    /// The family of its model; the adapter's files use that family's names.
    pub family: &'static Family,
    /// What is written as `adapter_config.json`: its targets and patterns mean exactly `modules`,
    /// by names without a wrapper's prefix.
    pub config: LoraConfig,
    /// In the order of the forward pass.
    pub modules: Vec<LoraModule>,
    /// Tensors of the model that it replaces, in the model's order.
    pub whole: Vec<WholeTensor>,
    /// What the user should know about how the adapter was read.
    pub notes: Vec<String>,
}

impl Adapter {
    /// A new adapter for the model of these `weights` that changes nothing yet: A random and B zero, or both taken out
    /// of the weight.
    ///
    /// The numbers depend on `seed`, their place and the weight alone, not on what else is targeted.
    pub fn init(
        lora: &LoraConfig,
        config: &Config,
        weights: &Weights,
        workers: &Workers,
        seed: u64,
    ) -> Result<Adapter, AdapterError> {
        lora.check()?;
        let plan = rules::plan(lora, config, "")?;
        rules::check_asked(lora, &plan, config)?;
        check_ranks(lora, &plan, config)?;
        // Singular values take a while.
        let modules = workers.map(plan.modules.iter().collect(), |planned: &Planned| {
            let Planned { site, r, alpha } = *planned;
            let role = Role::Linear(site, Part::Weight);
            let weight_oi = weights.of(role);
            let (shape, scale) = (site.kind.shape(config), lora.scale(r, alpha));
            let init::Factors { a_ri, b_or, is_in_weight } =
                init::factors(lora.init, seed, site, &weight_oi, shape, (r, scale));
            let start = is_in_weight.then(|| Start { a_ri: a_ri.clone(), b_or: b_or.clone() });
            let magnitude_o = lora.use_dora.then(|| layer::row_norms(&weight_oi, shape.1));
            weights.release(role);
            LoraModule { site, r, scale, a_ri, b_or, magnitude_o, start }
        });
        Ok(Adapter {
            family: config.family,
            modules,
            whole: plan
                .whole
                .iter()
                .map(|spec| WholeTensor {
                    role: spec.role,
                    shape: spec.shape.clone(),
                    values: weights.of(spec.role).into_owned(),
                })
                .collect(),
            config: rules::canonical(lora, &plan, config)?,
            notes: Vec::new(),
        })
    }

    /// Adds the adapter to the weights it was trained for: `W += scale·B·A`.
    ///
    /// The product is summed in f64 and rounded to f32 once, with the weight. On an error the
    /// weights of the layers before the named one have been changed.
    pub fn merge_into(&self, weights: &mut Weights) -> Result<(), AdapterError> {
        for module in &self.modules {
            let role = Role::Linear(module.site, Part::Weight);
            let mut weight_oi = weights.of(role).into_owned();
            weights.release(role);
            module.numbers().apply(&mut weight_oi);
            if let Some(at) = weight_oi.iter().position(|value| !value.is_finite()) {
                let (module, value) = (self.family.module_name(module.site), weight_oi[at]);
                return Err(AdapterError::Overflow { module, at, value });
            }
            weights.set(role, weight_oi);
        }
        for WholeTensor { role, values, .. } in &self.whole {
            weights.set(*role, values.clone());
        }
        Ok(())
    }

    /// The adapter that does the same to the model as its files had it, as it is written: PiSSA's and OLoRA's begin in
    /// the weights, and are converted as PEFT does it, to twice the rank and as much alpha as keeps the scale.
    pub fn standing_alone(&self) -> Cow<'_, Adapter> {
        if self.modules.iter().all(|module| module.start.is_none()) {
            return Cow::Borrowed(self);
        }
        Cow::Owned(Adapter {
            modules: self.modules.iter().map(LoraModule::standing_alone).collect(),
            config: self.config.of_twice_the_rank(),
            ..self.clone()
        })
    }

    /// A hash of all that decides what the adapter changes: layers, scales, the bits of A and B, and tensors that it
    /// replaces.
    pub fn sha256(&self) -> String {
        let mut hasher = Sha256Hasher::new();
        for module in &self.modules {
            hasher.field(self.family.module_name(module.site).as_bytes());
            hasher.field(&module.scale.to_le_bytes());
            hasher.field(&le_bytes(&module.a_ri));
            hasher.field(&le_bytes(&module.b_or));
            // Nothing where there are none, here and below, so that the hash is that of versions that knew none.
            if let Some(magnitude_o) = &module.magnitude_o {
                hasher.field(&le_bytes(magnitude_o));
            }
            if let Some(Start { a_ri, b_or }) = &module.start {
                hasher.field(b"start");
                hasher.field(&le_bytes(a_ri));
                hasher.field(&le_bytes(b_or));
            }
        }
        for WholeTensor { role, values, .. } in &self.whole {
            hasher.field(self.family.tensor_name(*role).as_bytes());
            hasher.field(&le_bytes(values));
        }
        hasher.finish()
    }
}

/// Refuses ranks that a start from the weights cannot have: they have as many directions as their smaller side.
fn check_ranks(lora: &LoraConfig, plan: &rules::Plan, config: &Config) -> Result<(), AdapterError> {
    if !lora.init.is_in_weight() {
        return Ok(());
    }
    let largest = |planned: &&Planned| {
        let (o, i) = planned.site.kind.shape(config);
        planned.r > o.min(i)
    };
    match plan.modules.iter().find(largest) {
        Some(planned) => Err(AdapterError::Range {
            what: "rank",
            found: planned.r.to_string(),
            expected: "at most the smaller side of the weight that the factors are taken from",
        }),
        None => Ok(()),
    }
}
