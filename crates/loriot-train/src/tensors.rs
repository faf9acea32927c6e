//! Named f32 tensors in a safetensors file, for checkpoints.

use loriot_files::{Hint, Mmap, OutputError};
use safetensors::tensor::{Dtype, SafeTensorError, SafeTensors, TensorView};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use zerocopy::IntoBytes;

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
        Some("the checkpoint is damaged; resume from another one: `--resume PATH`".into())
    }
}

/// Writes `tensors` (name, shape, values) to the new file `path` and waits until it is on the disk.
pub(crate) fn write_tensors<'a>(
    path: &Path,
    tensors: impl Iterator<Item = (String, &'a [usize], &'a [f32])>,
) -> Result<(), OutputError> {
    let view = |(name, shape, values): (String, &[usize], &'a [f32])| {
        TensorView::new(Dtype::F32, shape.to_vec(), values.as_bytes()).map(|view| (name, view))
    };
    let io_error = |error: SafeTensorError| match error {
        SafeTensorError::IoError(error) => error,
        other => io::Error::other(other),
    };
    tensors
        .map(view)
        .collect::<Result<Vec<_>, _>>()
        .and_then(|views| safetensors::serialize_to_file(views, None, path))
        .map_err(io_error)
        .and_then(|()| File::open(path)?.sync_all())
        .map_err(OutputError::io(path))
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

    /// Copies each tensor into its buffer; one that is missing, of another shape or not finite is
    /// an error, and one that nobody asks for is not.
    pub(crate) fn copy_into<'a>(
        &self,
        buffers: impl Iterator<Item = (String, &'a [usize], &'a mut [f32])>,
    ) -> Result<(), TensorsError> {
        let tensors = self.header()?;
        for (name, shape, buffer) in buffers {
            let wrong = |found: String, expected: String| TensorsError::Tensor {
                path: self.path.clone(),
                name: name.clone(),
                found,
                expected,
            };
            let expected = || format!("F32 {shape:?}");
            let tensor = tensors.tensor(&name).map_err(|_| wrong("missing".into(), expected()))?;
            if tensor.dtype() != Dtype::F32 || tensor.shape() != shape {
                let found = format!("{:?} {:?}", tensor.dtype(), tensor.shape());
                return Err(wrong(found, expected()));
            }
            let (values, _) = tensor.data().as_chunks::<4>();
            for (to, &bytes) in buffer.iter_mut().zip(values) {
                *to = f32::from_le_bytes(bytes);
            }
            if let Some(value) = buffer.iter().find(|value| !value.is_finite()) {
                return Err(wrong(format!("{value} somewhere"), "finite numbers".into()));
            }
        }
        Ok(())
    }
}
