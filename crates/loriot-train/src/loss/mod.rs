//! What a loss is: a number for the vectors of a batch of [`Rows`], and its derivative by them.
//!
//! A loss sees all vectors of a step at once: queries, any number of candidates a row, which texts are equal, which rows
//! share a query, and the labels. Some losses are sums over rows, divided by the size of the step; such a loss may be
//! given a step in parts (micro-batches) and be added up. One that compares a query with the candidates of other rows needs
//! the whole step; [`crate::accumulate`] gives it that without keeping the activations of more than one micro-batch.

mod cosent;
pub mod fit;
mod graded_lists;
mod multiple_negatives;
mod named;
mod online_contrastive;
mod pairs;
mod words;

pub use cosent::OrderLoss;
pub use graded_lists::{Fit, GradedLists, Terms};
pub use multiple_negatives::MultipleNegatives;
pub use named::LossName;
pub use online_contrastive::OnlineContrastive;
pub use pairs::PairLoss;
pub use words::ProductWords;

use crate::rows::Rows;
use crate::sampler::EpochSteps;

/// A loss. It has no state: the same batch gives the same bits.
pub trait Loss: Send + Sync {
    /// Whether a step's loss, and its derivative by each vector, are the sums of those of its parts.
    fn adds_over_parts(&self) -> bool;

    /// What `batch` contributes to the loss of its step, and the derivative by its vectors. `step` is the size of the whole
    /// step. A loss that does not add over parts is given whole steps only.
    fn gradient(&self, batch: &Batch<'_>, step: StepSize) -> LossGradient;

    /// The loss of `batch` as a whole step, without a derivative.
    fn value(&self, batch: &Batch<'_>) -> f64;
}

/// How large a step is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepSize {
    /// Its rows.
    pub n_rows: usize,
    /// Their candidates.
    pub n_candidates: usize,
}

impl StepSize {
    /// That of these rows.
    pub fn of(rows: &Rows) -> StepSize {
        StepSize { n_rows: rows.len(), n_candidates: rows.candidates().len() }
    }
}

/// A loss and its derivative.
#[derive(Clone, Debug, PartialEq)]
pub struct LossGradient {
    /// The loss, or the part's share of it.
    pub loss: f64,
    /// Derivative by the vector of each row's query, `(rows, d)`.
    pub dquery_rd: Vec<f32>,
    /// Derivative by the vector of each candidate, `(candidates, d)`.
    pub dcandidate_cd: Vec<f32>,
}

impl LossGradient {
    /// No loss, and derivatives of 0 for every vector of `batch`, to be added to. (They are −0: what is added to that
    /// first keeps its bits, the sign of a zero included.)
    pub fn zero(batch: &Batch<'_>) -> LossGradient {
        let StepSize { n_rows, n_candidates } = StepSize::of(batch.rows);
        let zeros = |n| vec![-0.0; n * batch.queries.dim];
        LossGradient { loss: 0.0, dquery_rd: zeros(n_rows), dcandidate_cd: zeros(n_candidates) }
    }

    /// Adds what a derivative by the cosine of a row's query and a candidate is by their vectors: the cosine is linear in
    /// each, so that its derivative by one is the other.
    fn add_cosine(&mut self, batch: &Batch<'_>, (row, candidate): (usize, usize), dcos: f64) {
        let (query_d, product_d) = (batch.queries.get(row), batch.candidates.get(candidate));
        let (dquery_d, dproduct_d) = self.of_pair(batch, (row, candidate));
        add_scaled(dquery_d, dcos as f32, product_d);
        add_scaled(dproduct_d, dcos as f32, query_d);
    }

    /// The derivatives by the vectors of a row's query and of a candidate.
    fn of_pair(
        &mut self,
        batch: &Batch<'_>,
        (row, candidate): (usize, usize),
    ) -> (&mut [f32], &mut [f32]) {
        let dim = batch.queries.dim;
        let dquery_d = &mut self.dquery_rd[row * dim..][..dim];
        (dquery_d, &mut self.dcandidate_cd[candidate * dim..][..dim])
    }
}

/// Rows with the unit vectors of their texts.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// Who is compared with whom.
    pub rows: &'a Rows,
    /// Of each row, the vector of its query.
    pub queries: Vectors<'a>,
    /// Of each candidate, its vector.
    pub candidates: Vectors<'a>,
}

impl<'a> Batch<'a> {
    /// Rows whose texts have a vector each, as dropout gives equal texts different ones: `query_rd` of every row,
    /// `candidate_cd` of every candidate.
    pub fn of_each(
        rows: &'a Rows,
        query_rd: &'a [f32],
        candidate_cd: &'a [f32],
        dim: usize,
    ) -> Batch<'a> {
        let StepSize { n_rows, n_candidates } = StepSize::of(rows);
        assert_eq!(query_rd.len(), n_rows * dim, "a vector for each query");
        assert_eq!(candidate_cd.len(), n_candidates * dim, "a vector for each candidate");
        let vectors = |unit_td| Vectors { unit_td, dim, of: None };
        Batch { rows, queries: vectors(query_rd), candidates: vectors(candidate_cd) }
    }

    /// Rows whose equal texts share a vector: `query_qd` of every distinct query, `product_pd` of every distinct product.
    pub fn of_distinct(
        rows: &'a Rows,
        query_qd: &'a [f32],
        product_pd: &'a [f32],
        dim: usize,
    ) -> Batch<'a> {
        let vectors = |unit_td, of| Vectors { unit_td, dim, of: Some(of) };
        let (queries, candidates) =
            (vectors(query_qd, rows.queries()), vectors(product_pd, rows.candidates()));
        Batch { rows, queries, candidates }
    }

    /// The cosine of each candidate and its row's query.
    pub fn cosines(&self) -> impl Iterator<Item = f64> + use<'a> {
        let Batch { rows, queries, candidates } = *self;
        let pairs = rows.row_of_candidates().enumerate();
        pairs.map(move |(candidate, row)| cosine(queries.get(row), candidates.get(candidate)))
    }
}

/// Unit vectors of texts, end to end or by the numbers of the texts.
#[derive(Clone, Copy, Debug)]
pub struct Vectors<'a> {
    unit_td: &'a [f32],
    dim: usize,
    of: Option<&'a [u32]>,
}

impl<'a> Vectors<'a> {
    /// Numbers in a vector.
    pub fn dim(self) -> usize {
        self.dim
    }

    /// The vector at `at`: of that row's query, or of that candidate.
    pub fn get(self, at: usize) -> &'a [f32] {
        let at = self.of.map_or(at, |of| of[at] as usize);
        &self.unit_td[at * self.dim..][..self.dim]
    }
}

/// `to += factor·from`.
fn add_scaled(to_d: &mut [f32], factor: f32, from_d: &[f32]) {
    to_d.iter_mut().zip(from_d).for_each(|(to, from)| *to += factor * from);
}

/// The inner product of two unit vectors, summed in f64.
pub fn cosine(a_d: &[f32], b_d: &[f32]) -> f64 {
    a_d.iter().zip(b_d).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

/// The loss of `batch` as evaluations report it: its mean over these steps, each weighted by its rows, or of all rows at once
/// where the loss is a mean over rows anyway.
pub fn mean_loss(loss: &dyn Loss, batch: &Batch<'_>, steps: &EpochSteps) -> f64 {
    if loss.adds_over_parts() {
        return loss.value(batch);
    }
    let sums = steps.iter().map(|step| {
        let of_step = || step.iter().map(|&row| row as usize);
        let rows = batch.rows.select(of_step());
        let query_rd: Vec<f32> =
            of_step().flat_map(|row| batch.queries.get(row)).copied().collect();
        let candidates = of_step().flat_map(|row| batch.rows.candidates_of(row));
        let candidate_cd: Vec<f32> =
            candidates.flat_map(|at| batch.candidates.get(at)).copied().collect();
        let part = Batch::of_each(&rows, &query_rd, &candidate_cd, batch.queries.dim);
        loss.value(&part) * rows.len() as f64
    });
    sums.sum::<f64>() / batch.rows.len() as f64
}
