//! One safetensors file, mapped: every offset is checked when it is opened, numbers are read as f32.

use super::tensor_writer::write_safetensors;
use crate::error::TensorError;
use half::{bf16, f16};
use loriot_files::{Mmap, OutputError, write_atomic};
use safetensors::tensor::{Dtype, SafeTensorError, SafeTensors, TensorInfo};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use zerocopy::FromBytes;

/// A mapped safetensors file.
#[derive(Debug)]
pub(crate) struct TensorFile {
    path: PathBuf,
    map: Mmap,
    /// Where the header ends and the offsets of `tensors` begin.
    data_start: usize,
    tensors: BTreeMap<String, TensorInfo>,
}

impl TensorFile {
    /// Maps `path` and checks that its header describes the file exactly.
    pub(crate) fn open(path: &Path) -> Result<TensorFile, TensorError> {
        let open = |source| TensorError::Open { path: path.to_owned(), source };
        let container = |problem: String| TensorError::Container { path: path.to_owned(), problem };
        if std::fs::metadata(path).map_err(open)?.len() < 8 {
            return Err(container("it has less than the 8 bytes of a header's length".into()));
        }
        let map = Mmap::open(path).map_err(open)?;
        let claimed = map.first_chunk().map_or(0, |length| u64::from_le_bytes(*length));
        if claimed > map.len() as u64 - 8 {
            let found = map.len();
            return Err(container(format!(
                "its header claims {claimed} bytes, but the file has {found}"
            )));
        }
        let (header_bytes, metadata) = SafeTensors::read_metadata(&map).map_err(|error| {
            container(match error {
                SafeTensorError::MetadataIncompleteBuffer => format!(
                    "its tensors do not fill its {} bytes exactly; it may be cut off",
                    map.len()
                ),
                other => other.to_string(),
            })
        })?;
        let tensors =
            metadata.tensors().into_iter().map(|(name, info)| (name, info.clone())).collect();
        Ok(TensorFile { path: path.to_owned(), map, data_start: 8 + header_bytes, tensors })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Checks that `name` is there, of `expected` shape and a readable type.
    pub(crate) fn check_shape(&self, name: &str, expected: &[usize]) -> Result<(), TensorError> {
        let (path, tensor) = (self.path.clone(), name.to_owned());
        let Some(info) = self.tensors.get(name) else {
            return Err(TensorError::Missing { path, tensor, expected: shape_text(expected) });
        };
        if info.shape != expected {
            let (found, expected) = (shape_text(&info.shape), shape_text(expected));
            return Err(TensorError::Shape { path, tensor, found, expected });
        }
        if !matches!(info.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16) {
            return Err(TensorError::Dtype { path, tensor, found: info.dtype.to_string() });
        }
        Ok(())
    }

    /// Checks that every number of a tensor that passed [`TensorFile::check_shape`] is finite.
    pub(crate) fn check_finite(&self, name: &str) -> Result<(), TensorError> {
        let values = self.f32s(name);
        match first_not_finite(&values) {
            Some(at) => {
                let (path, tensor) = (self.path.clone(), name.to_owned());
                Err(TensorError::NotFinite { path, tensor, at, value: values[at] })
            }
            None => Ok(()),
        }
    }

    /// The numbers of a tensor that passed [`TensorFile::check_shape`]: f32 without a copy where the
    /// file has it aligned, as nearly all writers do.
    pub(crate) fn f32s(&self, name: &str) -> Cow<'_, [f32]> {
        let bytes = &self.map[self.range(name)];
        match self.tensors[name].dtype {
            Dtype::F32 => match <[f32]>::ref_from_bytes(bytes) {
                Ok(values) if cfg!(target_endian = "little") => Cow::Borrowed(values),
                _ => decode(bytes, f32::from_le_bytes),
            },
            Dtype::F16 => decode(bytes, |pair| f16::from_le_bytes(pair).to_f32()),
            Dtype::BF16 => decode(bytes, |pair| bf16::from_le_bytes(pair).to_f32()),
            _ => unreachable!("a checked tensor has one of three types"),
        }
    }

    /// Lets the system take the mapped pages of a checked tensor back.
    pub(crate) fn release(&self, name: &str) {
        self.map.release(self.range(name));
    }

    /// Where the bytes of a checked tensor lie in the file.
    fn range(&self, name: &str) -> Range<usize> {
        let (begin, end) = self.tensors[name].data_offsets;
        self.data_start + begin..self.data_start + end
    }
}

/// The place of the first number that is NaN or infinite.
fn first_not_finite(values: &[f32]) -> Option<usize> {
    // Without an early exit the compiler makes vectors of a block's loop.
    let is_suspect =
        |block: &&[f32]| block.iter().fold(false, |found, value| found | !value.is_finite());
    let blocks = values.chunks(1024);
    let block = blocks.clone().position(|block| is_suspect(&block))?;
    let start = 1024 * block;
    Some(start + values[start..].iter().position(|value| !value.is_finite())?)
}

fn decode<'a, const N: usize>(bytes: &[u8], number: impl Fn([u8; N]) -> f32) -> Cow<'a, [f32]> {
    bytes.as_chunks::<N>().0.iter().map(|chunk| number(*chunk)).collect()
}

/// A shape as PyTorch prints it: `[384, 1536]`.
pub(crate) fn shape_text(shape: &[usize]) -> String {
    let sizes: Vec<String> = shape.iter().map(usize::to_string).collect();
    format!("[{}]", sizes.join(", "))
}

/// Writes f32 tensors with the metadata that transformers and PEFT ask for.
///
/// `values` gives the numbers of one tensor when its turn comes.
pub(crate) fn write_tensors<'a>(
    path: &Path,
    tensors: Vec<(String, Vec<usize>)>,
    values: impl Fn(&str) -> Cow<'a, [f32]>,
) -> Result<(), OutputError> {
    write_atomic(path, |writer| {
        write_safetensors(writer, &[("format", "pt")], tensors, |name, put| put(&values(name)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_by_the_safetensors_crate_and_here() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        let numbers = |name: &str| -> Cow<'static, [f32]> {
            if name == "b" { vec![1.0, -2.0].into() } else { vec![0.5; 6].into() }
        };
        write_tensors(&path, vec![("b".into(), vec![2]), ("a".into(), vec![2, 3])], numbers)
            .unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(tensors.tensor("a").unwrap().shape(), [2, 3]);
        let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
        assert_eq!(metadata.metadata().as_ref().unwrap()["format"], "pt");

        let file = TensorFile::open(&path).unwrap();
        assert_eq!(file.names().collect::<Vec<_>>(), ["a", "b"]);
        file.check_shape("b", &[2]).unwrap();
        file.check_finite("b").unwrap();
        assert!(matches!(file.f32s("b"), Cow::Borrowed([1.0, -2.0])));
    }
}
