//! What `--overwrite` may replace: what the same command wrote, and nothing else.
//!
//! A folder is replaced only if everything in it is a part of a catalogue, and a file only if it is of the kind
//! that would be written. Neither says that it may not be an input; that is for the caller, who knows the inputs.

use crate::manifest::{FILE_NAMES, MANIFEST};
use crate::vector_output::{VectorFormat, npy_header};
use arrow_schema::{DataType, Field};
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

/// Whether a catalogue may be written to `dir`: nothing stands there, an empty folder, or a folder of nothing but a
/// catalogue's files, of which `catalogue.json` says that Loriot wrote it.
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
        false if !dir.join(MANIFEST).exists() => Err(kept(dir, "it has no `catalogue.json`")),
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

/// The header that is written for so many rows of such a width, to the byte.
fn is_npy(mut file: &fs::File) -> bool {
    let mut head = [0; 128];
    if file.read_exact(&mut head).is_err() {
        return false;
    }
    let text = String::from_utf8_lossy(&head);
    let shape = text.split_once("'shape': (").and_then(|(_, rest)| rest.split_once("), }"));
    let sizes = shape.and_then(|(shape, _)| shape.split_once(", "));
    let written = sizes.and_then(|(n, dim)| Some(npy_header(n.parse().ok()?, dim.parse().ok()?)));
    written.is_some_and(|written| written == head)
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

/// Columns `id` (or none), a text, and lists of f32 called `embedding`.
fn has_embeddings(file: &fs::File) -> bool {
    let load = || ArrowReaderMetadata::load(file, ArrowReaderOptions::new());
    let Ok(metadata) = guard_parquet(load) else { return false };
    let fields = metadata.schema().fields();
    let is_text = |field: &Field| field.data_type() == &DataType::Utf8;
    let is_vector = |field: &Field| match field.data_type() {
        DataType::FixedSizeList(item, _) => {
            field.name() == "embedding" && item.data_type() == &DataType::Float32
        }
        _ => false,
    };
    match &fields[..] {
        [text, vector] => is_text(text) && is_vector(vector),
        [id, text, vector] => {
            id.name() == "id" && is_text(id) && is_text(text) && is_vector(vector)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_schema::Schema;
    use parquet::arrow::ArrowWriter;
    use std::sync::Arc;

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
        assert_eq!(refused(check_replaceable(&path)), "it has no `catalogue.json`");
        let said = "its `catalogue.json` is none of Loriot's";
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
        // Nor are numbers in another shape, nor a table of more than vectors.
        let npy = npy_header(3, 4);
        check(&npy, VectorFormat::Npy).unwrap();
        for shape in ["(12,)", "(3, 4, 1)", "(3, x)"] {
            let text = String::from_utf8_lossy(&npy[10..]).replace("(3, 4)", shape);
            let other = [&npy[..10], text.as_bytes(), &[b' '; 8]].concat();
            check(&other[..128], VectorFormat::Npy).unwrap_err();
        }
        let item = Arc::new(Field::new("item", DataType::Float32, false));
        let vector = Field::new("embedding", DataType::FixedSizeList(item, 2), false);
        let text = |name: &str| Field::new(name, DataType::Utf8, true);
        let parquet = |fields: Vec<Field>| {
            let mut bytes = Vec::new();
            let schema = Arc::new(Schema::new(fields));
            ArrowWriter::try_new(&mut bytes, schema, None).unwrap().close().unwrap();
            check(&bytes, VectorFormat::Parquet)
        };
        parquet(vec![text("title"), vector.clone()]).unwrap();
        parquet(vec![text("id"), text("title"), vector.clone()]).unwrap();
        parquet(vec![text("id"), text("title"), text("brand"), vector.clone()]).unwrap_err();
        parquet(vec![text("sku"), text("title"), vector.clone()]).unwrap_err();
        parquet(vec![text("title"), text("embedding")]).unwrap_err();
        parquet(vec![vector]).unwrap_err();
    }
}
