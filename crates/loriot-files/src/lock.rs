//! One writer of an output at a time.
//!
//! The lock is a file `.NAME.lock` beside the output, locked through the operating system, which
//! lets go of it when the process ends in whatever way: a file that a crash left behind locks nothing.

use crate::OutputError;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

/// The right to write to one output, until this is dropped.
///
/// Two processes that write to one output at once would mix their bytes, or each would delete what the
/// other is at. Take the lock before the first look at what stands there.
#[derive(Debug)]
pub struct OutputLock {
    path: PathBuf,
    /// Keeps the lock: closing it lets go.
    _file: File,
}

impl OutputLock {
    /// Locks `output`, a file or folder that need not exist. Missing parent folders are made.
    ///
    /// [`OutputError::InUse`] if a process holds it, this one included.
    pub fn take(output: &Path) -> Result<OutputLock, OutputError> {
        let error = OutputError::io(output);
        let path = match lock_path(output) {
            Ok(path) => path,
            Err(source) => return Err(error(source)),
        };
        loop {
            let file = match open(&path) {
                Ok(file) => file,
                Err(source) => return Err(error(source)),
            };
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    return Err(OutputError::InUse { path: output.to_owned() });
                }
                // Some network file systems have no locks: two writers cannot be told apart there.
                Err(TryLockError::Error(source)) if source.kind() == io::ErrorKind::Unsupported => {
                }
                Err(TryLockError::Error(source)) => return Err(error(source)),
            }
            // The holder before us may have removed the file after we opened it.
            if is_at(&file, &path) {
                return Ok(OutputLock { path, _file: file });
            }
        }
    }
}

impl Drop for OutputLock {
    fn drop(&mut self) {
        // Removed while it is still locked, so that nobody's newer file is removed.
        let _ = fs::remove_file(&self.path);
    }
}

/// Where the lock of `output` stands. Of an output that is a link, it is the target that is locked.
fn lock_path(output: &Path) -> io::Result<PathBuf> {
    let output = fs::canonicalize(output).or_else(|_| std::path::absolute(output))?;
    let mut name = std::ffi::OsString::from(".");
    name.push(output.file_name().unwrap_or_default());
    name.push(".lock");
    let path = output.with_file_name(name);
    fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))?;
    Ok(path)
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
