//! The f64 reference against PyTorch and against central differences, and the engine against it with
//! dropout on, where PyTorch's masks cannot be had.

#![allow(clippy::unwrap_used, reason = "a failure in a test's helper is the test's")]

mod common;

use common::*;
use loriot_encoder::adapter::Adapter;
use loriot_encoder::reference::Reference;
use loriot_encoder::{
    DropoutRates, Encoder, EncoderOptions, Precision, Text, TextKey, TrainModel, Trained,
};
use loriot_kernels::Isa;
use std::collections::HashMap;
use std::convert::Infallible;

const RATES: DropoutRates = DropoutRates { hidden: 0.1, attention: 0.2, lora: 0.3 };

fn adapter(kind: &str, encoder: &Encoder) -> Adapter {
    Adapter::open(&golden_path(&format!("adapters/{kind}")), &encoder.folder().config).unwrap()
}

/// The loss in f64, and its derivative by the unit vectors.
fn loss(unit_bd: &[f64], labels: &[f64]) -> (f64, Vec<f64>) {
    let (n, d) = (labels.len(), unit_bd.len() / labels.len() / 2);
    let (q, p) = unit_bd.split_at(n * d);
    let (mut total, mut dq, mut dp) = (0.0, Vec::new(), Vec::new());
    for (at, y) in labels.iter().enumerate() {
        let (q, p) = (&q[at * d..][..d], &p[at * d..][..d]);
        let cos: f64 = q.iter().zip(p).map(|(q, p)| q * p).sum();
        let negative = ((1.0 - y) * cos).max(0.0);
        let inner = y * (1.0 - cos) + negative;
        total += inner * inner / n as f64;
        let slope = -y + if negative > 0.0 { 1.0 - y } else { 0.0 };
        let dcos = 2.0 * inner * slope / n as f64;
        dq.extend(p.iter().map(|p| dcos * p));
        dp.extend(q.iter().map(|q| dcos * q));
    }
    dq.extend(dp);
    (total, dq)
}

#[test]
fn the_reference_is_pytorch_to_rounding_in_f64() {
    let golden = Golden::open("tiny_bert.safetensors");
    let encoder = open(&tiny(), isas()[0]);
    let ids = golden.texts();
    let texts = pair_texts(&ids);
    let labels = golden.floats("labels");
    for kind in ["full", "qkv", "all_linear"] {
        let mut reference = Reference::of(&encoder);
        if kind != "full" {
            reference = reference.with_adapter(&adapter(kind, &encoder));
        }
        let trace = reference.forward(&texts);
        let (got, dunit_bd) = loss(&trace.unit_bd, &labels);
        let want = golden.floats(&format!("{kind}.loss"))[0];
        assert!((got - want).abs() < 1e-12, "{kind}: {got}, want {want}");
        let grads = reference.backward(&trace, &dunit_bd);
        let prefix = format!("{kind}.grad.");
        for name in golden.names().iter().filter_map(|name| name.strip_prefix(&prefix)) {
            let want = golden.floats(&format!("{prefix}{name}"));
            let error = norm(grads[name].iter().zip(&want).map(|(got, want)| got - want));
            assert!(error <= 1e-10 * norm(want) + 1e-13, "{kind}, {name}: off by {error:e}");
        }
    }
}

#[test]
fn the_reference_of_dora_and_whole_tensors_is_peft_to_rounding_in_f64() {
    let (golden, tiny_golden) =
        (Golden::open("peft.safetensors"), Golden::open("tiny_bert.safetensors"));
    let encoder = open(&tiny(), isas()[0]);
    let ids = tiny_golden.texts();
    for kind in ["dora_all", "saved", "bias_all"] {
        let adapter = adapter(&format!("../peft/{kind}"), &encoder);
        let reference = Reference::of(&encoder).with_adapter(&adapter);
        let trace = reference.forward(&pair_texts(&ids));
        let (got, dunit_bd) = loss(&trace.unit_bd, &tiny_golden.floats("labels"));
        let want = golden.floats(&format!("{kind}.loss"))[0];
        assert!((got - want).abs() < 1e-12, "{kind}: {got}, want {want}");
        let grads = reference.backward(&trace, &dunit_bd);
        let prefix = format!("{kind}.grad.");
        for name in golden.names().iter().filter_map(|name| name.strip_prefix(&prefix)) {
            let of_model = name.replace("base_model.model.", "").replace(".base_layer", "");
            let got = grads.get(name).unwrap_or_else(|| &grads[&of_model]);
            let want = golden.floats(&format!("{prefix}{name}"));
            let error = norm(got.iter().zip(&want).map(|(got, want)| got - want));
            assert!(error <= 1e-10 * norm(want) + 1e-13, "{kind}, {name}: off by {error:e}");
        }
    }
}

/// Three short pairs, queries before titles, and their labels.
fn short_pairs() -> (Vec<Text<'static>>, Vec<f64>) {
    let query = |row, ids| Text { ids, key: TextKey::query(row) };
    let title = |row, ids| Text { ids, key: TextKey::product(row, 0) };
    let texts = vec![
        query(5, &[2, 40, 41, 3]),
        query(6, &[2, 42, 3]),
        query(9, &[2, 70, 71, 72, 3]),
        title(5, &[2, 50, 40, 60, 61, 3]),
        title(6, &[2, 3]),
        title(9, &[2, 80, 3]),
    ];
    (texts, vec![1.0, 0.0, 0.6])
}

/// Central differences are right to O(h²): about 1e-9 at h = 1e-5.
#[test]
fn every_gradient_agrees_with_central_differences_with_dropout_on() {
    let encoder = open(&tiny(), isas()[0]);
    let (texts, labels) = short_pairs();
    let mut reference = Reference::of(&encoder)
        .with_adapter(&adapter("all_linear", &encoder))
        .with_dropout(RATES, 11, 3);
    let trace = reference.forward(&texts);
    let grads = reference.backward(&trace, &loss(&trace.unit_bd, &labels).1);
    for (name, grad) in &grads {
        if name.starts_with("pooler.") {
            continue;
        }
        // A few elements of each tensor, the largest among them, spread over its length.
        let largest = (0..grad.len()).max_by(|&a, &b| grad[a].abs().total_cmp(&grad[b].abs()));
        let spread = (0..4).map(|part| part * grad.len() / 4);
        for at in spread.chain(largest) {
            let (h, old) = (1e-5, reference.tensors[name][at]);
            let mut loss_at = |value: f64| {
                reference.tensors.get_mut(name).unwrap()[at] = value;
                loss(&reference.forward(&texts).unit_bd, &labels).0
            };
            let numeric = (loss_at(old + h) - loss_at(old - h)) / (2.0 * h);
            loss_at(old);
            let error = (numeric - grad[at]).abs();
            assert!(
                error <= 1e-8 + 1e-6 * numeric.abs(),
                "{name}[{at}]: {} for {numeric}",
                grad[at]
            );
        }
    }
}

#[test]
fn the_engine_follows_the_reference_with_dropout_on() {
    let (texts, labels) = short_pairs();
    for isa in isas() {
        for kind in ["qkv", "all_linear", "full", "../peft/dora_all", "../peft/saved"] {
            let encoder = open(&tiny(), isa);
            let mut reference = Reference::of(&encoder).with_dropout(RATES, 11, 3);
            let trained = if kind == "full" {
                Trained::Full
            } else {
                reference = reference.with_adapter(&adapter(kind, &encoder));
                Trained::Lora(adapter(kind, &encoder))
            };
            let d = encoder.dim();
            let trace = reference.forward(&texts);
            let want = reference.backward(&trace, &loss(&trace.unit_bd, &labels).1);

            let mut model = TrainModel::new(encoder, trained, RATES, 11).unwrap();
            let unit_bd = model.forward(&texts, 3);
            assert_close(&format!("{isa}, {kind}"), &unit_bd, &trace.unit_bd, 1e-5, 2e-6);
            model.backward(&loss_and_gradient(&unit_bd, &labels, d).1);
            let largest = largest(want.values().map(|grad| norm(grad.iter().copied())));
            for parameter in model.parameters().iter() {
                // What an adapter holds whole has the model's name there.
                let of_model = parameter.name().replace("base_model.model.", "");
                let of_model = of_model.replace(".base_layer", "");
                let want = want.get(parameter.name()).unwrap_or_else(|| &want[&of_model]);
                let gradient = parameter.gradient();
                let difference = gradient.iter().zip(want).map(|(g, w)| f64::from(*g) - w);
                let (error, size) = (norm(difference), norm(want.iter().copied()));
                assert!(
                    error <= 1e-4 * size + 1e-6 * largest,
                    "{isa}, {kind}, {}: off by {error:e} of {size:e}",
                    parameter.name()
                );
            }
        }
    }
}

/// The backward pass stops at the lowest adapter, wherever that is.
#[test]
fn adapters_of_any_few_modules_get_the_gradients_of_the_reference() {
    use loriot_encoder::architecture::LinearKind::{
        self, AttentionOutput, Intermediate, Key, Output, Query, Value,
    };
    let (texts, labels) = short_pairs();
    let selections: [&[(usize, LinearKind)]; 7] = [
        &[(1, Output)],
        &[(1, Intermediate)],
        &[(1, AttentionOutput)],
        &[(1, Key)],
        &[(0, Output), (1, Query)],
        &[(0, Value), (1, Intermediate)],
        &[(0, AttentionOutput), (0, Output), (1, Value), (1, Key)],
    ];
    for selection in selections {
        let encoder = open(&tiny(), *isas().last().unwrap());
        let mut few = adapter("all_linear", &encoder);
        few.modules.retain(|module| selection.contains(&(module.site.layer, module.site.kind)));
        assert_eq!(few.modules.len(), selection.len());
        let reference = Reference::of(&encoder).with_adapter(&few).with_dropout(RATES, 11, 3);
        let trace = reference.forward(&texts);
        let want = reference.backward(&trace, &loss(&trace.unit_bd, &labels).1);
        let d = encoder.dim();
        let mut model = TrainModel::new(encoder, Trained::Lora(few), RATES, 11).unwrap();
        let unit_bd = model.forward(&texts, 3);
        model.backward(&loss_and_gradient(&unit_bd, &labels, d).1);
        for parameter in model.parameters().iter() {
            let want = &want[parameter.name()];
            let gradient = parameter.gradient();
            let difference = gradient.iter().zip(want).map(|(g, w)| f64::from(*g) - w);
            let (error, size) = (norm(difference), norm(want.iter().copied()));
            assert!(
                error <= 1e-4 * size && size > 0.0,
                "{selection:?}, {}: off by {error:e} of {size:e}",
                parameter.name()
            );
        }
    }
}

/// The bits of everything that training computes, for one number of threads. Each text comes twelve
/// times.
fn bits(
    kind: &str,
    rates: DropoutRates,
    threads: usize,
    isa: Isa,
    precision: Precision,
) -> Vec<u32> {
    let options = EncoderOptions { threads, precision, ..options(&tiny(), isa) };
    let encoder = Encoder::open(&options).unwrap();
    let trained = match kind {
        "full" => Trained::Full,
        kind => Trained::Lora(adapter(kind, &encoder)),
    };
    let ids = Golden::open("tiny_bert.safetensors").texts();
    // Enough texts for several chunks.
    let texts: Vec<Text<'_>> =
        (0..12).flat_map(|repeat| pair_texts_from(&ids, 100 * repeat)).collect();
    let d = encoder.dim();
    let mut model = TrainModel::new(encoder, trained, rates, 5).unwrap();
    let unit_bd = model.forward(&texts, 1);
    // What that pass kept is not touched by one that keeps nothing, be it of other texts.
    assert!(model.forward_without_tape(&texts, 1) == unit_bd, "with and without a tape");
    if rates != DropoutRates::NONE {
        assert_ne!(model.forward_without_tape(&texts[..7], 2), unit_bd[..7 * d]);
    }
    let dunit_bd: Vec<f32> = (0..texts.len() * d).map(|at| (at % 17) as f32 * 1e-3).collect();
    model.backward(&dunit_bd);
    let gradients = model.parameters().iter().flat_map(|p| p.gradient().into_owned());
    unit_bd.into_iter().chain(gradients).map(f32::to_bits).collect()
}

#[test]
fn any_number_of_threads_computes_the_same_bits() {
    for (isa, precision) in isas_and_precisions().filter(|(_, p)| *p != Precision::Int8) {
        for kind in ["qkv", "all_linear", "full"] {
            for rates in [RATES, DropoutRates::NONE] {
                let one = bits(kind, rates, 1, isa, precision);
                for threads in [2, 3, 5] {
                    let what = format!("{isa}, {precision}, {kind}, {rates:?}, {threads} threads");
                    assert!(one == bits(kind, rates, threads, isa, precision), "{what}");
                }
            }
        }
    }
}

#[test]
fn a_text_has_the_same_vector_alone_and_in_any_company() {
    let golden = Golden::open("tiny_bert.safetensors");
    let texts = golden.texts();
    for (isa, precision) in isas_and_precisions() {
        let encoder =
            Encoder::open(&EncoderOptions { precision, ..options(&tiny(), isa) }).unwrap();
        let d = encoder.dim();
        let together = encoder.embed_ids(&texts);
        for (ids, vector) in texts.iter().zip(together.chunks(d)) {
            let alone = encoder.embed_ids(std::slice::from_ref(ids));
            assert_eq!(alone, vector, "{isa}, {precision}");
        }
    }
}

/// What full fine-tuning changed is what every later pass computes with: each tensor in turn.
#[test]
fn a_trained_weight_counts_in_training_and_in_evaluation() {
    let (texts, _) = short_pairs();
    let ids: Vec<Vec<u32>> = texts.iter().map(|text| text.ids.to_vec()).collect();
    for isa in isas() {
        let mut model =
            TrainModel::new(open(&tiny(), isa), Trained::Full, DropoutRates::NONE, 0).unwrap();
        let mut before = model.embed_ids(&ids);
        assert_eq!(model.forward(&texts, 0), before, "{isa}");
        let names: Vec<String> = model.parameters().iter().map(|p| p.name().to_owned()).collect();
        for name in names {
            let mut values: HashMap<String, Vec<f32>> = model
                .parameters()
                .iter()
                .map(|p| (p.name().to_owned(), p.value().into_owned()))
                .collect();
            // Not by a constant, which a norm would take out again.
            let changed = values.get_mut(&name).unwrap();
            changed.iter_mut().enumerate().for_each(|(i, x)| *x += 0.01 * (i % 7) as f32);
            let read = |name: &str, _: &[usize]| Ok::<_, Infallible>(values[name].clone());
            model.read_parameters(read).unwrap();
            let after = model.embed_ids(&ids);
            assert_eq!(model.forward(&texts, 0), after, "{isa}, {name}");
            assert_ne!(after, before, "{isa}, {name} is not used");
            before = after;
        }
    }
}

/// Two equal products of a row have masks of their own; a row's only product has those of candidate 0.
#[test]
fn the_candidates_of_a_row_differ_by_their_masks_alone() {
    let title: &[u32] = &[2, 50, 40, 60, 61, 3];
    let products = |candidates: &[u32]| -> Vec<Text<'static>> {
        let key = |&candidate| TextKey::product(4, candidate);
        candidates.iter().map(key).map(|key| Text { ids: title, key }).collect()
    };
    for isa in isas() {
        for rates in [RATES, DropoutRates::NONE] {
            let encoder = open(&tiny(), isa);
            let (d, lora) = (encoder.dim(), adapter("all_linear", &encoder));
            let reference = Reference::of(&encoder).with_adapter(&lora).with_dropout(rates, 11, 3);
            let texts = products(&[0, 1, 9]);
            let want = reference.forward(&texts).unit_bd;
            let mut model = TrainModel::new(encoder, Trained::Lora(lora), rates, 11).unwrap();
            let unit_bd = model.forward(&texts, 3);
            assert_close(&format!("{isa}"), &unit_bd, &want, 1e-5, 2e-6);
            let is_same =
                unit_bd[..d] == unit_bd[d..2 * d] || unit_bd[d..2 * d] == unit_bd[2 * d..];
            assert_eq!(is_same, rates == DropoutRates::NONE, "{isa}");
            assert_eq!(model.forward(&products(&[0]), 3), unit_bd[..d], "{isa}, alone");
        }
    }
}
