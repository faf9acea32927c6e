//! The bytes of a text format, after a look at the first four.

use std::io::{BufReader, Cursor, Read};
use std::path::Path;

use crate::error::{Position, ReadError};

/// A text file whose first bytes have been looked at.
pub(crate) type TextInput = BufReader<Box<dyn Read + Send>>;

/// Drops a UTF-8 byte order mark and refuses what is plainly another format.
pub(crate) fn without_byte_order_mark(
    path: &Path,
    mut input: Box<dyn Read + Send>,
) -> Result<TextInput, ReadError> {
    let mut start = Vec::with_capacity(4);
    input.by_ref().take(4).read_to_end(&mut start).map_err(|source| ReadError::Read {
        path: path.to_owned(),
        at: Position::Line(1),
        source,
    })?;
    let found = match start.as_slice() {
        [0x1f, 0x8b, ..] => Some("gzip data"),
        b"PAR1" => Some("parquet data"),
        b"PK\x03\x04" => Some("a zip archive"),
        [0x28, 0xb5, 0x2f, 0xfd] => Some("zstd data"),
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => Some("UTF-16 text"),
        _ => None,
    };
    if let Some(found) = found {
        return Err(ReadError::OtherContent {
            path: path.to_owned(),
            found,
            expected: "UTF-8 text",
        });
    }
    if start.starts_with(b"\xef\xbb\xbf") {
        start.drain(..3);
    }
    let whole: Box<dyn Read + Send> = Box::new(Cursor::new(start).chain(input));
    Ok(BufReader::with_capacity(1 << 16, whole))
}
