//! bf16 and int8 beside f32: how far vectors and gradients move.

#![allow(clippy::unwrap_used, reason = "a failure in a test's helper is the test's")]

mod common;

use common::*;
use loriot_encoder::adapter::Adapter;
use loriot_encoder::{DropoutRates, Encoder, EncoderOptions, Precision, Side, TrainModel, Trained};
use loriot_files::Hint;
use loriot_kernels::Isa;

fn minilm_in(precision: Precision, isa: Isa) -> Encoder {
    let options = EncoderOptions { max_length: Some(70), ..options(&minilm(), isa) };
    Encoder::open(&EncoderOptions { precision, ..options }).unwrap()
}

/// The cosine that one text in a hundred stays below.
fn first_percentile(a_bd: &[f32], b_bd: &[f32], d: usize) -> f32 {
    let pairs = a_bd.chunks_exact(d).zip(b_bd.chunks_exact(d));
    let cosine = |(a, b): (&[f32], &[f32])| a.iter().zip(b).map(|(a, b)| a * b).sum();
    let mut cosines: Vec<f32> = pairs.map(cosine).collect();
    cosines.sort_by(f32::total_cmp);
    cosines[cosines.len() / 100]
}

/// One in `step` of the bundled shop's titles.
fn titles(step: usize) -> Vec<String> {
    let path = golden_path("../../examples/shop/catalogue.csv");
    let text = std::fs::read_to_string(path).unwrap();
    let title = |line: &str| {
        let (_id, rest) = line.split_once(',').unwrap();
        let quoted = rest.strip_prefix('"').and_then(|rest| rest.split_once("\","));
        quoted.or(rest.split_once(',')).unwrap().0.to_owned()
    };
    text.lines().skip(1).step_by(step).map(title).collect()
}

#[test]
fn vectors_in_bf16_and_int8_are_close_to_those_in_f32() {
    let best = *isas().last().unwrap();
    for isa in isas() {
        // 425 titles; of slower levels, which take their time, 25.
        let ids = titles(if isa == best { 7 } else { 119 });
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        let embed = |precision| minilm_in(precision, isa).embed(&ids, Side::Product);
        let want_bd = embed(Precision::F32);
        for (precision, least) in [(Precision::Bf16, 0.9999), (Precision::Int8, 0.99)] {
            let got_bd = embed(precision);
            let cosine = first_percentile(&got_bd, &want_bd, 384);
            assert!(cosine >= least, "{isa}, {precision}: {cosine}");
            assert_ne!(got_bd, want_bd, "{isa}, {precision}: nothing was rounded");
        }
    }
}

/// ‖g − g′‖ / ‖g′‖ over all parameters.
fn distance(got: &TrainModel, want: &TrainModel) -> f64 {
    let flat = |model: &TrainModel| -> Vec<f64> {
        model.parameters().iter().flat_map(|p| p.gradient().into_owned()).map(f64::from).collect()
    };
    let (got, want) = (flat(got), flat(want));
    norm(got.iter().zip(&want).map(|(got, want)| got - want)) / norm(want)
}

#[test]
fn gradients_in_bf16_are_close_to_those_in_f32() {
    let golden = Golden::open("tiny_bert.safetensors");
    let labels = golden.floats("labels");
    for isa in isas() {
        for kind in ["qkv", "all_linear", "full"] {
            let model = |precision| {
                let encoder =
                    Encoder::open(&EncoderOptions { precision, ..options(&tiny(), isa) }).unwrap();
                let config = &encoder.folder().config;
                let trained = match kind {
                    "full" => Trained::Full,
                    kind => Trained::Lora(
                        Adapter::open(&golden_path(&format!("adapters/{kind}")), config).unwrap(),
                    ),
                };
                gradients(encoder, trained, &golden.texts(), &labels).1
            };
            let got = distance(&model(Precision::Bf16), &model(Precision::F32));
            assert!(got <= 0.02, "{isa}, {kind}: off by {got}");
            assert!(got > 0.0, "{isa}, {kind}: nothing was rounded");
        }
    }
}

#[test]
fn int8_is_not_trained() {
    let precision = Precision::Int8;
    let options = EncoderOptions { precision, ..options(&tiny(), isas()[0]) };
    let encoder = Encoder::open(&options).unwrap();
    let error = TrainModel::new(encoder, Trained::Full, DropoutRates::NONE, 0).err().unwrap();
    let want = "an encoder in int8 cannot be trained: int8 weights have no backward pass";
    assert_eq!(error.to_string(), want);
    assert!(error.hint().unwrap().contains("train in f32 or bf16"));
}

#[test]
fn a_level_without_the_arithmetic_says_so_once_and_embeds_all_the_same() {
    for (isa, precision) in isas_and_precisions() {
        let options = EncoderOptions { precision, ..options(&tiny(), isa) };
        let encoder = Encoder::open(&options).unwrap();
        let told = format!("`{isa}` multiplies no {precision}");
        let n_notes = encoder.notes().iter().filter(|note| note.contains(&told)).count();
        assert_eq!(n_notes, usize::from(!isa.has_native(precision)), "{isa}, {precision}");
    }
}
