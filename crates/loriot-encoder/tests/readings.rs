//! One base, read with several adapters: folded or laid beside the weights, alone or together.

#![allow(clippy::unwrap_used, reason = "a failure in a test's helper is the test's")]

mod common;

use common::*;
use loriot_encoder::{
    Base, DropoutRates, Encoder, OpenError, Placement, Precision, Reading, Side, TrainModel,
    Trained, embed_together,
};
use loriot_kernels::Isa;
use std::sync::Arc;

/// Different targets, ranks and scales.
const ADAPTERS: [&str; 4] = ["all_linear", "qkv", "rslora", "patterns"];

const TEXTS: [&str; 6] = [
    "red garden hose",
    "a lamp",
    "",
    "cordless drill with two batteries and a case",
    "red garden hose",
    "sink",
];

fn base(isa: Isa, precision: Precision) -> Arc<Base> {
    let mut options = options(&tiny(), isa);
    options.precision = precision;
    Base::open(&options.base()).unwrap()
}

fn reading(adapter: &str, placement: Placement) -> Reading {
    let adapter = golden_path(&format!("adapters/{adapter}")).to_str().unwrap().to_owned();
    Reading { adapter: Some(adapter), placement, ..Reading::default() }
}

/// The base without an adapter, then one encoder for each of [`ADAPTERS`].
fn encoders(base: &Arc<Base>, placement: Placement) -> Vec<Encoder> {
    let adapted = ADAPTERS.map(|adapter| base.read(&reading(adapter, placement)).unwrap());
    [base.read(&Reading::default()).unwrap()].into_iter().chain(adapted).collect()
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    largest(a.iter().zip(b).map(|(a, b)| f64::from((a - b).abs()))) as f32
}

#[track_caller]
fn assert_within(what: &str, got: &[f32], want: &[f32], bound: f32) {
    let worst = largest_difference(got, want);
    assert!(got.iter().all(|value| value.is_finite()) && worst <= bound, "{what}: {worst}");
}

#[test]
fn an_adapter_beside_the_weights_gives_the_vectors_of_a_folded_one() {
    for (isa, precision) in isas_and_precisions() {
        let base = base(isa, precision);
        // What is rounded differs: the sum of both, or the weight alone.
        let bound = match precision {
            Precision::F32 => 1e-5,
            Precision::Bf16 => 0.02,
            Precision::Int8 => 0.05,
        };
        let folded = encoders(&base, Placement::Folded);
        let beside = encoders(&base, Placement::Beside);
        let plain = folded[0].embed(&TEXTS, Side::Product);
        for (name, (folded, beside)) in ADAPTERS.iter().zip(folded[1..].iter().zip(&beside[1..])) {
            let what = format!("{name}, {isa}, {precision}");
            let want = folded.embed(&TEXTS, Side::Product);
            let got = beside.embed(&TEXTS, Side::Product);
            assert_within(&what, &got, &want, bound);
            assert!(largest_difference(&got, &plain) > 2.0 * bound, "{what} changes too little");
            assert_eq!(folded.identity(), beside.identity());
        }
    }
}

#[test]
fn texts_of_different_adapters_share_a_batch_and_keep_their_bits() {
    for (isa, precision) in isas_and_precisions() {
        let encoders = encoders(&base(isa, precision), Placement::Beside);
        let encoders: Vec<&Encoder> = encoders.iter().collect();
        // Every text for every encoder, neighbours for different ones.
        let work: Vec<(usize, Vec<u32>)> = TEXTS
            .iter()
            .flat_map(|text| {
                let ids = |encoder: &&Encoder| encoder.tokenize(&[text], Side::Query).remove(0);
                encoders.iter().map(ids).enumerate().collect::<Vec<_>>()
            })
            .collect();
        let together = embed_together(&encoders, &work);
        let d = encoders[0].dim();
        for (at, (encoder, ids)) in work.iter().enumerate() {
            let alone = encoders[*encoder].embed_ids(std::slice::from_ref(ids));
            assert_eq!(together[at * d..][..d], alone, "{isa}, {precision}, text {at}");
        }
        let first_text: Vec<_> = together.chunks(d).take(encoders.len()).collect();
        let differ = |a: usize, b: usize| first_text[a] != first_text[b];
        assert!((0..5).all(|a| (0..a).all(|b| differ(a, b))), "{isa}: an adapter is not applied");
    }
}

#[test]
fn encoders_of_one_base_have_their_own_prompts_lengths_and_identities() {
    let base = base(isas()[0], Precision::F32);
    let plain = base.read(&Reading::default()).unwrap();
    let short = Reading { max_length: Some(4), ..Reading::default() };
    let short = base.read(&short).unwrap();
    let prompted = Reading { query_prompt: Some("red ".into()), ..Reading::default() };
    let prompted = base.read(&prompted).unwrap();
    let adapted = base.read(&reading("qkv", Placement::Beside)).unwrap();

    assert_eq!(short.tokenize(&["red garden hose"], Side::Query)[0].len(), 4);
    assert_ne!(plain.identity(), short.identity());
    assert_ne!(plain.identity(), adapted.identity());
    // A query's prompt is no part of what decides a document's vector.
    assert_eq!(plain.identity(), prompted.identity());
    let query = |encoder: &Encoder, text| encoder.embed(&[text], Side::Query);
    assert_eq!(query(&prompted, "garden hose"), query(&plain, "red garden hose"));
    let as_product = prompted.embed(&["garden hose"], Side::Product);
    assert_eq!(as_product, query(&plain, "garden hose"));
    assert!([&plain, &short, &adapted].iter().all(|encoder| Arc::ptr_eq(encoder.base(), &base)));
    assert!(adapted.weights().is_none() && plain.weights().is_some());
}

#[test]
fn an_adapter_that_does_not_fit_is_refused_by_the_base() {
    let base = base(isas()[0], Precision::F32);
    let of_minilm = golden_path("minilm_adapter").to_str().unwrap().to_owned();
    let of_minilm = Reading { adapter: Some(of_minilm), ..Reading::default() };
    let error = base.read(&of_minilm).err().unwrap();
    assert!(matches!(error, OpenError::Adapter(_)), "{error}");
    let missing = Reading { adapter: Some("no/where/at/all".into()), ..Reading::default() };
    assert!(matches!(base.read(&missing).err().unwrap(), OpenError::Hub(_)));
}

/// Full fine-tuning packs its weights anew: never those that others read.
#[test]
fn training_one_encoder_leaves_the_others_of_its_base_as_they_are() {
    let base = base(isas()[0], Precision::F32);
    let other = base.read(&Reading::default()).unwrap();
    let before = other.embed(&TEXTS, Side::Product);
    let encoder = base.read(&Reading::default()).unwrap();
    let ids = encoder.tokenize(&TEXTS, Side::Product);
    let mut model = TrainModel::new(encoder, Trained::Full, DropoutRates::NONE, 0).unwrap();
    model.read_parameters(|_, shape| Ok::<_, ()>(vec![0.125; shape.iter().product()])).unwrap();
    assert_ne!(model.embed_ids(&ids), before);
    assert_eq!(other.embed(&TEXTS, Side::Product), before);
    assert_eq!(base.read(&Reading::default()).unwrap().embed(&TEXTS, Side::Product), before);
}

#[test]
#[should_panic(expected = "beside the weights is not trained on")]
fn an_encoder_with_an_adapter_beside_is_not_trained() {
    let encoder = base(isas()[0], Precision::F32).read(&reading("qkv", Placement::Beside));
    _ = TrainModel::new(encoder.unwrap(), Trained::Full, DropoutRates::NONE, 0);
}

#[test]
#[should_panic(expected = "share packed weights")]
fn encoders_with_weights_of_their_own_cannot_share_a_batch() {
    let base = base(isas()[0], Precision::F32);
    let encoders = encoders(&base, Placement::Folded);
    embed_together(&encoders.iter().collect::<Vec<_>>(), &[(0, vec![2, 3]), (1, vec![2, 3])]);
}
