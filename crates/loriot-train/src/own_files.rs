//! Which names in a run folder are Loriot's, and what becomes of those that only look so.
//!
//! Nothing that somebody else put there is removed or replaced: where it is in the way, it is renamed to `NAME.kept`.

use crate::metrics_log::METRICS_FILE;
use crate::optimiser::MOMENTS_FILE;
use crate::record::RUN_FILE;
use crate::state::STATE_FILE;
use loriot_files::new_dir::{recover, unfinished_name};
use loriot_files::{OutputError, disk};
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Files and folders of a model or adapter, as training leaves them at the top of a run folder, in `best` and in checkpoints.
pub(crate) const MODEL_FILES: [&str; 15] = [
    "1_Pooling",
    "2_Normalize",
    "README.md",
    "adapter_config.json",
    "adapter_model.safetensors",
    "config.json",
    "config_sentence_transformers.json",
    "loriot.json",
    "model.safetensors",
    "modules.json",
    "sentence_bert_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
];

/// The model after the best epoch.
pub(crate) const BEST: &str = "best";

/// What the model after the last step is written as before its files are put at the top, by a temporary name of this.
pub(crate) const MODEL: &str = "model";

/// How the name of an interim checkpoint begins.
pub(crate) const INTERIM: &str = "interim_";

/// What systems put into folders unasked.
const LITTER: [&str; 3] = [".DS_Store", "Thumbs.db", "desktop.ini"];

/// Whether this is the name of a checkpoint: `step_N` or `epoch_N`, or one of those after `interim_`.
pub(crate) fn is_checkpoint(name: &str) -> bool {
    let name = name.strip_prefix(INTERIM).unwrap_or(name);
    let number = name.strip_prefix("step_").or_else(|| name.strip_prefix("epoch_"));
    number.is_some_and(|number| number.parse::<u64>().is_ok_and(|n| n.to_string() == number))
}

/// Whether the checkpoint `path` was not asked for.
pub(crate) fn is_interim(path: &Path) -> bool {
    let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    name.starts_with(INTERIM) && is_checkpoint(&name)
}

/// Whether `name` is the temporary name of something that a run writes.
pub(crate) fn is_unfinished(name: &str) -> bool {
    unfinished_name(name).is_some_and(|target| {
        [METRICS_FILE, RUN_FILE, BEST, MODEL].contains(&target)
            || MODEL_FILES.contains(&target)
            || is_checkpoint(target)
    })
}

/// Clears up what a run that was killed while it wrote has left in the folder `dir`.
pub(crate) fn clear_up(dir: &Path, names: &[String]) -> Result<(), OutputError> {
    let unfinished = names.iter().filter(|name| is_unfinished(name));
    let targets: BTreeSet<_> = unfinished.filter_map(|name| unfinished_name(name)).collect();
    targets
        .into_iter()
        .try_for_each(|target| recover(&dir.join(target)).map_err(OutputError::io(dir)))
}

/// Makes sure that what stands at `path`, if anything, may be replaced: renames it to `NAME.kept` if it is not
/// `expected` to be a run's, or holds something that is not. Returns what the user should know of that.
pub(crate) fn make_room(path: &Path, expected: bool) -> Result<Option<String>, OutputError> {
    if path.symlink_metadata().is_err() || (expected && is_own(path)) {
        return Ok(None);
    }
    let kept = (0..).map(|n: u32| {
        let end = if n == 0 { ".kept".to_owned() } else { format!(".kept-{n}") };
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(end);
        path.with_file_name(name)
    });
    let is_free = |path: &PathBuf| path.symlink_metadata().is_err();
    let kept =
        kept.into_iter().find(is_free).expect("a folder has fewer names than there are numbers");
    disk::rename(path, &kept).map_err(OutputError::io(path))?;
    Ok(Some(format!(
        "`{}` holds something that is not from this training: it is kept as `{}`",
        path.display(),
        kept.display()
    )))
}

/// Removes what stands at `path`, unless it has to be kept (see [`make_room`]). A folder is gone at once or not at all.
pub(crate) fn remove(path: &Path) -> Result<Option<String>, OutputError> {
    let note = make_room(path, true)?;
    if path.symlink_metadata().is_ok() {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let going = path.with_file_name(format!(".tmp-{name}-remove"));
        let removed = disk::rename(path, &going).and_then(|()| disk::remove(&going));
        removed.map_err(OutputError::io(path))?;
    }
    Ok(note)
}

/// Whether nothing but a run's files is in what stands at `path`, a file or a folder by a run's name.
fn is_own(path: &Path) -> bool {
    let is_folder = |path: &Path| path.symlink_metadata().is_ok_and(|found| found.is_dir());
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let is_model = name == BEST || is_checkpoint(&name);
    match is_folder(path) {
        false => !is_model,
        true if is_model => {
            fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none())
                || (path.join("loriot.json").is_file() && holds_own(path).unwrap_or(false))
        }
        true => holds_own(path).unwrap_or(false),
    }
}

/// Whether every name in the folder `path`, and below, is one that training writes.
fn holds_own(path: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let known = MODEL_FILES.contains(&name.as_str())
            || [MOMENTS_FILE, STATE_FILE].contains(&name.as_str())
            || LITTER.contains(&name.as_str())
            || is_unfinished(&name);
        if !known || (entry.file_type()?.is_dir() && !holds_own(&entry.path())?) {
            return Ok(false);
        }
    }
    Ok(true)
}
