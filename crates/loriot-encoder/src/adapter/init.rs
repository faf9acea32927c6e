//! How the factors start: random numbers from a counter, so that each depends on the seed and its place alone, or what
//! the weight is made of.

use super::config::Init;
use super::decompose::{Svd, qr, svd, transposed};
use crate::architecture::LinearSite;
use loriot_kernels::random::SplitMix64;
use std::f64::consts::TAU;

/// A and B at their start.
pub(super) struct Factors {
    pub(super) a_ri: Vec<f32>,
    pub(super) b_or: Vec<f32>,
    /// Whether `scale·B·A` is a part of the weight, to be taken out of it.
    pub(super) is_in_weight: bool,
}

/// The factors of one layer with the given weight.
///
/// ```text
/// kaiming, gaussian   A is random, B is zero
/// pissa               W ≈ U·S·Vᵀ, the r largest singular values    A = √(S/scale)·Vᵀ    B = U·√(S/scale)
/// olora               W = Q·R                                      A = R[:r]            B = Q[:, :r]
/// ```
pub(super) fn factors(
    init: Init,
    seed: u64,
    site: LinearSite,
    weight_oi: &[f32],
    (o, i): (usize, usize),
    (r, scale): (usize, f32),
) -> Factors {
    let wide = || weight_oi.iter().map(|&w| f64::from(w)).collect::<Vec<_>>();
    let narrow = |values: &[f64]| values.iter().map(|&x| x as f32).collect::<Vec<_>>();
    match init {
        Init::Kaiming | Init::Gaussian => Factors {
            a_ri: matrix(init, seed, site, (r, i)),
            b_or: vec![0.0; o * r],
            is_in_weight: false,
        },
        Init::Pissa => {
            let Svd { values_r, mut left_rm, mut right_rn } = svd(&wide(), (o, i), r);
            for (k, value) in values_r.iter().enumerate() {
                let root = (value / f64::from(scale)).sqrt();
                left_rm[k * o..][..o].iter_mut().for_each(|x| *x *= root);
                right_rn[k * i..][..i].iter_mut().for_each(|x| *x *= root);
            }
            let b_or = narrow(&transposed(&left_rm, o));
            Factors { a_ri: narrow(&right_rn), b_or, is_in_weight: true }
        }
        Init::Olora => {
            let (q_ro, r_ri) = qr(&wide(), (o, i), r);
            let b_or = narrow(&transposed(&q_ro, o));
            Factors { a_ri: narrow(&r_ri), b_or, is_in_weight: true }
        }
    }
}

/// Kinds of linear layers when the numbers of A were fixed: another would change every run. A later kind needs numbers of
/// its own.
const N_KINDS: usize = 6;

/// The `(r, i)` numbers of A for one layer.
///
/// ```text
/// kaiming    uniform in ±1/√i, which is torch's kaiming_uniform with a = √5
/// gaussian   normal with standard deviation 1/r
/// ```
fn matrix(init: Init, seed: u64, site: LinearSite, (r, i): (usize, usize)) -> Vec<f32> {
    let module = (site.layer * N_KINDS + site.kind as usize) as u64;
    let key = mix(mix(seed) ^ module);
    let uniform = |counter: u64| (mix(key ^ counter) >> 11) as f64 / (1u64 << 53) as f64;
    let number = |at: u64| match init {
        Init::Kaiming => (2.0 * uniform(at) - 1.0) / (i as f64).sqrt(),
        Init::Gaussian => {
            // Box and Muller; 1 − u keeps the logarithm's argument above 0.
            let radius = (-2.0 * (1.0 - uniform(2 * at)).ln()).sqrt();
            radius * (TAU * uniform(2 * at + 1)).cos() / r as f64
        }
        Init::Pissa | Init::Olora => unreachable!("these are not random"),
    };
    (0..(r * i) as u64).map(|at| number(at) as f32).collect()
}

/// The first number of the stream that begins after `value`.
fn mix(value: u64) -> u64 {
    SplitMix64::new(value).next_u64()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::architecture::LinearKind;

    const SITE: LinearSite = LinearSite { layer: 1, kind: LinearKind::Value };

    /// Mean and standard deviation.
    fn moments(values: &[f32]) -> (f64, f64) {
        let n = values.len() as f64;
        let mean = values.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
        let variance = values.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / n;
        (mean, variance.sqrt())
    }

    #[test]
    fn kaiming_is_uniform_within_one_over_the_root_of_the_inputs() {
        let a_ri = matrix(Init::Kaiming, 42, SITE, (16, 400));
        let largest = a_ri.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
        assert!(largest <= 0.05 && largest > 0.0499, "{largest}");
        let (mean, deviation) = moments(&a_ri);
        // Four standard errors of 6,400 draws.
        assert!(mean.abs() < 0.0015 && (deviation - 0.05 / 3f64.sqrt()).abs() < 0.001);
    }

    #[test]
    fn gaussian_has_the_deviation_of_one_over_the_rank() {
        let (mean, deviation) = moments(&matrix(Init::Gaussian, 42, SITE, (16, 400)));
        assert!(mean.abs() < 0.0032 && (deviation - 1.0 / 16.0).abs() < 0.0025, "{deviation}");
    }

    /// Computed a second time, in Python.
    #[test]
    fn golden_numbers() {
        let site = LinearSite { layer: 3, kind: LinearKind::Output };
        assert_eq!(LinearKind::COUNT, N_KINDS, "a new kind of layer needs numbers of its own");
        assert_eq!(
            matrix(Init::Kaiming, 42, SITE, (1, 4)),
            [0.1782443, 0.2532984, -0.20299625, -0.38975015]
        );
        assert_eq!(
            matrix(Init::Kaiming, 7, site, (1, 4)),
            [-0.3107916, -0.38336128, -0.20817617, 0.16590495]
        );
    }

    #[test]
    fn numbers_depend_on_seed_and_site_and_on_nothing_else() {
        let a = |seed, site| matrix(Init::Kaiming, seed, site, (4, 8));
        assert_eq!(a(1, SITE), a(1, SITE));
        assert_ne!(a(1, SITE), a(2, SITE));
        assert_ne!(a(1, SITE), a(1, LinearSite { layer: 2, ..SITE }));
    }
}
