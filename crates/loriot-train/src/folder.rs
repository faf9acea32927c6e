//! The folder of a run: which files are Loriot's, which checkpoints it holds, where a run begins or resumes.
//!
//! ```text
//! metrics.jsonl                the log; the first file of a run
//! step_N/ epoch_N/             checkpoints
//! best/                        the model after the best epoch
//! adapter_model.safetensors …  the model after the last step
//! README.md                    the model card
//! .tmp-…                       an unfinished write, left by a crash; removed when the run goes on
//! ```

use crate::metrics_log::METRICS_FILE;
use crate::state::{STATE_FILE, State, StateError};
use loriot_files::{Hint, OutputError, write_atomic_bytes};
use std::path::{Path, PathBuf};
use std::{fs, io};

/// Where a run begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// In a folder that is new or empty.
    New,
    /// In place of the run that the folder holds, if it holds one.
    Overwrite,
    /// At the latest checkpoint in the folder; at the beginning where there is none yet.
    Latest,
    /// At this checkpoint.
    At(PathBuf),
}

/// A folder cannot be that of a run.
#[derive(Debug, thiserror::Error)]
pub enum RunFolderError {
    /// It holds a run, and neither resuming nor overwriting was asked for.
    #[error("`{}` holds a training run already", .0.display())]
    Exists(PathBuf),
    /// It holds files that are not a run's.
    #[error("`{}` is not empty and holds no training run", .0.display())]
    Foreign(PathBuf),
    /// The path is a file.
    #[error("`{}` is not a folder", .0.display())]
    NotAFolder(PathBuf),
    /// `--resume PATH` names no checkpoint.
    #[error("`{}` is no checkpoint: it has no `{STATE_FILE}`", .0.display())]
    NoCheckpoint(PathBuf),
    /// A checkpoint in the folder is damaged.
    #[error(transparent)]
    State(#[from] StateError),
    /// The folder cannot be read.
    #[error("cannot read `{}`", path.display())]
    Read {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The folder cannot be written to.
    #[error(transparent)]
    Output(#[from] OutputError),
}

impl Hint for RunFolderError {
    fn hint(&self) -> Option<String> {
        match self {
            RunFolderError::Exists(_) => Some(
                "`--resume` continues it, `--overwrite` replaces it, another `--output` leaves it \
                 alone"
                    .into(),
            ),
            RunFolderError::Foreign(_) | RunFolderError::NotAFolder(_) => {
                Some("choose a new folder as `--output`".into())
            }
            RunFolderError::NoCheckpoint(_) => Some(
                "give a `step_N` or `epoch_N` folder, or `--resume` alone for the latest".into(),
            ),
            RunFolderError::State(error) => error.hint(),
            RunFolderError::Output(error) => error.hint(),
            RunFolderError::Read { .. } => None,
        }
    }
}

/// A folder that a run may use.
#[derive(Clone, Debug)]
pub struct RunFolder {
    path: PathBuf,
    /// Where to go on from; `None` at the beginning.
    checkpoint: Option<PathBuf>,
}

impl RunFolder {
    /// Finds out whether `path` can be used in this way. Changes nothing.
    pub fn open(path: &Path, start: &Start) -> Result<RunFolder, RunFolderError> {
        let names = names(path)?;
        let is_run = names.iter().any(|name| name == METRICS_FILE);
        let is_empty = names.iter().all(|name| name.starts_with(TEMPORARY));
        match start {
            _ if is_empty => {}
            Start::New if is_run => return Err(RunFolderError::Exists(path.to_owned())),
            _ if !is_run => return Err(RunFolderError::Foreign(path.to_owned())),
            _ => {}
        }
        let checkpoint = match start {
            Start::New | Start::Overwrite => None,
            Start::Latest => checkpoints(path)?.pop(),
            Start::At(checkpoint) if checkpoint.join(STATE_FILE).is_file() => {
                Some(checkpoint.clone())
            }
            Start::At(checkpoint) => return Err(RunFolderError::NoCheckpoint(checkpoint.clone())),
        };
        Ok(RunFolder { path: path.to_owned(), checkpoint })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The checkpoint that the run goes on from; `None` where it begins.
    pub fn checkpoint(&self) -> Option<&Path> {
        self.checkpoint.as_deref()
    }

    /// Makes the folder and removes unfinished writes; for a run that begins anew, removes the old run.
    ///
    /// The log is made first and is never removed, so that at every moment the folder is known as a run's.
    pub(crate) fn begin(&self) -> Result<(), RunFolderError> {
        let log = self.path.join(METRICS_FILE);
        if !log.exists() {
            write_atomic_bytes(&log, b"")?;
        }
        for name in names(&self.path)? {
            let is_ours = || is_checkpoint(&name) || MODEL_FILES.contains(&name.as_str());
            if name.starts_with(TEMPORARY) || (self.checkpoint.is_none() && is_ours()) {
                remove(&self.path.join(&name))?;
            }
        }
        Ok(())
    }

    /// Removes all but the `keep` latest checkpoints.
    pub(crate) fn prune(&self, keep: usize) -> Result<(), RunFolderError> {
        let checkpoints = checkpoints(&self.path)?;
        let n_old = checkpoints.len().saturating_sub(keep);
        checkpoints[..n_old].iter().try_for_each(|checkpoint| Ok(remove(checkpoint)?))
    }
}

/// How the name of an unfinished write begins (see [`loriot_files::atomic`]).
const TEMPORARY: &str = ".tmp-";

/// Files and folders of a model or adapter, as training leaves them in a run folder.
const MODEL_FILES: [&str; 16] = [
    "1_Pooling",
    "2_Normalize",
    "README.md",
    "adapter_config.json",
    "adapter_model.safetensors",
    "best",
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

/// Whether this is the name of a checkpoint: `step_N` or `epoch_N`.
fn is_checkpoint(name: &str) -> bool {
    let number = name.strip_prefix("step_").or_else(|| name.strip_prefix("epoch_"));
    number.is_some_and(|number| number.parse::<u64>().is_ok())
}

/// The checkpoints in a run folder, the earliest first.
fn checkpoints(path: &Path) -> Result<Vec<PathBuf>, RunFolderError> {
    let mut found = Vec::new();
    for name in names(path)?.iter().filter(|name| is_checkpoint(name)) {
        let checkpoint = path.join(name);
        let state = State::open(&checkpoint)?;
        // Before the evaluation that ends an epoch (`step_N`) and after it (`epoch_N`).
        found.push(((state.step, state.epoch), checkpoint));
    }
    found.sort();
    Ok(found.into_iter().map(|(_, checkpoint)| checkpoint).collect())
}

/// Names in a folder; none if there is no folder.
fn names(path: &Path) -> Result<Vec<String>, RunFolderError> {
    let read = |source| RunFolderError::Read { path: path.to_owned(), source };
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            return Err(RunFolderError::NotAFolder(path.to_owned()));
        }
        Err(error) => return Err(read(error)),
    };
    let name = |entry: io::Result<fs::DirEntry>| {
        entry.map(|entry| entry.file_name().to_string_lossy().into_owned())
    };
    entries.map(name).collect::<io::Result<_>>().map_err(read)
}

fn remove(path: &Path) -> Result<(), OutputError> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    removed.map_err(OutputError::io(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::tests::state;

    fn run(names: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for name in names {
            fs::write(dir.path().join(name), "").unwrap();
        }
        dir
    }

    fn checkpoint(dir: &Path, name: &str, step: u64, epoch: u64) {
        fs::create_dir(dir.join(name)).unwrap();
        State { step, epoch, ..state() }.write(&dir.join(name)).unwrap();
    }

    #[test]
    fn a_run_is_neither_replaced_nor_continued_unasked() {
        let dir = run(&[METRICS_FILE]);
        let error = RunFolder::open(dir.path(), &Start::New).unwrap_err();
        assert!(error.to_string().ends_with("holds a training run already"));
        assert!(error.hint().unwrap().starts_with("`--resume` continues it, `--overwrite` repl"));
        RunFolder::open(dir.path(), &Start::Latest).unwrap();
        RunFolder::open(dir.path(), &Start::Overwrite).unwrap();
    }

    #[test]
    fn a_folder_of_something_else_is_left_alone_whatever_was_asked() {
        let dir = run(&["thesis.txt"]);
        for start in [Start::New, Start::Overwrite, Start::Latest] {
            let error = RunFolder::open(dir.path(), &start).unwrap_err().to_string();
            assert!(error.ends_with("is not empty and holds no training run"), "{error}");
        }
        let file = dir.path().join("thesis.txt");
        let error = RunFolder::open(&file, &Start::New).unwrap_err().to_string();
        assert!(error.ends_with("is not a folder"), "{error}");
    }

    #[test]
    fn the_latest_checkpoint_is_the_one_furthest_on_not_the_last_by_name() {
        let dir = run(&[METRICS_FILE]);
        checkpoint(dir.path(), "step_9", 9, 0);
        checkpoint(dir.path(), "step_10", 10, 0);
        let latest = || RunFolder::open(dir.path(), &Start::Latest).unwrap().checkpoint.unwrap();
        assert!(latest().ends_with("step_10"));
        checkpoint(dir.path(), "epoch_0", 10, 1);
        assert!(latest().ends_with("epoch_0"));
    }

    #[test]
    fn overwriting_removes_the_old_run_and_nothing_of_the_users() {
        let dir = run(&[METRICS_FILE, "adapter_model.safetensors", "notes.txt", ".tmp-x"]);
        checkpoint(dir.path(), "step_1", 1, 0);
        RunFolder::open(dir.path(), &Start::Overwrite).unwrap().begin().unwrap();
        let mut left = names(dir.path()).unwrap();
        left.sort();
        assert_eq!(left, [METRICS_FILE, "notes.txt"]);
    }

    #[test]
    fn pruning_keeps_the_latest() {
        let dir = run(&[METRICS_FILE]);
        for step in [1, 2, 10] {
            checkpoint(dir.path(), &format!("step_{step}"), step, 0);
        }
        RunFolder::open(dir.path(), &Start::Latest).unwrap().prune(1).unwrap();
        assert_eq!(checkpoints(dir.path()).unwrap(), [dir.path().join("step_10")]);
    }

    #[test]
    fn resuming_at_what_is_no_checkpoint_says_so() {
        let dir = run(&[METRICS_FILE]);
        let start = Start::At(dir.path().join("step_7"));
        let error = RunFolder::open(dir.path(), &start).unwrap_err().to_string();
        assert!(error.ends_with("step_7` is no checkpoint: it has no `state.json`"), "{error}");
    }
}
