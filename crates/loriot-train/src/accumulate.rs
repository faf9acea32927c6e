//! The gradient of one step, from micro-batches.
//!
//! A loss that adds over parts is given one micro-batch after another. Any other is given the vectors of the whole step: a
//! first pass over the micro-batches makes them and keeps nothing else, the loss gives the derivative by each, and a second
//! pass with the same masks, this time with a tape, takes them to the parameters (Gao, Zhang, Han and Callan, "Scaling deep
//! contrastive learning batch size under memory limited setup", 2021). Either way activations are
//! kept of one micro-batch; the second way keeps a vector and a derivative of every text as well.

use crate::loss::{Batch, Loss, LossGradient, StepSize};
use crate::pairs::TokenPairs;
use crate::rows::Rows;
use loriot_encoder::train_model::TrainModel;

/// What a step gave beside gradients.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepLoss {
    /// The loss of the step.
    pub loss: f64,
    /// Tokens that were encoded, each once though two passes encode it.
    pub tokens: u64,
}

/// Adds the gradient of `loss` over a step's `rows` of `data` to the model's gradients, with at most `micro_batch_size` rows
/// encoded at once. `step` names the dropout masks.
pub fn accumulate(
    model: &mut TrainModel,
    loss: &dyn Loss,
    data: &TokenPairs,
    rows: &Rows,
    micro_batch_size: usize,
    step: u32,
) -> StepLoss {
    let size = StepSize::of(rows);
    let starts = (0..rows.len()).step_by(micro_batch_size);
    let micro_batches = starts.map(|first| {
        let end = rows.len().min(first + micro_batch_size);
        (first, rows.select(first..end))
    });
    let mut total = StepLoss { loss: 0.0, tokens: 0 };
    if loss.adds_over_parts() || rows.len() <= micro_batch_size {
        for (first, part) in micro_batches {
            let vectors = StepVectors::of(&part, model.forward(&data.texts(&part, first), step));
            let gradient = loss.gradient(&vectors.batch(&part), size);
            backward(model, &gradient, &mut total);
            total.loss += gradient.loss;
        }
        return total;
    }
    let micro_batches: Vec<(usize, Rows)> = micro_batches.collect();
    let mut vectors = StepVectors::default();
    for (first, part) in &micro_batches {
        let unit_td = model.forward_without_tape(&data.texts(part, *first), step);
        vectors.append(StepVectors::of(part, unit_td));
    }
    let gradient = loss.gradient(&vectors.batch(rows), size);
    total.loss = gradient.loss;
    let dim = vectors.dim;
    for (first, part) in &micro_batches {
        let of_rows = |dvectors: &[f32], first: usize, n: usize| {
            dvectors[first * dim..(first + n) * dim].to_vec()
        };
        let first_candidate = rows.candidates_of(*first).start;
        let n_candidates = part.candidates().len();
        let of_part = LossGradient {
            loss: 0.0,
            dquery_rd: of_rows(&gradient.dquery_rd, *first, part.len()),
            dcandidate_cd: of_rows(&gradient.dcandidate_cd, first_candidate, n_candidates),
        };
        model.forward(&data.texts(part, *first), step);
        backward(model, &of_part, &mut total);
    }
    total
}

/// The backward pass of the last forward pass.
fn backward(model: &mut TrainModel, gradient: &LossGradient, total: &mut StepLoss) {
    model.backward(&[gradient.dquery_rd.as_slice(), &gradient.dcandidate_cd].concat());
    total.tokens += model.n_encoded_tokens() as u64;
}

/// A vector for each query and each candidate of some rows.
#[derive(Default)]
pub(crate) struct StepVectors {
    query_rd: Vec<f32>,
    candidate_cd: Vec<f32>,
    dim: usize,
}

impl StepVectors {
    /// From the vectors of [`TokenPairs::texts`].
    pub(crate) fn of(rows: &Rows, unit_td: Vec<f32>) -> StepVectors {
        let dim = unit_td.len() / (rows.len() + rows.candidates().len());
        let mut query_rd = unit_td;
        let candidate_cd = query_rd.split_off(rows.len() * dim);
        StepVectors { query_rd, candidate_cd, dim }
    }

    fn append(&mut self, other: StepVectors) {
        self.query_rd.extend(other.query_rd);
        self.candidate_cd.extend(other.candidate_cd);
        self.dim = other.dim;
    }

    /// `rows`, which they are of, with them.
    pub(crate) fn batch<'a>(&'a self, rows: &'a Rows) -> Batch<'a> {
        Batch::of_each(rows, &self.query_rd, &self.candidate_cd, self.dim)
    }
}
