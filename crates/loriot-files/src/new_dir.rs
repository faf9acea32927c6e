//! Folders that appear whole or not at all.
//!
//! A folder `NAME` is filled as `.tmp-NAME-??????` beside its final name, synced, and renamed at the end. One
//! that stands there already changes places with it, so that at every moment one of the two stands under
//! the name. Where names cannot change places, the old folder waits as `.tmp-NAME.old` meanwhile: after a
//! crash in between, whoever locks `NAME` next ([`crate::OutputLock`]) brings it back.

use crate::atomic::{LikeAnyNew, parent, temporary_prefix};
use crate::{OutputError, disk, follow_links};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A folder that is filled under a temporary name and gets its own at [`NewDir::commit`].
///
/// Dropped without a commit, it removes what it held.
#[derive(Debug)]
pub struct NewDir {
    staged: tempfile::TempDir,
    /// As it was given, for messages.
    asked_for: PathBuf,
    /// Where it stands, if it was given as a link.
    target: PathBuf,
    replace: bool,
}

impl NewDir {
    /// Begins `target`, which must not exist (an empty folder counts as absent) unless `replace`.
    ///
    /// `replace` replaces whatever stands there: the caller knows what it is.
    pub fn begin(target: &Path, replace: bool) -> Result<NewDir, OutputError> {
        let asked_for = target.to_owned();
        if !replace && !is_absent(target) {
            return Err(OutputError::Exists { path: asked_for });
        }
        let target = follow_links(target);
        let error = |source| OutputError::Io { path: target.clone(), source };
        let made = fs::create_dir_all(parent(&target)).and_then(|()| {
            let prefix = temporary_prefix(&target);
            let mut builder = tempfile::Builder::new();
            builder.prefix(&prefix).like_any_new(0o777).tempdir_in(parent(&target))
        });
        let staged = made.map_err(error)?;
        Ok(NewDir { staged, asked_for, target, replace })
    }

    /// Where the files go until the commit.
    pub fn path(&self) -> &Path {
        self.staged.path()
    }

    /// Gives the folder its name, once all that is in it is on the disk. What stood there before is removed last.
    pub fn commit(self) -> Result<(), OutputError> {
        let NewDir { staged, asked_for, target, replace } = self;
        if !replace && !is_absent(&target) {
            return Err(OutputError::Exists { path: asked_for });
        }
        let error = |source| OutputError::Io { path: asked_for.clone(), source };
        disk::sync_tree(staged.path()).map_err(error)?;
        let stands_there = target.symlink_metadata().is_ok();
        let put = match stands_there {
            true => put_in_place_of(staged.path(), &target),
            false => disk::rename(staged.path(), &target).map(|()| None),
        };
        let old = put.map_err(error)?;
        // The temporary name is free now, or stands for the old folder.
        let _ = staged.keep();
        disk::sync_folder(parent(&target)).map_err(error)?;
        if let Some(old) = old {
            // What cannot be removed is in nobody's way; the next run tries again.
            let _ = disk::remove(&old);
        }
        Ok(())
    }
}

/// Puts `staged` in the place of what stands at `target`, and returns where that stands now.
fn put_in_place_of(staged: &Path, target: &Path) -> io::Result<Option<PathBuf>> {
    match disk::exchange(staged, target) {
        Ok(()) => Ok(Some(staged.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::Unsupported => put_by_renames(staged, target),
        Err(error) => Err(error),
    }
}

/// The same where names cannot change places. For a moment nothing stands at `target`; see [`recover`].
fn put_by_renames(staged: &Path, target: &Path) -> io::Result<Option<PathBuf>> {
    let aside = aside(target);
    disk::rename(target, &aside)?;
    if let Err(error) = disk::rename(staged, target) {
        let _ = disk::rename(&aside, target);
        return Err(error);
    }
    Ok(Some(aside))
}

/// Where the old folder waits while the new one gets its name.
fn aside(target: &Path) -> PathBuf {
    let prefix = temporary_prefix(target);
    target.with_file_name(format!("{}.old", prefix.trim_end_matches('-')))
}

/// Clears up after a run that was killed while it wrote `target`: brings back what it had moved aside and
/// not replaced yet, and removes its temporary files and folders. The caller is the only writer of `target`.
pub fn recover(target: &Path) -> io::Result<()> {
    let aside = aside(target);
    if aside.symlink_metadata().is_ok() && target.symlink_metadata().is_err() {
        disk::rename(&aside, target)?;
        disk::sync_folder(parent(target))?;
    }
    let prefix = temporary_prefix(target);
    let is_stale = |name: &str| name.strip_prefix(&prefix).is_some_and(is_random);
    for entry in fs::read_dir(parent(target))? {
        let entry = entry?;
        let is_stale = entry.file_name().to_str().is_some_and(is_stale);
        if is_stale || entry.path() == aside {
            disk::remove(&entry.path())?;
        }
    }
    Ok(())
}

/// The output NAME whose unfinished write `name` is, if it has exactly the form `.tmp-NAME-??????` or
/// `.tmp-NAME.old`: what [`recover`] takes for its own.
pub fn unfinished_name(name: &str) -> Option<&str> {
    let name = name.strip_prefix(".tmp-")?;
    let target = match name.rsplit_once('-') {
        Some((target, random)) if is_random(random) => target,
        _ => name.strip_suffix(".old")?,
    };
    (!target.is_empty()).then_some(target)
}

/// Whether this can be what a temporary name ends in.
fn is_random(end: &str) -> bool {
    end.len() == 6 && end.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// Whether nothing stands at `path`, an empty folder counting as nothing.
pub fn is_absent(path: &Path) -> bool {
    match fs::read_dir(path) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::OutputLock;
    use crate::disk::{Call, observe};
    use std::{cell::RefCell, rc::Rc};

    fn entries(dir: &Path) -> Vec<String> {
        let name = |entry: io::Result<fs::DirEntry>| entry.unwrap().file_name();
        let mut names: Vec<_> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| name(entry).to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    /// A folder that holds the folder `out`, which holds the file `old`; and a new one begun in its place.
    fn begun() -> (tempfile::TempDir, PathBuf, NewDir) {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("out");
        fs::create_dir(&target).unwrap();
        fs::write(target.join("old"), "1").unwrap();
        let new = NewDir::begin(&target, true).unwrap();
        fs::write(new.path().join("new"), "2").unwrap();
        (dir, target, new)
    }

    #[test]
    fn an_unfinished_write_is_known_by_its_exact_name() {
        assert_eq!(unfinished_name(".tmp-best-a1B2c3"), Some("best"));
        assert_eq!(unfinished_name(".tmp-out-er-abcdef"), Some("out-er"));
        assert_eq!(unfinished_name(".tmp-best.old"), Some("best"));
        for other in [".tmp-thesis", ".tmp-best-abcde", ".tmp-best-ab_def", ".tmp--abcdef", "best"]
        {
            assert_eq!(unfinished_name(other), None, "{other}");
        }
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("best");
        drop(NewDir::begin(&target, true).unwrap().staged.keep());
        assert_eq!(unfinished_name(&entries(dir.path())[0]), Some("best"));
    }

    #[test]
    fn a_folder_appears_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("deep/out");
        let new = NewDir::begin(&target, false).unwrap();
        fs::write(new.path().join("x"), "1").unwrap();
        assert!(!target.exists());
        drop(new);
        assert_eq!(entries(&dir.path().join("deep")), [""; 0]);

        let new = NewDir::begin(&target, false).unwrap();
        fs::write(new.path().join("x"), "1").unwrap();
        new.commit().unwrap();
        assert_eq!(entries(&target), ["x"]);
        assert!(matches!(NewDir::begin(&target, false), Err(OutputError::Exists { .. })));
    }

    #[test]
    fn replacing_a_folder_drops_what_it_held() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("out");
        fs::create_dir(&target).unwrap();
        fs::write(target.join("old"), "1").unwrap();
        let new = NewDir::begin(&target, true).unwrap();
        fs::write(new.path().join("new"), "2").unwrap();
        new.commit().unwrap();
        assert_eq!(entries(&target), ["new"]);
        assert_eq!(entries(dir.path()), ["out"]);
    }

    #[test]
    fn at_every_moment_the_old_or_the_new_folder_stands_under_the_name() {
        let (dir, target, new) = begun();
        fs::create_dir(new.path().join("sub")).unwrap();
        fs::write(new.path().join("sub/x"), "2").unwrap();
        let staged = new.path().to_owned();
        let calls = Rc::new(RefCell::new(Vec::new()));
        let (told, there) = (Rc::clone(&calls), target.clone());
        let look = move |call: &Call| {
            let held = entries(&there);
            assert!(held == ["old"] || held == ["new", "sub"], "{held:?} after {call:?}");
            told.borrow_mut().push(call.clone());
        };
        observe(look, || new.commit().unwrap());
        let calls = calls.borrow();
        let place = |wanted: Call| {
            let found = calls.iter().position(|call| *call == wanted);
            found.unwrap_or_else(|| panic!("no {wanted:?} among {calls:?}"))
        };
        let put = place(Call::Exchange(staged.clone(), target.clone()));
        for file in ["new", "sub/x"] {
            assert!(place(Call::Sync(staged.join(file))) < put);
        }
        assert!(place(Call::SyncFolder(staged.join("sub"))) < put);
        assert!(place(Call::SyncFolder(staged.clone())) < put);
        let named = place(Call::SyncFolder(dir.path().into()));
        assert!(put < named && named < place(Call::Remove(staged)));
    }

    #[test]
    fn a_run_killed_at_any_moment_leaves_one_folder_and_the_next_sweeps_the_rest() {
        let kill_after = |n_calls: usize, exchanges: bool| {
            let (dir, target, new) = begun();
            let mut n_left = n_calls;
            let kill = move |_: &Call| {
                assert!(n_left > 0, "killed");
                n_left -= 1;
            };
            // What a process that is killed does not do: clear up.
            let staged = new.staged.keep();
            fs::write(dir.path().join(".tmp-out-file12"), "half").unwrap();
            fs::write(dir.path().join(".tmp-out-er-abcdef"), "another output's").unwrap();
            fs::write(dir.path().join(".tmp-output"), "somebody's").unwrap();
            let work = || {
                let old = match exchanges {
                    true => put_in_place_of(&staged, &target).unwrap(),
                    false => put_by_renames(&staged, &target).unwrap(),
                };
                disk::sync_folder(dir.path()).unwrap();
                disk::remove(&old.unwrap()).unwrap();
            };
            let work = std::panic::AssertUnwindSafe(work);
            let ended = std::panic::catch_unwind(|| observe(kill, work)).is_ok();
            let _lock = OutputLock::take(&target).unwrap();
            let held = entries(&target);
            assert!(held == ["old"] || held == ["new"], "{held:?}");
            let others = [".out.lock", ".tmp-out-er-abcdef", ".tmp-output", "out"];
            assert_eq!(entries(dir.path()), others);
            ended
        };
        for exchanges in [true, false] {
            let ended = (0..10).find(|&n_calls| kill_after(n_calls, exchanges));
            assert!(ended.is_some_and(|n_calls| n_calls >= 3), "{ended:?}");
        }
    }

    #[test]
    fn a_folder_that_is_brought_back_is_on_the_disk_before_anything_is_removed() {
        let (dir, target, new) = begun();
        let staged = new.staged.keep();
        let aside = aside(&target);
        fs::rename(&target, &aside).unwrap();
        let calls = Rc::new(RefCell::new(Vec::new()));
        let told = Rc::clone(&calls);
        let tell = move |call: &Call| told.borrow_mut().push(call.clone());
        observe(tell, || recover(&target).unwrap());
        let want = [
            Call::Rename(aside, target),
            Call::SyncFolder(dir.path().into()),
            Call::Remove(staged),
        ];
        assert_eq!(*calls.borrow(), want);
    }

    #[cfg(unix)]
    #[test]
    fn a_link_stays_a_link_and_its_target_is_replaced() {
        let (dir, target, new) = begun();
        drop(new);
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("out", &link).unwrap();
        let new = NewDir::begin(&link, true).unwrap();
        fs::write(new.path().join("new"), "2").unwrap();
        new.commit().unwrap();
        assert!(link.is_symlink());
        assert_eq!(entries(&target), ["new"]);
        assert_eq!(entries(dir.path()), ["link", "out"]);
        // A link that leads nowhere yet.
        std::os::unix::fs::symlink("far/shop", dir.path().join("dangling")).unwrap();
        NewDir::begin(&dir.path().join("dangling"), false).unwrap().commit().unwrap();
        assert!(dir.path().join("dangling").is_symlink() && dir.path().join("far/shop").is_dir());
    }

    #[cfg(unix)]
    #[test]
    fn permissions_are_those_of_any_new_folder() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let [ours, theirs] = ["ours", "theirs"].map(|name| dir.path().join(name));
        NewDir::begin(&ours, false).unwrap().commit().unwrap();
        fs::create_dir(&theirs).unwrap();
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode();
        assert_eq!(mode(&ours), mode(&theirs));
    }
}
