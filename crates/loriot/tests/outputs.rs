//! What a command leaves when it is interrupted, run twice at once, or told to replace what it did not write.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use loriot_files::OutputLock;
use serde_json::Value;
use std::fs;
use std::io::Write;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};
use support::{Dir, Done};

/// More than a run embeds before it counts rows for the first time.
const N_MANY: usize = 40_000;

/// A folder with `many.csv`, of [`N_MANY`] different titles.
fn many() -> Dir {
    let dir = Dir::with_rows(8);
    let title = |i: usize| format!("{} kettle {i}\n", ["red", "blue", "steel"][i % 3]);
    dir.write("many.csv", format!("product_title\n{}", (0..N_MANY).map(title).collect::<String>()));
    dir
}

fn start(dir: &Dir, arguments: &str) -> Child {
    let mut command = dir.command(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn end(child: Child) -> Done {
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Done { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// Waits until the record in the folder `partial` says what `is_reached` looks for.
fn wait_for_record(dir: &Dir, partial: &str, is_reached: impl Fn(u64) -> bool) {
    let begun = Instant::now();
    loop {
        let record = fs::read(dir.path(partial).join("progress.json")).unwrap_or_default();
        let record: Value = serde_json::from_slice(&record).unwrap_or_default();
        if record["n_done"].as_u64().is_some_and(&is_reached) {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(300), "no record in `{partial}`: {record}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[cfg(unix)]
fn signal(child: &Child, name: &str) {
    let sent = std::process::Command::new("kill").arg(name).arg(child.id().to_string()).status();
    assert!(sent.unwrap().success());
}

#[cfg(unix)]
#[test]
fn an_embedding_that_is_killed_or_interrupted_goes_on_and_ends_with_the_same_bytes() {
    let dir = many();
    let embed = "embed --model MODEL --input many.csv --output";
    dir.loriot(&format!("{embed} whole.npy")).ok();
    let read = |name: &str| fs::read(dir.path(name)).unwrap();

    let killed = start(&dir, &format!("{embed} killed.npy"));
    wait_for_record(&dir, "killed.npy.partial", |n_done| n_done > 0);
    signal(&killed, "-KILL");
    assert_eq!(end(killed).code, None);
    let record = fs::read(dir.path("killed.npy.partial/progress.json")).unwrap();
    let n_done = serde_json::from_slice::<Value>(&record).unwrap()["n_done"].clone();
    let resumed = dir.loriot(&format!("{embed} killed.npy")).ok();
    assert!(resumed.stderr.contains(&format!("Resuming: {n_done} texts")), "{}", resumed.stderr);
    assert!(read("killed.npy") == read("whole.npy"));

    let interrupted = start(&dir, &format!("{embed} interrupted.npy"));
    wait_for_record(&dir, "interrupted.npy.partial", |_| true);
    signal(&interrupted, "-INT");
    let done = end(interrupted);
    done.refused(130, "interrupted; `interrupted.npy.partial` keeps ", "the same command again");
    let kept =
        done.stderr.split_once(" keeps ").unwrap().1.split_once(" of 40000 texts").unwrap().0;
    assert!((1..N_MANY).contains(&kept.parse().unwrap()), "{kept}");
    assert!(!dir.path("interrupted.npy").exists());
    let resumed = dir.loriot(&format!("{embed} interrupted.npy")).ok();
    assert!(resumed.stderr.contains(&format!("Resuming: {kept} texts")), "{}", resumed.stderr);
    assert!(read("interrupted.npy") == read("whole.npy"));
    let names = ["eval.csv", "interrupted.npy", "killed.npy", "many.csv", "train.csv", "whole.npy"];
    assert_eq!(dir.names(), names);
}

#[cfg(unix)]
#[test]
fn an_index_that_is_interrupted_while_the_graph_is_built_keeps_the_vectors() {
    let dir = many();
    let index = "index --model MODEL --input many.csv --output shop --kind hnsw";
    let child = start(&dir, index);
    wait_for_record(&dir, "shop.partial", |n_done| n_done == N_MANY as u64);
    signal(&child, "-INT");
    let done = end(child);
    done.refused(
        130,
        "interrupted; `shop.partial` keeps all 40000 texts",
        "only the graph is left",
    );
    assert_eq!(dir.names(), ["eval.csv", "many.csv", "shop.partial", "train.csv"]);
    let exact = dir.loriot(&index.replace("hnsw", "exact")).ok();
    assert!(exact.stderr.contains("Resuming: 40000 texts"), "{}", exact.stderr);
}

#[test]
fn a_second_process_at_one_output_is_told_so_at_once() {
    let dir = Dir::with_rows(8);
    let used = "is being written by another process";
    for (arguments, output) in [
        ("embed --model MODEL --input train.csv --output v.npy", "v.npy"),
        ("embed --model MODEL --input train.csv --output v.npy --overwrite", "v.npy"),
        ("index --model MODEL --input train.csv --output shop", "shop"),
        ("merge --model MODEL --adapter nowhere --output merged", "merged"),
    ] {
        let held = OutputLock::take(&dir.path(output)).unwrap();
        dir.loriot(arguments).refused(1, &format!("`{output}` {used}"), "wait until it ends");
        drop(held);
        assert_eq!(dir.names(), ["eval.csv", "train.csv"], "{arguments}");
    }
}

#[test]
fn what_loriot_did_not_write_is_not_overwritten() {
    let dir = Dir::with_rows(8);
    fs::create_dir(dir.path("life")).unwrap();
    dir.write("life/thesis.tex", "years of work");
    dir.write("v.npy", "not vectors");
    let before = dir.contents(".");
    let kept = |arguments: &str, reason: &str| {
        let done = dir.loriot(&format!("{arguments} --overwrite"));
        done.refused(1, &format!("is not replaced: {reason}"), "move it away");
        assert!(dir.contents(".") == before, "{arguments}");
    };
    let index = "index --model MODEL --input train.csv --output";
    kept(&format!("{index} life"), "`thesis.tex` in it is no part of a catalogue");
    kept(&format!("{index} ."), "it holds the input `train.csv`");
    kept(&format!("{index} train.csv"), "it is the input `train.csv`");
    let embed = "embed --model MODEL --input train.csv --output";
    kept(&format!("{embed} v.npy"), "it holds no f32 vectors in NumPy's format");
    fs::create_dir(dir.path("v.safetensors")).unwrap();
    let is_folder = dir.loriot(&format!("{embed} v.safetensors --overwrite"));
    is_folder.refused(1, "is not replaced: it is a folder, not a file", "move it away");
    fs::remove_dir(dir.path("v.safetensors")).unwrap();
    let merge = "merge --model MODEL --adapter life --output";
    kept(&format!("{merge} life"), "it is the input `life`");
}

#[test]
fn training_replaces_a_run_and_never_an_input_or_another_trainers_folder() {
    let dir = Dir::with_rows(40);
    let train = "train --train train.csv --eval eval.csv --epochs 1 --output";
    dir.loriot(&format!("{train} run --model MODEL")).ok();
    dir.loriot(&format!("{train} full --model MODEL --full")).ok();
    fs::create_dir(dir.path("other")).unwrap();
    dir.write("other/metrics.jsonl", "{\"loss\":1}\n");
    dir.write("other/model.safetensors", "weeks of work");
    let before = dir.contents(".");
    for (arguments, reason) in [
        ("full --model full --overwrite", "it is a part of the input `full`"),
        ("run --model MODEL --adapter run/best --overwrite", "it is the input `run/best`"),
        ("run --model MODEL --adapter run --overwrite", "it is a part of the input `run`"),
    ] {
        let done = dir.loriot(&format!("{train} {arguments}"));
        done.refused(1, &format!("is not replaced: {reason}"), "move it away");
        assert!(dir.contents(".") == before, "{arguments}");
    }
    for start in ["", "--resume", "--overwrite"] {
        let done = dir.loriot(&format!("{train} other --model MODEL {start}"));
        done.refused(1, "`other` is not empty and holds no training run", "choose a new folder");
        assert!(dir.contents(".") == before, "{start}");
    }
    // The user's files in a run stay, rows to train on among them.
    fs::copy(dir.path("train.csv"), dir.path("run/rows.csv")).unwrap();
    let rows = train.replace("train.csv", "run/rows.csv");
    dir.loriot(&format!("{rows} run --model MODEL --overwrite")).ok();
    assert!(dir.path("run/rows.csv").exists());
}

#[test]
fn a_finished_run_is_resumed_by_saying_so() {
    let dir = Dir::with_rows(40);
    let train = "train --train train.csv --eval eval.csv --model MODEL --epochs 1 --output run";
    dir.write("train.toml", "overwrite = true\n");
    dir.loriot(&format!("{train} --config train.toml")).ok();
    fs::remove_dir_all(dir.path("run/epoch_0")).unwrap();
    let before = dir.contents(".");
    let done = dir.loriot(&format!("{train} --config train.toml --resume")).ok();
    assert!(
        done.stderr.contains("note: the run in `run` is finished and stays"),
        "{}",
        done.stderr
    );
    assert!(done.stdout.contains("epoch 0 (best)"), "{}", done.stdout);
    let done = dir.loriot(&format!("{train} --resume --learning-rate 0.1"));
    done.refused(1, "`learning_rate` was `0.0005` there and is `0.1` now", "begin anew with");
    assert!(dir.contents(".") == before);
}

#[test]
fn somebodys_folder_of_the_name_of_work_in_progress_stays() {
    let dir = Dir::with_rows(8);
    fs::create_dir(dir.path("v.npy.partial")).unwrap();
    dir.write("v.npy.partial/thesis.tex", "years of work");
    let done = dir.loriot("embed --model MODEL --input train.csv --output v.npy");
    done.refused(1, "`v.npy.partial` holds `thesis.tex`", "choose another `--output`");
    assert!(dir.path("v.npy.partial/thesis.tex").exists() && !dir.path("v.npy").exists());
}

#[test]
fn a_merged_model_is_replaced_and_nothing_else_is() {
    let dir = Dir::with_rows(40);
    dir.loriot("train --model MODEL --train train.csv --eval eval.csv --output run --epochs 1")
        .ok();
    let merge = "merge --model MODEL --adapter run/best --output";
    dir.loriot(&format!("{merge} merged")).ok();
    let first = dir.contents("merged");
    dir.loriot(&format!("{merge} merged")).refused(1, "`merged` exists already", "--overwrite");
    dir.loriot(&format!("{merge} merged --overwrite")).ok();
    assert!(dir.contents("merged") == first);
    let run = dir.contents("run");
    for (output, reason) in [
        ("run", "it holds the input `run/best`"),
        ("run/best", "it is the input `run/best`"),
        ("run/epoch_0", "it has no `loriot_merge.json`"),
    ] {
        let done = dir.loriot(&format!("{merge} {output} --overwrite"));
        done.refused(1, &format!("is not replaced: {reason}"), "move it away");
    }
    assert!(dir.contents("run") == run);
    dir.write("merged/notes.txt", "mine");
    let done = dir.loriot(&format!("{merge} merged --overwrite"));
    done.refused(1, "`notes.txt` in it is not from `loriot merge`", "move it away");
}

#[test]
fn a_catalogue_replaces_a_catalogue_and_leaves_nothing_beside_it() {
    let dir = Dir::with_rows(8);
    let index = "index --model MODEL --input train.csv --output shop";
    dir.loriot(index).ok();
    let first = dir.contents("shop");
    // As a run leaves them that was killed by the system.
    fs::create_dir(dir.path(".tmp-shop-abcdef")).unwrap();
    dir.write(".tmp-shop-abcdef/vectors", "half");
    dir.loriot(&format!("{index} --overwrite")).ok();
    assert!(dir.contents("shop") == first);
    assert_eq!(dir.names(), ["eval.csv", "shop", "train.csv"]);
    // Killed when all but its clearing up was done.
    fs::create_dir(dir.path("shop.partial")).unwrap();
    let done = dir.loriot(index);
    done.refused(1, "`shop` exists already", "--overwrite");
    assert!(done.stderr.contains("note: `shop.partial` is work of a run that was interrupted"));
}

#[test]
fn a_graph_that_misses_much_is_warned_of() {
    let dir = many();
    let index = "index --model MODEL --input many.csv --output shop --kind hnsw --connectivity 2";
    let done = dir.loriot(&format!("{index} --ef-construction 1")).ok();
    assert!(done.stderr.contains("warning: a search finds only "), "{}", done.stderr);
}

/// The exit status and stderr of a command that reads `n_titles` titles of a megabyte from a pipe, and the most memory
/// that it held, in bytes.
#[cfg(target_os = "linux")]
fn fed_with_long_titles(dir: &Dir, arguments: &str, n_titles: usize) -> (Done, u64) {
    let mut command = dir.command(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let status = format!("/proc/{}/status", child.id());
    let peak_bytes = || -> Option<u64> {
        let text = fs::read_to_string(&status).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
    };
    let mut stdin = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        let watched = scope.spawn(|| {
            let mut peak = 0;
            while let Some(now) = peak_bytes() {
                peak = now;
                std::thread::sleep(Duration::from_millis(2));
            }
            peak
        });
        let text = "red kettle with a lid ".repeat(45_000);
        stdin.write_all(b"id,product_title,brand\n").unwrap();
        for i in 0..n_titles {
            writeln!(stdin, "{i},{i} {text},Acme").unwrap();
        }
        drop(stdin);
        (end(child), watched.join().unwrap())
    })
}

#[cfg(target_os = "linux")]
#[test]
fn memory_does_not_grow_with_the_texts() {
    const N: usize = 500;
    let dir = Dir::with_rows(8);
    for arguments in [
        "embed --model MODEL --input - --output v.parquet",
        "index --model MODEL --input - --text-template {product_title},{brand} --output shop",
    ] {
        let (done, peak) = fed_with_long_titles(&dir, arguments, N);
        done.ok();
        assert!(peak < 250_000_000, "{arguments}: {peak} bytes at the peak, of {N} MB of texts");
    }
    // All of a title is stored, however little of it the encoder reads.
    let found = dir.loriot("search shop kettle -k 1 --json").ok().json();
    assert!(found["results"][0]["product_title"].as_str().unwrap().len() > 980_000);
}
