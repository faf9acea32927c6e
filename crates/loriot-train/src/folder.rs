//! The folder of a run: which checkpoints it holds, where a run begins or resumes, what it removes.
//!
//! ```text
//! loriot_run.json              what the folder is; the first file of a run (see `record`)
//! metrics.jsonl                the log
//! step_N/ epoch_N/             checkpoints that were asked for
//! interim_step_N/ …            a checkpoint of Ctrl-C, or in the midst of a long epoch
//! best/                        the model after the best epoch
//! adapter_model.safetensors …  the model after the last step
//! README.md                    the model card
//! .tmp-NAME-??????             an unfinished write of one of these, left by a crash; removed when the run goes on
//! NAME.kept                    something of somebody else's that was in the way (see `own_files`)
//! ```
//!
//! An interim checkpoint goes as soon as a later checkpoint, or the end of the run, is on the disk. So the
//! folder of a run that was interrupted ends as that of one that never was. A finished run is never resumed:
//! only `--overwrite` replaces its model.

use crate::metrics_log::METRICS_FILE;
use crate::own_files::{BEST, MODEL, clear_up, is_checkpoint, is_interim, is_unfinished};
use crate::own_files::{make_room, remove};
use crate::record::{RUN_FILE, Record};
use crate::state::{STATE_FILE, State, StateError};
use loriot_files::{Hint, NewDir, OutputError, OutputLock, disk};
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
    /// At this checkpoint, of the run that the folder holds; or of any run, where the folder is new or empty.
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
    /// Its `loriot_run.json` is damaged or of another version.
    #[error("{0}")]
    Record(String),
    /// `--resume PATH` names no checkpoint.
    #[error("`{}` is no checkpoint: it has no `{STATE_FILE}`", .0.display())]
    NoCheckpoint(PathBuf),
    /// `--resume PATH` names a checkpoint outside of the folder, which holds a run.
    #[error("`{}` is no checkpoint of the run in `{}`", checkpoint.display(), folder.display())]
    Elsewhere {
        /// The checkpoint.
        checkpoint: PathBuf,
        /// The folder.
        folder: PathBuf,
    },
    /// It is to be resumed, and holds a trained model that a run from the beginning would replace.
    #[error("`{}` holds a trained model and no checkpoint to go on from", .0.display())]
    OnlyAModel(PathBuf),
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
            RunFolderError::Record(_) => Some(
                "it is damaged or from a later Loriot; choose another `--output`, or move the file \
                 away: the run is then known by its log and checkpoints"
                    .into(),
            ),
            RunFolderError::NoCheckpoint(_) => Some(
                "give a `step_N` or `epoch_N` folder, or `--resume` alone for the latest".into(),
            ),
            RunFolderError::Elsewhere { .. } => Some(
                "`--resume` alone continues the run in `--output`; a new `--output` takes a \
                 checkpoint from anywhere"
                    .into(),
            ),
            RunFolderError::OnlyAModel(_) => {
                Some("`--overwrite` replaces it, another `--output` leaves it alone".into())
            }
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
    start: Start,
    /// The run that it holds, if it does.
    record: Option<Record>,
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
        let record = Record::open(path, &names)?;
        match start {
            Start::New if record.is_some() => return Err(RunFolderError::Exists(path.to_owned())),
            _ if record.is_none() && !names.iter().all(|name| is_nothing(path, name)) => {
                return Err(RunFolderError::Foreign(path.to_owned()));
            }
            _ => {}
        }
        let (mut checkpoints, mut damaged) = (Vec::new(), Vec::new());
        match start {
            Start::New | Start::Overwrite => {}
            Start::Latest => {
                let mut found = find_checkpoints(path)?;
                damaged.append(&mut found.damaged);
                checkpoints = found.paths();
            }
            Start::At(checkpoint) if !checkpoint.join(STATE_FILE).is_file() => {
                return Err(RunFolderError::NoCheckpoint(checkpoint.clone()));
            }
            Start::At(checkpoint) if record.is_some() && !stands_in(path, checkpoint) => {
                let (checkpoint, folder) = (checkpoint.clone(), path.to_owned());
                return Err(RunFolderError::Elsewhere { checkpoint, folder });
            }
            Start::At(checkpoint) => checkpoints.push(checkpoint.clone()),
        }
        if checkpoints.is_empty() && !damaged.is_empty() {
            return Err(damaged.swap_remove(0).into());
        }
        let (path, start) = (path.to_owned(), start.clone());
        let folder = RunFolder { path, start, record, checkpoints, damaged, _lock: lock };
        if folder.has_only_a_model() {
            return Err(RunFolderError::OnlyAModel(folder.path));
        }
        Ok(folder)
    }

    /// Whether a run that is to be resumed would begin anew where a model stands that it may not come to.
    fn has_only_a_model(&self) -> bool {
        let Some(record) = &self.record else { return false };
        // An unfinished run with a record is checked to be the same one, and comes to the same models.
        let is_unfinished = record.state.is_some() && !record.finished;
        let is_there = |name: &str| self.path.join(name).exists();
        let holds_model = is_there(BEST) || record.files.iter().any(|name| is_there(name));
        let begins = self.start == Start::Latest && self.checkpoints.is_empty();
        begins && !is_unfinished && holds_model && self.finished().is_none()
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The end of the run that is to be resumed, where it has come to it and its model is there: nothing is left to do.
    pub fn finished(&self) -> Option<&State> {
        let record = self.record.as_ref().filter(|record| record.finished)?;
        let is_whole = record.files.iter().all(|name| self.path.join(name).exists());
        let resumes = matches!(self.start, Start::Latest | Start::At(_));
        record.state.as_ref().filter(|_| is_whole && resumes)
    }

    /// What a run that overwrites the folder removes or replaces in it. None of it may be an input of the run.
    pub fn replaced(&self) -> Result<Vec<PathBuf>, RunFolderError> {
        let names = self.names_to_replace()?;
        Ok(names
            .iter()
            .map(String::as_str)
            .chain([METRICS_FILE])
            .map(|name| self.path.join(name))
            .collect())
    }

    fn names_to_replace(&self) -> Result<Vec<String>, RunFolderError> {
        let Some(record) = self.record.as_ref().filter(|_| self.start == Start::Overwrite) else {
            return Ok(Vec::new());
        };
        let mut names = names(&self.path)?;
        names.retain(|name| is_checkpoint(name) || name == BEST || record.files.contains(name));
        Ok(names)
    }

    /// Refuses a run that begins as `fresh` if the folder holds another, which no checkpoint would tell.
    pub(crate) fn check_run(&self, fresh: &State) -> Result<(), RunFolderError> {
        let record = self.record.as_ref().filter(|_| self.start != Start::Overwrite);
        match record.and_then(|record| record.state.as_ref()) {
            Some(begun) => Ok(begun.check_run(&self.path.join(RUN_FILE), fresh)?),
            None => Ok(()),
        }
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

    /// Whether the checkpoint that the run goes on from stands in another folder.
    pub(crate) fn goes_on_from_elsewhere(&self) -> bool {
        self.checkpoint().is_some_and(|checkpoint| !stands_in(&self.path, checkpoint))
    }

    /// Goes on from `checkpoint`, which is in this folder.
    pub(crate) fn adopt(&mut self, checkpoint: PathBuf) {
        self.checkpoints = vec![checkpoint];
    }

    /// Makes the folder, marks it as that of a run that begins as `fresh`, and clears up unfinished writes. A run that
    /// overwrites another removes it; one that goes back to a named checkpoint, at `place`, removes the later ones, which
    /// it will come to again. Returns what the user should know.
    ///
    /// The record is written first, so that at every moment the folder is known as a run's.
    pub(crate) fn begin(
        &mut self,
        fresh: &State,
        place: (u64, u64),
    ) -> Result<Vec<String>, RunFolderError> {
        clear_up(&self.path, &names(&self.path)?)?;
        let old = self.names_to_replace()?;
        let files = self.record.take().map(|record| record.files).unwrap_or_default();
        let mut record = Record { finished: false, files, state: Some(fresh.clone()) };
        record.write(&self.path)?;
        // A folder may be there after a crash only if its own name was synced.
        let parent = fs::canonicalize(&self.path).map(|path| path.parent().map(Path::to_owned));
        let synced = parent.and_then(|parent| parent.map_or(Ok(()), |p| disk::sync_folder(&p)));
        synced.map_err(OutputError::io(&self.path))?;
        let mut notes = Vec::new();
        for name in old {
            notes.extend(remove(&self.path.join(name))?);
        }
        if self.start == Start::Overwrite {
            record.files.clear();
            record.write(&self.path)?;
        }
        self.record = Some(record);
        if matches!(self.start, Start::At(_)) && !self.goes_on_from_elsewhere() {
            // The latest first: a crash leaves no gap between those that are left.
            for ((step, epoch, _), checkpoint) in
                find_checkpoints(&self.path)?.checkpoints.iter().rev()
            {
                if (*step, *epoch) > place {
                    notes.extend(remove(checkpoint)?);
                }
            }
        }
        Ok(notes)
    }

    /// Makes sure that `name`, `best` or a checkpoint, may be written. Returns what the user should know.
    pub(crate) fn make_room(&self, name: &str) -> Result<Option<String>, OutputError> {
        make_room(&self.path.join(name), true)
    }

    /// Where the files of the model after the last step are written first. They are gone when it is dropped.
    pub(crate) fn stage_model(&self) -> Result<NewDir, OutputError> {
        NewDir::begin(&self.path.join(MODEL), true)
    }

    /// Puts what is in `staged` at the top of the folder, and records that the run has come to its end, `state`. Returns
    /// what the user should know.
    pub(crate) fn finish(
        &mut self,
        staged: NewDir,
        state: &State,
    ) -> Result<Vec<String>, RunFolderError> {
        let names = names(staged.path())?;
        let record = self.record.as_mut().expect("a run has begun before it is finished");
        let mut notes = Vec::new();
        for name in &names {
            notes.extend(make_room(&self.path.join(name), record.files.contains(name))?);
        }
        record.files.extend(names.iter().cloned());
        record.write(&self.path)?;
        let put = || {
            disk::sync_tree(staged.path())?;
            for name in &names {
                let path = self.path.join(name);
                if path.is_dir() {
                    disk::remove(&path)?;
                }
                disk::rename(&staged.path().join(name), &path)?;
            }
            disk::sync_folder(&self.path)
        };
        put().map_err(OutputError::io(&self.path))?;
        (record.finished, record.state) = (true, Some(state.clone()));
        record.write(&self.path)?;
        drop(staged);
        notes.extend(self.clear_up()?);
        Ok(notes)
    }

    /// Removes what a finished run leaves if it is killed at its very end: unfinished writes and interim checkpoints.
    /// Returns what the user should know.
    pub(crate) fn clear_up(&self) -> Result<Vec<String>, RunFolderError> {
        clear_up(&self.path, &names(&self.path)?)?;
        self.remove_interim((u64::MAX, u64::MAX), None)
    }

    /// Removes all but the `keep` latest checkpoints that were asked for. Returns what the user should know.
    pub(crate) fn prune(&self, keep: usize) -> Result<Vec<String>, RunFolderError> {
        let mut checkpoints = find_checkpoints(&self.path)?.paths();
        checkpoints.retain(|checkpoint| !is_interim(checkpoint));
        let n_old = checkpoints.len().saturating_sub(keep);
        let mut notes = Vec::new();
        for checkpoint in &checkpoints[..n_old] {
            notes.extend(remove(checkpoint)?);
        }
        Ok(notes)
    }

    /// Removes interim checkpoints that are damaged or not after `step` steps and `epoch` evaluated epochs, but for `kept`.
    /// Returns what the user should know.
    pub(crate) fn remove_interim(
        &self,
        (step, epoch): (u64, u64),
        kept: Option<&Path>,
    ) -> Result<Vec<String>, RunFolderError> {
        let mut notes = Vec::new();
        for name in names(&self.path)? {
            let path = self.path.join(&name);
            if !is_interim(&path) || Some(path.as_path()) == kept {
                continue;
            }
            let is_later = State::open(&path).is_ok_and(|s| (s.step, s.epoch) > (step, epoch));
            if !is_later {
                notes.extend(remove(&path)?);
            }
        }
        Ok(notes)
    }
}

/// Whether `name` in the folder `path` is nothing that anybody would miss: left by a run that was killed before it had
/// begun, before there was a record with its log empty.
fn is_nothing(path: &Path, name: &str) -> bool {
    let is_empty = |name: &str| fs::metadata(path.join(name)).is_ok_and(|found| found.len() == 0);
    is_unfinished(name) || (name == METRICS_FILE && is_empty(name))
}

/// Whether `checkpoint` is one of the folder `path`'s.
fn stands_in(path: &Path, checkpoint: &Path) -> bool {
    let canonical = |path: &Path| fs::canonicalize(path).ok();
    let checkpoint = canonical(checkpoint);
    checkpoint.is_some_and(|checkpoint| checkpoint.parent() == canonical(path).as_deref())
}

/// Where a checkpoint stands in its run: steps, evaluated epochs, and whether it was asked for. `step_N` stands before the
/// evaluation that ends an epoch and `epoch_N` after it; of two at one place, the one that was asked for comes later.
type Place = (u64, u64, bool);

/// The checkpoints in a run folder.
#[derive(Default)]
struct Found {
    /// Those whose state can be read, the earliest first.
    checkpoints: Vec<(Place, PathBuf)>,
    damaged: Vec<StateError>,
}

impl Found {
    fn paths(self) -> Vec<PathBuf> {
        self.checkpoints.into_iter().map(|(_, path)| path).collect()
    }
}

/// Finds the checkpoints in the run folder `path`. One of another version is an error: whether it is the latest is unknown.
fn find_checkpoints(path: &Path) -> Result<Found, RunFolderError> {
    let mut found = Found::default();
    for name in names(path)?.iter().filter(|name| is_checkpoint(name)) {
        let checkpoint = path.join(name);
        match State::open(&checkpoint) {
            Ok(state) => {
                let place = (state.step, state.epoch, !is_interim(&checkpoint));
                found.checkpoints.push((place, checkpoint));
            }
            Err(error) if error.is_damage() => found.damaged.push(error),
            Err(error) => return Err(error.into()),
        }
    }
    found.checkpoints.sort();
    Ok(found)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::tests::state;

    fn checkpoint(dir: &Path, name: &str, step: u64, epoch: u64) {
        fs::create_dir(dir.join(name)).unwrap();
        fs::write(dir.join(name).join("loriot.json"), "").unwrap();
        State { step, epoch, ..state() }.write(&dir.join(name)).unwrap();
    }

    fn record(finished: bool, files: &[&str]) -> Record {
        let files = files.iter().map(|name| (*name).to_owned()).collect();
        Record { finished, files, state: Some(state()) }
    }

    /// The folder of a run, with these files beside its record.
    fn run(finished: bool, own: &[&str], others: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        record(finished, own).write(dir.path()).unwrap();
        for name in own.iter().chain(others) {
            fs::write(dir.path().join(name), "").unwrap();
        }
        dir
    }

    fn sorted_names(dir: &Path) -> Vec<String> {
        let mut found = names(dir).unwrap();
        found.sort();
        found
    }

    #[test]
    fn a_run_is_neither_replaced_nor_continued_unasked() {
        let dir = run(false, &[], &[METRICS_FILE]);
        let error = RunFolder::open(dir.path(), &Start::New).unwrap_err();
        assert!(error.to_string().ends_with("holds a training run already"));
        assert!(error.hint().unwrap().starts_with("`--resume` continues it, `--overwrite` repl"));
        RunFolder::open(dir.path(), &Start::Latest).unwrap();
        RunFolder::open(dir.path(), &Start::Overwrite).unwrap();
    }

    #[test]
    fn a_folder_of_something_else_is_left_alone_whatever_was_asked() {
        let foreign = |files: &[(&str, &str)]| {
            let dir = tempfile::tempdir().unwrap();
            for (name, content) in files {
                let path = dir.path().join(name);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, content).unwrap();
            }
            for start in [Start::New, Start::Overwrite, Start::Latest] {
                let error = RunFolder::open(dir.path(), &start).unwrap_err().to_string();
                assert!(error.ends_with("is not empty and holds no training run"), "{error}");
            }
        };
        foreign(&[("thesis.txt", "years of work")]);
        foreign(&[(".tmp-thesis/a.tex", "years of work")]);
        foreign(&[(".tmp-thesis-abcdef", "years of work")]);
        // Another trainer's.
        foreign(&[("metrics.jsonl", "{\"loss\":1}\n"), ("model.safetensors", "years of work")]);
        foreign(&[("metrics.jsonl", ""), ("config.json", "{}"), ("loriot.json", "{}")]);
        foreign(&[("step_5/state.json", "{\"schema_version\":2}")]);
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("thesis.txt");
        fs::write(&file, "").unwrap();
        let error = RunFolder::open(&file, &Start::New).unwrap_err().to_string();
        assert!(error.ends_with("is not a folder"), "{error}");
    }

    #[test]
    fn what_a_killed_run_left_before_it_began_is_nothing() {
        let dir = tempfile::tempdir().unwrap();
        for name in [".tmp-loriot_run.json-aB3dEf", ".tmp-best-abcdef", METRICS_FILE] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        let mut folder = RunFolder::open(dir.path(), &Start::New).unwrap();
        folder.begin(&state(), (0, 0)).unwrap();
        assert_eq!(sorted_names(dir.path()), [RUN_FILE, METRICS_FILE]);
    }

    #[test]
    fn the_latest_checkpoint_is_the_one_furthest_on_not_the_last_by_name() {
        let dir = run(false, &[], &[]);
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
        let theirs = ["README.md", "notes.txt", ".tmp-x", ".tmp-thesis-abcdef", "step_07"];
        let dir = run(true, &["adapter_model.safetensors", "loriot.json"], &theirs);
        fs::write(dir.path().join(".tmp-step_1-abcdef"), "").unwrap();
        for name in ["step_1", "step_2", "best"] {
            checkpoint(dir.path(), name, 1, 0);
        }
        fs::write(dir.path().join("step_2/notes.txt"), "mine").unwrap();
        fs::create_dir(dir.path().join("epoch_9")).unwrap();
        fs::write(dir.path().join("epoch_9/state.json"), "my own").unwrap();
        let mut folder = RunFolder::open(dir.path(), &Start::Overwrite).unwrap();
        let said = folder.begin(&state(), (0, 0)).unwrap();
        let mut left = theirs.map(str::to_owned).to_vec();
        left.extend([RUN_FILE, "epoch_9.kept", "step_2.kept"].map(str::to_owned));
        left.sort();
        assert_eq!(sorted_names(dir.path()), left);
        assert_eq!(fs::read(dir.path().join("step_2.kept/notes.txt")).unwrap(), b"mine");
        assert!(said.len() == 2 && said[0].ends_with(".kept`"), "{said:?}");
    }

    #[test]
    fn a_model_is_put_beside_what_is_the_users() {
        let dir = run(false, &["loriot.json"], &["README.md"]);
        fs::write(dir.path().join("README.md"), "mine").unwrap();
        let mut folder = RunFolder::open(dir.path(), &Start::Latest).unwrap();
        for n_kept in [1, 0] {
            let staged = folder.stage_model().unwrap();
            for name in ["README.md", "loriot.json", "1_Pooling/config.json"] {
                let path = staged.path().join(name);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, "ours").unwrap();
            }
            assert_eq!(folder.finish(staged, &state()).unwrap().len(), n_kept);
            let names = [RUN_FILE, "1_Pooling", "README.md", "README.md.kept", "loriot.json"];
            let mut names = names.map(str::to_owned);
            names.sort();
            assert_eq!(sorted_names(dir.path()), names);
            assert_eq!(fs::read(dir.path().join("README.md.kept")).unwrap(), b"mine");
            assert_eq!(fs::read(dir.path().join("README.md")).unwrap(), b"ours");
        }
    }

    #[test]
    fn pruning_keeps_the_latest() {
        let dir = run(false, &[], &[]);
        for step in [1, 2, 10] {
            checkpoint(dir.path(), &format!("step_{step}"), step, 0);
        }
        RunFolder::open(dir.path(), &Start::Latest).unwrap().prune(1).unwrap();
        assert_eq!(find_checkpoints(dir.path()).unwrap().paths(), [dir.path().join("step_10")]);
    }

    #[test]
    fn resuming_at_what_is_no_checkpoint_or_another_runs_says_so() {
        let dir = run(false, &[], &[]);
        let start = Start::At(dir.path().join("step_7"));
        let error = RunFolder::open(dir.path(), &start).unwrap_err().to_string();
        assert!(error.ends_with("step_7` is no checkpoint: it has no `state.json`"), "{error}");
        let other = run(false, &[], &[]);
        checkpoint(other.path(), "step_7", 7, 1);
        let start = Start::At(other.path().join("step_7"));
        let error = RunFolder::open(dir.path(), &start).unwrap_err();
        assert!(error.to_string().contains("step_7` is no checkpoint of the run in `"), "{error}");
        assert!(error.hint().unwrap().contains("a new `--output`"));
        RunFolder::open(&dir.path().join("new"), &start).unwrap();
    }

    #[test]
    fn a_record_that_cannot_be_read_is_refused_whatever_was_asked() {
        let dir = run(false, &[], &[]);
        let path = dir.path().join(RUN_FILE);
        let good = fs::read_to_string(&path).unwrap();
        let version =
            |n: u32| good.replacen("\"schema_version\": 1", &format!("\"schema_version\": {n}"), 1);
        for (text, want) in [
            ("", "not the expected JSON"),
            ("{}", "its schema version is null, expected 1"),
            (&*version(2), "its schema version is 2, expected 1"),
            (&*good.replace("\"files\"", "\"filez\""), "unknown field `filez`"),
            (&*good.replace("\"isa\"", "\"isb\""), "`isb`"),
        ] {
            fs::write(&path, text).unwrap();
            for start in [Start::New, Start::Overwrite, Start::Latest] {
                let error = RunFolder::open(dir.path(), &start).unwrap_err();
                assert!(error.to_string().contains(want), "{error}");
                assert!(error.hint().unwrap().contains("move the file away"));
            }
        }
        // Of a name out of the folder nothing is removed.
        fs::create_dir(dir.path().join("sub")).unwrap();
        fs::write(dir.path().join("sub/thesis"), "").unwrap();
        record(true, &["sub/thesis", "sub/../sub/thesis"]).write(dir.path()).unwrap();
        let folder = RunFolder::open(dir.path(), &Start::Overwrite).unwrap();
        assert_eq!(folder.replaced().unwrap(), [dir.path().join(METRICS_FILE)]);
    }
}
