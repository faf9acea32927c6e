//! Project tasks, run as `cargo xtask <task>`. Each says what it does and leaves nothing half-done.
//!
//! In reading order: [`quickstart`] the main job on the example shop · [`model`] the pre-trained model
//! where there is no Hub · [`python`] the Python peers · [`tidy`] what a machine can check · [`spills`] whether micro-kernels
//! keep their sums in registers.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "tasks talk to a person")]

mod model;
mod python;
mod quickstart;
mod run;
mod spills;
mod tidy;

use anyhow::{Result, bail};
use python::Peers;
use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask <task>

  quickstart   build Loriot, get all-MiniLM-L6-v2, train it on examples/shop, measure, index, search
  test         make the Python environment and get the model once, then run every test
  prepare      only what `test` needs before the tests: environment and model
  golden       make the golden files anew with pinned torch, transformers and peft
  bench        time Loriot beside its Python peers; see bench/README.md
  growth       how Loriot's cost grows with tokens, batch, layers, threads and texts
  spills       check in the release build's machine code that micro-kernels keep their sums in registers
  tidy         check crate edges, file lengths, module docs and stray marks
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (task, rest) = match arguments.split_first() {
        Some((task, rest)) => (task.as_str(), rest),
        None => ("", &arguments[..]),
    };
    let result = match task {
        "quickstart" => quickstart::run(rest),
        "test" => test(rest),
        "prepare" => prepare(),
        "golden" => python::script(Peers::Tests, "tests/python/golden.py", rest),
        "bench" => python::script(Peers::Bench, "bench/bench.py", rest),
        "growth" => python::script(Peers::Bench, "bench/growth.py", rest),
        "spills" => spills::run(rest),
        "tidy" => check_tidy(),
        "" | "help" | "--help" | "-h" => {
            print!("{USAGE}");
            Ok(())
        }
        other => {
            eprint!("error: no task `{other}`\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// What the tests need and must not fetch themselves.
fn prepare() -> Result<()> {
    python::interpreter(Peers::Tests)?;
    model::minilm()?;
    Ok(())
}

fn test(arguments: &[String]) -> Result<()> {
    prepare()?;
    let mut cargo = run::cargo(&["test", "--workspace", "--no-fail-fast"]);
    cargo.args(arguments);
    run::checked(&mut cargo)
}

fn check_tidy() -> Result<()> {
    let problems = tidy::problems(&run::root())?;
    for problem in &problems {
        eprintln!("{problem}");
    }
    match problems.len() {
        0 => Ok(()),
        n => bail!("{n} untidy places"),
    }
}
