//! Parquet: only the selected columns are read, in small batches.
//!
//! Strings may be plain, large, views or dictionaries; a string column that its writer did not
//! mark as text (older Spark, Impala) counts as text where it is UTF-8. A column of another type (a
//! list, a date) is accepted only among the other columns of products.

use std::path::{Path, PathBuf};

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, BinaryArray, RecordBatch, StringArray};
use arrow_cast::cast;
use arrow_cast::display::{ArrayFormatter, FormatOptions};
use arrow_schema::{ArrowError, DataType};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use parquet::errors::ParquetError;
use parquet::file::reader::ChunkReader;

use crate::error::{Position, ReadError, RowFault};
use crate::guard::guard_parquet;
use crate::table::{Cell, Record, Table, places_of_others};

/// Rows decoded at a time: texts may be long, and memory is meant to stay small.
const BATCH_ROWS: usize = 32;

pub(crate) struct Parquet<R: ChunkReader> {
    path: PathBuf,
    columns: Vec<String>,
    /// Taken by `select`, which decides what is read.
    builder: Option<ParquetRecordBatchReaderBuilder<R>>,
    reader: Option<ParquetRecordBatchReader>,
    wanted: Vec<String>,
    /// The places of the other columns that are read.
    others: Vec<usize>,
    /// The columns of the batch at hand: the wanted ones, then the others.
    batch: Vec<Option<Column>>,
    n_batch_rows: usize,
    batch_row: usize,
    /// Rows delivered so far in all.
    n_rows: u64,
}

impl<R: ChunkReader + 'static> Parquet<R> {
    pub(crate) fn open(path: &Path, input: R) -> Result<Parquet<R>, ReadError> {
        let builder = guard_parquet(|| ParquetRecordBatchReaderBuilder::try_new(input))
            .map_err(|source| ReadError::Parquet { path: path.to_owned(), source })?;
        let columns = builder.schema().fields().iter().map(|field| field.name().clone()).collect();
        Ok(Parquet {
            path: path.to_owned(),
            columns,
            builder: Some(builder),
            reader: None,
            wanted: Vec::new(),
            others: Vec::new(),
            batch: Vec::new(),
            n_batch_rows: 0,
            batch_row: 0,
            n_rows: 0,
        })
    }

    /// Makes the next batch with a row in it the one at hand; false at the end.
    fn advance(&mut self) -> Result<bool, ParquetError> {
        while self.batch_row == self.n_batch_rows {
            let Some(reader) = &mut self.reader else { return Ok(false) };
            let Some(batch) = guard_parquet(|| Ok(reader.next().transpose()?))? else {
                return Ok(false);
            };
            let others = self.others.iter().map(|&at| &self.columns[at]);
            let columns = self.wanted.iter().chain(others).map(|name| Column::of(&batch, name));
            self.batch = guard_parquet(|| Ok(columns.collect::<Result<_, _>>()?))?;
            (self.n_batch_rows, self.batch_row) = (batch.num_rows(), 0);
        }
        Ok(true)
    }

    fn record(&self, at: Position) -> Result<Record, RowFault> {
        let cell = |column: &Option<Column>| match column {
            Some(column) => column.cell(self.batch_row),
            None => Ok(Cell::Null),
        };
        let (wanted, others) = self.batch.split_at(self.wanted.len());
        let others = self.others.iter().zip(others).map(|(&at, column)| Ok((at, cell(column)?)));
        Ok(Record {
            at,
            wanted: wanted.iter().map(cell).collect::<Result<_, _>>()?,
            others: others.collect::<Result<_, _>>()?,
        })
    }

    fn parquet_error(&self, source: ParquetError) -> ReadError {
        ReadError::Parquet { path: self.path.clone(), source }
    }
}

impl<R: ChunkReader + 'static> Table for Parquet<R> {
    fn columns(&self) -> &[String] {
        &self.columns
    }

    fn select(&mut self, wanted: &[String], with_others: bool) -> Result<(), ReadError> {
        let Some(builder) = self.builder.take() else { return Ok(()) };
        let roots = self.columns.iter().enumerate();
        let roots = roots.filter(|(_, column)| with_others || wanted.contains(column));
        let roots = roots.map(|(root, _)| root);
        let reader = guard_parquet(|| {
            let projection = ProjectionMask::roots(builder.parquet_schema(), roots);
            builder.with_projection(projection).with_batch_size(BATCH_ROWS).build()
        });
        self.reader = Some(reader.map_err(|source| self.parquet_error(source))?);
        self.wanted = wanted.to_vec();
        if with_others {
            self.others = places_of_others(&self.columns, wanted);
        }
        Ok(())
    }

    fn next_record(&mut self) -> Option<Result<Record, ReadError>> {
        match self.advance() {
            Ok(true) => {}
            Ok(false) => return None,
            Err(source) => {
                self.reader = None;
                return Some(Err(self.parquet_error(source)));
            }
        }
        let at = Position::Row(self.n_rows + 1);
        let record = self.record(at);
        self.batch_row += 1;
        self.n_rows += 1;
        Some(record.map_err(|fault| ReadError::Row { path: self.path.clone(), at, fault }))
    }
}

/// One column of a batch, without dictionaries: a null is a null wherever it was stored.
enum Column {
    Text(StringArray),
    /// Text where its bytes are UTF-8.
    Bytes(BinaryArray),
    Formatted(ArrayRef, Kind),
}

#[derive(Clone, Copy)]
enum Kind {
    Number,
    Bool,
    Other(&'static str),
}

impl Column {
    fn of(batch: &RecordBatch, name: &str) -> Result<Option<Column>, ArrowError> {
        let Some(values) = batch.column_by_name(name) else { return Ok(None) };
        let values = match values.data_type() {
            DataType::Dictionary(_, inner) => cast(values, inner)?,
            _ => values.clone(),
        };
        let kind = match values.data_type() {
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {
                return Ok(Some(Column::Text(cast(&values, &DataType::Utf8)?.as_string().clone())));
            }
            DataType::Binary | DataType::LargeBinary | DataType::BinaryView => {
                let values = cast(&values, &DataType::Binary)?;
                return Ok(Some(Column::Bytes(values.as_binary().clone())));
            }
            DataType::Boolean => Kind::Bool,
            DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(..) => {
                Kind::Other("a list")
            }
            DataType::Struct(_) | DataType::Map(..) => Kind::Other("an object"),
            number if number.is_numeric() => Kind::Number,
            _ => Kind::Other("a value of another type"),
        };
        Ok(Some(Column::Formatted(values, kind)))
    }

    fn cell(&self, row: usize) -> Result<Cell, RowFault> {
        let (values, kind) = match self {
            Column::Text(values) if values.is_null(row) => return Ok(Cell::Null),
            Column::Text(values) => return Ok(Cell::Text(values.value(row).to_owned())),
            Column::Bytes(values) if values.is_null(row) => return Ok(Cell::Null),
            Column::Bytes(values) => {
                let bytes = values.value(row);
                return match std::str::from_utf8(bytes) {
                    Ok(text) => Ok(Cell::Text(text.to_owned())),
                    Err(error) => Err(RowFault::Utf8 { byte: bytes[error.valid_up_to()] }),
                };
            }
            Column::Formatted(values, _) if values.is_null(row) => return Ok(Cell::Null),
            Column::Formatted(values, kind) => (values, *kind),
        };
        let text = ArrayFormatter::try_new(values, &FormatOptions::new())
            .and_then(|formatter| formatter.value(row).try_to_string());
        // What cannot be written as text (a date out of range) is shown as what it is.
        let text = text.unwrap_or_else(|error| error.to_string());
        Ok(match kind {
            Kind::Number => Cell::Number(text),
            Kind::Bool => Cell::Bool(text == "true"),
            Kind::Other(kind) => Cell::Other { text, kind },
        })
    }
}
