//! The binary is killed at several moments; resumed, it ends with the bytes of an undisturbed run.

#![allow(clippy::unwrap_used, reason = "a test helper's failure is the test's")]

mod support;

use std::process::Stdio;
use std::time::{Duration, Instant};
use support::Dir;

const TRAIN: &str = "train --model MODEL --train train.csv --eval eval.csv --epochs 2 --batch-size 4 \
                     --learning-rate 5e-3 --threads 2 --output";

/// Starts the command, and kills it as soon as the log of `run` tells of `step`.
fn kill_at(dir: &Dir, arguments: &str, run: &str, step: u64) {
    let mut child =
        dir.command(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let wanted = format!("\"step\":{step},");
    let begun = Instant::now();
    loop {
        let log = std::fs::read_to_string(dir.path(run).join("metrics.jsonl")).unwrap_or_default();
        if log.contains(&wanted) {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "no step {step} in a minute:\n{log}");
        assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    let status = child.wait().unwrap();
    assert!(!status.success(), "it was killed, not finished");
}

fn survives_kills(extra: &str, steps: &[u64]) {
    // Two epochs of 100 steps: long enough that a kill comes before the end.
    let dir = Dir::with_rows(398);
    dir.loriot(&format!("{TRAIN} undisturbed {extra}")).ok();
    let killed = format!("{TRAIN} killed {extra}");
    kill_at(&dir, &killed, "killed", steps[0]);
    for &step in &steps[1..] {
        kill_at(&dir, &format!("{killed} --resume"), "killed", step);
    }
    dir.loriot(&format!("{killed} --resume")).ok();
    let (got, want) = (dir.contents("killed"), dir.contents("undisturbed"));
    assert_eq!(got.keys().collect::<Vec<_>>(), want.keys().collect::<Vec<_>>());
    let differing: Vec<_> = got.keys().filter(|name| got[*name] != want[*name]).collect();
    assert!(differing.is_empty(), "other bytes in {differing:?}");
}

#[test]
fn killed_before_the_first_checkpoint_and_at_several_moments_after() {
    survives_kills("--checkpoint 10", &[3, 15, 37, 99, 101, 150]);
}

#[test]
fn killed_with_checkpoints_after_epochs() {
    survives_kills("", &[50, 101, 160]);
}

#[test]
fn killed_in_full_fine_tuning() {
    survives_kills("--full --checkpoint 25 --keep-checkpoints 2", &[30, 110]);
}
