//! csv and tsv: a header, then one record a line, quoted as in RFC 4180.
//!
//! `csv-core` does the parsing; around it stand exact line numbers, a cap on the length of a
//! record (an unclosed quote must not take a 100 GB file into memory) and the refusal of a quote
//! that is still open at the end of the file. A record over the cap of which no field opens with a
//! quote ends with its line and is one bad row. Empty lines are skipped. A quote inside an unquoted
//! field is an ordinary character: `3/4" pipe` needs no quoting.

use std::io::BufRead;
use std::path::{Path, PathBuf};

use csv_core::ReadRecordResult;

use crate::error::{Content, Position, ReadError, RowFault};
use crate::options::ReadOptions;
use crate::table::{Cell, Record, Table, places_of_others};
use crate::text_input::TextInput;

/// The most columns a file may have.
const MAX_COLUMNS: usize = 1 << 12;

pub(crate) struct Delimited {
    path: PathBuf,
    input: TextInput,
    delimiter: u8,
    core: csv_core::Reader,
    /// The line of the next byte.
    line: u64,
    max_record_bytes: usize,
    columns: Vec<String>,
    /// For each wanted column its place in the file.
    wanted: Vec<Option<usize>>,
    /// The places of the other columns that are read.
    others: Vec<usize>,
    /// Unquoted fields of the record, end to end.
    fields: Vec<u8>,
    /// Where each field ends in `fields`; meaningless in a record of more than [`MAX_COLUMNS`].
    ends: Vec<usize>,
    n_fields: usize,
}

/// A record in the buffers: the line it starts on, and whether it is short enough.
type Parsed = (u64, Result<(), RowFault>);

impl Delimited {
    pub(crate) fn open(
        path: &Path,
        input: TextInput,
        delimiter: u8,
        options: &ReadOptions,
    ) -> Result<Delimited, ReadError> {
        let mut table = Delimited {
            path: path.to_owned(),
            input,
            delimiter,
            core: csv_core::ReaderBuilder::new().delimiter(delimiter).build(),
            line: 1,
            max_record_bytes: options.max_record_bytes,
            columns: Vec::new(),
            wanted: Vec::new(),
            others: Vec::new(),
            fields: vec![0; 1 << 12],
            ends: vec![0; MAX_COLUMNS],
            n_fields: 0,
        };
        if let Some((line, whole)) = table.parse_record()? {
            let path = path.to_owned();
            if table.n_fields > MAX_COLUMNS {
                let (found, limit) = (table.n_fields, MAX_COLUMNS);
                return Err(ReadError::TooManyColumns { path, found, limit });
            }
            let names = (0..table.n_fields).map(|idx| table.field(idx).map(str::trim));
            let names: Result<Vec<String>, RowFault> =
                whole.and_then(|()| names.map(|name| name.map(str::to_owned)).collect());
            match names {
                Ok(names) => table.columns = names,
                Err(fault) => return Err(ReadError::Header { path, line, fault }),
            }
        }
        if table.columns.iter().any(|name| name.contains('\0')) {
            let (found, expected) = (Content::Binary, "a header of column names");
            return Err(ReadError::OtherContent { path: table.path, found, expected });
        }
        Ok(table)
    }

    /// Parses the next record into `fields` and `ends`; `None` at the end.
    fn parse_record(&mut self) -> Result<Option<Parsed>, ReadError> {
        self.n_fields = 0;
        let Some(start) = self.skip_line_breaks()? else { return Ok(None) };
        let (mut n_read, mut n_bytes) = (0, 0);
        let (mut before, mut has_quote) = (b'\n', false);
        loop {
            let input = fill(&mut self.input, &self.path, self.line)?;
            // At the end a line break is put in: it closes any record but one inside quotes.
            let at_end = input.is_empty();
            let input = if at_end { b"\n".as_slice() } else { input };
            let (result, n_in, n_out, n_ends) = self.core.read_record(
                input,
                &mut self.fields[n_bytes..],
                &mut self.ends[self.n_fields % MAX_COLUMNS..],
            );
            self.line += count_lines(&input[..n_in]);
            for &byte in &input[..n_in] {
                has_quote |= byte == b'"' && (before == self.delimiter || before == b'\n');
                before = byte;
            }
            if !at_end {
                self.input.consume(n_in);
            }
            n_read += n_in;
            n_bytes += n_out;
            self.n_fields += n_ends;
            match result {
                ReadRecordResult::Record => return Ok(Some((start, Ok(())))),
                ReadRecordResult::InputEmpty if !at_end => {}
                ReadRecordResult::OutputFull => self.fields.resize(2 * self.fields.len(), 0),
                // The next round overwrites the first ends; the count goes on and is an error.
                ReadRecordResult::OutputEndsFull => {}
                ReadRecordResult::InputEmpty | ReadRecordResult::End => {
                    return Err(self.unclosed(start, n_read));
                }
            }
            if n_read > self.max_record_bytes && has_quote {
                return Err(self.unclosed(start, n_read));
            }
            if n_read > self.max_record_bytes {
                self.core.reset();
                let found = n_read + self.skip_rest_of_line()?;
                let (what, limit) = ("this record".to_owned(), self.max_record_bytes);
                return Ok(Some((start, Err(RowFault::TooLong { what, found, limit }))));
            }
        }
    }

    /// Passes over the rest of a line, and gives how long that was.
    fn skip_rest_of_line(&mut self) -> Result<usize, ReadError> {
        Ok(self.skip_while(|byte| !matches!(byte, b'\n' | b'\r'))?.0)
    }

    /// Passes over empty lines; gives the line of the next byte that is not a line break.
    fn skip_line_breaks(&mut self) -> Result<Option<u64>, ReadError> {
        let (_, is_found) = self.skip_while(|byte| matches!(byte, b'\n' | b'\r'))?;
        Ok(is_found.then_some(self.line))
    }

    /// Passes over such bytes; gives their number, and whether another byte follows.
    fn skip_while(&mut self, is_such: impl Fn(u8) -> bool) -> Result<(usize, bool), ReadError> {
        let mut n_skipped = 0;
        loop {
            let input = fill(&mut self.input, &self.path, self.line)?;
            let end = input.iter().position(|&byte| !is_such(byte));
            let n_taken = end.unwrap_or(input.len());
            self.line += count_lines(&input[..n_taken]);
            n_skipped += n_taken;
            let is_done = end.is_some() || input.is_empty();
            self.input.consume(n_taken);
            if is_done {
                return Ok((n_skipped, end.is_some()));
            }
        }
    }

    fn field(&self, idx: usize) -> Result<&str, RowFault> {
        let start = if idx == 0 { 0 } else { self.ends[idx - 1] };
        let bytes = &self.fields[start..self.ends[idx]];
        std::str::from_utf8(bytes)
            .map_err(|error| RowFault::Utf8 { byte: bytes[error.valid_up_to()] })
    }

    fn record(&self, line: u64) -> Result<Record, RowFault> {
        if self.n_fields != self.columns.len() {
            return Err(RowFault::FieldCount {
                expected: self.columns.len(),
                found: self.n_fields,
            });
        }
        let cell = |idx: usize| self.field(idx).map(|text| Cell::Text(text.to_owned()));
        let wanted = self.wanted.iter().map(|place| place.map_or(Ok(Cell::Null), cell));
        let others = self.others.iter().map(|&idx| Ok((idx, cell(idx)?)));
        Ok(Record {
            at: Position::Line(line),
            wanted: wanted.collect::<Result<_, _>>()?,
            others: others.collect::<Result<_, _>>()?,
        })
    }

    fn unclosed(&self, line: u64, n_bytes: usize) -> ReadError {
        ReadError::Unclosed { path: self.path.clone(), line, n_bytes }
    }

    fn row_error(&self, line: u64, fault: RowFault) -> ReadError {
        ReadError::Row { path: self.path.clone(), at: Position::Line(line), fault }
    }
}

impl Table for Delimited {
    fn columns(&self) -> &[String] {
        &self.columns
    }

    fn select(&mut self, wanted: &[String], with_others: bool) -> Result<(), ReadError> {
        let place = |name: &String| self.columns.iter().position(|column| column == name);
        self.wanted = wanted.iter().map(place).collect();
        if with_others {
            self.others = places_of_others(&self.columns, wanted);
        }
        Ok(())
    }

    fn next_record(&mut self) -> Option<Result<Record, ReadError>> {
        let (line, whole) = match self.parse_record() {
            Ok(next) => next?,
            Err(error) => return Some(Err(error)),
        };
        Some(whole.and_then(|()| self.record(line)).map_err(|fault| self.row_error(line, fault)))
    }
}

/// The next bytes of `input`, none at its end.
fn fill<'a>(input: &'a mut TextInput, path: &Path, line: u64) -> Result<&'a [u8], ReadError> {
    let failed =
        |source| ReadError::Read { path: path.to_owned(), at: Position::Line(line), source };
    input.fill_buf().map_err(failed)
}

fn count_lines(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|byte| **byte == b'\n').count() as u64
}
