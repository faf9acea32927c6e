//! The typed rows, and what their columns accept.
//!
//! | column | accepts |
//! |---|---|
//! | `query`, `product_title` | text; of a judged pair one of the two may be blank, a product's title may not |
//! | `relevance_label` | a number from 0 to 1, or on a scale of its own; a letter of ESCI; in json and parquet also true and false |
//! | `grade`, optional | any finite number from 0 up, or on a scale; a letter of ESCI; blank or null: none |
//! | `id`, optional | text or number, kept as written; blank or null: none |
//!
//! A null `query`, `product_title` or `relevance_label` is an error everywhere, as is a text with
//! a NUL character in any column that is read: no catalogue has one, damaged and mis-converted files do. With a text template
//! the template's text stands for a pair's `product_title` and for the text of [`read_texts`], and
//! a value that is missing is no error; a product keeps its title, and [`TextTemplate::of_products`]
//! makes its text.
//!
//! [`TextTemplate::of_products`]: crate::TextTemplate::of_products

use std::path::PathBuf;

use bytes::Bytes;

use crate::error::{ReadError, RowFault, shown};
use crate::label_scale::{LabelScale, esci_gain};
use crate::options::ReadOptions;
use crate::rows::{Fields, Kind, Need, Rows, Wanted};
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

/// Where the template's columns begin among those of a pair, and of a text.
const PAIR_TEMPLATE: usize = 5;
const TEXT_TEMPLATE: usize = 1;

fn pairs(options: &ReadOptions, convert: fn(Fields<'_>) -> Result<Pair, RowFault>) -> Kind<Pair> {
    let required = ["query", "product_title", "relevance_label"].map(Wanted::required);
    let mut wanted: Vec<Wanted> =
        required.into_iter().chain(["id", "grade"].map(Wanted::optional)).collect();
    if options.text_template.is_some() {
        wanted[1].need = Need::Optional;
    }
    wanted.extend(template_columns(options));
    Kind { wanted, also: Vec::new(), with_others: false, convert }
}

fn products(options: &ReadOptions) -> Kind<Product> {
    let wanted = vec![Wanted::required("product_title"), Wanted::optional("id")];
    Kind { wanted, also: template_columns(options), with_others: true, convert: product }
}

fn texts(text_column: &str, options: &ReadOptions) -> Kind<Text> {
    if options.text_template.is_none() {
        let wanted = vec![Wanted::required(text_column), Wanted::optional("id")];
        return Kind { wanted, also: Vec::new(), with_others: false, convert: text };
    }
    let mut wanted = vec![Wanted::optional("id")];
    wanted.extend(template_columns(options));
    Kind { wanted, also: Vec::new(), with_others: false, convert: templated_text }
}

fn template_columns(options: &ReadOptions) -> Vec<Wanted> {
    let columns = options.text_template.iter().flat_map(|template| template.columns());
    columns.map(|name| Wanted::in_template(name)).collect()
}

/// Judged pairs of one or several files.
pub fn read_pairs(paths: &[PathBuf], options: &ReadOptions) -> Result<Rows<Pair>, ReadError> {
    Rows::open(files(paths), options, pairs(options, pair))
}

/// Judged pairs whose labels may be any finite number.
pub(crate) fn read_pairs_with_any_label(
    paths: &[PathBuf],
    options: &ReadOptions,
) -> Result<Rows<Pair>, ReadError> {
    Rows::open(files(paths), options, pairs(options, pair_with_any_label))
}

/// Judged pairs of a file in memory, for callers that have no path (and for fuzzing).
pub fn read_pairs_from(
    bytes: impl Into<Bytes>,
    kind: FileKind,
    options: &ReadOptions,
) -> Result<Rows<Pair>, ReadError> {
    Rows::open(vec![Source::Memory(bytes.into(), kind)], options, pairs(options, pair))
}

/// Products of one or several files, with all their columns.
pub fn read_products(paths: &[PathBuf], options: &ReadOptions) -> Result<Rows<Product>, ReadError> {
    Rows::open(files(paths), options, products(options))
}

/// Products of a file in memory.
pub fn read_products_from(
    bytes: impl Into<Bytes>,
    kind: FileKind,
    options: &ReadOptions,
) -> Result<Rows<Product>, ReadError> {
    Rows::open(vec![Source::Memory(bytes.into(), kind)], options, products(options))
}

/// The texts of one column: `text_column` is our name of it where there is one, else the file's.
/// Where there is a text template, its texts.
pub fn read_texts(
    paths: &[PathBuf],
    text_column: &str,
    options: &ReadOptions,
) -> Result<Rows<Text>, ReadError> {
    Rows::open(files(paths), options, texts(text_column, options))
}

/// The texts of a file in memory.
pub fn read_texts_from(
    bytes: impl Into<Bytes>,
    kind: FileKind,
    text_column: &str,
    options: &ReadOptions,
) -> Result<Rows<Text>, ReadError> {
    let source = Source::Memory(bytes.into(), kind);
    Rows::open(vec![source], options, texts(text_column, options))
}

fn files(paths: &[PathBuf]) -> Vec<Source> {
    paths.iter().map(|path| Source::of_path(path)).collect()
}

fn pair(fields: Fields<'_>) -> Result<Pair, RowFault> {
    let scale = fields.options.label_scale.unwrap_or(LabelScale::UNIT);
    pair_on(Some(scale), fields)
}

fn pair_with_any_label(fields: Fields<'_>) -> Result<Pair, RowFault> {
    pair_on(None, fields)
}

fn pair_on(scale: Option<LabelScale>, mut fields: Fields<'_>) -> Result<Pair, RowFault> {
    let query = fields.text(0)?;
    let product_title = match fields.options.text_template.is_some() {
        true => fields.template_text(PAIR_TEMPLATE)?,
        false => fields.text(1)?,
    };
    if query.trim().is_empty() && product_title.trim().is_empty() {
        let product = match &fields.options.text_template {
            Some(template) => format!("a column of `{template}`"),
            None => format!("`{}`", fields.names[1]),
        };
        let columns = format!("`{}` or {product}", fields.names[0]);
        return Err(RowFault::Blank { columns });
    }
    Ok(Pair {
        query,
        product_title,
        relevance_label: fields.label(2, scale)?,
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

fn templated_text(mut fields: Fields<'_>) -> Result<Text, RowFault> {
    let (id, text) = (fields.id(0)?, fields.template_text(TEXT_TEMPLATE)?);
    Ok(Text { id, text, line: fields.line, file_idx: fields.file_idx })
}

impl Fields<'_> {
    fn take(&mut self, idx: usize) -> Cell {
        std::mem::replace(&mut self.cells[idx], Cell::Null)
    }

    fn value_fault(&self, idx: usize, found: String, expected: &str) -> RowFault {
        let expected = expected.to_owned();
        RowFault::Value { column: self.names[idx].clone(), found, expected }
    }

    /// The text of the template whose columns are those from `first` on.
    fn template_text(&mut self, first: usize) -> Result<String, RowFault> {
        let Some(template) = &self.options.text_template else { return Ok(String::new()) };
        let mut values = Vec::with_capacity(template.columns().len());
        for idx in first..first + template.columns().len() {
            values.push(Value::of(self.take(idx)));
        }
        Ok(template.text(&values))
    }

    fn missing(&self, idx: usize) -> RowFault {
        RowFault::Missing { column: self.names[idx].clone() }
    }

    fn text(&mut self, idx: usize) -> Result<String, RowFault> {
        let found = match self.take(idx) {
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

    /// A label from 0 to 1, brought there from `scale`; without one any finite number.
    fn label(&mut self, idx: usize, scale: Option<LabelScale>) -> Result<f32, RowFault> {
        let is_unit = scale.is_none_or(|scale| scale == LabelScale::UNIT);
        let found = match self.take(idx) {
            Cell::Bool(value) if is_unit => return Ok(f32::from(u8::from(value))),
            Cell::Bool(value) => format!("`{value}`"),
            Cell::Text(text) | Cell::Number(text) => {
                if let Some(gain) = esci_gain(text.trim()).filter(|_| is_unit) {
                    *self.has_letters = true;
                    return Ok(gain);
                }
                let label = text.trim().parse::<f32>().ok().filter(|label| label.is_finite());
                let label = match scale {
                    Some(scale) => label.and_then(|label| scale.apply(label)),
                    None => label,
                };
                match label {
                    Some(label) => return Ok(label),
                    None => shown(&text),
                }
            }
            Cell::Null => return Err(self.missing(idx)),
            Cell::Json { kind, .. } | Cell::Other { kind, .. } => kind.to_owned(),
        };
        Err(self.value_fault(idx, found, &scale.unwrap_or(LabelScale::UNIT).expected()))
    }

    fn grade(&mut self, idx: usize) -> Result<Option<f32>, RowFault> {
        let scale = self.options.grade_scale;
        let found = match self.take(idx) {
            Cell::Null => return Ok(None),
            Cell::Text(text) if text.trim().is_empty() => return Ok(None),
            Cell::Text(text) | Cell::Number(text) => {
                let text = text.trim();
                let is_unit = scale.is_none_or(|scale| scale == LabelScale::UNIT);
                if let Some(gain) = esci_gain(text).filter(|_| is_unit) {
                    return Ok(Some(gain));
                }
                let grade = text.parse::<f32>().ok().filter(|grade| grade.is_finite());
                let grade = match scale {
                    Some(scale) => grade.and_then(|grade| scale.apply(grade)),
                    None => grade.filter(|grade| *grade >= 0.0),
                };
                match grade {
                    Some(grade) => return Ok(Some(grade)),
                    None => shown(text),
                }
            }
            Cell::Bool(value) => format!("`{value}`"),
            Cell::Json { kind, .. } | Cell::Other { kind, .. } => kind.to_owned(),
        };
        let any = || "a finite number, 0 or more".to_owned();
        Err(self.value_fault(idx, found, &scale.map_or_else(any, LabelScale::expected)))
    }
}
