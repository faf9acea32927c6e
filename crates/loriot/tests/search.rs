//! Embedding, indexing and searching as the user sees them, on the tiny model.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;
use support::{Dir, Done};

const PRODUCTS: &str = "sku,name,colour\n\
                        a1,Red kettle,red\n\
                        a2,\"Blue kettle, 1.7 l\",blue\n\
                        a3,Garden hose 20 m,\n\
                        a1,Red kettle again,red\n\
                        ,Desk lamp,white\n\
                        ,Desk lamp,white\n";
const INDEX: &str = "index --model MODEL --input products.csv --column product_title=name \
                     --column id=sku --output shop";

/// A folder with `products.csv` and the catalogue `shop`.
fn shop(extra: &str) -> Dir {
    let dir = Dir::with_rows(8);
    dir.write("products.csv", PRODUCTS);
    dir.loriot(&format!("{INDEX} {extra}")).ok();
    dir
}

/// `loriot <arguments> <query>`, the query in one piece.
fn search(dir: &Dir, arguments: &str, query: &str) -> Done {
    finished(dir.command(arguments).arg(query).stdin(Stdio::null()).output().unwrap())
}

/// `loriot <arguments>` with `lines` on stdin.
fn search_lines(dir: &Dir, arguments: &str, lines: &[u8]) -> Done {
    let mut command = dir.command(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(lines).unwrap();
    finished(child.wait_with_output().unwrap())
}

fn finished(output: std::process::Output) -> Done {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Done { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

#[test]
fn each_product_is_indexed_once_and_found_by_its_own_title() {
    let dir = Dir::with_rows(8);
    dir.write("products.csv", PRODUCTS);
    let built = dir.loriot(&format!("{INDEX} --json")).ok();
    let json = built.json();
    assert_eq!((&json["n_products"], &json["n_repeated"]), (&json!(4), &json!(2)));
    assert_eq!(json["index"], json!({"kind": "exact"}));
    assert!(built.stderr.contains("Indexed 4 products (2 repeated ones left out)"));
    assert_eq!(dir.names(), ["eval.csv", "products.csv", "shop", "train.csv"]);

    let found = search(&dir, "search shop -k 2 --json", "Blue kettle, 1.7 l").ok().json();
    assert_eq!(found["query"], "Blue kettle, 1.7 l");
    let first = &found["results"][0];
    assert_eq!((&first["rank"], &first["id"]), (&json!(1), &json!("a2")));
    assert_eq!(first["fields"], json!({"colour": "blue"}));
    assert!((first["score"].as_f64().unwrap() - 1.0).abs() < 1e-5);
    assert_eq!(found["results"].as_array().unwrap().len(), 2);

    let line = search(&dir, "search shop -k 1", "Red kettle").ok().stdout;
    assert_eq!(line, "cosine_sim_score=1.00 product='Red kettle'\n");
}

#[test]
fn fields_keep_their_types_and_come_from_every_line() {
    let dir = Dir::with_rows(8);
    let products = r#"{"id":1,"product_title":"Red kettle","price":19.50}
{"id":2,"product_title":"Desk lamp","price":"on request","in_stock":true,"tags":["a",1],"gift":null}
"#;
    dir.write("products.jsonl", products);
    dir.loriot("index --model MODEL --input products.jsonl --output shop").ok();
    let printed = search(&dir, "search shop -k 1 --json", "Red kettle").ok().stdout;
    assert!(printed.contains(r#""fields":{"price":19.50}"#), "{printed}");
    let printed = search(&dir, "search shop -k 1 --json", "Desk lamp").ok().stdout;
    let want = r#""fields":{"price":"on request","in_stock":true,"tags":["a",1]}"#;
    assert!(printed.contains(want), "{printed}");
}

#[test]
fn a_graph_and_exact_search_print_the_same() {
    let dir = shop("--kind hnsw --connectivity 16");
    let by_graph = search(&dir, "search shop --json --verify", "kettle").ok().stdout;
    let exact = search(&dir, "search shop --json --exact", "kettle").ok().stdout;
    assert_eq!(by_graph, exact);
    let manifest: Value =
        serde_json::from_slice(&std::fs::read(dir.path("shop/catalogue.json")).unwrap()).unwrap();
    assert_eq!(manifest["index"]["connectivity"], 16);
    assert_eq!(manifest["index"]["recall_at_10"], 1.0);
}

#[test]
fn each_line_of_stdin_is_a_query() {
    let dir = shop("");
    let both =
        search_lines(&dir, "search shop -k 1 --json", b"Red kettle\n\n  Desk lamp \r\n").ok();
    let lines: Vec<Value> =
        both.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[0]["results"][0]["id"], "a1");
    assert_eq!(lines[1]["query"], "Desk lamp");
    assert_eq!(lines[1]["results"][0]["id"], "row:3", "no id: made of the row in the catalogue");
    let text = search_lines(&dir, "search shop -k 1", b"Red kettle").ok().stdout;
    assert_eq!(text, "query='Red kettle'\ncosine_sim_score=1.00 product='Red kettle'\n");
    let bad = search_lines(&dir, "search shop -k 1", b"Red kettle\n\xff\n");
    assert_eq!(bad.stdout, text, "what came before the bad line is answered");
    let bad = search_lines(&dir, "search shop -k 1", b"\n\xff\n");
    bad.refused(1, "stdin line 2 is not UTF-8 text", "");
    let blank = search_lines(&dir, "search shop -k 1", b" \n\n").ok();
    assert_eq!((&*blank.stdout, blank.stderr.lines().count()), ("", 1), "{}", blank.stderr);
    for query in ["", " \t"] {
        search(&dir, "search shop", query).refused(2, "the query is empty", "give the words");
    }
}

/// The next line is only written when this one is answered: without an answer the test would wait for ever.
#[test]
fn a_line_is_answered_before_the_next_one_comes() {
    let dir = shop("");
    for (arguments, n_lines) in [("search shop -k 1 --json", 1), ("search shop -k 1", 2)] {
        let mut command = dir.command(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let (send, answers) = std::sync::mpsc::channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let reader = std::thread::spawn(move || {
            stdout.lines().for_each(|line| send.send(line.unwrap()).unwrap());
        });
        for query in ["Red kettle", "Desk lamp"] {
            writeln!(stdin, "\n{query}\n").unwrap();
            let answer: Vec<String> = (0..n_lines)
                .map(|_| answers.recv_timeout(std::time::Duration::from_secs(120)).unwrap())
                .collect();
            let answer = answer.join("\n");
            assert_eq!(answer.matches(query).count(), 2, "question and answer: {answer}");
        }
        drop(stdin);
        assert!(child.wait().unwrap().success());
        reader.join().unwrap();
    }
}

#[test]
fn a_file_of_queries_is_answered_in_its_order() {
    let dir = shop("");
    let queries: Vec<String> = (0..700).map(|at| format!("kettle {at}")).collect();
    let done = search_lines(&dir, "search shop -k 1 --json", queries.join("\n").as_bytes()).ok();
    let answered = done.stdout.lines().map(|line| {
        let answer: Value = serde_json::from_str(line).unwrap();
        answer["query"].as_str().unwrap().to_owned()
    });
    assert!(answered.eq(queries));
}

#[test]
fn chosen_columns_follow_the_line_of_the_reference() {
    let dir = shop("");
    let line = search(&dir, "search shop -k 1 --columns rank,id,colour", "Blue kettle, 1.7 l");
    let want = "cosine_sim_score=1.00 product='Blue kettle, 1.7 l' rank=1 id=a2 colour=blue\n";
    assert_eq!(line.ok().stdout, want);
    dir.write("all.toml", "model = \"elsewhere\"\n[search]\nk = 1\ncolumns = [\"id\"]\n");
    let configured = "search shop --config all.toml --model MODEL";
    let line = search(&dir, configured, "Red kettle").ok().stdout;
    assert_eq!(line, "cosine_sim_score=1.00 product='Red kettle' id=a1\n");
    let wrong = search(&dir, "search shop --columns rank,prise", "kettle");
    wrong.refused(2, "no column `prise`", "there is: rank, id, score, colour");
}

#[test]
fn no_title_and_no_query_acts_on_the_terminal() {
    let dir = Dir::with_rows(8);
    let title = "Red\u{202e}elttek\u{2066}\u{1b}[31m\u{9b}2J\u{200f}";
    let rows = json!({"id": "a\u{202d}1", "product_title": title, "note": "x\u{2028}y"});
    dir.write("products.jsonl", rows.to_string());
    dir.loriot("index --model MODEL --input products.jsonl --output shop").ok();
    let acts = |text: &str| {
        text.contains(|c: char| {
            c != '\n' && c.is_control() || "\u{200f}\u{2028}\u{202d}\u{202e}\u{2066}".contains(c)
        })
    };
    let plain = search_lines(&dir, "search shop --columns id,note", title.as_bytes()).ok();
    assert!(
        !acts(&plain.stdout) && plain.stdout.contains("product='Red elttek  [31m 2J '"),
        "{}",
        plain.stdout
    );
    let json = search(&dir, "search shop --json", "kettle\u{202e}").ok();
    assert!(!acts(&json.stdout), "{}", json.stdout);
    let answer = json.json();
    assert_eq!(answer["results"][0]["product_title"], title, "JSON is exact");
    assert_eq!(
        (&answer["query"], &answer["results"][0]["id"]),
        (&json!("kettle\u{202e}"), &json!("a\u{202d}1"))
    );
    let none = search(&dir, "search shop --threshold 1.5", "kettle\u{202e}\u{1b}[2J").ok();
    assert!(none.stderr.contains("kettle  [2J") && !acts(&none.stderr), "{}", none.stderr);
    // An error that quotes a file.
    dir.write(
        "labels.csv",
        "query,product_title,relevance_label\nred,kettle,\u{202e}\u{1b}[31m7\n",
    );
    let bad = dir.loriot("eval --model MODEL --data labels.csv");
    bad.refused(1, "`labels.csv` line 2", "");
    assert!(!acts(&bad.stderr), "{}", bad.stderr);
}

#[test]
fn a_threshold_may_leave_nothing_and_says_so() {
    let dir = shop("");
    let none = search(&dir, "search shop --threshold 1.5 --json", "kettle").ok();
    assert_eq!(none.json()["results"], json!([]));
    let none = search(&dir, "search shop --threshold 1.5", "kettle").ok();
    assert_eq!(none.stdout, "");
    assert!(none.stderr.contains("no product's cosine with `kettle` reaches 1.5"));
}

#[test]
fn a_catalogue_is_searched_from_anywhere_with_the_encoder_that_made_it() {
    let dir = shop("--max-length 12 --document-prompt passage:");
    let other = Dir::with_rows(8);
    let path = dir.path("shop").display().to_string();
    let found = search(&other, &format!("search {path} -k 1"), "Red kettle").ok();
    assert!(found.stdout.contains("product='Red kettle'"), "{}", found.stdout);
    // The same encoder by name is welcome, another is not.
    search(&dir, "search shop --model MODEL", "Red kettle").ok();
    let longer = search(&dir, "search shop --max-length 20", "Red kettle");
    longer.refused(1, "the maximum length is 20 tokens, expected 12", "");
    let prompt = search(&dir, "search shop --document-prompt x", "Red kettle");
    prompt.refused(1, "the product prompt is `x`, expected `passage:`", "");
    let moved = search(&dir, "search shop --model nowhere/at-all/here", "Red kettle");
    assert_eq!(moved.code, Some(1));
}

#[test]
fn a_catalogue_is_searched_in_another_arithmetic_than_it_was_embedded_in() {
    let dir = shop("");
    for precision in ["f32", "bf16", "int8"] {
        let index = format!("{INDEX} --overwrite --json --precision {precision}");
        assert_eq!(dir.loriot(&index).ok().json()["precision"], precision);
        let manifest = std::fs::read(dir.path("shop/catalogue.json")).unwrap();
        let manifest: Value = serde_json::from_slice(&manifest).unwrap();
        assert_eq!(manifest["encoder"]["precision"], precision);
        for wanted in ["f32", "bf16", "int8"] {
            let found =
                search(&dir, &format!("search shop -k 1 --precision {wanted}"), "Red kettle");
            assert!(found.ok().stdout.contains("product='Red kettle'"), "{precision}, {wanted}");
        }
    }
    let wrong = search(&dir, "search shop --precision f16", "Red kettle");
    wrong.refused(2, "expected one of: f32, bf16, int8", "");
}

#[test]
fn an_existing_output_stays_unless_overwritten() {
    let dir = shop("");
    let before = dir.contents("shop");
    dir.loriot(INDEX).refused(1, "`shop` exists already", "--overwrite");
    assert_eq!(dir.contents("shop"), before);
    dir.loriot(&format!("{INDEX} --overwrite")).ok();
    assert_eq!(dir.contents("shop"), before, "the same input gives the same bytes");

    let embed = "embed --model MODEL --input train.csv --output v.npy";
    dir.loriot(embed).ok();
    dir.loriot(embed).refused(1, "`v.npy` exists already", "--overwrite");
    dir.loriot(&format!("{embed} --overwrite")).ok();
}

#[test]
fn a_damaged_catalogue_is_one_clear_sentence() {
    let dir = shop("--kind hnsw");
    let refused = |error: &str| search(&dir, "search shop", "kettle").refused(1, error, "");
    let cut = |name: &str| {
        let bytes = std::fs::read(dir.path(name)).unwrap();
        dir.write(name, &bytes[..bytes.len() - 5]);
        bytes
    };
    for name in ["shop/vectors", "shop/hnsw", "shop/products.parquet"] {
        let whole = cut(name);
        refused(&format!("`{name}` is {} bytes, expected {}", whole.len() - 5, whole.len()));
        dir.write(name, whole);
    }
    dir.write("shop/catalogue.json", "{}");
    refused("`shop/catalogue.json`");
    std::fs::remove_file(dir.path("shop/catalogue.json")).unwrap();
    refused("`shop` is no catalogue: it has no `catalogue.json`");
}

#[test]
fn every_format_holds_the_same_vectors_in_the_order_of_the_rows() {
    let dir = shop("");
    let embed = "embed --model MODEL --input products.csv --text-column name";
    for format in ["npy", "safetensors", "parquet"] {
        dir.loriot(&format!("{embed} --output v.{format}")).ok();
    }
    let read = |name: &str| std::fs::read(dir.path(name)).unwrap();
    let npy = read("v.npy")[128..].to_vec();
    assert!(read("v.safetensors").ends_with(&npy));
    let row_bytes = npy.len() / 6;
    let row = |row: usize| &npy[row * row_bytes..][..row_bytes];
    assert_eq!(row(4), row(5), "equal texts have equal vectors");
    // The catalogue has the first three products, then the first lamp.
    assert_eq!(read("shop/vectors")[64..], [&npy[..3 * row_bytes], row(4)].concat());

    let as_queries = format!("{embed} --output q.npy --as-queries --query-prompt query:");
    dir.loriot(&as_queries).ok();
    assert_ne!(read("q.npy")[128..], npy);
    dir.loriot(&format!("{embed} --output v.csv")).refused(1, "the format of `v.csv`", "");
}

/// A limit on the size of a file stands for a full disk, as in `stories.rs`.
#[cfg(unix)]
#[test]
fn a_full_disk_names_the_work_that_is_kept_and_the_same_command_goes_on() {
    let dir = Dir::with_rows(200);
    for (arguments, output) in [
        ("embed --model MODEL --input train.csv --output v.npy", "v.npy"),
        ("index --model MODEL --input train.csv --output shop", "shop"),
    ] {
        let command = dir.command(arguments);
        let mut limited = std::process::Command::new("sh");
        limited.args(["-c", "trap '' XFSZ; ulimit -f 36; exec \"$0\" \"$@\""]);
        limited.arg(command.get_program()).args(command.get_args());
        let done = finished(limited.current_dir(dir.path(".")).output().unwrap());
        let kept = format!("no space is left; `{output}.partial` keeps what is done");
        done.refused(1, &kept, &format!("Or delete `{output}.partial`"));
        assert!(dir.path(&format!("{output}.partial")).exists() && !dir.path(output).exists());
        dir.loriot(arguments).ok();
        assert!(!dir.path(&format!("{output}.partial")).exists());
    }
}

#[test]
fn wrong_usage_is_told_before_any_work() {
    let dir = shop("");
    for arguments in [
        "search shop kettle -k 0",
        "search shop kettle --ef 0",
        "search shop kettle --threshold nan",
        "search shop kettle --threshold inf",
        "search shop kettle --threshold=-inf",
        "eval --model MODEL --data eval.csv --positive-threshold nan",
        "train --model MODEL --train train.csv --eval eval.csv --output x --positive-threshold inf",
        "index --model MODEL --input products.csv --output x --connectivity 1",
        "index --model MODEL --input products.csv --output x --kind tree",
        "index --model MODEL --output x",
    ] {
        let done = dir.loriot(arguments);
        assert_eq!(done.code, Some(2), "{arguments}: {}", done.stderr);
    }
    let no_title = "index --model MODEL --input products.csv --output x";
    dir.loriot(no_title).refused(1, "`product_title`", "--column product_title=");
    assert!(!dir.path("x").exists() && !dir.path("x.partial").exists());
}

#[test]
fn ids_never_collide_and_a_new_title_under_an_old_id_is_said() {
    let dir = Dir::with_rows(8);
    let products = r#"{"id":"","product_title":"Red kettle"}
{"id":0,"product_title":"Blue mug"}
{"id":"","product_title":"Tin lamp"}
{"id":2,"product_title":"Oak chair"}
{"id":2,"product_title":"Pine table"}
"#;
    dir.write("products.jsonl", products);
    let index = "index --model MODEL --input products.jsonl --output shop --json";
    let built = dir.loriot(index).ok();
    assert_eq!(built.json()["n_repeated_with_another_title"], json!(1));
    let said = "  `products.jsonl` line 5: id `2` is `Pine table`; kept is `Oak chair` of \
                `products.jsonl` line 4";
    assert!(built.stderr.contains(said), "{}", built.stderr);
    let found = search(&dir, "search shop --json", "Red kettle").ok().json();
    let found = found["results"].as_array().unwrap();
    let mut ids: Vec<_> = found.iter().map(|found| found["id"].as_str().unwrap()).collect();
    ids.sort_unstable();
    assert_eq!(ids, ["0", "2", "row:0", "row:2"]);
}

#[test]
fn a_template_is_embedded_and_the_title_is_shown() {
    let dir = Dir::with_rows(8);
    dir.write("a.csv", "product_title;brand\nRed kettle;Acme\nBlue mug;\n");
    let index = "index --model MODEL --input a.csv --output shop --text-template";
    let mut command = dir.command(index);
    let built = finished(command.arg("{brand} {product_title}").output().unwrap()).ok();
    assert!(built.stderr.contains("has `;` and no `,`"), "{}", built.stderr);
    let manifest = std::fs::read_to_string(dir.path("shop/catalogue.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_str(&manifest).unwrap();
    assert_eq!(manifest["encoder"]["text_template"], "{brand} {product_title}");
    let first = |query: &str| {
        let found = search(&dir, "search shop -k 1 --json", query).ok().json();
        let first = &found["results"][0];
        assert!((first["score"].as_f64().unwrap() - 1.0).abs() < 1e-5, "{first}");
        first["product_title"].as_str().unwrap().to_owned()
    };
    assert_eq!(first("Acme Red kettle"), "Red kettle");
    assert_eq!(first("Blue mug"), "Blue mug");
}

#[test]
fn products_whose_texts_differ_are_all_indexed_though_their_titles_are_equal() {
    let dir = Dir::with_rows(8);
    dir.write(
        "a.jsonl",
        concat!(
            "{\"product_title\": \"Kettle\"}\n",
            "{\"product_title\": \"Kettle\", \"brand\": \"Acme\"}\n",
            "{\"product_title\": \"Kettle\", \"brand\": \"Bosch\"}\n",
            "{\"product_title\": \"Kettle\", \"brand\": \"Acme\"}\n",
            "{\"id\": 1, \"product_title\": \"Kettle\", \"brand\": \"Acme\"}\n",
            "{\"id\": 1, \"product_title\": \"Kettle\", \"brand\": \"Bosch\"}\n",
        ),
    );
    let index = "index --model MODEL --input a.jsonl --output shop --json --text-template";
    let built = finished(dir.command(index).arg("{product_title} {brand}").output().unwrap()).ok();
    let json = built.json();
    assert_eq!((&json["n_products"], &json["n_repeated"]), (&json!(4), &json!(2)));
    assert_eq!(json["n_repeated_with_another_title"], json!(1));
    let said =
        "`a.jsonl` line 6: id `1` is `Kettle Bosch`; kept is `Kettle Acme` of `a.jsonl` line 5";
    assert!(built.stderr.contains(said), "{}", built.stderr);
    let found = search(&dir, "search shop -k 1 --json", "Kettle Bosch").ok().json();
    assert_eq!(found["results"][0]["fields"]["brand"], "Bosch", "{found}");
}

#[test]
fn a_template_that_is_not_that_of_training_is_warned_of() {
    let dir = Dir::with_rows(8);
    dir.loriot(
        "train --model MODEL --train train.csv --eval eval.csv --output run --max-steps 1 \
         --text-template {product_title}",
    )
    .ok();
    let settings = std::fs::read_to_string(dir.path("run/loriot.json")).unwrap();
    let settings: Value = serde_json::from_str(&settings).unwrap();
    let on = json!({"text_template": "{product_title}", "label_scale": "0:1"});
    assert_eq!(settings["trained_on"], on);
    dir.loriot("merge --model MODEL --adapter run --output merged").ok();
    let said = "warning: the model was trained on products' texts of the template `{product_title}`, \
                and these are of one column";
    let model = ["--model MODEL --adapter run", "--model merged"];
    for (at, model) in model.into_iter().enumerate() {
        for (command, is_told) in [
            (format!("index {model} --input train.csv --output shop{at}"), true),
            (format!("search shop{at} kettle"), true),
            (format!("embed {model} --input train.csv --output v{at}.npy"), true),
            (format!("embed {model} --input train.csv --output q{at}.npy --as-queries"), false),
            (
                format!(
                    "embed {model} --input train.csv --output t{at}.npy --text-template {{product_title}}"
                ),
                false,
            ),
        ] {
            let done = dir.loriot(&command).ok();
            assert_eq!(done.stderr.contains(said), is_told, "{command}: {}", done.stderr);
        }
    }
}

#[test]
fn stdin_is_an_input_once() {
    let dir = Dir::with_rows(8);
    let index = "index --model MODEL --input - --output shop";
    let titles = search_lines(&dir, &format!("{index} --format txt"), b"Red kettle\n\nBlue mug\n");
    assert!(titles.ok().stderr.contains("Indexed 2 products"));
    let list = br#"[{"product_title":"Red kettle"}]"#;
    let listed = search_lines(&dir, &index.replace("shop", "list"), list).ok();
    assert!(listed.stderr.contains("Indexed 1 products"), "{}", listed.stderr);
    let twice = "train --model MODEL --train - --eval - --output run";
    let rows = b"query,product_title,relevance_label\na,b,1\na,c,0\n";
    search_lines(&dir, twice, rows).refused(1, "`-` is named twice", "as a file");
}
