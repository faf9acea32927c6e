//! Files and folders that appear whole or not at all.
//!
//! A file is written beside its final name, synced, and renamed over it. A folder is filled under
//! a temporary name and renamed at the end. A crash leaves at most a `.tmp-…` entry, never half
//! of what was asked for under the name that was asked for.

use crate::Hint;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// An output could not be written. What stood under its name before is unchanged.
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
            OutputError::Exists { .. } => {
                Some("choose another `--output`, or give `--overwrite` to replace it".into())
            }
        }
    }
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Makes a rename durable. Some systems cannot sync a folder; the rename itself still holds.
fn sync_parent(path: &Path) {
    if let Ok(dir) = File::open(parent(path)) {
        let _ = dir.sync_all();
    }
}

/// Writes a file through `fill`, replacing `path` only once every byte is on the disk.
///
/// Missing parent folders are made.
pub fn write_atomic(
    path: &Path,
    fill: impl FnOnce(&mut BufWriter<&File>) -> io::Result<()>,
) -> Result<(), OutputError> {
    let error = |source| OutputError::Io { path: path.to_owned(), source };
    fs::create_dir_all(parent(path)).map_err(error)?;
    let staged = tempfile::Builder::new()
        .prefix(".tmp-")
        .permissions_like_a_new_file()
        .tempfile_in(parent(path))
        .map_err(error)?;
    let mut writer = BufWriter::with_capacity(1 << 16, staged.as_file());
    fill(&mut writer).and_then(|()| writer.flush()).map_err(error)?;
    drop(writer);
    staged.as_file().sync_all().map_err(error)?;
    staged.persist(path).map_err(|failed| error(failed.error))?;
    sync_parent(path);
    Ok(())
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

/// A folder that is filled under a temporary name and gets its own at [`NewDir::commit`].
///
/// Dropped without a commit, it removes what it held.
#[derive(Debug)]
pub struct NewDir {
    staged: tempfile::TempDir,
    target: PathBuf,
    replace: bool,
}

impl NewDir {
    /// Begins `target`, which must not exist (an empty folder counts as absent) unless `replace`.
    pub fn begin(target: &Path, replace: bool) -> Result<NewDir, OutputError> {
        if !replace && !is_absent(target) {
            return Err(OutputError::Exists { path: target.to_owned() });
        }
        let error = |source| OutputError::Io { path: target.to_owned(), source };
        fs::create_dir_all(parent(target)).map_err(error)?;
        let staged =
            tempfile::Builder::new().prefix(".tmp-").tempdir_in(parent(target)).map_err(error)?;
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = fs::Permissions::from_mode(0o755);
            fs::set_permissions(staged.path(), mode).map_err(error)?;
        }
        Ok(NewDir { staged, target: target.to_owned(), replace })
    }

    /// Where the files go until the commit.
    pub fn path(&self) -> &Path {
        self.staged.path()
    }

    /// Gives the folder its name. An old one under that name is moved aside first and removed last.
    pub fn commit(self) -> Result<(), OutputError> {
        let target = self.target;
        let error = |source| OutputError::Io { path: target.clone(), source };
        if !self.replace && !is_absent(&target) {
            return Err(OutputError::Exists { path: target });
        }
        let aside = target
            .exists()
            .then(|| tempfile::Builder::new().prefix(".tmp-old-").tempdir_in(parent(&target)));
        let aside = aside.transpose().map_err(error)?;
        if let Some(aside) = &aside {
            fs::rename(&target, aside.path().join("old")).map_err(error)?;
        }
        let staged = self.staged.keep();
        if let Err(source) = fs::rename(&staged, &target) {
            if let Some(aside) = &aside {
                let _ = fs::rename(aside.path().join("old"), &target);
            }
            let _ = fs::remove_dir_all(&staged);
            return Err(error(source));
        }
        sync_parent(&target);
        Ok(())
    }
}

/// Whether nothing stands at `path`, an empty folder counting as nothing.
pub fn is_absent(path: &Path) -> bool {
    match fs::read_dir(path) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

/// `tempfile` makes files that only their owner may read; outputs get the permissions that any new
/// file of the user gets.
trait PermissionsLikeANewFile {
    fn permissions_like_a_new_file(&mut self) -> &mut Self;
}

impl PermissionsLikeANewFile for tempfile::Builder<'_, '_> {
    fn permissions_like_a_new_file(&mut self) -> &mut Self {
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            // The umask still applies at creation.
            self.permissions(fs::Permissions::from_mode(0o666))
        }
        #[cfg(not(unix))]
        self
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
