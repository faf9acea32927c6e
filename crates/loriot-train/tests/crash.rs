//! Crashes of a run played through after every call that matters to the disk: what is left is resumed to the same bytes.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test helper's failure is the test's")]

mod support;

#[path = "../../../tests/rust/crash.rs"]
mod crash;

use loriot_files::disk::Call;
use loriot_train::{CheckpointEvery, Event, Start, TrainError};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;
use support::{Setup, assert_same_files, contents};

/// Two steps an epoch.
fn tiny() -> Setup {
    let mut setup = Setup::short();
    setup.train.truncate(16);
    setup.eval.truncate(20);
    Setup { checkpoint: CheckpointEvery::Epoch, ..setup }
}

/// Resumes `setup` in `run`, and returns after which step it went on; `None` if it was finished.
fn resume(setup: &Setup, run: &Path, start: Start) -> Result<Option<u64>, TrainError> {
    let mut step = None;
    let mut observe = |event: Event<'_>| {
        if let Event::Started { step: begun_at, .. } = event {
            step = Some(begun_at);
        }
    };
    setup.run_observed(run, start, &mut observe)?;
    Ok(step)
}

/// Runs `work` in the folder `run` beside what `prepare` has put there, and gives `resumed` each folder that a crash may
/// leave of it, once, with the last step that a checkpoint was on the disk for.
fn survives(
    setup: &Setup,
    prepare: impl FnOnce(&Path),
    work: impl FnOnce(&Path),
    mut resumed: impl FnMut(&Path, u64) + 'static,
) {
    let root = tempfile::tempdir().unwrap();
    prepare(root.path());
    let committed = Rc::new(Cell::new(0));
    let seen: RefCell<Vec<BTreeMap<String, Vec<u8>>>> = RefCell::default();
    let last_step = Rc::clone(&committed);
    let check = move |copy: &Path, call: &Call| {
        if let Call::SyncFolder(folder) = call
            && folder.ends_with("run")
        {
            let steps = fs::read_dir(folder).unwrap().filter_map(|entry| {
                let state = fs::read(entry.unwrap().path().join("state.json")).ok()?;
                serde_json::from_slice::<serde_json::Value>(&state).unwrap()["step"].as_u64()
            });
            last_step.set(last_step.get().max(steps.max().unwrap_or(0)));
        }
        // What is in an unfinished write makes no difference.
        let mut found = raw_contents(copy);
        found.retain(|name, _| !name.contains("/.tmp-"));
        if seen.borrow().contains(&found) {
            return;
        }
        seen.borrow_mut().push(found);
        resumed(&copy.join("run"), last_step.get());
    };
    let path = root.path().to_owned();
    let ((), n_calls) = crash::after_each_call(root.path(), || work(&path.join("run")), check);
    assert!(n_calls > 50, "{n_calls} calls");
    assert_eq!(committed.get(), setup.settings.epochs * 2);
}

/// Every file below `dir`, the log as it is.
fn raw_contents(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(dir).unwrap().display().to_string();
            match path.is_dir() {
                true => folders.push(path),
                false => drop(found.insert(name, fs::read(&path).unwrap())),
            }
        }
    }
    found
}

#[test]
fn a_run_is_resumed_to_the_same_bytes_and_at_its_last_checkpoint_wherever_it_was_killed() {
    let dir = tempfile::tempdir().unwrap();
    let undisturbed = dir.path().join("run");
    for interim_every in [Duration::MAX, Duration::ZERO] {
        let setup = Setup { interim_every, ..tiny() };
        if !undisturbed.exists() {
            setup.run(&undisturbed, Start::New).unwrap();
        }
        let (again, want) = (setup.clone(), undisturbed.clone());
        survives(
            &setup,
            |_| {},
            |run| drop(setup.run(run, Start::New).unwrap()),
            move |run, committed| {
                let went_on_at = resume(&again, run, Start::Latest).unwrap();
                let is_there = went_on_at.is_none_or(|step| step >= committed);
                assert!(is_there, "it went on at {went_on_at:?}, after {committed} were saved");
                assert_same_files(run, &want);
            },
        );
    }
}

#[test]
fn a_run_that_was_killed_while_it_replaced_another_is_a_run_still() {
    let dir = tempfile::tempdir().unwrap();
    let undisturbed = dir.path().join("run");
    let mut old = tiny();
    old.settings.seed = 7;
    tiny().run(&undisturbed, Start::New).unwrap();
    let before = {
        let run = dir.path().join("old");
        old.run(&run, Start::New).unwrap();
        contents(&run)
    };
    survives(
        &tiny(),
        |root| {
            old.run(&root.join("run"), Start::New).unwrap();
            fs::write(root.join("run/notes.txt"), "mine").unwrap();
        },
        |run| drop(tiny().run(run, Start::Overwrite).unwrap()),
        move |run, _| {
            let notes = run.join("notes.txt");
            assert_eq!(fs::read(&notes).unwrap(), b"mine");
            fs::remove_file(notes).unwrap();
            // Until the old run is gone it may be in the way of the new one, which is said.
            if let Err(error) = resume(&tiny(), run, Start::Latest) {
                assert!(error.to_string().contains("`seed` was `7` there"), "{error}");
                assert!(contents(run).keys().any(|name| before.contains_key(name)));
                tiny().run(run, Start::Overwrite).unwrap();
            }
            assert_same_files(run, &undisturbed);
        },
    );
}
