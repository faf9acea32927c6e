//! Fitting the loss of judged lists to the encoder before the first step.

use crate::accumulate::StepVectors;
use crate::loss::fit::{CROWD, fit, weights_of_sizes};
use crate::loss::{Batch, GradedLists, ProductWords, Terms};
use crate::pairs::TokenPairs;
use crate::rows::Rows;
use crate::sampler::Sampler;
use loriot_encoder::train_model::TrainModel;
use std::sync::Arc;

/// Rows that are fitted to: some hundred queries, embedded in seconds, which tell a scale within some per cent.
const N_ROWS: usize = 4_096;

/// The loss of judged lists for the model as it is and the first steps of the first epoch of `data`. `sizes` says how long the
/// gradients of its terms are to be.
pub(crate) fn fit_lists(
    model: &TrainModel,
    data: &TokenPairs,
    sampler: &Sampler,
    sizes: Terms,
) -> GradedLists {
    let mut n_rows = 0;
    let steps = sampler.steps(0);
    let steps = steps.iter().take_while(|step| {
        let is_wanted = n_rows < N_ROWS;
        n_rows += step.len();
        is_wanted
    });
    let steps: Vec<(Rows, StepVectors)> = steps
        .map(|step| {
            let rows = data.rows.select(step.iter().map(|&row| row as usize));
            let ids: Vec<Vec<u32>> =
                data.texts(&rows, 0).iter().map(|text| text.ids.to_vec()).collect();
            let vectors = StepVectors::of(&rows, model.embed_ids(&ids));
            (rows, vectors)
        })
        .collect();
    let batches: Vec<Batch<'_>> = steps.iter().map(|(rows, vectors)| vectors.batch(rows)).collect();
    let words = Arc::new(ProductWords::new(&data.products));
    let fit = fit(&batches, &words, CROWD);
    let weights = weights_of_sizes(&batches, &words, fit, sizes);
    GradedLists { words, fit, weights }
}
