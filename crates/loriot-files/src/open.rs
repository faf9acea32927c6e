//! Opening what somebody else left: regular files only, and all files of a folder from the same folder.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

/// Opens a regular file for reading.
///
/// A named pipe would be waited for, and a device such as `/dev/zero` never ends: both are refused, as is a
/// folder, by an error that says what was found.
pub fn open_regular(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        // Else opening a pipe waits for its writer. A regular file does not care.
        options.custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed());
    }
    checked(options.open(path)?)
}

fn checked(file: File) -> io::Result<File> {
    let kind = file.metadata()?.file_type();
    if kind.is_file() {
        return Ok(file);
    }
    Err(match kind.is_dir() {
        true => io::Error::new(io::ErrorKind::IsADirectory, "it is a folder, not a file"),
        false => {
            io::Error::new(io::ErrorKind::InvalidInput, "it is a pipe or a device, not a file")
        }
    })
}

/// An open folder. Its files are those of the folder that was opened, even if another one has taken its
/// name since: two files opened here never come from two folders.
#[derive(Debug)]
pub struct OpenFolder {
    path: PathBuf,
    #[cfg(unix)]
    folder: File,
}

impl OpenFolder {
    /// Opens the folder `path`.
    pub fn open(path: &Path) -> io::Result<OpenFolder> {
        #[cfg(unix)]
        {
            let folder = open_any(path)?;
            if !folder.metadata()?.is_dir() {
                return Err(io::Error::new(io::ErrorKind::NotADirectory, "it is not a folder"));
            }
            Ok(OpenFolder { path: path.to_owned(), folder })
        }
        #[cfg(not(unix))]
        Ok(OpenFolder { path: path.to_owned() })
    }

    /// The path that the folder had when it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens the regular file `name` in it for reading. A name that leads elsewhere (`a/b`, `..`, `/a`) is an
    /// error of kind `InvalidInput`.
    pub fn file(&self, name: &str) -> io::Result<File> {
        if !is_plain_name(name) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "it is not the name of a file in the folder",
            ));
        }
        #[cfg(unix)]
        {
            use rustix::fs::{Mode, OFlags, openat};
            let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
            checked(File::from(openat(&self.folder, name, flags, Mode::empty())?))
        }
        #[cfg(not(unix))]
        open_regular(&self.path.join(name))
    }

    /// Whether the path that was opened still leads to this folder.
    pub fn is_at_its_path(&self) -> bool {
        #[cfg(unix)]
        {
            use std::os::unix::fs::MetadataExt;
            let id = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
            let (here, there) = (self.folder.metadata().map(id), self.path.metadata().map(id));
            matches!((here, there), (Ok(here), Ok(there)) if here == there)
        }
        #[cfg(not(unix))]
        true
    }
}

#[cfg(unix)]
fn open_any(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    OpenOptions::new().read(true).custom_flags(flags).open(path)
}

/// Whether `name` can only name an entry of the folder in which it is looked up.
pub fn is_plain_name(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && !name.contains(['/', '\\', ':', '\0'])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn content(mut file: File) -> String {
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        text
    }

    #[cfg(unix)]
    #[test]
    fn pipes_devices_and_folders_are_refused_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
        assert!(made.success());
        let folder = OpenFolder::open(dir.path()).unwrap();
        let not_a_file = "it is a pipe or a device, not a file";
        assert_eq!(open_regular(&pipe).unwrap_err().to_string(), not_a_file);
        assert_eq!(folder.file("pipe").unwrap_err().to_string(), not_a_file);
        assert_eq!(open_regular(Path::new("/dev/zero")).unwrap_err().to_string(), not_a_file);
        let error = open_regular(dir.path()).unwrap_err();
        assert_eq!(error.to_string(), "it is a folder, not a file");
        let error = OpenFolder::open(&pipe).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotADirectory);
    }

    #[test]
    fn a_name_does_not_lead_out_of_the_folder() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("in")).unwrap();
        std::fs::write(dir.path().join("secret"), "x").unwrap();
        let folder = OpenFolder::open(&dir.path().join("in")).unwrap();
        let absolute = dir.path().join("secret").display().to_string();
        for name in ["../secret", "..", ".", "", "/dev/zero", "a/b", "a\\b", &absolute] {
            assert_eq!(
                folder.file(name).unwrap_err().kind(),
                io::ErrorKind::InvalidInput,
                "{name}"
            );
        }
        let error = folder.file("missing").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[cfg(unix)]
    #[test]
    fn files_come_from_the_folder_that_was_opened() {
        let dir = tempfile::tempdir().unwrap();
        let [shop, aside] = ["shop", "aside"].map(|name| dir.path().join(name));
        std::fs::create_dir(&shop).unwrap();
        std::fs::write(shop.join("a"), "old").unwrap();
        let folder = OpenFolder::open(&shop).unwrap();
        assert!(folder.is_at_its_path());
        std::fs::rename(&shop, &aside).unwrap();
        assert!(!folder.is_at_its_path());
        std::fs::create_dir(&shop).unwrap();
        std::fs::write(shop.join("a"), "new").unwrap();
        assert!(!folder.is_at_its_path());
        assert_eq!(content(folder.file("a").unwrap()), "old");
        assert_eq!(content(open_regular(&shop.join("a")).unwrap()), "new");
    }
}
