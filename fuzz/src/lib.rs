//! What the fuzz targets share: a good folder of the repository with one file replaced by the input.
//!
//! `cargo +nightly fuzz run rows` (or `model_folder`, `adapter`, `catalogue`, `graph`) runs a target; nothing a
//! target reads may panic, hang or allocate beyond its limits, whatever the bytes.
//!
//! In reading order: this file makes damaged folders · [`targets`] what is done with them · `smoke` a short run of
//! every target, in each test run.

pub mod targets;

#[cfg(test)]
mod smoke;

use std::fs;
use std::path::{Path, PathBuf};

/// A folder below the repository's root.
pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// A copy of `good` in which one file has other bytes: the first byte of `input` chooses the file,
/// the rest is its content. `None` for an empty input.
pub fn with_one_file_replaced(good: &Path, input: &[u8]) -> Option<tempfile::TempDir> {
    let (&choice, content) = input.split_first()?;
    let copy = tempfile::tempdir().expect("a temporary folder can be made");
    let mut files = Vec::new();
    copy_files(good, copy.path(), &mut files);
    files.sort();
    let replaced = &files[usize::from(choice) % files.len()];
    fs::write(replaced, content).expect("a temporary file can be written");
    Some(copy)
}

/// For each file of `good` the input that leaves it as it is: seeds to damage.
pub fn inputs_of(good: &Path) -> Vec<Vec<u8>> {
    let copy = tempfile::tempdir().expect("a temporary folder can be made");
    let mut files = Vec::new();
    copy_files(good, copy.path(), &mut files);
    files.sort();
    let input = |(choice, path): (usize, &PathBuf)| {
        let content = fs::read(path).expect("a good file can be read");
        [&[choice as u8], &content[..]].concat()
    };
    files.iter().enumerate().map(input).collect()
}

fn copy_files(from: &Path, to: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(from).expect("the good folder is there") {
        let entry = entry.expect("the good folder can be listed");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            fs::create_dir_all(&target).expect("a temporary folder can be made");
            copy_files(&entry.path(), &target, files);
        } else {
            fs::copy(entry.path(), &target).expect("a good file can be copied");
            files.push(target);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_byte_chooses_the_file_and_the_rest_is_its_content() {
        let good = repository("tests/golden/tiny_bert");
        assert!(with_one_file_replaced(&good, &[]).is_none());
        let copy = with_one_file_replaced(&good, b"\x00abc").expect("an input");
        let replaced = copy.path().join("1_Pooling/config.json");
        assert_eq!(fs::read(replaced).expect("it is there"), b"abc");
        assert!(copy.path().join("model.safetensors").exists());
        let inputs = inputs_of(&good);
        let last = copy.path().join("vocab.txt");
        assert_eq!(inputs.last().expect("files")[1..], fs::read(last).expect("it is there"));
    }
}
