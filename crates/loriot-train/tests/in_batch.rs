//! A loss that compares queries with the candidates of other rows, through the whole of a training step.

#![allow(clippy::unwrap_used, reason = "a test helper's failure is the test's")]

mod support;

use loriot_encoder::adapter::Adapter;
use loriot_encoder::encoder::{Encoder, EncoderOptions};
use loriot_encoder::reference::Reference;
use loriot_encoder::train_model::{TrainModel, Trained};
use loriot_encoder::{DropoutRates, Text};
use loriot_kernels::Isa;
use loriot_train::loss::{Loss, MultipleNegatives, mean_loss};
use loriot_train::sampler::EpochSteps;
use loriot_train::{Rows, TokenPairs, TrainSettings, accumulate};
use std::ops::ControlFlow;
use support::golden;

const LOSS: MultipleNegatives = MultipleNegatives { symmetric: false };
const SCALE: f64 = 20.0;

/// Six rows with one to three candidates. A query comes twice, and so does a positive.
fn data() -> TokenPairs {
    let ids = |first: u32, n: u32| vec![2, first, first + n, first + 1, 3];
    let mut rows = Rows::default();
    rows.push(0, [(0, 1.0), (1, 0.0)]);
    rows.push(1, [(2, 1.0)]);
    rows.push(2, [(0, 1.0), (3, 0.0), (1, 0.0)]);
    rows.push(0, [(4, 1.0), (2, 0.0)]);
    rows.push(3, [(5, 1.0)]);
    rows.push(1, [(3, 1.0), (5, 0.0)]);
    TokenPairs {
        queries: (0..4).map(|q| ids(40 + 5 * q, 2)).collect(),
        products: (0..6).map(|p| ids(70 + 4 * p, p)).collect(),
        rows,
        ..TokenPairs::default()
    }
}

/// The loss in f64, of unit vectors that are queries first.
fn exact_loss(rows: &Rows, unit_td: &[f64], d: usize) -> f64 {
    let (query_rd, candidate_cd) = unit_td.split_at(rows.len() * d);
    let cos = |row: usize, c: usize| -> f64 {
        let (q, p) = (&query_rd[row * d..][..d], &candidate_cd[c * d..][..d]);
        q.iter().zip(p).map(|(q, p)| q * p).sum()
    };
    let (queries, texts, labels) = (rows.queries(), rows.candidates(), rows.labels());
    let pairs: Vec<(usize, usize)> =
        rows.row_of_candidates().enumerate().map(|(c, row)| (row, c)).collect();
    let positives: Vec<(usize, usize)> =
        pairs.iter().filter(|&&(_, c)| labels[c] > 0.5).copied().collect();
    let is_relevant = |row: usize, c: usize| {
        positives.iter().any(|&(r, p)| queries[r] == queries[row] && texts[p] == texts[c])
    };
    let of_pair = |&(row, positive): &(usize, usize)| {
        let compared = (0..texts.len()).filter(|&c| c == positive || !is_relevant(row, c));
        let sum: f64 = compared.map(|c| (SCALE * cos(row, c)).exp()).sum();
        sum.ln() - SCALE * cos(row, positive)
    };
    positives.iter().map(of_pair).sum::<f64>() / positives.len() as f64
}

fn encoder() -> Encoder {
    let model = golden("tiny_bert").display().to_string();
    let options =
        EncoderOptions { threads: 2, ..EncoderOptions::new(model, Isa::from_env().unwrap()) };
    Encoder::open(&options).unwrap()
}

fn adapter(encoder: &Encoder) -> Adapter {
    Adapter::open(&golden("adapters/all_linear"), &encoder.folder().config).unwrap()
}

const RATES: DropoutRates = DropoutRates { hidden: 0.1, attention: 0.1, lora: 0.1 };
const SEED: u64 = 7;
const STEP: u32 = 3;

/// Loss and gradients by name of one step, with at most `micro_batch_size` rows at once.
fn step(rates: DropoutRates, micro_batch_size: usize) -> (f64, Vec<(String, Vec<f32>)>) {
    let (encoder, data) = (encoder(), data());
    let trained = Trained::Lora(adapter(&encoder));
    let mut model = TrainModel::new(encoder, trained, rates, SEED).unwrap();
    let got = accumulate(&mut model, &LOSS, &data, &data.rows, micro_batch_size, STEP);
    let gradients = model.parameters().iter();
    let gradients = gradients.map(|p| (p.name().to_owned(), p.gradient().into_owned()));
    (got.loss, gradients.collect())
}

/// The f64 encoder with the same masks, and the formula above, are moved by a parameter at a time.
#[test]
fn gradients_by_the_parameters_are_the_central_differences_of_the_loss() {
    let data = data();
    for rates in [DropoutRates::NONE, RATES] {
        let encoder = encoder();
        let d = encoder.dim();
        let adapter = adapter(&encoder);
        let mut reference =
            Reference::of(&encoder).with_adapter(&adapter).with_dropout(rates, SEED, STEP);
        let texts: Vec<Text<'_>> = data.texts(&data.rows, 0);
        let (loss, gradients) = step(rates, 6);
        let want = exact_loss(&data.rows, &reference.forward(&texts).unit_bd, d);
        assert!((loss - want).abs() < 1e-5 * want, "{rates:?}: {loss}, want {want}");
        for (name, gradient) in gradients {
            let largest = (0..gradient.len())
                .max_by(|&a, &b| gradient[a].abs().total_cmp(&gradient[b].abs()))
                .unwrap();
            let (h, old) = (1e-5, reference.tensors[&name][largest]);
            let mut loss_at = |value: f64| {
                reference.tensors.get_mut(&name).unwrap()[largest] = value;
                exact_loss(&data.rows, &reference.forward(&texts).unit_bd, d)
            };
            let numeric = (loss_at(old + h) - loss_at(old - h)) / (2.0 * h);
            loss_at(old);
            let got = f64::from(gradient[largest]);
            // f32 rounding through the encoder; the differences are right to about 1e-9.
            assert!(
                (got - numeric).abs() <= 1e-3 * numeric.abs() + 1e-7,
                "{rates:?}, {name}[{largest}]: {got}, want {numeric}"
            );
        }
    }
}

/// Only the order of f32's additions differs.
#[test]
fn a_loss_that_needs_the_whole_step_has_one_gradient_whatever_the_micro_batches() {
    for rates in [DropoutRates::NONE, RATES] {
        let (whole_loss, whole) = step(rates, 6);
        let norm = |x: &[f32]| x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
        let largest = whole.iter().map(|(_, want)| norm(want)).max_by(f64::total_cmp).unwrap();
        for micro_batch_size in [1, 2, 4] {
            let (loss, parts) = step(rates, micro_batch_size);
            assert_eq!(loss, whole_loss, "the vectors have the same bits");
            for ((name, got), (_, want)) in parts.iter().zip(&whole) {
                let difference: Vec<f32> = got.iter().zip(want).map(|(a, b)| a - b).collect();
                let (error, size) = (norm(&difference), norm(want));
                assert!(
                    error <= 1e-5 * size + 1e-6 * largest,
                    "{rates:?}, {micro_batch_size}, {name}: off by {error:e} of {size:e}"
                );
            }
        }
    }
}

/// `rows` as they stand, so many a step.
fn steps(rows: &Rows, rows_per_step: usize) -> EpochSteps {
    let settings =
        TrainSettings { batch_size: rows_per_step, shuffle: false, ..TrainSettings::default() };
    settings.sampler(rows).steps(0)
}

/// Such a loss has the mean of its values on steps of the run's size, weighted by their rows.
#[test]
fn an_evaluation_takes_steps_of_the_runs_size() {
    let (encoder, data) = (encoder(), data());
    let go_on = &mut |_, _| ControlFlow::Continue(());
    let vectors = data.embed(|ids| encoder.embed_ids(ids), 3, go_on).unwrap();
    let batch = vectors.batch(&data.rows);
    let whole = LOSS.value(&batch);
    assert_eq!(mean_loss(&LOSS, &batch, &steps(&data.rows, 6)), whole);
    let parts = [0..4, 4..6].map(|part| {
        let rows = data.rows.select(part);
        LOSS.value(&vectors.batch(&rows)) * rows.len() as f64
    });
    let got = mean_loss(&LOSS, &batch, &steps(&data.rows, 4));
    assert!((got - parts.iter().sum::<f64>() / 6.0).abs() < 1e-12, "{got}");
    assert!(got < whole, "fewer negatives");
}
