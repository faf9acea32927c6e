//! The Python peers: locked virtual environments in the cache, each made once.

use crate::run;
use anyhow::{Context, Result};
use std::path::PathBuf;
use std::process::Command;

/// What a script needs beside the packages of `tests/python/requirements.txt`.
#[derive(Clone, Copy)]
pub(crate) enum Peers {
    /// Nothing.
    Tests,
    /// The benchmark's further peers.
    Bench,
}

/// The environment's interpreter, made on first use (torch alone is several GB: minutes).
pub(crate) fn interpreter(peers: Peers) -> Result<PathBuf> {
    let mut make = Command::new("python3");
    make.arg("tests/python/make_env.py").current_dir(run::root());
    if matches!(peers, Peers::Bench) {
        make.args(["--with", "bench/requirements.txt"]);
    }
    make.env("LORIOT_CACHE", run::cache()?);
    let printed = run::output(&mut make).context("cannot make the Python environment")?;
    let path = printed.lines().last().context("`make_env.py` printed no path")?;
    Ok(PathBuf::from(path))
}

/// Runs one of the repository's scripts in the environment.
pub(crate) fn script(peers: Peers, path: &str, arguments: &[String]) -> Result<()> {
    let mut python = Command::new(interpreter(peers)?);
    python.arg(path).args(arguments).current_dir(run::root());
    python.env("HF_HUB_OFFLINE", "1").env("LORIOT_CACHE", run::cache()?);
    python.env("LORIOT_MINILM", crate::model::minilm()?);
    run::checked(&mut python)
}
