//! A reader holds one record, whether it is good or bad: 200 titles of 1 MB from a small gzip file take no 200 MB.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use loriot_data::{ReadOptions, read_products, read_texts};
use std::io::Write;

/// The most memory that this process has held so far, in bytes.
fn peak_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

#[test]
fn titles_of_a_megabyte_are_held_one_at_a_time() {
    const N: usize = 200;
    let dir = tempfile::tempdir().unwrap();
    let title = vec![b'x'; 1_000_000];
    let written = |name: &str, before: &[u8], row: &[u8], after: &[u8]| {
        let path = dir.path().join(name);
        let file = std::fs::File::create(&path).unwrap();
        let mut gzip = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
        gzip.write_all(before).unwrap();
        for _ in 0..N {
            gzip.write_all(row).unwrap();
            gzip.write_all(&title).unwrap();
            gzip.write_all(after).unwrap();
        }
        gzip.finish().unwrap();
        path
    };
    let jsonl_row = b"{\"product_title\":\"".as_slice();
    let paths = [
        written("a.csv.gz", b"product_title\n", b"", b"\n"),
        written("a.jsonl.gz", b"", jsonl_row, b"\"}\n"),
        written("a.txt.gz", b"", b"", b"\n"),
    ];
    for path in paths {
        let options = ReadOptions::default();
        let products = read_products(std::slice::from_ref(&path), &options).unwrap();
        assert_eq!(products.map(|row| row.unwrap().product_title.len()).max(), Some(1_000_000));
        let texts = read_texts(&[path], "product_title", &options).unwrap();
        assert_eq!(texts.count(), N);
    }
    // Nor are lines held that were found bad while a first good one was looked for.
    let mut line = vec![b' '; 8_000_000];
    line[0] = b'x';
    let path = dir.path().join("bad.jsonl.gz");
    let file = std::fs::File::create(&path).unwrap();
    let mut gzip = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
    for _ in 0..50 {
        gzip.write_all(&line).unwrap();
        gzip.write_all(b"\n").unwrap();
    }
    gzip.write_all(b"{}\n{\"product_title\":\"a\"}\n").unwrap();
    gzip.finish().unwrap();
    let options = ReadOptions { skip_bad_rows: true, ..ReadOptions::default() };
    let (rows, skipped) = read_products(&[path], &options).unwrap().read_all().unwrap();
    assert_eq!((rows[0].line, skipped.count), (52, 51));
    assert!(skipped.first[0].contains("line 1: expected a JSON object"), "{:?}", skipped.first);
    let peak = peak_bytes();
    assert!(peak < 100_000_000, "{peak} bytes at the peak");
}
