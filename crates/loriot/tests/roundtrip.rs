//! Round trips with the real PEFT and sentence-transformers, in the environment that `cargo xtask
//! prepare` makes: what Loriot writes loads there, what they write loads here, with the same vectors.

#![allow(clippy::unwrap_used, reason = "a test helper's failure is the test's")]

#[path = "../../../tests/rust/files.rs"]
mod files;

use files::minilm;
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

/// Runs Loriot with the words of `line`; no path here has white space.
#[track_caller]
fn loriot(line: &str) -> Output {
    succeed(Command::new(env!("CARGO_BIN_EXE_loriot")).args(line.split_whitespace()))
}

/// Runs a subcommand of `tests/python/roundtrip.py`.
#[track_caller]
fn python(line: &str) {
    let make_env = repository().join("tests/python/make_env.py");
    let printed = succeed(Command::new("python3").arg(make_env));
    let printed = String::from_utf8(printed.stdout).unwrap();
    let mut python = Command::new(printed.lines().last().unwrap());
    python.arg(repository().join("tests/python/roundtrip.py")).args(line.split_whitespace());
    succeed(python.env("HF_HUB_OFFLINE", "1"));
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

fn train(model: &str, output: &str, more: &str) {
    let rows = repository().join("tests/golden/train_rows.csv");
    let rows = text(&rows);
    loriot(&format!(
        "train --model {model} --train {rows} --eval {rows} --output {output} --epochs 1 \
         --max-steps 4 --batch-size 8 {more}"
    ));
}

/// Embeds `titles` with the model and options in `how`.
fn embed(how: &str, titles: &str, output: &str) {
    loriot(&format!("embed --model {how} --input {titles} --output {output}"));
}

/// The f32 values of a `.npy` file.
fn read_npy(path: &str) -> Vec<f32> {
    let bytes = std::fs::read(path).unwrap();
    assert!(bytes.starts_with(b"\x93NUMPY\x01\x00"), "{path}");
    let header = usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    bytes[10 + header..].as_chunks().0.iter().map(|word| f32::from_le_bytes(*word)).collect()
}

#[track_caller]
fn assert_within(what: &str, got: &[f32], want: &[f32], tolerance: f32) {
    assert_eq!(got.len(), want.len(), "{what}");
    // Not `f32::max`, which drops NaN: in this order NaN is above every number.
    let differences = got.iter().zip(want).map(|(got, want)| (got - want).abs());
    let worst = differences.max_by(f32::total_cmp).unwrap();
    assert!(worst <= tolerance, "{what}: off by {worst:e}");
}

#[test]
fn adapters_trained_here_load_in_peft_and_merged_in_sentence_transformers() {
    let dir = tempfile::tempdir().unwrap();
    let titles = titles(dir.path());
    let titles = text(&titles);
    for (name, model, more, max_length) in [
        ("minilm", minilm(), "", 70),
        ("tiny", tiny(), "--target all-linear --rslora --max-length 48", 48),
        (
            "dora",
            tiny(),
            "--target all-linear --dora --init-lora-weights pissa --lora-bias lora_only --max-length 48",
            48,
        ),
        (
            "saved",
            tiny(),
            "--init-lora-weights olora --layers 1 --rank-pattern key=2 --max-length 48 \
             --modules-to-save LayerNorm,word_embeddings",
            48,
        ),
    ] {
        let model = text(&model);
        let at = |part: &str| text(&dir.path().join(format!("{name}-{part}"))).to_owned();
        let (run, merged) = (at("run"), at("merged"));
        let (run_vectors, merged_vectors) = (at("run.npy"), at("merged.npy"));
        train(model, &run, more);
        embed(&format!("{model} --adapter {run}"), titles, &run_vectors);
        python(&format!(
            "adapter --model {model} --adapter {run} --texts {titles} --column product_title \
             --embeddings {run_vectors} --max-length {max_length}"
        ));
        loriot(&format!("merge --model {model} --adapter {run} --output {merged}"));
        embed(&merged, titles, &merged_vectors);
        python(&format!(
            "merged --model {merged} --texts {titles} --column product_title \
             --embeddings {merged_vectors}"
        ));
        assert_within(name, &read_npy(&merged_vectors), &read_npy(&run_vectors), 1e-5);
    }
}

#[test]
fn a_fully_fine_tuned_model_loads_in_sentence_transformers() {
    let dir = tempfile::tempdir().unwrap();
    let titles = titles(dir.path());
    let (run, vectors) = (dir.path().join("run"), dir.path().join("run.npy"));
    let (titles, run, vectors) = (text(&titles), text(&run), text(&vectors));
    train(text(&tiny()), run, "--full --max-length 48");
    embed(run, titles, vectors);
    python(&format!(
        "merged --model {run} --texts {titles} --column product_title --embeddings {vectors}"
    ));
}

#[test]
fn adapters_that_peft_writes_give_the_same_vectors_here() {
    let dir = tempfile::tempdir().unwrap();
    let titles = titles(dir.path());
    let (titles, model) = (text(&titles), minilm());
    let model = text(&model);
    let at = |part: &str| text(&dir.path().join(part)).to_owned();
    let produced = at("peft");
    python(&format!(
        "produce --model {model} --texts {titles} --column product_title --output {produced}"
    ));
    embed(&format!("{model} --max-length 70"), titles, &at("base.npy"));
    let base = read_npy(&format!("{produced}/embeddings.npy"));
    assert_within("base", &read_npy(&at("base.npy")), &base, 1e-5);
    for kind in ["qkv", "all_linear", "rslora", "patterns", "regex", "wrapped"] {
        let (adapter, vectors) = (format!("{produced}/{kind}"), at(&format!("{kind}.npy")));
        embed(&format!("{model} --adapter {adapter} --max-length 70"), titles, &vectors);
        let want = read_npy(&format!("{adapter}/embeddings.npy"));
        assert_within(kind, &read_npy(&vectors), &want, 1e-5);
        let moved = want.iter().zip(&base).map(|(a, b)| (a - b).abs()).max_by(f32::total_cmp);
        assert!(
            moved.is_some_and(|moved| moved > 1e-3 && moved.is_finite()),
            "{kind} changes nothing: it tests nothing"
        );
    }
}

/// e5's case: both sides have a prompt, and plain `encode()`, without any name, embeds products as Loriot does.
#[test]
fn a_merged_folder_with_prompts_embeds_products_by_plain_encode() {
    let dir = tempfile::tempdir().unwrap();
    let titles = titles(dir.path());
    let at = |part: &str| text(&dir.path().join(part)).to_owned();
    let (titles, run, merged, vectors) =
        (text(&titles), at("run"), at("merged"), at("vectors.npy"));
    let model = tiny();
    let prompts = "--query-prompt query: --document-prompt passage: --max-length 48";
    train(text(&model), &run, prompts);
    loriot(&format!("merge --model {} --adapter {run} --output {merged}", text(&model)));
    embed(&merged, titles, &vectors);
    python(&format!(
        "merged --model {merged} --texts {titles} --column product_title --embeddings {vectors}"
    ));
    let card = std::fs::read_to_string(dir.path().join("merged/README.md")).unwrap();
    assert!(card.contains("`encode_query` puts \"query:\" before a text"), "{card}");
}
