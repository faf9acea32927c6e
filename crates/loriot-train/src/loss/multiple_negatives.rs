//! Multiple negatives ranking: each relevant pair against all other products of the step.
//!
//! ```text
//! loss = 1/P · Σ_(q,p) [ log Σ_c exp(λ·cos(q, c)) − λ·cos(q, p) ]        λ = 20; P pairs with a label above 0.5
//! symmetric: the mean of that and of      log Σ_q′ exp(λ·cos(q′, p)) − λ·cos(q, p)
//! ```
//!
//! `c` runs over `p` and the candidates of all rows, irrelevant ones included, but for texts that are relevant to `q` by a pair
//! of this step; `q′` over `q` and the queries of all rows, but for those that `p`'s text is relevant to. (Henderson et al.,
//! "Efficient natural language response suggestion", 2017, section 4; Oord et al., InfoNCE, 2018; sentence-transformers'
//! MultipleNegativesRankingLoss, which masks nothing, and its MultipleNegativesSymmetricRankingLoss.) A step without a
//! relevant pair has loss 0. Sums are f64.

use super::{Batch, Loss, LossGradient, StepSize, cosine};
use std::collections::HashSet;

/// Cosines are multiplied by it, as in sentence-transformers.
const SCALE: f64 = 20.0;
/// Labels above it are of relevant pairs.
const RELEVANT: f32 = 0.5;

/// A softmax over the products of a step, or over its queries as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MultipleNegatives {
    /// Whether a product is compared with the queries of the step, too.
    pub symmetric: bool,
}

impl Loss for MultipleNegatives {
    fn adds_over_parts(&self) -> bool {
        false
    }

    fn gradient(&self, batch: &Batch<'_>, _: StepSize) -> LossGradient {
        let mut gradient = LossGradient::zero(batch);
        let loss = self.run(batch, |row, candidate, dcos| {
            gradient.add_cosine(batch, (row, candidate), dcos);
        });
        LossGradient { loss, ..gradient }
    }

    fn value(&self, batch: &Batch<'_>) -> f64 {
        self.run(batch, |_, _, _| ())
    }
}

impl MultipleNegatives {
    /// The loss. `derivative(row, candidate, dcos)` hears of its derivatives by cosines, whose sum is that by a vector.
    fn run(self, batch: &Batch<'_>, mut derivative: impl FnMut(usize, usize, f64)) -> f64 {
        let (rows, labels) = (batch.rows, batch.rows.labels());
        let (queries, texts) = (rows.queries(), rows.candidates());
        let pairs: Vec<(usize, usize)> =
            rows.row_of_candidates().enumerate().map(|(candidate, row)| (row, candidate)).collect();
        let is_positive = |&&(_, candidate): &&(usize, usize)| labels[candidate] > RELEVANT;
        let positives: Vec<(usize, usize)> = pairs.iter().filter(is_positive).copied().collect();
        let relevant: HashSet<(u32, u32)> =
            positives.iter().map(|&(row, candidate)| (queries[row], texts[candidate])).collect();
        let is_irrelevant =
            |row: usize, candidate: usize| !relevant.contains(&(queries[row], texts[candidate]));
        let n_directions = if self.symmetric { 2.0 } else { 1.0 };
        let share = 1.0 / (positives.len() as f64 * n_directions);

        let mut loss = 0.0;
        let mut compare =
            |positive: (usize, usize), others: &mut dyn Iterator<Item = (usize, usize)>| {
                let compared: Vec<(usize, usize)> =
                    std::iter::once(positive).chain(others).collect();
                let logit = |&(row, candidate): &(usize, usize)| {
                    SCALE * cosine(batch.queries.get(row), batch.candidates.get(candidate))
                };
                let logits: Vec<f64> = compared.iter().map(logit).collect();
                let log_sum = logits.iter().map(|logit| logit.exp()).sum::<f64>().ln();
                loss += share * (log_sum - logits[0]);
                for (at, (&(row, candidate), logit)) in compared.iter().zip(&logits).enumerate() {
                    let target = if at == 0 { 1.0 } else { 0.0 };
                    derivative(row, candidate, share * SCALE * ((logit - log_sum).exp() - target));
                }
            };
        for &(row, candidate) in &positives {
            let others = (0..texts.len()).filter(|&c| is_irrelevant(row, c)).map(|c| (row, c));
            compare((row, candidate), &mut { others });
            if self.symmetric {
                let others = (0..rows.len()).filter(|&r| is_irrelevant(r, candidate));
                compare((row, candidate), &mut others.map(|r| (r, candidate)));
            }
        }
        loss
    }
}
