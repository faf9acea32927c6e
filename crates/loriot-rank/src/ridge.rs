//! Ridge regression in closed form, over features of mean 0 and standard deviation 1.
//!
//! ```text
//! w = argmin Σ (y − x·w)² / n + λ·|w|²   ⇔   (XᵀX / n + λ·I)·w = Xᵀy / n
//! ```
//!
//! Sums are taken fold by fold, so that leaving a fold out is a subtraction.

use crate::features::N_FEATURES;

type Row = [f64; N_FEATURES];

/// `Σ x·xᵀ`, `Σ x·y` and `Σ y²` over some rows.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Moments {
    n_rows: f64,
    xx: [Row; N_FEATURES],
    xy: Row,
    yy: f64,
}

impl Moments {
    pub(crate) fn add(&mut self, x: &Row, y: f64) {
        self.n_rows += 1.0;
        for (i, xx) in self.xx.iter_mut().enumerate() {
            xx.iter_mut().zip(x).for_each(|(sum, xj)| *sum += x[i] * xj);
            self.xy[i] += x[i] * y;
        }
        self.yy += y * y;
    }

    /// `self + sign·other`.
    pub(crate) fn plus(mut self, sign: f64, other: &Moments) -> Moments {
        self.n_rows += sign * other.n_rows;
        for (xx, other) in self.xx.iter_mut().zip(&other.xx) {
            xx.iter_mut().zip(other).for_each(|(sum, x)| *sum += sign * x);
        }
        self.xy.iter_mut().zip(&other.xy).for_each(|(sum, x)| *sum += sign * x);
        self.yy += sign * other.yy;
        self
    }

    /// The weights; `lambda` is above 0, so that there always are some.
    pub(crate) fn solve(&self, lambda: f64) -> Row {
        let n = self.n_rows.max(1.0);
        let mut lower = [[0.0; N_FEATURES]; N_FEATURES];
        // Cholesky: XᵀX / n + λ·I = L·Lᵀ.
        for i in 0..N_FEATURES {
            for j in 0..=i {
                let known: f64 = (0..j).map(|k| lower[i][k] * lower[j][k]).sum();
                let value = self.xx[i][j] / n - known;
                lower[i][j] = match i == j {
                    // Above 0 but for rounding.
                    true => (value + lambda).max(lambda * f64::EPSILON).sqrt(),
                    false => value / lower[j][j],
                };
            }
        }
        let mut weights = self.xy.map(|xy| xy / n);
        for i in 0..N_FEATURES {
            let known: f64 = (0..i).map(|k| lower[i][k] * weights[k]).sum();
            weights[i] = (weights[i] - known) / lower[i][i];
        }
        for i in (0..N_FEATURES).rev() {
            let known: f64 = (i + 1..N_FEATURES).map(|k| lower[k][i] * weights[k]).sum();
            weights[i] = (weights[i] - known) / lower[i][i];
        }
        weights
    }

    /// The slope of `y` by one feature alone; 0 where that never varies.
    pub(crate) fn slope(&self, feature: usize) -> f64 {
        let squares = self.xx[feature][feature];
        if squares > 0.0 { self.xy[feature] / squares } else { 0.0 }
    }

    /// `Σ (y − x·w)²` over the rows.
    pub(crate) fn squared_error(&self, weights: &Row) -> f64 {
        let linear: f64 = self.xy.iter().zip(weights).map(|(xy, w)| xy * w).sum();
        let of_row =
            |(xx, w): (&Row, &f64)| w * xx.iter().zip(weights).map(|(xx, w)| xx * w).sum::<f64>();
        let quadratic: f64 = self.xx.iter().zip(weights).map(of_row).sum();
        self.yy - 2.0 * linear + quadratic
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(n: usize) -> Vec<(Row, f64)> {
        let noise = |at: usize| ((at * 7919 % 997) as f64 / 997.0 - 0.5) * 3.4;
        let row = |at: usize| {
            let x: Row = std::array::from_fn(|j| noise(at * N_FEATURES + j + at * at % 31));
            let y = 0.5 * x[0] - 0.25 * x[3] + 0.1 * noise(at * 13 + 5);
            (x, y)
        };
        (0..n).map(row).collect()
    }

    fn moments(rows: &[(Row, f64)]) -> Moments {
        let mut moments = Moments::default();
        rows.iter().for_each(|(x, y)| moments.add(x, *y));
        moments
    }

    /// At the minimum of the definition the derivative by every weight is 0.
    #[test]
    fn the_solution_is_the_minimum() {
        let rows = rows(200);
        let moments = moments(&rows);
        for lambda in [1e-6, 0.1, 3.0] {
            let weights = moments.solve(lambda);
            let value = |weights: &Row| {
                let error = |(x, y): &(Row, f64)| {
                    (y - x.iter().zip(weights).map(|(x, w)| x * w).sum::<f64>()).powi(2)
                };
                let squares: f64 = weights.iter().map(|w| w * w).sum();
                rows.iter().map(error).sum::<f64>() / 200.0 + lambda * squares
            };
            for at in 0..N_FEATURES {
                let moved = |by: f64| {
                    let mut moved = weights;
                    moved[at] += by;
                    value(&moved)
                };
                let slope = (moved(1e-5) - moved(-1e-5)) / 2e-5;
                assert!(slope.abs() < 1e-8, "{lambda}: {slope}");
            }
        }
    }

    #[test]
    fn a_feature_without_spread_and_one_twice_there_are_no_trouble() {
        let mut rows = rows(50);
        rows.iter_mut().for_each(|(x, _)| (x[1], x[2]) = (0.0, x[0]));
        let weights = moments(&rows).solve(1e-6);
        assert!(weights.iter().all(|w| w.is_finite()) && weights[1] == 0.0, "{weights:?}");
        assert!((weights[0] - weights[2]).abs() < 1e-3, "the weight is shared: {weights:?}");
        assert_eq!(Moments::default().solve(1e-6), [0.0; N_FEATURES]);
    }

    #[test]
    fn a_fold_left_out_is_a_fold_never_seen() {
        let rows = rows(60);
        let rest = moments(&rows).plus(-1.0, &moments(&rows[..20]));
        let (got, want) = (rest.solve(0.1), moments(&rows[20..]).solve(0.1));
        assert!(got.iter().zip(want).all(|(got, want)| (got - want).abs() < 1e-10));
        let direct: f64 = rows[..20]
            .iter()
            .map(|(x, y)| (y - x.iter().zip(&want).map(|(x, w)| x * w).sum::<f64>()).powi(2))
            .sum();
        assert!((moments(&rows[..20]).squared_error(&want) - direct).abs() < 1e-10);
    }
}
