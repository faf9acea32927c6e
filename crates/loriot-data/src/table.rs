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
    /// A list, a date …: its text and what to call it in a message.
    Other {
        text: String,
        kind: &'static str,
    },
}

/// The cells of one row, in the order in which [`Table::select`] named the columns.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) at: Position,
    pub(crate) cells: Vec<Cell>,
}

/// An open data file.
pub(crate) trait Table: Send {
    /// The columns in the file's order. Of jsonl: the keys of its first object.
    fn columns(&self) -> &[String];

    /// Names the columns that [`Table::next_record`] delivers; one that is not there gives
    /// [`Cell::Null`]. Called once, before the first record.
    fn select(&mut self, names: &[String]) -> Result<(), ReadError>;

    /// The next record; `None` at the end. After [`ReadError::Row`] reading can go on.
    fn next_record(&mut self) -> Option<Result<Record, ReadError>>;
}
