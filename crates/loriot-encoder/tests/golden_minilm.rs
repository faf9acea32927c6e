//! The engine against transformers and PEFT on all-MiniLM-L6-v2.

#![allow(clippy::unwrap_used, reason = "a failure in a test's helper is the test's")]

mod common;

use common::*;
use loriot_encoder::adapter::Adapter;
use loriot_encoder::{Encoder, EncoderOptions, Side, TrainModel, Trained};
use serde_json::Value;

fn minilm_options() -> EncoderOptions {
    EncoderOptions { max_length: Some(70), ..options(&minilm(), *isas().last().unwrap()) }
}

fn strings<'a>(rows: &'a Value, field: &str) -> Vec<&'a str> {
    rows.as_array().unwrap().iter().map(|row| row[field].as_str().unwrap()).collect()
}

#[test]
fn embeddings_of_every_length_and_script_are_within_1e_5_of_transformers() {
    let (golden, texts) = (Golden::open("minilm.safetensors"), golden_json("minilm_texts.json"));
    let encoder = Encoder::open(&minilm_options()).unwrap();
    let texts = strings(&texts["texts"], "text");
    let ids = encoder.tokenize(&texts, Side::Product);
    let lengths: Vec<usize> = ids.iter().map(Vec::len).collect();
    assert_eq!(ids, golden.texts());
    for length in 3..=70 {
        assert!(lengths.contains(&length), "no text of {length} tokens");
    }
    assert!(texts.contains(&""), "no empty text");
    let unit_bd = encoder.embed(&texts, Side::Product);
    assert_close("unit vectors", &unit_bd, &golden.floats("embeddings"), 0.0, 1e-5);
}

#[test]
fn every_instruction_set_embeds_within_1e_5_of_transformers() {
    let golden = Golden::open("minilm.safetensors");
    let (texts, want) = (golden.texts(), golden.floats("embeddings"));
    for isa in isas() {
        let encoder = Encoder::open(&EncoderOptions { isa, ..minilm_options() }).unwrap();
        // One of each dozen: scalar code takes its time.
        for at in (0..texts.len()).step_by(12) {
            let unit_d = encoder.embed_ids(&texts[at..=at]);
            assert_close(
                &format!("{isa}, text {at}"),
                &unit_d,
                &want[at * 384..][..384],
                0.0,
                1e-5,
            );
        }
    }
}

#[test]
fn pefts_adapter_gives_pefts_embeddings() {
    let (golden, pairs) =
        (Golden::open("minilm.safetensors"), golden_json("minilm_gradients.json"));
    let adapter = golden_path("minilm_adapter").to_str().unwrap().to_owned();
    let encoder =
        Encoder::open(&EncoderOptions { adapter: Some(adapter), ..minilm_options() }).unwrap();
    let mut unit_bd = encoder.embed(&strings(&pairs["pairs"], "query"), Side::Query);
    unit_bd.extend(encoder.embed(&strings(&pairs["pairs"], "product_title"), Side::Product));
    assert_close("unit vectors", &unit_bd, &golden.floats("adapter.embeddings"), 0.0, 1e-5);
}

/// Norms, and the sampled entries together, within 1e-4; plus a floor of 1e-6 of the largest tensor,
/// for key biases, whose gradient is zero in theory.
fn assert_gradients(kind: &str, want: &Value, model: &TrainModel) {
    let want = want["gradients"].as_object().unwrap();
    assert_eq!(model.parameters().len(), want.len(), "{kind}: every gradient is compared");
    let number = |value: &Value| value.as_f64().unwrap();
    let largest = largest(want.values().map(|tensor| number(&tensor["norm"])));
    for parameter in model.parameters().iter() {
        let want = &want[parameter.name()];
        let (got_norm, want_norm) =
            (norm(parameter.gradient().iter().map(|&g| f64::from(g))), number(&want["norm"]));
        let name = parameter.name();
        assert!(
            (got_norm - want_norm).abs() <= 1e-4 * want_norm + 1e-6 * largest,
            "{kind}, {name}: norm {got_norm:e}, want {want_norm:e}"
        );
        let entries = || {
            let index = want["index"].as_array().unwrap().iter();
            let value = want["value"].as_array().unwrap().iter().map(number);
            index
                .map(|at| f64::from(parameter.gradient()[at.as_u64().unwrap() as usize]))
                .zip(value)
        };
        let (error, size) =
            (norm(entries().map(|(got, want)| got - want)), norm(entries().map(|(_, want)| want)));
        assert!(
            error <= 1e-4 * size + 1e-6 * largest,
            "{kind}, {name}: entries off by {error:e} of {size:e}"
        );
    }
}

#[test]
fn lora_and_full_gradients_are_pytorchs() {
    let golden = golden_json("minilm_gradients.json");
    for kind in ["lora", "full"] {
        let encoder = Encoder::open(&minilm_options()).unwrap();
        let mut ids = encoder.tokenize(&strings(&golden["pairs"], "query"), Side::Query);
        ids.extend(encoder.tokenize(&strings(&golden["pairs"], "product_title"), Side::Product));
        let pairs = golden["pairs"].as_array().unwrap();
        let labels: Vec<f64> = pairs.iter().map(|pair| pair["label"].as_f64().unwrap()).collect();
        let trained = match kind {
            "full" => Trained::Full,
            _ => {
                let folder = golden_path("minilm_adapter");
                Trained::Lora(Adapter::open(&folder, &encoder.folder().config).unwrap())
            }
        };
        let (loss, model) = gradients(encoder, trained, &ids, &labels);
        let want = golden[kind]["loss"].as_f64().unwrap();
        assert!((loss - want).abs() <= 1e-5 * want, "{kind}: loss {loss}, want {want}");
        assert_gradients(kind, &golden[kind], &model);
    }
}
