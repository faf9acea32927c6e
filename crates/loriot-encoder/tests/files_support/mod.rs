//! Folders to damage: copies of the golden tiny model and of its adapters, and tools to edit them.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part")]

use loriot_encoder::config::Config;
use loriot_encoder::weights::Weights;
use loriot_encoder::workers::Workers;
use loriot_files::Hint;
use safetensors::Dtype;
use safetensors::tensor::{SafeTensors, TensorView, serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use tempfile::TempDir;

#[path = "../../../../tests/rust/files.rs"]
mod files;
pub(crate) use files::golden_path as golden;

/// A copy of a golden folder.
pub fn copy_of(name: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    copy(&golden(name), dir.path());
    dir
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

pub fn tiny() -> TempDir {
    copy_of("tiny_bert")
}

pub fn tiny_config() -> Config {
    Config::open(&golden("tiny_bert")).unwrap()
}

pub fn tiny_weights() -> Weights {
    Weights::open(&golden("tiny_bert"), &tiny_config()).unwrap()
}

pub fn one_thread() -> Workers {
    Workers::start(1).unwrap()
}

pub fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// Changes a JSON file, which is made if it is not there.
pub fn edit_json(path: &Path, edit: impl FnOnce(&mut Value)) {
    let mut json = if path.exists() { read_json(path) } else { serde_json::json!({}) };
    edit(&mut json);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, json.to_string()).unwrap();
}

/// The tensors of a file, to be changed one by one.
pub type Tensors = BTreeMap<String, Tensor>;

#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
}

impl Tensor {
    pub fn f32(shape: &[usize], values: &[f32]) -> Tensor {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Tensor { dtype: Dtype::F32, shape: shape.to_vec(), bytes }
    }

    pub fn values(&self) -> Vec<f32> {
        assert_eq!(self.dtype, Dtype::F32);
        self.bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
    }

    /// The same numbers in half the bytes.
    pub fn halved(&self, dtype: Dtype) -> Tensor {
        let pair = |value: f32| match dtype {
            Dtype::F16 => half::f16::from_f32(value).to_le_bytes(),
            Dtype::BF16 => half::bf16::from_f32(value).to_le_bytes(),
            other => panic!("{other}"),
        };
        let bytes = self.values().into_iter().flat_map(pair).collect();
        Tensor { dtype, shape: self.shape.clone(), bytes }
    }
}

pub fn read_tensors(path: &Path) -> Tensors {
    let bytes = fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensor = |view: TensorView<'_>| Tensor {
        dtype: view.dtype(),
        shape: view.shape().to_vec(),
        bytes: view.data().to_vec(),
    };
    file.tensors().into_iter().map(|(name, view)| (name, tensor(view))).collect()
}

pub fn write_tensors(path: &Path, tensors: &Tensors) {
    let views = tensors.iter().map(|(name, tensor)| {
        let Tensor { dtype, shape, bytes } = tensor;
        (name, TensorView::new(*dtype, shape.clone(), bytes).unwrap())
    });
    let views: Vec<_> = views.collect();
    fs::write(path, serialize(views, None).unwrap()).unwrap();
}

/// Changes the tensors of a file.
pub fn edit_tensors(path: &Path, edit: impl FnOnce(&mut Tensors)) {
    let mut tensors = read_tensors(path);
    edit(&mut tensors);
    write_tensors(path, &tensors);
}

/// A safetensors file with this header and so many bytes after it.
pub fn raw_safetensors(header: &Value, n_bytes: usize) -> Vec<u8> {
    let header = header.to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.resize(file.len() + n_bytes, 0);
    file
}

/// What a user reads: the message, and under it the remedy that every refusal here must have.
#[track_caller]
pub fn told(error: &(impl std::error::Error + Hint)) -> String {
    let hint = error.hint().unwrap_or_else(|| panic!("no remedy for: {error}"));
    let message = error.to_string();
    for text in [&message, &hint] {
        assert!(!text.contains('\n') && !text.ends_with('.'), "not one sentence: {text}");
    }
    format!("{message} | {hint}")
}

/// Checks that a text holds each of these.
#[track_caller]
pub fn assert_says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "`{part}` is not in: {text}");
    }
}
