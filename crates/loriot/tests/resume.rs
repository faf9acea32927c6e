//! The binary is killed or interrupted at several moments; resumed, it ends with the bytes of an undisturbed run. No
//! fault of stderr stops it.

#![allow(clippy::unwrap_used, reason = "a test helper's failure is the test's")]

mod support;

use std::fs::{File, OpenOptions};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use support::{Dir, Done};

const TRAIN: &str = "train --model MODEL --train train.csv --eval eval.csv --epochs 2 --batch-size 4 \
                     --learning-rate 5e-3 --threads 2 --output";

/// Starts the command, and returns as soon as the log of `run` holds `wanted`.
fn start_until(dir: &Dir, arguments: &str, run: &str, wanted: &str) -> Child {
    let mut command = dir.command(arguments);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for(&mut child, dir, run, wanted);
    child
}

/// Waits until the log of `run`, which `child` writes, holds `wanted`.
fn wait_for(child: &mut Child, dir: &Dir, run: &str, wanted: &str) {
    let begun = Instant::now();
    loop {
        let log = std::fs::read_to_string(dir.path(run).join("metrics.jsonl"));
        if log.as_ref().is_ok_and(|log| log.contains(wanted)) {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "no {wanted} in a minute: {log:?}");
        assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Starts the command, and kills it as soon as the log of `run` tells of `step`.
fn kill_at(dir: &Dir, arguments: &str, run: &str, step: u64) {
    let mut child = start_until(dir, arguments, run, &format!("\"step\":{step},"));
    child.kill().unwrap();
    let status = child.wait().unwrap();
    assert!(!status.success(), "it was killed, not finished");
}

/// `signal`, or SIGTERM where these tests were told to ignore it, as a shell's `&` and `nohup` do: a child inherits that.
fn heard(signal: &'static str) -> &'static str {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    let number = if signal == "-INT" { 2 } else { 1 };
    if signal != "-TERM" && mask & (1 << (number - 1)) != 0 { "-TERM" } else { signal }
}

/// The steps in the log of `run`.
fn n_logged(dir: &Dir, run: &str) -> usize {
    let log = std::fs::read_to_string(dir.path(run).join("metrics.jsonl")).unwrap_or_default();
    log.lines().filter(|line| line.contains("\"event\":\"step\"")).count()
}

/// Starts the command, sends it `signal` once the log of `run` holds `wanted`, and waits for its end.
fn interrupt_at(dir: &Dir, arguments: &str, run: &str, wanted: &str, signal: &'static str) -> Done {
    let child = start_until(dir, arguments, run, wanted);
    let sent =
        Command::new("kill").args([heard(signal), &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Done { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

#[track_caller]
fn assert_same_run(dir: &Dir, got: &str, want: &str) {
    let (got, want) = (dir.contents(got), dir.contents(want));
    assert_eq!(got.keys().collect::<Vec<_>>(), want.keys().collect::<Vec<_>>());
    let differing: Vec<_> = got.keys().filter(|name| got[*name] != want[*name]).collect();
    assert!(differing.is_empty(), "other bytes in {differing:?}");
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
    assert_same_run(&dir, "killed", "undisturbed");
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

#[cfg(unix)]
#[test]
fn interrupted_it_says_what_is_kept_and_how_to_go_on() {
    let dir = Dir::with_rows(398);
    dir.loriot(&format!("{TRAIN} undisturbed --checkpoint 50")).ok();
    let command = format!("{TRAIN} run --checkpoint 50");
    let mut first = true;
    for (n_more, signal) in [(3, "-INT"), (11, "-TERM"), (40, "-INT"), (20, "-HUP"), (1, "-INT")] {
        let resume = if first { "" } else { " --resume" };
        first = false;
        // A step that is not in the log yet, so that the run has begun when the signal comes.
        let wanted = format!("\"step\":{},", n_logged(&dir, "run") + n_more);
        let done = interrupt_at(&dir, &format!("{command}{resume}"), "run", &wanted, signal);
        done.refused(130, "interrupted; the run is kept in `run/", " --checkpoint 50 --resume`");
        assert!(done.stderr.contains("Interrupted: saving what is done"), "{}", done.stderr);
        // Nothing of what was logged before the signal is lost: the log is where the checkpoint is.
        let n_steps = n_logged(&dir, "run");
        assert!(done.stderr.contains(&format!("after step {n_steps}\n")), "{}", done.stderr);
    }
    dir.loriot(&format!("{command} --resume")).ok();
    assert_same_run(&dir, "run", "undisturbed");
}

#[cfg(unix)]
#[test]
fn interrupted_before_training_it_can_be_resumed_as_well() {
    let dir = Dir::with_rows(398);
    dir.loriot(&format!("{TRAIN} undisturbed --eval-batch-size 1")).ok();
    let command = format!("{TRAIN} run --eval-batch-size 1");
    // The log is there, and empty, before the first evaluation.
    let done = interrupt_at(&dir, &command, "run", "", "-INT");
    done.refused(130, "interrupted; ", " --eval-batch-size 1 --resume`");
    dir.loriot(&format!("{command} --resume")).ok();
    assert_same_run(&dir, "run", "undisturbed");
}

/// Of a shell that goes away, as after `nohup loriot train … &`.
#[cfg(target_os = "linux")]
#[test]
fn a_hang_up_that_is_ignored_stops_nothing() {
    let dir = Dir::with_rows(398);
    let command = dir.command(&format!("{TRAIN} run"));
    let mut child = Command::new("sh")
        .args(["-c", "trap '' HUP; exec \"$@\"", "sh"])
        .arg(command.get_program())
        .args(command.get_args())
        .current_dir(dir.path(""))
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    wait_for(&mut child, &dir, "run", "\"step\":3,");
    assert!(
        Command::new("kill").args(["-HUP", &child.id().to_string()]).status().unwrap().success()
    );
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_second_training_in_one_folder_is_refused_and_the_first_goes_on() {
    let dir = Dir::with_rows(398);
    dir.loriot(&format!("{TRAIN} undisturbed")).ok();
    let mut first = start_until(&dir, &format!("{TRAIN} run"), "run", "\"step\":1,");
    for start in ["", " --resume", " --overwrite"] {
        let second = dir.loriot(&format!("{TRAIN} run{start}"));
        if first.try_wait().unwrap().is_some() {
            break; // It was too quick: the second had the folder to itself.
        }
        second.refused(1, "`run` is being written by another process", "wait until it ends");
    }
    assert!(first.wait().unwrap().success());
}

/// The device that is always full.
fn full() -> Option<File> {
    OpenOptions::new().write(true).open("/dev/full").ok()
}

#[cfg(unix)]
#[test]
fn a_full_or_closed_stderr_stops_nothing() {
    let dir = Dir::with_rows(40);
    dir.loriot(&format!("{TRAIN} undisturbed")).ok();
    if let Some(full) = full() {
        let mut command = dir.command(&format!("{TRAIN} full"));
        assert!(command.stdout(Stdio::null()).stderr(full).status().unwrap().success());
        assert_same_run(&dir, "full", "undisturbed");
    }
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let status =
        dir.command(&format!("{TRAIN} closed")).stdout(Stdio::null()).stderr(writer).status();
    assert!(status.unwrap().success());
    assert_same_run(&dir, "closed", "undisturbed");
    // An error keeps its status.
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let status = dir.command(&format!("{TRAIN} closed")).stderr(writer).status().unwrap();
    assert_eq!(status.code(), Some(1), "the folder holds a run already");
}

#[test]
fn a_full_stdout_is_an_error_after_the_model_is_saved() {
    let Some(full) = full() else { return };
    let dir = Dir::with_rows(40);
    dir.loriot(&format!("{TRAIN} undisturbed")).ok();
    let output = dir.command(&format!("{TRAIN} run")).stdout(full).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("error: cannot write to stdout"), "{stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
    assert_same_run(&dir, "run", "undisturbed");
}

#[test]
fn tables_fit_a_terminal_of_80_columns_and_say_whose_threshold_it_is() {
    let dir = Dir::with_rows(40);
    let trained = dir.loriot(&format!("{TRAIN} run")).ok().stdout;
    let beside_base = "eval --model MODEL --adapter run --data eval.csv --bootstrap 20";
    let evaluated = dir.loriot(beside_base).ok().stdout;
    for line in trained.lines().chain(evaluated.lines()) {
        assert!(line.chars().count() <= 80, "{line}");
    }
    assert!(evaluated.contains("\nbest_f1: positive from "), "{evaluated}");
    assert!(evaluated.contains("on (base), ") && evaluated.contains("on (adapter)"), "{evaluated}");
}

#[test]
fn numbers_that_make_no_sense_are_refused() {
    let dir = Dir::with_rows(40);
    for (more, error) in [
        ("--eval-batch-size 0", "--eval-batch-size"),
        ("--positive-threshold nan", "expected a finite number"),
        ("--batch-size 4294967296 --gradient-accumulation-steps 4294967296", "at most 1048576"),
    ] {
        let done = dir.loriot(&format!(
            "train --model MODEL --train train.csv --eval eval.csv --output run {more}"
        ));
        assert_eq!(done.code, Some(2), "{}", done.stderr);
        assert!(done.stderr.contains(error), "{}", done.stderr);
    }
    for more in ["--bootstrap 18446744073709551615", "--positive-threshold inf"] {
        let done = dir.loriot(&format!("eval --model MODEL --data eval.csv {more}"));
        assert_eq!(done.code, Some(2), "{}", done.stderr);
    }
    let done = dir.loriot("eval --model MODEL --data eval.csv --bootstrap 0 --max-length 99999");
    let note = "note: texts are cut at 64 tokens, the positions the model has, not at 99999";
    assert!(done.ok().stderr.contains(note));
}
