//! csv, tsv and jsonl as users write them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Write;
use std::path::PathBuf;

use loriot_data::{
    Columns, Pair, Product, ReadError, ReadOptions, SkippedRows, Value, read_pairs, read_products,
    read_texts,
};
use loriot_files::Hint;
use tempfile::TempDir;

/// A fresh folder with files; paths in messages are given back without it.
struct Dir(TempDir);

impl Dir {
    fn new() -> Dir {
        Dir(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        if name.ends_with(".gz") {
            let file = std::fs::File::create(&path).unwrap();
            let mut gzip = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
            gzip.write_all(content.as_ref()).unwrap();
            gzip.finish().unwrap();
        } else {
            std::fs::write(&path, content).unwrap();
        }
        path
    }

    fn message(&self, error: &ReadError) -> String {
        error.to_string().replace(&format!("{}/", self.0.path().display()), "")
    }
}

fn skipping() -> ReadOptions {
    ReadOptions { skip_bad_rows: true, ..ReadOptions::default() }
}

fn named(options: &[&str]) -> ReadOptions {
    let names = options.iter().map(|option| option.parse().unwrap());
    ReadOptions { columns: Columns::new(names).unwrap(), ..ReadOptions::default() }
}

fn pairs(path: PathBuf, options: &ReadOptions) -> Result<(Vec<Pair>, SkippedRows), ReadError> {
    read_pairs(&[path], options)?.read_all()
}

/// A product's other values: `column=JSON`, with blanks between them.
fn others(product: &Product) -> String {
    let shown = |(column, value): &(u32, Value)| format!("{column}={}", value.to_json());
    product.other.iter().map(shown).collect::<Vec<_>>().join(" ")
}

const CSV: &str = "query,product_title,relevance_label,grade,id\n\
                   red kettle,\"Kettle, red, 1.7 l\",1,3.0,100006\n\
                   tv 55,\"55\"\" television\",0.25,,007\n";

#[test]
fn a_judged_row_keeps_its_text_its_id_and_its_line() {
    let dir = Dir::new();
    let (rows, skipped) = pairs(dir.file("a.csv", CSV), &ReadOptions::default()).unwrap();
    assert_eq!(skipped, SkippedRows::default());
    assert_eq!(
        rows,
        [
            Pair {
                query: "red kettle".into(),
                product_title: "Kettle, red, 1.7 l".into(),
                relevance_label: 1.0,
                id: Some("100006".into()),
                grade: Some(3.0),
                line: 2,
                file_idx: 0,
            },
            Pair {
                query: "tv 55".into(),
                product_title: "55\" television".into(),
                relevance_label: 0.25,
                id: Some("007".into()),
                grade: None,
                line: 3,
                file_idx: 0,
            },
        ]
    );
}

#[test]
fn every_text_format_and_its_gzip_gives_the_same_rows() {
    let dir = Dir::new();
    let tsv = "query\tproduct_title\trelevance_label\tgrade\tid\n\
               red kettle\tKettle, red, 1.7 l\t1\t3.0\t100006\n\
               tv 55\t\"55\"\" television\"\t0.25\t\t007\n";
    let jsonl = r#"{"query":"red kettle","product_title":"Kettle, red, 1.7 l","relevance_label":1,"grade":3,"id":100006}
{"id":"007","relevance_label":"0.25","product_title":"55\" television","query":"tv \u0035\u0035","grade":null,"more":{"a":[1]}}
"#;
    let (want, _) = pairs(dir.file("a.csv", CSV), &ReadOptions::default()).unwrap();
    for (name, content) in [("a.tsv", tsv), ("a.jsonl", jsonl), ("b.csv", CSV)] {
        for name in [name.to_owned(), format!("{name}.gz")] {
            let (mut rows, _) = pairs(dir.file(&name, content), &ReadOptions::default()).unwrap();
            if name.contains("jsonl") {
                rows.iter_mut().for_each(|row| row.line += 1); // There is no header.
            }
            assert_eq!(rows, want, "{name}");
        }
    }
}

#[test]
fn lines_are_counted_through_quoted_breaks_empty_lines_and_a_byte_order_mark() {
    let dir = Dir::new();
    let csv = "\u{feff}\n\"query\",product_title,relevance_label\r\n\
               \r\n\"a\nb\n\nc\",\"t\r\nu\",1\r\nd,e,0\r\n\n\nf,g,1";
    let (rows, _) = pairs(dir.file("a.csv", csv), &ReadOptions::default()).unwrap();
    let lines: Vec<_> = rows.iter().map(|row| (row.line, row.query.as_str())).collect();
    assert_eq!(lines, [(4, "a\nb\n\nc"), (9, "d"), (12, "f")]);
    assert_eq!(rows[0].product_title, "t\r\nu");
    let jsonl = "\u{feff}\n{\"text\":\"a\"}\r\n \n{\"text\":\"\"}";
    let texts = read_texts(&[dir.file("a.jsonl", jsonl)], "text", &ReadOptions::default());
    let (texts, _) = texts.unwrap().read_all().unwrap();
    let lines: Vec<_> = texts.iter().map(|row| (row.line, row.text.as_str())).collect();
    assert_eq!(lines, [(2, "a"), (4, "")]);
}

#[test]
fn a_missing_column_lists_what_is_there_and_names_the_remedy() {
    let dir = Dir::new();
    let path = dir.file("products.csv", "sku,name\n1,Red kettle\n");
    let error = read_products(std::slice::from_ref(&path), &ReadOptions::default()).err().unwrap();
    assert_eq!(
        dir.message(&error),
        "`products.csv` has no column `product_title`; it has: sku, name"
    );
    assert_eq!(error.hint().unwrap(), "name the column with `--column product_title=<name>`");

    let products =
        read_products(std::slice::from_ref(&path), &named(&["product_title=name"])).unwrap();
    assert_eq!(products.other_columns(), ["sku"]);
    let (products, _) = products.read_all().unwrap();
    assert_eq!((products[0].product_title.as_str(), &products[0].id), ("Red kettle", &None));
    assert_eq!(others(&products[0]), r#"0="1""#, "a csv field is text");

    let options = named(&["product_title=name", "id=sku"]);
    let (products, _) =
        read_products(std::slice::from_ref(&path), &options).unwrap().read_all().unwrap();
    assert_eq!(products[0].id.as_deref(), Some("1"));

    // An optional column that an option names must be there.
    let options = named(&["product_title=name", "id=asin"]);
    let error = read_products(&[path], &options).err().unwrap();
    assert_eq!(dir.message(&error), "`products.csv` has no column `asin`; it has: sku, name");
    assert_eq!(error.hint().unwrap(), "name the column with `--column id=<name>`");
}

#[test]
fn a_bad_row_stops_with_its_line_or_is_counted() {
    let dir = Dir::new();
    let cases = [
        ("a,b,2", "`relevance_label` is `2`, expected a number from 0 to 1"),
        ("a,b,-1", "`relevance_label` is `-1`, expected a number from 0 to 1"),
        ("a,b,NaN", "`relevance_label` is `NaN`, expected a number from 0 to 1"),
        ("a,b,inf", "`relevance_label` is `inf`, expected a number from 0 to 1"),
        ("a,b,yes", "`relevance_label` is `yes`, expected a number from 0 to 1"),
        ("a,b,", "`relevance_label` is ``, expected a number from 0 to 1"),
        ("a,b", "expected 3 fields, found 2"),
        ("a,b,1,", "expected 3 fields, found 4"),
        (" ,,1", "expected text in `query` or `product_title`, found none"),
        ("a,b\0,1", "`product_title` is a text with a NUL character, expected text"),
    ];
    for (row, fault) in cases {
        let csv = format!("query,product_title,relevance_label\na,b,1\n{row}\nc,d,0\n");
        let path = dir.file("a.csv", csv);
        let error = pairs(path.clone(), &ReadOptions::default()).unwrap_err();
        let message = format!("`a.csv` line 3: {fault}");
        assert_eq!(dir.message(&error), message);
        let hint = "correct the row, or leave such rows out with `--skip-bad-rows`";
        assert_eq!(error.hint().unwrap(), hint);

        let (rows, skipped) = pairs(path, &skipping()).unwrap();
        assert_eq!(rows.iter().map(|row| row.line).collect::<Vec<_>>(), [2, 4]);
        assert_eq!(skipped.count, 1);
        assert!(skipped.first[0].ends_with(fault), "{:?}", skipped.first);
    }
}

#[test]
fn a_bad_line_of_jsonl_says_what_was_found() {
    let dir = Dir::new();
    let cases = [
        (
            r#"{"query":"a","product_title":"b"}"#,
            "expected a value of `relevance_label`, found none",
        ),
        (
            r#"{"query":null,"product_title":"b","relevance_label":1}"#,
            "expected a value of `query`, found none",
        ),
        (
            r#"{"query":5,"product_title":"b","relevance_label":1}"#,
            "`query` is the number `5`, expected text",
        ),
        (
            r#"{"query":"a","product_title":["b"],"relevance_label":1}"#,
            "`product_title` is a list, expected text",
        ),
        (
            r#"{"query":"a","product_title":"b","relevance_label":1.5}"#,
            "`relevance_label` is `1.5`, expected a number from 0 to 1",
        ),
        (
            r#"{"query":"a","product_title":"b","relevance_label":1,"grade":-2}"#,
            "`grade` is `-2`, expected a finite number, 0 or more",
        ),
        (
            r#"{"query":"a","product_title":"b","relevance_label":1,"id":{}}"#,
            "`id` is an object, expected text or a number",
        ),
        (
            r#"{"query":"a","query":"b"}"#,
            "expected a JSON object: key `query` stands twice at column 25",
        ),
        (r#"{"query":"#, "expected a JSON object: EOF while parsing a value"),
        (r#"["a"]"#, "expected a JSON object: invalid type: sequence, expected an object"),
    ];
    for (line, fault) in cases {
        let good = r#"{"query":"a","product_title":"b","relevance_label":true}"#;
        let path = dir.file("a.jsonl", format!("{good}\n{line}\n{good}\n"));
        let error = pairs(path.clone(), &ReadOptions::default()).unwrap_err();
        assert_eq!(dir.message(&error), format!("`a.jsonl` line 2: {fault}"));
        let (rows, skipped) = pairs(path, &skipping()).unwrap();
        assert_eq!((rows.len(), skipped.count), (2, 1));
    }
}

#[test]
fn ids_keep_the_digits_they_are_written_with() {
    let dir = Dir::new();
    let long = "123456789012345678901234567890";
    let jsonl = format!("{{\"product_title\":\"a\",\"id\":{long},\"price\":1.50}}\n");
    let products = read_products(&[dir.file("a.jsonl", jsonl)], &ReadOptions::default()).unwrap();
    let (products, _) = products.read_all().unwrap();
    assert_eq!(products[0].id.as_deref(), Some(long));
    assert_eq!(others(&products[0]), "0=1.50");
}

#[test]
fn several_catalogues_share_one_list_of_other_columns() {
    let dir = Dir::new();
    let files = [
        dir.file("a.csv", "id,product_title,brand\n1,Kettle,Acme\n"),
        dir.file("b.csv.gz", "price,product_title,brand\n9.99,Lamp,\n"),
        dir.file("c.jsonl", "{\"product_title\":\"Tv\",\"sizes\":[55],\"brand\":null}\n"),
    ];
    let products = read_products(&files, &ReadOptions::default()).unwrap();
    assert_eq!(products.other_columns(), ["brand", "price", "sizes"]);
    let (products, _) = products.read_all().unwrap();
    let other: Vec<_> = products.iter().map(others).collect();
    assert_eq!(other, [r#"0="Acme""#, r#"1="9.99""#, "2=[55]"]);
    let places: Vec<_> = products.iter().map(|product| (product.file_idx, product.line)).collect();
    assert_eq!(places, [(0, 2), (1, 2), (2, 1)]);
}

#[test]
fn the_columns_of_jsonl_are_those_of_all_its_lines() {
    let dir = Dir::new();
    let jsonl = r#"{"product_title":"Kettle","price":9.50}
{"colour":"red","product_title":"Mug","price":"ask","sku":7,"in_stock":true,"gift":null}
{"product_title":"Lamp","tags":["a", 1],"colour":""}
"#;
    let path = dir.file("a.jsonl", jsonl);
    let later = dir.file("b.csv", "product_title,price,size\nHose,1,XL\n");
    let mut products = read_products(&[path.clone(), later], &ReadOptions::default()).unwrap();
    let found: Vec<Product> = products.by_ref().collect::<Result<_, _>>().unwrap();
    let columns = ["price", "size", "colour", "sku", "in_stock", "gift", "tags"];
    assert_eq!(products.other_columns(), columns);
    let other: Vec<_> = found.iter().map(others).collect();
    let want = ["0=9.50", r#"0="ask" 2="red" 3=7 4=true"#, r#"6=["a", 1]"#, r#"0="1" 1="XL""#];
    assert_eq!(other, want);

    // An optional column may come late too; that it never comes is told at the end.
    let ids = |option: &str| -> Result<Vec<Option<String>>, ReadError> {
        let products = read_products(std::slice::from_ref(&path), &named(&[option])).unwrap();
        let (products, _) = products.read_all()?;
        Ok(products.into_iter().map(|product| product.id).collect())
    };
    assert_eq!(ids("id=sku").unwrap(), [None, Some("7".to_owned()), None]);
    let message = dir.message(&ids("id=asin").unwrap_err());
    assert!(message.starts_with("`a.jsonl` has no column `asin`; it has: product_title, price, "));
}

#[test]
fn a_first_line_without_a_needed_column_is_a_bad_row_among_others_where_rows_are_skipped() {
    let dir = Dir::new();
    let good = r#"{"query":"a","product_title":"b","relevance_label":1}"#;
    let path = dir.file("a.jsonl", format!("{{\"query\":\"a\"}}\n{good}\n"));
    let error = pairs(path.clone(), &ReadOptions::default()).unwrap_err();
    assert_eq!(dir.message(&error), "`a.jsonl` has no column `product_title`; it has: query");
    let (rows, skipped) = pairs(path, &skipping()).unwrap();
    assert_eq!((rows.len(), skipped.count), (1, 1));
    // Where no line has it, the rows are not to blame.
    let path = dir.file("a.jsonl", "{\"query\":\"a\"}\n{\"query\":\"b\"}\n");
    let error = pairs(path, &skipping()).unwrap_err();
    assert_eq!(dir.message(&error), "`a.jsonl` has no column `product_title`; it has: query");
}

#[test]
fn an_object_without_keys_is_a_row_without_values() {
    let dir = Dir::new();
    let good = r#"{"query":"a","product_title":"b","relevance_label":1}"#;
    let path = dir.file("a.jsonl", format!("{{}}\n{good}\n"));
    let error = pairs(path.clone(), &ReadOptions::default()).unwrap_err();
    assert_eq!(dir.message(&error), "`a.jsonl` line 1: expected a value of `query`, found none");
    let (rows, skipped) = pairs(path, &skipping()).unwrap();
    assert_eq!((rows.len(), skipped.count), (1, 1));
}

#[test]
fn jsonl_whose_keys_never_repeat_is_no_table() {
    let dir = Dir::new();
    let line = |n: usize| format!("{{\"product_title\":\"a\",\"key {n}\":1}}\n");
    let jsonl: String = (0..4200).map(line).collect();
    let path = dir.file("a.jsonl", jsonl);
    let error = read_products(std::slice::from_ref(&path), &ReadOptions::default());
    let error = error.unwrap().read_all().unwrap_err();
    assert_eq!(
        dir.message(&error),
        "`a.jsonl` line 4096: key `key 4095` would be a column more than the 4096 that the file \
         may have"
    );
    // Keys that nobody asked for are no columns.
    let texts = read_texts(&[path], "product_title", &ReadOptions::default()).unwrap();
    assert_eq!(texts.count(), 4200);
}

#[test]
fn of_two_columns_with_one_name_the_first_is_read() {
    let dir = Dir::new();
    let csv = "product_title,price,price\nKettle,1,2\n";
    let products = read_products(&[dir.file("a.csv", csv)], &ReadOptions::default()).unwrap();
    assert_eq!(products.other_columns(), ["price"]);
    assert_eq!(others(&products.read_all().unwrap().0[0]), r#"0="1""#);
}

#[test]
fn a_fault_in_the_last_file_is_told_before_the_first_row() {
    let dir = Dir::new();
    let files = [dir.file("a.csv", CSV), dir.file("b.csv", "query,title\na,b\n")];
    let error = read_pairs(&files, &ReadOptions::default()).err().unwrap();
    assert_eq!(dir.message(&error), "`b.csv` has no column `product_title`; it has: query, title");
}

#[test]
fn a_product_needs_a_title_and_a_text_does_not() {
    let dir = Dir::new();
    let path = dir.file("a.csv", "product_title,id\n\"\",1\n");
    let error =
        read_products(std::slice::from_ref(&path), &ReadOptions::default()).unwrap().read_all();
    assert_eq!(
        dir.message(&error.unwrap_err()),
        "`a.csv` line 2: expected text in `product_title`, found none"
    );
    let texts = read_texts(&[path], "product_title", &ReadOptions::default()).unwrap();
    assert_eq!(texts.read_all().unwrap().0[0].text, "");
}

#[test]
fn nothing_to_read_is_an_error() {
    let dir = Dir::new();
    let header = "query,product_title,relevance_label\n";
    for (name, content) in [("a.csv", ""), ("a.csv", "\n\n"), ("a.csv", header), ("a.jsonl", "\n")]
    {
        let error = pairs(dir.file(name, content), &ReadOptions::default()).unwrap_err();
        assert_eq!(dir.message(&error), format!("`{name}` holds no rows"));
    }
    // One empty part of several is how some engines write; all empty is a mistake.
    let files = [dir.file("a.csv", header), dir.file("b.csv", CSV)];
    assert_eq!(read_pairs(&files, &ReadOptions::default()).unwrap().count(), 2);
    let files = [dir.file("a.csv", header), dir.file("b.csv", header)];
    let error = read_pairs(&files, &ReadOptions::default()).unwrap().read_all().unwrap_err();
    assert_eq!(dir.message(&error), "`a.csv` and 1 more hold no rows");

    let path = dir.file("a.csv", format!("{header}a,b,5\na,b,6\n"));
    let error = pairs(path, &skipping()).unwrap_err();
    assert_eq!(
        dir.message(&error),
        "`a.csv` holds no row that can be used: 2 skipped, the first because \
         `a.csv` line 2: `relevance_label` is `5`, expected a number from 0 to 1"
    );
}

#[test]
fn only_the_first_few_skipped_rows_are_told() {
    let dir = Dir::new();
    let csv = format!("{CSV}{}", "a,b,9,,\n".repeat(1000));
    let (rows, skipped) = pairs(dir.file("a.csv", csv), &skipping()).unwrap();
    assert_eq!((rows.len(), skipped.count, skipped.first.len()), (2, 1000, 5));
}

#[test]
fn a_file_that_is_no_data_file_says_so() {
    let dir = Dir::new();
    let error = pairs(dir.file("a.xlsx", ""), &ReadOptions::default()).unwrap_err();
    assert_eq!(dir.message(&error), "cannot tell the format of `a.xlsx` from its name");
    assert!(error.hint().unwrap().contains("`.parquet`"));

    std::fs::create_dir(dir.0.path().join("b.csv")).unwrap();
    let error = pairs(dir.0.path().join("b.csv"), &ReadOptions::default()).unwrap_err();
    assert_eq!(dir.message(&error), "`b.csv` is a folder, expected a file");

    let error = pairs(dir.0.path().join("c.csv"), &ReadOptions::default()).unwrap_err();
    assert_eq!(dir.message(&error), "cannot open `c.csv`");

    let twice = dir.file("d.csv", "query,product_title,relevance_label,query\na,b,1,c\n");
    let error = pairs(twice, &ReadOptions::default()).unwrap_err();
    assert_eq!(dir.message(&error), "`d.csv` has two columns `query`");
}

#[test]
fn reading_ends_after_an_error() {
    let dir = Dir::new();
    let path = dir.file("a.csv", "query,product_title,relevance_label\na,b,7\na,b,1\n");
    let mut rows = read_pairs(&[path], &ReadOptions::default()).unwrap();
    assert!(rows.next().unwrap().is_err());
    assert!(rows.next().is_none());
}
