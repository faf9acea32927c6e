//! The best that noisy labels let any model score.
//!
//! Where one query and title were graded more than once, the grades differ by what no reader of titles can know.
//! With `s²` the variance among repeats, `W` that within queries and `B` that between queries' means, grades are
//! simulated as normal variables, over lists as long as the data's:
//!
//! ```text
//! true = N(0, B) of the query + N(0, W − s²) of the row      grade = true + N(0, s²)
//! ```
//!
//! As many grades are positive as in the data. A perfect reader scores a row by `true`; a second panel, which is no
//! better than the first, by `true + N(0, s²)` of its own. Real grades are coarse and not normal: a ceiling is
//! right to about 0.03.

use std::collections::HashMap;

use crate::bootstrap::Counter;
use crate::classify::{roc_auc, roc_auc_per_query};
use crate::report::Judged;

/// Fewer repeats say too little about the noise.
const MIN_REPEATS: usize = 30;
/// Rows that are simulated at least, in whole copies of the data.
const MIN_SIMULATED: usize = 200_000;
/// Copies at most.
const MAX_COPIES: usize = 20;
/// Stream of the random numbers, beside those of the resamples, which are numbered from 0.
const STREAM: u64 = 1 << 40;

/// ROC-AUC over all rows, and the mean over queries with both labels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Order {
    /// Over all rows.
    pub pooled: f64,
    /// Mean over queries.
    pub per_query: f64,
}

/// What the labels' own noise allows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ceiling {
    /// Grades of a query and title beyond the first.
    pub n_repeats: usize,
    /// Variance of a grade among repeats of its query and title.
    pub noise: f64,
    /// Variance of a grade within its query; the noise is part of it.
    pub within: f64,
    /// What a perfect reader of titles would score.
    pub reader: Order,
    /// What a second panel of the same raters would score.
    pub panel: Order,
}

/// The ceiling of graded rows, where enough of them repeat a query and title.
///
/// `titles[i]` is the title of row `i` as a number; scores are not looked at. `None` without queries, with
/// fewer than 30 repeats, where repeats never differ (then they are copies, not judgements), and for labels of
/// two kinds, which are not like normal variables.
pub fn ceiling(
    judged: &Judged<'_>,
    titles: &[u32],
    positive_threshold: f64,
    seed: u64,
) -> Option<Ceiling> {
    let queries = judged.queries?;
    assert_eq!(titles.len(), queries.len(), "one title per row");
    let grades = judged.grades.unwrap_or(judged.labels);
    let first = *grades.first()?;
    let other = grades.iter().find(|grade| **grade != first)?;
    if grades.iter().all(|grade| *grade == first || grade == other) {
        return None;
    }
    let repeats = Groups::of(queries.iter().zip(titles).map(|(q, t)| (*q, *t)), grades);
    let noise = repeats.within();
    if repeats.n_beyond_first < MIN_REPEATS || noise <= 0.0 {
        return None;
    }
    let lists = Groups::of(queries.iter().map(|query| (*query, 0)), grades);
    let is_positive = |label: &&f64| **label > positive_threshold;
    let share = judged.labels.iter().filter(is_positive).count() as f64 / grades.len() as f64;
    let variances = [lists.between(), (lists.within() - noise).max(0.0), noise];
    let simulated = simulate(queries, variances, share, seed)?;
    let n_repeats = repeats.n_beyond_first;
    Some(Ceiling {
        n_repeats,
        noise,
        within: lists.within(),
        reader: simulated[0],
        panel: simulated[1],
    })
}

/// One-way analysis of variance.
struct Groups {
    n_rows: f64,
    n_groups: f64,
    n_beyond_first: usize,
    sum_n_squared: f64,
    /// Squared differences from the mean of the group.
    squares_within: f64,
    /// Squared differences of the means from the mean of all, once for each row.
    squares_between: f64,
}

impl Groups {
    fn of(keys: impl Iterator<Item = (u32, u32)>, values: &[f64]) -> Groups {
        let mut place_of = HashMap::new();
        let mut groups: Vec<Vec<f64>> = Vec::new();
        for (key, value) in keys.zip(values) {
            let place = *place_of.entry(key).or_insert(groups.len());
            if place == groups.len() {
                groups.push(Vec::new());
            }
            groups[place].push(*value);
        }
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
        let of_all = mean(values);
        let mut sums = Groups {
            n_rows: values.len() as f64,
            n_groups: groups.len() as f64,
            n_beyond_first: values.len() - groups.len(),
            sum_n_squared: 0.0,
            squares_within: 0.0,
            squares_between: 0.0,
        };
        for group in &groups {
            let (n, mean) = (group.len() as f64, mean(group));
            sums.sum_n_squared += n * n;
            sums.squares_within += group.iter().map(|x| (x - mean).powi(2)).sum::<f64>();
            sums.squares_between += n * (mean - of_all).powi(2);
        }
        sums
    }

    /// Variance within groups, unbiased.
    fn within(&self) -> f64 {
        self.squares_within / (self.n_rows - self.n_groups).max(1.0)
    }

    /// Variance of the groups' true means, by the method of moments; not below 0.
    fn between(&self) -> f64 {
        let mean_square = self.squares_between / (self.n_groups - 1.0).max(1.0);
        let size =
            (self.n_rows - self.sum_n_squared / self.n_rows) / (self.n_groups - 1.0).max(1.0);
        if size > 0.0 { ((mean_square - self.within()) / size).max(0.0) } else { 0.0 }
    }
}

/// The scores of a perfect reader and of a second panel, means over copies of the data.
fn simulate(queries: &[u32], variances: [f64; 3], share: f64, seed: u64) -> Option<[Order; 2]> {
    let [of_query, of_row, of_noise] = variances.map(f64::sqrt);
    let n_copies = MIN_SIMULATED.div_ceil(queries.len()).min(MAX_COPIES);
    let n_queries = queries.iter().max().map_or(0, |last| *last as usize + 1);
    let mut normal = Normal(Counter::new(seed, STREAM));
    let mut sums = [Order { pooled: 0.0, per_query: 0.0 }; 2];
    for _ in 0..n_copies {
        let query_effects: Vec<f64> = (0..n_queries).map(|_| of_query * normal.next()).collect();
        let row = |&query: &u32| query_effects[query as usize] + of_row * normal.next();
        let truth: Vec<f64> = queries.iter().map(row).collect();
        let mut rated =
            || -> Vec<f64> { truth.iter().map(|truth| truth + of_noise * normal.next()).collect() };
        let (grades, panel) = (rated(), rated());
        let mut sorted = grades.clone();
        sorted.sort_unstable_by(|a, b| b.total_cmp(a));
        let n_positive = (share * sorted.len() as f64).round() as usize;
        let lowest = *sorted.get(n_positive.checked_sub(1)?)?;
        let positive: Vec<bool> = grades.iter().map(|grade| *grade >= lowest).collect();
        for (sum, scores) in sums.iter_mut().zip([&truth, &panel]) {
            sum.pooled += roc_auc(scores, &positive)? / n_copies as f64;
            sum.per_query += roc_auc_per_query(scores, &positive, queries)?.0 / n_copies as f64;
        }
    }
    Some(sums)
}

/// Normal numbers of mean 0 and variance 1 (Box and Muller, 1958).
struct Normal(Counter);

impl Normal {
    fn next(&mut self) -> f64 {
        let (u, v) = (self.uniform(), self.uniform());
        (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
    }

    /// In `0.0 < u <= 1.0`.
    fn uniform(&mut self) -> f64 {
        (f64::from(self.0.below(u32::MAX)) + 1.0) / f64::from(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lists of six rows; variances, and what another simulation gave, are of the Home Depot grades.
    #[test]
    fn the_simulation_gives_what_another_one_gave() {
        let queries: Vec<u32> = (0..7200).map(|row| row / 6).collect();
        let at = |noise: f64| simulate(&queries, [0.097, 0.188 - noise, noise], 0.46, 1).unwrap();
        for (noise, reader, panel) in [(0.12, 0.81, 0.67), (0.15, 0.73, 0.60), (0.17, 0.66, 0.55)] {
            let [got_reader, got_panel] = at(noise);
            let close = |got: f64, want: f64| (got - want).abs() < 0.03;
            assert!(close(got_reader.per_query, reader), "{noise}: {got_reader:?}");
            assert!(close(got_panel.per_query, panel), "{noise}: {got_panel:?}");
            assert!(got_reader.pooled > got_panel.pooled);
        }
    }

    #[test]
    fn variances_are_found_again_and_the_ceiling_with_them() {
        let mut normal = Normal(Counter::new(3, 0));
        let (mut queries, mut titles, mut grades) = (Vec::new(), Vec::new(), Vec::new());
        for query in 0..2000 {
            let of_query = 0.3 * normal.next();
            for title in 0..6 {
                let of_title = of_query + 0.2 * normal.next();
                // Every third title is graded twice.
                for _ in 0..1 + usize::from(title % 3 == 0) {
                    queries.push(query);
                    titles.push(title);
                    grades.push(of_title + 0.4 * normal.next());
                }
            }
        }
        let labels: Vec<f64> =
            grades.iter().map(|grade| f64::from(u8::from(*grade > 0.0))).collect();
        let judged = Judged {
            scores: &grades,
            labels: &labels,
            queries: Some(&queries),
            grades: Some(&grades),
            titles: None,
        };
        let found = ceiling(&judged, &titles, 0.5, 1).unwrap();
        assert_eq!(found.n_repeats, 4000);
        assert!((found.noise - 0.16).abs() < 0.01, "{found:?}");
        assert!(found.reader.per_query > found.panel.per_query && found.panel.per_query > 0.5);
        // The same input gives the same bits.
        assert_eq!(ceiling(&judged, &titles, 0.5, 1), Some(found));
        let alone: Vec<u32> = (0..titles.len() as u32).collect();
        assert_eq!(ceiling(&judged, &alone, 0.5, 1), None, "nothing repeats");
        let binary = Judged { grades: None, ..judged };
        assert_eq!(ceiling(&binary, &titles, 0.5, 1), None, "two kinds of labels");
    }

    #[test]
    fn copies_of_rows_are_no_second_judgement() {
        let grades: Vec<f64> = (0..120).map(|row| f64::from(row / 2 % 3)).collect();
        let queries: Vec<u32> = (0..120).map(|row| row / 8).collect();
        let titles: Vec<u32> = (0..120).map(|row| row / 2).collect();
        let judged = Judged {
            scores: &grades,
            labels: &grades,
            queries: Some(&queries),
            grades: None,
            titles: None,
        };
        assert_eq!(ceiling(&judged, &titles, 0.5, 1), None);
    }
}
