//! What can be wrong with a data file, and what the user can do about it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use loriot_files::Hint;

use crate::columns::COLUMN_NAMES;
pub use crate::content::Content;
use crate::source::Format;

/// A data file could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The name ends in no known format.
    #[error("cannot tell the format of `{}` from its name", path.display())]
    UnknownFormat {
        /// The file.
        path: PathBuf,
    },
    /// The file does not exist or may not be read.
    #[error("cannot open `{}`", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// A folder where a file should be.
    #[error("`{}` is a folder, expected a file", path.display())]
    Directory {
        /// The folder.
        path: PathBuf,
    },
    /// The first bytes belong to another format than the name says.
    #[error("`{}` is {found}, expected {expected}", path.display())]
    OtherContent {
        /// The file.
        path: PathBuf,
        /// What the first bytes say.
        found: Content,
        /// What the name says.
        expected: &'static str,
    },
    /// More columns than a table may have.
    #[error("`{}` has {found} columns, expected at most {limit}", path.display())]
    TooManyColumns {
        /// The file.
        path: PathBuf,
        /// Its columns.
        found: usize,
        /// The limit.
        limit: usize,
    },
    /// The line that names the columns cannot be read.
    #[error("`{}` line {line}: {fault}", path.display())]
    Header {
        /// The file.
        path: PathBuf,
        /// Where its header is.
        line: u64,
        /// What is wrong with it.
        fault: RowFault,
    },
    /// A JSON list that is broken between its elements, or cut short.
    #[error("`{}` line {line}: {reason}", path.display())]
    BrokenList {
        /// The file.
        path: PathBuf,
        /// Where.
        line: u64,
        /// What was expected and found.
        reason: String,
    },
    /// Lines without columns where rows with columns are needed.
    #[error("`{}` holds one text a line, expected the columns {}", path.display(), listed(columns))]
    OneText {
        /// The file.
        path: PathBuf,
        /// The columns that are needed.
        columns: Vec<String>,
    },
    /// Parquet, which is read from its end, in a pipe.
    #[error("`{}` is a pipe, expected a file: parquet is read from its end", path.display())]
    ParquetPipe {
        /// The pipe.
        path: PathBuf,
    },
    /// Stdin was named as an input twice.
    #[error("stdin is read once, but `-` is named twice")]
    StdinTwice,
    /// Reading stopped midway: a gzip file cut short, a disk that fails.
    #[error("cannot read `{}` past {at}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The last place that could be read.
        at: Position,
        /// What the operating system or the decompressor said.
        #[source]
        source: io::Error,
    },
    /// The parquet reader refused the file.
    #[error("`{}` cannot be read as parquet", path.display())]
    Parquet {
        /// The file.
        path: PathBuf,
        /// Its reason.
        #[source]
        source: parquet::errors::ParquetError,
    },
    /// A column we need is not in the header.
    #[error("`{}` has no column `{in_file}`; it has: {}", path.display(), listed(found))]
    NoColumn {
        /// The file.
        path: PathBuf,
        /// Our name of the column.
        wanted: String,
        /// The name that was looked for.
        in_file: String,
        /// The columns that are there.
        found: Vec<String>,
        /// Whether the text template names it.
        in_template: bool,
    },
    /// A column we need is there twice.
    #[error("`{}` has two columns `{column}`", path.display())]
    RepeatedColumn {
        /// The file.
        path: PathBuf,
        /// The name in the file.
        column: String,
    },
    /// Not one row in all the files.
    #[error("`{}`{} no rows", path.display(), holds(*n_more))]
    Empty {
        /// The first file.
        path: PathBuf,
        /// How many files follow it.
        n_more: usize,
    },
    /// Rows, but not one that could be used.
    #[error("`{}`{} no row that can be used: {n_skipped} skipped, the first because {first}",
        path.display(), holds(*n_more))]
    AllSkipped {
        /// The first file.
        path: PathBuf,
        /// How many files follow it.
        n_more: usize,
        /// Rows left out.
        n_skipped: u64,
        /// Why the first was left out.
        first: String,
    },
    /// A csv record without an end, mostly because a quote was never closed. The rest of the file
    /// would be read as one text, so this stops the run even where bad rows are skipped.
    #[error("`{}` line {line}: the record that starts here is still open after {n_bytes} bytes", path.display())]
    Unclosed {
        /// The file.
        path: PathBuf,
        /// Where the record starts.
        line: u64,
        /// How far was read.
        n_bytes: usize,
    },
    /// One row is wrong; the next can be read. The only error that skipping bad rows forgives.
    #[error("`{}` {at}: {fault}", path.display())]
    Row {
        /// The file.
        path: PathBuf,
        /// Where in it.
        at: Position,
        /// What is wrong.
        fault: RowFault,
    },
}

/// What is wrong with one row.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum RowFault {
    /// More or fewer fields than the header.
    #[error("expected {expected} fields, found {found}")]
    FieldCount {
        /// Columns of the header.
        expected: usize,
        /// Fields of the row.
        found: usize,
    },
    /// The bytes are not UTF-8.
    #[error("expected UTF-8, found byte 0x{byte:02x}")]
    Utf8 {
        /// The first byte that is wrong.
        byte: u8,
    },
    /// A text, or a line, over the limit.
    #[error("{what} holds {found} bytes, expected at most {limit}")]
    TooLong {
        /// The column in backticks, or "this line".
        what: String,
        /// Its length.
        found: usize,
        /// The limit.
        limit: usize,
    },
    /// No value where one must be.
    #[error("expected a value of `{column}`, found none")]
    Missing {
        /// The name in the file.
        column: String,
    },
    /// Nothing but white space where text must be.
    #[error("expected text in {columns}, found none")]
    Blank {
        /// The column or columns in backticks.
        columns: String,
    },
    /// A value of another kind.
    #[error("`{column}` is {found}, expected {expected}")]
    Value {
        /// The name in the file.
        column: String,
        /// The value in backticks, or its type.
        found: String,
        /// What it should be.
        expected: String,
    },
    /// An object with too many keys.
    #[error("this object has more than {limit} keys")]
    TooManyKeys {
        /// The limit.
        limit: usize,
    },
    /// A label that is not from 0 to 1, in data whose labels do not look like another scale.
    #[error("`{column}` is `{found}`, expected a number from 0 to 1")]
    Label {
        /// The name in the file.
        column: String,
        /// The label.
        found: f32,
    },
    /// A key of jsonl that would be one column too many.
    #[error("key {} would be a column more than the {limit} that the file may have", shown(key))]
    TooManyColumns {
        /// The key.
        key: String,
        /// The limit.
        limit: usize,
    },
    /// A line of jsonl that is not a JSON object.
    #[error("expected a JSON object: {reason}")]
    Json {
        /// What the parser said.
        reason: String,
    },
}

/// Where in a file, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    /// A line of a text file; of a record with quoted line breaks, its first.
    Line(u64),
    /// A row of a parquet file.
    Row(u64),
}

impl Position {
    /// The number alone.
    pub fn number(self) -> u64 {
        match self {
            Position::Line(number) | Position::Row(number) => number,
        }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Position::Line(line) => write!(f, "line {line}"),
            Position::Row(row) => write!(f, "row {row}"),
        }
    }
}

impl Hint for ReadError {
    fn hint(&self) -> Option<String> {
        match self {
            ReadError::UnknownFormat { path } => Some(unknown_format(path)),
            ReadError::Directory { .. } => Some("name the files in it".into()),
            ReadError::OtherContent { path, found, .. } => Some(found.remedy(path)),
            ReadError::TooManyColumns { .. }
            | ReadError::Row { fault: RowFault::TooManyKeys { .. }, .. } => Some(
                "keep the columns that are needed; is this a table, one row for each text?".into(),
            ),
            ReadError::Header { fault: RowFault::Utf8 { .. }, .. } => {
                Some("convert the file, as with `iconv -f LATIN1 -t UTF-8`".into())
            }
            ReadError::Header { .. } => Some("the first line names the columns".into()),
            ReadError::BrokenList { .. } => Some(
                "expected a list of objects, `[{…}, {…}]`; if the file is cut short, fetch or \
                 write it again"
                    .into(),
            ),
            ReadError::OneText { .. } => {
                Some("give `.csv`, `.tsv`, `.jsonl`, `.json` or `.parquet`".into())
            }
            ReadError::ParquetPipe { .. } => Some("give the file's path".into()),
            ReadError::StdinTwice => Some("give the other input as a file".into()),
            ReadError::Read { source, .. } if source.kind() == io::ErrorKind::UnexpectedEof => {
                Some("the file is cut short; fetch or write it again".into())
            }
            ReadError::Parquet { .. } => {
                Some("the file may be damaged or cut short; fetch or write it again".into())
            }
            ReadError::NoColumn { in_template: true, .. } => {
                Some("name columns in `--text-template` as the file does".into())
            }
            ReadError::NoColumn { wanted, .. } if COLUMN_NAMES.contains(&wanted.as_str()) => {
                Some(format!("name the column with `--column {wanted}=<name>`"))
            }
            ReadError::NoColumn { .. } => {
                Some("name the column with `--text-column <name>`".into())
            }
            ReadError::RepeatedColumn { .. } => Some("rename one of them in the file".into()),
            ReadError::Empty { .. } => {
                Some("expected a header and at least one row; is this the right file?".into())
            }
            ReadError::Unclosed { .. } => Some(
                "a field that opens with `\"` must close with `\"`, and a `\"` inside it is \
                 written `\"\"`; a record may hold 16 MiB"
                    .into(),
            ),
            ReadError::Row { fault, .. } => Some(match fault {
                RowFault::Utf8 { .. } => {
                    "convert the file, as with `iconv -f LATIN1 -t UTF-8`, or leave such rows out \
                     with `--skip-bad-rows`"
                        .into()
                }
                RowFault::Label { .. } => {
                    "if the labels are on another scale, say so, as with `--label-scale 0:4`; else \
                     correct the row, or leave such rows out with `--skip-bad-rows`"
                        .into()
                }
                RowFault::TooLong { .. } => {
                    "shorten it, or leave such rows out with `--skip-bad-rows`".into()
                }
                _ => "correct the row, or leave such rows out with `--skip-bad-rows`".into(),
            }),
            ReadError::Open { .. } | ReadError::Read { .. } | ReadError::AllSkipped { .. } => None,
        }
    }
}

/// What to do with a name whose ending is unknown.
fn unknown_format(path: &Path) -> String {
    let ending = path.extension().map(|ending| ending.to_string_lossy().to_lowercase());
    let name = path.display();
    let unpack = |command: &str| format!("decompress it first: `{command} {name}`");
    match ending.as_deref() {
        Some("br") => unpack("brotli -d"),
        Some("zst") => unpack("unzstd"),
        Some("bz2") => unpack("bunzip2"),
        Some("xz") => unpack("unxz"),
        Some("zip") => unpack("unzip"),
        Some("xls" | "xlsx" | "ods") => {
            "save it there as csv in UTF-8; known endings are `.csv`, `.tsv`, `.jsonl`, `.json`, \
             `.txt` (each also with `.gz`) and `.parquet`"
                .into()
        }
        _ => format!(
            "known endings are `.csv`, `.tsv`, `.jsonl`, `.json`, `.txt` (each also with `.gz`) and \
             `.parquet`; with another say what it is: `--format {}`",
            Format::NAMES.join("|")
        ),
    }
}

/// A value as a message shows it: in backticks, short, on one line.
pub(crate) fn shown(value: &str) -> String {
    format!("`{}`", short(value))
}

/// The first 60 characters, without control characters.
fn short(value: &str) -> String {
    let visible = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    let mut text: String = value.chars().take(60).map(visible).collect();
    if value.chars().nth(60).is_some() {
        text.push('…');
    }
    text
}

fn listed(columns: &[String]) -> String {
    const N_LISTED: usize = 30;
    let mut names: Vec<String> = columns.iter().take(N_LISTED).map(|name| short(name)).collect();
    if columns.len() > N_LISTED {
        names.push(format!("and {} more", columns.len() - N_LISTED));
    }
    names.join(", ")
}

fn holds(n_more: usize) -> String {
    if n_more == 0 { " holds".into() } else { format!(" and {n_more} more hold") }
}
