//! From a path to an open table: the format by the name's ending, and gzip.

use std::fs::File;
use std::io::{BufRead, BufReader, Cursor, Read};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use flate2::bufread::MultiGzDecoder;

use crate::delimited::Delimited;
use crate::error::ReadError;
use crate::jsonl::Jsonl;
use crate::options::ReadOptions;
use crate::parquet::Parquet;
use crate::table::Table;
use crate::text_input::without_byte_order_mark;

/// How a file is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Comma-separated with a header, quoted as in RFC 4180.
    Csv,
    /// The same with tabs, quoted likewise (as pandas, R and Excel write it).
    Tsv,
    /// One JSON object a line.
    Jsonl,
    /// Apache Parquet.
    Parquet,
}

/// A format, and whether gzip lies around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileKind {
    /// The format inside.
    pub format: Format,
    /// Compressed as a whole. Never of parquet, which compresses its pages itself.
    pub gzip: bool,
}

impl FileKind {
    /// The kind by the name's ending, whatever its case; `None` for an ending we do not know.
    pub fn of(path: &Path) -> Option<FileKind> {
        let name = path.file_name()?.to_str()?.to_ascii_lowercase();
        let (name, gzip) = match name.strip_suffix(".gz") {
            Some(name) => (name, true),
            None => (name.as_str(), false),
        };
        let (_, ending) = name.rsplit_once('.')?;
        let format = match ending {
            "csv" => Format::Csv,
            "tsv" => Format::Tsv,
            "jsonl" => Format::Jsonl,
            "parquet" if !gzip => Format::Parquet,
            _ => return None,
        };
        Some(FileKind { format, gzip })
    }
}

/// Where the bytes come from.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    File(PathBuf),
    Memory(Bytes, FileKind),
}

impl Source {
    pub(crate) fn path(&self) -> &Path {
        match self {
            Source::File(path) => path,
            Source::Memory(..) => Path::new("(memory)"),
        }
    }

    /// Opens the table and reads its header.
    pub(crate) fn open(&self, options: &ReadOptions) -> Result<Box<dyn Table>, ReadError> {
        match self {
            Source::File(path) => {
                let kind = FileKind::of(path)
                    .ok_or_else(|| ReadError::UnknownFormat { path: path.clone() })?;
                let file = open_file(path)?;
                match kind.format {
                    Format::Parquet => Ok(Box::new(Parquet::open(path, file)?)),
                    _ => open_text(path, kind, BufReader::with_capacity(1 << 16, file), options),
                }
            }
            Source::Memory(bytes, kind) => match kind.format {
                Format::Parquet => Ok(Box::new(Parquet::open(self.path(), bytes.clone())?)),
                _ => open_text(self.path(), *kind, Cursor::new(bytes.clone()), options),
            },
        }
    }
}

fn open_file(path: &Path) -> Result<File, ReadError> {
    let open = |source| ReadError::Open { path: path.to_owned(), source };
    let file = File::open(path).map_err(open)?;
    if file.metadata().map_err(open)?.is_dir() {
        return Err(ReadError::Directory { path: path.to_owned() });
    }
    Ok(file)
}

fn open_text(
    path: &Path,
    kind: FileKind,
    compressed: impl BufRead + Send + 'static,
    options: &ReadOptions,
) -> Result<Box<dyn Table>, ReadError> {
    let plain: Box<dyn Read + Send> =
        if kind.gzip { Box::new(MultiGzDecoder::new(compressed)) } else { Box::new(compressed) };
    let input = without_byte_order_mark(path, plain)?;
    Ok(match kind.format {
        Format::Csv => Box::new(Delimited::open(path, input, b',', options)?),
        Format::Tsv => Box::new(Delimited::open(path, input, b'\t', options)?),
        Format::Jsonl => Box::new(Jsonl::open(path, input, options)?),
        Format::Parquet => unreachable!("parquet is opened by its own reader"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ending_names_the_format() {
        let kind = |name: &str| FileKind::of(Path::new(name));
        assert_eq!(kind("a/b.CSV"), Some(FileKind { format: Format::Csv, gzip: false }));
        assert_eq!(kind("a.tsv.gz"), Some(FileKind { format: Format::Tsv, gzip: true }));
        assert_eq!(kind("v1.2.jsonl"), Some(FileKind { format: Format::Jsonl, gzip: false }));
        assert_eq!(kind("a.parquet"), Some(FileKind { format: Format::Parquet, gzip: false }));
        for unknown in ["a.parquet.gz", "a.json", "a", "csv", ".gz", "a.csv.zip", ".."] {
            assert_eq!(kind(unknown), None, "{unknown}");
        }
    }
}
