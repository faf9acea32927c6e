//! Named f32 tensors in a safetensors file, for checkpoints.

use crate::state::DAMAGE_HINT;
use loriot_encoder::weights::tensor_writer::write_safetensors;
use loriot_files::{Hint, Mmap, OutputError, write_atomic};
use safetensors::tensor::{Dtype, SafeTensorError, SafeTensors};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// A checkpoint's tensors could not be read.
#[derive(Debug, thiserror::Error)]
pub enum TensorsError {
    /// The file is missing or may not be read.
    #[error("cannot read `{}`", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The file is cut short or is no safetensors file.
    #[error("`{}` is not a whole safetensors file: {source}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What was wrong.
        source: SafeTensorError,
    },
    /// A tensor is missing or not as it must be.
    #[error("`{}`: `{name}` is {found}, expected {expected}", path.display())]
    Tensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// What is there.
        found: String,
        /// What should be.
        expected: String,
    },
}

impl Hint for TensorsError {
    fn hint(&self) -> Option<String> {
        Some(DAMAGE_HINT.into())
    }
}

/// Writes `tensors` (name, shape, values) to the new file `path` and waits until it is on the disk.
pub(crate) fn write_tensors<'a>(
    path: &Path,
    tensors: impl Iterator<Item = (String, &'a [usize], Cow<'a, [f32]>)>,
) -> Result<(), OutputError> {
    let tensors: BTreeMap<String, (&[usize], Cow<'a, [f32]>)> =
        tensors.map(|(name, shape, values)| (name, (shape, values))).collect();
    let shapes = tensors.iter().map(|(name, (shape, _))| (name.clone(), shape.to_vec())).collect();
    write_atomic(path, |writer| {
        write_safetensors(writer, &[], shapes, |name, put| put(&tensors[name].1))
    })
}

/// An open file of tensors.
pub(crate) struct TensorsFile {
    path: PathBuf,
    bytes: Mmap,
}

impl TensorsFile {
    /// Maps the file and checks its header.
    pub(crate) fn open(path: &Path) -> Result<TensorsFile, TensorsError> {
        let bytes = Mmap::open(path)
            .map_err(|source| TensorsError::Open { path: path.to_owned(), source })?;
        let file = TensorsFile { path: path.to_owned(), bytes };
        file.header()?;
        Ok(file)
    }

    fn header(&self) -> Result<SafeTensors<'_>, TensorsError> {
        SafeTensors::deserialize(&self.bytes)
            .map_err(|source| TensorsError::Format { path: self.path.clone(), source })
    }

    /// The values of the tensor `name`; one that is missing, of another shape or not finite is an error.
    pub(crate) fn read(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, TensorsError> {
        let wrong = |found: String, expected: String| TensorsError::Tensor {
            path: self.path.clone(),
            name: name.to_owned(),
            found,
            expected,
        };
        let expected = || format!("F32 {shape:?}");
        let tensors = self.header()?;
        let tensor = tensors.tensor(name).map_err(|_| wrong("missing".into(), expected()))?;
        if tensor.dtype() != Dtype::F32 || tensor.shape() != shape {
            let found = format!("{:?} {:?}", tensor.dtype(), tensor.shape());
            return Err(wrong(found, expected()));
        }
        let (values, _) = tensor.data().as_chunks::<4>();
        let values: Vec<f32> = values.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
        match values.iter().find(|value| !value.is_finite()) {
            Some(value) => Err(wrong(format!("{value} somewhere"), "finite numbers".into())),
            None => Ok(values),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_come_back_bit_for_bit_and_others_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tensors.safetensors");
        let (a, b) = ([0.1, -1e-30, f32::MIN_POSITIVE / 8.0, -0.0], [f32::NAN]);
        let tensors = [("a", &[2, 2][..], &a[..]), ("b", &[1], &b)];
        let tensors = tensors.map(|(name, shape, values)| (name.into(), shape, values.into()));
        write_tensors(&path, tensors.into_iter()).unwrap();
        let file = TensorsFile::open(&path).unwrap();
        let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&file.read("a", &[2, 2]).unwrap()), bits(&a));
        let error = |name, shape: &[usize]| file.read(name, shape).unwrap_err().to_string();
        assert!(error("a", &[4]).ends_with("`a` is F32 [2, 2], expected F32 [4]"));
        assert!(error("c", &[4]).ends_with("`c` is missing, expected F32 [4]"));
        assert!(error("b", &[1]).ends_with("`b` is NaN somewhere, expected finite numbers"));
    }
}
