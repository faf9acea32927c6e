//! Rows of every format, plain and gzipped: the first byte chooses.

#![no_main]

use libfuzzer_sys::fuzz_target;
use loriot_data::{FileKind, Format, ReadOptions, read_pairs_from, read_products_from};

fuzz_target!(|input: &[u8]| {
    let Some((&choice, bytes)) = input.split_first() else { return };
    let format =
        [Format::Csv, Format::Tsv, Format::Jsonl, Format::Parquet][usize::from(choice % 4)];
    let gzip = choice & 4 != 0 && !matches!(format, Format::Parquet);
    let options = ReadOptions { skip_bad_rows: choice & 8 != 0, ..ReadOptions::default() };
    let kind = FileKind { format, gzip };
    let _ = read_pairs_from(bytes.to_vec(), kind, &options).and_then(|rows| rows.read_all());
    let _ = read_products_from(bytes.to_vec(), kind, &options).and_then(|rows| rows.read_all());
});
