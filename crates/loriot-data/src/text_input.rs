//! The bytes of a text format, after a look at its first line.

use std::io::{BufRead, BufReader, Cursor, Read};
use std::path::Path;

use crate::error::{Content, Position, ReadError};

/// A text file whose first line has been looked at.
pub(crate) type TextInput = BufReader<Box<dyn Read + Send>>;

/// How much of a first line is looked at.
const MAX_LOOK: usize = 1 << 16;

/// UTF-8's byte order mark.
const MARK: &[u8] = b"\xef\xbb\xbf";

/// A text file at its first byte, and what its first line that is not blank holds.
pub(crate) struct Start {
    pub(crate) input: TextInput,
    /// With the blank lines before it and its line break, without a byte order mark.
    first_line: Vec<u8>,
}

impl Start {
    /// Looks at the first line, drops a UTF-8 byte order mark and refuses what is plainly no
    /// UTF-8 text.
    pub(crate) fn of(path: &Path, input: Box<dyn Read + Send>) -> Result<Start, ReadError> {
        let mut input = BufReader::with_capacity(MAX_LOOK, input);
        let mut start = Vec::new();
        read_first_line(&mut input, &mut start).map_err(|source| ReadError::Read {
            path: path.to_owned(),
            at: Position::Line(1),
            source,
        })?;
        if let Some(found) = Content::of(&start) {
            let (path, expected) = (path.to_owned(), "UTF-8 text");
            return Err(ReadError::OtherContent { path, found, expected });
        }
        if start.starts_with(MARK) {
            start.drain(..MARK.len());
        }
        let whole: Box<dyn Read + Send> = Box::new(Cursor::new(start.clone()).chain(input));
        Ok(Start { input: BufReader::with_capacity(MAX_LOOK, whole), first_line: start })
    }

    /// The first byte that is not white space.
    pub(crate) fn first_byte(&self) -> Option<u8> {
        self.first_line.trim_ascii_start().first().copied()
    }

    /// What separates the columns of a csv file: `,`; but where the header has none, `;` or a tab,
    /// whichever it has more of.
    pub(crate) fn delimiter(&self) -> u8 {
        let mut is_quoted = false;
        let [mut commas, mut semicolons, mut tabs] = [0_usize; 3];
        for byte in self.first_line.trim_ascii() {
            match byte {
                b'"' => is_quoted = !is_quoted,
                b',' if !is_quoted => commas += 1,
                b';' if !is_quoted => semicolons += 1,
                b'\t' if !is_quoted => tabs += 1,
                _ => {}
            }
        }
        match (commas, semicolons, tabs) {
            (0, 1.., _) if semicolons >= tabs => b';',
            (0, _, 1..) => b'\t',
            _ => b',',
        }
    }
}

/// Reads through the first line that is not blank, or to [`MAX_LOOK`].
fn read_first_line(input: &mut impl BufRead, start: &mut Vec<u8>) -> std::io::Result<()> {
    loop {
        let bytes = match input.fill_buf() {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let line_break = bytes.iter().position(|byte| *byte == b'\n');
        let n_taken = line_break.map_or(bytes.len(), |at| at + 1).min(MAX_LOOK - start.len());
        if n_taken == 0 {
            return Ok(());
        }
        start.extend_from_slice(&bytes[..n_taken]);
        input.consume(n_taken);
        let text = start.strip_prefix(MARK).unwrap_or(start);
        if text.ends_with(b"\n") && !text.trim_ascii().is_empty() {
            return Ok(());
        }
    }
}
