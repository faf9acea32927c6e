//! Typed rows over one or several files, one after the other.

use std::collections::HashMap;

use crate::error::{Position, ReadError, RowFault};
use crate::options::ReadOptions;
use crate::source::{Format, Opened, Source};
use crate::table::{Cell, Record, Table};

/// How many messages of skipped rows are kept.
const N_MESSAGES: usize = 5;

/// The rows that were left out: their number, and the messages of the first few.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SkippedRows {
    /// How many.
    pub count: u64,
    /// The messages of the first five, with path and line.
    pub first: Vec<String>,
}

impl SkippedRows {
    pub(crate) fn add(&mut self, error: &ReadError) {
        self.count += 1;
        if self.first.len() < N_MESSAGES {
            self.first.push(error.to_string());
        }
    }
}

/// A column that a kind of row has.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) ours: String,
    pub(crate) need: Need,
}

/// Who must have a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// Every file, and every row a value of it.
    Row,
    /// Every file, because the text template names it; a row may have no value.
    Template,
    /// A file only if an option named it.
    Optional,
}

impl Wanted {
    pub(crate) fn required(ours: &str) -> Wanted {
        Wanted { ours: ours.to_owned(), need: Need::Row }
    }

    pub(crate) fn optional(ours: &str) -> Wanted {
        Wanted { ours: ours.to_owned(), need: Need::Optional }
    }

    pub(crate) fn in_template(ours: &str) -> Wanted {
        Wanted { ours: ours.to_owned(), need: Need::Template }
    }
}

/// How a kind of row is read.
pub(crate) struct Kind<T> {
    /// The columns whose cells [`Fields`] has, in this order.
    pub(crate) wanted: Vec<Wanted>,
    /// Columns that must be there as well, but are delivered among the others.
    pub(crate) also: Vec<Wanted>,
    pub(crate) with_others: bool,
    pub(crate) convert: Convert<T>,
}

/// The columns of all files that no kind of row asks for, in the order in which they were found.
#[derive(Default)]
struct OtherColumns {
    names: Vec<String>,
    place_of: HashMap<String, u32>,
}

impl OtherColumns {
    /// The place of `name`, at the end where it is new.
    fn place(&mut self, name: &str) -> u32 {
        if let Some(&place) = self.place_of.get(name) {
            return place;
        }
        let place = self.names.len() as u32; // Each file has a few thousand at most.
        self.names.push(name.to_owned());
        self.place_of.insert(name.to_owned(), place);
        place
    }
}

/// The cells of a row on their way to a typed one.
pub(crate) struct Fields<'a> {
    /// The wanted columns' names in the file.
    pub(crate) names: &'a [String],
    /// Their cells.
    pub(crate) cells: Vec<Cell>,
    /// The cells of other columns, each with its place in [`Rows::other_columns`].
    pub(crate) others: Vec<(u32, Cell)>,
    pub(crate) line: u64,
    pub(crate) file_idx: usize,
    pub(crate) options: &'a ReadOptions,
    /// To be set where a label is a letter of ESCI.
    pub(crate) has_letters: &'a mut bool,
}

/// Makes a typed row, or says what is wrong with it.
pub(crate) type Convert<T> = fn(Fields<'_>) -> Result<T, RowFault>;

/// The rows of all files in order. Ends after the first error; see [`ReadOptions::skip_bad_rows`].
pub struct Rows<T> {
    sources: Vec<Source>,
    options: ReadOptions,
    kind: Kind<T>,
    /// What the files call the wanted columns.
    names: Vec<String>,
    others: OtherColumns,
    /// Of each file whether it is parquet.
    is_parquet: Vec<bool>,
    /// Open tables of files after the first that can be opened only once: stdin, pipes.
    once: HashMap<usize, Box<dyn Table>>,
    /// What was assumed about the files.
    notes: Vec<String>,
    has_letters: bool,
    /// The file that is read, or comes next where `table` is empty.
    file_idx: usize,
    table: Option<Box<dyn Table>>,
    /// For each column of `table` its place in `others`; `None` for a wanted one.
    places: Vec<Option<u32>>,
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
        kind: Kind<T>,
    ) -> Result<Rows<T>, ReadError> {
        let theirs = |wanted: &Wanted| options.columns.in_file(&wanted.ours).to_owned();
        let mut rows = Rows {
            options: options.clone(),
            names: kind.wanted.iter().map(theirs).collect(),
            kind,
            others: OtherColumns::default(),
            is_parquet: Vec::new(),
            once: HashMap::new(),
            notes: Vec::new(),
            has_letters: false,
            file_idx: 0,
            table: None,
            places: Vec::new(),
            n_rows: 0,
            skipped: SkippedRows::default(),
            done: false,
            sources,
        };
        for (file_idx, source) in rows.sources.iter().enumerate() {
            let opened = source.open(options, &rows.needed())?;
            let Opened { mut table, format, note } = opened;
            rows.is_parquet.push(format == Format::Parquet);
            rows.notes.extend(note);
            rows.check_columns(source, table.as_ref(), table.may_grow())?;
            if rows.kind.with_others {
                let others = table.columns().iter().filter(|name| !rows.names.contains(name));
                others.for_each(|name| {
                    rows.others.place(name);
                });
            }
            if file_idx == 0 {
                table.select(&rows.names, rows.kind.with_others)?;
                rows.table = Some(table);
            } else if !source.can_reopen() {
                table.select(&rows.names, rows.kind.with_others)?;
                rows.once.insert(file_idx, table);
            }
        }
        Ok(rows)
    }

    /// What the files call the columns that every row needs.
    fn needed(&self) -> Vec<&str> {
        let columns = self.kind.wanted.iter().zip(&self.names);
        columns.filter(|(wanted, _)| wanted.need == Need::Row).map(|(_, name)| &**name).collect()
    }

    /// What was assumed about the files and their names do not say, as sentences.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Whether a label so far was a letter of ESCI.
    pub(crate) fn has_letters(&self) -> bool {
        self.has_letters
    }

    /// The error of a row that was delivered.
    pub(crate) fn row_error(&self, file_idx: usize, line: u64, fault: RowFault) -> ReadError {
        let path = self.sources[file_idx].path().to_owned();
        ReadError::Row { path, at: self.position(file_idx, line), fault }
    }

    /// Where a row stands that was delivered, as errors say it.
    pub fn place(&self, file_idx: usize, line: u64) -> String {
        let path = self.sources[file_idx].path();
        format!("`{}` {}", path.display(), self.position(file_idx, line))
    }

    fn position(&self, file_idx: usize, line: u64) -> Position {
        if self.is_parquet[file_idx] { Position::Row(line) } else { Position::Line(line) }
    }

    /// The names of a catalogue's other columns, those of all files in the order in which they were
    /// found; complete once the iterator has ended, as a later line of jsonl may bring a new one.
    /// Empty for judged pairs and texts.
    pub fn other_columns(&self) -> &[String] {
        &self.others.names
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
                None => {
                    let table = match self.once.remove(&self.file_idx) {
                        Some(table) => Ok(table),
                        None => self.reopen(source),
                    };
                    match table {
                        Ok(table) => self.table.insert(table),
                        Err(error) => return Some(Err(error)),
                    }
                }
            };
            if let Some(record) = table.next_record() {
                return Some(record);
            }
            // Now all columns have been seen.
            let table = self.table.take();
            let found = table.map_or(Ok(()), |table| self.check_columns(source, &*table, false));
            self.places.clear();
            self.file_idx += 1;
            // A file without a column is one without a row, which is told of all files together.
            if let Err(error @ ReadError::NoColumn { .. }) = found {
                return Some(Err(error));
            }
        }
        None
    }

    /// Learns the columns that the last record added to the open table.
    fn learn_columns(&mut self) {
        let Some(table) = &self.table else { return };
        for name in &table.columns()[self.places.len()..] {
            let is_other = self.kind.with_others && !self.names.contains(name);
            self.places.push(is_other.then(|| self.others.place(name)));
        }
    }

    fn typed(&mut self, record: Record) -> Result<T, ReadError> {
        self.learn_columns();
        let Record { at, wanted: cells, others } = record;
        let limit = self.options.max_text_bytes;
        let names = &self.names;
        let in_limits = || -> Result<(), RowFault> {
            let wanted = cells.iter().zip(names).map(|(cell, name)| (cell, name.as_str()));
            let other_name = |column: usize| {
                self.places[column].map_or("", |place| &self.others.names[place as usize])
            };
            let others = others.iter().map(|(column, cell)| (cell, other_name(*column)));
            wanted.chain(others).try_for_each(|(cell, name)| check_cell(cell, name, limit))
        };
        let row = in_limits().and_then(|()| {
            let others = others.into_iter();
            let others = others.filter_map(|(column, cell)| Some((self.places[column]?, cell)));
            let (others, file_idx) = (others.collect(), self.file_idx);
            (self.kind.convert)(Fields {
                names,
                cells,
                others,
                line: at.number(),
                file_idx,
                options: &self.options,
                has_letters: &mut self.has_letters,
            })
        });
        let path = || self.sources[self.file_idx].path().to_owned();
        row.map_err(|fault| ReadError::Row { path: path(), at, fault })
    }

    /// The error when the files have ended without a row.
    fn no_rows(&self) -> Option<ReadError> {
        let path = self.sources.first()?.path().to_owned();
        let n_more = self.sources.len() - 1;
        Some(match self.skipped.count {
            0 => ReadError::Empty { path, n_more },
            _ => self.all_skipped(&self.skipped),
        })
    }

    /// The error where every row was left out.
    pub(crate) fn all_skipped(&self, skipped: &SkippedRows) -> ReadError {
        ReadError::AllSkipped {
            path: self.sources[0].path().to_owned(),
            n_more: self.sources.len() - 1,
            n_skipped: skipped.count,
            first: skipped.first.first().cloned().unwrap_or_default(),
        }
    }

    /// Opens a file again whose header was checked.
    fn reopen(&self, source: &Source) -> Result<Box<dyn Table>, ReadError> {
        let mut table = source.open(&self.options, &self.needed())?.table;
        table.select(&self.names, self.kind.with_others)?;
        Ok(table)
    }

    /// Whether the columns that must be there are, each once. Where columns `may_grow`, one that
    /// only some rows need may still come; a column that each row needs is missed at the first.
    fn check_columns(
        &self,
        source: &Source,
        table: &dyn Table,
        may_grow: bool,
    ) -> Result<(), ReadError> {
        let path = || source.path().to_owned();
        let found = table.columns();
        if found.is_empty() {
            return Err(ReadError::Empty { path: path(), n_more: 0 });
        }
        for Wanted { ours, need } in self.kind.wanted.iter().chain(&self.kind.also) {
            let theirs = self.options.columns.in_file(ours);
            let may_come = may_grow && (*need != Need::Row || self.options.skip_bad_rows);
            let is_needed = *need != Need::Optional || self.options.columns.is_named(ours);
            match found.iter().filter(|column| *column == theirs).count() {
                0 if is_needed && !may_come => {
                    return Err(ReadError::NoColumn {
                        path: path(),
                        wanted: ours.clone(),
                        in_file: theirs.to_owned(),
                        found: found.to_vec(),
                        in_template: *need == Need::Template,
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
                    self.skipped.add(&error);
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

/// What holds for the cells of all columns that are read: no NUL, and no text over the limit.
fn check_cell(cell: &Cell, name: &str, limit: usize) -> Result<(), RowFault> {
    let (Cell::Text(text)
    | Cell::Number(text)
    | Cell::Json { text, .. }
    | Cell::Other { text, .. }) = cell
    else {
        return Ok(());
    };
    if text.contains('\0') {
        let (found, expected) = ("a text with a NUL character".to_owned(), "text".to_owned());
        return Err(RowFault::Value { column: name.to_owned(), found, expected });
    }
    if text.len() <= limit {
        return Ok(());
    }
    Err(RowFault::TooLong { what: format!("`{name}`"), found: text.len(), limit })
}
