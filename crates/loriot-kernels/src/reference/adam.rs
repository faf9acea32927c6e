//! One step of Adam or AdamW.

use crate::adam::AdamStep;

/// Kingma and Ba 2015, with the decay of Loshchilov and Hutter 2019.
///
/// ```text
/// w −= rate·decay·w        m = beta1·m + (1 − beta1)·g        v = beta2·v + (1 − beta2)·g²
/// w −= rate / (1 − beta1^t) · m / (sqrt(v) / sqrt(1 − beta2^t) + eps)
/// ```
pub fn adam(w: &mut [f64], m: &mut [f64], v: &mut [f64], g: &[f64], step: &AdamStep) {
    let &AdamStep { learning_rate, beta1, beta2, eps, weight_decay, step } = step;
    let t = f64::from(step);
    for i in 0..g.len() {
        w[i] -= learning_rate * weight_decay * w[i];
        m[i] = beta1 * m[i] + (1.0 - beta1) * g[i];
        v[i] = beta2 * v[i] + (1.0 - beta2) * g[i] * g[i];
        let denominator = v[i].sqrt() / (1.0 - beta2.powf(t)).sqrt() + eps;
        w[i] -= learning_rate / (1.0 - beta1.powf(t)) * m[i] / denominator;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Without decay the first step moves a weight by the rate, whatever the size of its gradient.
    #[test]
    fn the_first_step_has_the_length_of_the_rate() {
        let step = AdamStep {
            learning_rate: 0.1,
            beta1: 0.9,
            beta2: 0.999,
            eps: 0.0,
            weight_decay: 0.0,
            step: 1,
        };
        let mut w = [1.0, 1.0];
        adam(&mut w, &mut [0.0; 2], &mut [0.0; 2], &[1e-6, -300.0], &step);
        assert!((w[0] - 0.9).abs() < 1e-12 && (w[1] - 1.1).abs() < 1e-12, "{w:?}");
    }
}
