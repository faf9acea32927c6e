//! Metrics of one query's ranked list; the mean over queries is taken in [`crate::report`].
//!
//! Equal scores have no order of their own. Each metric here is its mean over all orders of every
//! group of equal scores, in closed form (McSherry and Najork, "Computing information retrieval
//! performance measures efficiently in the presence of tied scores", 2008); for nDCG that is also
//! what scikit-learn does. A list with one score throughout gives the expectation of random order.

use crate::classify::descending;

/// One query's judged products by falling score.
#[derive(Clone, Debug)]
pub struct RankedList {
    groups: Vec<Group>,
    /// All gains, the largest first.
    best_gains: Vec<f64>,
    n_positive: f64,
}

/// Products with the same score.
#[derive(Clone, Copy, Debug)]
struct Group {
    /// Products that rank before the group.
    n_before: usize,
    size: usize,
    n_positive: f64,
    mean_gain: f64,
}

impl RankedList {
    /// `gains` (0 or more) count for nDCG, `positive` for the other metrics.
    pub fn new(scores: &[f64], gains: &[f64], positive: &[bool]) -> RankedList {
        let n = scores.len();
        assert!(gains.len() == n && positive.len() == n, "one gain and one label per score");
        assert!(scores.iter().all(|score| score.is_finite()), "scores must be finite");
        assert!(gains.iter().all(|gain| *gain >= 0.0), "gains must be 0 or more");
        let mut rows: Vec<usize> = (0..n).collect();
        rows.sort_by(|&a, &b| descending(scores[a], scores[b]));
        let mut n_before = 0;
        let group = |rows: &[usize]| {
            let size = rows.len();
            let n_positive = rows.iter().filter(|&&row| positive[row]).count() as f64;
            let mean_gain = rows.iter().map(|&row| gains[row]).sum::<f64>() / size as f64;
            let group = Group { n_before, size, n_positive, mean_gain };
            n_before += size;
            group
        };
        RankedList {
            groups: rows.chunk_by(|&a, &b| scores[a] == scores[b]).map(group).collect(),
            best_gains: best_first(gains),
            n_positive: positive.iter().filter(|label| **label).count() as f64,
        }
    }

    /// Normalised discounted cumulative gain of the first `k` products, in `0.0..=1.0`.
    ///
    /// `DCG@k = Σ_{i=1..k} gain[i] / log2(i + 1)`; nDCG divides it by the DCG of the best order.
    /// `None` when all gains are 0: such a query is left out of the mean, not scored 0.
    pub fn ndcg(&self, k: usize) -> Option<f64> {
        let dcg = |group: &Group| -> f64 {
            let ranks = group.n_before..k.min(group.n_before + group.size);
            group.mean_gain * ranks.map(discount).sum::<f64>()
        };
        let ideal: f64 =
            self.best_gains.iter().take(k).enumerate().map(|(i, gain)| gain * discount(i)).sum();
        (ideal > 0.0).then(|| self.groups.iter().map(dcg).sum::<f64>() / ideal)
    }

    /// 1 / rank of the first positive product. `None` without one.
    pub fn reciprocal_rank(&self) -> Option<f64> {
        self.reciprocal_rank_within(usize::MAX)
    }

    /// The same where the first positive product is among the first `k`, else 0. `None` without one.
    pub fn reciprocal_rank_within(&self, k: usize) -> Option<f64> {
        let group = self.groups.iter().find(|group| group.n_positive > 0.0)?;
        let (mut sum, mut none_yet) = (0.0, 1.0);
        for place in 0..group.size.min(k.saturating_sub(group.n_before)) {
            let chance = (group.n_positive / (group.size - place) as f64).min(1.0);
            sum += none_yet * chance / (group.n_before + place + 1) as f64;
            none_yet *= 1.0 - chance;
        }
        Some(sum)
    }

    /// Mean, over the positive products, of the precision at their rank. `None` without one.
    pub fn average_precision(&self) -> Option<f64> {
        let (mut sum, mut n_found) = (0.0, 0.0);
        for group in self.groups.iter().filter(|group| group.n_positive > 0.0) {
            let chance = group.n_positive / group.size as f64;
            // Given one positive product, the chance that another place of the group holds one.
            let other = (group.n_positive - 1.0) / (group.size as f64 - 1.0).max(1.0);
            for place in 0..group.size {
                let found = n_found + 1.0 + place as f64 * other;
                sum += chance * found / (group.n_before + place + 1) as f64;
            }
            n_found += group.n_positive;
        }
        (self.n_positive > 0.0).then(|| sum / self.n_positive)
    }

    /// Share of the positive products that are among the first `k`. `None` without one.
    pub fn recall(&self, k: usize) -> Option<f64> {
        let found = |group: &Group| {
            let n_inside = k.saturating_sub(group.n_before).min(group.size);
            group.n_positive * n_inside as f64 / group.size as f64
        };
        (self.n_positive > 0.0)
            .then(|| self.groups.iter().map(found).sum::<f64>() / self.n_positive)
    }
}

/// Weight of the gain at rank `i`, counted from 0.
fn discount(i: usize) -> f64 {
    (i as f64 + 2.0).log2().recip()
}

fn best_first(gains: &[f64]) -> Vec<f64> {
    let mut best = gains.to_vec();
    best.sort_unstable_by(|a, b| b.total_cmp(a));
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every order of `n` things.
    fn orders(n: usize) -> Vec<Vec<usize>> {
        if n == 0 {
            return vec![Vec::new()];
        }
        let put_in = |order: Vec<usize>| {
            (0..n).map(move |place| {
                let mut longer = order.clone();
                longer.insert(place, n - 1);
                longer
            })
        };
        orders(n - 1).into_iter().flat_map(put_in).collect()
    }

    fn close(got: f64, want: f64) -> bool {
        (got - want).abs() < 1e-12
    }

    #[test]
    fn hand_computed_list() {
        // By falling score: positive at ranks 2 and 4; gains 0, 3, 1, 2.
        let list = RankedList::new(
            &[0.9, 0.8, 0.7, 0.6],
            &[0.0, 3.0, 1.0, 2.0],
            &[false, true, false, true],
        );
        assert_eq!(list.reciprocal_rank(), Some(0.5));
        assert_eq!(list.reciprocal_rank_within(2), Some(0.5));
        assert_eq!(list.reciprocal_rank_within(1), Some(0.0));
        assert!(close(list.average_precision().unwrap(), (1.0 / 2.0 + 2.0 / 4.0) / 2.0));
        assert_eq!(list.recall(1), Some(0.0));
        assert_eq!(list.recall(2), Some(0.5));
        assert_eq!(list.recall(10), Some(1.0));
        let dcg = 3.0 / 3.0_f64.log2() + 1.0 / 2.0;
        let ideal = 3.0 + 2.0 / 3.0_f64.log2() + 1.0 / 2.0;
        assert!(close(list.ndcg(3).unwrap(), dcg / ideal));
    }

    #[test]
    fn nothing_relevant_is_none_not_zero() {
        let list = RankedList::new(&[0.2, 0.1], &[0.0, 0.0], &[false, false]);
        assert_eq!(list.ndcg(10), None);
        assert_eq!(list.reciprocal_rank(), None);
        assert_eq!(list.average_precision(), None);
        assert_eq!(list.recall(10), None);
    }

    /// Ties broken in every way, and the mean taken.
    #[test]
    fn ties_count_as_the_mean_over_all_orders() {
        let cases: [(&[f64], &[f64], &[bool]); 4] = [
            (&[1.0; 4], &[3.0, 1.0, 0.0, 2.0], &[true, false, false, true]),
            (&[1.0; 6], &[1.0, 1.0, 1.0, 0.0, 0.0, 5.0], &[true, true, true, false, false, true]),
            (
                &[2.0, 1.0, 1.0, 1.0, 0.0],
                &[0.0, 1.0, 2.0, 0.0, 3.0],
                &[false, true, true, false, true],
            ),
            (&[2.0, 2.0, 1.0, 1.0, 1.0], &[0.0; 5], &[false, false, true, false, true]),
        ];
        for (scores, gains, positive) in cases {
            let list = RankedList::new(scores, gains, positive);
            let values = |list: &RankedList| {
                let ks = [1, 2, 3, 10];
                let mut values = vec![list.reciprocal_rank(), list.average_precision()];
                values.extend([1, 3].map(|k| list.reciprocal_rank_within(k)));
                values.extend(ks.map(|k| list.recall(k)));
                values.extend(ks.map(|k| list.ndcg(k)));
                values
            };
            let mut sums = vec![0.0; 12];
            let orders = orders(scores.len());
            for order in &orders {
                // A tenth per place cannot carry a row past another score.
                let broken: Vec<f64> = scores
                    .iter()
                    .zip(order)
                    .map(|(score, place)| score - *place as f64 / 10.0)
                    .collect();
                let list = RankedList::new(&broken, gains, positive);
                for (sum, value) in sums.iter_mut().zip(values(&list)) {
                    *sum += value.unwrap_or(0.0);
                }
            }
            for (got, sum) in values(&list).into_iter().zip(sums) {
                assert!(close(got.unwrap_or(0.0), sum / orders.len() as f64));
            }
        }
    }
}
