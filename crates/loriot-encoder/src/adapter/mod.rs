//! LoRA: small trained matrices beside frozen linear layers, in PEFT's files.
//!
//! ```text
//! y = x·Wᵀ + bias + scale·(x·Aᵀ)·Bᵀ      scale = alpha / r, or alpha / √r (rank-stabilised)
//! A is (r, i), B is (o, r)               merged: W += scale·B·A
//! ```
//!
//! An adapter is refused when it does not fit the model tensor by tensor, or uses something of
//! PEFT's that would change its result and is not known here. Nothing of it is ever left out but a
//! pooler's part, which no vector here depends on, and then a note says so.
//!
//! In reading order: `targets` a choice of layers · [`config`] what `adapter_config.json` says · `rules` which
//! layers it means · `init` how A starts · `files` reading and writing the folder.

pub mod config;
mod files;
mod init;
mod rules;
mod targets;

use crate::architecture::{Family, LinearSite, Part, Role};
use crate::config::Config;
pub use crate::error::AdapterError;
use crate::weights::Weights;
use crate::weights::tensor_writer::le_bytes;
pub use config::{Init, LoraConfig};
use loriot_files::Sha256Hasher;
pub use targets::{EmptyName, Targets};

/// One adapted linear layer.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraModule {
    /// Which layer.
    pub site: LinearSite,
    /// Rank.
    pub r: usize,
    /// What `B·A` is multiplied with.
    pub scale: f32,
    /// The first matrix, `(r, i)`.
    pub a_ri: Vec<f32>,
    /// The second matrix, `(o, r)`.
    pub b_or: Vec<f32>,
}

/// One of the trained tensors of an adapted layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Factor {
    /// `(r, i)`, [`LoraModule::a_ri`].
    A,
    /// `(o, r)`, [`LoraModule::b_or`].
    B,
}

impl Factor {
    /// Both, in the order of the files.
    pub const ALL: [Factor; 2] = [Factor::A, Factor::B];

    /// What stands after a module's name in PEFT's files.
    pub(crate) fn end(self) -> &'static str {
        match self {
            Factor::A => ".lora_A.weight",
            Factor::B => ".lora_B.weight",
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
    /// What the user should know about how the adapter was read.
    pub notes: Vec<String>,
}

impl Adapter {
    /// A new adapter that changes nothing yet: A random, B zero.
    ///
    /// The numbers depend on `seed` and on their place alone, not on what else is targeted.
    pub fn init(lora: &LoraConfig, config: &Config, seed: u64) -> Result<Adapter, AdapterError> {
        lora.check()?;
        let plan = rules::plan(lora, config, "")?;
        rules::check_asked(lora, &plan, config)?;
        let modules = plan.modules.iter().map(|planned| {
            let (o, i) = planned.site.kind.shape(config);
            LoraModule {
                site: planned.site,
                r: planned.r,
                scale: lora.scale(planned.r, planned.alpha),
                a_ri: init::matrix(lora.init, seed, planned.site, (planned.r, i)),
                b_or: vec![0.0; o * planned.r],
            }
        });
        Ok(Adapter {
            family: config.family,
            modules: modules.collect(),
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
            module.add_to(&mut weight_oi);
            if let Some(at) = weight_oi.iter().position(|value| !value.is_finite()) {
                let (module, value) = (self.family.module_name(module.site), weight_oi[at]);
                return Err(AdapterError::Overflow { module, at, value });
            }
            weights.set(role, weight_oi);
        }
        Ok(())
    }

    /// A hash of all that decides what the adapter adds: layers, scales and the bits of A and B.
    pub fn sha256(&self) -> String {
        let mut hasher = Sha256Hasher::new();
        for module in &self.modules {
            hasher.field(self.family.module_name(module.site).as_bytes());
            hasher.field(&module.scale.to_le_bytes());
            hasher.field(&le_bytes(&module.a_ri));
            hasher.field(&le_bytes(&module.b_or));
        }
        hasher.finish()
    }
}

impl LoraModule {
    /// The numbers of one of its tensors, row-major.
    pub fn factor(&self, factor: Factor) -> &[f32] {
        match factor {
            Factor::A => &self.a_ri,
            Factor::B => &self.b_or,
        }
    }

    pub(crate) fn factor_mut(&mut self, factor: Factor) -> &mut Vec<f32> {
        match factor {
            Factor::A => &mut self.a_ri,
            Factor::B => &mut self.b_or,
        }
    }

    /// The shape of one of its tensors.
    pub fn shape(&self, factor: Factor) -> Vec<usize> {
        let (r, n) = (self.r, self.factor(factor).len());
        match factor {
            Factor::A => vec![r, n / r],
            Factor::B => vec![n / r, r],
        }
    }

    /// `weight += scale·B·A`, row by row of the weight.
    fn add_to(&self, weight_oi: &mut [f32]) {
        let i = self.a_ri.len() / self.r;
        let mut delta_i = vec![0.0f64; i];
        for (weight_i, b_r) in weight_oi.chunks_exact_mut(i).zip(self.b_or.chunks_exact(self.r)) {
            delta_i.fill(0.0);
            for (&b, a_i) in b_r.iter().zip(self.a_ri.chunks_exact(i)) {
                for (delta, &a) in delta_i.iter_mut().zip(a_i) {
                    *delta += f64::from(b) * f64::from(a);
                }
            }
            for (weight, delta) in weight_i.iter_mut().zip(&delta_i) {
                *weight = (f64::from(*weight) + f64::from(self.scale) * delta) as f32;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::architecture::LinearKind;

    #[test]
    fn a_merge_is_the_product_scaled_and_added() {
        let site = LinearSite { layer: 0, kind: LinearKind::Query };
        let (a_ri, b_or) = (vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0], vec![1.0, 10.0, -1.0, 0.5]);
        let module = LoraModule { site, r: 2, scale: 0.5, a_ri, b_or };
        let mut weight_oi = vec![100.0; 6];
        module.add_to(&mut weight_oi);
        // B·A = [[41, 52, 63], [1, 0.5, 0]]
        assert_eq!(weight_oi, [120.5, 126.0, 131.5, 100.5, 100.25, 100.0]);
    }
}
