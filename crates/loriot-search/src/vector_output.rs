//! Vectors for other programs: `.npy`, `.parquet`, `.safetensors`.
//!
//! | extension | what it holds |
//! |---|---|
//! | `.npy` | `(n, d)` f32, C order, format 1.0: `numpy.load(path, mmap_mode="r")` |
//! | `.parquet` | `id` where the input has ids, the text under its column's name (`id_` for `id`), `embedding`: a list of `d` f32 |
//! | `.safetensors` | tensor `embeddings`, `(n, d)` f32; metadata `identity`: SHA-256 of what embedded them |
//!
//! All are written row by row and appear whole or not at all.

use crate::batches::next_batch;
use crate::embed::Embedded;
use arrow_array::{ArrayRef, FixedSizeListArray, Float32Array, RecordBatch, StringArray};
use arrow_schema::{ArrowError, DataType, Field, Schema};
use loriot_data::{Product, Spool};
use loriot_encoder::weights::tensor_writer::write_safetensors;
use loriot_files::{Hint, OutputError, write_atomic};
use parquet::arrow::ArrowWriter;
use parquet::errors::ParquetError;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Rows of a parquet file that are made ready at a time.
const BATCH_ROWS: usize = 4096;
/// Bytes of their texts and vectors, where there is more than one: an array of strings holds 2 GiB at most.
const BATCH_BYTES: usize = 8 << 20;
/// Bytes of a parquet file that wait in memory until their row group is written.
const GROUP_BYTES: usize = 64 << 20;

/// A file format for vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VectorFormat {
    /// NumPy's.
    Npy,
    /// With ids and texts beside the vectors.
    Parquet,
    /// One tensor.
    Safetensors,
}

/// The output's name ends in no known format.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot tell the format of `{}` from its name", path.display())]
pub struct UnknownFormat {
    path: PathBuf,
}

impl Hint for UnknownFormat {
    fn hint(&self) -> Option<String> {
        Some("end the name with `.npy`, `.parquet` or `.safetensors`".into())
    }
}

impl VectorFormat {
    /// The format that the name's extension stands for.
    pub fn of_path(path: &Path) -> Result<VectorFormat, UnknownFormat> {
        let extension = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
        match extension.as_str() {
            "npy" => Ok(VectorFormat::Npy),
            "parquet" => Ok(VectorFormat::Parquet),
            "safetensors" => Ok(VectorFormat::Safetensors),
            _ => Err(UnknownFormat { path: path.to_owned() }),
        }
    }
}

/// Texts and ids, for the formats that hold them beside the vectors.
#[derive(Clone, Copy, Debug)]
pub struct Labels<'a> {
    /// What the column of texts is called.
    pub text_column: &'a str,
    /// The texts, as titles, and their ids, in order.
    pub rows: &'a Spool,
}

/// Writes `embedded` to `path`, replacing what is there.
pub fn write_vectors(
    path: &Path,
    format: VectorFormat,
    embedded: &Embedded,
    labels: Labels<'_>,
) -> Result<(), OutputError> {
    assert_eq!(labels.rows.len(), embedded.len(), "a label for each");
    write_atomic(path, |writer| match format {
        VectorFormat::Npy => {
            writer.write_all(&npy_header(embedded.len(), embedded.dim()))?;
            embedded.rows().try_for_each(|row| writer.write_all(bytemuck::cast_slice(row)))
        }
        VectorFormat::Safetensors => {
            let identity = embedded.identity().to_hex();
            let shape = vec![embedded.len(), embedded.dim()];
            let tensors = vec![("embeddings".to_owned(), shape)];
            write_safetensors(writer, &[("identity", &identity)], tensors, |_, put| {
                embedded.rows().try_for_each(put)
            })
        }
        VectorFormat::Parquet => write_parquet(writer, embedded, labels).map_err(io_error),
    })
}

/// Magic, version 1.0, length, then a Python dictionary padded to a multiple of 64 bytes.
pub(crate) fn npy_header(n: usize, dim: usize) -> Vec<u8> {
    let mut dictionary =
        format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({n}, {dim}), }}");
    let unpadded = 10 + dictionary.len() + 1;
    dictionary.push_str(&" ".repeat(unpadded.next_multiple_of(64) - unpadded));
    dictionary.push('\n');
    let length = (dictionary.len() as u16).to_le_bytes(); // Two numbers: 128 bytes at most.
    [b"\x93NUMPY\x01\x00".as_slice(), &length, dictionary.as_bytes()].concat()
}

fn write_parquet(
    writer: &mut (impl Write + Send),
    embedded: &Embedded,
    labels: Labels<'_>,
) -> Result<(), ParquetError> {
    let dim = embedded.dim();
    let item = Arc::new(Field::new("item", DataType::Float32, false));
    let list = DataType::FixedSizeList(Arc::clone(&item), dim as i32);
    let with_ids = labels.rows.n_ids() > 0;
    let text_column = match labels.text_column {
        taken @ ("id" | "embedding") => format!("{taken}_"),
        name => name.to_owned(),
    };
    let mut fields =
        vec![Field::new(text_column, DataType::Utf8, false), Field::new("embedding", list, false)];
    if with_ids {
        fields.insert(0, Field::new("id", DataType::Utf8, true));
    }
    let schema = Arc::new(Schema::new(fields));
    let mut parquet = ArrowWriter::try_new(writer, Arc::clone(&schema), None)?;

    let mut vectors = embedded.rows();
    let mut rows = labels.rows.products().peekable();
    let size = |row: &Product| {
        row.product_title.len() + row.id.as_ref().map_or(0, String::len) + 4 * dim // Bytes.
    };
    loop {
        let batch = next_batch(&mut rows, BATCH_ROWS, BATCH_BYTES, size)?;
        if batch.is_empty() {
            break;
        }
        let values: Vec<f32> = vectors.by_ref().take(batch.len()).flatten().copied().collect();
        let values = Arc::new(Float32Array::from(values));
        let lists = FixedSizeListArray::try_new(Arc::clone(&item), dim as i32, values, None)?;
        let texts = batch.iter().map(|row| &row.product_title);
        let mut columns: Vec<ArrayRef> =
            vec![Arc::new(StringArray::from_iter_values(texts)), Arc::new(lists)];
        if with_ids {
            let ids = batch.iter().map(|row| row.id.as_ref());
            columns.insert(0, Arc::new(ids.collect::<StringArray>()));
        }
        parquet.write(&RecordBatch::try_new(Arc::clone(&schema), columns)?)?;
        if parquet.in_progress_size() >= GROUP_BYTES {
            parquet.flush()?;
        }
    }
    parquet.close().map(|_| ())
}

/// The operating system's error where there is one inside, so that a full disk is reported as one.
pub(crate) fn io_error(error: ParquetError) -> io::Error {
    let ParquetError::External(inner) = error else { return io::Error::other(error) };
    let inner = match inner.downcast::<io::Error>() {
        Ok(error) => return *error,
        Err(inner) => inner,
    };
    match inner.downcast::<ArrowError>().map(|error| *error) {
        Ok(ArrowError::IoError(_, error)) => error,
        Ok(other) => io::Error::other(other),
        Err(inner) => io::Error::other(inner),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embed::{Embedder, embed_all};
    use arrow_array::Array;
    use arrow_array::cast::AsArray;
    use arrow_array::types::Float32Type;
    use loriot_data::SpoolWriter;
    use loriot_encoder::Precision;
    use loriot_index::Identity;
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

    struct Lengths;
    impl Embedder for Lengths {
        fn dim(&self) -> usize {
            3
        }
        fn identity(&self) -> Identity {
            Identity([0xab; 32])
        }
        fn precision(&self) -> Precision {
            Precision::F32
        }
        fn embed(&self, texts: &[&str]) -> (Vec<f32>, u64) {
            let vector = |text: &&str| [text.len() as f32, 0.25, -1.0];
            (texts.iter().flat_map(vector).collect(), 0)
        }
    }

    const TEXTS: [&str; 4] = ["red", "kettle", "red", "é"];
    const WANT_ND: [f32; 12] = [3.0, 0.25, -1.0, 6.0, 0.25, -1.0, 3.0, 0.25, -1.0, 2.0, 0.25, -1.0];

    fn f32s(bytes: &[u8]) -> Vec<f32> {
        bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
    }

    /// The file `name` as written, with or without ids, and its path.
    fn written(name: &str, ids: &[Option<&str>]) -> (tempfile::TempDir, PathBuf) {
        written_with("product_title", name, ids)
    }

    fn written_with(
        text_column: &str,
        name: &str,
        ids: &[Option<&str>],
    ) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        let never = std::sync::atomic::AtomicBool::new(false);
        let mut rows = SpoolWriter::beside(&path).unwrap();
        for (text, id) in TEXTS.iter().zip(ids) {
            let (id, product_title) = (id.map(str::to_owned), (*text).to_owned());
            let other = Vec::new();
            rows.push(&Product { id, product_title, other, line: 1, file_idx: 0 }).unwrap();
        }
        let rows = &rows.finish().unwrap();
        let embedded = embed_all(&Lengths, rows, &dir.path().join("p"), &never, |_| ()).unwrap();
        let labels = Labels { text_column, rows };
        write_vectors(&path, VectorFormat::of_path(&path).unwrap(), &embedded, labels).unwrap();
        (dir, path)
    }

    #[test]
    fn npy_is_what_numpy_writes() {
        let (_dir, path) = written("v.npy", &[None; 4]);
        let bytes = std::fs::read(path).unwrap();
        // numpy.save of the same array, numpy 2.2.
        let header = "\u{1}\0v\0{'descr': '<f4', 'fortran_order': False, 'shape': (4, 3), }";
        assert_eq!(&bytes[..6], b"\x93NUMPY");
        assert_eq!(&bytes[6..][..header.len()], header.as_bytes());
        assert!(bytes[6 + header.len()..127].iter().all(|&byte| byte == b' '));
        assert_eq!(bytes[127], b'\n');
        assert_eq!(f32s(&bytes[128..]), WANT_ND);
        let longest = npy_header(u32::MAX as usize, 65_536);
        assert!(longest.len() == 128 && longest.ends_with(b"\n"));
    }

    #[test]
    fn safetensors_opens_with_its_own_crate() {
        let (_dir, path) = written("v.safetensors", &[None; 4]);
        let bytes = std::fs::read(path).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let tensor = file.tensor("embeddings").unwrap();
        assert_eq!(tensor.shape(), [4, 3]);
        assert_eq!(f32s(tensor.data()), WANT_ND);
        let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        assert_eq!(header.metadata().as_ref().unwrap()["identity"], "ab".repeat(32));
    }

    #[test]
    fn parquet_holds_ids_texts_and_vectors() {
        let (_dir, path) = written("v.parquet", &[Some("a"), None, Some("c"), Some("d")]);
        let file = std::fs::File::open(path).unwrap();
        let mut reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap();
        let batch = reader.next().unwrap().unwrap();
        let names: Vec<String> =
            batch.schema().fields().iter().map(|field| field.name().clone()).collect();
        assert_eq!(names, ["id", "product_title", "embedding"]);
        let ids: Vec<Option<&str>> = batch.column(0).as_string::<i32>().iter().collect();
        assert_eq!(ids, [Some("a"), None, Some("c"), Some("d")]);
        let texts: Vec<&str> = batch.column(1).as_string::<i32>().iter().flatten().collect();
        assert_eq!(texts, TEXTS);
        let vectors = batch.column(2).as_fixed_size_list();
        assert_eq!(vectors.value_length(), 3);
        assert_eq!(vectors.values().as_primitive::<Float32Type>().values().as_ref(), WANT_ND);
        assert_eq!(vectors.null_count(), 0);
    }

    #[test]
    fn without_ids_parquet_has_no_column_for_them() {
        let (_dir, path) = written("v.parquet", &[None; 4]);
        let file = std::fs::File::open(path).unwrap();
        let builder = ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
        assert_eq!(builder.schema().fields().len(), 2);
    }

    #[test]
    fn no_two_columns_of_parquet_have_one_name() {
        for taken in ["id", "embedding"] {
            let (_dir, path) = written_with(taken, "v.parquet", &[Some("a"); 4]);
            let file = std::fs::File::open(path).unwrap();
            let builder = ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
            let names = builder.schema().fields().iter().map(|field| field.name().clone());
            let want = ["id".to_owned(), format!("{taken}_"), "embedding".to_owned()];
            assert!(names.eq(want), "{taken}");
        }
    }

    #[test]
    fn the_name_decides_the_format() {
        assert_eq!(VectorFormat::of_path(Path::new("a.NPY")), Ok(VectorFormat::Npy));
        let error = VectorFormat::of_path(Path::new("a.csv")).unwrap_err();
        assert_eq!(error.to_string(), "cannot tell the format of `a.csv` from its name");
    }

    #[test]
    fn a_full_disk_is_still_a_full_disk_behind_parquet() {
        let full = io::Error::from(io::ErrorKind::StorageFull);
        let error = io_error(ParquetError::External(Box::new(full)));
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }
}
