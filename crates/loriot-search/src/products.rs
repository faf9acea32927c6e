//! `products.parquet`: what is known of each product, one row per vector, version 2.
//!
//! ```text
//! id              string, as given; the row's number, from 0, where no product has an id; where
//!                 only some have, `row:5` for one without, which is the id of no other
//! product_title   string
//! …               the input's other columns: each value as JSON text, so that a number stays a
//!                 number; null where a product has none. A name that is taken gets a `_`
//! ```
//!
//! The file's key-value metadata names the version, `loriot.version`. A file without it is of
//! version 1: its other columns hold plain strings, empty where a product has no value.
//!
//! Ten products of a million are looked up for every query, so the file is written in small pages
//! with an index of them, and a lookup decodes the pages it needs and no others.

use crate::batches::next_batch;
use crate::vector_output::io_error;
use arrow_array::builder::{ArrayBuilder, StringBuilder};
use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, RecordBatch, StringArray};
use arrow_schema::{DataType, Field, Schema};
use bytes::Bytes;
use loriot_data::guard::guard_parquet;
use loriot_data::{Product, Spool, Value};
use loriot_files::{Fingerprint, Mmap, OutputError, open_regular, write_atomic};
use loriot_index::Row;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder, RowSelection,
};
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::{KeyValue, PageIndexPolicy};
use parquet::file::properties::WriterProperties;
use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const VERSION_KEY: &str = "loriot.version";
const VERSION: &str = "2";
const PAGE_ROWS: usize = 256;

/// What is in memory of the products while they are written.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// Rows in a batch.
    batch_rows: usize,
    /// Bytes of a batch that has more than one row. An array of strings holds 2 GiB at most, and a page
    /// of the file is no larger than a batch.
    batch_bytes: usize,
    /// Compressed bytes in a row group.
    group_bytes: usize,
}

const LIMITS: Limits = Limits { batch_rows: 16_384, batch_bytes: 8 << 20, group_bytes: 64 << 20 };

/// Rows that a lookup decodes at a time.
const READ_ROWS: usize = 64;

/// `id` and `product_title`.
const N_OWN: usize = 2;

/// The products of a catalogue in the order of their vectors.
#[derive(Debug)]
pub struct Products {
    /// The products.
    pub rows: Spool,
    /// The names of their other columns.
    pub other_columns: Vec<String>,
}

/// What a catalogue calls a product: the id of its vector, which stays when other products are
/// removed. The product's row may change then; its id in the user's data need not be unique.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProductKey(pub u64);

/// What is known of one product.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its id; where it has none, one made of its row's number (see the module).
    pub id: String,
    /// Its text.
    pub product_title: String,
    /// Its values of other columns, each with the column's name.
    pub fields: Vec<(String, Value)>,
}

/// The product file could not be used.
#[derive(Debug, thiserror::Error)]
pub enum ProductsError {
    /// The file is missing or may not be read.
    #[error("cannot open `{}`", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The file is no parquet file, or a damaged one.
    #[error("cannot read `{}`", path.display())]
    Parquet {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: ParquetError,
    },
    /// The file is of a format that this program does not read.
    #[error("`{}` has format version `{found}`, expected none or `{VERSION}`", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: String,
    },
    /// The file does not begin with the columns it should.
    #[error("`{}` has the columns {found}, expected id, product_title and others, all strings", path.display())]
    Columns {
        /// The file.
        path: PathBuf,
        /// Its columns.
        found: String,
    },
    /// The file has not one product for each vector.
    #[error("`{}` has {found} products, expected {expected}", path.display())]
    Count {
        /// The file.
        path: PathBuf,
        /// Its rows.
        found: usize,
        /// The vectors.
        expected: usize,
    },
}

impl Products {
    /// Writes `products.parquet`.
    pub fn write(&self, path: &Path) -> Result<(), OutputError> {
        let mut names = vec!["id".to_owned(), "product_title".to_owned()];
        for name in &self.other_columns {
            let mut name = name.clone();
            while names.contains(&name) {
                name.push('_');
            }
            names.push(name);
        }
        let fields = names.into_iter().enumerate();
        let fields = fields.map(|(at, name)| Field::new(name, DataType::Utf8, at >= N_OWN));
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        write_atomic(path, |writer| self.write_parquet(writer, &schema, LIMITS).map_err(io_error))
    }

    fn write_parquet(
        &self,
        writer: &mut (impl io::Write + Send),
        schema: &Arc<Schema>,
        limits: Limits,
    ) -> Result<(), ParquetError> {
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::try_new(1)?))
            .set_dictionary_enabled(false) // Titles differ, and a lookup would decode it whole.
            .set_data_page_row_count_limit(PAGE_ROWS)
            .set_write_batch_size(PAGE_ROWS)
            .set_key_value_metadata(Some(vec![KeyValue::new(
                VERSION_KEY.to_owned(),
                VERSION.to_owned(),
            )]))
            .build();
        let mut parquet = ArrowWriter::try_new(writer, Arc::clone(schema), Some(properties))?;
        let made = MadeIds::beside(&self.rows)?;
        let mut rows = self.rows.products().peekable();
        let mut first = 0;
        loop {
            let batch = next_batch(&mut rows, limits.batch_rows, limits.batch_bytes, size_bytes)?;
            if batch.is_empty() {
                break;
            }
            let id = |(at, product): (usize, &Product)| match &product.id {
                Some(id) => id.clone(),
                None => made.of_row(first + at),
            };
            let ids = StringArray::from_iter_values(batch.iter().enumerate().map(id));
            let titles = StringArray::from_iter_values(batch.iter().map(|row| &row.product_title));
            let mut columns: Vec<ArrayRef> = vec![Arc::new(ids), Arc::new(titles)];
            columns.extend(self.other_values(&batch));
            parquet.write(&RecordBatch::try_new(Arc::clone(schema), columns)?)?;
            if parquet.in_progress_size() >= limits.group_bytes {
                parquet.flush()?;
            }
            first += batch.len();
        }
        parquet.close().map(|_| ())
    }

    /// The other columns of `rows`, each value as JSON.
    fn other_values(&self, rows: &[Product]) -> impl Iterator<Item = ArrayRef> {
        let new_column = |_: &String| StringBuilder::new();
        let mut columns: Vec<StringBuilder> = self.other_columns.iter().map(new_column).collect();
        for (row, product) in rows.iter().enumerate() {
            for (column, value) in &product.other {
                let column = &mut columns[*column as usize];
                column.append_nulls(row - column.len());
                column.append_value(value.to_json());
            }
        }
        let n_rows = rows.len();
        columns.into_iter().map(move |mut column| -> ArrayRef {
            column.append_nulls(n_rows - column.len());
            Arc::new(column.finish())
        })
    }
}

/// About as many bytes as the row takes in memory and in the columns.
fn size_bytes(row: &Product) -> usize {
    let other = row.other.iter().map(|(_, value)| match value {
        Value::Text(text) | Value::Number(text) | Value::Json(text) => text.len(),
        Value::Bool(_) => 5,
    });
    let texts = row.id.as_ref().map_or(0, String::len) + row.product_title.len();
    texts + other.sum::<usize>() + size_of_val(&*row.other)
}

/// Ids of products that have none of their own.
struct MadeIds {
    /// Whether no product has an id: then a row's number alone is one.
    are_all: bool,
    /// The ids of other products that look like made ones.
    taken: HashSet<Fingerprint>,
}

impl MadeIds {
    const PREFIX: &'static str = "row:";

    fn beside(rows: &Spool) -> io::Result<MadeIds> {
        let mut taken = HashSet::new();
        if (1..rows.len()).contains(&rows.n_ids()) {
            for product in rows.products() {
                let id = product?.id.filter(|id| id.starts_with(MadeIds::PREFIX));
                taken.extend(id.map(|id| Fingerprint::of(id.as_bytes())));
            }
        }
        Ok(MadeIds { are_all: rows.n_ids() == 0, taken })
    }

    /// `row:5`, or the first of `row:5.1`, `row:5.2` … that no product has.
    fn of_row(&self, row: usize) -> String {
        if self.are_all {
            return row.to_string();
        }
        let mut id = format!("{}{row}", MadeIds::PREFIX);
        let mut n_tried = 0;
        while self.taken.contains(&Fingerprint::of(id.as_bytes())) {
            n_tried += 1;
            id = format!("{}{row}.{n_tried}", MadeIds::PREFIX);
        }
        id
    }
}

/// An open `products.parquet`.
#[derive(Debug)]
pub struct ProductFile {
    path: PathBuf,
    bytes: Bytes,
    metadata: ArrowReaderMetadata,
    n_products: usize,
    /// Version 1: other columns hold plain strings instead of JSON.
    has_plain_values: bool,
}

/// A map that owns itself, for [`Bytes::from_owner`].
struct Mapped(Mmap);

impl AsRef<[u8]> for Mapped {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl ProductFile {
    /// Opens the file after its columns and its count were checked.
    pub fn open(path: &Path, n_products: usize) -> Result<ProductFile, ProductsError> {
        let open = |source| ProductsError::Open { path: path.to_owned(), source };
        ProductFile::from_file(&open_regular(path).map_err(open)?, path, n_products)
    }

    /// The same of a regular file that is open; `path` is for messages.
    pub fn from_file(
        file: &File,
        path: &Path,
        n_products: usize,
    ) -> Result<ProductFile, ProductsError> {
        let open = |source| ProductsError::Open { path: path.to_owned(), source };
        let is_empty = file.metadata().map_err(open)?.len() == 0;
        // Some systems do not map an empty file.
        let bytes = match is_empty {
            true => Bytes::new(),
            false => Bytes::from_owner(Mapped(Mmap::of(file).map_err(open)?)),
        };
        ProductFile::from_bytes(path, bytes, n_products)
    }

    /// The same of a file in memory; `path` is for messages.
    fn from_bytes(
        path: &Path,
        bytes: Bytes,
        n_products: usize,
    ) -> Result<ProductFile, ProductsError> {
        let parquet = |source| ProductsError::Parquet { path: path.to_owned(), source };
        let options = ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Optional);
        let metadata =
            guard_parquet(|| ArrowReaderMetadata::load(&bytes, options)).map_err(parquet)?;
        let file = metadata.metadata().file_metadata();
        let mut entries = file.key_value_metadata().into_iter().flatten();
        let version = entries.find(|entry| entry.key == VERSION_KEY);
        let version = version.map(|entry| entry.value.as_deref().unwrap_or(""));
        let has_plain_values = version.is_none();
        if let Some(found) = version.filter(|version| *version != VERSION) {
            return Err(ProductsError::Version { path: path.to_owned(), found: found.to_owned() });
        }
        let fields = metadata.schema().fields();
        let names: Vec<&str> = fields.iter().map(|field| field.name().as_str()).collect();
        let all_strings = fields.iter().all(|field| field.data_type() == &DataType::Utf8);
        if !all_strings || !names.starts_with(&["id", "product_title"]) {
            let found = names.join(", ");
            return Err(ProductsError::Columns { path: path.to_owned(), found });
        }
        let rows = usize::try_from(file.num_rows());
        let groups: i64 = metadata.metadata().row_groups().iter().map(|g| g.num_rows()).sum();
        let found = rows.unwrap_or(0);
        if found != n_products || usize::try_from(groups) != Ok(n_products) {
            return Err(ProductsError::Count {
                path: path.to_owned(),
                found,
                expected: n_products,
            });
        }
        Ok(ProductFile { path: path.to_owned(), bytes, metadata, n_products, has_plain_values })
    }

    /// The names of the columns beside id and title, in the order of the file.
    pub fn other_columns(&self) -> Vec<String> {
        let fields = self.metadata.schema().fields().iter().skip(N_OWN);
        fields.map(|field| field.name().clone()).collect()
    }

    /// The records of `wanted` in their order, in which a row may occur again.
    pub fn records(&self, wanted: &[Row]) -> Result<Vec<Record>, ProductsError> {
        let mut rows: Vec<usize> = wanted.iter().map(|row| row.index()).collect();
        rows.sort_unstable();
        rows.dedup();
        let parquet = |source| ProductsError::Parquet { path: self.path.clone(), source };
        let records = guard_parquet(|| self.read_rows(&rows)).map_err(parquet)?;
        if records.len() != rows.len() {
            return Err(ProductsError::Count {
                path: self.path.clone(),
                found: records.len(),
                expected: rows.len(),
            });
        }
        let place = |row: &Row| rows.binary_search(&row.index()).ok();
        Ok(wanted.iter().filter_map(place).map(|at| records[at].clone()).collect())
    }

    /// The records of `rows`, which ascend.
    fn read_rows(&self, rows: &[usize]) -> Result<Vec<Record>, ParquetError> {
        let ranges = rows.iter().map(|&row| row..row + 1);
        let selection = RowSelection::from_consecutive_ranges(ranges, self.n_products);
        let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(
            self.bytes.clone(),
            self.metadata.clone(),
        );
        let mut records = Vec::with_capacity(rows.len());
        for batch in builder.with_row_selection(selection).with_batch_size(READ_ROWS).build()? {
            let batch = batch?;
            let schema = batch.schema();
            let columns: Vec<&StringArray> =
                batch.columns().iter().map(|column| column.as_string::<i32>()).collect();
            let text = |column: usize, row: usize| {
                let is_there = !columns[column].is_null(row);
                is_there.then(|| columns[column].value(row)).filter(|text| !text.is_empty())
            };
            let value = |text: &str| match self.has_plain_values {
                true => Ok(Value::Text(text.to_owned())),
                false => Value::from_json(text)
                    .ok_or_else(|| ParquetError::General(format!("`{text}` is not a JSON value"))),
            };
            for row in 0..batch.num_rows() {
                let own = |column: usize| text(column, row).unwrap_or_default().to_owned();
                let field = |column: usize| {
                    let name = schema.field(column).name();
                    Some(value(text(column, row)?).map(|value| (name.clone(), value)))
                };
                let fields = (N_OWN..columns.len()).filter_map(field);
                records.push(Record {
                    id: own(0),
                    product_title: own(1),
                    fields: fields.collect::<Result<_, _>>()?,
                });
            }
        }
        Ok(records)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use loriot_data::SpoolWriter;

    fn text(text: &str) -> Value {
        Value::Text(text.to_owned())
    }

    fn spooled(products: impl IntoIterator<Item = Product>) -> Spool {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = SpoolWriter::beside(&dir.path().join("shop")).unwrap();
        products.into_iter().for_each(|product| spool.push(&product).unwrap());
        spool.finish().unwrap()
    }

    fn rows(n: usize) -> Vec<Product> {
        let product = |i: usize| Product {
            id: i.is_multiple_of(2).then(|| format!("sku-{i}")),
            product_title: format!("kettle, {i} l"),
            other: match i % 2 {
                0 => vec![(0, text("red")), (1, Value::Number(format!("{i}.50")))],
                _ => vec![(1, Value::Bool(true))],
            },
            line: i as u64 + 2,
            file_idx: 0,
        };
        (0..n).map(product).collect()
    }

    fn products(rows: impl IntoIterator<Item = Product>) -> Products {
        let other_columns = vec!["colour".to_owned(), "id".to_owned()];
        Products { rows: spooled(rows), other_columns }
    }

    #[test]
    fn records_come_back_in_the_order_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("products.parquet");
        let n = 2 * LIMITS.batch_rows + 3;
        products(rows(n)).write(&path).unwrap();
        let file = ProductFile::open(&path, n).unwrap();
        let asked = [n - 1, 0, 300, 0, 16_385].map(|row| Row(row as u32));
        let records = file.records(&asked).unwrap();
        let titles: Vec<&str> = records.iter().map(|record| &*record.product_title).collect();
        let want = ["kettle, 32770 l", "kettle, 0 l", "kettle, 300 l", "kettle, 0 l"];
        assert_eq!(titles[..4], want);
        assert_eq!((&*records[0].id, &*records[4].id), ("sku-32770", "row:16385"));
        let number = Value::Number("0.50".into());
        let want = [("colour".to_owned(), text("red")), ("id_".to_owned(), number)];
        assert_eq!(records[1].fields, want, "each value with its type and digits");
        assert_eq!(records[4].fields, [("id_".to_owned(), Value::Bool(true))]);
        assert!(file.records(&[]).unwrap().is_empty());
    }

    #[test]
    fn long_rows_are_written_in_small_batches_and_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("products.parquet");
        let mut rows = rows(50);
        // They do not compress.
        let mut state = 1_u64;
        let mut noise = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            char::from(b'a' + (state >> 60) as u8)
        };
        rows.iter_mut().for_each(|row| row.product_title = (0..2_000).map(|_| noise()).collect());
        let schema = Schema::new(
            [("id", false), ("product_title", false), ("colour", true), ("id_", true)]
                .map(|(name, nullable)| Field::new(name, DataType::Utf8, nullable))
                .to_vec(),
        );
        let limits = Limits { batch_rows: 100, batch_bytes: 5_000, group_bytes: 20_000 };
        let mut file = File::create(&path).unwrap();
        products(rows.clone()).write_parquet(&mut file, &Arc::new(schema), limits).unwrap();
        let file = ProductFile::open(&path, 50).unwrap();
        let groups = file.metadata.metadata().row_groups();
        assert!(groups.iter().all(|group| group.num_rows() <= 22), "{groups:?}");
        let all: Vec<Row> = (0..50).map(Row).collect();
        let records = file.records(&all).unwrap();
        assert_eq!((&*records[48].id, &*records[49].id), ("sku-48", "row:49"));
        let titles = |at: usize| (&records[at].product_title, &rows[at].product_title);
        assert!((0..50).map(titles).all(|(found, wanted)| found == wanted));
    }

    #[test]
    fn an_id_that_is_made_is_the_id_of_no_other_product() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("products.parquet");
        let ids = |given: &[Option<&str>]| -> Vec<String> {
            let product = |id: &Option<&str>| Product {
                id: id.map(str::to_owned),
                product_title: "kettle".into(),
                other: Vec::new(),
                line: 1,
                file_idx: 0,
            };
            let rows = spooled(given.iter().map(product));
            Products { rows, other_columns: Vec::new() }.write(&path).unwrap();
            let all: Vec<Row> = (0..given.len()).map(|row| Row(row as u32)).collect();
            let file = ProductFile::open(&path, given.len()).unwrap();
            file.records(&all).unwrap().into_iter().map(|record| record.id).collect()
        };
        assert_eq!(ids(&[None, Some("0"), None, Some("2")]), ["row:0", "0", "row:2", "2"]);
        let given = [None, Some("row:0"), Some("row:0.1"), Some("row:0.2"), None];
        assert_eq!(ids(&given), ["row:0.3", "row:0", "row:0.1", "row:0.2", "row:4"]);
        // Where no product has an id, the number says which row it is and nothing else does.
        assert_eq!(ids(&[None, None]), ["0", "1"]);
    }

    #[test]
    fn a_file_of_another_length_or_of_other_columns_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("products.parquet");
        products(rows(5)).write(&path).unwrap();
        let error = ProductFile::open(&path, 6).unwrap_err().to_string();
        assert!(error.ends_with("has 5 products, expected 6"), "{error}");

        let schema = Arc::new(Schema::new(vec![Field::new("name", DataType::Utf8, false)]));
        let column: ArrayRef = Arc::new(StringArray::from_iter_values(["x"]));
        let mut writer =
            ArrowWriter::try_new(std::fs::File::create(&path).unwrap(), schema.clone(), None)
                .unwrap();
        writer.write(&RecordBatch::try_new(schema, vec![column]).unwrap()).unwrap();
        writer.close().unwrap();
        let error = ProductFile::open(&path, 1).unwrap_err();
        assert!(matches!(error, ProductsError::Columns { .. }), "{error}");
    }

    #[test]
    fn a_file_of_a_later_version_and_a_value_that_is_no_json_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("products.parquet");
        let written = |version: &str, value: &str| {
            let names = ["id", "product_title", "price"];
            let fields = names.map(|name| Field::new(name, DataType::Utf8, true));
            let schema = Arc::new(Schema::new(fields.to_vec()));
            let column = |value: &str| -> ArrayRef { Arc::new(StringArray::from(vec![value])) };
            let columns = ["1", "kettle", value].map(column).to_vec();
            let version = KeyValue::new(VERSION_KEY.to_owned(), version.to_owned());
            let properties =
                WriterProperties::builder().set_key_value_metadata(Some(vec![version])).build();
            let file = std::fs::File::create(&path).unwrap();
            let mut writer = ArrowWriter::try_new(file, schema.clone(), Some(properties)).unwrap();
            writer.write(&RecordBatch::try_new(schema, columns).unwrap()).unwrap();
            writer.close().unwrap();
            ProductFile::open(&path, 1)
        };
        let error = written("3", "1").unwrap_err().to_string();
        assert!(error.ends_with("has format version `3`, expected none or `2`"), "{error}");
        assert!(written("2", "1").unwrap().records(&[Row(0)]).is_ok());
        let error = written("2", "red").unwrap().records(&[Row(0)]).unwrap_err();
        assert!(matches!(error, ProductsError::Parquet { .. }), "{error}");
    }

    #[test]
    fn garbage_and_damage_are_errors_not_panics() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("products.parquet");
        products(rows(300)).write(&path).unwrap();
        let good = std::fs::read(&path).unwrap();
        let open_and_read = |bytes: &[u8]| {
            let file = ProductFile::from_bytes(&path, Bytes::copy_from_slice(bytes), 300)?;
            file.records(&[Row(0), Row(299)])
        };
        assert!(open_and_read(b"").is_err());
        assert!(open_and_read(b"PAR1 this is no parquet file PAR1").is_err());
        for length in (0..good.len()).step_by(7) {
            assert!(open_and_read(&good[..length]).is_err(), "cut to {length}");
        }
        // A damaged byte may go unnoticed in a value, but never brings the program down.
        for at in 0..good.len() {
            let flip = [1, 0x55, 0x80][at % 3];
            let mut damaged = good.clone();
            damaged[at] ^= flip;
            let _ = open_and_read(&damaged);
        }
    }
}
