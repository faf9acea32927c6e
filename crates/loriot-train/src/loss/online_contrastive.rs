//! The contrastive loss of a step's hard pairs alone: OnlineContrastiveLoss of sentence-transformers.
//!
//! ```text
//! d = 1 − cos                                   of pairs with label 1 (positive) and 0 (negative); others are left out
//! hard negatives: d < the largest d of a positive (of a negative's mean d, where there is no positive)
//! hard positives: d > the smallest d of a negative (of a positive's mean d, where there is no negative)
//! loss = Σ_hard positives d² + Σ_hard negatives max(m − d, 0)²        m = 0.5; a sum, not a mean
//! ```

use super::{Batch, Loss, LossGradient, StepSize};

/// A sum over the pairs of a step that are wrongly ordered, or nearly.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OnlineContrastive {
    /// Distance beyond which an irrelevant pair is left alone.
    pub margin: f64,
}

impl Loss for OnlineContrastive {
    fn adds_over_parts(&self) -> bool {
        false
    }

    fn gradient(&self, batch: &Batch<'_>, _: StepSize) -> LossGradient {
        let (loss, derivatives) = self.of_pairs(batch);
        let mut gradient = LossGradient { loss, ..LossGradient::zero(batch) };
        for (candidate, row) in batch.rows.row_of_candidates().enumerate() {
            gradient.add_cosine(batch, (row, candidate), derivatives[candidate]);
        }
        gradient
    }

    fn value(&self, batch: &Batch<'_>) -> f64 {
        self.of_pairs(batch).0
    }
}

impl OnlineContrastive {
    /// The loss, and its derivative by each pair's cosine.
    fn of_pairs(self, batch: &Batch<'_>) -> (f64, Vec<f64>) {
        let distances: Vec<f64> = batch.cosines().map(|cos| 1.0 - cos).collect();
        let labels = batch.rows.labels();
        let of = |label: f32| {
            let pairs = distances.iter().zip(labels);
            pairs.filter(move |(_, found)| **found == label).map(|(distance, _)| *distance)
        };
        let mean = |label: f32| of(label).sum::<f64>() / of(label).count() as f64;
        let farthest_positive = of(1.0).reduce(f64::max).unwrap_or_else(|| mean(0.0));
        let nearest_negative = of(0.0).reduce(f64::min).unwrap_or_else(|| mean(1.0));
        let mut loss = 0.0;
        let derivatives = distances.iter().zip(labels).map(|(&distance, &label)| {
            let short = (self.margin - distance).max(0.0);
            if label == 1.0 && distance > nearest_negative {
                loss += distance * distance;
                -2.0 * distance
            } else if label == 0.0 && distance < farthest_positive {
                loss += short * short;
                2.0 * short
            } else {
                0.0
            }
        });
        let derivatives = derivatives.collect();
        (loss, derivatives)
    }
}
