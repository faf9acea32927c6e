//! A catalogue's record of its encoder, beside real encoders whose files have changed since.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use loriot_encoder::{Encoder, EncoderOptions};
use loriot_search::EncoderRecord;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

fn tiny() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/tiny_bert")
}

/// A copy of the tiny model with this in its `config.json`.
fn model_with(key: &str, value: Value) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("1_Pooling")).unwrap();
    let files = ["", "1_Pooling"].into_iter().flat_map(|inner| {
        let entries = fs::read_dir(tiny().join(inner)).unwrap();
        entries.map(move |entry| Path::new(inner).join(entry.unwrap().file_name()))
    });
    for file in files.filter(|file| tiny().join(file).is_file()) {
        fs::copy(tiny().join(&file), dir.path().join(&file)).unwrap();
    }
    let path = dir.path().join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config[key] = value;
    fs::write(&path, config.to_string()).unwrap();
    dir
}

fn record(model: &Path) -> EncoderRecord {
    let options =
        EncoderOptions::new(model.to_str().unwrap(), loriot_index::Isa::from_env().unwrap());
    EncoderRecord::new(&Encoder::open(&options).unwrap(), &options)
}

/// As it is read from a manifest.
fn stored(record: &EncoderRecord, edit: impl FnOnce(&mut Value)) -> EncoderRecord {
    let mut json = serde_json::to_value(record).unwrap();
    edit(&mut json);
    serde_json::from_str(&json.to_string()).unwrap()
}

#[test]
fn a_model_whose_computation_changed_is_not_the_catalogues_any_more() {
    let catalogues = stored(&record(&tiny()), |_| ());
    assert_eq!(record(&tiny()).difference(&catalogues), None);
    for (key, value) in [
        ("num_attention_heads", json!(1)),
        ("hidden_act", json!("relu")),
        ("layer_norm_eps", json!(0.001)),
    ] {
        let changed = model_with(key, value);
        let said = record(changed.path()).difference(&catalogues).unwrap();
        assert!(said.starts_with(&format!("`{key}` is `")), "{said}");
    }
}

/// The stored identity is the one that version 1 of [`loriot_encoder::identity`] gave the tiny model.
#[test]
fn a_catalogue_with_an_identity_of_version_1_is_searched_with_its_encoder_and_no_other() {
    let old = stored(&record(&tiny()), |json| {
        json["identity"] =
            json!("a46f1c7696cdc24fd54a005cf8a5cee4aec2c3dc25de710d9796a30639a27890");
        json.as_object_mut().unwrap().retain(|key, _| {
            !["computation", "text_template", "precision"].contains(&key.as_str())
        });
    });
    assert_eq!(record(&tiny()).difference(&old), None);
    let short = stored(&old, |json| json["identity"] = json!("00".repeat(32)));
    assert!(record(&tiny()).difference(&short).unwrap().contains("has changed since"));
}
