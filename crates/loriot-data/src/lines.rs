//! `.txt`: one text a line, without a header. Blank lines are skipped, and keep their numbers.

use std::path::{Path, PathBuf};

use crate::error::{Position, ReadError, RowFault};
use crate::line_input::LineInput;
use crate::options::ReadOptions;
use crate::table::{Cell, Record, Table};
use crate::text_input::TextInput;

pub(crate) struct Lines {
    path: PathBuf,
    input: LineInput,
    /// The one column, under the name that it was asked for.
    columns: Vec<String>,
    /// For each wanted column, whether it is that one.
    is_text: Vec<bool>,
}

impl Lines {
    /// `column` is what the lines are read as.
    pub(crate) fn open(
        path: &Path,
        input: TextInput,
        column: &str,
        options: &ReadOptions,
    ) -> Lines {
        Lines {
            path: path.to_owned(),
            input: LineInput::new(input, options.max_record_bytes),
            columns: vec![column.to_owned()],
            is_text: Vec::new(),
        }
    }
}

impl Table for Lines {
    fn columns(&self) -> &[String] {
        &self.columns
    }

    fn select(&mut self, wanted: &[String], _with_others: bool) -> Result<(), ReadError> {
        self.is_text = wanted.iter().map(|name| *name == self.columns[0]).collect();
        Ok(())
    }

    fn next_record(&mut self) -> Option<Result<Record, ReadError>> {
        let (line, bytes) = match self.input.next_line(&self.path) {
            Ok(next) => next?,
            Err(error) => return Some(Err(error)),
        };
        let at = Position::Line(line);
        let text = bytes.and_then(|bytes| {
            let bytes = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
            let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
            let text = std::str::from_utf8(bytes)
                .map_err(|error| RowFault::Utf8 { byte: bytes[error.valid_up_to()] })?;
            Ok(text.to_owned())
        });
        let cell = |text: &String, is_text: &bool| match is_text {
            true => Cell::Text(text.clone()),
            false => Cell::Null,
        };
        let record = text.map(|text| {
            let wanted = self.is_text.iter().map(|is_text| cell(&text, is_text)).collect();
            Record { at, wanted, others: Vec::new() }
        });
        Some(record.map_err(|fault| ReadError::Row { path: self.path.clone(), at, fault }))
    }
}
