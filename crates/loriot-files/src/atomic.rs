//! Files that appear whole or not at all.
//!
//! A file `NAME` is written beside its final name as `.tmp-NAME-??????`, synced, and renamed over it. A
//! crash leaves at most that temporary file, never half of what was asked for under the name that was asked
//! for; whoever locks `NAME` next ([`crate::OutputLock`]) removes it. An output that is a symbolic link stays
//! one: what it leads to is written.

use crate::{Hint, disk};
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// An output could not be written. What stood under its name before is unchanged, unless the disk failed
/// after the last rename.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// The system refused: no space, no permission, no such folder.
    #[error("cannot write `{}`", path.display())]
    Io {
        /// What was to be written.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Something is there already.
    #[error("`{}` exists already", path.display())]
    Exists {
        /// The path in the way.
        path: PathBuf,
    },
    /// Something is there that may not be replaced.
    #[error("`{}` is not replaced: {reason}", path.display())]
    Kept {
        /// The output.
        path: PathBuf,
        /// What is in the way.
        reason: String,
    },
    /// Somebody else is writing it.
    #[error("`{}` is being written by another process", path.display())]
    InUse {
        /// The output.
        path: PathBuf,
    },
}

impl OutputError {
    /// Wraps what the system said about `path`.
    pub fn io(path: &Path) -> impl FnOnce(io::Error) -> OutputError + '_ {
        move |source| OutputError::Io { path: path.to_owned(), source }
    }
}

impl Hint for OutputError {
    fn hint(&self) -> Option<String> {
        match self {
            OutputError::Io { source, .. } => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                    Some("free some space or write elsewhere; nothing was left half-written".into())
                }
                io::ErrorKind::PermissionDenied => Some("choose a folder you may write to".into()),
                _ => None,
            },
            OutputError::InUse { .. } => {
                Some("wait until it ends, or choose another `--output`".into())
            }
            OutputError::Kept { .. } => Some(
                "`--overwrite` replaces what the same command wrote and nothing else: move it away, \
                 or choose another `--output`"
                    .into(),
            ),
            OutputError::Exists { .. } => {
                Some("choose another `--output`, or give `--overwrite` to replace it".into())
            }
        }
    }
}

/// The folder in which `path` stands.
pub fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// The path that `path` leads to where it is a symbolic link, whether or not something stands there.
pub fn follow_links(path: &Path) -> PathBuf {
    /// As many as Linux follows.
    const MAX_LINKS: usize = 40;
    // `link/` is the link here, too.
    let mut path: PathBuf = path.components().collect();
    for _ in 0..MAX_LINKS {
        match fs::read_link(&path) {
            Ok(target) => path = parent(&path).join(target),
            Err(_) => break, // It is no link.
        }
    }
    path
}

/// What the temporary names of the output `path` begin with; six letters and digits follow.
pub(crate) fn temporary_prefix(path: &Path) -> String {
    /// Of the 255 bytes that most systems let a name have.
    const MAX_BYTES: usize = 200;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let end = name.floor_char_boundary(MAX_BYTES);
    format!(".tmp-{}-", &name[..end])
}

/// Writes a file through `fill`, replacing `path` only once every byte is on the disk.
///
/// Missing parent folders are made.
pub fn write_atomic(
    path: &Path,
    fill: impl FnOnce(&mut BufWriter<&File>) -> io::Result<()>,
) -> Result<(), OutputError> {
    let error = |source| OutputError::Io { path: path.to_owned(), source };
    let target = follow_links(path);
    fs::create_dir_all(parent(&target)).map_err(error)?;
    let staged = tempfile::Builder::new()
        .prefix(&temporary_prefix(&target))
        .like_any_new(0o666)
        .tempfile_in(parent(&target))
        .map_err(error)?;
    let mut writer = BufWriter::with_capacity(1 << 16, staged.as_file());
    fill(&mut writer).and_then(|()| writer.flush()).map_err(error)?;
    drop(writer);
    disk::sync(staged.as_file(), staged.path()).map_err(error)?;
    // From here on the rename decides, not the temporary file's end.
    let (file, staged) = staged.keep().map_err(|failed| error(failed.error))?;
    drop(file);
    if let Err(source) = disk::rename(&staged, &target) {
        let _ = fs::remove_file(&staged);
        return Err(error(source));
    }
    disk::sync_folder(parent(&target)).map_err(error)
}

/// A file without a name in the folder of `path`, for what does not fit in memory. It goes when it is closed, and
/// when the process ends in whatever way.
///
/// Missing parent folders are made.
pub fn scratch_file(path: &Path) -> Result<File, OutputError> {
    let made = fs::create_dir_all(parent(path)).and_then(|()| tempfile::tempfile_in(parent(path)));
    made.map_err(OutputError::io(path))
}

/// Writes `bytes` as a file; see [`write_atomic`].
pub fn write_atomic_bytes(path: &Path, bytes: &[u8]) -> Result<(), OutputError> {
    write_atomic(path, |writer| writer.write_all(bytes))
}

/// Writes `value` as indented JSON with a final newline; see [`write_atomic`].
pub fn write_atomic_json(path: &Path, value: &impl serde::Serialize) -> Result<(), OutputError> {
    write_atomic(path, |writer| {
        serde_json::to_writer_pretty(&mut *writer, value)?;
        writer.write_all(b"\n")
    })
}

/// `tempfile` makes files and folders that only their owner may read; outputs get the permissions that any new one of
/// the user gets.
pub(crate) trait LikeAnyNew {
    /// `mode` is what the umask takes from: 0o666 for files, 0o777 for folders.
    fn like_any_new(&mut self, mode: u32) -> &mut Self;
}

impl LikeAnyNew for tempfile::Builder<'_, '_> {
    fn like_any_new(&mut self, mode: u32) -> &mut Self {
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            self.permissions(fs::Permissions::from_mode(mode))
        }
        #[cfg(not(unix))]
        {
            let _ = mode;
            self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(dir: &Path) -> Vec<String> {
        let name = |entry: io::Result<fs::DirEntry>| entry.unwrap().file_name();
        let mut names: Vec<_> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| name(entry).to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_failed_write_leaves_the_old_file_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.txt");
        write_atomic_bytes(&path, b"old").unwrap();
        let result = write_atomic(&path, |writer| {
            writer.write_all(b"half of the new")?;
            Err(io::Error::from(io::ErrorKind::StorageFull))
        });
        let error = result.unwrap_err();
        assert!(error.hint().unwrap().contains("free some space"));
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(entries(dir.path()), ["a.txt"]);
    }

    #[test]
    fn content_is_synced_before_the_name_and_the_name_before_the_end() {
        use crate::disk::{Call, observe};
        use std::{cell::RefCell, rc::Rc};
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.txt");
        let calls = Rc::new(RefCell::new(Vec::new()));
        let told = Rc::clone(&calls);
        let tell = move |call: &Call| told.borrow_mut().push(call.clone());
        observe(tell, || write_atomic_bytes(&path, b"new").unwrap());
        let calls = calls.borrow();
        let [Call::Sync(staged), Call::Rename(from, to), Call::SyncFolder(folder)] = &calls[..]
        else {
            panic!("{calls:?}");
        };
        assert_eq!((staged, to, &**folder), (from, &path, dir.path()));
    }

    #[cfg(unix)]
    #[test]
    fn a_link_stays_a_link() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("far")).unwrap();
        for (link, target) in [("a", "b"), ("b", "far/c")] {
            std::os::unix::fs::symlink(target, dir.path().join(link)).unwrap();
        }
        for content in ["1", "2"] {
            write_atomic_bytes(&dir.path().join("a"), content.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(dir.path().join("far/c")).unwrap(), content);
        }
        assert!(dir.path().join("b").is_symlink());
        assert_eq!(entries(dir.path()), ["a", "b", "far"]);
        assert_eq!(entries(&dir.path().join("far")), ["c"]);
    }

    #[test]
    fn a_long_name_leaves_room_for_the_temporary_one() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["x".repeat(255), "é".repeat(127)] {
            write_atomic_bytes(&dir.path().join(&name), b"1").unwrap();
            assert!(dir.path().join(name).exists());
        }
    }

    #[test]
    fn a_full_disk_is_an_error_with_a_remedy() {
        let full = Path::new("/dev/full");
        if full.exists() {
            // Every write to this device fails as on a full disk.
            let mut file = fs::OpenOptions::new().write(true).open(full).unwrap();
            let source = file.write_all(b"x").unwrap_err();
            let error = OutputError::Io { path: full.to_owned(), source };
            assert!(error.hint().unwrap().contains("free some space"));
        }
    }
}
