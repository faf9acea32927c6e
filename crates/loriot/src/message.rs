//! Messages to people: lines on stderr that no fault of stderr stops.
//!
//! `eprintln!` panics where stderr is closed or full (`2>&1 | head -1`, `2>/dev/full`), which would
//! end hours of training for a line of text. A message that cannot be written is dropped.
//!
//! A message may quote a file or a name from elsewhere: nothing in it acts on the terminal but the end of a line.

use crate::visible;
use std::fmt;
use std::io::Write;

/// Writes a line to stderr, in the form of `format!`.
macro_rules! message {
    ($($argument:tt)*) => {
        $crate::message::write_line(format_args!($($argument)*))
    };
}

pub(crate) use message;

/// Writes `text` and the end of a line to stderr, in one piece; nothing happens where it cannot.
pub fn write_line(text: fmt::Arguments<'_>) {
    let text = format!("{text}\n");
    let _ = std::io::stderr().write_all(visible::lines(&text).as_bytes());
}
