//! The lines of a text, none held beyond a limit.

use std::io::{self, BufRead};
use std::path::Path;

use crate::error::{Position, ReadError, RowFault};
use crate::text_input::TextInput;

/// A line's number, and its bytes with its line break, unless it is over the limit.
pub(crate) type Line = (u64, Result<Vec<u8>, RowFault>);

pub(crate) struct LineInput {
    input: TextInput,
    /// The line of the next byte.
    line: u64,
    max_bytes: usize,
}

impl LineInput {
    pub(crate) fn new(input: TextInput, max_bytes: usize) -> LineInput {
        LineInput { input, line: 1, max_bytes }
    }

    /// The next line that is not blank. One over the limit is read to its end and thrown away, so
    /// that it costs no memory and the next can be read.
    pub(crate) fn next_line(&mut self, path: &Path) -> Result<Option<Line>, ReadError> {
        loop {
            let line = self.line;
            let mut bytes = Vec::new();
            let n_bytes = self.fill_line(&mut bytes).map_err(|source| ReadError::Read {
                path: path.to_owned(),
                at: Position::Line(line),
                source,
            })?;
            if n_bytes == 0 {
                return Ok(None);
            }
            let limit = self.max_bytes;
            if n_bytes > limit {
                let what = "this line".to_owned();
                let fault = RowFault::TooLong { what, found: n_bytes, limit };
                return Ok(Some((line, Err(fault))));
            }
            if !bytes.trim_ascii().is_empty() {
                return Ok(Some((line, Ok(bytes))));
            }
        }
    }

    /// Reads to the next line break and gives the number of bytes; keeps at most the limit.
    fn fill_line(&mut self, kept: &mut Vec<u8>) -> io::Result<usize> {
        let mut n_bytes = 0;
        loop {
            let input = self.input.fill_buf()?;
            let line_break = input.iter().position(|byte| *byte == b'\n');
            let n_taken = line_break.map_or(input.len(), |place| place + 1);
            let n_kept = n_taken.min(self.max_bytes.saturating_sub(kept.len()));
            kept.extend_from_slice(&input[..n_kept]);
            n_bytes += n_taken;
            self.input.consume(n_taken);
            if line_break.is_some() {
                self.line += 1;
            }
            if line_break.is_some() || n_taken == 0 {
                return Ok(n_bytes);
            }
        }
    }
}
