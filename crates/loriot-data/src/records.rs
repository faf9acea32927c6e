//! The typed rows, and what their columns accept.
//!
//! | column | accepts |
//! |---|---|
//! | `query`, `product_title` | text; of a judged pair one of the two may be blank, a product's title may not |
//! | `relevance_label` | a number from 0 to 1; in jsonl and parquet also true and false |
//! | `grade`, optional | any finite number from 0 up; blank or null: none |
//! | `id`, optional | text or number, kept as written; blank or null: none |
//!
//! A null `query`, `product_title` or `relevance_label` is an error everywhere, as is a text with
//! a NUL character: no catalogue has one, damaged and mis-converted files do.

use std::path::PathBuf;

use bytes::Bytes;

use crate::error::{ReadError, RowFault, shown};
use crate::options::ReadOptions;
use crate::rows::{Fields, Rows, Wanted};
use crate::source::{FileKind, Source};
use crate::table::Cell;
use crate::value::Value;

/// A judged row: how well a product answers a query.
#[derive(Clone, Debug, PartialEq)]
pub struct Pair {
    /// What was searched for.
    pub query: String,
    /// The product's text.
    pub product_title: String,
    /// 0 irrelevant … 1 relevant.
    pub relevance_label: f32,
    /// The row's or the product's id.
    pub id: Option<String>,
    /// A finer judgement than the label, on any scale.
    pub grade: Option<f32>,
    /// The line of a text file (the row of a parquet file), from 1.
    pub line: u64,
    /// Which of the files, from 0.
    pub file_idx: usize,
}

/// A product of a catalogue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Product {
    /// The product's id.
    pub id: Option<String>,
    /// The product's text.
    pub product_title: String,
    /// The values of its other columns, each with the column's place in [`Rows::other_columns`],
    /// in ascending order. A column that has no value here is left out.
    pub other: Vec<(u32, Value)>,
    /// The line of a text file (the row of a parquet file), from 1.
    pub line: u64,
    /// Which of the files, from 0.
    pub file_idx: usize,
}

/// A text to embed, which may be empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    /// The row's id.
    pub id: Option<String>,
    /// The text.
    pub text: String,
    /// The line of a text file (the row of a parquet file), from 1.
    pub line: u64,
    /// Which of the files, from 0.
    pub file_idx: usize,
}

fn pair_columns() -> Vec<Wanted> {
    let required = ["query", "product_title", "relevance_label"].map(Wanted::required);
    required.into_iter().chain(["id", "grade"].map(Wanted::optional)).collect()
}

fn product_columns() -> Vec<Wanted> {
    vec![Wanted::required("product_title"), Wanted::optional("id")]
}

/// Judged pairs of one or several files.
pub fn read_pairs(paths: &[PathBuf], options: &ReadOptions) -> Result<Rows<Pair>, ReadError> {
    Rows::open(files(paths), options, pair_columns(), false, pair)
}

/// Judged pairs of a file in memory, for callers that have no path (and for fuzzing).
pub fn read_pairs_from(
    bytes: impl Into<Bytes>,
    kind: FileKind,
    options: &ReadOptions,
) -> Result<Rows<Pair>, ReadError> {
    Rows::open(vec![Source::Memory(bytes.into(), kind)], options, pair_columns(), false, pair)
}

/// Products of one or several files, with all their columns.
pub fn read_products(paths: &[PathBuf], options: &ReadOptions) -> Result<Rows<Product>, ReadError> {
    Rows::open(files(paths), options, product_columns(), true, product)
}

/// Products of a file in memory.
pub fn read_products_from(
    bytes: impl Into<Bytes>,
    kind: FileKind,
    options: &ReadOptions,
) -> Result<Rows<Product>, ReadError> {
    Rows::open(vec![Source::Memory(bytes.into(), kind)], options, product_columns(), true, product)
}

/// The texts of one column: `text_column` is our name of it where there is one, else the file's.
pub fn read_texts(
    paths: &[PathBuf],
    text_column: &str,
    options: &ReadOptions,
) -> Result<Rows<Text>, ReadError> {
    let wanted = vec![Wanted::required(text_column), Wanted::optional("id")];
    Rows::open(files(paths), options, wanted, false, text)
}

fn files(paths: &[PathBuf]) -> Vec<Source> {
    paths.iter().cloned().map(Source::File).collect()
}

fn pair(mut fields: Fields<'_>) -> Result<Pair, RowFault> {
    let (query, product_title) = (fields.text(0)?, fields.text(1)?);
    if query.trim().is_empty() && product_title.trim().is_empty() {
        let columns = format!("`{}` or `{}`", fields.names[0], fields.names[1]);
        return Err(RowFault::Blank { columns });
    }
    Ok(Pair {
        query,
        product_title,
        relevance_label: fields.label(2)?,
        id: fields.id(3)?,
        grade: fields.grade(4)?,
        line: fields.line,
        file_idx: fields.file_idx,
    })
}

fn product(mut fields: Fields<'_>) -> Result<Product, RowFault> {
    let product_title = fields.text(0)?;
    if product_title.trim().is_empty() {
        return Err(RowFault::Blank { columns: format!("`{}`", fields.names[0]) });
    }
    let id = fields.id(1)?;
    let others = std::mem::take(&mut fields.others).into_iter();
    let mut other: Vec<(u32, Value)> =
        others.filter_map(|(column, cell)| Some((column, Value::of(cell)?))).collect();
    other.sort_unstable_by_key(|(column, _)| *column);
    Ok(Product { id, product_title, other, line: fields.line, file_idx: fields.file_idx })
}

fn text(mut fields: Fields<'_>) -> Result<Text, RowFault> {
    let (text, id) = (fields.text(0)?, fields.id(1)?);
    Ok(Text { id, text, line: fields.line, file_idx: fields.file_idx })
}

impl Fields<'_> {
    fn take(&mut self, idx: usize) -> Cell {
        std::mem::replace(&mut self.cells[idx], Cell::Null)
    }

    fn value_fault(&self, idx: usize, found: String, expected: &'static str) -> RowFault {
        RowFault::Value { column: self.names[idx].clone(), found, expected }
    }

    fn missing(&self, idx: usize) -> RowFault {
        RowFault::Missing { column: self.names[idx].clone() }
    }

    fn text(&mut self, idx: usize) -> Result<String, RowFault> {
        let found = match self.take(idx) {
            Cell::Text(text) if text.contains('\0') => "a text with a NUL character".to_owned(),
            Cell::Text(text) => return Ok(text),
            Cell::Null => return Err(self.missing(idx)),
            Cell::Number(number) => format!("the number {}", shown(&number)),
            Cell::Bool(value) => format!("`{value}`"),
            Cell::Json { kind, .. } | Cell::Other { kind, .. } => kind.to_owned(),
        };
        Err(self.value_fault(idx, found, "text"))
    }

    fn id(&mut self, idx: usize) -> Result<Option<String>, RowFault> {
        let found = match self.take(idx) {
            Cell::Null => return Ok(None),
            Cell::Text(text) if text.trim().is_empty() => return Ok(None),
            Cell::Text(text) | Cell::Number(text) => return Ok(Some(text)),
            Cell::Bool(value) => format!("`{value}`"),
            Cell::Json { kind, .. } | Cell::Other { kind, .. } => kind.to_owned(),
        };
        Err(self.value_fault(idx, found, "text or a number"))
    }

    fn label(&mut self, idx: usize) -> Result<f32, RowFault> {
        const EXPECTED: &str = "a number from 0 to 1";
        let found = match self.take(idx) {
            Cell::Bool(value) => return Ok(f32::from(u8::from(value))),
            Cell::Text(text) | Cell::Number(text) => match text.trim().parse::<f32>() {
                Ok(label) if (0.0..=1.0).contains(&label) => return Ok(label),
                _ => shown(&text),
            },
            Cell::Null => return Err(self.missing(idx)),
            Cell::Json { kind, .. } | Cell::Other { kind, .. } => kind.to_owned(),
        };
        Err(self.value_fault(idx, found, EXPECTED))
    }

    fn grade(&mut self, idx: usize) -> Result<Option<f32>, RowFault> {
        let found = match self.take(idx) {
            Cell::Null => return Ok(None),
            Cell::Text(text) if text.trim().is_empty() => return Ok(None),
            Cell::Text(text) | Cell::Number(text) => match text.trim().parse::<f32>() {
                Ok(grade) if grade.is_finite() && grade >= 0.0 => return Ok(Some(grade)),
                _ => shown(&text),
            },
            Cell::Bool(value) => format!("`{value}`"),
            Cell::Json { kind, .. } | Cell::Other { kind, .. } => kind.to_owned(),
        };
        Err(self.value_fault(idx, found, "a finite number, 0 or more"))
    }
}
