//! From a path to an open table: the format by the name's ending, and gzip.
//!
//! `-` is stdin. What comes from there, or through a pipe whose name has no known ending, is told
//! by its first bytes: `{` begins jsonl, `[` a list of json, anything else csv. `--format` says
//! otherwise. Only there gzip is told by its first bytes too; elsewhere the name says it.

use std::fs::File;
use std::io::{BufRead, BufReader, Cursor, Read};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use flate2::bufread::MultiGzDecoder;

use crate::delimited::Delimited;
use crate::error::{Content, ReadError};
use crate::jsonl::Jsonl;
use crate::lines::Lines;
use crate::options::ReadOptions;
use crate::parquet::Parquet;
use crate::table::Table;
use crate::text_input::Start;

/// How a file is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Comma-separated with a header, quoted as in RFC 4180.
    Csv,
    /// The same with tabs, quoted likewise (as pandas, R and Excel write it).
    Tsv,
    /// One JSON object a line.
    Jsonl,
    /// A list of JSON objects.
    Json,
    /// One text a line, without a header.
    Text,
    /// Apache Parquet.
    Parquet,
}

impl Format {
    /// The names of the formats, which are the endings of their files.
    pub const NAMES: [&str; 6] = ["csv", "tsv", "jsonl", "json", "txt", "parquet"];

    fn of_name(name: &str) -> Option<Format> {
        Some(match name {
            "csv" => Format::Csv,
            "tsv" => Format::Tsv,
            "jsonl" => Format::Jsonl,
            "json" => Format::Json,
            "txt" => Format::Text,
            "parquet" => Format::Parquet,
            _ => return None,
        })
    }
}

impl FromStr for Format {
    type Err = String;

    fn from_str(name: &str) -> Result<Format, String> {
        let expected = || format!("expected one of: {}", Format::NAMES.join(", "));
        Format::of_name(name).ok_or_else(expected)
    }
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
        let format = Format::of_name(ending)?;
        if format == Format::Parquet && gzip {
            return None;
        }
        Some(FileKind { format, gzip })
    }
}

/// Where the bytes come from.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    File(PathBuf),
    Stdin,
    Memory(Bytes, FileKind),
}

/// A table whose header has been read.
pub(crate) struct Opened {
    pub(crate) table: Box<dyn Table>,
    pub(crate) format: Format,
    /// What was assumed about the file, as a sentence.
    pub(crate) note: Option<String>,
}

/// Stdin was named as an input: its bytes are gone for any other.
static STDIN_IS_TAKEN: AtomicBool = AtomicBool::new(false);

impl Source {
    /// A file, or stdin for `-`.
    pub(crate) fn of_path(path: &Path) -> Source {
        if path == Path::new("-") { Source::Stdin } else { Source::File(path.to_owned()) }
    }

    pub(crate) fn path(&self) -> &Path {
        match self {
            Source::File(path) => path,
            Source::Stdin => Path::new("(stdin)"),
            Source::Memory(..) => Path::new("(memory)"),
        }
    }

    /// Whether the same bytes come again: not from stdin and not from a pipe.
    pub(crate) fn can_reopen(&self) -> bool {
        match self {
            Source::File(path) => path.is_file(),
            Source::Stdin => false,
            Source::Memory(..) => true,
        }
    }

    /// Opens the table and reads its header. `needed` is what the file calls the columns that
    /// every row needs; lines of text are read as that column where there is one.
    pub(crate) fn open(&self, options: &ReadOptions, needed: &[&str]) -> Result<Opened, ReadError> {
        let text = Opening { path: self.path(), options, needed };
        match self {
            Source::File(path) => {
                let file = open_file(path)?;
                let kind = FileKind::of(path);
                if !path.is_file() && options.format.is_none() && kind.is_none() {
                    return text.told_by_content(BufReader::with_capacity(1 << 16, file), None);
                }
                let format = options.format.or(kind.map(|kind| kind.format));
                let Some(format) = format else {
                    return Err(ReadError::UnknownFormat { path: path.clone() });
                };
                if format == Format::Parquet {
                    return match path.is_file() {
                        true => parquet(Parquet::open(path, file)?),
                        false => Err(ReadError::ParquetPipe { path: path.clone() }),
                    };
                }
                let input = BufReader::with_capacity(1 << 16, file);
                match (options.format, kind) {
                    (None, Some(kind)) => text.open(format, unzipped(input, kind.gzip)),
                    _ => text.told_by_content(input, Some(format)),
                }
            }
            Source::Stdin => {
                if STDIN_IS_TAKEN.swap(true, Ordering::Relaxed) {
                    return Err(ReadError::StdinTwice);
                }
                text.told_by_content(BufReader::new(std::io::stdin()), options.format)
            }
            Source::Memory(bytes, kind) => match kind.format {
                Format::Parquet => parquet(Parquet::open(self.path(), bytes.clone())?),
                format => text.open(format, unzipped(Cursor::new(bytes.clone()), kind.gzip)),
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

fn parquet<T: Table + 'static>(table: T) -> Result<Opened, ReadError> {
    Ok(Opened { table: Box::new(table), format: Format::Parquet, note: None })
}

fn unzipped(input: impl BufRead + Send + 'static, gzip: bool) -> Box<dyn Read + Send> {
    if gzip { Box::new(MultiGzDecoder::new(input)) } else { Box::new(input) }
}

/// A text format that is about to be opened.
struct Opening<'a> {
    path: &'a Path,
    options: &'a ReadOptions,
    needed: &'a [&'a str],
}

impl Opening<'_> {
    /// Opens what may be gzipped, and whose format may be known from its content alone.
    fn told_by_content(
        &self,
        mut input: impl BufRead + Send + 'static,
        format: Option<Format>,
    ) -> Result<Opened, ReadError> {
        if format == Some(Format::Parquet) {
            return Err(ReadError::ParquetPipe { path: self.path.to_owned() });
        }
        let start = input.fill_buf().map_err(|source| ReadError::Read {
            path: self.path.to_owned(),
            at: crate::error::Position::Line(1),
            source,
        })?;
        let gzip = Content::of(start) == Some(Content::Gzip);
        let start = Start::of(self.path, unzipped(input, gzip))?;
        let format = format.unwrap_or_else(|| match start.first_byte() {
            Some(b'{') => Format::Jsonl,
            Some(b'[') => Format::Json,
            _ => Format::Csv,
        });
        self.open_started(format, start)
    }

    fn open(&self, format: Format, input: Box<dyn Read + Send>) -> Result<Opened, ReadError> {
        self.open_started(format, Start::of(self.path, input)?)
    }

    fn open_started(&self, format: Format, start: Start) -> Result<Opened, ReadError> {
        let Opening { path, options, needed } = *self;
        let (name, first) = (path.display(), start.first_byte());
        let mut note = None;
        let table: Box<dyn Table> = match format {
            Format::Csv => {
                let delimiter = start.delimiter();
                note = match delimiter {
                    b';' => {
                        Some(format!("the header of `{name}` has `;` and no `,`: read with `;`"))
                    }
                    b'\t' => {
                        Some(format!("the header of `{name}` has tabs and no `,`: read as tsv"))
                    }
                    _ => None,
                };
                Box::new(Delimited::open(path, start.input, delimiter, options)?)
            }
            Format::Tsv => Box::new(Delimited::open(path, start.input, b'\t', options)?),
            Format::Jsonl if first == Some(b'[') => {
                note = Some(format!("`{name}` begins with `[`: read as one list of JSON objects"));
                Box::new(Jsonl::open_list(path, start.input, options)?)
            }
            Format::Json if first == Some(b'{') => {
                note = Some(format!("`{name}` begins with `{{`: read as one JSON object a line"));
                Box::new(Jsonl::open(path, start.input, options)?)
            }
            Format::Jsonl => Box::new(Jsonl::open(path, start.input, options)?),
            Format::Json => Box::new(Jsonl::open_list(path, start.input, options)?),
            Format::Text => {
                let [column] = needed else {
                    let columns = needed.iter().map(|name| (*name).to_owned()).collect();
                    return Err(ReadError::OneText { path: path.to_owned(), columns });
                };
                Box::new(Lines::open(path, start.input, column, options))
            }
            Format::Parquet => unreachable!("parquet is opened by its own reader"),
        };
        Ok(Opened { table, format, note })
    }
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
        assert_eq!(kind("a.json.gz"), Some(FileKind { format: Format::Json, gzip: true }));
        assert_eq!(kind("a.txt"), Some(FileKind { format: Format::Text, gzip: false }));
        for unknown in ["a.parquet.gz", "a.csvs", "a", "csv", ".gz", "a.csv.zip", ".."] {
            assert_eq!(kind(unknown), None, "{unknown}");
        }
    }
}
