//! Which rows each step has. Every epoch has an order of its own, which the seed decides.
//!
//! An epoch's order is a Fisher–Yates shuffle of `0..n_rows` (Durstenfeld's, from the end) drawn
//! from a SplitMix64 stream that starts at a mix of seed and epoch. Neither the number of threads nor
//! earlier epochs matter, so (epoch, rows done) is enough to resume a run. The loop asks for the rows
//! of a step and never assumes how many they are. Changing any of this changes every run:
//! `golden_order` below notices.

use loriot_kernels::random::{SplitMix64, mix};

/// Cuts the rows of each epoch into steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sampler {
    /// Rows of the training data.
    pub n_rows: u32,
    /// Rows of a step; the last step of an epoch may have fewer.
    pub rows_per_step: usize,
    /// Seed of the run.
    pub seed: u64,
    /// Whether to shuffle at all.
    pub shuffle: bool,
}

impl Sampler {
    /// Steps of all epochs before `epoch`. Nothing else assumes that every epoch has as many.
    pub fn n_steps_before(&self, epoch: u64) -> u64 {
        epoch.saturating_mul(self.steps_per_epoch())
    }

    /// Epochs that `n_steps` steps take, the last perhaps unfinished.
    pub fn n_epochs(&self, n_steps: u64) -> u64 {
        n_steps.div_ceil(self.steps_per_epoch().max(1))
    }

    fn steps_per_epoch(&self) -> u64 {
        (self.n_rows as usize).div_ceil(self.rows_per_step) as u64
    }

    /// The steps of an epoch.
    pub fn steps(&self, epoch: u64) -> EpochSteps {
        let n_rows = self.n_rows as usize;
        let starts = (0..n_rows).step_by(self.rows_per_step).chain([n_rows]);
        EpochSteps { rows: self.order(epoch), starts: starts.collect() }
    }

    /// Every row once, in the order of this epoch.
    fn order(&self, epoch: u64) -> Vec<u32> {
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

/// Which rows the steps of an epoch have. Nothing but this says how many they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EpochSteps {
    rows: Vec<u32>,
    /// Where each step begins in `rows`, then their number.
    starts: Vec<usize>,
}

impl EpochSteps {
    /// Rows of the epoch that come before its step `step`, from 0; all rows from its end on.
    pub fn n_rows_before(&self, step: u64) -> usize {
        let step = usize::try_from(step).unwrap_or(usize::MAX);
        self.starts.get(step).copied().unwrap_or(self.rows.len())
    }

    /// The rows of step `step`.
    pub fn rows(&self, step: u64) -> &[u32] {
        &self.rows[self.n_rows_before(step)..self.n_rows_before(step + 1)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampler(n_rows: u32, seed: u64) -> Sampler {
        Sampler { n_rows, rows_per_step: 4, seed, shuffle: true }
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

    #[test]
    fn the_steps_of_an_epoch_have_its_rows_in_order_the_last_step_what_is_left() {
        let sampler = sampler(10, 42);
        let (steps, order) = (sampler.steps(1), sampler.order(1));
        assert_eq!([0, 1, 2].map(|epoch| sampler.n_steps_before(epoch)), [0, 3, 6]);
        assert_eq!([0, 3, 4].map(|n_steps| sampler.n_epochs(n_steps)), [0, 1, 2]);
        assert_eq!(
            [0, 1, 2].map(|step| steps.rows(step)),
            [&order[..4], &order[4..8], &order[8..]]
        );
        assert_eq!([0, 1, 2, 3, 9].map(|step| steps.n_rows_before(step)), [0, 4, 8, 10, 10]);
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
