//! Adapters as PEFT writes them, as Loriot writes them, and all that is refused.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod files_support;

use files_support::*;
use loriot_encoder::adapter::{Adapter, Init, LoraConfig, Targets};
use loriot_encoder::architecture::{BERT, LinearKind, LinearSite};
use loriot_encoder::weights::Weights;
use safetensors::Dtype;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use tempfile::TempDir;

const CONFIG: &str = "adapter_config.json";
const TENSORS: &str = "adapter_model.safetensors";
const QUERY_A: &str = "base_model.model.encoder.layer.0.attention.self.query.lora_A.weight";
const QUERY_B: &str = "base_model.model.encoder.layer.0.attention.self.query.lora_B.weight";

fn open(dir: &Path) -> Adapter {
    Adapter::open(dir, &tiny_config()).unwrap()
}

fn qkv() -> TempDir {
    copy_of("adapters/qkv")
}

#[track_caller]
fn refusal(dir: &Path) -> String {
    told(&Adapter::open(dir, &tiny_config()).unwrap_err())
}

/// What is said of PEFT's adapter after its configuration has been edited.
#[track_caller]
fn refusal_of_config(edit: impl FnOnce(&mut Value)) -> String {
    let dir = qkv();
    edit_json(&dir.path().join(CONFIG), edit);
    refusal(dir.path())
}

/// What is said of PEFT's adapter after its tensors have been edited.
#[track_caller]
fn refusal_of_tensors(edit: impl FnOnce(&mut Tensors)) -> String {
    let dir = qkv();
    edit_tensors(&dir.path().join(TENSORS), edit);
    refusal(dir.path())
}

fn names(list: &[&str]) -> Targets {
    Targets::Names(list.iter().map(|name| name.to_string()).collect())
}

#[test]
fn adapters_of_peft_are_read_tensor_by_tensor() {
    for (kind, prefix, n_modules) in [
        ("qkv", "", 6),
        ("all_linear", "", 12),
        ("rslora", "", 6),
        ("patterns", "", 6),
        ("wrapped", "model.", 6),
    ] {
        let dir = golden(&format!("adapters/{kind}"));
        let (adapter, tensors) = (open(&dir), read_tensors(&dir.join(TENSORS)));
        assert_eq!((adapter.modules.len(), tensors.len()), (n_modules, 2 * n_modules), "{kind}");
        assert!(adapter.modules.is_sorted_by_key(|module| module.site));
        assert_eq!(adapter.notes, [""; 0], "{kind}");
        for module in &adapter.modules {
            let name = format!("base_model.model.{prefix}{}", BERT.module_name(module.site));
            assert_eq!(module.a_ri, tensors[&format!("{name}.lora_A.weight")].values());
            assert_eq!(module.b_or, tensors[&format!("{name}.lora_B.weight")].values());
        }
    }
}

#[test]
fn scales_follow_alpha_rank_and_their_patterns() {
    let scales = |kind: &str| -> Vec<(String, usize, f32)> {
        let adapter = open(&golden(&format!("adapters/{kind}")));
        let short = |site: LinearSite| format!("{}.{}", site.layer, BERT.suffix(site.kind));
        adapter.modules.iter().map(|m| (short(m.site), m.r, m.scale)).collect()
    };
    assert!(scales("qkv").iter().all(|(_, r, scale)| (*r, *scale) == (4, 2.0)));
    assert!(scales("rslora").iter().all(|(_, r, scale)| (*r, *scale) == (4, 4.0)));
    let want = [
        ("0.attention.self.query", 8, 1.0),
        ("0.attention.self.key", 4, 2.0),
        ("0.attention.self.value", 2, 0.5),
        ("1.attention.self.query", 4, 2.0),
        ("1.attention.self.key", 4, 8.0),
        ("1.attention.self.value", 2, 4.0),
    ];
    assert_eq!(scales("patterns"), want.map(|(site, r, scale)| (site.to_owned(), r, scale)));
}

#[test]
fn what_is_written_is_read_back_and_keeps_peft_s_names() {
    for kind in ["qkv", "all_linear", "rslora", "patterns", "regex", "wrapped"] {
        let adapter = open(&golden(&format!("adapters/{kind}")));
        let dir = tempfile::tempdir().unwrap();
        adapter.write(dir.path()).unwrap();
        let again = open(dir.path());
        assert_eq!(again, adapter, "{kind}");
        assert_eq!(again.sha256(), adapter.sha256());
        let tensors = read_tensors(&dir.path().join(TENSORS));
        assert!(tensors.keys().all(|name| name.starts_with("base_model.model.encoder.layer.")));
        if kind != "wrapped" {
            assert_eq!(tensors, read_tensors(&golden(&format!("adapters/{kind}")).join(TENSORS)));
        }
    }
}

#[test]
fn the_written_config_has_every_key_sorted() {
    let lora = LoraConfig {
        base_model: Some("owner/name".into()),
        alpha: 16.0,
        dropout: 0.1,
        rank_pattern: vec![("query".into(), 4)],
        alpha_pattern: vec![("value".into(), 0.5)],
        ..LoraConfig::default()
    };
    let dir = tempfile::tempdir().unwrap();
    Adapter::init(&lora, &tiny_config(), &tiny_weights(), &one_thread(), 1)
        .unwrap()
        .write(dir.path())
        .unwrap();
    let want = r#"{
  "alpha_pattern": {
    "value": 0.5
  },
  "auto_mapping": null,
  "base_model_name_or_path": "owner/name",
  "bias": "none",
  "exclude_modules": null,
  "fan_in_fan_out": false,
  "inference_mode": true,
  "init_lora_weights": true,
  "layers_pattern": null,
  "layers_to_transform": null,
  "lora_alpha": 16,
  "lora_bias": false,
  "lora_dropout": 0.1,
  "modules_to_save": null,
  "peft_type": "LORA",
  "r": 8,
  "rank_pattern": {
    "query": 4
  },
  "revision": null,
  "target_modules": [
    "attention.output.dense",
    "intermediate.dense",
    "key",
    "output.dense",
    "query",
    "value"
  ],
  "task_type": "FEATURE_EXTRACTION",
  "use_dora": false,
  "use_rslora": false
}
"#;
    assert_eq!(fs::read_to_string(dir.path().join(CONFIG)).unwrap(), want);
}

#[test]
fn a_new_adapter_changes_nothing_and_depends_on_its_seed_alone() {
    let config = tiny_config();
    let some = LoraConfig { targets: names(&["query"]), ..LoraConfig::default() };
    let all =
        Adapter::init(&LoraConfig::default(), &config, &tiny_weights(), &one_thread(), 7).unwrap();
    assert_eq!(all.modules.len(), 12);
    for module in &all.modules {
        let (o, i) = module.site.kind.shape(&config);
        assert_eq!((module.a_ri.len(), module.b_or.len()), (8 * i, o * 8));
        assert!(module.b_or.iter().all(|&b| b == 0.0));
        assert_eq!(module.scale, 1.0);
    }
    let some = Adapter::init(&some, &config, &tiny_weights(), &one_thread(), 7).unwrap();
    let in_all = |site| all.modules.iter().find(|module| module.site == site).unwrap();
    assert!(some.modules.iter().all(|module| in_all(module.site) == module));
    assert_ne!(
        Adapter::init(&LoraConfig::default(), &config, &tiny_weights(), &one_thread(), 8).unwrap(),
        all
    );
    let gaussian = LoraConfig { init: Init::Gaussian, ..LoraConfig::default() };
    assert_ne!(
        Adapter::init(&gaussian, &config, &tiny_weights(), &one_thread(), 7).unwrap().modules,
        all.modules
    );
}

#[test]
fn a_target_or_number_that_cannot_be_is_refused_with_what_could() {
    let refusal = |lora: LoraConfig| {
        told(&Adapter::init(&lora, &tiny_config(), &tiny_weights(), &one_thread(), 1).unwrap_err())
    };
    let lora = LoraConfig::default;
    let text = refusal(LoraConfig { targets: names(&["query", "q_proj"]), ..lora() });
    assert_says(&text, &["target `q_proj` matches no linear layer; there are: attention.output"]);
    let text = refusal(LoraConfig { targets: Targets::Pattern("(".into()), ..lora() });
    assert_says(&text, &["`(` is not a regular expression", "unclosed group", "look-around"]);
    let refusal = |lora: LoraConfig| {
        Adapter::init(&lora, &tiny_config(), &tiny_weights(), &one_thread(), 1)
            .unwrap_err()
            .to_string()
    };
    assert_says(&refusal(LoraConfig { r: 0, ..lora() }), &["LoRA's rank is 0, expected a whole"]);
    assert_says(&refusal(LoraConfig { alpha: f64::NAN, ..lora() }), &["alpha is NaN"]);
    assert_says(&refusal(LoraConfig { dropout: 1.0, ..lora() }), &["dropout is 1, expected"]);
    assert_says(&refusal(LoraConfig { layers: Some(vec![2]), ..lora() }), &["2 in a model of 2"]);
}

#[test]
fn merging_adds_the_product_to_the_targeted_weights_alone() {
    let mut weights = Weights::open(&golden("tiny_bert"), &tiny_config()).unwrap();
    let before = weights.clone();
    let adapter = open(&golden("adapters/patterns"));
    adapter.merge_into(&mut weights).unwrap();
    let mut n_changed = 0;
    for name in before.names() {
        let module =
            adapter.modules.iter().find(|m| format!("{}.weight", BERT.module_name(m.site)) == name);
        let (old, new) = (before.get(name), weights.get(name));
        let Some(module) = module else {
            assert_eq!(old, new, "{name}");
            continue;
        };
        n_changed += 1;
        for (at, (old, new)) in old.iter().zip(new.iter()).enumerate() {
            let (o, i) = (at / 32, at % 32);
            let terms = (0..module.r).map(|r| {
                f64::from(module.b_or[o * module.r + r]) * f64::from(module.a_ri[r * 32 + i])
            });
            let want = f64::from(*old) + f64::from(module.scale) * terms.sum::<f64>();
            assert_eq!(*new, want as f32, "{name} [{at}]");
        }
    }
    assert_eq!(n_changed, 6);
}

#[test]
fn a_merge_that_overflows_is_refused() {
    let mut weights = Weights::open(&golden("tiny_bert"), &tiny_config()).unwrap();
    let mut adapter = open(&golden("adapters/qkv"));
    adapter.modules[1].a_ri.fill(f32::MAX);
    adapter.modules[1].b_or.fill(f32::MAX);
    let text = told(&adapter.merge_into(&mut weights).unwrap_err());
    assert_says(
        &text,
        &["merging into `encoder.layer.0.attention.self.key` gives inf at element 0"],
    );
}

#[test]
fn the_identity_covers_numbers_scale_and_place() {
    let adapter = open(&golden("adapters/qkv"));
    let mut others = [adapter.clone(), adapter.clone(), adapter.clone(), adapter.clone()];
    others[0].modules[0].a_ri[0] += 1.0;
    others[1].modules[5].scale *= 2.0;
    others[2].modules[0].site = LinearSite { layer: 0, kind: LinearKind::Output };
    others[3].modules.pop();
    assert!(others.iter().all(|other| other.sha256() != adapter.sha256()));
    let renamed = LoraConfig { base_model: None, ..adapter.config.clone() };
    assert_eq!(Adapter { config: renamed, ..adapter.clone() }.sha256(), adapter.sha256());
}

#[test]
fn dora_needs_its_magnitudes_and_they_need_dora() {
    let dora = golden("adapters/dora");
    let adapter = open(&dora);
    assert!(adapter.config.use_dora && adapter.modules.iter().all(|m| m.magnitude_o.is_some()));
    let edited = copy_of("adapters/dora");
    edit_json(&edited.path().join(CONFIG), |json| json["use_dora"] = json!(false));
    assert_says(&refusal(edited.path()), &["no linear layer", ".lora_magnitude_vector"]);
    let text = refusal_of_config(|json| json["use_dora"] = json!(true));
    assert_says(&text, &["has no tensor", "query.lora_magnitude_vector", "[32]"]);
}

#[test]
fn factors_that_belong_to_changed_weights_are_refused() {
    for init in ["pissa", "pissa_niter_4", "olora"] {
        let text = refusal_of_config(|json| json["init_lora_weights"] = json!(init));
        let found =
            format!("`init_lora_weights` is `{init}`, whose factors belong to weights that were");
        assert_says(&text, &[CONFIG, &found, "path_initial_model_for_weight_conversion"]);
    }
    for harmless in [json!(false), json!("gaussian"), json!("eva"), json!("orthogonal")] {
        let dir = qkv();
        edit_json(&dir.path().join(CONFIG), |json| json["init_lora_weights"] = harmless);
        assert_eq!(open(dir.path()).modules, open(&golden("adapters/qkv")).modules);
    }
}

#[test]
fn modules_that_cannot_be_trained_whole_are_refused_with_those_that_can() {
    let refusal = |entry: &str| {
        let modules_to_save = vec![entry.to_owned()];
        let lora = LoraConfig { modules_to_save, ..LoraConfig::default() };
        let adapter = Adapter::init(&lora, &tiny_config(), &tiny_weights(), &one_thread(), 1);
        told(&adapter.unwrap_err())
    };
    for entry in
        ["query", "dense", "embeddings", "encoder.layer.0", "pooler", "pooler.dense", "x", ""]
    {
        let found =
            format!("`modules_to_save` has `{entry}`, expected modules that can be trained");
        let could = "LayerNorm, position_embeddings, token_type_embeddings, word_embeddings";
        assert_says(&refusal(entry), &[&found, could, "--full"]);
    }
    let text = refusal_of_config(|json| json["modules_to_save"] = json!(["classifier"]));
    assert_says(&text, &["`modules_to_save` has `classifier`"]);
    let text = refusal_of_config(|json| json["modules_to_save"] = json!(["LayerNorm"]));
    assert_says(&text, &["no tensor for a bias or saved module", "`embeddings.LayerNorm.weight`"]);
}

#[test]
fn a_file_that_says_how_to_train_is_taken_as_it_is_or_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("peft.json");
    let read = |json: Value| {
        fs::write(&path, json.to_string()).unwrap();
        LoraConfig::open_for_training(&path)
    };
    // What PEFT writes, defaults and all.
    for kind in ["narrowed", "saved", "dora_all"] {
        let json = read_json(&golden(&format!("peft/{kind}")).join(CONFIG));
        let lora = read(json).unwrap();
        let adapter = Adapter::init(&lora, &tiny_config(), &tiny_weights(), &one_thread(), 1);
        let want = open(&golden(&format!("peft/{kind}")));
        let shapes = |adapter: &Adapter| -> Vec<_> {
            let of = |m: &loriot_encoder::adapter::LoraModule| {
                (m.site, m.r, m.scale, m.factors().count())
            };
            adapter.modules.iter().map(of).collect()
        };
        let adapter = adapter.unwrap();
        assert_eq!(shapes(&adapter), shapes(&want), "{kind}");
        assert!(
            adapter.whole.iter().map(|t| t.role).eq(want.whole.iter().map(|t| t.role)),
            "{kind}"
        );
    }
    let with = |key: &str, value: Value| {
        let mut json = json!({ "peft_type": "LORA", "target_modules": ["query"] });
        json[key] = value;
        read(json)
    };
    for (name, init) in
        [("pissa", Init::Pissa), ("pissa_niter_16", Init::Pissa), ("olora", Init::Olora)]
    {
        assert_eq!(with("init_lora_weights", json!(name)).unwrap().init, init);
    }
    for (key, value, said) in [
        ("init_lora_weights", json!("loftq"), "expected `true`, `gaussian`"),
        ("init_lora_weights", json!(false), "expected `true`, `gaussian`"),
        ("init_lora_weights", json!("eva"), "expected `true`, `gaussian`"),
        ("corda_config", json!({ "cov": 1 }), "does not support"),
        ("loftq_config", json!({ "loftq_bits": 4 }), "does not support"),
        ("megatron_config", json!({ "a": 1 }), "does not support"),
        ("layer_replication", json!([[0, 1]]), "does not support"),
        ("trainable_token_indices", json!([1]), "does not support"),
        ("lora_bias", json!(true), "does not support"),
        ("alora_invocation_tokens", json!([1]), "does not support"),
        ("lora_alhpa", json!(16), "does not support"),
        ("bias", json!("some"), "expected `none`, `lora_only` or `all`"),
        ("task_type", json!("SEQ_CLS"), "expected `FEATURE_EXTRACTION` or nothing"),
    ] {
        let text = told(&with(key, value.clone()).unwrap_err());
        assert_says(&text, &["peft.json", &format!("`{key}` is `{value}`"), said]);
    }
    for (key, value) in
        [("lora_bias", json!(false)), ("loftq_config", json!({})), ("a_new_one", Value::Null)]
    {
        with(key, value).unwrap();
    }
    let text = with("layers_pattern", json!(["layer"])).unwrap_err().to_string();
    assert_says(
        &text,
        &["`layers_pattern` is given alone, expected `layers_to_transform` beside it"],
    );
}

#[test]
fn features_that_would_change_the_result_are_refused_by_name() {
    for (key, value) in [
        ("peft_type", json!("LOHA")),
        ("lora_bias", json!(true)),
        ("init_lora_weights", json!("loftq")),
        ("init_lora_weights", json!("corda")),
        ("fan_in_fan_out", json!(true)),
        ("layer_replication", json!([[0, 1]])),
        ("trainable_token_indices", json!([1, 2])),
        ("target_parameters", json!(["weight"])),
        ("megatron_config", json!({ "a": 1 })),
        ("use_qalora", json!(true)),
        ("alora_invocation_tokens", json!([1])),
        ("use_bdlora", json!({ "nblocks": 2 })),
    ] {
        let text = refusal_of_config(|json| json[key] = value.clone());
        let found = format!("`{key}` is `{value}`, which this version does not support");
        assert_says(&text, &[CONFIG, &found, "merge"]);
    }
}

#[test]
fn keys_of_a_newer_peft_are_read_over_and_told() {
    let dir = qkv();
    edit_json(&dir.path().join(CONFIG), |json| {
        json["use_magic"] = json!(true);
        json["another"] = Value::Null;
    });
    let notes = open(dir.path()).notes;
    assert_eq!(notes.len(), 1);
    assert_says(&notes[0], &["does not know, ignored: `another`, `use_magic`"]);
}

#[test]
fn entries_of_the_wrong_kind_are_refused_with_found_and_expected() {
    for (key, value, expected) in [
        ("r", json!(0), "a whole number from 1 to 16384"),
        ("r", json!(-4), "a whole number from 1"),
        ("r", json!(1u64 << 60), "a whole number from 1"),
        ("r", json!("8"), "a whole number from 1"),
        ("lora_alpha", json!("16"), "a finite number"),
        ("use_rslora", json!("yes"), "`true` or `false`"),
        ("target_modules", json!(7), "a text or a list of texts"),
        ("target_modules", json!([7]), "a text or a list of texts"),
        ("layers_to_transform", json!("first"), "a layer's number"),
        ("base_model_name_or_path", json!(1), "a text"),
    ] {
        let text = refusal_of_config(|json| json[key] = value.clone());
        assert_says(&text, &[CONFIG, &format!("`{key}` is `{value}`"), expected]);
    }
    for key in ["peft_type", "target_modules"] {
        let text = refusal_of_config(|json| json[key] = Value::Null);
        assert_says(&text, &[&format!("`{key}` is missing")]);
    }
    let text = refusal_of_config(|json| json["rank_pattern"] = json!({ "query": 0 }));
    assert_says(&text, &["`rank_pattern.query` is `0`"]);
    let text = refusal_of_config(|json| json["alpha_pattern"] = json!([1]));
    assert_says(&text, &["expected an object of patterns"]);
    for pattern in ["(", "(?<=x)y", "a)(b"] {
        let text = refusal_of_config(|json| json["target_modules"] = json!(pattern));
        assert_says(&text, &[pattern, "is not a regular expression that can be used"]);
        let text = refusal_of_config(|json| json["rank_pattern"] = json!({ pattern: 4 }));
        assert_says(&text, &[pattern, "is not a regular expression that can be used"]);
    }
}

#[test]
fn keys_that_mean_no_layer_of_this_model_are_refused() {
    for stranger in [
        "encoder.layer.0.attention.self.query.lora_A.weight",
        "base_model.model.roberta.encoder.layer.0.attention.self.query.lora_A.weight",
        "base_model.model.model.model.encoder.layer.0.attention.self.query.lora_A.weight",
        "base_model.model.encoder.layer.7.attention.self.query.lora_A.weight",
        "base_model.model.encoder.layer.0.attention.self.query.lora_magnitude_vector",
        "base_model.model.encoder.layer.0.attention.self.query.base_layer.bias",
        "base_model.model.embeddings.word_embeddings.lora_embedding_A",
        "base_model.model.layers.0.self_attn.q_proj.lora_A.weight",
    ] {
        let text = refusal_of_tensors(|tensors| {
            tensors.insert(stranger.into(), Tensor::f32(&[4, 32], &[0.0; 128]));
        });
        let said = format!("no linear layer of this model is meant by tensor `{stranger}`");
        assert_says(
            &text,
            &[TENSORS, &said, "trained for another model", "base_model_name_or_path"],
        );
    }
    let text = refusal_of_tensors(Tensors::clear);
    assert_says(&text, &["no tensor for a target of the configuration"]);
}

#[test]
fn prefixes_of_every_wrapper_mean_the_same_adapter() {
    let want = open(&golden("adapters/qkv"));
    for prefix in ["bert.", "model.", "0.auto_model.", "model.bert."] {
        let dir = qkv();
        edit_tensors(&dir.path().join(TENSORS), |tensors| {
            let old = std::mem::take(tensors).into_iter();
            let root = format!("base_model.model.{prefix}");
            tensors.extend(old.map(|(name, t)| (name.replace("base_model.model.", &root), t)));
        });
        assert_eq!(open(dir.path()), want, "{prefix}");
    }
}

#[test]
fn configuration_and_tensors_must_mean_the_same_layers() {
    let text = refusal_of_tensors(|tensors| tensors.retain(|name, _| !name.contains("layer.1.")));
    assert_says(
        &text,
        &[
            "there is no tensor for a target of the configuration, `encoder.layer.1.attention.self.query`",
            "trained for another model",
        ],
    );
    let text = refusal_of_config(|json| json["target_modules"] = json!(["query", "key"]));
    assert_says(&text, &["tensors for what the configuration does not target", "self.value`"]);
    let text = refusal_of_config(|json| json["target_modules"] = json!("all-linear"));
    assert_says(&text, &["no tensor for a target", "`encoder.layer.0.attention.output.dense`"]);
    let text = refusal_of_config(|json| json["exclude_modules"] = json!(["query"]));
    assert_says(&text, &["does not target"]);
    let text = refusal_of_config(|json| json["layers_to_transform"] = json!(0));
    assert_says(&text, &["does not target", "encoder.layer.1."]);
}

#[test]
fn half_an_adapter_is_refused() {
    let text = refusal_of_tensors(|tensors| _ = tensors.remove(QUERY_B));
    assert_says(&text, &[&format!("has no tensor `{QUERY_B}`, expected one of shape [32, 4]")]);
    let text = refusal_of_tensors(|tensors| _ = tensors.remove(QUERY_A));
    assert_says(&text, &[&format!("has no tensor `{QUERY_A}`"), "incomplete"]);
}

#[test]
fn shapes_of_another_model_or_rank_are_told_with_both() {
    let text = refusal_of_tensors(|tensors| {
        tensors.insert(QUERY_B.into(), Tensor::f32(&[384, 4], &[0.0; 384 * 4]));
    });
    assert_says(&text, &[QUERY_B, "has shape [384, 4], expected [32, 4]", "another model"]);
    let text = refusal_of_config(|json| json["r"] = json!(8));
    assert_says(&text, &[QUERY_A, "has shape [4, 32], expected [8, 32]"]);
    let text = refusal_of_config(|json| json["rank_pattern"] = json!({ "layer.0.*query": 2 }));
    assert_says(&text, &[QUERY_A, "has shape [4, 32], expected [2, 32]"]);
}

#[test]
fn numbers_that_are_none_and_types_that_are_not_read_are_refused() {
    let text = refusal_of_tensors(|tensors| {
        let mut values = tensors[QUERY_B].values();
        values[5] = f32::NAN;
        tensors.insert(QUERY_B.into(), Tensor::f32(&[32, 4], &values));
    });
    assert_says(&text, &[QUERY_B, "holds NaN at element 5"]);
    let text = refusal_of_tensors(|tensors| {
        let tensor = Tensor { dtype: Dtype::I8, shape: vec![32, 4], bytes: vec![0; 128] };
        tensors.insert(QUERY_B.into(), tensor);
    });
    assert_says(&text, &[QUERY_B, "is I8, expected F32, F16 or BF16"]);
}

#[test]
fn half_precision_adapters_are_converted() {
    for dtype in [Dtype::F16, Dtype::BF16] {
        let dir = qkv();
        edit_tensors(&dir.path().join(TENSORS), |tensors| {
            tensors.values_mut().for_each(|tensor| *tensor = tensor.halved(dtype));
        });
        let (half, whole) = (open(dir.path()), open(&golden("adapters/qkv")));
        for (half, whole) in half.modules.iter().zip(&whole.modules) {
            let close = |(a, b): (&f32, &f32)| (a - b).abs() <= b.abs() / 128.0 + 1e-7;
            assert!(half.a_ri.iter().zip(&whole.a_ri).all(close));
            assert!(half.b_or.iter().zip(&whole.b_or).all(close));
        }
    }
}

#[test]
fn a_pooler_s_part_is_left_out_and_told() {
    let dir = copy_of("adapters/all_linear");
    edit_json(&dir.path().join(CONFIG), |json| json["target_modules"] = json!("all-linear"));
    edit_tensors(&dir.path().join(TENSORS), |tensors| {
        let name = |end| format!("base_model.model.pooler.dense.{end}.weight");
        tensors.insert(name("lora_A"), Tensor::f32(&[4, 32], &[0.5; 128]));
        tensors.insert(name("lora_B"), Tensor::f32(&[32, 4], &[0.0; 128]));
    });
    let adapter = open(dir.path());
    assert_eq!(adapter.modules, open(&golden("adapters/all_linear")).modules);
    assert_says(&adapter.notes.join("; "), &["pooler, which embeddings do not use: left out"]);
    let copy = tempfile::tempdir().unwrap();
    adapter.write(copy.path()).unwrap();
    assert_eq!(open(copy.path()).notes, [""; 0]);
}

#[test]
fn files_that_are_missing_broken_or_a_pickle_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    assert_says(&refusal(dir.path()), &["cannot read `", CONFIG]);
    fs::copy(golden("adapters/qkv").join(CONFIG), dir.path().join(CONFIG)).unwrap();
    assert_says(&refusal(dir.path()), &["cannot open `", TENSORS]);
    fs::write(dir.path().join("adapter_model.bin"), "x").unwrap();
    assert_says(&refusal(dir.path()), &["only as `adapter_model.bin`", "safe_serialization=True"]);

    let whole = fs::read(golden("adapters/qkv").join(TENSORS)).unwrap();
    for kept in [0, 7, 8, 300, whole.len() / 2, whole.len() - 1] {
        fs::write(dir.path().join(TENSORS), &whole[..kept]).unwrap();
        assert_says(&refusal(dir.path()), &["is not a whole safetensors file"]);
    }
    let mut huge = (1u64 << 60).to_le_bytes().to_vec();
    huge.extend(b"{}");
    fs::write(dir.path().join(TENSORS), huge).unwrap();
    assert_says(&refusal(dir.path()), &["claims 1152921504606846976 bytes"]);
    for text in ["", "[]", "{", "{\"r\": }", "\u{0}"] {
        fs::write(dir.path().join(CONFIG), text).unwrap();
        assert_says(&refusal(dir.path()), &["adapter_config.json` line ", "not the expected JSON"]);
    }
}
