//! The engine against PyTorch and PEFT in f64, on the tiny random model whose files are committed.

#![allow(clippy::unwrap_used, reason = "a failure in a test's helper is the test's")]

mod common;

use common::*;
use loriot_encoder::adapter::Adapter;
use loriot_encoder::batch::Side;
use loriot_encoder::{DropoutRates, Encoder, EncoderOptions, TrainModel, Trained};

#[test]
fn tokens_are_those_of_transformers() {
    let golden = Golden::open("tiny_bert.safetensors");
    let texts = std::fs::read_to_string(golden_path("tiny_texts.json")).unwrap();
    let texts: serde_json::Value = serde_json::from_str(&texts).unwrap();
    let pairs = texts["pairs"].as_array().unwrap();
    let field = |name: &'static str| pairs.iter().map(move |pair| pair[name].as_str().unwrap());
    let encoder = open(&tiny(), isas()[0]);
    assert_eq!(encoder.max_length(), 48);
    let mut ids = encoder.tokenize(&field("query").collect::<Vec<_>>(), Side::Query);
    ids.extend(encoder.tokenize(&field("product_title").collect::<Vec<_>>(), Side::Product));
    assert_eq!(ids, golden.texts());
}

#[test]
fn embeddings_are_pytorchs() {
    let golden = Golden::open("tiny_bert.safetensors");
    for isa in isas() {
        let unit_bd = open(&tiny(), isa).embed_ids(&golden.texts());
        assert_close(&format!("{isa}"), &unit_bd, &golden.floats("embeddings"), 1e-5, 1e-6);
    }
}

#[test]
fn embeddings_with_pefts_adapters_are_pefts() {
    let golden = Golden::open("tiny_bert.safetensors");
    for isa in isas() {
        for kind in ["qkv", "all_linear", "rslora", "patterns", "regex", "wrapped"] {
            let adapter = golden_path(&format!("adapters/{kind}")).to_str().unwrap().to_owned();
            let want = golden.floats(&format!("{kind}.embeddings"));

            let folded = EncoderOptions { adapter: Some(adapter.clone()), ..options(&tiny(), isa) };
            let folded = Encoder::open(&folded).unwrap();
            let got = folded.embed_ids(&golden.texts());
            assert_close(&format!("{isa}, {kind}, folded in"), &got, &want, 1e-5, 2e-6);

            let encoder = open(&tiny(), isa);
            let adapter = Adapter::open(adapter.as_ref(), &encoder.folder().config).unwrap();
            let beside =
                TrainModel::new(encoder, Trained::Lora(adapter), DropoutRates::NONE, 0).unwrap();
            let got = beside.embed_ids(&golden.texts());
            assert_close(&format!("{isa}, {kind}, beside"), &got, &want, 1e-5, 2e-6);
        }
    }
}

#[test]
fn lora_gradients_are_pefts() {
    let golden = Golden::open("tiny_bert.safetensors");
    for isa in isas() {
        for kind in ["qkv", "all_linear"] {
            let encoder = open(&tiny(), isa);
            let adapter = golden_path(&format!("adapters/{kind}"));
            let adapter = Adapter::open(&adapter, &encoder.folder().config).unwrap();
            let labels = golden.floats("labels");
            let (loss, model) =
                gradients(encoder, Trained::Lora(adapter), &golden.texts(), &labels);
            let want = golden.floats(&format!("{kind}.loss"))[0];
            assert!((loss - want).abs() <= 1e-5 * want, "{isa}, {kind}: {loss}, want {want}");
            assert_gradients(&format!("{isa}, {kind}"), &model, &golden, kind);
        }
    }
}

#[test]
fn full_gradients_are_pytorchs() {
    let golden = Golden::open("tiny_bert.safetensors");
    for isa in isas() {
        let labels = golden.floats("labels");
        let (loss, model) = gradients(open(&tiny(), isa), Trained::Full, &golden.texts(), &labels);
        let want = golden.floats("full.loss")[0];
        assert!((loss - want).abs() <= 1e-5 * want, "{isa}: {loss}, want {want}");
        assert_gradients(&format!("{isa}, full"), &model, &golden, "full");
    }
}
