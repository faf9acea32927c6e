//! Files that are damaged, cut short or made to do harm: one error each, bounded memory, no panic.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Write;

use loriot_data::{
    FileKind, Format, Pair, ReadError, ReadOptions, SkippedRows, read_pairs_from,
    read_products_from,
};
use loriot_files::Hint;

const CSV: FileKind = FileKind { format: Format::Csv, gzip: false };
const TSV: FileKind = FileKind { format: Format::Tsv, gzip: false };
const JSONL: FileKind = FileKind { format: Format::Jsonl, gzip: false };
const PARQUET: FileKind = FileKind { format: Format::Parquet, gzip: false };
const KINDS: [FileKind; 7] = [
    CSV,
    TSV,
    JSONL,
    PARQUET,
    FileKind { gzip: true, ..CSV },
    FileKind { gzip: true, ..TSV },
    FileKind { gzip: true, ..JSONL },
];

const HEADER: &str = "query,product_title,relevance_label\n";

fn read(
    kind: FileKind,
    bytes: impl Into<Vec<u8>>,
    options: &ReadOptions,
) -> Result<(Vec<Pair>, SkippedRows), ReadError> {
    read_pairs_from(bytes.into(), kind, options)?.read_all()
}

fn strict() -> ReadOptions {
    ReadOptions::default()
}

fn skipping() -> ReadOptions {
    ReadOptions { skip_bad_rows: true, ..ReadOptions::default() }
}

fn message(kind: FileKind, bytes: impl Into<Vec<u8>>) -> String {
    read(kind, bytes, &strict()).unwrap_err().to_string()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn a_quote_that_never_closes_stops_even_where_rows_are_skipped() {
    let csv = format!("{HEADER}a,b,1\na,\"b,1\nc,d,0\n");
    for options in [strict(), skipping()] {
        let error = read(CSV, csv.clone(), &options).unwrap_err();
        let want = "`(memory)` line 3: the record that starts here is still open after 14 bytes";
        assert_eq!(error.to_string(), want);
        assert!(error.hint().unwrap().contains("must close"));
    }
    // Closed at the very end of the file, with no line break: nothing is wrong.
    assert_eq!(read(CSV, format!("{HEADER}a,b,\"1\""), &strict()).unwrap().0.len(), 1);
    assert!(read(CSV, format!("{HEADER}a,b,\""), &strict()).is_err());
}

#[test]
fn a_record_without_end_is_not_read_into_memory() {
    let mut csv = format!("{HEADER}a,b,1\na,\"").into_bytes();
    csv.resize(40 << 20, b'x');
    let options = ReadOptions { max_record_bytes: 1 << 20, ..skipping() };
    let error = read(CSV, csv, &options).unwrap_err();
    let ReadError::Unclosed { line: 3, n_bytes, .. } = error else { panic!("{error}") };
    assert!((1 << 20..2 << 20).contains(&n_bytes), "{n_bytes}");
}

#[test]
fn a_text_over_the_limit_is_a_bad_row() {
    let long = "x".repeat((1 << 20) + 1);
    let fault = "line 3: `product_title` holds 1048577 bytes, expected at most 1048576";
    let csv = format!("{HEADER}a,b,1\na,{long},1\na,c,0\n");
    let line = |title: &str| {
        format!("{{\"query\":\"a\",\"product_title\":\"{title}\",\"relevance_label\":1}}\n")
    };
    let jsonl = format!("\n{}{}{}", line("b"), line(&long), line("c"));
    for (kind, bytes) in [(CSV, csv), (JSONL, jsonl)] {
        let error = read(kind, bytes.clone(), &strict()).unwrap_err();
        assert_eq!(error.to_string(), format!("`(memory)` {fault}"));
        let hint = "shorten it, or leave such rows out with `--skip-bad-rows`";
        assert_eq!(error.hint().unwrap(), hint);
        let (rows, skipped) = read(kind, bytes, &skipping()).unwrap();
        assert_eq!((rows.len(), skipped.count), (2, 1));
    }
}

#[test]
fn a_line_of_jsonl_over_the_limit_is_passed_over() {
    let good = "{\"query\":\"a\",\"product_title\":\"b\",\"relevance_label\":1}\n";
    let options = ReadOptions { max_record_bytes: 1000, ..skipping() };
    let jsonl = format!("{good}{}\n{good}", "[".repeat(200_000));
    let (rows, skipped) = read(JSONL, jsonl, &options).unwrap();
    assert_eq!(rows.iter().map(|row| row.line).collect::<Vec<_>>(), [1, 3]);
    assert_eq!(
        skipped.first,
        ["`(memory)` line 2: this line holds 200001 bytes, expected at most 1000"]
    );
}

#[test]
fn bytes_that_are_no_utf8_name_their_line_and_the_remedy() {
    let mut csv = format!("{HEADER}a,b,1\n").into_bytes();
    csv.extend(b"caf\xe9,b,1\n");
    let error = read(CSV, csv, &strict()).unwrap_err();
    assert_eq!(error.to_string(), "`(memory)` line 3: expected UTF-8, found byte 0xe9");
    assert!(error.hint().unwrap().contains("iconv"));
    let mut jsonl = b"\n{\"query\":\"caf\xe9\"}\n".to_vec();
    assert_eq!(message(JSONL, jsonl.clone()), "`(memory)` line 2: expected UTF-8, found byte 0xe9");
    jsonl.extend(b"{\"query\":\"a\",\"product_title\":\"b\",\"relevance_label\":1}");
    assert_eq!(read(JSONL, jsonl, &skipping()).unwrap().1.count, 1);
    let header = b"qu\xe9ry,product_title\na,b\n";
    assert_eq!(message(CSV, header), "`(memory)` line 1: expected UTF-8, found byte 0xe9");
}

#[test]
fn another_formats_bytes_under_a_wrong_name_are_recognised() {
    let csv = format!("{HEADER}a,b,1\n");
    let expected = "expected UTF-8 text";
    assert_eq!(message(CSV, gzip(csv.as_bytes())), format!("`(memory)` is gzip data, {expected}"));
    assert_eq!(message(TSV, "PAR1\x15\x04"), format!("`(memory)` is parquet data, {expected}"));
    assert_eq!(message(JSONL, "PK\x03\x04abc"), format!("`(memory)` is a zip archive, {expected}"));
    let utf16: Vec<u8> = csv.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let marked = [b"\xff\xfe".as_slice(), &utf16].concat();
    assert_eq!(message(CSV, marked), format!("`(memory)` is UTF-16 text, {expected}"));
    assert_eq!(message(CSV, utf16), "`(memory)` is binary data, expected a header of column names");
    assert_eq!(
        message(CSV, ",".repeat(100_000)),
        "`(memory)` is text without columns, expected a header of column names"
    );
    let error = read(PARQUET, csv.clone(), &strict()).unwrap_err();
    assert_eq!(error.to_string(), "`(memory)` cannot be read as parquet");
    let error = read(FileKind { gzip: true, ..CSV }, csv, &strict()).unwrap_err();
    assert_eq!(error.to_string(), "cannot read `(memory)` past line 1");
}

#[test]
fn gzip_cut_short_is_an_error_wherever_it_is_cut() {
    let rows: String = (0..5000).map(|row| format!("query {row},title {row},1\n")).collect();
    let whole = gzip(format!("{HEADER}{rows}").as_bytes());
    let kind = FileKind { gzip: true, ..CSV };
    assert_eq!(read(kind, whole.clone(), &strict()).unwrap().0.len(), 5000);
    for length in (1..whole.len()).step_by(997).chain([whole.len() - 1]) {
        // Skipping bad rows does not forgive a file whose end is missing.
        let error = read(kind, &whole[..length], &skipping()).unwrap_err();
        assert!(matches!(error, ReadError::Read { .. }), "{length}: {error}");
        assert!(error.hint().unwrap().contains("cut short"), "{length}");
    }
    let mut flipped = whole.clone();
    let middle = whole.len() / 2;
    flipped[middle] ^= 0x55;
    assert!(read(kind, flipped, &strict()).is_err());
}

#[test]
fn gzip_of_several_members_is_read_to_the_end() {
    let parts = [gzip(HEADER.as_bytes()), gzip(b"a,b,1\n"), gzip(b"c,d,0\n")].concat();
    assert_eq!(read(FileKind { gzip: true, ..CSV }, parts, &strict()).unwrap().0.len(), 2);
}

/// 1 GiB of one text in a few KiB: memory stays at the record's limit.
#[test]
fn a_gzip_bomb_is_stopped_by_the_records_limit() {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(format!("{HEADER}a,").as_bytes()).unwrap();
    for _ in 0..256 {
        encoder.write_all(&[b'x'; 1 << 20]).unwrap();
    }
    let kind = FileKind { gzip: true, ..CSV };
    let error = read(kind, encoder.finish().unwrap(), &strict()).unwrap_err();
    assert!(matches!(error, ReadError::Unclosed { line: 2, .. }), "{error}");
}

#[test]
fn deep_and_wide_json_is_refused() {
    let deep = format!("{{\"query\":{}1{}}}", "[".repeat(100_000), "]".repeat(100_000));
    let wide: Vec<String> = (0..10_000).map(|key| format!("\"{key}\":1")).collect();
    let wide = format!("{{{}}}", wide.join(","));
    assert!(message(JSONL, wide).contains("more than 4096 keys"));
    // Nested values are passed over unparsed, or refused; the stack does not grow with them.
    assert!(read(JSONL, deep, &strict()).is_err());
}

#[test]
fn a_row_of_a_million_fields_is_one_bad_row() {
    let csv = format!("{HEADER}a,b,1\n{}\nc,d,0\n", ",".repeat(1_000_000));
    let (rows, skipped) = read(CSV, csv, &skipping()).unwrap();
    assert_eq!(rows.iter().map(|row| row.line).collect::<Vec<_>>(), [2, 4]);
    assert_eq!(skipped.first, ["`(memory)` line 3: expected 3 fields, found 1000001"]);
}

#[test]
fn a_found_value_is_shown_short_and_on_one_line() {
    let csv = format!("{HEADER}a,b,\"{}\n\x1b[31m\"\n", "9".repeat(58));
    let shown = message(CSV, csv);
    let want = format!("is `{}\u{fffd}\u{fffd}…`, expected a number", "9".repeat(58));
    assert!(shown.contains(&want), "{shown}");
}

/// A parquet footer that claims to be longer than the file.
#[test]
fn huge_claims_allocate_nothing() {
    for claimed in [u32::MAX, i32::MAX as u32, 1 << 30, 5] {
        let mut bytes = b"PAR1 some bytes".to_vec();
        bytes.extend(claimed.to_le_bytes());
        bytes.extend(b"PAR1");
        let error = read(PARQUET, bytes, &strict()).unwrap_err();
        assert!(matches!(error, ReadError::Parquet { .. }), "{error}");
    }
}

/// Noise, and good files with bytes turned over, under every name: rows or an error.
#[test]
fn noise_is_never_a_panic() {
    let mut state = 1_u64;
    let mut byte = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 56) as u8
    };
    let special = b"\",\n\r\t{}[]:\\\0\xff1a";
    let good = format!("{HEADER}\"a\n\"\"\",b,1\n{{\"query\":\"\\ud83d\\ude00\"}}\n");
    for round in 0..3000 {
        let length = usize::from(byte());
        let bytes: Vec<u8> = match round % 3 {
            0 => (0..length).map(|_| byte()).collect(),
            1 => (0..length).map(|_| special[usize::from(byte()) % special.len()]).collect(),
            _ => good.bytes().map(|b| if byte() < 8 { byte() } else { b }).collect(),
        };
        for kind in KINDS {
            let bytes = if kind.gzip && round % 2 == 0 { gzip(&bytes) } else { bytes.clone() };
            let _ = read(kind, bytes.clone(), &skipping());
            if let Ok(products) = read_products_from(bytes, kind, &skipping()) {
                products.for_each(drop);
            }
        }
    }
}
