//! What a machine can check of how the repository reads: crate edges, file lengths, module docs,
//! `unsafe` where it belongs, no stray marks.

use anyhow::{Context, Result};
use cargo_metadata::{DependencyKind, MetadataCommand};
use std::fs;
use std::path::{Path, PathBuf};

/// Which crate may use which, beyond `loriot-files`, which anyone may. DESIGN: data flows one way.
const EDGES: &[(&str, &[&str])] = &[
    ("loriot-files", &[]),
    ("loriot-kernels", &[]),
    ("loriot-data", &[]),
    ("loriot-eval", &[]),
    ("loriot-rank", &[]),
    ("loriot-encoder", &["loriot-kernels"]),
    ("loriot-index", &["loriot-kernels"]),
    ("loriot-train", &["loriot-encoder", "loriot-kernels", "loriot-data", "loriot-eval"]),
    ("loriot-search", &["loriot-encoder", "loriot-index", "loriot-data"]),
    (
        "loriot",
        &[
            "loriot-kernels",
            "loriot-data",
            "loriot-eval",
            "loriot-encoder",
            "loriot-index",
            "loriot-train",
            "loriot-search",
            "loriot-rank",
        ],
    ),
    (
        "loriot-fuzz",
        &["loriot-kernels", "loriot-data", "loriot-encoder", "loriot-index", "loriot-search"],
    ),
    ("xtask", &[]),
];

/// Crates without a single dependency of their own choosing.
const LONELY: &[&str] = &["loriot-eval"];

const MAX_LINES: usize = 800;
const UNSAFE_ALLOWED: &[&str] = &["crates/loriot-kernels/", "crates/loriot-files/src/mmap.rs"];

/// Every untidy place, one line each.
pub(crate) fn problems(root: &Path) -> Result<Vec<String>> {
    let mut problems = crate_edges(root)?;
    let mut files = Vec::new();
    for folder in ["crates", "xtask", "fuzz"] {
        rust_files(&root.join(folder), &mut files)?;
    }
    for path in files {
        let text = fs::read_to_string(&path)
            .with_context(|| format!("cannot read `{}`", path.display()))?;
        let name = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().replace('\\', "/");
        problems.extend(file_problems(&name, &text));
    }
    Ok(problems)
}

fn crate_edges(root: &Path) -> Result<Vec<String>> {
    let metadata = MetadataCommand::new().current_dir(root).no_deps().exec()?;
    let mut problems = Vec::new();
    for package in metadata.workspace_packages() {
        let name = package.name.as_str();
        let Some((_, allowed)) = EDGES.iter().find(|(from, _)| *from == name) else {
            problems.push(format!("crate `{name}` is in no tier; add it to xtask/src/tidy.rs"));
            continue;
        };
        for dependency in &package.dependencies {
            if dependency.kind == DependencyKind::Development {
                continue;
            }
            let to = dependency.name.as_str();
            let ours = to == "loriot" || to.starts_with("loriot-");
            if ours && to != "loriot-files" && !allowed.contains(&to) {
                problems.push(format!("crate `{name}` uses `{to}`: a forbidden edge"));
            }
            if LONELY.contains(&name) {
                problems.push(format!("crate `{name}` has no dependencies, found `{to}`"));
            }
        }
    }
    Ok(problems)
}

fn rust_files(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let Ok(entries) = fs::read_dir(folder) else { return Ok(()) };
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
            rust_files(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    Ok(())
}

fn file_problems(name: &str, text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    let n_lines = text.lines().count();
    if n_lines > MAX_LINES {
        problems.push(format!("{name}: {n_lines} lines, more than {MAX_LINES}"));
    }
    if !text.starts_with("//!") {
        problems.push(format!("{name}: no module doc (`//!`) at the top"));
    }
    let unsafe_allowed = UNSAFE_ALLOWED.iter().any(|place| name.starts_with(place));
    // In two halves, so that this file passes its own check.
    let marks = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];
    for (at, line) in text.lines().enumerate() {
        let here = |problem: &str| format!("{name}:{}: {problem}", at + 1);
        if marks.iter().any(|mark| line.contains(mark)) {
            problems.push(here("a mark of unfinished work; finish it or file an issue"));
        }
        let code = line.split("//").next().unwrap_or_default();
        if !unsafe_allowed
            && (code.contains(concat!("unsafe", " {")) || code.contains(concat!("unsafe", " fn")))
        {
            problems.push(here("`unsafe` outside the kernels and the memory map"));
        }
        if line.ends_with(' ') || line.ends_with('\t') {
            problems.push(here("white space at the end of the line"));
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_repository_is_tidy() {
        let problems = problems(&crate::run::root()).unwrap();
        assert!(problems.is_empty(), "\n{}", problems.join("\n"));
    }

    #[test]
    fn untidy_files_are_named_with_their_lines() {
        let text =
            format!("fn a() {{ {} {{ }} }}\nlet x; \n// {}\n", "unsafe", concat!("TO", "DO"));
        let problems = file_problems("crates/loriot-eval/src/lib.rs", &text);
        let expected = ["no module doc", ":1: `unsafe`", ":2: white space", ":3: a mark"];
        assert_eq!(problems.len(), expected.len(), "{problems:?}");
        for (problem, expected) in problems.iter().zip(expected) {
            assert!(problem.contains(expected), "{problem}");
        }
    }
}
