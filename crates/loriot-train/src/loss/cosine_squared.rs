//! The loss of the guide's judged pairs, and its derivative by the unit vectors.
//!
//! ```text
//! cos  = Σ_d q[d]·p[d]                       q, p unit vectors, y in 0..=1 the label
//! e    = y·(1 − cos) + max((1 − y)·cos, 0)   how far the pair is from what its label asks
//! loss = Σ_pairs e² / B                      a pair: a row's query and one of its candidates; B pairs in the step
//! ```
//!
//! Each part of a step divides by the `B` of the whole, so that sums over parts are those of the step at once, a short last
//! part included. Sums are f64.

use super::{Batch, Loss, LossGradient, StepSize, cosine};

/// `mean((y·(1 − cos) + max((1 − y)·cos, 0))²)`.
#[derive(Clone, Copy, Debug)]
pub struct CosineSquared;

impl Loss for CosineSquared {
    fn adds_over_parts(&self) -> bool {
        true
    }

    fn gradient(&self, batch: &Batch<'_>, step: StepSize) -> LossGradient {
        let (dim, n_pairs) = (batch.queries.dim(), step.n_candidates as f64);
        let mut gradient = LossGradient::zero(batch);
        for row in 0..batch.rows.len() {
            let query_d = batch.queries.get(row);
            let dquery_d = &mut gradient.dquery_rd[row * dim..][..dim];
            for candidate in batch.rows.candidates_of(row) {
                let product_d = batch.candidates.get(candidate);
                let label = f64::from(batch.rows.labels()[candidate]);
                let (square, dcos) = square_error(cosine(query_d, product_d), label);
                gradient.loss += square / n_pairs;
                let dcos = (dcos / n_pairs) as f32;
                // cos is linear in each vector: its derivative by one is the other.
                add_scaled(dquery_d, dcos, product_d);
                add_scaled(&mut gradient.dcandidate_cd[candidate * dim..][..dim], dcos, query_d);
            }
        }
        gradient
    }

    fn value(&self, batch: &Batch<'_>) -> f64 {
        let pairs = batch.cosines().zip(batch.rows.labels());
        let squares = pairs.map(|(cos, &label)| square_error(cos, f64::from(label)).0);
        squares.sum::<f64>() / batch.rows.labels().len() as f64
    }
}

/// `e²` of one pair, and its derivative by the cosine (that of `max` at 0 is 1, as in torch.clamp).
fn square_error(cos: f64, label: f64) -> (f64, f64) {
    let irrelevant = (1.0 - label) * cos;
    let error = label * (1.0 - cos) + irrelevant.max(0.0);
    let derror = -label + if irrelevant >= 0.0 { 1.0 - label } else { 0.0 };
    (error * error, 2.0 * error * derror)
}

fn add_scaled(to_d: &mut [f32], factor: f32, from_d: &[f32]) {
    to_d.iter_mut().zip(from_d).for_each(|(to, from)| *to += factor * from);
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
        let got = CosineSquared.gradient(&batch, StepSize::of(&rows));
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
        assert!((CosineSquared.value(&batch) - loss_of(&exact)).abs() < 1e-12);
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
        let whole = CosineSquared.gradient(&batch, step);
        let part = |row: usize| {
            let (rows_of_part, candidates) = (rows.select([row]), rows.candidates_of(row));
            let query_rd = &query_rd[2 * row..][..2];
            let candidate_cd = &candidate_cd[2 * candidates.start..2 * candidates.end];
            let batch = Batch::of_each(&rows_of_part, query_rd, candidate_cd, 2);
            CosineSquared.gradient(&batch, step)
        };
        let (first, last) = (part(0), part(1));
        assert!((first.loss + last.loss - whole.loss).abs() < 1e-15);
        assert_eq!([first.dquery_rd, last.dquery_rd].concat(), whole.dquery_rd);
        assert_eq!([first.dcandidate_cd, last.dcandidate_cd].concat(), whole.dcandidate_cd);
    }
}
