//! A run that stops at any moment and goes on ends with the bytes of one that never stopped.

#![allow(clippy::unwrap_used, reason = "a test helper's failure is the test's")]

mod support;

use loriot_files::Hint;
use loriot_train::{CheckpointEvery, Event, Start, TrainSettings};
use std::fs;
use std::path::{Path, PathBuf};
use support::{Setup, assert_same_files, copy_folder};
use tempfile::tempdir;

/// Runs to the end, and copies the run folder after every step and every evaluation, as a crash at
/// that moment would leave it.
fn run_with_crash_sites(setup: &Setup, output: &Path, copies: &Path) -> Vec<PathBuf> {
    let mut sites = Vec::new();
    let mut observe = |event: Event<'_>| {
        if matches!(event, Event::Step { .. } | Event::Evaluated(_)) {
            let copy = copies.join(sites.len().to_string());
            copy_folder(output, &copy);
            sites.push(copy);
        }
    };
    setup.run_observed(output, Start::New, &mut observe).unwrap();
    sites
}

fn resumes_from_everywhere(setup: &Setup) {
    let (dir, copies) = (tempdir().unwrap(), tempdir().unwrap());
    let output = dir.path().join("run");
    let sites = run_with_crash_sites(setup, &output, copies.path());
    assert_eq!(sites.len(), 12 + 3);
    for site in sites {
        // What a crash within a write leaves behind, and half a line in the log.
        fs::create_dir(site.join(".tmp-abc")).unwrap();
        fs::write(site.join(".tmp-abc/state.json"), "{").unwrap();
        let mut log = fs::read(site.join("metrics.jsonl")).unwrap();
        log.extend(b"{\"event\":\"st");
        fs::write(site.join("metrics.jsonl"), log).unwrap();
        setup.run(&site, Start::Latest).unwrap();
        assert_same_files(&site, &output);
    }
}

#[test]
fn an_adapter_resumed_after_any_event_has_the_same_bytes() {
    resumes_from_everywhere(&Setup::short());
}

#[test]
fn so_it_has_with_checkpoints_after_epochs_and_only_the_last_one_kept() {
    let checkpoint = CheckpointEvery::Epoch;
    resumes_from_everywhere(&Setup { checkpoint, keep_checkpoints: Some(1), ..Setup::short() });
}

#[test]
fn so_it_has_when_every_weight_is_trained() {
    resumes_from_everywhere(&Setup { adapter: None, ..Setup::short() });
}

/// Without dropout, equal texts of a batch share a vector.
#[test]
fn so_it_has_without_dropout_on_rows_that_share_queries() {
    let mut setup = Setup::short();
    for rows in setup.train.chunks_mut(4) {
        let query = rows[0].query.clone();
        rows.iter_mut().for_each(|row| row.query.clone_from(&query));
    }
    let TrainSettings { hidden_dropout, attention_dropout, lora_dropout, .. } = &mut setup.settings;
    [*hidden_dropout, *attention_dropout, *lora_dropout] = [0.0; 3];
    resumes_from_everywhere(&setup);
}

#[test]
fn a_finished_run_that_is_resumed_stays_as_it_is() {
    let dir = tempdir().unwrap();
    let (once, twice) = (dir.path().join("once"), dir.path().join("twice"));
    let setup = Setup::short();
    setup.run(&once, Start::New).unwrap();
    copy_folder(&once, &twice);
    let report = setup.run(&twice, Start::Latest).unwrap();
    assert_eq!((report.steps, report.evaluations.len()), (12, 3));
    assert_same_files(&twice, &once);
}

#[test]
fn an_early_checkpoint_can_be_gone_back_to_in_place_or_elsewhere() {
    let dir = tempdir().unwrap();
    let (run, elsewhere) = (dir.path().join("run"), dir.path().join("elsewhere"));
    let setup = Setup::short();
    setup.run(&run, Start::New).unwrap();
    let before = support::contents(&run);
    setup.run(&run, Start::At(run.join("step_4"))).unwrap();
    assert_eq!(support::contents(&run), before);
    setup.run(&elsewhere, Start::At(run.join("step_4"))).unwrap();
    let adapter = |dir: &Path| fs::read(dir.join("adapter_model.safetensors")).unwrap();
    assert_eq!(adapter(&elsewhere), adapter(&run));
}

#[test]
fn the_result_does_not_depend_on_the_number_of_threads() {
    let dir = tempdir().unwrap();
    let path = |threads: usize| dir.path().join(threads.to_string());
    for threads in [1, 3] {
        Setup { threads, ..Setup::short() }.run(&path(threads), Start::New).unwrap();
    }
    assert_same_files(&path(1), &path(3));
}

#[test]
fn a_run_with_other_settings_data_or_adapter_is_not_resumed() {
    let dir = tempdir().unwrap();
    let run = dir.path().join("run");
    let setup = Setup::short();
    setup.run(&run, Start::New).unwrap();
    let before = support::contents(&run);
    let refuse = |changed: Setup, want: &str| {
        let error = changed.run(&run, Start::Latest).unwrap_err();
        assert!(error.to_string().contains(want), "{error}");
        assert!(error.hint().unwrap().contains("--overwrite"));
        assert_eq!(support::contents(&run), before, "a refused run changes nothing");
    };
    let mut changed = setup.clone();
    changed.settings.batch_size = 16;
    refuse(changed, "`batch_size` was `8` there and is `16` now");
    let mut changed = setup.clone();
    changed.train[3].query.push('!');
    refuse(changed, "`train.sha256` was `");
    let mut changed = setup.clone();
    changed.eval.pop();
    refuse(changed, "`eval.rows` was `60` there and is `59` now");
    refuse(Setup { adapter: Some("adapters/rslora"), ..setup.clone() }, "`trained.start_sha256`");
    refuse(Setup { adapter: None, ..setup.clone() }, "`trained.");
}

#[test]
fn damaged_checkpoints_are_refused_and_nothing_is_changed() {
    let dir = tempdir().unwrap();
    let setup = Setup::short();
    let run = dir.path().join("run");
    setup.run(&run, Start::New).unwrap();
    let latest = run.join("step_12");
    for (file, want) in [
        ("state.json", "not the expected JSON"),
        ("optimiser.safetensors", "is not a whole safetensors file"),
        ("adapter_model.safetensors", "is not a whole safetensors file"),
    ] {
        let good = fs::read(latest.join(file)).unwrap();
        fs::write(latest.join(file), &good[..good.len() / 2]).unwrap();
        let before = support::contents(&run);
        let error = setup.run(&run, Start::Latest).unwrap_err();
        assert!(error.to_string().contains(want), "{error}");
        assert!(error.hint().unwrap().contains("--resume PATH"));
        assert_eq!(support::contents(&run), before);
        fs::write(latest.join(file), good).unwrap();
    }
}

/// Written by `Setup::short` at step 8, when `state.json` was at version 1.
#[test]
fn a_checkpoint_of_version_1_goes_on_to_the_same_end() {
    let dir = tempdir().unwrap();
    let formats = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/formats");
    let (old, new) = (dir.path().join("old"), dir.path().join("new"));
    let setup = Setup::short();
    setup.run(&new, Start::New).unwrap();
    let report = setup.run(&old, Start::At(formats.join("checkpoint_v1"))).unwrap();
    assert_eq!((report.steps, report.evaluations.len()), (12, 3));
    let state = |run: &Path| fs::read_to_string(run.join("step_12/state.json")).unwrap();
    assert!(state(&old).contains("\"schema_version\": 2"));
    if loriot_kernels::Isa::from_env().unwrap().to_string() == "avx2" {
        assert_eq!(state(&old), state(&new));
        let adapter = |run: &Path| fs::read(run.join("adapter_model.safetensors")).unwrap();
        assert_eq!(adapter(&old), adapter(&new));
    }
    let mut changed = setup;
    changed.max_length = 47;
    let error = changed.run(&old, Start::At(formats.join("checkpoint_v1"))).unwrap_err();
    assert!(error.to_string().contains("`max_length` was `48` there"), "{error}");
}

#[test]
fn a_run_is_not_resumed_on_a_model_that_computes_otherwise() {
    let dir = tempdir().unwrap();
    let (run, model) = (dir.path().join("run"), dir.path().join("model"));
    copy_folder(&support::golden("tiny_bert"), &model);
    let setup = Setup { model: model.clone(), ..Setup::short() };
    setup.run(&run, Start::New).unwrap();
    let config = model.join("config.json");
    let good = fs::read_to_string(&config).unwrap();
    for (key, value) in
        [("num_attention_heads", "1"), ("hidden_act", "\"relu\""), ("layer_norm_eps", "0.1")]
    {
        let mut json: serde_json::Value = serde_json::from_str(&good).unwrap();
        json[key] = serde_json::from_str(value).unwrap();
        fs::write(&config, json.to_string()).unwrap();
        let error = setup.run(&run, Start::Latest).unwrap_err().to_string();
        assert!(error.contains(&format!("another run: `{key}` was")), "{error}");
    }
}
