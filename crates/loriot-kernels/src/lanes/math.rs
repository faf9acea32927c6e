//! Exponential and normal distribution by lane. Each states its error, and its tests measure it on every level.

use super::{Lanes, Vector};
use std::f32::consts::{LN_2, LOG2_E};

/// `1.5·2^23`: added to a number below `2^22` in magnitude, it rounds that to an integer, held in the sum's low bits.
pub(crate) const SHIFT: f32 = 12_582_912.0;

/// `ln 2` in two parts. The first has 10 bits, so that its product with an exponent is exact even without fused
/// multiply-add.
const LN_2_PARTS: (f32, f32) = (355.0 / 512.0, -2.121_944_4e-4);

/// `e^r ≈ 1 + r + r²·Σ EXP[j]·r^j` for `|r| ≤ ln 2 / 2`: least maximum relative error, 0.05 units in the last place.
const EXP: [f32; 5] = [0.499_999_93, 0.166_665_2, 0.041_668_39, 0.008_368_717, 0.001_381_459_9];

/// `2^f ≈ 1 + f·Σ EXP_2[j]·f^j` for `|f| ≤ 1/2`: least maximum relative error, 0.02 units in the last place.
const EXP_2: [f32; 6] =
    [LN_2, 0.240_226_46, 0.055_503_286, 0.009_618_489, 0.001_339_993_1, 0.000_153_458_12];

/// `P(N < −a) ≈ 2^(−1 − a·Σ TAIL[j]·a^j)` for `0 ≤ a ≤ 6`: least maximum of `|error| / (probability + 1/1000)`, which
/// makes the absolute error 4e-9. A polynomial of the logarithm, as that of a bell curve is nearly one.
const TAIL: [f32; 10] = [
    1.151_104_6,
    0.459_216_62,
    0.052_454_155,
    -0.006_965_754_4,
    1.542_724_8e-5,
    0.000_272_018_33,
    -7.409_408e-5,
    1.052_364_2e-5,
    -8.128_914e-7,
    2.683_616e-8,
];

/// `Σ coefficients[j]·x^j`, by Horner's rule.
#[inline(always)]
fn polynomial<L: Lanes, const N: usize>(lanes: L, coefficients: &[f32; N], x: L::F32) -> L::F32 {
    let mut sum = lanes.splat(coefficients[N - 1]);
    for coefficient in coefficients[..N - 1].iter().rev() {
        sum = sum.mul_add(x, lanes.splat(*coefficient));
    }
    sum
}

/// `e^r` for `|r| ≤ ln 2 / 2`.
#[inline(always)]
fn exp_reduced<L: Lanes>(lanes: L, r: L::F32) -> L::F32 {
    let tail = polynomial(lanes, &EXP, r);
    (r * r).mul_add(tail, r) + lanes.splat(1.0)
}

/// `e^x` within `f32::EPSILON` of itself (one or two units in the last place); 0 where that is subnormal, infinite where it exceeds f32, NaN of NaN.
#[inline(always)]
pub(crate) fn exp<L: Lanes>(lanes: L, x: L::F32) -> L::F32 {
    let (low, high) = (lanes.splat(-87.3365), lanes.splat(88.7228));
    // The constant first: a NaN on the right passes through both.
    let clamped = low.max(high.min(x));
    let shift = lanes.splat(SHIFT);
    let shifted = clamped.mul_add(lanes.splat(LOG2_E), shift);
    let n = shifted - shift;
    let r = n.neg_mul_add(lanes.splat(LN_2_PARTS.0), clamped);
    let r = n.neg_mul_add(lanes.splat(LN_2_PARTS.1), r);
    let value = exp_reduced(lanes, r).scale_by_exponent(shifted);
    let value = x.if_less(low, lanes.splat(0.0), value);
    high.if_less(x, lanes.splat(f32::INFINITY), value)
}

/// `2^x` for `x ≤ 0`, within `f32::EPSILON` of itself; 0 below −126, NaN of NaN.
#[inline(always)]
pub(crate) fn exp_2_of_negative<L: Lanes>(lanes: L, x: L::F32) -> L::F32 {
    let shift = lanes.splat(SHIFT);
    let shifted = x + shift;
    let f = x - (shifted - shift);
    let value = polynomial(lanes, &EXP_2, f).mul_add(f, lanes.splat(1.0));
    let least = lanes.splat(-126.0);
    x.if_less(least, lanes.splat(0.0), value.scale_by_exponent(shifted))
}

/// `Φ(x) = P(N < x) = (1 + erf(x/√2)) / 2` of the standard normal distribution, within 1e-7 of the truth, and within
/// 1e-5 of itself for `−6 < x`; 0 below.
#[inline(always)]
pub(crate) fn normal_cdf<L: Lanes>(lanes: L, x: L::F32) -> L::F32 {
    let (zero, one, limit) = (lanes.splat(0.0), lanes.splat(1.0), lanes.splat(6.0));
    let distance = x.abs();
    let a = limit.min(distance);
    let log2 = polynomial(lanes, &TAIL, a).neg_mul_add(a, lanes.splat(-1.0));
    let shift = lanes.splat(SHIFT);
    let shifted = log2 + shift;
    let r = (log2 - (shifted - shift)) * lanes.splat(LN_2);
    let tail = exp_reduced(lanes, r).scale_by_exponent(shifted);
    let tail = limit.if_less(distance, zero, tail);
    x.if_less(zero, tail, one - tail)
}

/// `φ(x) = exp(−x²/2) / √(2π)`, the derivative of [`normal_cdf`].
#[inline(always)]
pub(crate) fn normal_density<L: Lanes>(lanes: L, x: L::F32) -> L::F32 {
    /// `1/√(2π)`.
    const PEAK: f32 = 0.398_942_3;
    exp(lanes, x * x * lanes.splat(-0.5)) * lanes.splat(PEAK)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;
    use crate::isa::dispatch;
    use crate::lanes::{inlined, map};
    use crate::reference::activation::erf;

    #[inline(always)]
    fn exp_body<L: Lanes>(y: &mut [f32], x: &[f32]) {
        let lanes = L::here();
        map(lanes, y, x, inlined!(|x| exp(lanes, x)));
    }

    #[inline(always)]
    fn normal_cdf_body<L: Lanes>(y: &mut [f32], x: &[f32]) {
        let lanes = L::here();
        map(lanes, y, x, inlined!(|x| normal_cdf(lanes, x)));
    }

    #[test]
    fn exp_is_within_its_stated_error() {
        let x: Vec<f32> = (0..=1_760_000).map(|i| -87.3 + i as f32 * 1e-4).collect();
        for isa in Isa::available() {
            let mut y = vec![0.0; x.len()];
            let (y, x) = (&mut y[..], &x[..]);
            dispatch!(isa, exp_body(y: &mut [f32], x: &[f32]));
            for (y, x) in y.iter().zip(x) {
                let want = f64::from(*x).exp();
                let error = (f64::from(*y) - want).abs() / want;
                assert!(error <= f64::from(f32::EPSILON), "{isa}: exp({x}) = {y}");
            }
        }
    }

    #[test]
    fn exp_at_the_ends_of_its_range_is_zero_infinite_or_nan() {
        let x = [f32::NEG_INFINITY, -1e30, -87.5, 0.0, 88.73, 1e30, f32::INFINITY, f32::NAN];
        for isa in Isa::available() {
            let mut y = [7.0; 8];
            let (y, x) = (&mut y[..], &x[..]);
            dispatch!(isa, exp_body(y: &mut [f32], x: &[f32]));
            assert_eq!(y[..4], [0.0, 0.0, 0.0, 1.0], "{isa}");
            assert_eq!(y[4..7], [f32::INFINITY; 3], "{isa}");
            assert!(y[7].is_nan(), "{isa}");
        }
    }

    #[test]
    fn normal_cdf_is_within_its_stated_error() {
        let x: Vec<f32> = (0..=160_000).map(|i| -8.0 + i as f32 * 1e-4).collect();
        for isa in Isa::available() {
            let mut y = vec![0.0; x.len()];
            let (y, x) = (&mut y[..], &x[..]);
            dispatch!(isa, normal_cdf_body(y: &mut [f32], x: &[f32]));
            for (y, x) in y.iter().zip(x) {
                let want = 0.5 * (1.0 + erf(f64::from(*x) / std::f64::consts::SQRT_2));
                let error = (f64::from(*y) - want).abs();
                assert!(error <= 1e-7, "{isa}: normal_cdf({x}) = {y}, want {want}");
                // `1 + erf` cancels: the reference itself is only good to 1e-16 of 1.
                assert!(*x <= -6.0 || error <= 1e-5 * want + 1e-15, "{isa}: normal_cdf({x}) = {y}");
            }
        }
    }

    #[test]
    fn normal_cdf_is_half_at_zero_and_keeps_nan() {
        let x = [0.0, -0.0, 100.0, -100.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN];
        for isa in Isa::available() {
            let mut y = [7.0; 7];
            let (y, x) = (&mut y[..], &x[..]);
            dispatch!(isa, normal_cdf_body(y: &mut [f32], x: &[f32]));
            assert_eq!(y[..6], [0.5, 0.5, 1.0, 0.0, 1.0, 0.0], "{isa}");
            assert!(y[6].is_nan(), "{isa}");
        }
    }
}
