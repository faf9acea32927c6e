//! What users give besides the four plain formats: other separators, lists, lines, scales, templates.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::PathBuf;

use loriot_data::{
    Columns, Format, Judged, LabelScale, ReadError, ReadOptions, read_judged, read_pairs,
    read_products, read_texts,
};
use loriot_files::Hint;
use tempfile::TempDir;

struct Dir(TempDir);

impl Dir {
    fn new() -> Dir {
        Dir(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    fn message(&self, text: impl ToString) -> String {
        text.to_string().replace(&format!("{}/", self.0.path().display()), "")
    }
}

fn plain() -> ReadOptions {
    ReadOptions::default()
}

fn skipping() -> ReadOptions {
    ReadOptions { skip_bad_rows: true, ..plain() }
}

#[test]
fn semicolons_and_tabs_in_a_csv_are_recognised_and_said() {
    let dir = Dir::new();
    let csv = "query,product_title,relevance_label\na,\"b; c\",1\nd,e,0\n";
    let (want, _) = read_pairs(&[dir.file("a.csv", csv)], &plain()).unwrap().read_all().unwrap();
    let semicolons = "\u{feff}\n\"query\";product_title;relevance_label\n\na;\"b; c\";1\nd;e;0\n";
    let tabs = "query\tproduct_title\trelevance_label\na\tb; c\t1\nd\te\t0\n";
    for (content, lines, note) in [
        (semicolons, [4, 5], "the header of `b.csv` has `;` and no `,`: read with `;`"),
        (tabs, [2, 3], "the header of `b.csv` has tabs and no `,`: read as tsv"),
    ] {
        let rows = read_pairs(&[dir.file("b.csv", content)], &plain()).unwrap();
        assert_eq!(rows.notes().iter().map(|note| dir.message(note)).collect::<Vec<_>>(), [note]);
        let (rows, _) = rows.read_all().unwrap();
        assert_eq!(rows.iter().map(|row| row.line).collect::<Vec<_>>(), lines);
        for (row, want) in rows.iter().zip(&want) {
            assert_eq!((&row.query, &row.product_title), (&want.query, &want.product_title));
        }
    }
    // With a comma in the header it is a comma's file, whatever else is there.
    let mixed = dir.file("c.csv", "product_title,a;b;c\nx,y\n");
    let rows = read_products(&[mixed], &plain()).unwrap();
    assert_eq!((rows.other_columns(), rows.notes().len()), (["a;b;c".to_owned()].as_slice(), 0));
}

#[test]
fn a_list_gives_the_rows_that_its_objects_give_as_lines() {
    let dir = Dir::new();
    let first = r#"{"product_title":"Kettle","price":9.50,"tags":["a", 1]}"#;
    let second = r#"{"id":7,"product_title":"Mug","in_stock":true,"gift":null}"#;
    let products = |path: PathBuf| {
        let mut rows = read_products(&[path], &plain()).unwrap();
        let notes: Vec<String> = rows.notes().iter().map(|note| dir.message(note)).collect();
        let products: Vec<_> = rows.by_ref().map(|row| row.unwrap()).collect();
        let shown: Vec<String> = products
            .iter()
            .map(|product| {
                let json = |(column, value): &(u32, loriot_data::Value)| {
                    format!("{column}={}", value.to_json())
                };
                let other: Vec<String> = product.other.iter().map(json).collect();
                format!("{:?} {} {}", product.id, product.product_title, other.join(" "))
            })
            .collect();
        (shown, rows.other_columns().to_vec(), notes)
    };
    let lines = format!("{first}\n{second}\n");
    let list = format!("[\n{first},\n{second}\n]");
    let want = products(dir.file("a.jsonl", &lines));
    assert_eq!(want.0, [r#"None Kettle 0=9.50 1=["a", 1]"#, r#"Some("7") Mug 2=true"#]);
    assert_eq!(products(dir.file("a.json", &list)), want);
    let note = "`b.jsonl` begins with `[`: read as one list of JSON objects";
    let swapped = products(dir.file("b.jsonl", &list));
    assert_eq!((&swapped.0, &swapped.2[..]), (&want.0, [note.to_owned()].as_slice()));
    let note = "`b.json` begins with `{`: read as one JSON object a line";
    let swapped = products(dir.file("b.json", &lines));
    assert_eq!((&swapped.0, &swapped.2[..]), (&want.0, [note.to_owned()].as_slice()));
}

#[test]
fn columns_that_the_first_object_lacks_are_read_from_the_line_that_brings_them() {
    let dir = Dir::new();
    let jsonl = r#"{"query":"a","product_title":"b","relevance_label":1}
{"query":"c","product_title":"d","relevance_label":0,"id":7,"grade":2.5}
"#;
    let path = dir.file("a.jsonl", jsonl);
    let (pairs, _) = read_pairs(std::slice::from_ref(&path), &plain()).unwrap().read_all().unwrap();
    assert_eq!((pairs[0].id.as_deref(), pairs[0].grade), (None, None));
    assert_eq!((pairs[1].id.as_deref(), pairs[1].grade), (Some("7"), Some(2.5)));
    let texts = read_texts(&[path], "product_title", &plain()).unwrap().read_all().unwrap().0;
    assert_eq!(texts[1].id.as_deref(), Some("7"));

    // A text that only line 2 has: said, not left out.
    let path = dir.file("b.jsonl", "{\"id\":1}\n{\"id\":2,\"name\":\"x\"}\n");
    let error = read_texts(std::slice::from_ref(&path), "name", &plain()).err().unwrap();
    assert_eq!(dir.message(&error), "`b.jsonl` has no column `name`; it has: id");
    let rows = read_texts(&[path], "name", &skipping()).unwrap().read_all().unwrap();
    assert_eq!((rows.0.len(), rows.1.count), (1, 1));
}

#[test]
fn lines_of_text_are_whatever_text_is_asked_for() {
    let dir = Dir::new();
    let path = dir.file("a.txt", "Red kettle, 1.7 l\r\n\n\"Mug\"\n");
    let (texts, _) =
        read_texts(std::slice::from_ref(&path), "query", &plain()).unwrap().read_all().unwrap();
    let got: Vec<_> = texts.iter().map(|row| (row.line, row.text.as_str())).collect();
    assert_eq!(got, [(1, "Red kettle, 1.7 l"), (3, "\"Mug\"")]);
    let (products, _) = read_products(&[path], &plain()).unwrap().read_all().unwrap();
    assert_eq!(products[1].product_title, "\"Mug\"");
}

#[test]
fn a_format_that_is_said_goes_before_the_name_and_gzip_is_found() {
    let dir = Dir::new();
    let gzipped = {
        use std::io::Write;
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(b"product_title\nMug\n").unwrap();
        gzip.finish().unwrap()
    };
    let options = ReadOptions { format: Some(Format::Csv), ..plain() };
    for (name, content) in [("data", b"product_title\nMug\n".to_vec()), ("b.csv", gzipped)] {
        let products = read_products(&[dir.file(name, content)], &options).unwrap();
        assert_eq!(products.read_all().unwrap().0[0].product_title, "Mug", "{name}");
    }
    let error = read_products(&[dir.file("data", "")], &plain()).err().unwrap();
    assert!(error.hint().unwrap().contains("--format csv|tsv|jsonl|json|txt|parquet"));
    assert_eq!(
        "xml".parse::<Format>().unwrap_err(),
        "expected one of: csv, tsv, jsonl, json, txt, parquet"
    );
    for (name, remedy) in [("a.csv.br", "brotli -d"), ("a.csv.zst", "unzstd"), ("a.xlsx", "as csv")]
    {
        let error = read_products(&[dir.file(name, "x")], &plain()).err().unwrap();
        assert!(error.hint().unwrap().contains(remedy), "{name}");
    }
}

/// A pipe is opened once, also where it is the second of two inputs.
#[cfg(target_os = "linux")]
#[test]
fn a_pipe_is_read_whole_wherever_it_stands() {
    use std::io::Write;
    use std::os::fd::AsRawFd;
    let dir = Dir::new();
    let file = dir.file("a.jsonl", "{\"product_title\":\"Mug\"}\n");
    let (reader, mut writer) = std::io::pipe().unwrap();
    let rows: String =
        (0..2000).map(|row| format!("{{\"product_title\":\"Lamp {row}\"}}\n")).collect();
    let writing = std::thread::spawn(move || writer.write_all(rows.as_bytes()).unwrap());
    let pipe = PathBuf::from(format!("/proc/self/fd/{}", reader.as_raw_fd()));
    // The descriptor of the writer is closed by the thread's end, that of the reader stays with us.
    let products = read_products(&[file, pipe.clone()], &plain()).unwrap();
    let (products, _) = products.read_all().unwrap();
    writing.join().unwrap();
    assert_eq!(products.len(), 2001);
    assert_eq!(products[2000].product_title, "Lamp 1999");
}

fn judged(dir: &Dir, labels: &[&str], options: &ReadOptions) -> Result<Judged, ReadError> {
    let rows: String =
        labels.iter().enumerate().map(|(row, label)| format!("q,p {row},{label}\n")).collect();
    let csv = format!("query,product_title,relevance_label\n{rows}");
    read_judged(&[dir.file("a.csv", csv)], options)
}

fn labels(judged: &Judged) -> Vec<f32> {
    judged.pairs.iter().map(|pair| pair.relevance_label).collect()
}

#[test]
fn labels_on_a_scale_of_their_own_are_read_as_0_to_1_and_none_is_dropped() {
    let dir = Dir::new();
    for options in [plain(), skipping()] {
        let read = judged(&dir, &["3", "1", "2.5", "2"], &options).unwrap();
        assert_eq!(labels(&read), [1.0, 0.0, 0.75, 0.5]);
        assert_eq!((read.scale.to_string(), read.is_found), ("1:3".to_owned(), true));
        assert_eq!(read.skipped.count, 0);
        // In another order the same.
        let other = judged(&dir, &["2", "2.5", "1", "3"], &options).unwrap();
        assert_eq!((other.scale, labels(&other)), (read.scale, vec![0.5, 0.75, 0.0, 1.0]));
    }
    // Said, it gives the same numbers, and is a limit.
    let scale: LabelScale = "1:3".parse().unwrap();
    let said = ReadOptions { label_scale: Some(scale), ..plain() };
    let read = judged(&dir, &["3", "1", "2.5", "2"], &said).unwrap();
    assert_eq!((labels(&read), read.is_found), (vec![1.0, 0.0, 0.75, 0.5], false));
    let error = judged(&dir, &["3", "4"], &said).unwrap_err();
    assert_eq!(
        dir.message(&error),
        "`a.csv` line 3: `relevance_label` is `4`, expected a number from 1 to 3"
    );
    // From 0 to 1 nothing changes.
    let read = judged(&dir, &["0.25", "0.5"], &plain()).unwrap();
    assert_eq!((labels(&read), read.scale), (vec![0.25, 0.5], LabelScale::UNIT));
}

#[test]
fn a_typing_error_is_no_scale() {
    let dir = Dir::new();
    let mut rare = vec!["1"; 1000];
    rare.extend(["7", "8"]);
    let all_alike = ["0", "1", "7"];
    let negative = ["-1", "2", "3", "0"];
    let letters = ["E", "2", "3", "0"];
    for (case, bad) in [
        (&rare[..], "`a.csv` line 1002: `relevance_label` is `7`"),
        (&all_alike, "`a.csv` line 4: `relevance_label` is `7`"),
        (&negative, "`a.csv` line 2: `relevance_label` is `-1`"),
        (&letters, "`a.csv` line 3: `relevance_label` is `2`"),
    ] {
        let error = judged(&dir, case, &plain()).unwrap_err();
        assert_eq!(dir.message(&error), format!("{bad}, expected a number from 0 to 1"));
        assert!(error.hint().unwrap().contains("--label-scale"));
        let read = judged(&dir, case, &skipping()).unwrap();
        assert!(dir.message(&read.skipped.first[0]).starts_with(bad));
        assert!(labels(&read).iter().all(|label| (0.0..=1.0).contains(label)));
    }
    // Ten of one label are meant.
    let mut two = vec!["0"; 500];
    two.extend(["2"; 10]);
    assert_eq!(judged(&dir, &two, &plain()).unwrap().scale.to_string(), "0:2");
    let error = judged(&dir, &["7"], &skipping()).unwrap_err();
    assert!(matches!(error, ReadError::AllSkipped { n_skipped: 1, .. }), "{error}");
}

#[test]
fn escis_letters_are_labels_and_grades_on_the_scale_from_0_to_1_alone() {
    let dir = Dir::new();
    let read = judged(&dir, &["E", "S", "c", "Irrelevant", "1"], &plain()).unwrap();
    assert_eq!(labels(&read), [1.0, 0.1, 0.01, 0.0, 1.0]);
    let said = ReadOptions { label_scale: "1:3".parse().ok(), ..plain() };
    let error = judged(&dir, &["E"], &said).unwrap_err();
    assert!(error.to_string().ends_with("`E`, expected a number from 1 to 3"), "{error}");

    let csv = "query,product_title,relevance_label,grade\na,b,1,S\na,c,0,3\n";
    let path = dir.file("g.csv", csv);
    let grades = |options: &ReadOptions| -> Result<Vec<Option<f32>>, ReadError> {
        let rows = read_pairs(std::slice::from_ref(&path), options)?.read_all()?.0;
        Ok(rows.iter().map(|row| row.grade).collect())
    };
    assert_eq!(grades(&plain()).unwrap(), [Some(0.1), Some(3.0)]);
    let on_a_scale = ReadOptions { grade_scale: "0:4".parse().ok(), ..skipping() };
    assert_eq!(grades(&on_a_scale).unwrap(), [Some(0.75)]);
}

#[test]
fn a_template_makes_the_text_and_its_columns_must_be_there() {
    let dir = Dir::new();
    let csv = "query,name,brand,relevance_label,id\na,Kettle,Acme,1,7\nb,Mug,,0,8\n";
    let path = [dir.file("a.csv", csv)];
    let options = |template: &str| ReadOptions {
        columns: Columns::new(["product_title=name".parse().unwrap()]).unwrap(),
        text_template: Some(template.parse().unwrap()),
        ..plain()
    };
    let by_brand = options("{brand} {product_title}");
    let (pairs, _) = read_pairs(&path, &by_brand).unwrap().read_all().unwrap();
    let titles: Vec<_> = pairs.iter().map(|pair| pair.product_title.as_str()).collect();
    assert_eq!(titles, ["Acme Kettle", "Mug"]);
    let (texts, _) = read_texts(&path, "product_title", &by_brand).unwrap().read_all().unwrap();
    let got: Vec<_> = texts.iter().map(|row| (row.id.as_deref(), row.text.as_str())).collect();
    assert_eq!(got, [(Some("7"), "Acme Kettle"), (Some("8"), "Mug")]);
    // A product keeps its title and its other columns.
    let products = read_products(&path, &by_brand).unwrap();
    assert_eq!(products.other_columns(), ["query", "brand", "relevance_label"]);
    let (products, _) = products.read_all().unwrap();
    assert_eq!(products[0].product_title, "Kettle");

    let wrong = options("{product_title} {colour}");
    let want = "`a.csv` has no column `colour`; it has: query, name, brand, relevance_label, id";
    let errors = [
        read_pairs(&path, &wrong).err().unwrap(),
        read_texts(&path, "product_title", &wrong).err().unwrap(),
        read_products(&path, &wrong).err().unwrap(),
    ];
    for error in errors {
        assert_eq!(dir.message(&error), want);
        assert_eq!(error.hint().unwrap(), "name columns in `--text-template` as the file does");
    }
    // In jsonl a column may come late; that it never comes is told at the end.
    let jsonl = "{\"name\":\"Mug\"}\n{\"name\":\"Lamp\",\"brand\":\"Acme\"}\n";
    let path = [dir.file("b.jsonl", jsonl)];
    let (texts, _) = read_texts(&path, "x", &by_brand).unwrap().read_all().unwrap();
    assert_eq!(texts.iter().map(|row| &*row.text).collect::<Vec<_>>(), ["Mug", "Acme Lamp"]);
    let error = read_texts(&path, "x", &wrong).unwrap().read_all().unwrap_err();
    assert_eq!(dir.message(&error), "`b.jsonl` has no column `colour`; it has: name");
}
