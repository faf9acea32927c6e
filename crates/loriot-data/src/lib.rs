//! csv, tsv, jsonl and parquet as typed rows: judged pairs, products, texts.
//!
//! Everything streams: memory is one record (of parquet: one small batch), however long the file.
//! A file is read by its extension, text formats also gzipped. Whatever is wrong with one row is
//! an error that names path, line, what was found and what was expected; [`ReadOptions::skip_bad_rows`]
//! turns such errors into a count. What is wrong with a whole file (cut short, a column missing)
//! always stops the run. This crate knows no model and no metric.
//!
//! In reading order: [`columns`] what the file calls our columns · [`options`] how rows are read ·
//! [`records`] the typed rows and what they accept · [`value`] what no reader interprets · [`rows`] the iterator over several files ·
//! [`source`] from path to table · `text_input`, `delimited`, `jsonl`, `parquet` (within
//! [`guard`]) the formats · [`error`] · [`deduplicate`].
//!
//! ```no_run
//! use loriot_data::{ReadOptions, read_pairs};
//! let pairs = read_pairs(&["train.csv.gz".into()], &ReadOptions::default())?;
//! let (pairs, skipped) = pairs.read_all()?;
//! assert_eq!(skipped.count, 0);
//! # Ok::<(), loriot_data::ReadError>(())
//! ```

pub mod columns;
pub mod deduplicate;
mod delimited;
pub mod error;
pub mod guard;
mod jsonl;
pub mod options;
mod parquet;
pub mod records;
pub mod rows;
pub mod source;
mod table;
mod text_input;
pub mod value;

pub use columns::{ColumnError, ColumnName, Columns};
pub use deduplicate::Deduplicate;
pub use error::{Position, ReadError, RowFault};
pub use options::ReadOptions;
pub use records::{Pair, Product, Text};
pub use records::{read_pairs, read_pairs_from, read_products, read_products_from, read_texts};
pub use rows::{Rows, SkippedRows};
pub use source::{FileKind, Format};
pub use value::Value;
