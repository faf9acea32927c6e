//! A run that stops at any moment and goes on ends with the bytes of one that never stopped.

#![allow(clippy::unwrap_used, reason = "a test helper's failure is the test's")]

mod support;

use loriot_encoder::adapter::{Bias, Init, LoraConfig};
use loriot_files::Hint;
use loriot_train::{CheckpointEvery, Event, RunFolder, Start, TrainError, TrainSettings};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
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

/// Biases and saved modules stand in the checkpoint whole; of a start in the weights it holds the start, too.
#[test]
fn so_it_has_with_an_adapter_of_any_form() {
    let lora = LoraConfig {
        r: 4,
        targets: "query,output.dense".parse().unwrap(),
        ..LoraConfig::default()
    };
    let forms = [
        LoraConfig { init: Init::Pissa, use_dora: true, bias: Bias::LoraOnly, ..lora.clone() },
        LoraConfig { init: Init::Olora, use_rslora: true, bias: Bias::All, ..lora.clone() },
        LoraConfig { modules_to_save: vec!["word_embeddings".into(), "LayerNorm".into()], ..lora },
    ];
    for fresh in forms {
        let mut setup =
            Setup { fresh: Some(fresh), checkpoint: CheckpointEvery::Steps(4), ..Setup::short() };
        setup.settings.loraplus_lr_ratio = Some(4.0);
        resumes_from_everywhere(&setup);
    }
}

#[test]
fn a_checkpoint_of_another_start_is_refused() {
    let dir = tempdir().unwrap();
    let run = dir.path().join("run");
    let pissa = LoraConfig { r: 4, init: Init::Pissa, ..LoraConfig::default() };
    let with = |fresh: &LoraConfig| Setup { fresh: Some(fresh.clone()), ..Setup::short() };
    with(&pissa).run(&run, Start::New).unwrap();
    let error =
        with(&LoraConfig { init: Init::Olora, ..pissa }).run(&run, Start::Latest).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("belongs to another run: `trained.start_sha256` was"), "{text}");
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

const DAMAGES: [(&str, &str); 3] = [
    ("state.json", "not the expected JSON"),
    ("optimiser.safetensors", "is not a whole safetensors file"),
    ("adapter_model.safetensors", "is not a whole safetensors file"),
];

#[test]
fn a_damaged_checkpoint_that_was_named_is_refused_and_nothing_is_changed() {
    let dir = tempdir().unwrap();
    let setup = Setup::short();
    let run = dir.path().join("run");
    setup.run(&run, Start::New).unwrap();
    let latest = run.join("step_12");
    for (file, want) in DAMAGES {
        let good = fs::read(latest.join(file)).unwrap();
        fs::write(latest.join(file), &good[..good.len() / 2]).unwrap();
        let before = support::contents(&run);
        let error = setup.run(&run, Start::At(latest.clone())).unwrap_err();
        assert!(error.to_string().contains(want), "{error}");
        assert!(error.hint().unwrap().contains("--resume PATH"));
        assert_eq!(support::contents(&run), before);
        fs::write(latest.join(file), good).unwrap();
    }
}

#[test]
fn a_damaged_checkpoint_is_passed_over_for_the_latest_whole_one() {
    let (dir, copies) = (tempdir().unwrap(), tempdir().unwrap());
    let setup = Setup::short();
    let run = dir.path().join("run");
    setup.run(&run, Start::New).unwrap();
    // The latest, whose place is taken by the one before, and the first, which no run needs.
    for (damaged, goes_on_after) in [("step_12", 10), ("step_2", 12)] {
        for (file, want) in DAMAGES {
            let copy = copies.path().join(format!("{damaged}_{file}"));
            copy_folder(&run, &copy);
            let path = copy.join(damaged).join(file);
            let good = fs::read(&path).unwrap();
            fs::write(&path, "").unwrap();
            let (mut warnings, mut step) = (Vec::new(), 0);
            let mut observe = |event: Event<'_>| match event {
                Event::Warning(text) => warnings.push(text.to_owned()),
                Event::Started { step: begun_at, .. } => step = begun_at,
                _ => {}
            };
            setup.run_observed(&copy, Start::Latest, &mut observe).unwrap();
            assert_eq!(step, goes_on_after, "{damaged}/{file}");
            let is_seen = damaged == "step_12" || file == "state.json";
            assert_eq!(warnings.len(), usize::from(is_seen), "{warnings:?}");
            let names_it = |text: &String| text.contains(damaged) && text.contains(file);
            assert!(warnings.iter().all(names_it), "{warnings:?}, {want}");
            if damaged == "step_2" {
                fs::write(&path, good).unwrap();
            }
            assert_same_files(&copy, &run);
        }
    }
}

#[test]
fn where_every_checkpoint_is_damaged_the_run_does_not_begin_anew_by_itself() {
    let dir = tempdir().unwrap();
    let (setup, run) =
        (Setup { checkpoint: CheckpointEvery::Epoch, ..Setup::short() }, dir.path().join("run"));
    setup.run(&run, Start::New).unwrap();
    for file in ["state.json", "optimiser.safetensors"] {
        for epoch in ["epoch_0", "epoch_1"] {
            fs::write(run.join(epoch).join(file), "").unwrap();
        }
        let before = support::contents(&run);
        let error = setup.run(&run, Start::Latest).unwrap_err();
        assert!(error.hint().unwrap().contains("`--overwrite`"), "{error}");
        assert_eq!(support::contents(&run), before);
        for epoch in ["epoch_0", "epoch_1"] {
            fs::remove_dir_all(run.join(epoch)).unwrap();
        }
        setup.run(&run, Start::Overwrite).unwrap();
    }
}

/// Runs until the observer has heard of `n` events, counting batches of evaluations; then the run is asked to stop, and
/// goes on as often as it takes. Returns how often it was interrupted.
fn stop_after_every(n: usize, setup: &Setup, output: &Path) -> usize {
    let stop: &'static AtomicBool = Box::leak(Box::new(AtomicBool::new(false)));
    let setup = Setup { stop, ..setup.clone() };
    let (mut start, mut n_stops) = (Start::New, 0);
    loop {
        let mut n_left = n;
        let mut observe = |event: Event<'_>| {
            if matches!(event, Event::Step { .. } | Event::Evaluated(_) | Event::Evaluating { .. })
            {
                n_left = n_left.saturating_sub(1);
                stop.store(n_left == 0, Ordering::Relaxed);
            }
        };
        let ended = setup.run_observed(output, start, &mut observe);
        stop.store(false, Ordering::Relaxed);
        start = Start::Latest;
        match ended {
            Ok(_) => return n_stops,
            Err(TrainError::Interrupted { step, checkpoint }) => {
                n_stops += 1;
                let Some(checkpoint) = checkpoint else {
                    assert_eq!(
                        step, 0,
                        "only before the first evaluation is there nothing to keep"
                    );
                    continue;
                };
                assert!(checkpoint.join("state.json").is_file(), "{}", checkpoint.display());
            }
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn a_run_that_is_asked_to_stop_keeps_its_steps_and_ends_with_the_same_bytes() {
    let every = [CheckpointEvery::Epoch, CheckpointEvery::Steps(4), CheckpointEvery::Steps(1)];
    for (checkpoint, keep_checkpoints) in every.into_iter().zip([None, Some(1), None]) {
        let setup = Setup { checkpoint, keep_checkpoints, ..Setup::short() };
        let dir = tempdir().unwrap();
        let undisturbed = dir.path().join("undisturbed");
        setup.run(&undisturbed, Start::New).unwrap();
        // An evaluation takes three events here, so that every n up to it would never come past the first one.
        for n in [4, 5, 7, 11, 19] {
            let output = dir.path().join(n.to_string());
            let n_stops = stop_after_every(n, &setup, &output);
            assert!(n_stops >= 1, "{n} events");
            assert_same_files(&output, &undisturbed);
        }
    }
}

#[test]
fn a_run_that_saves_itself_now_and_then_leaves_nothing_of_it_and_resumes_from_everywhere() {
    let (dir, copies) = (tempdir().unwrap(), tempdir().unwrap());
    let undisturbed = dir.path().join("undisturbed");
    let setup = Setup { checkpoint: CheckpointEvery::Epoch, ..Setup::short() };
    setup.run(&undisturbed, Start::New).unwrap();
    let saving = Setup { interim_every: Duration::ZERO, ..setup };
    let output = dir.path().join("run");
    let sites = run_with_crash_sites(&saving, &output, copies.path());
    assert_same_files(&output, &undisturbed);
    for (at, site) in sites.iter().enumerate() {
        let interim = |name: &String| name.starts_with("interim_") && name.ends_with("/state.json");
        let n_interim = support::contents(site).keys().filter(|name| interim(name)).count();
        // The first event is the evaluation before training, then come step 1, after which nothing is saved yet, …
        let is_between = (2..=6).contains(&at) || (9..=13).contains(&at);
        assert_eq!(n_interim, usize::from(is_between || at == 7 || at == 14), "event {at}");
        saving.run(site, Start::Latest).unwrap();
        assert_same_files(site, &undisturbed);
    }
}

#[test]
fn one_folder_has_one_run_at_a_time() {
    let dir = tempdir().unwrap();
    let (setup, run) = (Setup::short(), dir.path().join("run"));
    let mut refused = Vec::new();
    let mut observe = |event: Event<'_>| {
        if let Event::Step { .. } | Event::Started { .. } = event {
            for start in [Start::New, Start::Latest, Start::Overwrite] {
                refused.push(RunFolder::open(&run, &start).unwrap_err().to_string());
            }
        }
    };
    setup.run_observed(&run, Start::New, &mut observe).unwrap();
    assert_eq!(refused.len(), 13 * 3);
    let is_said = |error: &String| error.ends_with("run` is being written by another process");
    assert!(refused.iter().all(is_said), "{refused:?}");
    RunFolder::open(&run, &Start::Latest).unwrap();
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
