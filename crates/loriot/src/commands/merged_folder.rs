//! `loriot_merge.json`: the mark that a folder came from `loriot merge`.
//!
//! ```text
//! schema_version   1
//! created_by       "loriot 0.1.0"
//! files            every other file of the folder, `/` between the parts of a path
//! ```
//!
//! `--overwrite` replaces a folder with this mark and nothing beside the files that it lists. No reader of
//! models looks at it. A change to this table needs a new version.

use anyhow::Context;
use loriot_files::{OutputError, read_json, write_atomic_json};
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;

const FILE: &str = "loriot_merge.json";
const LIMIT_BYTES: u64 = 1 << 20;

#[derive(serde::Serialize, serde::Deserialize)]
struct Mark {
    schema_version: u32,
    created_by: String,
    files: BTreeSet<String>,
}

/// Marks the folder `dir`, in which all other files are written.
pub fn mark(dir: &Path) -> anyhow::Result<()> {
    let files = files(dir).with_context(|| format!("cannot read `{}`", dir.display()))?;
    let created_by = concat!("loriot ", env!("CARGO_PKG_VERSION")).to_owned();
    Ok(write_atomic_json(&dir.join(FILE), &Mark { schema_version: 1, created_by, files })?)
}

/// Whether a merged model may be written to `dir`: nothing stands there, an empty folder, or what
/// `loriot merge` wrote and nobody added to.
pub fn check_replaceable(dir: &Path) -> Result<(), OutputError> {
    let kept = |reason: String| OutputError::Kept { path: dir.to_owned(), reason };
    let found = match files(dir) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            return Err(kept("it is a file, not a folder".into()));
        }
        Err(source) => return Err(OutputError::io(dir)(source)),
    };
    if found.is_empty() {
        return Ok(());
    }
    let Ok(mark) = read_json::<Mark>(&dir.join(FILE), LIMIT_BYTES) else {
        return Err(kept(format!("it has no `{FILE}`, so that it is not from `loriot merge`")));
    };
    match found.iter().find(|&file| !mark.files.contains(file) && file != FILE) {
        None => Ok(()),
        Some(file) => Err(kept(format!("`{file}` in it is not from `loriot merge`"))),
    }
}

/// The files in `dir` and below.
fn files(dir: &Path) -> io::Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    add_files(dir, "", &mut found)?;
    Ok(found)
}

fn add_files(dir: &Path, prefix: &str, found: &mut BTreeSet<String>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        match entry.file_type()?.is_dir() {
            true => add_files(&entry.path(), &format!("{name}/"), found)?,
            false => drop(found.insert(name)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_marked_folder_with_nothing_added_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let merged = dir.path().join("merged");
        check_replaceable(&merged).unwrap();
        fs::create_dir_all(merged.join("1_Pooling")).unwrap();
        check_replaceable(&merged).unwrap();
        fs::write(merged.join("1_Pooling/config.json"), "{}").unwrap();
        let refused = || check_replaceable(&merged).unwrap_err().to_string();
        assert!(refused().ends_with("so that it is not from `loriot merge`"), "{}", refused());
        mark(&merged).unwrap();
        check_replaceable(&merged).unwrap();
        fs::write(merged.join("1_Pooling/notes"), "mine").unwrap();
        let said = "is not replaced: `1_Pooling/notes` in it is not from `loriot merge`";
        assert!(refused().ends_with(said), "{}", refused());
    }
}
