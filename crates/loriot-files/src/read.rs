//! Small files, read whole, with a limit that is checked before anything is allocated.

use crate::{Hint, open_regular};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// A small file could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadFileError {
    /// The file is missing or may not be read.
    #[error("cannot read `{}`", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The file is larger than a file of its kind may be.
    #[error("`{}` is {found} bytes, more than the {limit} such a file may have", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        found: u64,
        /// The limit.
        limit: u64,
    },
    /// The file is not the JSON it should be.
    #[error("`{}` line {}: not the expected JSON: {source}", path.display(), source.line())]
    Json {
        /// The file.
        path: PathBuf,
        /// What was wrong.
        source: serde_json::Error,
    },
}

impl Hint for ReadFileError {
    fn hint(&self) -> Option<String> {
        match self {
            ReadFileError::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                Some("check the path, and that the download or copy finished".into())
            }
            ReadFileError::Json { .. } => Some("fetch the file again; it may be damaged".into()),
            _ => None,
        }
    }
}

/// The bytes of a regular file of at most `limit` bytes.
pub fn read_limited(path: &Path, limit: u64) -> Result<Vec<u8>, ReadFileError> {
    let io = |source| ReadFileError::Io { path: path.to_owned(), source };
    read_limited_open(open_regular(path).map_err(io)?, path, limit)
}

/// The same of a file that is open; `path` is for messages.
pub fn read_limited_open(file: File, path: &Path, limit: u64) -> Result<Vec<u8>, ReadFileError> {
    let io = |source| ReadFileError::Io { path: path.to_owned(), source };
    let found = file.metadata().map_err(io)?.len();
    if found > limit {
        return Err(ReadFileError::TooLarge { path: path.to_owned(), found, limit });
    }
    let mut bytes = Vec::new();
    // The size above may be a lie (a growing file): the reader is limited as well.
    file.take(limit).read_to_end(&mut bytes).map_err(io)?;
    Ok(bytes)
}

/// A JSON file of at most `limit` bytes as `T`.
pub fn read_json<T: serde::de::DeserializeOwned>(
    path: &Path,
    limit: u64,
) -> Result<T, ReadFileError> {
    parse_json(&read_limited(path, limit)?, path)
}

/// JSON that was read from `path` as `T`.
pub fn parse_json<T: serde::de::DeserializeOwned>(
    bytes: &[u8],
    path: &Path,
) -> Result<T, ReadFileError> {
    serde_json::from_slice(bytes)
        .map_err(|source| ReadFileError::Json { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_over_the_limit_is_refused_unread() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "12345").unwrap();
        assert_eq!(read_limited(file.path(), 5).unwrap(), b"12345");
        let error = read_limited(file.path(), 4).unwrap_err().to_string();
        assert!(error.ends_with("is 5 bytes, more than the 4 such a file may have"), "{error}");
    }

    #[test]
    fn json_errors_name_the_line() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "{\n  \"a\": nope\n}").unwrap();
        let error = read_json::<serde_json::Value>(file.path(), 100).unwrap_err();
        assert!(error.to_string().contains("line 2"), "{error}");
        assert!(error.hint().is_some());
    }
}
