//! What the formats have in common: a table of cells, read one record at a time.

use crate::error::{Position, ReadError};

/// One value of a row, with as much type as its format gives.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Cell {
    /// JSON `null`, a parquet null, or a key that the object does not have.
    Null,
    /// Every csv field; a string elsewhere.
    Text(String),
    /// The digits as written: an id of 30 digits stays what it is.
    Number(String),
    Bool(bool),
    /// A list or an object of jsonl: its JSON and what to call it in a message.
    Json {
        text: String,
        kind: &'static str,
    },
    /// A parquet list, a date …: its text and what to call it in a message.
    Other {
        text: String,
        kind: &'static str,
    },
}

impl Cell {
    /// The cell of a JSON value whose grammar has been checked.
    pub(crate) fn from_json(json: &str) -> Result<Cell, serde_json::Error> {
        Ok(match json.as_bytes().first() {
            Some(b'"') => Cell::Text(serde_json::from_str(json)?),
            Some(b'n') | None => Cell::Null,
            Some(b't') => Cell::Bool(true),
            Some(b'f') => Cell::Bool(false),
            Some(b'[') => Cell::Json { text: json.to_owned(), kind: "a list" },
            Some(b'{') => Cell::Json { text: json.to_owned(), kind: "an object" },
            Some(_) => Cell::Number(json.to_owned()),
        })
    }
}

/// The cells of one row.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) at: Position,
    /// The wanted columns, in the order in which [`Table::select`] named them.
    pub(crate) wanted: Vec<Cell>,
    /// Of the other columns, those that have a cell here: the column's place in
    /// [`Table::columns`], and the cell. Empty unless [`Table::select`] asked for them.
    pub(crate) others: Vec<(usize, Cell)>,
}

/// An open data file.
pub(crate) trait Table: Send {
    /// The columns found so far, in the order in which they were found. csv, tsv and parquet
    /// have all of them in a header; jsonl begins with the keys of its first object.
    fn columns(&self) -> &[String];

    /// Whether later records may add to [`Table::columns`].
    fn may_grow(&self) -> bool {
        false
    }

    /// Names the columns that [`Table::next_record`] delivers as wanted (one that is not there
    /// gives [`Cell::Null`]), and says whether it delivers the others too. Of several columns
    /// with one name the first is read. Called once, before the first record.
    fn select(&mut self, wanted: &[String], with_others: bool) -> Result<(), ReadError>;

    /// The next record; `None` at the end. After [`ReadError::Row`] reading can go on.
    fn next_record(&mut self) -> Option<Result<Record, ReadError>>;
}

/// The places in `columns` of those that are not wanted, each name once.
pub(crate) fn places_of_others(columns: &[String], wanted: &[String]) -> Vec<usize> {
    let mut seen: std::collections::HashSet<&str> = wanted.iter().map(String::as_str).collect();
    (0..columns.len()).filter(|&at| seen.insert(&columns[at])).collect()
}
