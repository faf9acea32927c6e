//! Metrics of a score that separates positive from negative rows, all from one sweep.
//!
//! `Sweep` sorts once, highest score first. Each measurement then passes over the groups of equal
//! scores in O(n), with a weight for every cluster of rows. With weight 1 everywhere it gives the
//! metric itself; with the counts of a bootstrap resample, the metric of that resample.

/// A decision threshold (rows scoring at least this are called positive) and what it achieves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cut {
    /// The metric at the threshold.
    pub value: f64,
    /// Midway between the neighbouring scores.
    pub threshold: f64,
}

/// A threshold for a wanted precision (rows scoring at least this are taken for positive), and what it gives.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PrecisionCut {
    /// Midway between the neighbouring scores.
    pub threshold: f64,
    /// Share of the rows above it that are positive.
    pub precision: f64,
    /// Share of the positive rows that are above it.
    pub recall: f64,
    /// Rows above it.
    pub n_rows: usize,
}

/// Area under the ROC curve: the chance that a positive row outscores a negative one, ties ½.
///
/// `U / (P·N)` with `U` from midranks, as in scikit-learn. `None` when only one class is there.
pub fn roc_auc(scores: &[f64], positive: &[bool]) -> Option<f64> {
    Sweep::of_rows(scores, positive).roc_auc(&[1])
}

/// Mean of [`roc_auc`] over the queries that have both labels, and how many these are.
///
/// `queries[i]` is the query of row `i`, any numbering. `None` when no query has both.
pub fn roc_auc_per_query(
    scores: &[f64],
    positive: &[bool],
    queries: &[u32],
) -> Option<(f64, usize)> {
    assert_eq!(scores.len(), queries.len(), "one query per score");
    let mut rows: Vec<usize> = (0..queries.len()).collect();
    rows.sort_by_key(|&row| queries[row]);
    let of_query = |rows: &[usize]| {
        let scores: Vec<f64> = rows.iter().map(|&row| scores[row]).collect();
        let positive: Vec<bool> = rows.iter().map(|&row| positive[row]).collect();
        roc_auc(&scores, &positive)
    };
    let values: Vec<f64> =
        rows.chunk_by(|&a, &b| queries[a] == queries[b]).filter_map(of_query).collect();
    let n_queries = values.len();
    (n_queries > 0).then(|| (values.iter().sum::<f64>() / n_queries as f64, n_queries))
}

/// Average precision as scikit-learn defines it: `Σ_t (R_t − R_{t−1})·P_t` over the distinct
/// scores `t` from the highest down, no interpolation. `None` without a positive row.
pub fn average_precision(scores: &[f64], positive: &[bool]) -> Option<f64> {
    Sweep::of_rows(scores, positive).average_precision(&[1])
}

/// The best F1 over all thresholds, and the highest threshold that reaches it.
///
/// As in sentence-transformers the threshold lies midway between neighbouring scores. Unlike
/// there, rows with equal scores always get the same class, and a threshold at the lowest score,
/// which calls every row positive, is tried as well. `None` without a positive row.
pub fn best_f1(scores: &[f64], positive: &[bool]) -> Option<Cut> {
    Sweep::of_rows(scores, positive).best_f1(&[1])
}

/// The best accuracy over all thresholds, and the highest threshold that reaches it.
///
/// Thresholds as in [`best_f1`]; one just above the highest score, which calls no row positive, is
/// tried as well. `None` without rows.
pub fn best_accuracy(scores: &[f64], positive: &[bool]) -> Option<Cut> {
    Sweep::of_rows(scores, positive).best_accuracy(&[1])
}

/// The lowest threshold above which at least a share `precision` of the rows is positive.
///
/// `None` where no threshold that lets `min_rows` rows pass reaches it: of few rows, some share is high by chance.
pub fn cut_for_precision(
    scores: &[f64],
    positive: &[bool],
    precision: f64,
    min_rows: usize,
) -> Option<PrecisionCut> {
    let sweep = Sweep::of_rows(scores, positive);
    let n_positive = positive.iter().filter(|positive| **positive).count() as f64;
    let mut lowest = None;
    sweep.walk(&[1], |_, after, end| {
        let reached = after.positive / (after.positive + after.negative);
        if reached >= precision && end >= min_rows {
            lowest = Some((reached, after.positive / n_positive, end));
        }
    });
    lowest.map(|(precision, recall, end)| PrecisionCut {
        threshold: sweep.threshold(end),
        precision,
        recall,
        n_rows: end,
    })
}

/// Rows in the order of falling scores.
#[derive(Clone, Debug)]
pub(crate) struct Sweep {
    scores: Vec<f64>,
    positive: Vec<bool>,
    clusters: Vec<u32>,
    /// Where each group of equal scores ends.
    group_ends: Vec<usize>,
}

/// Weights of the rows passed so far.
#[derive(Clone, Copy, Default)]
struct Passed {
    positive: f64,
    negative: f64,
}

impl Sweep {
    /// `clusters[i]` is the index of row `i`'s weight in the `weights` of a measurement.
    pub(crate) fn new(scores: &[f64], positive: &[bool], clusters: &[u32]) -> Sweep {
        assert_eq!(scores.len(), positive.len(), "one label per score");
        assert_eq!(scores.len(), clusters.len(), "one cluster per score");
        assert!(scores.iter().all(|score| score.is_finite()), "scores must be finite");
        let mut rows: Vec<usize> = (0..scores.len()).collect();
        rows.sort_by(|&a, &b| descending(scores[a], scores[b]));
        let scores: Vec<f64> = rows.iter().map(|&row| scores[row]).collect();
        let mut group_ends = Vec::new();
        for end in 1..=scores.len() {
            if end == scores.len() || scores[end] != scores[end - 1] {
                group_ends.push(end);
            }
        }
        Sweep {
            scores,
            positive: rows.iter().map(|&row| positive[row]).collect(),
            clusters: rows.iter().map(|&row| clusters[row]).collect(),
            group_ends,
        }
    }

    /// Every row in cluster 0.
    fn of_rows(scores: &[f64], positive: &[bool]) -> Sweep {
        Sweep::new(scores, positive, &vec![0; scores.len()])
    }

    /// Calls `visit` with what was passed before and after each group, and the group's end.
    fn walk(&self, weights: &[u32], mut visit: impl FnMut(Passed, Passed, usize)) -> Passed {
        let (mut before, mut start) = (Passed::default(), 0);
        for &end in &self.group_ends {
            let mut after = before;
            for row in start..end {
                let weight = f64::from(weights[self.clusters[row] as usize]);
                // Without a branch: the processor cannot predict the order of labels.
                let positive = f64::from(u8::from(self.positive[row]));
                after.positive += weight * positive;
                after.negative += weight * (1.0 - positive);
            }
            visit(before, after, end);
            (before, start) = (after, end);
        }
        before
    }

    pub(crate) fn roc_auc(&self, weights: &[u32]) -> Option<f64> {
        let mut area = 0.0;
        let total = self.walk(weights, |before, after, _| {
            let width = after.negative - before.negative;
            area += width * (before.positive + after.positive) / 2.0;
        });
        let n_pairs = total.positive * total.negative;
        (n_pairs > 0.0).then(|| area / n_pairs)
    }

    pub(crate) fn average_precision(&self, weights: &[u32]) -> Option<f64> {
        let mut sum = 0.0;
        let total = self.walk(weights, |before, after, _| {
            let n_found = after.positive - before.positive;
            if n_found > 0.0 {
                sum += n_found * after.positive / (after.positive + after.negative);
            }
        });
        (total.positive > 0.0).then(|| sum / total.positive)
    }

    pub(crate) fn best_f1(&self, weights: &[u32]) -> Option<Cut> {
        let total = self.walk(weights, |_, _, _| {});
        let mut best: Option<(f64, usize)> = None;
        self.walk(weights, |_, after, end| {
            // F1 = 2·TP / (2·TP + FP + FN)
            let f1 = 2.0 * after.positive / (after.positive + after.negative + total.positive);
            if total.positive > 0.0 && best.is_none_or(|(value, _)| f1 > value) {
                best = Some((f1, end));
            }
        });
        best.map(|(value, end)| Cut { value, threshold: self.threshold(end) })
    }

    pub(crate) fn best_accuracy(&self, weights: &[u32]) -> Option<Cut> {
        let total = self.walk(weights, |_, _, _| {});
        let n_rows = total.positive + total.negative;
        let mut best = (total.negative, 0);
        self.walk(weights, |_, after, end| {
            let n_right = after.positive + total.negative - after.negative;
            if n_right > best.0 {
                best = (n_right, end);
            }
        });
        let (n_right, end) = best;
        (n_rows > 0.0).then(|| Cut { value: n_right / n_rows, threshold: self.threshold(end) })
    }

    /// The threshold that calls exactly the first `end` rows positive.
    fn threshold(&self, end: usize) -> f64 {
        match (end.checked_sub(1).map(|last| self.scores[last]), self.scores.get(end)) {
            (None, Some(highest)) => highest.next_up(),
            (Some(lowest), None) => lowest,
            (Some(above), Some(below)) => {
                let midway = above.midpoint(*below);
                // Between two neighbouring floats there is no middle.
                if midway > *below { midway } else { above }
            }
            (None, None) => 0.0,
        }
    }
}

/// The order of falling scores.
pub(crate) fn descending(a: f64, b: f64) -> std::cmp::Ordering {
    // Not `total_cmp`: it parts 0.0 from -0.0, which are equal scores.
    b.partial_cmp(&a).expect("scores are finite")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bootstrap::Counter;

    /// Few distinct values, so that ties are everywhere.
    fn rows(seed: u64, n: usize) -> (Vec<f64>, Vec<bool>) {
        let mut counter = Counter::new(seed, 0);
        let scores = (0..n).map(|_| f64::from(counter.below(7)) / 8.0 - 0.25).collect();
        let positive = (0..n).map(|_| counter.below(3) == 0).collect();
        (scores, positive)
    }

    fn close(got: f64, want: f64) -> bool {
        (got - want).abs() < 1e-12
    }

    #[test]
    fn roc_auc_is_the_share_of_pairs_in_the_right_order() {
        for seed in 0..50 {
            let (scores, positive) = rows(seed, 3 + seed as usize);
            let (mut won, mut n_pairs) = (0.0, 0.0);
            for i in (0..scores.len()).filter(|&i| positive[i]) {
                for j in (0..scores.len()).filter(|&j| !positive[j]) {
                    n_pairs += 1.0;
                    won += f64::from(u8::from(scores[i] > scores[j]));
                    won += 0.5 * f64::from(u8::from(scores[i] == scores[j]));
                }
            }
            match roc_auc(&scores, &positive) {
                Some(got) => assert!(close(got, won / n_pairs), "seed {seed}"),
                None => assert_eq!(n_pairs, 0.0, "seed {seed}"),
            }
        }
    }

    /// The example of scikit-learn's own documentation.
    #[test]
    fn known_values_of_scikit_learn() {
        let (scores, positive) = ([0.1, 0.4, 0.35, 0.8], [false, false, true, true]);
        assert_eq!(roc_auc(&scores, &positive), Some(0.75));
        assert!(close(average_precision(&scores, &positive).unwrap(), 0.8333333333333333));
    }

    #[test]
    fn one_class_has_no_roc_auc() {
        assert_eq!(roc_auc(&[0.1, 0.2], &[true, true]), None);
        assert_eq!(roc_auc(&[0.1, 0.2], &[false, false]), None);
        assert_eq!(roc_auc(&[], &[]), None);
        assert_eq!(average_precision(&[0.1], &[false]), None);
        assert_eq!(average_precision(&[0.1], &[true]), Some(1.0));
        assert_eq!(best_f1(&[0.1], &[false]), None);
        assert_eq!(best_accuracy(&[], &[]), None);
    }

    #[test]
    fn plus_and_minus_zero_are_a_tie() {
        assert_eq!(roc_auc(&[0.0, -0.0], &[true, false]), Some(0.5));
    }

    /// From the definitions, threshold by threshold, with no sorting.
    #[test]
    fn sweeps_agree_with_every_threshold_tried() {
        for seed in 0..50 {
            let (scores, positive) = rows(seed, 2 + seed as usize);
            let n_positive = positive.iter().filter(|p| **p).count() as f64;
            let counts = |threshold: f64| {
                let called = |i: &usize| scores[*i] >= threshold;
                let n_called = (0..scores.len()).filter(called).count() as f64;
                let n_found = (0..scores.len()).filter(called).filter(|&i| positive[i]).count();
                (n_called, n_found as f64)
            };
            let mut thresholds = scores.clone();
            thresholds.sort_by(|a, b| b.total_cmp(a));
            thresholds.dedup();
            let (mut ap, mut recall, mut f1) = (0.0, 0.0, 0.0_f64);
            let mut accuracy = 1.0 - n_positive / scores.len() as f64;
            for threshold in thresholds {
                let (n_called, n_found) = counts(threshold);
                ap += (n_found / n_positive - recall) * n_found / n_called;
                recall = n_found / n_positive;
                f1 = f1.max(2.0 * n_found / (n_called + n_positive));
                let n_wrong = n_called - n_found + n_positive - n_found;
                accuracy = accuracy.max(1.0 - n_wrong / scores.len() as f64);
            }
            if n_positive > 0.0 {
                assert!(close(average_precision(&scores, &positive).unwrap(), ap), "seed {seed}");
                let cut = best_f1(&scores, &positive).unwrap();
                let (n_called, n_found) = counts(cut.threshold);
                assert!(close(cut.value, f1), "seed {seed}");
                assert!(close(2.0 * n_found / (n_called + n_positive), f1), "seed {seed}");
            }
            let cut = best_accuracy(&scores, &positive).unwrap();
            let (n_called, n_found) = counts(cut.threshold);
            let n_right = scores.len() as f64 - n_called + 2.0 * n_found - n_positive;
            assert!(close(cut.value, accuracy), "seed {seed}");
            assert!(close(n_right / scores.len() as f64, accuracy), "seed {seed}");
        }
    }

    /// The values that sentence-transformers' `BinaryClassificationEvaluator` gives.
    #[test]
    fn thresholds_lie_midway_between_neighbours() {
        let (scores, positive) = ([0.9, 0.8, 0.6, 0.5, 0.1], [true, true, false, true, false]);
        let f1 = best_f1(&scores, &positive).unwrap();
        assert!(close(f1.value, 6.0 / 7.0) && close(f1.threshold, 0.3));
        let accuracy = best_accuracy(&scores, &positive).unwrap();
        assert!(close(accuracy.value, 0.8) && close(accuracy.threshold, 0.7));
    }

    #[test]
    fn the_cut_for_a_precision_is_the_lowest_that_reaches_it() {
        let scores = [0.9, 0.8, 0.7, 0.6, 0.5, 0.5];
        let positive = [true, false, true, true, false, true];
        let cut = |precision, min_rows| cut_for_precision(&scores, &positive, precision, min_rows);
        // 1, 1/2, 2/3, 3/4, then both of the tie: 4/6.
        let best = cut(0.7, 1).unwrap();
        assert!(close(best.threshold, 0.55) && best.precision == 0.75 && best.recall == 0.75);
        assert_eq!(best.n_rows, 4);
        assert_eq!(cut(0.6, 1).unwrap().n_rows, 6);
        assert_eq!(cut(0.9, 1).unwrap().n_rows, 1);
        assert_eq!(cut(0.9, 2), None);
        assert_eq!(cut_for_precision(&[0.1], &[false], 0.5, 0), None);
        assert_eq!(cut_for_precision(&[], &[], 0.5, 0), None);
    }

    #[test]
    fn the_threshold_parts_even_neighbouring_floats() {
        let (above, below) = (0.5_f64.next_up(), 0.5);
        let cut = best_accuracy(&[below, above], &[false, true]).unwrap();
        assert_eq!(cut.value, 1.0);
        assert!(above >= cut.threshold && below < cut.threshold);
        let cut = best_accuracy(&[0.5, 0.5], &[false, false]).unwrap();
        assert!(cut.value == 1.0 && 0.5 < cut.threshold);
    }

    #[test]
    fn per_query_means_only_queries_with_both_labels() {
        let scores = [0.9, 0.1, 0.4, 0.6, 0.7, 0.3, 0.3];
        let positive = [true, false, true, false, true, true, false];
        let queries = [5, 5, 1, 1, 2, 9, 9];
        // Query 5: 1, query 1: 0, query 2: one label only, query 9: a tie.
        assert_eq!(roc_auc_per_query(&scores, &positive, &queries), Some((0.5, 3)));
        assert_eq!(roc_auc_per_query(&scores[..1], &positive[..1], &queries[..1]), None);
    }

    #[test]
    #[should_panic(expected = "scores must be finite")]
    fn a_nan_score_is_the_callers_mistake() {
        let _ = roc_auc(&[f64::NAN, 0.0], &[true, false]);
    }
}
