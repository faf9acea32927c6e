//! Weights from every kind of file a model comes in, and from files that lie.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod files_support;

use files_support::*;
use loriot_encoder::architecture::{LinearKind, LinearSite, Part, Role, TableKind};
use loriot_encoder::weights::Weights;
use safetensors::Dtype;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

const WORDS: &str = "embeddings.word_embeddings.weight";
const QUERY: &str = "encoder.layer.0.attention.self.query.weight";

fn open(dir: &Path) -> Weights {
    Weights::open(dir, &tiny_config()).unwrap()
}

#[track_caller]
fn refusal(dir: &Path) -> String {
    told(&Weights::open(dir, &tiny_config()).unwrap_err())
}

/// What is said of a model whose only weights are `bytes`.
fn refusal_of_bytes(bytes: &[u8]) -> String {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("model.safetensors"), bytes).unwrap();
    refusal(dir.path())
}

/// What is said of the tiny model after its tensors have been edited.
fn refusal_after(edit: impl FnOnce(&mut Tensors)) -> String {
    let dir = tiny();
    edit_tensors(&dir.path().join("model.safetensors"), edit);
    refusal(dir.path())
}

#[test]
fn names_come_in_the_order_of_the_forward_pass() {
    let weights = open(&golden("tiny_bert"));
    let names: Vec<&str> = weights.names().collect();
    assert_eq!(names[..2], [WORDS, "embeddings.position_embeddings.weight"]);
    assert_eq!(names[3..6], ["embeddings.LayerNorm.weight", "embeddings.LayerNorm.bias", QUERY]);
    let layer: Vec<&str> =
        names[5..21].iter().map(|name| name.strip_prefix("encoder.layer.0.").unwrap()).collect();
    let blocks = [
        "attention.self.query",
        "attention.self.key",
        "attention.self.value",
        "attention.output.dense",
        "attention.output.LayerNorm",
        "intermediate.dense",
        "output.dense",
        "output.LayerNorm",
    ];
    let want = blocks.iter().flat_map(|block| [format!("{block}.weight"), format!("{block}.bias")]);
    assert_eq!(layer, want.collect::<Vec<_>>());
    assert_eq!(names.len(), 5 + 2 * 16 + 2);
    assert_eq!(names.last(), Some(&"pooler.dense.bias"));
    let name = "encoder.layer.1.intermediate.dense.weight";
    let spec = weights.specs().find(|spec| spec.name == name).unwrap();
    assert_eq!(spec.shape, [64, 32]);
    let words = &read_tensors(&golden("tiny_bert/model.safetensors"))[WORDS];
    assert_eq!(*weights.get(WORDS), words.values());
}

#[test]
fn every_prefix_and_the_old_layer_norm_names_are_read_as_the_same_model() {
    let want = open(&golden("tiny_bert")).sha256();
    for prefix in ["bert.", "model.", "0.auto_model.", "model.bert."] {
        let dir = tiny();
        edit_tensors(&dir.path().join("model.safetensors"), |tensors| {
            let old = std::mem::take(tensors);
            for (name, tensor) in old {
                let name = name.replace("LayerNorm.weight", "LayerNorm.gamma");
                tensors.insert(
                    format!("{prefix}{}", name.replace("LayerNorm.bias", "LayerNorm.beta")),
                    tensor,
                );
            }
            let stranger = Tensor { dtype: Dtype::I64, shape: vec![1, 2], bytes: vec![0; 16] };
            tensors.insert("bert.embeddings.position_ids".into(), stranger);
            tensors.insert("cls.predictions.bias".into(), Tensor::f32(&[1], &[f32::NAN]));
        });
        assert_eq!(open(dir.path()).sha256(), want, "{prefix}");
    }
}

#[test]
fn half_precision_is_read_as_the_f32_it_stands_for() {
    for dtype in [Dtype::F16, Dtype::BF16] {
        let (halves, wholes) = (tiny(), tiny());
        edit_tensors(&halves.path().join("model.safetensors"), |tensors| {
            tensors.values_mut().for_each(|tensor| *tensor = tensor.halved(dtype));
        });
        edit_tensors(&wholes.path().join("model.safetensors"), |tensors| {
            for tensor in tensors.values_mut() {
                let number = |value: f32| match dtype {
                    Dtype::F16 => half::f16::from_f32(value).to_f32(),
                    _ => half::bf16::from_f32(value).to_f32(),
                };
                let values: Vec<f32> = tensor.values().into_iter().map(number).collect();
                *tensor = Tensor::f32(&tensor.shape, &values);
            }
        });
        assert_eq!(open(halves.path()).sha256(), open(wholes.path()).sha256(), "{dtype}");
    }
}

#[test]
fn a_model_without_its_pooler_is_the_same_model() {
    let dir = tiny();
    edit_tensors(&dir.path().join("model.safetensors"), |tensors| {
        tensors.retain(|name, _| !name.starts_with("pooler."));
    });
    let weights = open(dir.path());
    assert!(!weights.contains("pooler.dense.weight"));
    assert_eq!(weights.sha256(), open(&golden("tiny_bert")).sha256());
}

/// Splits the tiny model into two shards and an index.
fn shard(dir: &Path) {
    let whole = dir.join("model.safetensors");
    let tensors = read_tensors(&whole);
    fs::remove_file(&whole).unwrap();
    let (mut map, mut shards) = (serde_json::Map::new(), [Tensors::new(), Tensors::new()]);
    for (at, (name, tensor)) in tensors.into_iter().enumerate() {
        let file = format!("model-0000{}-of-00002.safetensors", at % 2 + 1);
        map.insert(name.clone(), json!(file));
        shards[at % 2].insert(name, tensor);
    }
    for (at, shard) in shards.iter().enumerate() {
        write_tensors(&dir.join(format!("model-0000{}-of-00002.safetensors", at + 1)), shard);
    }
    let index = json!({ "metadata": { "total_size": 1 }, "weight_map": map });
    fs::write(dir.join("model.safetensors.index.json"), index.to_string()).unwrap();
}

#[test]
fn shards_are_read_as_one_model() {
    let dir = tiny();
    shard(dir.path());
    assert_eq!(open(dir.path()).sha256(), open(&golden("tiny_bert")).sha256());
}

#[test]
fn a_missing_shard_is_named() {
    let dir = tiny();
    shard(dir.path());
    fs::remove_file(dir.path().join("model-00002-of-00002.safetensors")).unwrap();
    let text = refusal(dir.path());
    assert_says(&text, &["cannot open `", "model-00002-of-00002.safetensors`", "download"]);
}

#[test]
fn an_index_cannot_lead_out_of_the_folder() {
    for outside in ["../secret.safetensors", "/etc/passwd", "a/../../b", "..\\b"] {
        let dir = tiny();
        shard(dir.path());
        edit_json(&dir.path().join("model.safetensors.index.json"), |index| {
            index["weight_map"][WORDS] = json!(outside);
        });
        let text = refusal(dir.path());
        assert_says(&text, &["index.json` names `", outside, "not a file inside the model folder"]);
    }
}

#[test]
fn an_index_without_shards_or_that_is_no_index_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let index = dir.path().join("model.safetensors.index.json");
    fs::write(&index, r#"{"weight_map": {}}"#).unwrap();
    assert_says(&refusal(dir.path()), &["`weight_map` is a map to 0 files"]);
    fs::write(&index, "{").unwrap();
    assert_says(&refusal(dir.path()), &["index.json` line 1: not the expected JSON"]);
}

#[test]
fn a_header_that_claims_2_to_the_60_bytes_is_refused_before_anything_is_allocated() {
    let mut bytes = (1u64 << 60).to_le_bytes().to_vec();
    bytes.extend(b"{}");
    let text = refusal_of_bytes(&bytes);
    assert_says(&text, &["claims 1152921504606846976 bytes, but the file has 10", "fetch"]);
    assert_says(&refusal_of_bytes(&u64::MAX.to_le_bytes()), &["claims 18446744073709551615"]);
}

#[test]
fn a_file_cut_off_anywhere_is_refused() {
    let whole = fs::read(golden("tiny_bert/model.safetensors")).unwrap();
    for kept in [0, 1, 7, 8, 9, 100, 5_000, whole.len() / 2, whole.len() - 1] {
        let text = refusal_of_bytes(&whole[..kept]);
        assert_says(&text, &["model.safetensors` is not a whole safetensors file: ", "cut off"]);
    }
    let longer = [&whole[..], &[0]].concat();
    assert_says(&refusal_of_bytes(&longer), &["do not fill its"]);
}

#[test]
fn headers_that_lie_are_refused() {
    let tensor = |shape: Value, offsets: Value| json!({"dtype": "F32", "shape": shape, "data_offsets": offsets});
    for (header, n_bytes) in [
        (
            json!({"a": tensor(json!([4]), json!([0, 16])), "b": tensor(json!([4]), json!([8, 24]))}),
            24,
        ),
        (json!({"a": tensor(json!([4]), json!([8, 24]))}), 24),
        (json!({"a": tensor(json!([4]), json!([16, 0]))}), 16),
        (json!({"a": tensor(json!([4]), json!([0, 1u64 << 60]))}), 16),
        (json!({"a": tensor(json!([1u64 << 40, 1u64 << 40]), json!([0, 16]))}), 16),
        (json!({"a": tensor(json!([-1]), json!([0, 16]))}), 16),
        (json!({"a": {"dtype": "F99", "shape": [4], "data_offsets": [0, 16]}}), 16),
        (json!([1, 2, 3]), 0),
        (json!({"a": null}), 0),
    ] {
        let text = refusal_of_bytes(&raw_safetensors(&header, n_bytes));
        assert_says(&text, &["is not a whole safetensors file: "]);
    }
    let mut garbage = 4u64.to_le_bytes().to_vec();
    garbage.extend([0xff, 0xfe, 0, 1]);
    assert_says(&refusal_of_bytes(&garbage), &["UTF-8"]);
}

#[test]
fn a_missing_tensor_is_named_with_its_shape() {
    let text = refusal_after(|tensors| _ = tensors.remove(QUERY));
    assert_says(
        &text,
        &["model.safetensors` has no tensor `", QUERY, "expected one of shape [32, 32]"],
    );
    let text = refusal_after(|tensors| _ = tensors.remove("pooler.dense.bias"));
    assert_says(&text, &["no tensor `pooler.dense.bias`"]);
}

#[test]
fn a_shape_that_does_not_fit_the_config_is_told_with_both_shapes() {
    let text = refusal_after(|tensors| {
        _ = tensors.insert(QUERY.into(), Tensor::f32(&[16, 64], &[0.0; 1024]))
    });
    assert_says(&text, &[QUERY, "has shape [16, 64], expected [32, 32]", "different models"]);

    let dir = tiny();
    let mut config = tiny_config();
    config.vocab_size = 30_522;
    let text = told(&Weights::open(dir.path(), &config).unwrap_err());
    assert_says(&text, &[WORDS, "has shape [166, 32], expected [30522, 32]"]);
}

#[test]
fn numbers_of_another_kind_are_refused() {
    let text = refusal_after(|tensors| {
        let bytes = vec![0; 8 * 1024];
        tensors.insert(QUERY.into(), Tensor { dtype: Dtype::F64, shape: vec![32, 32], bytes });
    });
    assert_says(&text, &[QUERY, "is F64, expected F32, F16 or BF16"]);
}

#[test]
fn one_number_that_is_none_is_found_in_every_kind() {
    for (value, said) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf"), (f32::NEG_INFINITY, "-inf")] {
        for dtype in [Dtype::F32, Dtype::F16, Dtype::BF16] {
            let text = refusal_after(|tensors| {
                let mut values = tensors[QUERY].values();
                values[33] = value;
                let tensor = Tensor::f32(&[32, 32], &values);
                let tensor = if dtype == Dtype::F32 { tensor } else { tensor.halved(dtype) };
                tensors.insert(QUERY.into(), tensor);
            });
            assert_says(&text, &[QUERY, &format!("holds {said} at element 33"), "diverged"]);
        }
    }
}

#[test]
fn one_tensor_under_two_names_is_refused() {
    let text = refusal_after(|tensors| {
        let copy = tensors[QUERY].clone();
        tensors.insert(format!("bert.{QUERY}"), copy);
    });
    assert_says(&text, &["has both `bert.", "which mean the same tensor"]);
}

#[test]
fn weights_that_are_missing_or_a_pickle_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    assert_says(&refusal(dir.path()), &["has no `model.safetensors`"]);
    fs::write(dir.path().join("pytorch_model.bin"), "x").unwrap();
    assert_says(&refusal(dir.path()), &["only as `pytorch_model.bin`", "safe_serialization"]);
    fs::create_dir(dir.path().join("model.safetensors")).unwrap();
    assert!(Weights::open(dir.path(), &tiny_config()).is_err());
}

#[test]
fn what_is_set_is_read_back_and_written() {
    let mut weights = open(&golden("tiny_bert"));
    let before = (weights.clone(), weights.sha256());
    let query = LinearSite { layer: 0, kind: LinearKind::Query };
    let query = Role::Linear(query, Part::Weight);
    weights.set(query, vec![0.25; 1024]);
    weights.release(query);
    weights.release(Role::Table(TableKind::Word));
    assert_ne!(weights.sha256(), before.1);
    assert_eq!(before.0.sha256(), before.1, "a clone is not changed");

    let dir = tempfile::tempdir().unwrap();
    weights.write(&dir.path().join("model.safetensors")).unwrap();
    let again = open(dir.path());
    assert_eq!(again.sha256(), weights.sha256());
    assert_eq!(*again.get(QUERY), [0.25; 1024]);
    assert_eq!(again.names().count(), weights.names().count());
}
