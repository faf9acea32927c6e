//! csv, tsv, jsonl, json, lines of text and parquet as typed rows: judged pairs, products, texts.
//!
//! Everything streams: memory is one record (of parquet: one small batch), however long the file.
//! A file is read by its extension or as [`ReadOptions::format`] says, text formats also gzipped;
//! stdin by its first bytes. Whatever is wrong with one row is
//! an error that names path, line, what was found and what was expected; [`ReadOptions::skip_bad_rows`]
//! turns such errors into a count. What is wrong with a whole file (cut short, a column missing)
//! always stops the run. This crate knows no model and no metric.
//!
//! In reading order: [`columns`] what the file calls our columns · [`options`] how rows are read ·
//! [`label_scale`] and [`template`] what is made of a column · [`records`] the typed rows and what they accept · [`judged`] all rows,
//! on the scale that they have · [`value`] what no reader interprets · [`rows`] the iterator over several files · [`source`] from path
//! to table · `text_input` and `content` (what the first bytes say), `line_input`, `delimited`, `jsonl`, `json_list`, `lines`, `parquet`
//! (within [`guard`]) the formats · [`error`] · [`deduplicate`] · [`spool`] products that are gone through more than once.
//!
//! ```no_run
//! use loriot_data::{ReadOptions, read_pairs};
//! let pairs = read_pairs(&["train.csv.gz".into()], &ReadOptions::default())?;
//! let (pairs, skipped) = pairs.read_all()?;
//! assert_eq!(skipped.count, 0);
//! # Ok::<(), loriot_data::ReadError>(())
//! ```

pub mod columns;
mod content;
pub mod deduplicate;
mod delimited;
pub mod error;
pub mod guard;
mod json_list;
mod jsonl;
pub mod judged;
pub mod label_scale;
mod line_input;
mod lines;
pub mod options;
mod parquet;
pub mod records;
pub mod rows;
pub mod source;
pub mod spool;
mod table;
pub mod template;
mod text_input;
pub mod value;

pub use columns::{ColumnError, ColumnName, Columns};
pub use deduplicate::{Conflict, Deduplicate};
pub use error::{Content, Position, ReadError, RowFault};
pub use judged::{Judged, read_judged};
pub use label_scale::{LabelScale, LabelScaleError};
pub use options::ReadOptions;
pub use records::read_texts_from;
pub use records::{Pair, Product, Text};
pub use records::{read_pairs, read_pairs_from, read_products, read_products_from, read_texts};
pub use rows::{Rows, SkippedRows};
pub use source::{FileKind, Format};
pub use spool::{Spool, SpoolWriter};
pub use template::{ProductTexts, TemplateError, TextTemplate};
pub use value::Value;
