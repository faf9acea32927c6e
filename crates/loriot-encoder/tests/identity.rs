//! What decides a vector is in the identity, or refused where it does not fit.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod files_support;

use files_support::*;
use loriot_encoder::{Base, Encoder, EncoderOptions, Reading};
use loriot_kernels::Isa;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

fn options(model: &Path) -> EncoderOptions {
    EncoderOptions { threads: 1, ..EncoderOptions::new(model.to_str().unwrap(), Isa::SCALAR) }
}

fn open(model: &Path) -> Encoder {
    Encoder::open(&options(model)).unwrap()
}

#[track_caller]
fn refusal(options: &EncoderOptions) -> String {
    told(&Encoder::open(options).err().unwrap())
}

/// The hashes were printed by the last version that had no other identity.
#[test]
fn identities_of_version_1_are_recognised() {
    let tiny = golden("tiny_bert");
    let plain = open(&tiny);
    let want = "a46f1c7696cdc24fd54a005cf8a5cee4aec2c3dc25de710d9796a30639a27890";
    assert_eq!(plain.identity_v1(), want);
    assert_ne!(plain.identity(), want);
    let tokenizer = "132834f3630a037f640c7f13c9f5214e74995be5d3890d985695b794dfa8089a";
    assert_eq!(plain.tokenizer().sha256_v1(), tokenizer);
    let adapted = Encoder::open(&EncoderOptions {
        adapter: Some(golden("adapters/qkv").to_str().unwrap().to_owned()),
        document_prompt: Some("passage: ".into()),
        max_length: Some(32),
        ..options(&tiny)
    });
    let want = "4174186f39d7fbf2aa26e7b03e13b7aaea66dd611b92001f1e9cc1cc0d91bb26";
    assert_eq!(adapted.unwrap().identity_v1(), want);
}

#[test]
fn whatever_changes_the_computation_changes_the_identity_and_is_named() {
    let before = open(&golden("tiny_bert"));
    let config = |key: &'static str, value: Value| {
        let dir = tiny();
        edit_json(&dir.path().join("config.json"), |json| json[key] = value);
        (key, dir)
    };
    let cls = tiny();
    edit_json(&cls.path().join("1_Pooling/config.json"), |json| {
        *json = json!({ "word_embedding_dimension": 32, "pooling_mode_cls_token": true });
    });
    for (part, dir) in [
        config("num_attention_heads", json!(1)),
        config("hidden_act", json!("relu")),
        config("layer_norm_eps", json!(1e-5)),
        ("pooling", cls),
    ] {
        let after = open(dir.path());
        assert_ne!(after.identity(), before.identity(), "{part}");
        let (name, found, expected) = after.computation().difference(before.computation()).unwrap();
        assert_eq!(name, part);
        assert_ne!(found, expected);
    }
    // Another word for the same.
    let (_, same) = config("hidden_act", json!("gelu_python"));
    assert_eq!(open(same.path()).identity(), before.identity());
}

#[test]
fn tensors_of_layers_that_the_configuration_does_not_count_are_refused() {
    let dir = tiny();
    edit_json(&dir.path().join("config.json"), |json| json["num_hidden_layers"] = json!(1));
    assert_says(&refusal(&options(dir.path())), &["is in layer 1", "`num_hidden_layers` 1"]);
    let dir = tiny();
    edit_tensors(&dir.path().join("model.safetensors"), |tensors| {
        tensors.insert("encoder.layer.99999999999999999999.x".into(), Tensor::f32(&[1], &[0.0]));
    });
    assert_says(&refusal(&options(dir.path())), &["99999999999999999999"]);
    let dir = tiny();
    edit_tensors(&dir.path().join("model.safetensors"), |tensors| {
        tensors.insert("cls.predictions.bias".into(), Tensor::f32(&[1], &[0.0]));
        tensors.insert("encoder.layer.0.extra".into(), Tensor::f32(&[1], &[0.0]));
        tensors.insert("encoder.layer.norm".into(), Tensor::f32(&[1], &[0.0]));
    });
    open(dir.path());
}

/// A copy of an adapter with a `loriot.json` that `edit` has changed.
fn adapter_with(edit: impl FnOnce(&mut Value)) -> tempfile::TempDir {
    let dir = copy_of("adapters/qkv");
    open(&golden("tiny_bert")).settings().write(dir.path()).unwrap();
    edit_json(&dir.path().join("loriot.json"), edit);
    dir
}

#[test]
fn an_adapter_for_another_pooling_or_norm_is_refused() {
    let tiny_bert = golden("tiny_bert");
    let base = Base::open(&options(&tiny_bert).base()).unwrap();
    let refused = |edit: fn(&mut Value)| {
        let dir = adapter_with(edit);
        let adapter = Some(dir.path().to_str().unwrap().to_owned());
        let said = refusal(&EncoderOptions { adapter: adapter.clone(), ..options(&tiny_bert) });
        let reading = Reading { adapter, ..Reading::default() };
        assert_eq!(told(&base.read(&reading).err().unwrap()), said);
        said
    };
    let said = refused(|json| json["pooling"] = json!("cls"));
    assert_says(&said, &["`pooling` cls", "it is mean", "--model"]);
    assert_says(&refused(|json| json["normalize"] = json!(false)), &["`normalize` false"]);
    // Three bytes a letter: no cut falls between two letters at byte 12 of `a` and four of them.
    let said = refused(|json| json["base"]["sha256"] = json!("a漢漢漢漢漢"));
    assert_says(&said, &["(weights a漢漢漢漢漢)", "has the weights e5b5109705ec"]);
    let dir = adapter_with(|_| ());
    base.read(&Reading {
        adapter: Some(dir.path().to_str().unwrap().to_owned()),
        ..Reading::default()
    })
    .unwrap();
}

#[test]
fn a_model_folder_whose_own_settings_contradict_it_is_refused() {
    let dir = tiny();
    open(dir.path()).settings().write(dir.path()).unwrap();
    open(dir.path());
    edit_json(&dir.path().join("loriot.json"), |json| json["pooling"] = json!("cls"));
    assert_says(&refusal(&options(dir.path())), &["`pooling` cls", "it is mean"]);
}

#[test]
fn special_tokens_must_leave_room_for_text() {
    let dir = tiny();
    let with = |n: usize| {
        edit_json(&dir.path().join("tokenizer.json"), |json| {
            let token = |id: &str| json!({ "SpecialToken": { "id": id, "type_id": 0 } });
            let mut single = vec![token("[CLS]"); n - 1];
            single.push(json!({ "Sequence": { "id": "A", "type_id": 0 } }));
            single.push(token("[SEP]"));
            json["post_processor"]["single"] = json!(single);
        });
    };
    with(200);
    let said = refusal(&options(dir.path()));
    assert_says(&said, &["puts 200 special tokens around every text", "positions"]);
    with(6);
    let short = EncoderOptions { max_length: Some(6), ..options(dir.path()) };
    assert_says(&refusal(&short), &["6 tokens leaves no room for text; expected 7..="]);
    Encoder::open(&EncoderOptions { max_length: Some(7), ..short }).unwrap();
}

#[test]
fn an_adapter_given_as_a_model_is_told_how_to_give_it() {
    let dir = copy_of("adapters/qkv");
    edit_json(&dir.path().join("adapter_config.json"), |json| {
        json["base_model_name_or_path"] = json!("owner/base");
    });
    let said = refusal(&options(dir.path()));
    let path = dir.path().display();
    let hint = format!("give `--adapter {path} --model owner/base`");
    assert_says(&said, &["holds an adapter, expected a model", &hint]);
    fs::write(dir.path().join("adapter_config.json"), "{}").unwrap();
    assert_says(&refusal(&options(dir.path())), &["--model BASE`"]);
}
