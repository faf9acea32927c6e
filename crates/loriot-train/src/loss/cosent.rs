//! Losses of the order of all pairs of a step: CoSENT, and AnglE, which is CoSENT of another similarity.
//!
//! ```text
//! loss = log(1 + Σ exp(λ·(s_i − s_j)))      over all pairs i, j of the step with y_i < y_j; s a pair's similarity, λ = 20
//!
//! cosent   s = cos                                                    Su, kexue.fm 8847, 2022; CoSENTLoss
//! angle    s = |cos + Σ_d (q″[d]·p′[d] − q′[d]·p″[d])|                Li and Li, "AnglE-optimized text embeddings", 2023; AnglELoss
//!          with x′ the first half of a unit vector and x″ the second (0 where the width is odd)
//! ```
//!
//! Only the order of labels counts. A step whose labels are all equal has loss 0. As in sentence-transformers; sums are f64.

use super::{Batch, Loss, LossGradient, StepSize, add_scaled, cosine};

/// Similarities are multiplied by it, as in sentence-transformers. `exp` of twice as much must not overflow in f64.
const SCALE: f64 = 20.0;

/// A loss of the order of all pairs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OrderLoss {
    /// By cosine.
    Cosent,
    /// By the difference of angles in the complex plane.
    Angle,
}

impl Loss for OrderLoss {
    fn adds_over_parts(&self) -> bool {
        false
    }

    fn gradient(&self, batch: &Batch<'_>, _: StepSize) -> LossGradient {
        let similarities = self.similarities(batch);
        let (loss, derivatives) = order_loss(&similarities, batch.rows.labels());
        let mut gradient = LossGradient { loss, ..LossGradient::zero(batch) };
        for (candidate, row) in batch.rows.row_of_candidates().enumerate() {
            let derivative = derivatives[candidate];
            match self {
                OrderLoss::Cosent => gradient.add_cosine(batch, (row, candidate), derivative),
                OrderLoss::Angle => {
                    let (q_d, p_d) = (batch.queries.get(row), batch.candidates.get(candidate));
                    let derivative = derivative * sign(cosine(q_d, p_d) + sine(q_d, p_d));
                    gradient.add_cosine(batch, (row, candidate), derivative);
                    let (dquery_d, dproduct_d) = gradient.of_pair(batch, (row, candidate));
                    add_turned(dquery_d, derivative as f32, p_d);
                    add_turned(dproduct_d, -derivative as f32, q_d);
                }
            }
        }
        gradient
    }

    fn value(&self, batch: &Batch<'_>) -> f64 {
        order_loss(&self.similarities(batch), batch.rows.labels()).0
    }
}

impl OrderLoss {
    /// Of each candidate with its row's query.
    fn similarities(self, batch: &Batch<'_>) -> Vec<f64> {
        match self {
            OrderLoss::Cosent => batch.cosines().collect(),
            OrderLoss::Angle => {
                let pairs = batch.rows.row_of_candidates().enumerate();
                let signed = pairs.map(|(candidate, row)| {
                    let (q_d, p_d) = (batch.queries.get(row), batch.candidates.get(candidate));
                    cosine(q_d, p_d) + sine(q_d, p_d)
                });
                signed.map(f64::abs).collect()
            }
        }
    }
}

/// The loss, and its derivative by each similarity. In the order of the labels, what a pair adds is a product of its own
/// exponential and the sum of those above it, so that no two pairs are compared.
fn order_loss(similarities: &[f64], labels: &[f32]) -> (f64, Vec<f64>) {
    let mut order: Vec<usize> = (0..labels.len()).collect();
    order.sort_by(|&a, &b| labels[a].total_cmp(&labels[b]));
    let up: Vec<f64> = order.iter().map(|&at| (SCALE * similarities[at]).exp()).collect();
    let down: Vec<f64> = order.iter().map(|&at| (-SCALE * similarities[at]).exp()).collect();
    let same_label = |a: &usize, b: &usize| labels[*a] == labels[*b];

    // Of each place in the order: the sum of `up` below its label, and of `down` above it.
    let (mut below, mut above) = (vec![0.0; order.len()], vec![0.0; order.len()]);
    let (mut sum, mut at) = (0.0, 0);
    for equal in order.chunk_by(same_label) {
        below[at..at + equal.len()].fill(sum);
        sum += up[at..at + equal.len()].iter().sum::<f64>();
        at += equal.len();
    }
    sum = 0.0;
    for equal in order.chunk_by(same_label).collect::<Vec<_>>().into_iter().rev() {
        at -= equal.len();
        above[at..at + equal.len()].fill(sum);
        sum += down[at..at + equal.len()].iter().sum::<f64>();
    }
    let total: f64 = 1.0 + up.iter().zip(&above).map(|(up, above)| up * above).sum::<f64>();
    let mut derivatives = vec![0.0; order.len()];
    for (place, &pair) in order.iter().enumerate() {
        let violated = up[place] * above[place] - down[place] * below[place];
        derivatives[pair] = SCALE * violated / total;
    }
    (total.ln(), derivatives)
}

/// The derivative of `|x|`, 0 at 0 as torch's.
fn sign(x: f64) -> f64 {
    if x == 0.0 { 0.0 } else { x.signum() }
}

/// Values of the first half of a vector; the second has as many, or one less.
fn half(dim: usize) -> usize {
    dim.div_ceil(2)
}

/// `Σ_d (q″[d]·p′[d] − q′[d]·p″[d])`.
fn sine(q_d: &[f32], p_d: &[f32]) -> f64 {
    let ((q_1, q_2), (p_1, p_2)) = (q_d.split_at(half(q_d.len())), p_d.split_at(half(p_d.len())));
    cosine(q_2, p_1) - cosine(q_1, p_2)
}

/// Adds `factor` times the derivative of [`sine`] by its first argument, `(−p″, p′)`; that by the second is its negative
/// with the arguments exchanged.
fn add_turned(to_d: &mut [f32], factor: f32, p_d: &[f32]) {
    let (to_1, to_2) = to_d.split_at_mut(half(p_d.len()));
    let (p_1, p_2) = p_d.split_at(half(p_d.len()));
    add_scaled(to_1, -factor, p_2);
    add_scaled(to_2, factor, p_1);
}
