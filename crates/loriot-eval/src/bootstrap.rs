//! Bootstrap: how much a metric would vary if other rows of the same kind had been judged.
//!
//! Clusters are drawn with replacement; a cluster is all rows of one query. A resample is, for each
//! cluster, the number of times it was drawn. That depends on the seed and the resample's number
//! alone, so two models measured on the same rows see the same resamples.

/// The central 95 % of the resampled values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    /// The 2.5th percentile.
    pub low: f64,
    /// The 97.5th percentile.
    pub high: f64,
}

impl Interval {
    /// Percentiles with linear interpolation, as NumPy's. A NaN is a resample in which the metric is
    /// undefined, and is left out. `None` when more than half of the resamples are NaN.
    pub fn of(samples: &[f64]) -> Option<Interval> {
        let mut sorted: Vec<f64> = samples.iter().copied().filter(|x| !x.is_nan()).collect();
        if sorted.is_empty() || 2 * sorted.len() < samples.len() {
            return None;
        }
        sorted.sort_unstable_by(f64::total_cmp);
        let percentile = |share: f64| {
            let place = share * (sorted.len() - 1) as f64;
            let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
            below + (above - below) * place.fract()
        };
        Some(Interval { low: percentile(0.025), high: percentile(0.975) })
    }
}

/// Random numbers by counting: SplitMix64 (Steele, Lea and Flood, 2014) over seed and stream.
///
/// A second copy of the generator in `loriot-kernels`, which this crate must not depend on.
#[derive(Clone, Debug)]
pub(crate) struct Counter {
    state: u64,
}

impl Counter {
    pub(crate) fn new(seed: u64, stream: u64) -> Counter {
        Counter { state: mix(mix(seed).wrapping_add(stream)) }
    }

    /// A number below `n`; the bias is under `n / 2^64`.
    pub(crate) fn below(&mut self, n: u32) -> u32 {
        ((u128::from(self.next()) * u128::from(n)) >> 64) as u32
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.state)
    }
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// How often resample number `resample` draws each cluster; as many draws as clusters.
pub(crate) fn draw(multiplicities: &mut [u32], seed: u64, resample: u64) {
    let n_clusters = u32::try_from(multiplicities.len()).expect("clusters are numbered by u32");
    multiplicities.fill(0);
    let mut counter = Counter::new(seed, resample);
    for _ in 0..n_clusters {
        multiplicities[counter.below(n_clusters) as usize] += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splitmix64_gives_the_numbers_of_its_authors() {
        let mut counter = Counter { state: 1_234_567 };
        let got = [counter.next(), counter.next()];
        assert_eq!(got, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973]);
    }

    #[test]
    fn percentiles_are_numpys() {
        let samples: Vec<f64> = (0..=100).rev().map(f64::from).collect();
        assert_eq!(Interval::of(&samples), Some(Interval { low: 2.5, high: 97.5 }));
        assert_eq!(Interval::of(&[7.0]), Some(Interval { low: 7.0, high: 7.0 }));
    }

    #[test]
    fn mostly_undefined_is_undefined() {
        let nan = f64::NAN;
        assert_eq!(Interval::of(&[nan, nan, 1.0]), None);
        assert_eq!(Interval::of(&[nan, 1.0]), Some(Interval { low: 1.0, high: 1.0 }));
        assert_eq!(Interval::of(&[]), None);
    }

    #[test]
    fn a_resample_has_as_many_draws_as_clusters_and_each_its_own() {
        let sample = |seed, resample| {
            let mut multiplicities = vec![9; 1000];
            draw(&mut multiplicities, seed, resample);
            multiplicities
        };
        assert_eq!(sample(1, 2).iter().sum::<u32>(), 1000);
        assert_eq!(sample(1, 2), sample(1, 2));
        assert_ne!(sample(1, 2), sample(1, 3));
        assert_ne!(sample(1, 2), sample(2, 2));
        // A share of (1 − 1/n)^n ≈ 1/e is never drawn.
        let n_missing = sample(5, 5).iter().filter(|m| **m == 0).count();
        assert!((320..420).contains(&n_missing), "{n_missing}");
    }
}
