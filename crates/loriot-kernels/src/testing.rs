//! Levels, noise and comparisons shared by the tests of kernels.

use crate::isa::{ISA_VARIABLE, Isa};

/// The levels that tests run on: the one that `LORIOT_ISA` names, or all there are.
pub(crate) fn isas() -> Vec<Isa> {
    match std::env::var_os(ISA_VARIABLE) {
        Some(_) => vec![Isa::from_env().expect("a level of this CPU")],
        None => Isa::available(),
    }
}

use crate::random::SplitMix64;

/// `len` numbers in `-1.0..1.0`, the same for the same seed (SplitMix64).
pub(crate) fn noise_f64(len: usize, seed: u64) -> Vec<f64> {
    let mut random = SplitMix64::new(seed.wrapping_mul(0x2545_f491_4f6c_dd1d));
    (0..len).map(|_| (random.next_u64() >> 11) as f64 / (1_u64 << 52) as f64 - 1.0).collect()
}

/// [`noise_f64`], rounded.
pub(crate) fn noise(len: usize, seed: u64) -> Vec<f32> {
    noise_f64(len, seed).into_iter().map(|x| x as f32).collect()
}

/// The same numbers in f64.
pub(crate) fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|x| f64::from(*x)).collect()
}

/// Panics unless `|got[i] − want[i]| ≤ bound(i)` everywhere, naming the element that is furthest off.
#[track_caller]
pub(crate) fn assert_within(got: &[f32], want: &[f64], bound: impl Fn(usize) -> f64, what: &str) {
    assert_eq!(got.len(), want.len(), "{what}: lengths differ");
    let excess = |i: usize| {
        let excess = (f64::from(got[i]) - want[i]).abs() - bound(i);
        if excess.is_nan() { f64::INFINITY } else { excess }
    };
    if let Some(at) = (0..got.len()).max_by(|&i, &j| excess(i).total_cmp(&excess(j))) {
        let (got, want, bound) = (got[at], want[at], bound(at));
        assert!(excess(at) <= 0.0, "{what}[{at}]: got {got}, want {want} within {bound:e}");
    }
}

/// Central differences: right to O(h²), about 1e-9 here.
pub(crate) fn numeric_grad(x: &[f64], loss: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    let (h, mut probe) = (1e-5, x.to_vec());
    let mut loss_at = |at: usize, value: f64| {
        probe[at] = value;
        let loss = loss(&probe);
        probe[at] = x[at];
        loss
    };
    (0..x.len()).map(|at| (loss_at(at, x[at] + h) - loss_at(at, x[at] - h)) / (2.0 * h)).collect()
}

/// Panics unless a gradient is within what central differences can tell.
#[track_caller]
pub(crate) fn assert_grads_close(got: &[f64], numeric: &[f64]) {
    assert_eq!(got.len(), numeric.len(), "lengths differ");
    for (at, (got, numeric)) in got.iter().zip(numeric).enumerate() {
        let error = (got - numeric).abs();
        assert!(error <= 1e-7 * (1.0 + numeric.abs()), "[{at}]: got {got}, numerically {numeric}");
    }
}

/// The distance from 1 to the next f32: twice the greatest relative error of one rounding.
pub(crate) const EPSILON: f64 = f32::EPSILON as f64;

/// `max |x[i]|`.
pub(crate) fn greatest(x: &[f64]) -> f64 {
    x.iter().fold(0.0, |greatest, x| greatest.max(x.abs()))
}
