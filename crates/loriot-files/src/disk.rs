//! The calls whose order decides what a crash leaves behind: syncs, renames and removals.
//!
//! Every one that this workspace makes for the sake of its outputs goes through here, so that a test can
//! look at the disk after each ([`observe`]) and play through a crash there: a sync that is left out
//! changes no byte that a program reads, and would be missed by nobody until the power fails.

use std::cell::RefCell;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// A call that has succeeded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// The content of a file is on the disk.
    Sync(PathBuf),
    /// The names in a folder are on the disk.
    SyncFolder(PathBuf),
    /// The first name became the second, replacing what stood there.
    Rename(PathBuf, PathBuf),
    /// What the two names stood for changed places.
    Exchange(PathBuf, PathBuf),
    /// A file, or a folder with what was in it, is gone.
    Remove(PathBuf),
}

type Observer = Box<dyn FnMut(&Call)>;

thread_local! {
    static OBSERVER: RefCell<Option<Observer>> = const { RefCell::new(None) };
}

/// Runs `work` and tells `on_call` of every [`Call`] that it makes on this thread, right after each.
///
/// For tests. `on_call` may panic, as if the program were killed there; what it does itself is not
/// observed.
pub fn observe<R>(on_call: impl FnMut(&Call) + 'static, work: impl FnOnce() -> R) -> R {
    /// Ends the observation however `work` ends.
    struct Observing;
    impl Drop for Observing {
        fn drop(&mut self) {
            OBSERVER.set(None);
        }
    }
    OBSERVER.set(Some(Box::new(on_call)));
    let _observing = Observing;
    work()
}

/// Tells the observer, if there is one.
fn tell(call: impl FnOnce() -> Call) {
    if let Some(mut observer) = OBSERVER.take() {
        observer(&call());
        OBSERVER.set(Some(observer));
    }
}

/// Waits until the content of `file`, which stands at `path`, is on the disk.
pub fn sync(file: &File, path: &Path) -> io::Result<()> {
    file.sync_all()?;
    tell(|| Call::Sync(path.to_owned()));
    Ok(())
}

/// Waits until the names in the folder `dir` are on the disk: of a new or renamed file, its content may
/// be there before its name is.
///
/// Where folders cannot be synced nothing happens: the renames hold nevertheless, unless the power fails.
pub fn sync_folder(dir: &Path) -> io::Result<()> {
    match File::open(dir).and_then(|folder| folder.sync_all()) {
        Ok(()) => {}
        Err(error) if cannot_be_done(&error) => return Ok(()),
        Err(error) => return Err(error),
    }
    tell(|| Call::SyncFolder(dir.to_owned()));
    Ok(())
}

/// Whether the system says that folders cannot be synced here (some network file systems and Windows, and
/// folders in which one may write but not look), not that the disk failed.
fn cannot_be_done(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidInput, PermissionDenied, Unsupported};
    matches!(error.kind(), InvalidInput | PermissionDenied | Unsupported)
}

/// Syncs every file in `dir` and below, then every folder.
pub fn sync_tree(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            sync_tree(&entry.path())?;
        } else if kind.is_file() {
            sync(&open_to_sync(&entry.path())?, &entry.path())?;
        }
    }
    sync_folder(dir)
}

/// Windows syncs only what was opened for writing.
fn open_to_sync(path: &Path) -> io::Result<File> {
    if cfg!(windows) { File::options().write(true).open(path) } else { File::open(path) }
}

/// Renames `from` to `to`.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    tell(|| Call::Rename(from.to_owned(), to.to_owned()));
    Ok(())
}

/// Lets two names change places at once, so that at no moment either is missing. An error of kind
/// `Unsupported` where the system or the file system cannot.
pub fn exchange(a: &Path, b: &Path) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        use rustix::io::Errno;
        renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE).map_err(|error| match error {
            // A file system that does not know the flag says that it is invalid.
            Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP => io::ErrorKind::Unsupported.into(),
            error => io::Error::from(error),
        })?;
        tell(|| Call::Exchange(a.to_owned(), b.to_owned()));
        Ok(())
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = (a, b);
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Removes a file or a link, or a folder with all that is in it.
pub fn remove(path: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path)?.is_dir() {
        fs::remove_dir_all(path)?;
    } else {
        fs::remove_file(path)?;
    }
    tell(|| Call::Remove(path.to_owned()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::rc::Rc;

    #[test]
    fn calls_are_told_in_their_order_and_no_longer_than_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let [a, b] = ["a", "b"].map(|name| dir.path().join(name));
        let calls = Rc::new(RefCell::new(Vec::new()));
        let told = Rc::clone(&calls);
        let work = || {
            let file = File::create(&a).unwrap();
            sync(&file, &a).unwrap();
            rename(&a, &b).unwrap();
            sync_folder(dir.path()).unwrap();
            remove(&b).unwrap();
        };
        observe(move |call| told.borrow_mut().push(call.clone()), work);
        remove(&b).unwrap_err();
        File::create(&b).unwrap();
        remove(&b).unwrap();
        let want = [
            Call::Sync(a.clone()),
            Call::Rename(a, b.clone()),
            Call::SyncFolder(dir.path().into()),
            Call::Remove(b),
        ];
        assert_eq!(*calls.borrow(), want);
    }

    #[test]
    fn a_folder_that_is_gone_is_no_folder_that_cannot_be_synced() {
        let dir = tempfile::tempdir().unwrap();
        sync_folder(&dir.path().join("gone")).unwrap_err();
        assert!(cannot_be_done(&io::ErrorKind::Unsupported.into()));
        assert!(!cannot_be_done(&io::ErrorKind::StorageFull.into()));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn names_change_places() {
        let dir = tempfile::tempdir().unwrap();
        let [a, b] = ["a", "b"].map(|name| dir.path().join(name));
        fs::write(&a, "1").unwrap();
        fs::create_dir(&b).unwrap();
        match exchange(&a, &b) {
            Ok(()) => assert!(a.is_dir() && b.is_file()),
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::Unsupported),
        }
    }
}
