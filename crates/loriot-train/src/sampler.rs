//! Which rows each step has. Every epoch has an order of its own, which the seed decides.
//!
//! An epoch's order is a Fisher–Yates shuffle of `0..n_rows` (Durstenfeld's, from the end) drawn
//! from a SplitMix64 stream that starts at a mix of seed and epoch. Neither the number of threads nor
//! earlier epochs matter, so (epoch, rows done) is enough to resume a run. The loop asks for the rows
//! of a step and never assumes how many they are. Changing any of this changes every run:
//! `golden_order` below notices.
//!
//! A step may also be made of whole lists, all rows of a query together: then the lists are shuffled, and an epoch is cut
//! where one ends.

use crate::rows::Rows;
use loriot_kernels::random::{SplitMix64, mix};
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

/// Cuts the rows of each epoch into steps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sampler {
    /// Rows of the training data.
    pub n_rows: u32,
    /// Rows of a step at most; the last step of an epoch may have fewer, and so may every step of whole lists.
    pub rows_per_step: usize,
    /// Seed of the run.
    pub seed: u64,
    /// Whether to shuffle at all.
    pub shuffle: bool,
    /// The lists that are kept together; `None` where each row goes by itself.
    pub lists: Option<Arc<Lists>>,
}

/// The rows of each query, in the order of the queries' first rows.
#[derive(Debug, PartialEq, Eq)]
pub struct Lists {
    /// The rows of list 0, then those of list 1 …
    rows: Vec<u32>,
    /// Where each list begins in `rows`; then their number.
    starts: Vec<usize>,
    /// Rows of the longest.
    longest: usize,
}

impl Lists {
    /// The lists of `rows`, for steps of `rows_per_step` rows. One that is longer than a quarter of a step is cut into
    /// parts, so that every step has several queries.
    pub fn new(rows: &Rows, rows_per_step: usize) -> Lists {
        let mut list_of: HashMap<u32, usize> = HashMap::new();
        let mut whole: Vec<Vec<u32>> = Vec::new();
        for (row, &query) in rows.queries().iter().enumerate() {
            let list = *list_of.entry(query).or_insert(whole.len());
            if list == whole.len() {
                whole.push(Vec::new());
            }
            whole[list].push(row as u32);
        }
        let most = (rows_per_step / 4).max(1);
        let mut lists = Lists { rows: Vec::with_capacity(rows.len()), starts: vec![0], longest: 1 };
        for list in whole {
            let n_parts = list.len().div_ceil(most);
            for part in list.chunks(list.len().div_ceil(n_parts)) {
                lists.rows.extend(part);
                lists.starts.push(lists.rows.len());
                lists.longest = lists.longest.max(part.len());
            }
        }
        lists
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.starts.len() - 1
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn rows_of(&self, list: u32) -> &[u32] {
        let range: Range<usize> = self.starts[list as usize]..self.starts[list as usize + 1];
        &self.rows[range]
    }

    /// Steps of an epoch: so many that none that ends where a list does has more than `rows_per_step` rows.
    fn n_steps(&self, rows_per_step: usize) -> usize {
        self.rows.len().div_ceil((rows_per_step - self.longest).max(1))
    }
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
        let n_steps = match &self.lists {
            Some(lists) => lists.n_steps(self.rows_per_step),
            None => (self.n_rows as usize).div_ceil(self.rows_per_step),
        };
        n_steps as u64
    }

    /// The steps of an epoch.
    pub fn steps(&self, epoch: u64) -> EpochSteps {
        let Some(lists) = &self.lists else {
            let n_rows = self.n_rows as usize;
            let starts = (0..n_rows).step_by(self.rows_per_step).chain([n_rows]);
            return EpochSteps { rows: self.order(self.n_rows, epoch), starts: starts.collect() };
        };
        // Step k ends with the last list that is over at k/n of the rows, of n steps.
        let n_steps = lists.n_steps(self.rows_per_step);
        let mut steps = EpochSteps { rows: Vec::with_capacity(lists.rows.len()), starts: vec![0] };
        let over = |n_rows: usize| n_rows as u128 * n_steps as u128;
        for list in self.order(lists.len() as u32, epoch) {
            let list = lists.rows_of(list);
            let end_of_step = steps.starts.len() as u128 * lists.rows.len() as u128;
            if over(steps.rows.len() + list.len()) > end_of_step {
                steps.starts.push(steps.rows.len());
            }
            steps.rows.extend(list);
        }
        steps.starts.push(steps.rows.len());
        steps
    }

    /// Every number up to `n` once, in the order of this epoch.
    fn order(&self, n: u32, epoch: u64) -> Vec<u32> {
        let mut order: Vec<u32> = (0..n).collect();
        if self.shuffle {
            let mut random = SplitMix64::new(mix(mix(self.seed) ^ epoch));
            for last in (1..order.len()).rev() {
                order.swap(last, random.below(last as u64 + 1) as usize);
            }
        }
        order
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

    /// The rows of each step.
    pub fn iter(&self) -> impl Iterator<Item = &[u32]> {
        self.starts.windows(2).map(|step| &self.rows[step[0]..step[1]])
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
        Sampler { n_rows, rows_per_step: 4, seed, shuffle: true, lists: None }
    }

    #[test]
    fn every_epoch_has_every_row_once_in_an_order_of_its_own() {
        let sampler = sampler(1_000, 42);
        let (first, second) = (sampler.order(1_000, 0), sampler.order(1_000, 1));
        assert_ne!(first, second);
        assert_eq!(first, sampler.order(1_000, 0));
        for mut order in [first, second] {
            order.sort_unstable();
            assert_eq!(order, (0..1_000).collect::<Vec<_>>());
        }
        let other = Sampler { seed: 43, ..sampler.clone() };
        assert_ne!(sampler.order(1_000, 0), other.order(1_000, 0));
    }

    #[test]
    fn the_steps_of_an_epoch_have_its_rows_in_order_the_last_step_what_is_left() {
        let sampler = sampler(10, 42);
        let (steps, order) = (sampler.steps(1), sampler.order(10, 1));
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
        assert_eq!(sampler(8, 42).order(8, 0), [6, 0, 7, 2, 5, 1, 3, 4]);
    }

    #[test]
    fn each_row_comes_first_about_equally_often() {
        let mut first = [0; 5];
        for epoch in 0..5_000 {
            first[sampler(5, 1).order(5, epoch)[0] as usize] += 1;
        }
        // Five standard deviations of a binomial of 5,000 and 1/5 are 141.
        assert!(first.iter().all(|&n: &i32| (n - 1_000).abs() < 142), "{first:?}");
    }

    #[test]
    fn without_a_shuffle_rows_come_as_they_stand() {
        assert_eq!(Sampler { shuffle: false, ..sampler(4, 42) }.order(4, 3), [0, 1, 2, 3]);
        assert!(sampler(0, 42).order(0, 0).is_empty());
    }

    /// Rows of the queries 0, 1, 2 … in turn until each has as many as `n_rows` says.
    fn lists(n_rows: &[usize], rows_per_step: usize) -> Sampler {
        let mut rows = Rows::default();
        for turn in 0..n_rows.iter().copied().max().unwrap_or(0) {
            for (query, _) in n_rows.iter().enumerate().filter(|&(_, &n)| turn < n) {
                rows.push(query as u32, [(0, 0.0)]);
            }
        }
        let lists = Some(Arc::new(Lists::new(&rows, rows_per_step)));
        Sampler { n_rows: rows.len() as u32, rows_per_step, seed: 1, shuffle: true, lists }
    }

    #[test]
    fn steps_of_lists_have_every_row_once_and_at_most_a_step_of_them() {
        let mut random = SplitMix64::new(5);
        for rows_per_step in [1, 2, 3, 4, 5, 8, 31, 192] {
            for n_lists in [1, 2, 7, 60] {
                let n_rows: Vec<usize> =
                    (0..n_lists).map(|_| 1 + random.below(40) as usize).collect();
                let sampler = lists(&n_rows, rows_per_step);
                for epoch in 0..4 {
                    let n_steps = sampler.n_steps_before(epoch + 1) - sampler.n_steps_before(epoch);
                    let steps = sampler.steps(epoch);
                    let mut rows: Vec<u32> = Vec::new();
                    for step in 0..n_steps {
                        let of_step = steps.rows(step);
                        assert!((1..=rows_per_step).contains(&of_step.len()), "{of_step:?}");
                        rows.extend(of_step);
                    }
                    assert!(steps.rows(n_steps).is_empty());
                    rows.sort_unstable();
                    assert_eq!(rows, (0..sampler.n_rows).collect::<Vec<_>>());
                }
            }
        }
    }

    #[test]
    fn a_list_is_in_one_step_and_its_neighbours_change_with_the_epoch() {
        let sampler = lists(&[3; 40], 12);
        let queries_of_steps = |epoch| {
            let steps = sampler.steps(epoch);
            let of_step = |step| steps.rows(step).iter().map(|row| row % 40).collect::<Vec<_>>();
            let n_steps = sampler.n_steps_before(1);
            (0..n_steps).map(of_step).collect::<Vec<_>>()
        };
        for queries in queries_of_steps(0) {
            assert!(queries.chunks(3).all(|list| list.iter().all(|query| *query == list[0])));
        }
        assert_eq!(queries_of_steps(0), queries_of_steps(0));
        assert_ne!(queries_of_steps(0), queries_of_steps(1));
    }

    #[test]
    fn a_list_too_long_for_a_step_is_cut_into_parts_of_about_one_size() {
        let sampler = lists(&[41], 16);
        let lists = sampler.lists.as_ref().unwrap();
        let lengths: Vec<usize> =
            (0..lists.len()).map(|at| lists.rows_of(at as u32).len()).collect();
        assert_eq!(lengths, [4; 10].into_iter().chain([1]).collect::<Vec<_>>());
    }
}
