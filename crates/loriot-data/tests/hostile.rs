//! Files that are damaged, cut short or made to do harm: one error each, bounded memory, no panic.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Write;

use loriot_data::{
    FileKind, Format, Pair, ReadError, ReadOptions, RowFault, SkippedRows, Text, read_pairs_from,
    read_products_from, read_texts_from,
};
use loriot_files::Hint;

const CSV: FileKind = FileKind { format: Format::Csv, gzip: false };
const TSV: FileKind = FileKind { format: Format::Tsv, gzip: false };
const JSONL: FileKind = FileKind { format: Format::Jsonl, gzip: false };
const JSON: FileKind = FileKind { format: Format::Json, gzip: false };
const TEXT: FileKind = FileKind { format: Format::Text, gzip: false };
const PARQUET: FileKind = FileKind { format: Format::Parquet, gzip: false };
const KINDS: [FileKind; 11] = [
    CSV,
    TSV,
    JSONL,
    JSON,
    TEXT,
    PARQUET,
    FileKind { gzip: true, ..CSV },
    FileKind { gzip: true, ..TSV },
    FileKind { gzip: true, ..JSONL },
    FileKind { gzip: true, ..JSON },
    FileKind { gzip: true, ..TEXT },
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
fn a_quote_within_a_long_field_opens_nothing() {
    let options = ReadOptions { max_record_bytes: 1000, ..skipping() };
    let long = "x".repeat(100_000);
    let csv = format!("{HEADER}a,b,1\na,3/4\" pipe {long},1\na,c,0\n");
    let (rows, skipped) = read(CSV, csv, &options).unwrap();
    assert_eq!(rows.iter().map(|row| row.line).collect::<Vec<_>>(), [2, 4]);
    assert_eq!(skipped.count, 1, "{:?}", skipped.first);
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
    assert_eq!(message(CSV, utf16), format!("`(memory)` is UTF-16 text, {expected}"));
    assert_eq!(
        message(CSV, ",".repeat(100_000)),
        "`(memory)` has 100001 columns, expected at most 4096"
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
    let want = "`(memory)` line 2: this record holds 268435458 bytes, expected at most 16777216";
    assert_eq!(error.to_string(), want);
}

/// A field of 70 MB without a quote ends with its line: one bad row, and no word about quotes.
#[test]
fn a_long_record_without_a_quote_is_one_bad_row() {
    let long = "x".repeat(70_000_000);
    let csv = format!("{HEADER}a,b,1\r\na,{long},1\r\nc,d,0\n");
    let error = read(CSV, csv.clone(), &strict()).unwrap_err();
    let ReadError::Row { fault: RowFault::TooLong { found: 70_000_004, .. }, .. } = error else {
        panic!("{error}")
    };
    assert!(error.hint().unwrap().contains("shorten it"));
    let (rows, skipped) = read(CSV, csv, &skipping()).unwrap();
    assert_eq!(rows.iter().map(|row| row.line).collect::<Vec<_>>(), [2, 4]);
    assert_eq!(skipped.count, 1);
    // As the header it stops the run.
    let error = read(CSV, long, &skipping()).unwrap_err();
    assert!(matches!(error, ReadError::Header { line: 1, .. }), "{error}");
}

fn texts(
    kind: FileKind,
    bytes: impl Into<Vec<u8>>,
    options: &ReadOptions,
) -> Result<(Vec<Text>, SkippedRows), ReadError> {
    read_texts_from(bytes.into(), kind, "text", options)?.read_all()
}

#[test]
fn a_broken_list_stops_even_where_rows_are_skipped() {
    let good = "{\"text\": \"a [ } \\\" ,\"}";
    let cases = [
        (format!("[{good}"), "line 1: the list is still open where the file ends"),
        (format!("[{good},\n"), "line 2: the list is still open where the file ends"),
        (format!("[{good}\n{good}]"), "line 2: expected `,` or `]`, found `{`"),
        (format!("[{good},\n]"), "line 2: expected an object, found `]`"),
        (format!("[,{good}]"), "line 1: expected an object or `]`, found `,`"),
        (format!("[{good}]\n[]"), "line 2: expected nothing after the list, found `[`"),
        ("[{\"text\": \"a\n\"}]".into(), "line 1: a text is still open where the line ends"),
        (format!("[{good}, {{\"text\": [[["), "line 1: the list is still open where the file ends"),
        ("\n{\"text\":1}".replace('{', "7"), "line 2: expected `[`, found `7`"),
    ];
    for (json, reason) in cases {
        for options in [strict(), skipping()] {
            let error = texts(JSON, json.clone(), &options).unwrap_err();
            assert!(matches!(error, ReadError::BrokenList { .. }), "{json}: {error}");
            assert_eq!(error.to_string(), format!("`(memory)` {reason}"), "{json}");
        }
    }
}

#[test]
fn a_bad_element_of_a_list_is_one_bad_row_with_its_line() {
    let json = "[\n {\"text\": \"a\"},\n {\"text\": 5},\n {\"text\":\n  oops},\n 7, \"x\",\n\n \
                {\"text\": \"b\"}\n]\n";
    let (rows, skipped) = texts(JSON, json, &skipping()).unwrap();
    let rows: Vec<_> = rows.iter().map(|row| (row.line, row.text.as_str())).collect();
    assert_eq!(rows, [(2, "a"), (8, "b")]);
    assert_eq!(skipped.count, 4);
    let said = |at: usize| skipped.first[at].as_str();
    assert_eq!(said(0), "`(memory)` line 3: `text` is the number `5`, expected text");
    assert!(said(1).starts_with("`(memory)` line 4: expected a JSON object: "), "{}", said(1));
    assert!(said(1).ends_with(" at line 5"), "{}", said(1));
    assert!(said(2).starts_with("`(memory)` line 6: expected a JSON object: "), "{}", said(2));

    for empty in ["[]", " [ \n ] ", ""] {
        assert_eq!(
            texts(JSON, empty, &strict()).unwrap_err().to_string(),
            "`(memory)` holds no rows"
        );
    }
}

/// Depth, length and digits without end: one bad row each, and no more memory than the limit.
#[test]
fn bombs_in_a_list_are_bad_rows() {
    let options = ReadOptions { max_record_bytes: 1 << 20, ..skipping() };
    let good = "{\"text\":\"a\"}";
    let deep = format!("{{\"text\":{}{}}}", "[".repeat(400_000), "]".repeat(400_000));
    let long = format!("{{\"text\":\"{}\"}}", "x".repeat(20 << 20));
    let huge = format!("{{\"text\":{}}}", "9".repeat(900_000));
    let wide: Vec<String> = (0..10_000).map(|key| format!("\"{key}\":1")).collect();
    let wide = format!("{{{}}}", wide.join(","));
    let json = format!("[{good},\n{deep},\n{long},\n{huge},\n{wide},\n{good}]");
    let (rows, skipped) = texts(JSON, json, &options).unwrap();
    assert_eq!(rows.iter().map(|row| row.line).collect::<Vec<_>>(), [1, 6]);
    assert_eq!(skipped.count, 4, "{:?}", skipped.first);
    let limit = "line 3: this element holds 20971531 bytes, expected at most 1048576";
    assert_eq!(skipped.first[1], format!("`(memory)` {limit}"));
    assert!(
        skipped.first[3].ends_with("this object has more than 4096 keys"),
        "{:?}",
        skipped.first
    );
    // Open without end, it is read through and refused.
    let error = texts(JSON, "[".repeat(30 << 20), &options).unwrap_err();
    assert!(matches!(error, ReadError::BrokenList { .. }), "{error}");
}

#[test]
fn lines_of_text_are_limited_and_checked() {
    let options = ReadOptions { max_record_bytes: 100, ..skipping() };
    let mut text = format!("a\r\n\n{}\n", "x".repeat(200)).into_bytes();
    text.extend(b"caf\xe9\n\0\nb");
    let start = [b"title\n".as_slice(), &text].concat();
    let (rows, skipped) = texts(TEXT, start, &options).unwrap();
    let rows: Vec<_> = rows.iter().map(|row| (row.line, row.text.as_str())).collect();
    assert_eq!(rows, [(1, "title"), (2, "a"), (7, "b")]);
    assert_eq!(
        skipped.first,
        [
            "`(memory)` line 4: this line holds 201 bytes, expected at most 100",
            "`(memory)` line 5: expected UTF-8, found byte 0xe9",
            "`(memory)` line 6: `text` is a text with a NUL character, expected text",
        ]
    );
    let error = read(TEXT, "a\nb\n", &strict()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "`(memory)` holds one text a line, expected the columns query, product_title, \
         relevance_label"
    );
}

#[test]
fn new_formats_cut_short_in_gzip_are_errors() {
    let list: Vec<String> = (0..5000).map(|row| format!("{{\"text\":\"title {row}\"}}")).collect();
    let json = gzip(format!("[{}]", list.join(",\n")).as_bytes());
    let lines: String = (0..5000).map(|row| format!("title {row}\n")).collect();
    for (kind, whole) in [(JSON, json), (TEXT, gzip(lines.as_bytes()))] {
        let kind = FileKind { gzip: true, ..kind };
        assert_eq!(texts(kind, whole.clone(), &strict()).unwrap().0.len(), 5000);
        for length in (1..whole.len()).step_by(997).chain([whole.len() - 1]) {
            let error = texts(kind, &whole[..length], &skipping()).unwrap_err();
            assert!(matches!(error, ReadError::Read { .. }), "{length}: {error}");
        }
    }
}

/// Each says what the file is and what to do.
#[test]
fn what_is_compressed_or_encoded_otherwise_has_its_own_remedy() {
    let hint =
        |kind: FileKind, bytes: &[u8]| read(kind, bytes, &skipping()).unwrap_err().hint().unwrap();
    let utf16 =
        |order: fn(u16) -> [u8; 2]| -> Vec<u8> { HEADER.encode_utf16().flat_map(order).collect() };
    for kind in [CSV, JSONL, JSON, TSV] {
        assert!(hint(kind, &gzip(b"a,b\n")).contains("`.csv.gz`"));
        assert!(hint(kind, b"BZh91AY&SY").contains("bunzip2"));
        assert!(hint(kind, b"\xfd7zXZ\0\0").contains("unxz"));
        assert!(hint(kind, b"\x28\xb5\x2f\xfd\x04\0").contains("unzstd"));
        let marked = [b"\xff\xfe".as_slice(), &utf16(u16::to_le_bytes)].concat();
        assert!(hint(kind, &marked).contains("iconv -f UTF-16 -t UTF-8"));
        assert!(hint(kind, &utf16(u16::to_le_bytes)).contains("iconv -f UTF-16LE -t UTF-8"));
        assert!(hint(kind, &utf16(u16::to_be_bytes)).contains("iconv -f UTF-16BE -t UTF-8"));
        assert!(hint(kind, b"\x8b\x02\x80query,product\x03").contains("Brotli"));
    }
    // A header cannot be skipped, so that nothing says so.
    let header = hint(CSV, b"qu\xe9ry,product_title\na,b\n");
    assert_eq!(header, "convert the file, as with `iconv -f LATIN1 -t UTF-8`");
    assert!(!hint(CSV, ",".repeat(50_000).as_bytes()).contains("ending"));
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
            if let Ok(products) = read_products_from(bytes.clone(), kind, &skipping()) {
                products.for_each(drop);
            }
            let _ = texts(kind, bytes, &skipping());
        }
    }
}
