//! Losses that are a mean over judged pairs, each pair by itself: a function of its cosine and its label.
//!
//! ```text
//! cos = Σ_d q[d]·p[d]                       q, p unit vectors, y in 0..=1 the label
//!
//! cosine-squared      (y·(1 − cos) + max((1 − y)·cos, 0))²               PEFT's guide to semantic similarity
//! cosine-similarity   (cos − y)²                                         CosineSimilarityLoss
//! contrastive         (y·d² + (1 − y)·max(m − d, 0)²) / 2, d = 1 − cos   ContrastiveLoss, m = 0.5
//!
//! loss = Σ_pairs / B                        a pair: a row's query and one of its candidates; B pairs in the step
//! ```
//!
//! The last two are called as in sentence-transformers, whose numbers they have. Each part of a step divides by the `B` of the
//! whole, so that sums over parts are those of the step at once, a short last part included. Sums are f64.

use super::{Batch, Loss, LossGradient, StepSize};

/// A mean over pairs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum PairLoss {
    /// How far the pair is from what its label asks, squared; below 0 an irrelevant pair is right.
    CosineSquared,
    /// The cosine is to be the label.
    CosineSimilarity,
    /// Hadsell, Chopra and LeCun 2006: relevant pairs are drawn together, others pushed apart up to a margin.
    Contrastive {
        /// Distance beyond which an irrelevant pair is left alone.
        margin: f64,
    },
}

impl Loss for PairLoss {
    fn adds_over_parts(&self) -> bool {
        true
    }

    fn gradient(&self, batch: &Batch<'_>, step: StepSize) -> LossGradient {
        let n_pairs = step.n_candidates as f64;
        let mut gradient = LossGradient::zero(batch);
        let pairs = batch.rows.row_of_candidates().zip(batch.cosines()).enumerate();
        for (candidate, (row, cos)) in pairs {
            let label = f64::from(batch.rows.labels()[candidate]);
            let (value, dcos) = self.of_pair(cos, label);
            gradient.loss += value / n_pairs;
            gradient.add_cosine(batch, (row, candidate), dcos / n_pairs);
        }
        gradient
    }

    fn value(&self, batch: &Batch<'_>) -> f64 {
        let pairs = batch.cosines().zip(batch.rows.labels());
        let values = pairs.map(|(cos, &label)| self.of_pair(cos, f64::from(label)).0);
        values.sum::<f64>() / batch.rows.labels().len() as f64
    }
}

impl PairLoss {
    /// The loss of one pair, and its derivative by the cosine.
    fn of_pair(self, cos: f64, label: f64) -> (f64, f64) {
        match self {
            PairLoss::CosineSquared => square_error(cos, label),
            PairLoss::CosineSimilarity => ((cos - label).powi(2), 2.0 * (cos - label)),
            PairLoss::Contrastive { margin } => {
                let distance = 1.0 - cos;
                let short = (margin - distance).max(0.0);
                let value = label * distance * distance + (1.0 - label) * short * short;
                (value / 2.0, (1.0 - label) * short - label * distance)
            }
        }
    }
}

/// `e²` of one pair, and its derivative by the cosine (that of `max` at 0 is 1, as in torch.clamp).
fn square_error(cos: f64, label: f64) -> (f64, f64) {
    let irrelevant = (1.0 - label) * cos;
    let error = label * (1.0 - cos) + irrelevant.max(0.0);
    let derror = -label + if irrelevant >= 0.0 { 1.0 - label } else { 0.0 };
    (error * error, 2.0 * error * derror)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::Rows;

    /// A row with one candidate, and one with two.
    fn rows() -> Rows {
        let mut rows = Rows::default();
        rows.push(0, [(0, 1.0)]);
        rows.push(1, [(1, 0.0), (2, 0.25)]);
        rows
    }

    const QUERY_ANGLES: [f32; 2] = [0.1, 1.3];
    const CANDIDATE_ANGLES: [f32; 3] = [0.6, 2.0, 5.0];

    fn units(angles: &[f32]) -> Vec<f32> {
        angles.iter().flat_map(|angle| [angle.cos(), angle.sin()]).collect()
    }

    #[test]
    fn a_pair_is_right_at_one_or_below_zero() {
        assert_eq!(square_error(1.0, 1.0).0, 0.0);
        assert_eq!(square_error(-0.3, 0.0), (0.0, 0.0));
        assert_eq!(square_error(0.5, 0.0), (0.25, 1.0));
        assert_eq!(square_error(0.5, 1.0), (0.25, -1.0));
        assert_eq!(square_error(0.5, 0.5).0, 0.25);
    }

    #[test]
    fn the_derivative_matches_central_differences() {
        let rows = rows();
        let (query_rd, candidate_cd) = (units(&QUERY_ANGLES), units(&CANDIDATE_ANGLES));
        let batch = Batch::of_each(&rows, &query_rd, &candidate_cd, 2);
        let got = PairLoss::CosineSquared.gradient(&batch, StepSize::of(&rows));
        let loss_of = |unit_td: &[f64]| -> f64 {
            let (query_rd, candidate_cd) = unit_td.split_at(4);
            let pairs = [(0, 1.0), (1, 0.0), (1, 0.25)].into_iter().zip(candidate_cd.chunks(2));
            let square = |((row, label), p): ((usize, f64), &[f64])| {
                let q = &query_rd[2 * row..];
                square_error(q[0] * p[0] + q[1] * p[1], label).0
            };
            pairs.map(square).sum::<f64>() / 3.0
        };
        let exact: Vec<f64> = query_rd.iter().chain(&candidate_cd).map(|&x| f64::from(x)).collect();
        assert!((got.loss - loss_of(&exact)).abs() < 1e-12);
        assert!((PairLoss::CosineSquared.value(&batch) - loss_of(&exact)).abs() < 1e-12);
        let got = [got.dquery_rd, got.dcandidate_cd].concat();
        let (h, mut probe) = (1e-5, exact.clone());
        for k in 0..exact.len() {
            probe[k] = exact[k] + h;
            let above = loss_of(&probe);
            probe[k] = exact[k] - h;
            let below = loss_of(&probe);
            probe[k] = exact[k];
            let numeric = (above - below) / (2.0 * h);
            // f32 rounding of the derivative, at most 1.2e-7 of a value below 2, twice.
            assert!((f64::from(got[k]) - numeric).abs() < 5e-7, "[{k}]");
        }
    }

    #[test]
    fn parts_add_up_to_the_step_whatever_their_sizes() {
        let rows = rows();
        let (query_rd, candidate_cd) = (units(&QUERY_ANGLES), units(&CANDIDATE_ANGLES));
        let step = StepSize::of(&rows);
        let batch = Batch::of_each(&rows, &query_rd, &candidate_cd, 2);
        let whole = PairLoss::CosineSquared.gradient(&batch, step);
        let part = |row: usize| {
            let (rows_of_part, candidates) = (rows.select([row]), rows.candidates_of(row));
            let query_rd = &query_rd[2 * row..][..2];
            let candidate_cd = &candidate_cd[2 * candidates.start..2 * candidates.end];
            let batch = Batch::of_each(&rows_of_part, query_rd, candidate_cd, 2);
            PairLoss::CosineSquared.gradient(&batch, step)
        };
        let (first, last) = (part(0), part(1));
        assert!((first.loss + last.loss - whole.loss).abs() < 1e-15);
        assert_eq!([first.dquery_rd, last.dquery_rd].concat(), whole.dquery_rd);
        assert_eq!([first.dcandidate_cd, last.dcandidate_cd].concat(), whole.dcandidate_cd);
    }
}
