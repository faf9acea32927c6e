//! `.json`: a list of objects, cut into its elements without holding the list.
//!
//! The scanner knows brackets, strings and commas, and nothing else of JSON: what lies between is
//! for the parser of one object. It counts the depth and does not recurse. An element over the
//! limit is read to its end and thrown away. A list that is broken between its elements, or a
//! string that never ends, stops the run even where bad rows are skipped: nobody knows where the
//! next element begins.

use std::io::BufRead;
use std::path::Path;

use crate::error::{Position, ReadError, RowFault, shown};
use crate::line_input::Line;
use crate::text_input::TextInput;

pub(crate) struct JsonList {
    input: TextInput,
    /// The line of the next byte.
    line: u64,
    max_bytes: usize,
    next: Next,
}

/// What may come next between elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// The list's `[`.
    Open,
    /// The first element, or the list's `]`.
    First,
    /// `,` or the list's `]`.
    Comma,
    /// An element, after a comma.
    Element,
    /// Nothing but white space.
    End,
}

impl Next {
    fn expected(self) -> &'static str {
        match self {
            Next::Open => "`[`",
            Next::First => "an object or `]`",
            Next::Comma => "`,` or `]`",
            Next::Element => "an object",
            Next::End => "nothing after the list",
        }
    }
}

impl JsonList {
    pub(crate) fn new(input: TextInput, max_bytes: usize) -> JsonList {
        JsonList { input, line: 1, max_bytes, next: Next::Open }
    }

    /// The next element with the line on which it begins.
    pub(crate) fn next_element(&mut self, path: &Path) -> Result<Option<Line>, ReadError> {
        loop {
            let Some(byte) = self.peek_after_space(path)? else {
                return match self.next {
                    // A file without a list is one without rows.
                    Next::Open | Next::End => Ok(None),
                    _ => Err(self.broken(path, "the list is still open where the file ends")),
                };
            };
            self.next = match (self.next, byte) {
                (Next::Open, b'[') => Next::First,
                (Next::First | Next::Comma, b']') => Next::End,
                (Next::Comma, b',') => Next::Element,
                (Next::First | Next::Element, byte) if !matches!(byte, b',' | b']' | b'}') => {
                    self.next = Next::Comma;
                    return self.element(path).map(Some);
                }
                (next, byte) => {
                    let found = shown(&String::from_utf8_lossy(&[byte]));
                    let reason = format!("expected {}, found {found}", next.expected());
                    return Err(self.broken(path, &reason));
                }
            };
            self.input.consume(1);
        }
    }

    /// Reads the element whose first byte is next.
    fn element(&mut self, path: &Path) -> Result<Line, ReadError> {
        let (line, limit) = (self.line, self.max_bytes);
        let (mut kept, mut n_bytes) = (Vec::new(), 0);
        let mut element = Element::default();
        loop {
            let input = self.input.fill_buf().map_err(|source| ReadError::Read {
                path: path.to_owned(),
                at: Position::Line(line),
                source,
            })?;
            if input.is_empty() && element.depth == 0 && !element.in_string {
                // A number at the very end: the list is missed next.
                break;
            }
            if input.is_empty() {
                return Err(self.broken(path, "the list is still open where the file ends"));
            }
            let mut n_taken = 0;
            let mut step = Step::On;
            for &byte in input {
                step = element.step(byte);
                if matches!(step, Step::Before | Step::BreakInString) {
                    break;
                }
                self.line += u64::from(byte == b'\n');
                n_taken += 1;
                if step == Step::Last {
                    break;
                }
            }
            let n_kept = n_taken.min(limit.saturating_sub(kept.len()));
            kept.extend_from_slice(&input[..n_kept]);
            n_bytes += n_taken;
            self.input.consume(n_taken);
            match step {
                Step::On => {}
                Step::Last | Step::Before => break,
                Step::BreakInString => {
                    return Err(self.broken(path, "a text is still open where the line ends"));
                }
            }
        }
        if n_bytes > limit {
            let what = "this element".to_owned();
            return Ok((line, Err(RowFault::TooLong { what, found: n_bytes, limit })));
        }
        Ok((line, Ok(kept)))
    }

    /// The next byte that is not white space, which is not consumed.
    fn peek_after_space(&mut self, path: &Path) -> Result<Option<u8>, ReadError> {
        loop {
            let input = self.input.fill_buf().map_err(|source| ReadError::Read {
                path: path.to_owned(),
                at: Position::Line(self.line),
                source,
            })?;
            if input.is_empty() {
                return Ok(None);
            }
            let is_space = |byte: &&u8| matches!(byte, b' ' | b'\t' | b'\n' | b'\r');
            let n_space = input.iter().take_while(is_space).count();
            let found = input.get(n_space).copied();
            self.line += input[..n_space].iter().filter(|byte| **byte == b'\n').count() as u64;
            self.input.consume(n_space);
            if found.is_some() {
                return Ok(found);
            }
        }
    }

    fn broken(&self, path: &Path, reason: &str) -> ReadError {
        ReadError::BrokenList { path: path.to_owned(), line: self.line, reason: reason.to_owned() }
    }
}

/// How far an element has been read.
#[derive(Default)]
struct Element {
    has_begun: bool,
    depth: u64,
    in_string: bool,
    is_escaped: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    /// The byte belongs to the element, which goes on.
    On,
    /// The byte is its last.
    Last,
    /// The element ended before the byte.
    Before,
    /// A line break in a string, which JSON does not have.
    BreakInString,
}

impl Element {
    fn step(&mut self, byte: u8) -> Step {
        if self.in_string {
            match byte {
                b'\n' => return Step::BreakInString,
                _ if self.is_escaped => self.is_escaped = false,
                b'\\' => self.is_escaped = true,
                b'"' => self.in_string = false,
                _ => {}
            }
            let is_whole = !self.in_string && self.depth == 0;
            return if is_whole { Step::Last } else { Step::On };
        }
        let is_first = !std::mem::replace(&mut self.has_begun, true);
        match byte {
            b'"' if is_first || self.depth > 0 => self.in_string = true,
            b'{' | b'[' if is_first || self.depth > 0 => self.depth += 1,
            b'}' | b']' if self.depth > 0 => {
                self.depth -= 1;
                if self.depth == 0 {
                    return Step::Last;
                }
            }
            // A number or a word ends before what is none of it.
            b',' | b']' | b'}' | b' ' | b'\t' | b'\r' | b'\n' if self.depth == 0 => {
                return Step::Before;
            }
            _ => {}
        }
        Step::On
    }
}
