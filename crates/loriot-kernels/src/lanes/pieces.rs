//! The two functions behind GELU, by a table of polynomials: no exponential, no division.
//!
//! Both are 1/2 plus an odd function, which sixteen polynomials approximate on sixteen pieces of equal width, centred at 0,
//! `w`, `2w` … `15w`; the last is constant, and stands for everything beyond. A register holds the sixteen coefficients of
//! one power, and one instruction looks up those of every lane.

use super::math::SHIFT;
use super::{Lanes, Vector};

/// An odd function that is 1/2 far out.
pub(crate) struct Pieces {
    /// `1/w`.
    per_unit: f32,
    /// `coefficients[j][n]` is that of `(n − |x|/w)^j` on piece `n`: least maximum error, without even powers on the first.
    coefficients: [[f32; 16]; 6],
}

/// `Φ(x) − 1/2`, `Φ(x) = (1 + erf(x/√2)) / 2` of the normal distribution: within 9e-8, which is what is left of it beyond 5.22;
/// within 5e-8 up to there.
#[rustfmt::skip]
pub(crate) const NORMAL: Pieces = Pieces {
    per_unit: 1.0 / 0.36,
    coefficients: [
        [
            0.0, 0.140_576_44, 0.264_237_5, 0.359_928_9, 0.425_066_3, 0.464_069_7,
            0.484_613_66, 0.494_132_25, 0.498_011_62, 0.499_402_34, 0.499_840_9, 0.499_962_54,
            0.499_992_2, 0.499_998_57, 0.499_999_76, 0.5,
        ],
        [
            -0.143_619_22, -0.134_607_82, -0.110_826_455, -0.080_155_26, -0.050_925_59, -0.028_422_058,
            -0.013_934_468, -0.006_001_236, -0.002_270_421_2, -0.000_754_549_4, -0.000_220_284_75, -5.649_329e-5,
            -1.272_697_1e-5, -2.518_658e-6, -4.378_542_5e-7, 0.0,
        ],
        [
            0.0, -0.008_722_392, -0.014_362_872, -0.015_582_063, -0.013_199_942, -0.009_208_85,
            -0.005_417_809, -0.002_722_197_4, -0.001_176_985_2, -0.000_440_038_74, -0.000_142_732_01, -4.026_148_6e-5,
            -9.893_584e-6, -2.120_738_4e-6, -3.969_496e-7, 0.0,
        ],
        [
            0.003_102_124_7, 0.002_530_672_8, 0.001_152_894_5, -0.000_288_049_63, -0.001_180_915_5, -0.001_375_166,
            -0.001_103_302_1, -0.000_693_569_66, -0.000_357_732_35, -0.000_154_795_39, -5.690_589e-5, -1.791_372_6e-5,
            -4.854_567_6e-6, -1.136_799_7e-6, -2.306_684_8e-7, 0.0,
        ],
        [
            0.0, 0.000_268_319, 0.000_382_425_26, 0.000_307_294, 0.000_132_392_28, -2.276_247_3e-5,
            -9.652_128e-5, -9.810_931e-5, -6.731_498_4e-5, -3.578_774_7e-5, -1.548_783_4e-5, -5.588_653e-6,
            -1.704_734_1e-6, -4.434_368e-7, -9.895_002e-8, 0.0,
        ],
        [
            -5.990_090_7e-5, -4.191_553_3e-5, -2.561_417e-6, 2.927_371e-5, 3.640_187_4e-5, 2.359_442_6e-5,
            6.381_108e-6, -4.288_216_6e-6, -6.952_102e-6, -5.296_78e-6, -2.884_311_5e-6, -1.234_675_7e-6,
            -4.320_806_7e-7, -1.261_825_4e-7, -3.113_336e-8, 0.0,
        ],
    ],
};

/// `Φ(x) + x·φ(x) − 1/2`, the slope of `x·Φ(x)`: within 1.2e-7, which is what is left of it beyond 5.8; within 1e-7 up to there.
#[rustfmt::skip]
pub(crate) const GELU_SLOPE: Pieces = Pieces {
    per_unit: 1.0 / 0.4,
    coefficients: [
        [
            0.0, 0.302_729_76, 0.519_897_8, 0.617_953_6, 0.622_674_05, 0.585_231_84,
            0.545_549_33, 0.519_608_14, 0.506_941_9, 0.502_043_7, 0.500_503_66, 0.500_104_3,
            0.500_018_24, 0.500_002_7, 0.500_000_36, 0.5,
        ],
        [
            -0.319_153_8, -0.271_046_82, -0.157_592_24, -0.043_497_7, 0.024_846_263, 0.043_192_785,
            0.033_681_38, 0.018_490_495, 0.007_857_952, 0.002_682_576_2, 0.000_749_448_9, 0.000_173_200_65,
            3.333_842_7e-5, 5.369_671_3e-6, 7.261_036e-7, 0.0,
        ],
        [
            0.0, -0.045_250_054, -0.062_292_736, -0.047_723_28, -0.020_446_58, -1.118_820_4e-6,
            0.007_567_520_3, 0.006_808_944, 0.003_808_705_1, 0.001_579_066_7, 0.000_513_889, 0.000_134_832_55,
            2.895_072_2e-5, 5.134_602_4e-6, 7.569_289e-7, 0.0,
        ],
        [
            0.017_020_693, 0.011_413_369, -0.000_216_897_85, -0.008_297_826, -0.008_715_49, -0.004_607_564,
            -0.000_750_874_63, 0.000_893_736_3, 0.000_945_504_35, 0.000_530_304_85, 0.000_211_283_03, 6.472_471e-5,
            1.578_099_2e-5, 3.120_116_6e-6, 5.060_12e-7, 0.0,
        ],
        [
            0.0, 0.002_523_915_4, 0.002_783_483, 0.001_053_628_3, -0.000_665_048, -0.001_139_858_6,
            -0.000_697_980_8, -0.000_164_315_22, 8.029_389e-5, 0.000_101_278_37, 5.616_429_2e-5, 2.131_449_6e-5,
            6.116_640_6e-6, 1.383_217_2e-6, 2.519_294e-7, 0.0,
        ],
        [
            -0.000_606_010_26, -0.000_318_920_76, 0.000_202_045_15, 0.000_413_376_55, 0.000_230_984_85, -2.538_192_2e-5,
            -0.000_120_619_77, -8.072_088_5e-5, -2.074_930_3e-5, 6.609_862e-6, 9.048_006e-6, 4.765_543_5e-6,
            1.677_481_5e-6, 4.414_512_2e-7, 9.087_251e-8, 0.0,
        ],
    ],
};

/// [`Pieces`] in registers.
#[derive(Clone, Copy)]
pub(crate) struct PiecesIn<L: Lanes> {
    lanes: L,
    per_unit: L::F32,
    coefficients: [L::Table; 6],
}

impl<L: Lanes> PiecesIn<L> {
    #[inline(always)]
    pub(crate) fn new(lanes: L, pieces: &Pieces) -> PiecesIn<L> {
        let mut coefficients = [lanes.table(&[0.0; 16]); 6];
        for (table, coefficients) in coefficients.iter_mut().zip(&pieces.coefficients) {
            *table = lanes.table(coefficients);
        }
        PiecesIn { lanes, per_unit: lanes.splat(pieces.per_unit), coefficients }
    }

    /// The function's value; NaN of NaN.
    #[inline(always)]
    pub(crate) fn at(&self, x: L::F32) -> L::F32 {
        let PiecesIn { lanes, per_unit, coefficients } = *self;
        // In pieces, no further out than the last. A NaN on the right passes through the minimum.
        let distance = lanes.splat(15.0).min(x.abs() * per_unit);
        let shifted = distance + lanes.splat(SHIFT);
        let off = shifted - lanes.splat(SHIFT) - distance;
        let mut value = lanes.look_up(coefficients[5], shifted);
        for j in (0..5).rev() {
            value = value.mul_add(off, lanes.look_up(coefficients[j], shifted));
        }
        value.with_sign_of(x)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;
    use crate::activation::Activation;
    use crate::isa::dispatch;
    use crate::lanes::{inlined, map};
    use crate::reference::activation::{activation_derivative, erf};

    #[inline(always)]
    fn body<L: Lanes>(y: &mut [f32], x: &[f32], pieces: &Pieces) {
        let pieces = PiecesIn::new(L::here(), pieces);
        map(L::here(), y, x, inlined!(|x| pieces.at(x)));
    }

    fn values(isa: Isa, x: &[f32], pieces: &Pieces) -> Vec<f32> {
        let mut y = vec![7.0; x.len()];
        let out = &mut y[..];
        dispatch!(isa, body(out: &mut [f32], x: &[f32], pieces: &Pieces));
        y
    }

    #[test]
    fn both_functions_are_within_their_stated_errors() {
        let x: Vec<f32> = (0..=160_000).map(|i| -8.0 + i as f32 * 1e-4).collect();
        let normal = |x: f64| 0.5 * erf(x / std::f64::consts::SQRT_2);
        let slope = |x: f64| activation_derivative(x, Activation::Gelu) - 0.5;
        for isa in Isa::available() {
            for (i, y) in values(isa, &x, &NORMAL).into_iter().enumerate() {
                let error = (f64::from(y) - normal(f64::from(x[i]))).abs();
                let bound = if x[i].abs() < 5.2 { 5e-8 } else { 9e-8 };
                assert!(error <= bound, "{isa}: Φ({}) − 1/2 = {y}, off by {error:e}", x[i]);
            }
            for (i, y) in values(isa, &x, &GELU_SLOPE).into_iter().enumerate() {
                let error = (f64::from(y) - slope(f64::from(x[i]))).abs();
                let bound = if x[i].abs() < 5.7 { 1e-7 } else { 1.2e-7 };
                assert!(error <= bound, "{isa}: slope at {} − 1/2 = {y}, off by {error:e}", x[i]);
            }
        }
    }

    #[test]
    fn they_are_odd_half_far_out_and_keep_nan() {
        let x = [0.0, 0.7, -0.7, 6.0, -6.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN];
        for (isa, pieces) in
            Isa::available().into_iter().flat_map(|isa| [(isa, &NORMAL), (isa, &GELU_SLOPE)])
        {
            let y = values(isa, &x, pieces);
            assert_eq!(y[0], 0.0, "{isa}");
            assert_eq!(y[1], -y[2], "{isa}");
            assert_eq!(y[3..7], [0.5, -0.5, 0.5, -0.5], "{isa}");
            assert!(y[7].is_nan(), "{isa}");
        }
    }
}
