//! Activation functions and their derivatives.

use crate::activation::Activation;
use std::f64::consts::{FRAC_2_SQRT_PI, PI, SQRT_2};

/// The error function, `erf(x) = 2/√π · ∫_0^x exp(−t²) dt`, to about 1e-15.
///
/// Up to 3 its Taylor series with the factor `exp(−x²)` taken out, whose terms are all positive; beyond, the continued
/// fraction of `1 − erf`, from its end.
///
/// ```text
/// erf(x) = 2/√π · exp(−x²) · Σ_j 2^j·x^(2j+1) / (1·3·…·(2j+1))
/// 1 − erf(x) = exp(−x²)/√π · 1/(x + (1/2)/(x + (2/2)/(x + (3/2)/(x + …))))
/// ```
pub fn erf(x: f64) -> f64 {
    let a = x.abs();
    let bell = (-a * a).exp();
    let value = if a < 3.0 {
        let (mut sum, mut term, mut j) = (0.0, a, 0.0);
        while term > 1e-17 * sum {
            sum += term;
            j += 1.0;
            term *= 2.0 * a * a / (2.0 * j + 1.0);
        }
        FRAC_2_SQRT_PI * bell * sum
    } else {
        let fraction = (1..=60).rev().fold(a, |fraction, j| a + f64::from(j) / 2.0 / fraction);
        1.0 - bell / (PI.sqrt() * fraction)
    };
    value.copysign(x)
}

/// `y = f(x)`.
///
/// ```text
/// Gelu      x·Φ(x)                              Φ(x) = (1 + erf(x/√2)) / 2
/// GeluTanh  x/2·(1 + tanh(u))                   u = √(2/π)·(x + 0.044715·x³)
/// Relu      max(x, 0)
/// ```
pub fn activation(x: f64, activation: Activation) -> f64 {
    match activation {
        Activation::Gelu => x * 0.5 * (1.0 + erf(x / SQRT_2)),
        Activation::GeluTanh => x * 0.5 * (1.0 + tanh_argument(x).tanh()),
        Activation::Relu => x.max(0.0),
    }
}

/// `f'(x)`; 0 for `Relu` at 0, as in PyTorch.
///
/// ```text
/// Gelu      Φ(x) + x·φ(x)                       φ(x) = exp(−x²/2) / √(2π)
/// GeluTanh  (1 + tanh(u))/2 + x/2·(1 − tanh²(u))·u'      u' = √(2/π)·(1 + 3·0.044715·x²)
/// Relu      x > 0 ? 1 : 0
/// ```
pub fn activation_derivative(x: f64, activation: Activation) -> f64 {
    match activation {
        Activation::Gelu => {
            let density = (-0.5 * x * x).exp() / (2.0 * PI).sqrt();
            0.5 * (1.0 + erf(x / SQRT_2)) + x * density
        }
        Activation::GeluTanh => {
            let tanh = tanh_argument(x).tanh();
            let slope = (2.0 / PI).sqrt() * (1.0 + 3.0 * 0.044_715 * x * x);
            0.5 * (1.0 + tanh) + 0.5 * x * (1.0 - tanh * tanh) * slope
        }
        Activation::Relu => f64::from(x > 0.0),
    }
}

fn tanh_argument(x: f64) -> f64 {
    (2.0 / PI).sqrt() * (x + 0.044_715 * x.powi(3))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Abramowitz and Stegun, table 7.1 (the last two from its asymptotic expansion).
    #[test]
    fn erf_gives_the_tabled_values() {
        for (x, want) in [
            (0.0, 0.0),
            (0.5, 0.520_499_877_813_046_5),
            (1.0, 0.842_700_792_949_714_9),
            (2.0, 0.995_322_265_018_952_7),
            (-3.0, -0.999_977_909_503_001_4),
            (5.0, 0.999_999_999_998_462_5),
        ] {
            assert!((erf(x) - want).abs() < 2e-15, "erf({x}) = {}, want {want}", erf(x));
        }
    }

    #[test]
    fn both_halves_of_erf_meet() {
        let jump = erf(3.0) - erf(3.0_f64.next_down());
        assert!(jump.abs() < 1e-15, "{jump}");
    }

    #[test]
    fn derivatives_agree_with_central_differences() {
        for activation_kind in [Activation::Gelu, Activation::GeluTanh, Activation::Relu] {
            for i in -60..60 {
                let (x, h) = (0.05 + 0.1 * f64::from(i), 1e-5);
                let rise = activation(x + h, activation_kind) - activation(x - h, activation_kind);
                let (got, want) = (activation_derivative(x, activation_kind), rise / (2.0 * h));
                assert!((got - want).abs() < 1e-9, "{activation_kind:?} at {x}: {got}, {want}");
            }
        }
    }
}
