//! A run that stops at any moment and goes on ends with the bytes of one that never stopped.

#![allow(clippy::unwrap_used, reason = "a test helper's failure is the test's")]

mod support;

use loriot_encoder::adapter::{Bias, Init, LoraConfig};
use loriot_files::Hint;
use loriot_train::loss::LossName;
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
    let report = setup.run_observed(output, Start::New, &mut observe).unwrap();
    assert_eq!(sites.len(), report.steps as usize + report.evaluations.len());
    assert!(report.steps >= 12);
    sites
}

fn resumes_from_everywhere(setup: &Setup) {
    let (dir, copies) = (tempdir().unwrap(), tempdir().unwrap());
    let output = dir.path().join("run");
    let sites = run_with_crash_sites(setup, &output, copies.path());
    for site in sites {
        // What a crash within a write leaves behind, and half a line in the log.
        fs::create_dir(site.join(".tmp-step_2-aB3dEf")).unwrap();
        fs::write(site.join(".tmp-step_2-aB3dEf/state.json"), "{").unwrap();
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

/// What the loss is fitted to is the model before training, also where the run goes on from a checkpoint.
#[test]
fn so_it_has_on_whole_lists_with_a_loss_that_is_fitted() {
    let mut setup = Setup::short();
    for rows in setup.train.chunks_mut(3) {
        let query = rows[0].query.clone();
        rows.iter_mut().for_each(|row| row.query.clone_from(&query));
    }
    setup.settings.loss = LossName::GradedLists;
    setup.settings.by_query = true;
    setup.settings.batch_size = 8;
    resumes_from_everywhere(&setup);
}

#[test]
fn a_finished_run_that_is_resumed_stays_as_it_is() {
    let dir = tempdir().unwrap();
    let run = dir.path().join("run");
    let setup = Setup::short();
    setup.run(&run, Start::New).unwrap();
    // Nobody but the user touches a finished run: files, and when they were written.
    let look = || {
        let written = |name: &String| fs::metadata(run.join(name)).unwrap().modified().unwrap();
        let contents = support::contents(&run);
        (contents.keys().map(written).collect::<Vec<_>>(), contents)
    };
    let stays = |start: &Start| {
        let before = look();
        let report = setup.run(&run, start.clone()).unwrap();
        assert_eq!((report.steps, report.evaluations.len()), (12, 3));
        let mut changed = setup.clone();
        changed.settings.learning_rate = 0.1;
        let error = changed.run(&run, start.clone()).unwrap_err();
        let want = "`learning_rate` was `0.005` there and is `0.1` now";
        assert!(error.to_string().ends_with(want), "{error}");
        assert!(look() == before);
    };
    stays(&Start::Latest);
    stays(&Start::At(run.join("step_4")));
    // Somebody saves space.
    for step in (2..=12).step_by(2) {
        fs::remove_dir_all(run.join(format!("step_{step}"))).unwrap();
    }
    stays(&Start::Latest);
    // What is left of its model is not trained anew unasked.
    fs::remove_file(run.join("adapter_model.safetensors")).unwrap();
    let before = look();
    let error = setup.run(&run, Start::Latest).unwrap_err();
    assert!(error.to_string().contains("holds a trained model and no checkpoint"), "{error}");
    assert!(error.hint().unwrap().contains("`--overwrite` replaces it"));
    assert!(look() == before);
}

#[test]
fn a_run_without_a_checkpoint_is_resumed_as_the_run_that_it_is() {
    let (dir, copies) = (tempdir().unwrap(), tempdir().unwrap());
    let setup = Setup { checkpoint: CheckpointEvery::Epoch, ..Setup::short() };
    let undisturbed = dir.path().join("run");
    let sites = run_with_crash_sites(&setup, &undisturbed, copies.path());
    let mut changed = setup.clone();
    changed.settings.seed = 7;
    let before = support::contents(&sites[3]);
    let error = changed.run(&sites[3], Start::Latest).unwrap_err();
    assert!(error.to_string().contains("`seed` was `42` there and is `7` now"), "{error}");
    assert!(support::contents(&sites[3]) == before);
    // Killed after the best model of the first epoch, before the checkpoint of that epoch.
    copy_folder(&undisturbed.join("best"), &sites[3].join("best"));
    setup.run(&sites[3], Start::Latest).unwrap();
    assert_same_files(&sites[3], &undisturbed);
    changed.run(&sites[4], Start::Overwrite).unwrap();
}

#[test]
fn an_early_checkpoint_can_be_gone_back_to() {
    let dir = tempdir().unwrap();
    let run = dir.path().join("run");
    let setup = Setup::short();
    setup.run(&run, Start::New).unwrap();
    let before = support::contents(&run);
    support::reopen(&run);
    let mut names = Vec::new();
    let mut observe = |event: Event<'_>| {
        if let Event::Started { step, .. } = event {
            assert_eq!(step, 4);
            names = (1..=12).filter(|step| run.join(format!("step_{step}")).exists()).collect();
        }
    };
    setup.run_observed(&run, Start::At(run.join("step_4")), &mut observe).unwrap();
    assert_eq!(names, [2, 4], "the log would not reach to later ones");
    assert_eq!(support::contents(&run), before);
}

/// The files of a run, but for some.
fn contents_without(
    dir: &Path,
    left_out: impl Fn(&str) -> bool,
) -> std::collections::BTreeMap<String, Vec<u8>> {
    let mut found = support::contents(dir);
    found.retain(|name, _| !left_out(name));
    found
}

#[test]
fn a_checkpoint_is_gone_on_from_in_a_new_folder_as_if_the_run_had_come_to_it_there() {
    let dir = tempdir().unwrap();
    let run = dir.path().join("run");
    for checkpoint in [CheckpointEvery::Steps(2), CheckpointEvery::Epoch] {
        let mut setup = Setup { checkpoint, ..Setup::short() };
        for (name, earlier) in [
            ("step_4", &["step_2"][..]),
            ("step_10", &["step_2", "step_4", "step_6", "step_8"]),
            ("epoch_0", &[]),
            ("epoch_1", &["epoch_0"]),
        ] {
            let new = dir.path().join(name);
            if name.starts_with("epoch") != (checkpoint == CheckpointEvery::Epoch) {
                continue;
            }
            // The best epoch may be the first or the last: no later one is better by the one or the other.
            for learning_rate in [5e-3, 1.0] {
                setup.settings.learning_rate = learning_rate;
                setup.run(&run, Start::New).unwrap();
                setup.run(&new, Start::At(run.join(name))).unwrap();
                let is_earlier = |file: &str| earlier.contains(&file.split('/').next().unwrap());
                assert!(support::contents(&new) == contents_without(&run, is_earlier), "{name}");
                fs::remove_dir_all(&new).unwrap();
                fs::remove_dir_all(&run).unwrap();
            }
        }
    }
}

#[test]
fn a_checkpoint_that_stands_alone_is_gone_on_from_and_what_is_missing_is_said() {
    let dir = tempdir().unwrap();
    let [run, alone, new] = ["run", "alone", "new"].map(|name| dir.path().join(name));
    let setup = Setup::short();
    setup.run(&run, Start::New).unwrap();
    copy_folder(&run.join("step_8"), &alone.join("copy"));
    let mut warnings = Vec::new();
    let mut observe = |event: Event<'_>| {
        if let Event::Warning(text) = event {
            warnings.push(text.to_owned());
        }
    };
    setup.run_observed(&new, Start::At(alone.join("copy")), &mut observe).unwrap();
    let said = |want: &str| warnings.iter().any(|text| text.contains(want));
    assert!(said("the log of the run is not beside `"), "{warnings:?}");
    assert!(said("the model after epoch 0, the best so far, is not beside `"), "{warnings:?}");
    let adapter = |dir: &Path| fs::read(dir.join("adapter_model.safetensors")).unwrap();
    assert_eq!(adapter(&new), adapter(&run));
    assert!(new.join("step_8/state.json").is_file());
}

#[test]
fn two_runs_are_not_mixed_in_one_folder() {
    let dir = tempdir().unwrap();
    let [a, b] = ["a", "b"].map(|name| dir.path().join(name));
    let setup = Setup::short();
    setup.run(&a, Start::New).unwrap();
    let mut other = setup.clone();
    other.settings.seed = 2;
    other.run(&b, Start::New).unwrap();
    let before = support::contents(&a);
    for (setup, checkpoint) in [(&other, &b), (&setup, &b)] {
        let start = Start::At(checkpoint.join("step_4"));
        let error = setup.run(&a, start).unwrap_err();
        assert!(error.to_string().contains("is no checkpoint of the run in `"), "{error}");
        assert!(support::contents(&a) == before);
    }
}

/// As before there was a record.
fn without_record(run: &Path, old: &Path) {
    copy_folder(run, old);
    fs::remove_file(old.join("loriot_run.json")).unwrap();
}

#[test]
fn a_run_from_before_there_was_a_record_is_resumed_and_overwritten() {
    let (dir, copies) = (tempdir().unwrap(), tempdir().unwrap());
    for setup in [Setup::short(), Setup { adapter: None, ..Setup::short() }] {
        let dir = tempfile::tempdir_in(dir.path()).unwrap();
        let copies = tempfile::tempdir_in(copies.path()).unwrap();
        let [run, old] = ["run", "old"].map(|name| dir.path().join(name));
        let sites = run_with_crash_sites(&setup, &run, copies.path());
        for site in [&sites[1], &sites[8], &run] {
            for start in [Start::Latest, Start::Overwrite] {
                without_record(site, &old);
                let error = setup.run(&old, Start::New).unwrap_err().to_string();
                assert!(error.ends_with("holds a training run already"), "{error}");
                fs::write(old.join("notes.txt"), "mine").unwrap();
                setup.run(&old, start).unwrap();
                fs::remove_file(old.join("notes.txt")).unwrap();
                assert_same_files(&old, &run);
                fs::remove_dir_all(&old).unwrap();
            }
        }
        // Its model is the only thing that is left.
        without_record(&run, &old);
        for step in (2..=12).step_by(2) {
            fs::remove_dir_all(old.join(format!("step_{step}"))).unwrap();
        }
        let before = support::contents(&old);
        let error = setup.run(&old, Start::Latest).unwrap_err();
        assert!(error.to_string().contains("holds a trained model and no checkpoint"), "{error}");
        assert!(support::contents(&old) == before);
    }
}

#[test]
fn what_somebody_put_into_a_run_is_kept_and_that_is_said() {
    let dir = tempdir().unwrap();
    let [run, undisturbed] = ["run", "undisturbed"].map(|name| dir.path().join(name));
    let mut setup = Setup { checkpoint: CheckpointEvery::Epoch, ..Setup::short() };
    setup.keep_checkpoints = Some(1);
    setup.run(&undisturbed, Start::New).unwrap();
    let mut warnings = Vec::new();
    let mut observe = |event: Event<'_>| match event {
        Event::Step { record, .. } if record.step == 7 => {
            fs::write(run.join("README.md"), "mine").unwrap();
            fs::write(run.join("epoch_0/notes.txt"), "mine").unwrap();
            fs::write(run.join("best/.DS_Store"), "nobody's").unwrap();
        }
        Event::Warning(text) => warnings.push(text.to_owned()),
        _ => {}
    };
    setup.run_observed(&run, Start::New, &mut observe).unwrap();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    for kept in ["epoch_0.kept/notes.txt", "README.md.kept"] {
        assert_eq!(fs::read(run.join(kept)).unwrap(), b"mine");
    }
    let is_kept = |name: &str| name.contains(".kept") || name.ends_with(".DS_Store");
    assert!(contents_without(&run, is_kept) == support::contents(&undisturbed));
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
    support::reopen(&run);
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
            support::reopen(&copy);
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
        support::reopen(&run);
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
