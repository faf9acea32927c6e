//! One step of Adam or AdamW.

use crate::Isa;
use crate::isa::dispatch;
use crate::lanes::{Lanes, Vector, inlined, update, update_with, update_with_2};

/// The constants of a step; defaults of `torch.optim.Adam` are betas (0.9, 0.999), eps 1e-8 and no weight decay.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamStep {
    /// The rate of this step, schedule included.
    pub learning_rate: f64,
    /// Decay of the mean of the gradients.
    pub beta1: f64,
    /// Decay of the mean of their squares.
    pub beta2: f64,
    /// Added to the root of that mean.
    pub eps: f64,
    /// Share of a weight, times the rate, that it loses before the step; 0 is plain Adam.
    pub weight_decay: f64,
    /// Number of this step, from 1.
    pub step: u32,
}

impl Isa {
    /// Moves the weights `w` against the gradients `g`, and updates the moments `m` and `v`, which start at 0.
    ///
    /// ```text
    /// w −= rate·decay·w        m += (1 − beta1)·(g − m)        v = beta2·v + (1 − beta2)·g²
    /// w −= rate / (1 − beta1^t) · m / (sqrt(v) / sqrt(1 − beta2^t) + eps)
    /// ```
    ///
    /// Kingma and Ba 2015, decay as of Loshchilov and Hutter 2019: `torch.optim.Adam` without decay, `AdamW` with. The
    /// factors that all elements share are computed in f64, as there.
    pub fn adam(self, w: &mut [f32], m: &mut [f32], v: &mut [f32], g: &[f32], step: &AdamStep) {
        assert!(step.step > 0, "steps count from 1");
        dispatch!(self, adam_body(
            w: &mut [f32], m: &mut [f32], v: &mut [f32], g: &[f32], step: &AdamStep,
        ))
    }
}

/// Elements taken through all of the formula at a time: four slices of them fit the first cache.
const BLOCK: usize = 1024;

#[inline(always)]
fn adam_body<L: Lanes>(
    w: &mut [f32],
    m: &mut [f32],
    v: &mut [f32],
    g: &[f32],
    &AdamStep { learning_rate, beta1, beta2, eps, weight_decay, step }: &AdamStep,
) {
    let lanes = L::here();
    assert_eq!(w.len(), g.len(), "lengths of w and g");
    assert_eq!(m.len(), g.len(), "lengths of m and g");
    assert_eq!(v.len(), g.len(), "lengths of v and g");
    let t = f64::from(step);
    let splat = |x: f64| lanes.splat(x as f32);
    let keep = splat(1.0 - learning_rate * weight_decay);
    let beta1_rest = splat(1.0 - beta1);
    let (beta2_lanes, beta2_rest) = (splat(beta2), splat(1.0 - beta2));
    let root_correction = splat((1.0 - beta2.powf(t)).sqrt());
    let rate = splat(learning_rate / (1.0 - beta1.powf(t)));
    let eps = splat(eps);
    let blocks = w.chunks_mut(BLOCK).zip(m.chunks_mut(BLOCK)).zip(v.chunks_mut(BLOCK));
    for (((w, m), v), g) in blocks.zip(g.chunks(BLOCK)) {
        if weight_decay != 0.0 {
            update(lanes, w, inlined!(|w| w * keep));
        }
        update_with(lanes, m, g, inlined!(|m, g| beta1_rest.mul_add(g - m, m)));
        update_with(lanes, v, g, inlined!(|v, g| (g * beta2_rest).mul_add(g, v * beta2_lanes)));
        update_with_2(
            lanes,
            w,
            m,
            v,
            inlined!(|w, m, v| (m / (v.sqrt() / root_correction + eps)).neg_mul_add(rate, w)),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::adam as reference;
    use crate::testing::{EPSILON, assert_within, isas, noise, wide};

    #[test]
    fn steps_match_reference_at_every_length_on_every_isa() {
        // The last two go through more than one block.
        for len in (0..=130).chain([BLOCK, 2 * BLOCK + 5]) {
            let start = noise(len + 1, 1);
            for (isa, weight_decay) in isas().into_iter().flat_map(|isa| [(isa, 0.0), (isa, 0.01)])
            {
                let (mut w, mut m, mut v) = (start.clone(), vec![0.0; len + 1], vec![0.0; len + 1]);
                let [mut wide_w, mut wide_m, mut wide_v] = [&w, &m, &v].map(|x| wide(&x[1..]));
                for step in 1..=4 {
                    let settings = AdamStep {
                        learning_rate: 5e-4,
                        beta1: 0.9,
                        beta2: 0.999,
                        eps: 1e-8,
                        weight_decay,
                        step,
                    };
                    let g = &noise(len + 1, 10 + u64::from(step))[1..]; // Off the alignment.
                    isa.adam(&mut w[1..], &mut m[1..], &mut v[1..], g, &settings);
                    let wides = (&mut wide_w, &mut wide_m, &mut wide_v);
                    reference::adam(wides.0, wides.1, wides.2, &wide(g), &settings);
                    let (what, steps) = (format!("{isa}, length {len}"), f64::from(step));
                    // A weight below 1 is rounded up to three times a step, and moved by less than 4 rates, which are
                    // off by what m and v are: some ε of numbers below 1 a step.
                    let bound = |_| steps * (3.0 + 4.0 * 5e-4 * 16.0) * EPSILON;
                    assert_within(&w[1..], &wide_w, bound, &what);
                    assert_within(&m[1..], &wide_m, |_| 3.0 * steps * EPSILON, &what);
                    assert_within(&v[1..], &wide_v, |i| 4.0 * steps * EPSILON * wide_v[i], &what);
                }
            }
        }
    }

    #[test]
    fn a_weight_without_gradients_stays_where_it_is() {
        let step = AdamStep {
            learning_rate: 1.0,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.0,
            step: 1,
        };
        for isa in isas() {
            let mut w = [0.5];
            isa.adam(&mut w, &mut [0.0], &mut [0.0], &[0.0], &step);
            assert_eq!(w, [0.5], "{isa}");
        }
    }
}
