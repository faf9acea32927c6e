//! The folder of a run: which files are Loriot's, which checkpoints it holds, where a run begins or resumes.
//!
//! ```text
//! metrics.jsonl                the log; the first file of a run
//! step_N/ epoch_N/             checkpoints that were asked for
//! interim_step_N/ …            a checkpoint of Ctrl-C, or in the midst of a long epoch
//! best/                        the model after the best epoch
//! adapter_model.safetensors …  the model after the last step
//! README.md                    the model card
//! .tmp-…                       an unfinished write, left by a crash; removed when the run goes on
//! ```
//!
//! An interim checkpoint goes as soon as a later checkpoint, or the end of the run, is on the disk. So the
//! folder of a run that was interrupted ends as that of one that never was.

use crate::metrics_log::METRICS_FILE;
use crate::state::{STATE_FILE, State, StateError};
use loriot_files::{Hint, OutputError, OutputLock, write_atomic_bytes};
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
    /// Every checkpoint in the folder is damaged, or one is of another version.
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

/// A folder that a run may use. No other process can, until this is dropped.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    /// Where the run can go on from, the best last; none at the beginning. A damaged one is passed over.
    checkpoints: Vec<PathBuf>,
    /// Checkpoints that cannot be gone on from, and why.
    damaged: Vec<StateError>,
    _lock: OutputLock,
}

impl RunFolder {
    /// Finds out whether `path` can be used in this way, and locks it. Changes nothing in it.
    pub fn open(path: &Path, start: &Start) -> Result<RunFolder, RunFolderError> {
        let lock = OutputLock::take(path)?;
        let names = names(path)?;
        let is_run = names.iter().any(|name| name == METRICS_FILE);
        let is_empty = names.iter().all(|name| name.starts_with(TEMPORARY));
        match start {
            _ if is_empty => {}
            Start::New if is_run => return Err(RunFolderError::Exists(path.to_owned())),
            _ if !is_run => return Err(RunFolderError::Foreign(path.to_owned())),
            _ => {}
        }
        let Found { checkpoints, mut damaged } = match start {
            Start::New | Start::Overwrite => Found::default(),
            Start::Latest => find_checkpoints(path)?,
            Start::At(checkpoint) if checkpoint.join(STATE_FILE).is_file() => {
                Found { checkpoints: vec![checkpoint.clone()], damaged: Vec::new() }
            }
            Start::At(checkpoint) => return Err(RunFolderError::NoCheckpoint(checkpoint.clone())),
        };
        if checkpoints.is_empty() && !damaged.is_empty() {
            return Err(damaged.swap_remove(0).into());
        }
        Ok(RunFolder { path: path.to_owned(), checkpoints, damaged, _lock: lock })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The checkpoint that the run goes on from; `None` where it begins.
    pub fn checkpoint(&self) -> Option<&Path> {
        self.checkpoints.last().map(PathBuf::as_path)
    }

    /// Checkpoints that are no choice, because they are damaged.
    pub(crate) fn damaged(&self) -> &[StateError] {
        &self.damaged
    }

    /// Gives up the checkpoint that the run would go on from for the one before it. `false`, with no change, if there is
    /// none.
    pub(crate) fn fall_back(&mut self) -> bool {
        let has_other = self.checkpoints.len() > 1;
        if has_other {
            self.checkpoints.pop();
        }
        has_other
    }

    /// Whether the checkpoint that the run goes on from stands in this folder, and not in that of another run.
    pub(crate) fn holds_its_checkpoint(&self) -> bool {
        let canonical = |path: &Path| fs::canonicalize(path).ok();
        let parent = self.checkpoint().and_then(canonical);
        parent.is_some_and(|path| path.parent() == canonical(&self.path).as_deref())
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
            if name.starts_with(TEMPORARY) || (self.checkpoints.is_empty() && is_ours()) {
                remove(&self.path.join(&name))?;
            }
        }
        Ok(())
    }

    /// Removes all but the `keep` latest checkpoints that were asked for.
    pub(crate) fn prune(&self, keep: usize) -> Result<(), RunFolderError> {
        let mut checkpoints = find_checkpoints(&self.path)?.checkpoints;
        checkpoints.retain(|checkpoint| !is_interim(checkpoint));
        let n_old = checkpoints.len().saturating_sub(keep);
        checkpoints[..n_old].iter().try_for_each(|checkpoint| Ok(remove(checkpoint)?))
    }

    /// Removes interim checkpoints that are damaged or not after `step` steps and `epoch` evaluated epochs, but for `kept`.
    pub(crate) fn remove_interim(
        &self,
        (step, epoch): (u64, u64),
        kept: Option<&Path>,
    ) -> Result<(), RunFolderError> {
        for name in names(&self.path)? {
            let path = self.path.join(&name);
            if !is_interim(&path) || Some(path.as_path()) == kept {
                continue;
            }
            let is_later = State::open(&path).is_ok_and(|s| (s.step, s.epoch) > (step, epoch));
            if !is_later {
                remove(&path)?;
            }
        }
        Ok(())
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

/// How the name of an interim checkpoint begins.
pub(crate) const INTERIM: &str = "interim_";

/// Whether this is the name of a checkpoint: `step_N` or `epoch_N`, or one of those after `interim_`.
fn is_checkpoint(name: &str) -> bool {
    let name = name.strip_prefix(INTERIM).unwrap_or(name);
    let number = name.strip_prefix("step_").or_else(|| name.strip_prefix("epoch_"));
    number.is_some_and(|number| number.parse::<u64>().is_ok())
}

/// Whether the checkpoint `path` was not asked for.
fn is_interim(path: &Path) -> bool {
    let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    name.starts_with(INTERIM) && is_checkpoint(&name)
}

/// The checkpoints in a run folder.
#[derive(Default)]
struct Found {
    /// Those whose state can be read, the earliest first.
    checkpoints: Vec<PathBuf>,
    damaged: Vec<StateError>,
}

/// Finds the checkpoints in the run folder `path`. One of another version is an error: whether it is the latest is unknown.
fn find_checkpoints(path: &Path) -> Result<Found, RunFolderError> {
    let (mut found, mut damaged) = (Vec::new(), Vec::new());
    for name in names(path)?.iter().filter(|name| is_checkpoint(name)) {
        let checkpoint = path.join(name);
        match State::open(&checkpoint) {
            // `step_N` stands before the evaluation that ends an epoch and `epoch_N` after it. Of two at one
            // place, the one that was asked for comes later.
            Ok(state) => {
                found.push(((state.step, state.epoch, !is_interim(&checkpoint)), checkpoint));
            }
            Err(error) if error.is_damage() => damaged.push(error),
            Err(error) => return Err(error.into()),
        }
    }
    found.sort();
    let checkpoints = found.into_iter().map(|(_, checkpoint)| checkpoint).collect();
    Ok(Found { checkpoints, damaged })
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
        let latest = || {
            RunFolder::open(dir.path(), &Start::Latest).unwrap().checkpoint().unwrap().to_owned()
        };
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
        assert_eq!(find_checkpoints(dir.path()).unwrap().checkpoints, [dir.path().join("step_10")]);
    }

    #[test]
    fn resuming_at_what_is_no_checkpoint_says_so() {
        let dir = run(&[METRICS_FILE]);
        let start = Start::At(dir.path().join("step_7"));
        let error = RunFolder::open(dir.path(), &start).unwrap_err().to_string();
        assert!(error.ends_with("step_7` is no checkpoint: it has no `state.json`"), "{error}");
    }
}
