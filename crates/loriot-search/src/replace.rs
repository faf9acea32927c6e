//! What `--overwrite` may replace: what the same command wrote, and nothing else.
//!
//! A folder is replaced only if everything in it is a part of a catalogue, and a file only if it is of the kind
//! that would be written. Neither says that it may not be an input; that is for the caller, who knows the inputs.

use crate::manifest::{FILE_NAMES, MANIFEST};
use crate::vector_output::VectorFormat;
use loriot_data::guard::guard_parquet;
use loriot_files::{OutputError, open_regular, read_json};
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use serde_json::{Map, Value};
use std::fs;
use std::io::{self, Read};
use std::path::Path;

const MANIFEST_LIMIT_BYTES: u64 = 1 << 20;
/// Longer than the header of a file with one tensor.
const HEADER_LIMIT_BYTES: u64 = 1 << 16;

fn kept(path: &Path, reason: impl Into<String>) -> OutputError {
    OutputError::Kept { path: path.to_owned(), reason: reason.into() }
}

/// Whether a catalogue may be written to `dir`: nothing stands there, an empty folder, or a catalogue with
/// nothing beside it, damaged or not.
pub fn check_replaceable(dir: &Path) -> Result<(), OutputError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            return Err(kept(dir, "it is a file, not a catalogue"));
        }
        Err(source) => return Err(OutputError::io(dir)(source)),
    };
    let mut is_empty = true;
    for entry in entries {
        let entry = match entry {
            Ok(entry) => entry,
            Err(source) => return Err(OutputError::io(dir)(source)),
        };
        is_empty = false;
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
        if !is_file || !FILE_NAMES.contains(&&*name) {
            return Err(kept(dir, format!("`{name}` in it is no part of a catalogue")));
        }
    }
    let manifest = read_json::<Map<String, Value>>(&dir.join(MANIFEST), MANIFEST_LIMIT_BYTES);
    let creator = |manifest: &Map<String, Value>| {
        let creator = manifest.get("created_by").and_then(Value::as_str);
        creator.is_some_and(|creator| creator.starts_with("loriot "))
    };
    match is_empty || manifest.is_ok_and(|manifest| creator(&manifest)) {
        true => Ok(()),
        false => Err(kept(dir, "its `catalogue.json` is none of Loriot's")),
    }
}

/// Whether vectors of `format` may be written to `path`: nothing stands there, an empty file, or one that
/// [`crate::write_vectors`] may have written in this format.
pub fn check_vectors_replaceable(path: &Path, format: VectorFormat) -> Result<(), OutputError> {
    match path.metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(OutputError::io(path)(source)),
        Ok(metadata) if metadata.is_file() && metadata.len() == 0 => return Ok(()),
        Ok(_) => {}
    }
    let file = match open_regular(path) {
        Ok(file) => file,
        Err(error) => return Err(kept(path, error.to_string())),
    };
    let (is_ours, what) = match format {
        VectorFormat::Npy => (is_npy(&file), "f32 vectors in NumPy's format"),
        VectorFormat::Safetensors => (is_embeddings(&file), "safetensors of Loriot's vectors"),
        VectorFormat::Parquet => (has_embeddings(&file), "parquet with a column `embedding`"),
    };
    is_ours.then_some(()).ok_or_else(|| kept(path, format!("it holds no {what}")))
}

fn is_npy(mut file: &fs::File) -> bool {
    let mut head = [0; 128];
    let is_read = file.read_exact(&mut head).is_ok();
    is_read
        && head
            .starts_with(b"\x93NUMPY\x01\0v\0{'descr': '<f4', 'fortran_order': False, 'shape': (")
}

/// A header of nothing but the tensor `embeddings` and an identity.
fn is_embeddings(mut file: &fs::File) -> bool {
    let mut length = [0; 8];
    if file.read_exact(&mut length).is_err() {
        return false;
    }
    let length = u64::from_le_bytes(length);
    let mut header = Vec::new();
    if length > HEADER_LIMIT_BYTES || file.take(length).read_to_end(&mut header).is_err() {
        return false;
    }
    let header = serde_json::from_slice::<Map<String, Value>>(&header).unwrap_or_default();
    header.len() == 2
        && header.contains_key("embeddings")
        && header.get("__metadata__").is_some_and(|metadata| metadata.get("identity").is_some())
}

fn has_embeddings(file: &fs::File) -> bool {
    let load = || ArrowReaderMetadata::load(file, ArrowReaderOptions::new());
    guard_parquet(load).is_ok_and(|metadata| metadata.schema().field_with_name("embedding").is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(result: Result<(), OutputError>) -> String {
        let error = result.unwrap_err().to_string();
        error.split_once("is not replaced: ").unwrap().1.to_owned()
    }

    #[test]
    fn a_folder_with_anything_else_in_it_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("shop");
        check_replaceable(&path).unwrap();
        fs::create_dir(&path).unwrap();
        check_replaceable(&path).unwrap();
        fs::write(path.join("vectors"), "mine").unwrap();
        let said = "its `catalogue.json` is none of Loriot's";
        assert_eq!(refused(check_replaceable(&path)), said);
        fs::write(path.join(MANIFEST), r#"{"created_by": "somebody"}"#).unwrap();
        assert_eq!(refused(check_replaceable(&path)), said);
        fs::write(path.join(MANIFEST), r#"{"created_by": "loriot 0.1.0"}"#).unwrap();
        check_replaceable(&path).unwrap();
        fs::write(path.join("thesis.tex"), "").unwrap();
        let said = "`thesis.tex` in it is no part of a catalogue";
        assert_eq!(refused(check_replaceable(&path)), said);
        fs::remove_file(path.join("thesis.tex")).unwrap();
        fs::create_dir(path.join("hnsw")).unwrap();
        assert_eq!(refused(check_replaceable(&path)), "`hnsw` in it is no part of a catalogue");
        let file = path.join("vectors");
        assert_eq!(refused(check_replaceable(&file)), "it is a file, not a catalogue");
    }

    #[test]
    fn a_file_of_another_kind_stays() {
        let dir = tempfile::tempdir().unwrap();
        let check = |content: &[u8], format| {
            let path = dir.path().join("v");
            fs::write(&path, content).unwrap();
            check_vectors_replaceable(&path, format)
        };
        let formats = [VectorFormat::Npy, VectorFormat::Parquet, VectorFormat::Safetensors];
        for format in formats {
            check_vectors_replaceable(&dir.path().join("absent"), format).unwrap();
            check(b"", format).unwrap();
            check(b"red kettle, and much more text than any header has", format).unwrap_err();
            check_vectors_replaceable(dir.path(), format).unwrap_err();
        }
        // A model is not vectors.
        let header = br#"{"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}"#;
        let model = [&(header.len() as u64).to_le_bytes()[..], header, &[0; 4]].concat();
        let said = refused(check(&model, VectorFormat::Safetensors));
        assert_eq!(said, "it holds no safetensors of Loriot's vectors");
        check(&u64::MAX.to_le_bytes(), VectorFormat::Safetensors).unwrap_err();
    }
}
