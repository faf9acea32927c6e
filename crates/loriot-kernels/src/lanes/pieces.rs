//! The functions behind GELU and its approximation, by tables of polynomials: no exponential, no division.
//!
//! Each is 1/2 plus an odd function, so `x ≥ 0` is enough. There, sixteen polynomials approximate the function, or its
//! difference from its limit, on sixteen pieces of equal width, centred at 0, `w`, `2w` … `15w`. The last piece is constant
//! and also covers everything beyond it. A register holds the sixteen coefficients of one power, and one instruction looks
//! up those of every lane.

use super::math::SHIFT;
use super::{Lanes, Vector};

/// A function of `|x|` that is constant far out.
pub(crate) struct Pieces {
    /// `1/w`.
    per_unit: f32,
    /// `coefficients[j][n]` is that of `(n − |x|/w)^j` on piece `n`: least maximum error, without even powers on the first but
    /// for its constant.
    coefficients: [[f32; 16]; 6],
}

/// `Φ(x) − 1`, `Φ(x) = (1 + erf(x/√2)) / 2` of the normal distribution. The error is at most 5e-8 below 5.22; beyond, the constant is
/// off by at most 9e-8.
#[rustfmt::skip]
pub(crate) const NORMAL: Pieces = Pieces {
    per_unit: 1.0 / 0.36,
    coefficients: [
        [
            -0.5, -0.359_423_57, -0.235_762_5, -0.140_071_1, -0.074_933_7, -0.035_930_318,
            -0.015_386_334, -0.005_867_741, -0.001_988_375_9, -0.000_597_648_7, -0.000_159_108_76, -3.747_497_7e-5,
            -7.801_5e-6, -1.434_388_1e-6, -2.327_696_5e-7, 0.0,
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

/// `Φ(x) + x·φ(x) − 1/2`, the slope of `x·Φ(x)`. The error is at most 1e-7 below 5.8; beyond, the constant is off by at most 1.2e-7.
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

/// `(tanh(√(2/π)·(x + 0.044715·x³)) − 1) / 2`, which takes the place of [`NORMAL`] in GELU's approximation: within 5e-8.
#[rustfmt::skip]
pub(crate) const TANH: Pieces = Pieces {
    per_unit: 1.0 / 0.345,
    coefficients: [
        [
            -0.5, -0.365_059_6, -0.245_173_58, -0.150_493_8, -0.083_962_5, -0.042_331_805,
            -0.019_149_546, -0.007_700_020_4, -0.002_719_653, -0.000_831_957_6, -0.000_216_979_6, -4.744_519_4e-5,
            -8.549_163e-6, -1.247_447_4e-6, -1.448_328_1e-7, 0.0,
        ],
        [
            -0.137_635_08, -0.129_647_85, -0.108_391_95, -0.080_498_21, -0.053_160_94, -0.031_227_7,
            -0.016_284_531, -0.007_497_567, -0.003_019_059, -0.001_049_515_3, -0.000_310_119_27, -7.658_047e-5,
            -1.552_797_6e-5, -2.539_896e-6, -3.292_616_4e-7, 0.0,
        ],
        [
            0.0, -0.007_747_680_4, -0.012_924_029_5, -0.014_343_555, -0.012_582_571, -0.009_227_322,
            -0.005_798_33, -0.003_151_782_3, -0.001_480_420_5, -0.000_595_661_05, -0.000_202_492_48, -5.720_55e-5,
            -1.319_594_2e-5, -2.441_665e-6, -3.560_388_4e-7, 0.0,
        ],
        [
            0.002_743_810_6, 0.002_269_839_6, 0.001_113_003_5, -0.000_129_658_03, -0.000_949_492_1, -0.001_199_508_8,
            -0.001_039_254_5, -0.000_716_209_8, -0.000_410_106_96, -0.000_196_983_78, -7.887_929e-5, -2.597_958_5e-5,
            -6.923_684_4e-6, -1.467_804_6e-6, -2.433_512e-7, 0.0,
        ],
        [
            0.0, 0.000_223_360_43, 0.000_324_474_88, 0.000_271_242_05, 0.000_131_990_21, 1.708_532_1e-6,
            -6.932_111e-5, -8.348_495e-5, -6.607_553e-5, -4.057_286e-5, -2.003_464e-5, -7.966_39e-6,
            -2.525_061_5e-6, -6.293_079e-7, -1.215_315_6e-7, 0.0,
        ],
        [
            -4.954_591_7e-5, -3.545_259e-5, -3.889_859_7e-6, 2.261_998_3e-5, 2.966_478_7e-5, 2.078_061_2e-5,
            7.833_938e-6, -1.246_182_8e-6, -4.916_586e-6, -4.858_024_6e-6, -3.256_781_4e-6, -1.646_211_3e-6,
            -6.394_002_4e-7, -1.904_385_6e-7, -4.312_984_8e-8, 0.0,
        ],
    ],
};

/// The slope of `x·(1 + TANH(x))`, less 1/2: within 1e-7.
#[rustfmt::skip]
pub(crate) const TANH_SLOPE: Pieces = Pieces {
    per_unit: 1.0 / 0.38,
    coefficients: [
        [
            0.0, 0.289_003_85, 0.503_222_5, 0.610_044_24, 0.627_033_65, 0.596_781_85,
            0.556_996_4, 0.527_012_7, 0.510_368_17, 0.503_196_06, 0.500_779_03, 0.500_147_34,
            0.500_021_16, 0.500_002_26, 0.500_000_2, 0.5,
        ],
        [
            -0.303_196_1, -0.261_544_94, -0.161_330_9, -0.055_745_58, 0.014_113_771, 0.039_888_72,
            0.036_532_33, 0.023_004_206, 0.011_042_45, 0.004_126_905_5, 0.001_195_963, 0.000_265_066_08,
            4.413_621_4e-5, 5.414_060_5e-6, 4.793_133e-7, 0.0,
        ],
        [
            0.0, -0.039_378_088, -0.056_001_566, -0.045_973_39, -0.023_302_589, -0.003_904_949_4,
            0.005_586_966_4, 0.006_962_382_2, 0.004_746_848_3, 0.002_289_798, 0.000_819_200_3, 0.000_218_199_7,
            4.284_046_7e-5, 6.105_203_7e-6, 6.202_55e-7, 0.0,
        ],
        [
            0.014_665_456, 0.010_197_978_5, 0.000_678_481_8, -0.006_475_634, -0.007_686_697, -0.004_890_051,
            -0.001_574_368_1, 0.000_383_975_94, 0.000_902_943_14, 0.000_672_478_17, 0.000_320_701_07, 0.000_107_147_58,
            2.549_474_3e-5, 4.303_228_3e-6, 5.091_882e-7, 0.0,
        ],
        [
            0.0, 0.002_026_666_7, 0.002_340_7, 0.001_058_631_8, -0.000_338_957_88, -0.000_878_365_7,
            -0.000_690_367_36, -0.000_289_799_53, -6.272_922_3e-6, 9.022_574_5e-5, 7.386_313e-5, 3.416_551e-5,
            1.043_405_9e-5, 2.176_061_8e-6, 3.111_676e-7, 0.0,
        ],
        [
            -0.000_480_043_53, -0.000_267_132_77, 0.000_135_623_52, 0.000_320_277_06, 0.000_204_985_9, 1.849_386_9e-5,
            -7.472_261e-5, -7.455_829e-5, -3.698_212_5e-5, -4.539_843e-6, 7.894_375e-6, 6.756_573e-6,
            2.876_379e-6, 7.632_172e-7, 1.326_287_3e-7, 0.0,
        ],
    ],
};

/// [`Pieces`] in registers.
#[derive(Clone, Copy)]
pub(crate) struct PiecesIn<L: Lanes> {
    lanes: L,
    per_unit: L::F32,
    limit: L::F32,
    coefficients: [L::Table; 6],
}

impl<L: Lanes> PiecesIn<L> {
    #[inline(always)]
    pub(crate) fn new(lanes: L, pieces: &Pieces) -> PiecesIn<L> {
        let mut coefficients = [lanes.table(&[0.0; 16]); 6];
        for (table, coefficients) in coefficients.iter_mut().zip(&pieces.coefficients) {
            *table = lanes.table(coefficients);
        }
        let (per_unit, limit) = (lanes.splat(pieces.per_unit), lanes.splat(15.0 / pieces.per_unit));
        PiecesIn { lanes, per_unit, limit, coefficients }
    }

    /// `|x|`, limited to the last piece, which is constant; NaN of NaN.
    #[inline(always)]
    pub(crate) fn distance(&self, x: L::F32) -> L::F32 {
        // A NaN on the right passes through the minimum.
        self.limit.min(x.abs())
    }

    /// The function's value at what [`PiecesIn::distance`] gave.
    #[inline(always)]
    pub(crate) fn at(&self, distance: L::F32) -> L::F32 {
        let PiecesIn { lanes, per_unit, coefficients, .. } = *self;
        let shifted = distance.mul_add(per_unit, lanes.splat(SHIFT));
        let off = distance.neg_mul_add(per_unit, shifted - lanes.splat(SHIFT));
        let mut value = lanes.look_up(coefficients[5], shifted);
        for j in (0..5).rev() {
            value = value.mul_add(off, lanes.look_up(coefficients[j], shifted));
        }
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;
    use crate::activation::Activation;
    use crate::isa::dispatch;
    use crate::lanes::{inlined, map};
    use crate::reference::activation::{activation, activation_derivative};
    use crate::testing::isas;

    #[inline(always)]
    fn body<L: Lanes>(y: &mut [f32], x: &[f32], pieces: &Pieces) {
        let pieces = PiecesIn::new(L::here(), pieces);
        map(L::here(), y, x, inlined!(|x| pieces.at(pieces.distance(x))));
    }

    fn values(isa: Isa, x: &[f32], pieces: &Pieces) -> Vec<f32> {
        let mut y = vec![7.0; x.len()];
        let out = &mut y[..];
        dispatch!(isa, body(out: &mut [f32], x: &[f32], pieces: &Pieces));
        y
    }

    /// Panics unless `pieces` are within `near` of `want` up to `limit`, and within `far` beyond.
    fn check(pieces: &Pieces, want: impl Fn(f64) -> f64, (limit, near, far): (f32, f64, f64)) {
        let x: Vec<f32> = (0..160_000).map(|i| -8.0 + (i as f32 + 0.5) * 1e-4).collect();
        for isa in isas() {
            for (x, y) in x.iter().zip(values(isa, &x, pieces)) {
                let error = (f64::from(y) - want(f64::from(x.abs()))).abs();
                let bound = if x.abs() < limit { near } else { far };
                assert!(error <= bound, "{isa}: at {x} {y}, off by {error:e}");
            }
        }
    }

    #[test]
    fn every_function_is_within_its_stated_error() {
        let value = |f| move |x| activation(x, f) / x - 1.0;
        let slope = |f| move |x| activation_derivative(x, f) - 0.5;
        check(&NORMAL, value(Activation::Gelu), (5.2, 5e-8, 9e-8));
        check(&GELU_SLOPE, slope(Activation::Gelu), (5.7, 1e-7, 1.2e-7));
        check(&TANH, value(Activation::GeluTanh), (f32::INFINITY, 5e-8, 0.0));
        check(&TANH_SLOPE, slope(Activation::GeluTanh), (f32::INFINITY, 1e-7, 0.0));
    }

    #[test]
    fn they_are_even_constant_far_out_and_keep_nan() {
        let x = [0.0, 0.7, -0.7, 6.0, -6.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN];
        for (pieces, ends) in [
            (&NORMAL, [-0.5, 0.0]),
            (&GELU_SLOPE, [0.0, 0.5]),
            (&TANH, [-0.5, 0.0]),
            (&TANH_SLOPE, [0.0, 0.5]),
        ] {
            for isa in isas() {
                let y = values(isa, &x, pieces);
                assert_eq!(y[0], ends[0], "{isa}");
                assert_eq!(y[1], y[2], "{isa}");
                assert_eq!(y[3..7], [ends[1]; 4], "{isa}");
                assert!(y[7].is_nan(), "{isa}");
            }
        }
    }
}
