//! Rows of every format, plain and gzipped, under several options: the first two bytes choose.

#![no_main]

use libfuzzer_sys::fuzz_target;
use loriot_data::{
    FileKind, Format, LabelScale, ReadOptions, TextTemplate, read_pairs_from, read_products_from,
    read_texts_from,
};

const FORMATS: [Format; 6] =
    [Format::Csv, Format::Tsv, Format::Jsonl, Format::Json, Format::Text, Format::Parquet];

fuzz_target!(|input: &[u8]| {
    let [format, flags, bytes @ ..] = input else { return };
    let format = FORMATS[usize::from(*format) % FORMATS.len()];
    let is_set = |flag: u8| flags & flag != 0;
    let gzip = is_set(1) && format != Format::Parquet;
    let scale = is_set(4).then(|| LabelScale::new(1.0, 3.0)).flatten();
    let template = "{product_title}, {brand} {id}".parse::<TextTemplate>().ok();
    let options = ReadOptions {
        skip_bad_rows: is_set(2),
        label_scale: scale,
        grade_scale: scale,
        text_template: template.filter(|_| is_set(8)),
        // Long records are met only where the limit is short.
        max_record_bytes: if is_set(16) { 64 } else { 1 << 16 },
        ..ReadOptions::default()
    };
    let kind = FileKind { format, gzip };
    let _ = read_pairs_from(bytes.to_vec(), kind, &options).and_then(|rows| rows.read_all());
    let _ = read_products_from(bytes.to_vec(), kind, &options).and_then(|rows| rows.read_all());
    let _ =
        read_texts_from(bytes.to_vec(), kind, "query", &options).and_then(|rows| rows.read_all());
});
