//! Equal texts of a training batch: encoded once without dropout, with masks of their own with it.

#![allow(clippy::unwrap_used, reason = "a failure in a test's helper is the test's")]

mod common;

use common::*;
use loriot_encoder::adapter::Adapter;
use loriot_encoder::reference::Reference;
use loriot_encoder::{DropoutRates, Encoder, Text, TextKey, TrainModel, Trained};

const HOSE: &[u32] = &[2, 40, 41, 3];
const LAMP: &[u32] = &[2, 42, 3];
const DRILL: &[u32] = &[2, 70, 71, 72, 3];
const RED_HOSE: &[u32] = &[2, 50, 40, 60, 61, 3];
const EMPTY: &[u32] = &[2, 3];
const SINK: &[u32] = &[2, 80, 3];

/// Queries, then titles, of five pairs: a query three times, once more as a title, and a title twice.
const TEXTS: [&[u32]; 10] =
    [HOSE, HOSE, LAMP, HOSE, DRILL, /* titles */ RED_HOSE, EMPTY, HOSE, RED_HOSE, SINK];
const DISTINCT: [&[u32]; 6] = [HOSE, LAMP, DRILL, RED_HOSE, EMPTY, SINK];
const LABELS: [f64; 5] = [1.0, 0.0, 0.6, 0.25, 0.0];

fn texts() -> Vec<Text<'static>> {
    let text = |(at, ids)| {
        let row = at as u32 % 5;
        Text { ids, key: if at < 5 { TextKey::query(row) } else { TextKey::product(row, 0) } }
    };
    TEXTS.into_iter().enumerate().map(text).collect()
}

fn n_tokens(texts: &[&[u32]]) -> usize {
    texts.iter().map(|ids| ids.len()).sum()
}

fn adapter(encoder: &Encoder) -> Adapter {
    Adapter::open(&golden_path("adapters/all_linear"), &encoder.folder().config).unwrap()
}

/// The oracle is a pass of its own for each text, whose gradients add up.
#[test]
fn without_dropout_they_are_encoded_once_and_their_gradients_are_those_of_each_alone() {
    for isa in isas() {
        for is_full in [false, true] {
            let model = || {
                let encoder = open(&tiny(), isa);
                let trained =
                    if is_full { Trained::Full } else { Trained::Lora(adapter(&encoder)) };
                TrainModel::new(encoder, trained, DropoutRates::NONE, 0).unwrap()
            };
            let (mut together, mut alone) = (model(), model());
            let d = together.encoder().dim();
            let unit_bd = together.forward(&texts(), 0);
            assert_eq!(together.n_encoded_tokens(), n_tokens(&DISTINCT));
            let dunit_bd = loss_and_gradient(&unit_bd, &LABELS, d).1;
            together.backward(&dunit_bd);

            let vectors = unit_bd.chunks(d).zip(dunit_bd.chunks(d));
            for (text, (unit_d, dunit_d)) in texts().into_iter().zip(vectors) {
                assert_eq!(alone.forward(&[text], 0), unit_d, "{isa}");
                alone.backward(dunit_d);
            }
            let size_of = |gradient: &[f32]| norm(gradient.iter().map(|&g| g.into()));
            let sizes = alone.parameters().iter().map(|p| size_of(&p.gradient()));
            let largest = largest(sizes);
            for (got, want) in together.parameters().iter().zip(alone.parameters().iter()) {
                let (got_gradient, want_gradient) = (got.gradient(), want.gradient());
                let pairs = got_gradient.iter().zip(&*want_gradient);
                let error = norm(pairs.map(|(&got, &want)| f64::from(got) - f64::from(want)));
                let size = size_of(&want_gradient);
                // Only the order of f32's additions differs. Key biases are zero but for rounding.
                assert!(
                    error <= 1e-6 * size + 1e-7 * largest,
                    "{isa}, {}: off by {error:e} of {size:e}",
                    got.name()
                );
            }
        }
    }
}

#[test]
fn with_any_dropout_each_has_masks_of_its_own() {
    for isa in isas() {
        for rates in [
            DropoutRates { hidden: 0.1, ..DropoutRates::NONE },
            DropoutRates { attention: 0.2, ..DropoutRates::NONE },
            DropoutRates { lora: 0.3, ..DropoutRates::NONE },
        ] {
            let encoder = open(&tiny(), isa);
            let (d, adapter) = (encoder.dim(), adapter(&encoder));
            let reference =
                Reference::of(&encoder).with_adapter(&adapter).with_dropout(rates, 11, 3);
            let want = reference.forward(&texts()).unit_bd;

            let mut model = TrainModel::new(encoder, Trained::Lora(adapter), rates, 11).unwrap();
            let unit_bd = model.forward(&texts(), 3);
            assert_eq!(model.n_encoded_tokens(), n_tokens(&TEXTS));
            assert_close(&format!("{isa}, {rates:?}"), &unit_bd, &want, 1e-5, 2e-6);
            let vectors: Vec<&[f32]> = unit_bd.chunks(d).collect();
            for (one, other) in [(0, 1), (0, 3), (0, 7), (5, 8)] {
                assert_eq!(TEXTS[one], TEXTS[other]);
                assert_ne!(vectors[one], vectors[other], "{isa}, {rates:?}");
            }
        }
    }
}
