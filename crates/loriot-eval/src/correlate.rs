//! Correlation of scores with labels of any scale.

/// Spearman's rank correlation: Pearson's of the ranks, equal values sharing their mean rank.
/// `None` when either side does not vary.
pub fn spearman(x: &[f64], y: &[f64]) -> Option<f64> {
    Ranks::new(x, y, &vec![0; x.len()]).spearman(&[1])
}

/// Two columns of values that have been sorted once, for Spearman under many weightings.
#[derive(Clone, Debug)]
pub(crate) struct Ranks {
    clusters: Vec<u32>,
    x: Groups,
    y: Groups,
}

/// For each row the number of its group of equal values, groups numbered upwards.
#[derive(Clone, Debug)]
struct Groups {
    of_row: Vec<u32>,
    n_groups: usize,
}

impl Ranks {
    /// `clusters[i]` is the index of row `i`'s weight in the `weights` of a measurement.
    pub(crate) fn new(x: &[f64], y: &[f64], clusters: &[u32]) -> Ranks {
        assert!(x.len() == y.len() && x.len() == clusters.len(), "slices of one length");
        Ranks { clusters: clusters.to_vec(), x: Groups::new(x), y: Groups::new(y) }
    }

    pub(crate) fn spearman(&self, weights: &[u32]) -> Option<f64> {
        let weight = |row: usize| f64::from(weights[self.clusters[row] as usize]);
        let (x, y) = (self.x.ranks(weight), self.y.ranks(weight));
        weighted_pearson(&x, &y, weight)
    }
}

impl Groups {
    fn new(values: &[f64]) -> Groups {
        assert!(values.iter().all(|value| value.is_finite()), "values must be finite");
        let mut rows: Vec<usize> = (0..values.len()).collect();
        rows.sort_by(|&a, &b| values[a].partial_cmp(&values[b]).expect("values are finite"));
        let mut groups = Groups { of_row: vec![0; values.len()], n_groups: 0 };
        for group in rows.chunk_by(|&a, &b| values[a] == values[b]) {
            for &row in group {
                groups.of_row[row] = groups.n_groups as u32;
            }
            groups.n_groups += 1;
        }
        groups
    }

    /// Mean ranks, from 0.5 up, as if each row stood there `weight` times.
    fn ranks(&self, weight: impl Fn(usize) -> f64) -> Vec<f64> {
        let mut sizes = vec![0.0; self.n_groups];
        for (row, &group) in self.of_row.iter().enumerate() {
            sizes[group as usize] += weight(row);
        }
        let mut below = 0.0;
        for size in &mut sizes {
            let middle = below + *size / 2.0;
            below += *size;
            *size = middle;
        }
        self.of_row.iter().map(|&group| sizes[group as usize]).collect()
    }
}

/// Pearson's correlation, each row counted `weight` times. `None` when either side does not vary.
pub(crate) fn weighted_pearson(x: &[f64], y: &[f64], weight: impl Fn(usize) -> f64) -> Option<f64> {
    assert_eq!(x.len(), y.len(), "slices of one length");
    let (mut sum, mut sum_x, mut sum_y) = (0.0, 0.0, 0.0);
    for row in 0..x.len() {
        let w = weight(row);
        (sum, sum_x, sum_y) = (sum + w, sum_x + w * x[row], sum_y + w * y[row]);
    }
    let (mean_x, mean_y) = (sum_x / sum, sum_y / sum);
    let (mut xx, mut xy, mut yy) = (0.0, 0.0, 0.0);
    for row in 0..x.len() {
        let (w, dx, dy) = (weight(row), x[row] - mean_x, y[row] - mean_y);
        (xx, xy, yy) = (xx + w * dx * dx, xy + w * dx * dy, yy + w * dy * dy);
    }
    // The values are compared, not `xx` and `yy`: rounding can make these positive where all are equal.
    let varies = |values: &[f64]| {
        let mut counted = (0..values.len()).filter(|&row| weight(row) > 0.0);
        counted.next().is_some_and(|first| counted.any(|row| values[row] != values[first]))
    };
    let spread = xx.sqrt() * yy.sqrt();
    (varies(x) && varies(y) && spread > 0.0).then(|| (xy / spread).clamp(-1.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bootstrap::Counter;

    #[test]
    fn ranks_are_means_of_ties() {
        // Ranks 1, 2.5, 2.5, 4 against 1, 3, 2, 4: 4.5 / sqrt(4.5 · 5).
        let rho = spearman(&[0.1, 0.3, 0.3, 0.9], &[10.0, 30.0, 20.0, 40.0]).unwrap();
        assert!((rho - 4.5 / (4.5_f64 * 5.0).sqrt()).abs() < 1e-12);
    }

    #[test]
    fn spearman_sees_only_the_order() {
        let x = [0.1, 0.2, 0.7, 0.71];
        assert!((spearman(&x, &x.map(|v| (9.0 * v).exp())).unwrap() - 1.0).abs() < 1e-12);
        assert!((spearman(&x, &x.map(|v| -v.powi(3))).unwrap() + 1.0).abs() < 1e-12);
    }

    #[test]
    fn nothing_varies_nothing_correlates() {
        assert_eq!(spearman(&[1.0, 2.0], &[3.0, 3.0]), None);
        assert_eq!(spearman(&[], &[]), None);
        let pearson = |x: &[f64], y: &[f64]| weighted_pearson(x, y, |_| 1.0);
        assert_eq!(pearson(&[0.1; 7], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]), None);
        assert_eq!(pearson(&[0.5], &[0.5]), None);
    }

    #[test]
    fn pearson_of_a_hand_computed_case() {
        // Deviations −1, 0, 1 and −2, −1, 3: 5 / sqrt(2 · 14).
        let r = weighted_pearson(&[1.0, 2.0, 3.0], &[0.0, 1.0, 5.0], |_| 1.0).unwrap();
        assert!((r - 5.0 / 28.0_f64.sqrt()).abs() < 1e-12);
    }

    #[test]
    fn a_weight_is_a_repetition() {
        let mut counter = Counter::new(3, 0);
        let mut column =
            |n: u32| -> Vec<f64> { (0..40).map(|_| f64::from(counter.below(n))).collect() };
        let (x, y) = (column(9), column(4));
        let weights: Vec<u32> = column(3).iter().map(|w| *w as u32).collect();
        let clusters: Vec<u32> = (0..40).collect();
        let repeated = |values: &[f64]| -> Vec<f64> {
            let times = values.iter().zip(&weights);
            times.flat_map(|(value, n)| vec![*value; *n as usize]).collect()
        };
        let got = Ranks::new(&x, &y, &clusters).spearman(&weights).unwrap();
        let want = spearman(&repeated(&x), &repeated(&y)).unwrap();
        assert!((got - want).abs() < 1e-12);
    }
}
