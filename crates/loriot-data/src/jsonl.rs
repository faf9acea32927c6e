//! jsonl and json: one JSON object a line, or a list of objects. Blank lines are skipped, and so are
//! keys that nobody asked for.
//!
//! The columns are the keys of all objects: one that a later object brings is added when it comes.
//! Numbers keep the digits they are written with.

use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::path::{Path, PathBuf};

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::error::{Position, ReadError, RowFault};
use crate::json_list::JsonList;
use crate::line_input::{Line, LineInput};
use crate::options::ReadOptions;
use crate::table::{Cell, Record, Table};
use crate::text_input::TextInput;

/// How many lines are tried to find a first object, whose keys are the first columns.
const N_TRIED: usize = 100;

/// The most keys that an object, and all objects of a file together, may have.
const MAX_KEYS: usize = 1 << 12;

/// What the parser says of an object with more keys.
const TOO_MANY_KEYS: &str = "too many keys";

pub(crate) struct Jsonl {
    path: PathBuf,
    input: Input,
    /// Keys found so far.
    columns: Vec<String>,
    /// The place of each of them in `columns`.
    place_of: HashMap<String, usize>,
    wanted: Vec<String>,
    with_others: bool,
    /// Objects read ahead to learn the columns.
    ahead: VecDeque<Line>,
}

/// What cuts a file into objects.
enum Input {
    Lines(LineInput),
    List(JsonList),
}

impl Jsonl {
    /// One object a line.
    pub(crate) fn open(
        path: &Path,
        input: TextInput,
        options: &ReadOptions,
    ) -> Result<Jsonl, ReadError> {
        let input = Input::Lines(LineInput::new(input, options.max_record_bytes));
        Jsonl::open_input(path, input, options)
    }

    /// A list of objects.
    pub(crate) fn open_list(
        path: &Path,
        input: TextInput,
        options: &ReadOptions,
    ) -> Result<Jsonl, ReadError> {
        let input = Input::List(JsonList::new(input, options.max_record_bytes));
        Jsonl::open_input(path, input, options)
    }

    fn open_input(path: &Path, input: Input, options: &ReadOptions) -> Result<Jsonl, ReadError> {
        let mut table = Jsonl {
            path: path.to_owned(),
            input,
            columns: Vec::new(),
            place_of: HashMap::new(),
            wanted: Vec::new(),
            with_others: false,
            ahead: VecDeque::new(),
        };
        while table.ahead.len() < N_TRIED {
            let Some((line, bytes)) = table.read_object()? else { break };
            let found = match &bytes {
                Ok(bytes) => table.parse(line, bytes).and_then(|Object(entries)| {
                    entries.iter().try_for_each(|(key, _)| table.place(key).map(|_| ()))
                }),
                Err(fault) => Err(fault.clone()),
            };
            // Of up to a hundred lines that may be long, only a good one is kept.
            let kept = match &found {
                Err(fault) => Err(fault.clone()),
                Ok(()) if table.columns.is_empty() => Ok(b"{}".to_vec()),
                Ok(()) => bytes,
            };
            table.ahead.push_back((line, kept));
            match found {
                Ok(()) if table.columns.is_empty() => {} // `{}` names no columns.
                Ok(()) => return Ok(table),
                Err(fault) if !options.skip_bad_rows || table.ahead.len() == N_TRIED => {
                    return Err(table.row_error(line, fault));
                }
                Err(_) => {}
            }
        }
        Ok(table)
    }

    fn read_object(&mut self) -> Result<Option<Line>, ReadError> {
        match &mut self.input {
            Input::Lines(lines) => lines.next_line(&self.path),
            Input::List(list) => list.next_element(&self.path),
        }
    }

    /// The entries of the object that begins on this line.
    fn parse<'a>(&self, line: u64, bytes: &'a [u8]) -> Result<Object<'a>, RowFault> {
        let text = std::str::from_utf8(bytes)
            .map_err(|error| RowFault::Utf8 { byte: bytes[error.valid_up_to()] })?;
        serde_json::from_str(text).map_err(|error| match &self.input {
            Input::Lines(_) => json_fault(&error, None),
            Input::List(_) => json_fault(&error, Some(line)),
        })
    }

    fn record(&mut self, line: u64, bytes: &[u8]) -> Result<Record, RowFault> {
        let Object(entries) = self.parse(line, bytes)?;
        let mut wanted = vec![Cell::Null; self.wanted.len()];
        let mut others = Vec::new();
        for (key, value) in entries {
            let is_wanted = |name: &String| *name == key;
            let cell = || Cell::from_json(value.get()).map_err(|error| json_fault(&error, None));
            if self.wanted.iter().any(is_wanted) {
                let places = wanted.iter_mut().zip(&self.wanted);
                for (place, _) in places.filter(|(_, name)| is_wanted(name)) {
                    *place = cell()?;
                }
                self.place(&key)?;
            } else if self.with_others {
                others.push((self.place(&key)?, cell()?));
            }
        }
        Ok(Record { at: Position::Line(line), wanted, others })
    }

    /// The place of `key` in `columns`, at the end where it is new.
    fn place(&mut self, key: &str) -> Result<usize, RowFault> {
        if let Some(&place) = self.place_of.get(key) {
            return Ok(place);
        }
        if self.columns.len() == MAX_KEYS {
            return Err(RowFault::TooManyColumns { key: key.to_owned(), limit: MAX_KEYS });
        }
        self.place_of.insert(key.to_owned(), self.columns.len());
        self.columns.push(key.to_owned());
        Ok(self.columns.len() - 1)
    }

    fn row_error(&self, line: u64, fault: RowFault) -> ReadError {
        ReadError::Row { path: self.path.clone(), at: Position::Line(line), fault }
    }
}

impl Table for Jsonl {
    fn columns(&self) -> &[String] {
        &self.columns
    }

    fn may_grow(&self) -> bool {
        true
    }

    fn select(&mut self, wanted: &[String], with_others: bool) -> Result<(), ReadError> {
        self.wanted = wanted.to_vec();
        self.with_others = with_others;
        Ok(())
    }

    fn next_record(&mut self) -> Option<Result<Record, ReadError>> {
        let (line, bytes) = match self.ahead.pop_front() {
            Some(ahead) => ahead,
            None => match self.read_object() {
                Ok(next) => next?,
                Err(error) => return Some(Err(error)),
            },
        };
        let record = bytes.and_then(|bytes| self.record(line, &bytes));
        Some(record.map_err(|fault| self.row_error(line, fault)))
    }
}

/// An object's entries in their order, values unparsed.
struct Object<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de> Deserialize<'de> for Object<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Object<'de>, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Object<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Object<'de>, M::Error> {
                let mut entries: Vec<(Cow<'de, str>, &RawValue)> = Vec::new();
                while let Some((Key(key), value)) = map.next_entry()? {
                    if entries.len() == MAX_KEYS {
                        return Err(serde::de::Error::custom(TOO_MANY_KEYS));
                    }
                    if entries.iter().any(|(other, _)| *other == key) {
                        return Err(serde::de::Error::custom(format!("key `{key}` stands twice")));
                    }
                    entries.push((key, value));
                }
                Ok(Object(entries))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

/// A key, borrowed where it holds no escape.
#[derive(serde::Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

/// The parser's words, with the column but without its "line 1", which is never the file's line.
/// An object of a list may have several lines, of which `first` is the number of the first: then the
/// line is told instead.
fn json_fault(error: &serde_json::Error, first: Option<u64>) -> RowFault {
    let mut reason = error.to_string();
    if reason.starts_with(TOO_MANY_KEYS) {
        return RowFault::TooManyKeys { limit: MAX_KEYS };
    }
    if let Some(end) = reason.rfind(" at line ") {
        reason.truncate(end);
    }
    match first {
        Some(first) if error.line() > 1 => {
            reason += &format!(" at line {}", first + error.line() as u64 - 1);
        }
        None if error.column() > 0 => reason += &format!(" at column {}", error.column()),
        _ => {}
    }
    RowFault::Json { reason }
}
