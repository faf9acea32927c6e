//! Adapters of every form, through every command that reads or writes one.

#![allow(clippy::unwrap_used, reason = "a test helper's failure is the test's")]

mod support;

use serde_json::{Value, json};
use std::fs;
use support::{Dir, golden};

const TRAIN: &str = "train --model MODEL --train train.csv --eval eval.csv --epochs 1 --dropout 0";

/// A folder whose `run` was trained with these options.
fn trained(options: &str) -> Dir {
    let dir = Dir::with_rows(40);
    dir.loriot(&format!("{TRAIN} --output run {options}")).ok();
    dir
}

fn config(dir: &Dir, adapter: &str) -> Value {
    let path = dir.path(adapter).join("adapter_config.json");
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// ROC-AUC of a model and of the one it stands on.
fn roc_auc(dir: &Dir, arguments: &str) -> (f64, f64) {
    let json =
        dir.loriot(&format!("eval --data eval.csv --bootstrap 0 --json {arguments}")).ok().json();
    let model = json["roc_auc"].as_f64().unwrap_or_else(|| panic!("{json}"));
    (model, json["base"]["roc_auc"].as_f64().unwrap_or(f64::NAN))
}

#[test]
fn an_adapter_of_any_form_is_trained_evaluated_and_merged() {
    for (options, written) in [
        ("--dora", json!({ "use_dora": true })),
        ("--lora-bias all --layers 1", json!({ "bias": "all", "layers_to_transform": [1] })),
        (
            "--modules-to-save LayerNorm,word_embeddings",
            json!({ "modules_to_save": ["LayerNorm", "word_embeddings"] }),
        ),
        (
            "--init-lora-weights pissa --rank 4",
            json!({ "r": 8, "lora_alpha": 32, "init_lora_weights": true }),
        ),
        (
            "--init-lora-weights olora --rank-pattern query=2 --alpha-pattern value=4",
            json!({ "r": 16, "rank_pattern": { "query": 4 }, "alpha_pattern": { "value": 8 } }),
        ),
        (
            "--target all-linear --exclude-modules key,intermediate.dense --loraplus-lr-ratio 4",
            json!({ "target_modules": ["attention.output.dense", "output.dense", "query", "value"] }),
        ),
    ] {
        let dir = trained(options);
        let found = config(&dir, "run");
        for (key, value) in written.as_object().unwrap() {
            assert_eq!(found[key], *value, "{options}: {key}");
        }
        // What was measured in training is what the written adapter gives.
        let log = fs::read_to_string(dir.path("run/metrics.jsonl")).unwrap();
        let last: Value = serde_json::from_str(log.lines().last().unwrap()).unwrap();
        let in_training = last["roc_auc"].as_f64().unwrap_or_else(|| panic!("{last}"));
        let (adapted, base) = roc_auc(&dir, "--model MODEL --adapter run");
        assert!((adapted - in_training).abs() < 2e-3, "{options}: {adapted}, {in_training}");
        assert!(adapted != base, "{options}: nothing was learned");

        let merge = "merge --model MODEL --adapter run --output merged --json";
        let merged = dir.loriot(merge).ok().json();
        assert!(merged["largest_difference"].as_f64().unwrap() < 1e-5, "{options}: {merged}");
        let (merged, _) = roc_auc(&dir, "--model merged");
        assert!((merged - adapted).abs() < 2e-3, "{options}: {merged}, {adapted}");
    }
}

#[test]
fn a_file_of_peft_says_it_all_and_what_cannot_be_honoured_is_named() {
    let dir = Dir::with_rows(40);
    let file = golden("peft/narrowed/adapter_config.json");
    dir.loriot(&format!("{TRAIN} --output run --peft-config {file}")).ok();
    let (got, want) =
        (config(&dir, "run"), serde_json::from_slice::<Value>(&fs::read(&file).unwrap()).unwrap());
    for key in ["r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "target_modules"]
    {
        assert_eq!(got[key], want[key], "{key}");
    }
    let mut with_loftq = want;
    with_loftq["loftq_config"] = json!({ "loftq_bits": 4 });
    dir.write("loftq.json", with_loftq.to_string());
    let done = dir.loriot(&format!("{TRAIN} --output other --peft-config loftq.json"));
    done.refused(1, "`loftq.json`: `loftq_config` is `{\"loftq_bits\":4}`, which this version", "");
    let both = dir.loriot(&format!("{TRAIN} --output other --peft-config {file} --rank 4"));
    assert_eq!(both.code, Some(2), "{}", both.stderr);
    assert!(!dir.path("other").exists());
}

#[test]
fn two_adapters_become_one_and_one_is_weakened_and_taken_out() {
    let dir = trained("--rank 4");
    dir.loriot(&format!("{TRAIN} --output second --seed 7 --target query,output.dense --rank 2"))
        .ok();
    let both = "merge --model MODEL --adapter run --adapter second --weights 0.7,-0.3";
    dir.loriot(&format!("{both} --adapter-only --output cat")).ok();
    assert_eq!(config(&dir, "cat")["rank_pattern"]["encoder.layer.0.attention.self.query"], 6);
    let folded = dir.loriot(&format!("{both} --output folded --json")).ok().json();
    assert!(folded["largest_difference"].as_f64().unwrap() < 1e-5, "{folded}");
    let (adapted, _) = roc_auc(&dir, "--model MODEL --adapter cat");
    let (folded, _) = roc_auc(&dir, "--model folded");
    assert!((adapted - folded).abs() < 2e-3, "{adapted}, {folded}");
    let linear = dir.loriot(&format!("{both} --combination linear --output linear"));
    linear.refused(1, "rank to combine by `linear` is 4 and 2", "");
    let missing = dir.loriot(&both.replace("0.7,-0.3", "1").replace("merge", "merge --output x"));
    missing.refused(2, "`--weights` has 1 numbers for 2 adapters", "one for each `--adapter`");

    // No strength is the base; a strength that is written is the strength that is evaluated.
    let (none, base) = roc_auc(&dir, "--model MODEL --adapter run --strength 0");
    assert_eq!(none, base);
    let (half, _) = roc_auc(&dir, "--model MODEL --adapter run --strength 0.5");
    dir.loriot("merge --model MODEL --adapter run --strength 0.5 --output half").ok();
    let (merged, _) = roc_auc(&dir, "--model half");
    assert!((half - merged).abs() < 2e-3, "{half}, {merged}");

    dir.loriot("merge --model MODEL --adapter run --output merged").ok();
    let out = "merge --model merged --adapter run --unmerge --output again --json";
    let out = dir.loriot(out).ok().json();
    assert!(out["largest_difference"].as_f64().unwrap() < 1e-5, "{out}");
    assert!(out["is_base"].is_boolean(), "{out}");
    let (again, _) = roc_auc(&dir, "--model again");
    assert!((again - base).abs() < 2e-3, "{again}, {base}");
}
