//! Round trips with the real PEFT and sentence-transformers, in the environment that `cargo xtask
//! prepare` makes: what Loriot writes loads there, what they write loads here, with the same vectors.

#![allow(clippy::unwrap_used, reason = "a test helper's failure is the test's")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Runs a command that must succeed.
#[track_caller]
fn succeed(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{:?}\n{}{}",
        command.get_args(),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

#[track_caller]
fn loriot(arguments: &[&str]) -> Output {
    succeed(Command::new(env!("CARGO_BIN_EXE_loriot")).args(arguments))
}

/// Runs a subcommand of `tests/python/roundtrip.py`.
#[track_caller]
fn python(arguments: &[&str]) {
    let make_env = repository().join("tests/python/make_env.py");
    let printed = succeed(Command::new("python3").arg(make_env));
    let printed = String::from_utf8(printed.stdout).unwrap();
    let interpreter = printed.lines().last().unwrap();
    let script = repository().join("tests/python/roundtrip.py");
    succeed(Command::new(interpreter).arg(script).args(arguments).env("HF_HUB_OFFLINE", "1"));
}

fn cache() -> PathBuf {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    variable("LORIOT_CACHE")
        .or_else(|| variable("XDG_CACHE_HOME").map(|cache| cache.join("loriot")))
        .or_else(|| variable("HOME").map(|home| home.join(".cache/loriot")))
        .unwrap()
}

fn minilm() -> PathBuf {
    let folder = cache().join("models/all-MiniLM-L6-v2");
    assert!(folder.is_dir(), "no `{}`: run `cargo xtask prepare`", folder.display());
    folder
}

fn tiny() -> PathBuf {
    repository().join("tests/golden/tiny_bert")
}

/// Fifty titles of the example rows, as a file of their own.
fn titles(dir: &Path) -> PathBuf {
    let rows = std::fs::read_to_string(repository().join("tests/golden/train_rows.csv")).unwrap();
    let path = dir.join("titles.csv");
    let rows: Vec<&str> = rows.lines().take(51).collect();
    std::fs::write(&path, rows.join("\n") + "\n").unwrap();
    path
}

fn train(model: &Path, output: &Path, more: &[&str]) {
    let rows = repository().join("tests/golden/train_rows.csv");
    let arguments = [
        "train", "--model", text(model), "--train", text(&rows), "--eval", text(&rows), "--output",
        text(output), "--epochs", "1", "--max-steps", "4", "--batch-size", "8",
    ];
    loriot(&[&arguments[..], more].concat());
}

fn embed(model: &Path, adapter: Option<&Path>, titles: &Path, output: &Path) {
    let mut arguments = vec![
        "embed", "--model", text(model), "--input", text(titles), "--output", text(output),
        "--max-length", "70",
    ];
    if let Some(adapter) = adapter {
        arguments.extend(["--adapter", text(adapter)]);
    }
    loriot(&arguments);
}

/// The f32 values of a `.npy` file.
fn read_npy(path: &Path) -> Vec<f32> {
    let bytes = std::fs::read(path).unwrap();
    assert!(bytes.starts_with(b"\x93NUMPY\x01\x00"), "{}", path.display());
    let header = usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    bytes[10 + header..].as_chunks().0.iter().map(|word| f32::from_le_bytes(*word)).collect()
}

#[track_caller]
fn assert_within(what: &str, got: &[f32], want: &[f32], tolerance: f32) {
    assert_eq!(got.len(), want.len(), "{what}");
    let worst = got.iter().zip(want).map(|(got, want)| (got - want).abs()).fold(0.0, f32::max);
    assert!(worst <= tolerance, "{what}: off by {worst:e}");
}

#[test]
fn adapters_trained_here_load_in_peft_and_merged_in_sentence_transformers() {
    let dir = tempfile::tempdir().unwrap();
    let titles = titles(dir.path());
    for (name, model, more) in [
        ("minilm", minilm(), &[][..]),
        ("all-linear", tiny(), &["--target", "all-linear", "--rslora", "--max-length", "48"]),
    ] {
        let at = |part: &str| dir.path().join(format!("{name}-{part}"));
        train(&model, &at("run"), more);
        embed(&model, Some(&at("run")), &titles, &at("run.npy"));
        python(&[
            "adapter", "--model", text(&model), "--adapter", text(&at("run")), "--texts",
            text(&titles), "--column", "product_title", "--embeddings", text(&at("run.npy")),
        ]);
        loriot(&[
            "merge", "--model", text(&model), "--adapter", text(&at("run")), "--output",
            text(&at("merged")),
        ]);
        embed(&at("merged"), None, &titles, &at("merged.npy"));
        python(&[
            "merged", "--model", text(&at("merged")), "--texts", text(&titles), "--column",
            "product_title", "--embeddings", text(&at("merged.npy")),
        ]);
        let (merged, beside) = (read_npy(&at("merged.npy")), read_npy(&at("run.npy")));
        assert_within(name, &merged, &beside, 1e-5);
    }
}

#[test]
fn a_fully_fine_tuned_model_loads_in_sentence_transformers() {
    let dir = tempfile::tempdir().unwrap();
    let titles = titles(dir.path());
    let (run, vectors) = (dir.path().join("run"), dir.path().join("run.npy"));
    train(&tiny(), &run, &["--full", "--max-length", "48"]);
    embed(&run, None, &titles, &vectors);
    python(&[
        "merged", "--model", text(&run), "--texts", text(&titles), "--column", "product_title",
        "--embeddings", text(&vectors),
    ]);
}

#[test]
fn adapters_that_peft_writes_give_the_same_vectors_here() {
    let dir = tempfile::tempdir().unwrap();
    let titles = titles(dir.path());
    let produced = dir.path().join("peft");
    python(&[
        "produce", "--model", text(&minilm()), "--texts", text(&titles), "--column",
        "product_title", "--output", text(&produced),
    ]);
    let vectors = dir.path().join("loriot.npy");
    embed(&minilm(), None, &titles, &vectors);
    let base = read_npy(&produced.join("embeddings.npy"));
    assert_within("base", &read_npy(&vectors), &base, 1e-5);
    for kind in ["qkv", "all_linear", "rslora", "patterns", "regex", "wrapped"] {
        let adapter = produced.join(kind);
        let vectors = dir.path().join(format!("{kind}.npy"));
        embed(&minilm(), Some(&adapter), &titles, &vectors);
        let want = read_npy(&adapter.join("embeddings.npy"));
        assert_within(kind, &read_npy(&vectors), &want, 1e-5);
        let moved = want.iter().zip(&base).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(moved > 1e-3, "{kind} changes nothing: it tests nothing");
    }
}
