//! One writer of an output at a time.
//!
//! The lock is a file `.NAME.lock` beside the output, locked through the operating system, which
//! lets go of it when the process ends in whatever way: a file that a crash left behind locks nothing.
//! Whoever gets the lock clears up first what a run that was killed has left beside the output. Where nobody may
//! write beside the output (a mounted volume), the folder itself is locked instead.

use crate::{OutputError, follow_links, new_dir};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

/// The right to write to one output, until this is dropped.
///
/// Two processes that write to one output at once would mix their bytes, or each would delete what the
/// other is at. Take the lock before the first look at what stands there.
#[derive(Debug)]
pub struct OutputLock {
    /// The file beside the output; `None` where the folder itself is locked.
    path: Option<PathBuf>,
    /// Keeps the lock: closing it lets go.
    _file: File,
}

impl OutputLock {
    /// Locks `output`, a file or folder that need not exist. Missing parent folders are made, and temporary
    /// files and folders that killed runs have left of this output are removed.
    ///
    /// [`OutputError::InUse`] if a process holds it, this one included.
    pub fn take(output: &Path) -> Result<OutputLock, OutputError> {
        let error = |source| OutputError::Io { path: output.to_owned(), source };
        let (target, path) = lock_path(output).map_err(error)?;
        loop {
            let file = match open(&path) {
                Ok(file) => file,
                Err(source) if cannot_write(&source) && target.is_dir() => {
                    return lock_folder(&target, output);
                }
                Err(source) => return Err(error(source)),
            };
            let alone = try_lock(&file, output)?;
            // The holder before us may have removed the file after we opened it.
            if is_at(&file, &path) {
                let lock = OutputLock { path: Some(path), _file: file };
                if alone && let Err(source) = new_dir::recover(&target) {
                    return Err(error(source));
                }
                return Ok(lock);
            }
        }
    }
}

/// Whether the system says that nobody may write here.
fn cannot_write(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
}

/// Locks the folder `target`, beside which nothing can be written, and so nothing stands that is to be cleared up.
fn lock_folder(target: &Path, output: &Path) -> Result<OutputLock, OutputError> {
    let folder = File::open(target).map_err(OutputError::io(output))?;
    try_lock(&folder, output)?;
    Ok(OutputLock { path: None, _file: folder })
}

/// Locks `file` for the writer of `output`; false where there are no locks.
fn try_lock(file: &File, output: &Path) -> Result<bool, OutputError> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Err(OutputError::InUse { path: output.to_owned() }),
        // Some network file systems have no locks: two writers cannot be told apart there.
        Err(TryLockError::Error(source)) if source.kind() == io::ErrorKind::Unsupported => {
            Ok(false)
        }
        Err(TryLockError::Error(source)) => Err(OutputError::io(output)(source)),
    }
}

impl Drop for OutputLock {
    fn drop(&mut self) {
        // Removed while it is still locked, so that nobody's newer file is removed.
        if let Some(path) = &self.path {
            let _ = fs::remove_file(path);
        }
    }
}

/// `output` where it stands, links followed, and the path of its lock.
fn lock_path(output: &Path) -> io::Result<(PathBuf, PathBuf)> {
    let output = std::path::absolute(follow_links(output))?;
    let parent = output.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(parent)?;
    // Two paths of one output must give one lock.
    let target = match output.file_name() {
        Some(name) => fs::canonicalize(parent)?.join(name),
        None => fs::canonicalize(&output)?,
    };
    let mut name = std::ffi::OsString::from(".");
    name.push(target.file_name().unwrap_or_default());
    name.push(".lock");
    let lock = target.with_file_name(name);
    Ok((target, lock))
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).write(true).truncate(false).open(path)
}

/// Whether `path` still names the open `file`.
#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let id = |metadata: &fs::Metadata| (metadata.dev(), metadata.ino());
    matches!((file.metadata(), fs::metadata(path)), (Ok(a), Ok(b)) if id(&a) == id(&b))
}

/// An open file cannot be removed here, so that its name stays its own.
#[cfg(not(unix))]
fn is_at(_: &File, _: &Path) -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Hint;

    #[test]
    fn a_second_writer_is_refused_until_the_first_is_done() {
        let dir = tempfile::tempdir().unwrap();
        let output = dir.path().join("deep/shop");
        let first = OutputLock::take(&output).unwrap();
        let error = OutputLock::take(&output).unwrap_err();
        assert!(
            error.to_string().ends_with("shop` is being written by another process"),
            "{error}"
        );
        assert!(error.hint().unwrap().contains("wait"));
        OutputLock::take(&dir.path().join("deep/other")).unwrap();
        drop(first);
        drop(OutputLock::take(&output).unwrap());
        assert_eq!(fs::read_dir(dir.path().join("deep")).unwrap().count(), 0);
    }

    #[test]
    fn what_a_crash_left_behind_locks_nothing() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(".shop.lock"), "").unwrap();
        OutputLock::take(&dir.path().join("shop")).unwrap();
    }

    #[cfg(unix)]
    #[test]
    fn a_link_and_its_target_are_one_output() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("shop")).unwrap();
        std::os::unix::fs::symlink("shop", dir.path().join("link")).unwrap();
        let _held = OutputLock::take(&dir.path().join("link")).unwrap();
        OutputLock::take(&dir.path().join("shop")).unwrap_err();
        // Nor does it matter whether the target is there yet, or by which way one comes to it.
        std::os::unix::fs::symlink("new", dir.path().join("dangling")).unwrap();
        let _held = OutputLock::take(&dir.path().join("dangling")).unwrap();
        OutputLock::take(&dir.path().join("shop/../new")).unwrap_err();
    }

    #[cfg(unix)]
    #[test]
    fn a_folder_beside_which_nobody_may_write_is_locked_itself() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let run = dir.path().join("run");
        fs::create_dir(&run).unwrap();
        let taken = |take: &dyn Fn() -> Result<OutputLock, OutputError>| {
            let first = take().unwrap();
            assert!(matches!(take(), Err(OutputError::InUse { .. })));
            drop(first);
            drop(take().unwrap());
            assert!(run.is_dir());
        };
        taken(&|| lock_folder(&run, &run));
        let allow = |mode| fs::set_permissions(dir.path(), fs::Permissions::from_mode(mode));
        allow(0o555).unwrap();
        taken(&|| OutputLock::take(&run));
        // Root may write anywhere, and finds the lock's file.
        let is_enforced = fs::write(dir.path().join("x"), "").is_err();
        if is_enforced {
            assert!(OutputLock::take(&run).unwrap().path.is_none());
            OutputLock::take(&dir.path().join("new")).unwrap_err();
        }
        allow(0o755).unwrap();
    }

    #[test]
    fn many_threads_never_hold_it_together() {
        let dir = tempfile::tempdir().unwrap();
        let (output, n_holders) = (dir.path().join("shop"), std::sync::atomic::AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mut n_held = 0;
                    while n_held < 50 {
                        let Ok(_lock) = OutputLock::take(&output) else { continue };
                        assert_eq!(n_holders.fetch_add(1, std::sync::atomic::Ordering::SeqCst), 0);
                        n_holders.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                        n_held += 1;
                    }
                });
            }
        });
    }
}
