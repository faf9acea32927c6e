//! Typed rows over one or several files, one after the other.

use std::collections::HashSet;

use crate::error::{ReadError, RowFault};
use crate::options::ReadOptions;
use crate::source::Source;
use crate::table::{Cell, Record, Table};

/// How many messages of skipped rows are kept.
const N_MESSAGES: usize = 5;

/// The rows that were left out, all of them counted and the first few told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SkippedRows {
    /// How many.
    pub count: u64,
    /// The messages of the first five, with path and line.
    pub first: Vec<String>,
}

/// A column that a kind of row has.
pub(crate) struct Wanted<'a> {
    pub(crate) ours: &'a str,
    /// Must be in every file; otherwise only if an option named it.
    pub(crate) required: bool,
}

/// The cells of a row on their way to a typed one, in the order of the wanted columns.
pub(crate) struct Fields<'a> {
    /// The columns' names in the file.
    pub(crate) names: &'a [String],
    pub(crate) cells: Vec<Cell>,
    pub(crate) n_wanted: usize,
    pub(crate) line: u64,
    pub(crate) file_idx: usize,
}

/// Makes a typed row, or says what is wrong with it.
type Convert<T> = fn(Fields<'_>) -> Result<T, RowFault>;

/// The rows of all files in order. Ends after the first error; see [`ReadOptions::skip_bad_rows`].
pub struct Rows<T> {
    sources: Vec<Source>,
    options: ReadOptions,
    convert: Convert<T>,
    /// The selected columns: the wanted ones, then the others.
    names: Vec<String>,
    n_wanted: usize,
    /// The file that is read, or comes next where `table` is empty.
    file_idx: usize,
    table: Option<Box<dyn Table>>,
    n_rows: u64,
    skipped: SkippedRows,
    done: bool,
}

impl<T> Rows<T> {
    /// Opens every file once and checks its header, so that a missing column in the last of many
    /// files is told now and not after hours.
    pub(crate) fn open(
        sources: Vec<Source>,
        options: &ReadOptions,
        wanted: &[Wanted<'_>],
        with_others: bool,
        convert: Convert<T>,
    ) -> Result<Rows<T>, ReadError> {
        let theirs = |wanted: &Wanted<'_>| options.columns.in_file(wanted.ours).to_owned();
        let mut rows = Rows {
            options: options.clone(),
            convert,
            names: wanted.iter().map(theirs).collect(),
            n_wanted: wanted.len(),
            file_idx: 0,
            table: None,
            n_rows: 0,
            skipped: SkippedRows::default(),
            done: false,
            sources,
        };
        let mut known: HashSet<String> = rows.names.iter().cloned().collect();
        for (file_idx, source) in rows.sources.iter().enumerate() {
            let table = source.open(options)?;
            check_columns(source, table.columns(), options, wanted)?;
            if with_others {
                let others = table.columns().iter().filter(|name| known.insert(name.to_string()));
                rows.names.extend(others.cloned());
            }
            if file_idx == 0 {
                rows.table = Some(table);
            }
        }
        if let Some(table) = &mut rows.table {
            table.select(&rows.names)?;
        }
        Ok(rows)
    }

    /// The names of a catalogue's other columns, those of all files in the order of appearance.
    /// Empty for judged pairs and texts.
    pub fn other_columns(&self) -> &[String] {
        &self.names[self.n_wanted..]
    }

    /// What was left out so far; complete once the iterator has ended.
    pub fn skipped(&self) -> &SkippedRows {
        &self.skipped
    }

    /// All rows in memory, and what was left out.
    pub fn read_all(mut self) -> Result<(Vec<T>, SkippedRows), ReadError> {
        let rows = self.by_ref().collect::<Result<Vec<T>, ReadError>>()?;
        Ok((rows, self.skipped))
    }

    /// The next record of any file that is left.
    fn next_record(&mut self) -> Option<Result<Record, ReadError>> {
        while let Some(source) = self.sources.get(self.file_idx) {
            let table = match &mut self.table {
                Some(table) => table,
                None => match open_selected(source, &self.options, &self.names) {
                    Ok(table) => self.table.insert(table),
                    Err(error) => return Some(Err(error)),
                },
            };
            if let Some(record) = table.next_record() {
                return Some(record);
            }
            self.table = None;
            self.file_idx += 1;
        }
        None
    }

    fn typed(&self, record: Record) -> Result<T, ReadError> {
        let Record { at, cells } = record;
        let in_limits = || -> Result<(), RowFault> {
            cells
                .iter()
                .zip(&self.names)
                .try_for_each(|(cell, name)| check_length(cell, name, self.options.max_text_bytes))
        };
        let names = &self.names;
        let row = in_limits().and_then(|()| {
            let (n_wanted, file_idx) = (self.n_wanted, self.file_idx);
            (self.convert)(Fields { names, cells, n_wanted, line: at.number(), file_idx })
        });
        let path = || self.sources[self.file_idx].path().to_owned();
        row.map_err(|fault| ReadError::Row { path: path(), at, fault })
    }

    /// What to say when the files have ended without a row.
    fn no_rows(&self) -> Option<ReadError> {
        let path = self.sources.first()?.path().to_owned();
        let n_more = self.sources.len() - 1;
        Some(match self.skipped.first.first() {
            None => ReadError::Empty { path, n_more },
            Some(first) => ReadError::AllSkipped {
                path,
                n_more,
                n_skipped: self.skipped.count,
                first: first.clone(),
            },
        })
    }
}

impl<T> Iterator for Rows<T> {
    type Item = Result<T, ReadError>;

    fn next(&mut self) -> Option<Result<T, ReadError>> {
        while !self.done {
            let Some(record) = self.next_record() else {
                self.done = true;
                return if self.n_rows == 0 { self.no_rows().map(Err) } else { None };
            };
            match record.and_then(|record| self.typed(record)) {
                Ok(row) => {
                    self.n_rows += 1;
                    return Some(Ok(row));
                }
                Err(error @ ReadError::Row { .. }) if self.options.skip_bad_rows => {
                    self.skipped.count += 1;
                    if self.skipped.first.len() < N_MESSAGES {
                        self.skipped.first.push(error.to_string());
                    }
                }
                Err(error) => {
                    self.done = true;
                    return Some(Err(error));
                }
            }
        }
        None
    }
}

fn open_selected(
    source: &Source,
    options: &ReadOptions,
    names: &[String],
) -> Result<Box<dyn Table>, ReadError> {
    let mut table = source.open(options)?;
    table.select(names)?;
    Ok(table)
}

fn check_columns(
    source: &Source,
    found: &[String],
    options: &ReadOptions,
    wanted: &[Wanted<'_>],
) -> Result<(), ReadError> {
    let path = || source.path().to_owned();
    if found.is_empty() {
        return Err(ReadError::Empty { path: path(), n_more: 0 });
    }
    for wanted in wanted {
        let theirs = options.columns.in_file(wanted.ours);
        match found.iter().filter(|column| *column == theirs).count() {
            0 if wanted.required || options.columns.is_named(wanted.ours) => {
                return Err(ReadError::NoColumn {
                    path: path(),
                    wanted: wanted.ours.to_owned(),
                    in_file: theirs.to_owned(),
                    found: found.to_vec(),
                });
            }
            0 | 1 => {}
            _ => {
                let column = theirs.to_owned();
                return Err(ReadError::RepeatedColumn { path: path(), column });
            }
        }
    }
    Ok(())
}

fn check_length(cell: &Cell, name: &str, limit: usize) -> Result<(), RowFault> {
    let (Cell::Text(text) | Cell::Number(text) | Cell::Other { text, .. }) = cell else {
        return Ok(());
    };
    if text.len() <= limit {
        return Ok(());
    }
    Err(RowFault::TooLong { what: format!("`{name}`"), found: text.len(), limit })
}
