//! Parquet as pandas, Spark and Arrow write it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use arrow_array::types::Int32Type;
use arrow_array::{
    ArrayRef, BinaryArray, BooleanArray, DictionaryArray, Float64Array, Int64Array,
    LargeStringArray, ListArray, RecordBatch, StringArray, StringViewArray, UInt8Array,
};
use loriot_data::{
    FileKind, Format, Pair, ReadError, ReadOptions, read_pairs_from, read_products_from,
};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;

const PARQUET: FileKind = FileKind { format: Format::Parquet, gzip: false };

fn parquet(columns: Vec<(&str, ArrayRef)>) -> Vec<u8> {
    let batch = RecordBatch::try_from_iter_with_nullable(
        columns.into_iter().map(|(name, values)| (name, values, true)),
    )
    .unwrap();
    let mut bytes = Vec::new();
    let compression = Compression::ZSTD(ZstdLevel::default());
    let properties = WriterProperties::builder().set_compression(compression).build();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    bytes
}

fn pairs(columns: Vec<(&str, ArrayRef)>) -> Result<Vec<Pair>, ReadError> {
    let rows = read_pairs_from(parquet(columns), PARQUET, &ReadOptions::default())?;
    Ok(rows.read_all()?.0)
}

fn strings(values: [&str; 2]) -> ArrayRef {
    Arc::new(StringArray::from(values.to_vec()))
}

#[test]
fn strings_and_labels_of_every_layout_give_the_same_rows() {
    let texts: Vec<ArrayRef> = vec![
        strings(["red kettle", "tv"]),
        Arc::new(LargeStringArray::from(vec!["red kettle", "tv"])),
        Arc::new(StringViewArray::from(vec!["red kettle", "tv"])),
        Arc::new(DictionaryArray::<Int32Type>::from_iter(["red kettle", "tv"])),
        Arc::new(BinaryArray::from(vec![b"red kettle".as_slice(), b"tv"])),
    ];
    let labels: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from(vec![1, 0])),
        Arc::new(UInt8Array::from(vec![1, 0])),
        Arc::new(Float64Array::from(vec![1.0, 0.0])),
        Arc::new(BooleanArray::from(vec![true, false])),
        strings(["1", "0.0"]),
    ];
    for text in &texts {
        for label in &labels {
            let rows = pairs(vec![
                ("relevance_label", label.clone()),
                ("product_title", text.clone()),
                ("query", text.clone()),
                ("id", Arc::new(Int64Array::from(vec![Some(-7), None]))),
                ("grade", Arc::new(Float64Array::from(vec![Some(2.33), None]))),
            ])
            .unwrap();
            assert_eq!(rows[0].query, "red kettle");
            assert_eq!(rows[1].product_title, "tv");
            assert_eq!((rows[0].relevance_label, rows[1].relevance_label), (1.0, 0.0));
            assert_eq!((rows[0].id.as_deref(), rows[1].id.as_deref()), (Some("-7"), None));
            assert_eq!((rows[0].grade, rows[1].grade), (Some(2.33), None));
            assert_eq!((rows[0].line, rows[1].line), (1, 2));
        }
    }
}

#[test]
fn a_bad_row_is_named_by_its_number_even_in_a_later_batch() {
    let n = 1000;
    let titles: Vec<String> = (0..n).map(|row| format!("title {row}")).collect();
    let labels: Vec<f64> = (0..n).map(|row| if row == 700 { 1.01 } else { 0.5 }).collect();
    let titles: ArrayRef = Arc::new(StringArray::from(titles));
    let columns = vec![
        ("query", titles.clone()),
        ("product_title", titles),
        ("relevance_label", Arc::new(Float64Array::from(labels)) as ArrayRef),
    ];
    let error = pairs(columns.clone()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "`(memory)` row 701: `relevance_label` is `1.01`, expected a number from 0 to 1"
    );
    let options = ReadOptions { skip_bad_rows: true, ..ReadOptions::default() };
    let rows = read_pairs_from(parquet(columns), PARQUET, &options).unwrap();
    let (rows, skipped) = rows.read_all().unwrap();
    assert_eq!((rows.len(), skipped.count), (n - 1, 1));
    assert_eq!(rows[700].line, 702);
}

#[test]
fn what_is_no_text_is_refused_and_says_what_it_is() {
    let label: ArrayRef = Arc::new(Int64Array::from(vec![1, 0]));
    let error = |title: ArrayRef| {
        let title = ("product_title", title);
        let columns =
            vec![("query", strings(["a", "b"])), title, ("relevance_label", label.clone())];
        pairs(columns).unwrap_err().to_string()
    };
    assert_eq!(
        error(Arc::new(Int64Array::from(vec![5, 6]))),
        "`(memory)` row 1: `product_title` is the number `5`, expected text"
    );
    assert_eq!(
        error(Arc::new(BinaryArray::from(vec![b"ok".as_slice(), b"caf\xe9"]))),
        "`(memory)` row 2: expected UTF-8, found byte 0xe9"
    );
    assert_eq!(
        error(Arc::new(StringArray::from(vec![Some("a"), None]))),
        "`(memory)` row 2: expected a value of `product_title`, found none"
    );
    let error = pairs(vec![("query", strings(["a", "b"]))]).unwrap_err();
    assert_eq!(error.to_string(), "`(memory)` has no column `product_title`; it has: query");
}

#[test]
fn a_catalogue_keeps_numbers_and_bools_of_its_other_columns() {
    let sizes =
        ListArray::from_iter_primitive::<Int32Type, _, _>([Some(vec![Some(1), Some(2)]), None]);
    let bytes = parquet(vec![
        ("price", Arc::new(Float64Array::from(vec![9.5, 10.0]))),
        ("product_title", strings(["Kettle", "Lamp"])),
        ("stock", Arc::new(BooleanArray::from(vec![Some(true), None]))),
        ("sizes", Arc::new(sizes)),
        ("weight", Arc::new(Float64Array::from(vec![f64::NAN, 0.25]))),
    ]);
    let products = read_products_from(bytes, PARQUET, &ReadOptions::default()).unwrap();
    assert_eq!(products.other_columns(), ["price", "stock", "sizes", "weight"]);
    let (products, _) = products.read_all().unwrap();
    let other = |row: usize| -> Vec<(u32, String)> {
        products[row].other.iter().map(|(column, value)| (*column, value.to_json())).collect()
    };
    let want = [(0, "9.5"), (1, "true"), (2, "\"[1, 2]\""), (3, "\"NaN\"")];
    assert_eq!(other(0), want.map(|(column, json)| (column, json.to_owned())));
    assert_eq!(other(1), [(0, "10.0".to_owned()), (3, "0.25".to_owned())]);
}

#[test]
fn no_rows_is_an_error() {
    let none: ArrayRef = Arc::new(StringArray::from(Vec::<&str>::new()));
    let columns = ["query", "product_title", "relevance_label"].map(|name| (name, none.clone()));
    assert_eq!(pairs(columns.to_vec()).unwrap_err().to_string(), "`(memory)` holds no rows");
}

/// Cut at every length, and every byte of the file turned over: an error or rows, never a panic.
#[test]
fn damaged_files_are_errors_or_rows_but_never_panics() {
    let bytes = parquet(vec![
        ("query", strings(["red kettle", "tv"])),
        ("product_title", Arc::new(DictionaryArray::<Int32Type>::from_iter(["a", "b"]))),
        ("relevance_label", Arc::new(Float64Array::from(vec![1.0, 0.0]))),
    ]);
    let read = |bytes: Vec<u8>| {
        read_pairs_from(bytes, PARQUET, &ReadOptions::default()).and_then(|rows| rows.read_all())
    };
    assert!(read(bytes.clone()).is_ok());
    for length in 0..bytes.len() {
        assert!(read(bytes[..length].to_vec()).is_err(), "cut at {length}");
    }
    for place in 0..bytes.len() {
        for flip in [0x01, 0x80, 0xff] {
            let mut bytes = bytes.clone();
            bytes[place] ^= flip;
            let _ = read(bytes);
        }
    }
}
