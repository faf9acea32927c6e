//! What `--overwrite` never replaces: an input. And what is said where it is not given.

use crate::message::message;
use loriot_files::OutputError;
use loriot_search::partial_dir;
use std::fs;
use std::path::{Path, PathBuf};

/// The error of an output that is there already. A run that was killed when all but its clearing up was done has left
/// its work beside it, and so has one with `--overwrite` that is not done; only the user knows which.
pub fn exists_already(output: PathBuf) -> anyhow::Error {
    let partial = partial_dir(&output);
    if partial.exists() {
        message!(
            "note: `{}` is work of a run that was interrupted: the same command goes on from there; if \
             `{}` is what you want, delete it",
            partial.display(),
            output.display()
        );
    }
    OutputError::Exists { path: output }.into()
}

/// Refuses an `output` that is one of `inputs`, holds one, or is a part of one, by whatever path they are named.
/// An input that is no path here (a Hub id) or does not exist is no obstacle.
pub fn check_no_input<'a>(
    output: &Path,
    inputs: impl IntoIterator<Item = &'a Path>,
) -> Result<(), OutputError> {
    let Ok(there) = fs::canonicalize(output) else { return Ok(()) }; // Nothing is replaced.
    for input in inputs {
        let Ok(read) = fs::canonicalize(input) else { continue };
        let relation = if read == there {
            "it is the input"
        } else if read.starts_with(&there) {
            "it holds the input"
        } else if there.starts_with(&read) {
            "it is a part of the input"
        } else {
            continue;
        };
        let reason = format!("{relation} `{}`", input.display());
        return Err(OutputError::Kept { path: output.to_owned(), reason });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_input_is_found_behind_links_and_detours_and_within_folders() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::create_dir_all(path("base/sub")).unwrap();
        fs::write(path("base/rows.csv"), "").unwrap();
        fs::write(path("v.npy"), "").unwrap();
        let said = |output: &str, input: &str| {
            let (output, input) = (path(output), path(input));
            let error = check_no_input(&output, [&*path("v.npy"), &*input]).err()?;
            let said = error.to_string();
            Some(said.split_once("replaced: ").unwrap().1.split_once(" `").unwrap().0.to_owned())
        };
        assert_eq!(said("base", "base").unwrap(), "it is the input");
        assert_eq!(said("base", "base/sub/../rows.csv").unwrap(), "it holds the input");
        assert_eq!(said("base/sub", "base").unwrap(), "it is a part of the input");
        assert_eq!(said("base/sub", "base/rows.csv"), None);
        assert_eq!(said("new", "base"), None);
        assert_eq!(said("base", "sentence-transformers/all-MiniLM-L6-v2"), None);
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink("base", path("link")).unwrap();
            assert_eq!(said("link", "base/rows.csv").unwrap(), "it holds the input");
        }
    }
}
