//! What the loss of judged lists needs to know of an encoder and of grades before training.
//!
//! ```text
//! s, b   logistic regression of the grades on the cosines
//! r      the scale at which the pairwise term is least
//! k      1.7·√(κ/(1−κ))·√(κ/(2τ²))     how steeply the odds that an order is true rise with the difference of grades
//! ```
//!
//! `τ²` is the variance of true relevance within lists, `κ` the share that it has of the grades' variance there; the rest is
//! the raters' noise. `k` is that of two grades of normal relevance and normal noise, the normal distribution taken for a
//! logistic one (the factor 1.7).

use super::graded_lists::{Fit, GradedLists, Step, Terms, cross_entropy, sigmoid};
use super::words::ProductWords;
use super::{Batch, Loss, LossGradient, StepSize};
use std::sync::Arc;

/// Share of the grades' variance within lists that is relevance, where nothing tells it: that of a few raters from a crowd.
pub const CROWD: f64 = 0.25;

/// Least and greatest scale that is believed: a fit to few rows may find none.
const SCALES: (f64, f64) = (0.5, 30.0);

/// Fits to `steps`, which are of data with these `words`; `signal` is κ.
pub fn fit(steps: &[Batch<'_>], words: &ProductWords, signal: f64) -> Fit {
    let steps: Vec<Step<'_>> = steps.iter().map(Step::new).collect();
    let steepness = steepness(&steps, signal);
    let points = steps.iter().flat_map(|step| &step.pairs).map(|pair| (pair.cos, pair.grade));
    let (scale, bias) = logistic(&points.collect::<Vec<_>>());
    let orders = steps.iter().flat_map(|step| {
        let orders = step.orders(words, steepness).into_iter();
        orders.map(|order| {
            let difference = step.pairs[order.better].cos - step.pairs[order.worse].cos;
            (difference, order.target, order.weight)
        })
    });
    let pair_scale = least_scale(&orders.collect::<Vec<_>>());
    Fit { scale, bias, pair_scale, steepness }
}

/// `k` of the lists of `steps`.
fn steepness(steps: &[Step<'_>], signal: f64) -> f64 {
    let (mut squares, mut freedom) = (0.0, 0.0);
    for step in steps {
        for list in &step.lists {
            let mean = list.iter().map(|&at| step.pairs[at].grade).sum::<f64>() / list.len() as f64;
            squares += list.iter().map(|&at| (step.pairs[at].grade - mean).powi(2)).sum::<f64>();
            freedom += list.len() as f64 - 1.0;
        }
    }
    if squares == 0.0 {
        return Fit::default().steepness;
    }
    let true_variance = signal * squares / freedom;
    1.7 * (signal / (1.0 - signal)).sqrt() * (signal / (2.0 * true_variance)).sqrt()
}

/// Scale and bias of the logistic regression of the second on the first of `points`, by Newton's method.
fn logistic(points: &[(f64, f64)]) -> (f64, f64) {
    let n = points.len() as f64;
    // A slight pull to the default keeps a fit to few or separable points finite.
    let Fit { scale: usual, bias: usual_bias, .. } = Fit::default();
    let (mut scale, mut bias) = (usual, usual_bias);
    for _ in 0..50 {
        let (mut g0, mut g1) = (1e-4 * (bias - usual_bias), 1e-4 * (scale - usual));
        let (mut h00, mut h01, mut h11) = (1e-4, 0.0, 1e-4);
        for &(x, y) in points {
            let p = sigmoid(scale * x + bias);
            let (error, curve) = ((p - y) / n, p * (1.0 - p) / n);
            g0 += error;
            g1 += error * x;
            h00 += curve;
            h01 += curve * x;
            h11 += curve * x * x;
        }
        let determinant = h00 * h11 - h01 * h01;
        let dbias = (h11 * g0 - h01 * g1) / determinant;
        let dscale = (h00 * g1 - h01 * g0) / determinant;
        bias -= dbias;
        scale -= dscale;
        if dbias.abs() + dscale.abs() < 1e-10 {
            break;
        }
    }
    let believed = scale.clamp(SCALES.0, SCALES.1);
    if believed == scale {
        return (scale, bias);
    }
    // Of a scale that is not believed the bias means nothing: the mean grade stands at the mean cosine.
    let (mean_x, mean_y) =
        points.iter().fold((0.0, 0.0), |(x, y), point| (x + point.0 / n, y + point.1 / n));
    let mean_y = mean_y.clamp(0.01, 0.99);
    (believed, (mean_y / (1.0 - mean_y)).ln() - believed * mean_x)
}

/// The scale of the differences at which the weighted cross-entropy with the targets is least: it is convex in the scale, so
/// that halving finds it.
fn least_scale(orders: &[(f64, f64, f64)]) -> f64 {
    let slope = |scale: f64| -> f64 {
        let slopes = orders.iter().map(|&(difference, target, weight)| {
            weight * difference * cross_entropy(scale * difference, target).1
        });
        slopes.sum()
    };
    if orders.is_empty() {
        return Fit::default().pair_scale;
    }
    let (mut low, mut high) = SCALES;
    for _ in 0..50 {
        let middle = (low + high) / 2.0;
        if slope(middle) < 0.0 { low = middle } else { high = middle }
    }
    (low + high) / 2.0
}

/// What each term counts so that its derivative by the vectors of `steps` is, on average, as long as `sizes` says. A term
/// that finds nothing in them counts 0.
pub fn weights_of_sizes(
    steps: &[Batch<'_>],
    words: &Arc<ProductWords>,
    fit: Fit,
    sizes: Terms,
) -> Terms {
    let length = |weights: Terms| {
        let loss = GradedLists { words: words.clone(), fit, weights };
        let lengths = steps.iter().map(|batch| {
            let LossGradient { dquery_rd, dcandidate_cd, .. } =
                loss.gradient(batch, StepSize::of(batch.rows));
            let squares = dquery_rd.iter().chain(&dcandidate_cd).map(|&d| f64::from(d).powi(2));
            squares.sum::<f64>().sqrt()
        });
        lengths.sum::<f64>() / steps.len() as f64
    };
    let none = Terms::NONE;
    let weight = |size: f64, one: Terms| {
        let length = if size == 0.0 { 0.0 } else { length(one) };
        if length > 0.0 { size / length } else { 0.0 }
    };
    Terms {
        pointwise: weight(sizes.pointwise, Terms { pointwise: 1.0, ..none }),
        pairwise: weight(sizes.pairwise, Terms { pairwise: 1.0, ..none }),
        negatives: weight(sizes.negatives, Terms { negatives: 1.0, ..none }),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test helper's failure is the test's")]
mod tests {
    use super::*;
    use crate::rows::Rows;
    use loriot_kernels::random::SplitMix64;

    fn uniform(random: &mut SplitMix64) -> f64 {
        (random.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }

    #[test]
    fn a_regression_finds_the_scale_that_made_the_grades() {
        let mut random = SplitMix64::new(9);
        let points: Vec<(f64, f64)> = (0..40_000)
            .map(|_| {
                let cos = 1.2 * uniform(&mut random) - 0.2;
                let grade = f64::from(uniform(&mut random) < sigmoid(4.0 * cos - 1.5));
                (cos, grade)
            })
            .collect();
        let (scale, bias) = logistic(&points);
        assert!((scale - 4.0).abs() < 0.15 && (bias + 1.5).abs() < 0.1, "{scale} {bias}");
    }

    #[test]
    fn a_scale_that_nothing_tells_stays_in_bounds_and_at_the_mean_grade() {
        // Separable: the best scale is infinite.
        let (scale, bias) = logistic(&[(0.2, 0.0), (0.4, 1.0)].repeat(50));
        assert!((SCALES.0..=SCALES.1).contains(&scale) && bias.is_finite(), "{scale} {bias}");
        // The wrong way round.
        let (scale, bias) = logistic(&[(0.2, 1.0), (0.6, 0.0), (0.4, 0.5)].repeat(50));
        assert_eq!(scale, SCALES.0);
        assert!((sigmoid(scale * 0.4 + bias) - 0.5).abs() < 1e-9);
    }

    #[test]
    fn a_scale_of_differences_is_where_the_odds_are_the_targets() {
        let orders: Vec<_> = (1..9).map(|at| f64::from(at) / 10.0).collect();
        let orders: Vec<_> = orders.iter().map(|&d| (d, sigmoid(2.26 * d), d)).collect();
        assert!((least_scale(&orders) - 2.26).abs() < 1e-9);
        assert_eq!(least_scale(&[]), Fit::default().pair_scale);
    }

    /// Lists of a product of each of the two grades, whose vectors are at these angles to their queries'.
    fn lists(grades: [f32; 2]) -> (Rows, Vec<f32>, Vec<f32>) {
        let mut rows = Rows::default();
        let (mut queries, mut products) = (Vec::new(), Vec::new());
        for list in 0..6_u32 {
            for (at, grade) in grades.into_iter().enumerate() {
                let angle = 2.0 * list as f32;
                rows.push(list, [(2 * list + at as u32, grade)]);
                queries.extend([angle.cos(), angle.sin()]);
                let angle = angle + 0.7 + 0.3 * (at as f32) + 0.05 * list as f32;
                products.extend([angle.cos(), angle.sin()]);
            }
        }
        (rows, queries, products)
    }

    #[test]
    fn orders_are_as_steep_as_the_signal_in_the_grades_is_strong() {
        // Grades 0.3066 above and below the mean have the variance 0.188 in lists of two (one degree of freedom); grades
        // from 1 to 3 halved, a quarter of it.
        let (rows, queries, products) = lists([0.5 + 0.1533, 0.5 - 0.1533]);
        let batch = Batch::of_each(&rows, &queries, &products, 2);
        let fit = fit(&[batch], &ProductWords::default(), 0.25);
        assert!((fit.steepness - 3.2).abs() < 0.02, "{fit:?}");
    }

    #[test]
    fn terms_are_made_as_long_as_they_are_to_be() {
        let (rows, queries, products) = lists([1.0, 0.0]);
        let batch = Batch::of_each(&rows, &queries, &products, 2);
        let words = Arc::new(ProductWords::default());
        let sizes = Terms { pointwise: 2.0, pairwise: 0.0, negatives: 0.5 };
        let weights = weights_of_sizes(&[batch, batch], &words, Fit::default(), sizes);
        let length = |weights| {
            let loss = GradedLists { words: words.clone(), fit: Fit::default(), weights };
            let LossGradient { dquery_rd, dcandidate_cd, .. } =
                loss.gradient(&batch, StepSize::of(&rows));
            let squares = dquery_rd.iter().chain(&dcandidate_cd).map(|&d| f64::from(d).powi(2));
            squares.sum::<f64>().sqrt()
        };
        let Terms { pointwise, pairwise, negatives } = weights;
        assert_eq!(pairwise, 0.0);
        assert!((length(Terms { pointwise, ..Terms::NONE }) - 2.0).abs() < 1e-5);
        assert!((length(Terms { negatives, ..Terms::NONE }) - 0.5).abs() < 1e-5);
        // Without a relevant product there is no third term to be weighed.
        let (rows, queries, products) = lists([0.5, 0.0]);
        let batch = Batch::of_each(&rows, &queries, &products, 2);
        let weights = weights_of_sizes(&[batch], &words, Fit::default(), sizes);
        assert_eq!(weights.negatives, 0.0);
    }
}
