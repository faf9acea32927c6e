//! The safetensors format, written as a stream: no tensor is in memory for the writer's sake.
//!
//! ```text
//! 8          length of the header, u64 little-endian
//! header     JSON: optional metadata, then type, shape and offsets of each tensor; padded with
//!            blanks to a multiple of 8
//! n·4        the tensors' numbers, f32 little-endian, in the order of the names
//! ```
//!
//! Models, adapters, checkpoints and embeddings are all written here, in the bytes that the
//! `safetensors` crate would write.

use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use std::borrow::Cow;
use std::io::{self, Write};
use zerocopy::IntoBytes;

/// Takes the numbers of a tensor, in any number of pieces.
pub type Put<'w> = dyn FnMut(&[f32]) -> io::Result<()> + 'w;

/// Writes f32 tensors, given by name and shape, with `metadata`, pairs of a key and a value.
///
/// `values` puts the numbers of one tensor when its turn comes. Panics when a name is there twice
/// and when there are more or fewer numbers than the shape has room for.
pub fn write_safetensors(
    writer: &mut impl Write,
    metadata: &[(&str, &str)],
    mut tensors: Vec<(String, Vec<usize>)>,
    mut values: impl FnMut(&str, &mut Put<'_>) -> io::Result<()>,
) -> io::Result<()> {
    tensors.sort();
    let mut end = 0;
    let infos = tensors.iter().map(|(name, shape)| {
        let begin = end;
        end += 4 * n_numbers(shape);
        let (dtype, shape, data_offsets) = (Dtype::F32, shape.clone(), (begin, end));
        (name.clone(), TensorInfo { dtype, shape, data_offsets })
    });
    let owned = |&(key, value): &(&str, &str)| (key.to_owned(), value.to_owned());
    let metadata = (!metadata.is_empty()).then(|| metadata.iter().map(owned).collect());
    let metadata = Metadata::new(metadata, infos.collect()).expect("offsets follow each other");
    let mut header = serde_json::to_vec(&metadata)?;
    // Readers map the numbers: the header is padded so that they begin at a multiple of 8.
    header.resize(header.len().next_multiple_of(8), b' ');
    writer.write_all(&(header.len() as u64).to_le_bytes())?;
    writer.write_all(&header)?;
    for (name, shape) in &tensors {
        let mut n_put = 0;
        values(name, &mut |numbers| {
            n_put += numbers.len();
            writer.write_all(&le_bytes(numbers))
        })?;
        assert_eq!(n_put, n_numbers(shape), "{name}");
    }
    Ok(())
}

fn n_numbers(shape: &[usize]) -> usize {
    shape.iter().product()
}

/// The bytes of `values` as files hold them.
pub(crate) fn le_bytes(values: &[f32]) -> Cow<'_, [u8]> {
    if cfg!(target_endian = "little") {
        Cow::Borrowed(values.as_bytes())
    } else {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use safetensors::tensor::TensorView;
    use std::collections::HashMap;

    #[test]
    fn the_bytes_are_those_of_the_safetensors_crate() {
        let numbers = [0.25f32, -1.0, 7.5, f32::MIN_POSITIVE, 0.0, 3.0];
        let (a, b, c) = (&numbers[..6], &numbers[1..3], &numbers[..0]);
        let tensors = [("b", vec![2], b), ("a", vec![2, 3], a), ("c", vec![0, 4], c)];
        for metadata in [vec![], vec![("format", "pt")]] {
            let mut written = Vec::new();
            let shapes = tensors.iter().map(|(name, shape, _)| (name.to_string(), shape.clone()));
            write_safetensors(&mut written, &metadata, shapes.collect(), |name, put| {
                let (_, _, values) = tensors.iter().find(|tensor| tensor.0 == name).unwrap();
                values.chunks(4).try_for_each(put) // In pieces.
            })
            .unwrap();
            let views = tensors.iter().map(|(name, shape, values)| {
                (*name, TensorView::new(Dtype::F32, shape.clone(), values.as_bytes()).unwrap())
            });
            let owned = |(key, value): &(&str, &str)| (key.to_string(), value.to_string());
            let metadata: HashMap<String, String> = metadata.iter().map(owned).collect();
            let metadata = (!metadata.is_empty()).then_some(metadata);
            assert_eq!(written, safetensors::serialize(views, metadata).unwrap());
        }
    }
}
