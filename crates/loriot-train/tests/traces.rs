//! Whole runs against PyTorch and PEFT (`tests/golden/README.md`), and what must hold of any run.

#![allow(clippy::unwrap_used, reason = "a test helper's failure is the test's")]

mod support;

use loriot_files::Hint;
use loriot_train::{Start, TrainSettings};
use support::{Setup, Traced, losses};
use tempfile::tempdir;

const TINY: Traced = Traced { traces: "tiny_traces.json", minilm: false };

/// The real thing, all-MiniLM-L6-v2, made ready by `cargo xtask prepare`.
const MINILM: Traced = Traced { traces: "minilm_traces.json", minilm: true };

#[test]
fn forty_lora_steps_of_minilm_follow_peft() {
    MINILM.follows_pytorch("lora", Some("minilm_adapter"), 1e-4);
}

#[test]
fn twenty_full_steps_of_minilm_follow_pytorch() {
    MINILM.follows_pytorch("full", None, 1e-3);
}

#[test]
fn forty_lora_steps_follow_peft() {
    TINY.follows_pytorch("lora", Some("adapters/qkv"), 1e-4);
}

#[test]
fn forty_adamw_steps_with_warm_up_decay_and_clipping_follow_peft() {
    TINY.follows_pytorch("lora_adamw", Some("adapters/all_linear"), 1e-4);
}

#[test]
fn forty_full_steps_follow_pytorch() {
    TINY.follows_pytorch("full", None, 1e-3);
}

#[test]
fn accumulated_micro_batches_train_as_one_batch_does() {
    let dir = tempdir().unwrap();
    // 44 rows: the last step of an epoch has 12 of them, the last micro-batch of eight 4.
    let run = |batch_size: usize, gradient_accumulation_steps: usize| {
        let mut setup = Setup::short();
        let settings = TrainSettings { batch_size, gradient_accumulation_steps, ..setup.settings };
        setup.settings = settings;
        let output = dir.path().join(batch_size.to_string());
        setup.run(&output, Start::New).unwrap();
        losses(&output)
    };
    let whole = run(16, 1);
    assert_eq!(whole.len(), 6);
    for (batch_size, accumulation) in [(8, 2), (4, 4), (2, 8)] {
        let parts = run(batch_size, accumulation);
        assert_eq!(parts.len(), whole.len());
        for (part, whole) in parts.iter().zip(&whole) {
            assert!((part - whole).abs() < 1e-5 * whole, "{batch_size}: {part} against {whole}");
        }
    }
}

#[test]
fn a_rate_that_is_far_too_high_stops_with_a_remedy_and_leaves_no_broken_model() {
    let dir = tempdir().unwrap();
    let output = dir.path().join("run");
    let mut setup = Setup { adapter: None, ..Setup::short() };
    setup.settings.learning_rate = 1e38;
    let error = setup.run(&output, Start::New).unwrap_err();
    assert!(error.to_string().starts_with("training diverged at step "), "{error}");
    assert!(error.hint().unwrap().contains("lower `--learning-rate`"));
    assert!(!output.join("model.safetensors").exists() && !output.join("best").exists());
}
