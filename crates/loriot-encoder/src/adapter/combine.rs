//! Several adapters of one base as one, and one adapter weaker or stronger.
//!
//! As PEFT's `add_weighted_adapter` (`w` is an adapter's weight, `s` its scale; the result's scale is 1):
//!
//! ```text
//! linear   A = Σ ±√|w·s|·A_k    B = Σ √|w·s|·B_k     equal ranks; products of one's A and another's B come in
//! cat      A = [w·s·A_k …]      B = [B_k …]          exact; the ranks add up
//! svd      A = Vᵀ, B = U·S      of Σ w·s·B_k·A_k     the largest singular values of the sum
//! ```

use super::config::{Init, LoraConfig};
use super::decompose::{Svd, qr, svd, transposed};
use super::targets::Targets;
use super::{Adapter, AdapterError, LoraModule};
use crate::architecture::LinearSite;
use std::collections::BTreeSet;

/// How adapters are made one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Combination {
    /// Factors are added.
    Linear,
    /// Factors stand side by side: the sum of what the adapters add, exactly.
    #[default]
    Cat,
    /// The sum of what the adapters add, cut to a rank.
    Svd,
}

impl Combination {
    const ALL: [Combination; 3] = [Combination::Linear, Combination::Cat, Combination::Svd];

    /// PEFT's name.
    pub fn name(self) -> &'static str {
        match self {
            Combination::Linear => "linear",
            Combination::Cat => "cat",
            Combination::Svd => "svd",
        }
    }
}

impl std::fmt::Display for Combination {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

impl std::str::FromStr for Combination {
    type Err = String;

    fn from_str(name: &str) -> Result<Combination, String> {
        let found = Combination::ALL.into_iter().find(|combination| combination.name() == name);
        found.ok_or_else(|| "expected `linear`, `cat` or `svd`".into())
    }
}

impl Adapter {
    /// Refuses an adapter that does more than add `scale·B·A` to weights.
    fn check_plain(&self, name: &str, to_do: &'static str) -> Result<(), AdapterError> {
        let what = if self.modules.iter().any(|module| module.magnitude_o.is_some()) {
            "DoRA's magnitudes"
        } else if !self.whole.is_empty() {
            "biases or saved modules"
        } else {
            return Ok(());
        };
        Err(AdapterError::NotPlain { adapter: name.to_owned(), what, to_do })
    }

    /// Multiplies what the adapter, which messages call `name`, adds to the weights by `strength`.
    pub fn set_strength(&mut self, name: &str, strength: f64) -> Result<(), AdapterError> {
        self.check_plain(name, "change the strength of")?;
        for module in &mut self.modules {
            module.scale = (f64::from(module.scale) * strength) as f32;
        }
        self.config.alpha *= strength;
        self.config.alpha_pattern.iter_mut().for_each(|(_, alpha)| *alpha *= strength);
        Ok(())
    }

    /// The adapter that takes away what this one, which messages call `name`, adds.
    pub fn negated(mut self, name: &str) -> Result<Adapter, AdapterError> {
        self.check_plain(name, "take out of a model")?;
        self.modules.iter_mut().for_each(|module| module.scale = -module.scale);
        Ok(self)
    }

    /// Adapters of one base, each with its name for messages and its weight, as one; `rank` is that of
    /// [`Combination::Svd`], else the largest of theirs.
    ///
    /// # Panics
    ///
    /// If there is no adapter.
    pub fn combine(
        parts: &[(&str, &Adapter, f64)],
        how: Combination,
        rank: Option<usize>,
    ) -> Result<Adapter, AdapterError> {
        for (name, adapter, _) in parts {
            adapter.check_plain(name, "combine")?;
        }
        let family = parts[0].1.family;
        let module = |adapter: &'_ Adapter, site| {
            adapter.modules.iter().position(|module| module.site == site)
        };
        let sites: BTreeSet<LinearSite> = parts
            .iter()
            .flat_map(|(_, adapter, _)| adapter.modules.iter().map(|module| module.site))
            .collect();
        let mut modules = Vec::new();
        for site in sites {
            let of_site = parts.iter().filter_map(|(_, adapter, weight)| {
                let module = &adapter.modules[module(adapter, site)?];
                Some((module, weight * f64::from(module.scale)))
            });
            let of_site: Vec<(&LoraModule, f64)> = of_site.collect();
            modules.push(match how {
                Combination::Linear => {
                    let r = of_site[0].0.r;
                    if let Some((other, _)) = of_site.iter().find(|(module, _)| module.r != r) {
                        return Err(AdapterError::Range {
                            what: "rank to combine by `linear`",
                            found: format!("{r} and {} of `{}`", other.r, family.module_name(site)),
                            expected: "equal ones; `cat` and `svd` take any",
                        });
                    }
                    linear(&of_site)
                }
                Combination::Cat => cat(&of_site),
                Combination::Svd => {
                    let largest = of_site.iter().map(|(module, _)| module.r).max().unwrap_or(1);
                    cut(&of_site, rank.unwrap_or(largest))
                }
            });
        }
        // The rank of most modules is the configuration's; the others have entries of their own.
        let count = |r: usize| modules.iter().filter(|module| module.r == r).count();
        let r = modules.iter().map(|module| module.r).max_by_key(|&r| (count(r), r)).unwrap_or(1);
        let names = modules.iter().map(|module| family.module_name(module.site));
        let others = modules.iter().filter(|module| module.r != r);
        let others = others.map(|module| (family.module_name(module.site), module.r));
        let rank_pattern: Vec<(String, usize)> = others.collect();
        let config = LoraConfig {
            r,
            alpha: r as f64,
            targets: Targets::Names(names.collect()),
            alpha_pattern: rank_pattern.iter().map(|(key, r)| (key.clone(), *r as f64)).collect(),
            rank_pattern,
            init: Init::Kaiming,
            base_model: parts[0].1.config.base_model.clone(),
            revision: parts[0].1.config.revision.clone(),
            task_type: parts[0].1.config.task_type.clone(),
            ..LoraConfig::default()
        };
        config.check()?;
        Ok(Adapter { family, config, modules, whole: Vec::new(), notes: Vec::new() })
    }
}

/// A module of scale 1.
fn unscaled(site: LinearSite, r: usize, a_ri: Vec<f32>, b_or: Vec<f32>) -> LoraModule {
    LoraModule { site, r, scale: 1.0, a_ri, b_or, magnitude_o: None, start: None }
}

fn linear(parts: &[(&LoraModule, f64)]) -> LoraModule {
    let (LoraModule { site, r, a_ri, b_or, .. }, _) = parts[0];
    let sum = |of: fn(&LoraModule) -> &[f32], factor: fn(f64) -> f64, len: usize| {
        let at =
            |at: usize| parts.iter().map(|(m, w)| factor(*w) * f64::from(of(m)[at])).sum::<f64>();
        (0..len).map(|element| at(element) as f32).collect::<Vec<f32>>()
    };
    // The sign of a negative weight is A's alone.
    let a_ri = sum(|module| &module.a_ri, |w| w.abs().sqrt().copysign(w), a_ri.len());
    let b_or = sum(|module| &module.b_or, |w| w.abs().sqrt(), b_or.len());
    unscaled(*site, *r, a_ri, b_or)
}

fn cat(parts: &[(&LoraModule, f64)]) -> LoraModule {
    let (first, _) = parts[0];
    let r: usize = parts.iter().map(|(module, _)| module.r).sum();
    let a_ri = parts.iter().flat_map(|(module, weight)| {
        module.a_ri.iter().map(move |&a| (weight * f64::from(a)) as f32)
    });
    let o = first.b_or.len() / first.r;
    let b_or = (0..o).flat_map(|o| {
        parts.iter().flat_map(move |(module, _)| &module.b_or[o * module.r..][..module.r]).copied()
    });
    unscaled(first.site, r, a_ri.collect(), b_or.collect())
}

/// The sum cut to its `rank` largest singular values. The sum itself is never made: `B·A = Q₁·(R₁·R₂ᵀ)·Q₂ᵀ`, with `B = Q₁·R₁`
/// and `Aᵀ = Q₂·R₂`, of which only the middle, as small as the ranks, is decomposed.
fn cut(parts: &[(&LoraModule, f64)], rank: usize) -> LoraModule {
    let LoraModule { site, r: inner, a_ri, b_or, .. } = cat(parts);
    let wide = |values: &[f32]| values.iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
    let (o, i) = (b_or.len() / inner, a_ri.len() / inner);
    let (left, right) = (inner.min(o), inner.min(i));
    let (q1_lo, r1_lr) = qr(&wide(&b_or), (o, inner), left);
    let (q2_ri, r2_rr) = qr(&transposed(&wide(&a_ri), i), (i, inner), right);
    let product = |a: &[f64], b: &[f64], width: usize| -> Vec<f64> {
        let rows = a.chunks_exact(width);
        rows.flat_map(|a| {
            b.chunks_exact(width).map(move |b| a.iter().zip(b).map(|(a, b)| a * b).sum())
        })
        .collect()
    };
    let middle = product(&r1_lr, &r2_rr, inner);
    let r = rank.min(o.min(i));
    let Svd { values_r, left_rm, right_rn } = svd(&middle, (left, right), r);
    let mut a_ri = product(&right_rn, &transposed(&q2_ri, i), right);
    let mut b_ro = product(&left_rm, &transposed(&q1_lo, o), left);
    for (b_o, value) in b_ro.chunks_exact_mut(o).zip(&values_r) {
        b_o.iter_mut().for_each(|b| *b *= value);
    }
    // Of a sum with fewer directions the rest is zero.
    a_ri.resize(r * i, 0.0);
    b_ro.resize(r * o, 0.0);
    let narrow = |values: &[f64]| values.iter().map(|&x| x as f32).collect::<Vec<_>>();
    unscaled(site, r, narrow(&a_ri), narrow(&transposed(&b_ro, o)))
}
