//! Exponentials by lane. Each states its error, and its tests measure it on every level.

use super::{Lanes, Vector};
use std::f32::consts::LN_2;

/// `1.5·2^23`: added to a number below `2^22` in magnitude, it rounds that to an integer, held in the sum's low bits.
pub(crate) const SHIFT: f32 = 12_582_912.0;

/// `2^f ≈ 1 + f·Σ EXP_2[j]·f^j` for `|f| ≤ 1/2`: least maximum relative error, 0.02 units in the last place.
const EXP_2: [f32; 6] =
    [LN_2, 0.240_226_46, 0.055_503_286, 0.009_618_489, 0.001_339_993_1, 0.000_153_458_12];

/// `Σ coefficients[j]·x^j`, by Horner's rule.
#[inline(always)]
fn polynomial<L: Lanes, const N: usize>(lanes: L, coefficients: &[f32; N], x: L::F32) -> L::F32 {
    let mut sum = lanes.splat(coefficients[N - 1]);
    for coefficient in coefficients[..N - 1].iter().rev() {
        sum = sum.mul_add(x, lanes.splat(*coefficient));
    }
    sum
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::dispatch;
    use crate::lanes::{inlined, map};
    use crate::testing::isas;

    #[inline(always)]
    fn exp_2_body<L: Lanes>(y: &mut [f32], x: &[f32]) {
        let lanes = L::here();
        map(lanes, y, x, inlined!(|x| exp_2_of_negative(lanes, x)));
    }

    #[test]
    fn exp_2_of_negative_is_within_its_stated_error_and_exact_at_its_ends() {
        let mut x: Vec<f32> = (0..=1_260_000).map(|i| -126.0 + i as f32 * 1e-4).collect();
        x.extend([0.0, -126.5, -1e30, f32::NEG_INFINITY, f32::NAN]);
        for isa in isas() {
            let mut y = vec![7.0; x.len()];
            let (y, x) = (&mut y[..], &x[..]);
            dispatch!(isa, exp_2_body(y: &mut [f32], x: &[f32]));
            let (within, ends) = y.split_at(y.len() - 5);
            for (y, x) in within.iter().zip(x).filter(|(_, x)| **x <= 0.0) {
                let want = f64::from(*x).exp2();
                let error = (f64::from(*y) - want).abs() / want;
                assert!(error <= f64::from(f32::EPSILON), "{isa}: 2^{x} = {y}");
            }
            assert_eq!(ends[..4], [1.0, 0.0, 0.0, 0.0], "{isa}");
            assert!(ends[4].is_nan(), "{isa}");
        }
    }
}
