//! Which rows come when: a shuffle of its own for every epoch, made from the seed alone.
//!
//! An epoch's order is a Fisher–Yates shuffle of `0..n_rows` (Durstenfeld's, from the end) drawn
//! from a SplitMix64 stream that starts at a mix of seed and epoch. Nothing else enters: not the
//! threads, not the epochs before. So a run is resumed from (epoch, rows done) alone. Changing any
//! of this changes every run: `golden_order` below notices.

use loriot_kernels::random::{SplitMix64, mix};

/// Rows in the order of an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sampler {
    /// Rows of the training data.
    pub n_rows: u32,
    /// Seed of the run.
    pub seed: u64,
    /// Whether to shuffle at all.
    pub shuffle: bool,
}

impl Sampler {
    /// Every row once, in the order of this epoch.
    pub fn order(&self, epoch: u64) -> Vec<u32> {
        let mut rows: Vec<u32> = (0..self.n_rows).collect();
        if self.shuffle {
            let mut random = SplitMix64::new(mix(mix(self.seed) ^ epoch));
            for last in (1..rows.len()).rev() {
                rows.swap(last, random.below(last as u64 + 1) as usize);
            }
        }
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampler(n_rows: u32, seed: u64) -> Sampler {
        Sampler { n_rows, seed, shuffle: true }
    }

    #[test]
    fn every_epoch_has_every_row_once_in_an_order_of_its_own() {
        let sampler = sampler(1_000, 42);
        let (first, second) = (sampler.order(0), sampler.order(1));
        assert_ne!(first, second);
        assert_eq!(first, sampler.order(0));
        for mut order in [first, second] {
            order.sort_unstable();
            assert_eq!(order, (0..1_000).collect::<Vec<_>>());
        }
        assert_ne!(sampler.order(0), Sampler { seed: 43, ..sampler }.order(0));
    }

    /// Written down once, and computed a second time in Python.
    #[test]
    fn golden_order() {
        assert_eq!(sampler(8, 42).order(0), [6, 0, 7, 2, 5, 1, 3, 4]);
    }

    #[test]
    fn each_row_comes_first_about_equally_often() {
        let mut first = [0; 5];
        for epoch in 0..5_000 {
            first[sampler(5, 1).order(epoch)[0] as usize] += 1;
        }
        // Five standard deviations of a binomial of 5,000 and 1/5 are 141.
        assert!(first.iter().all(|&n: &i32| (n - 1_000).abs() < 142), "{first:?}");
    }

    #[test]
    fn without_a_shuffle_rows_come_as_they_stand() {
        assert_eq!(Sampler { shuffle: false, ..sampler(4, 42) }.order(3), [0, 1, 2, 3]);
        assert!(sampler(0, 42).order(0).is_empty());
    }
}
