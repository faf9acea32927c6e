//! What shoppers get: lists in order, whole catalogues, and the scorer on top.

#![allow(clippy::unwrap_used, reason = "a test helper's failure is the test's")]

mod support;

use serde_json::Value;
use support::Dir;

const THINGS: [&str; 8] =
    ["kettle", "lamp", "towel", "sofa", "drill", "mirror", "carpet", "ladder"];
const COLOURS: [&str; 5] = ["red", "blue", "green", "white", "black"];

/// A list of five titles for each colour and thing: right are the two of that thing.
fn rows(n_lists: usize) -> String {
    let mut text = "query,product_title,relevance_label\n".to_owned();
    for list in 0..n_lists {
        let (thing, colour) = (list % THINGS.len(), COLOURS[list % COLOURS.len()]);
        for row in 0..5 {
            let is_right = row < 2;
            let named = if is_right { thing } else { thing + row };
            let (named, other) = (THINGS[named % THINGS.len()], COLOURS[(list + row) % 5]);
            let label = u8::from(is_right);
            text += &format!(
                "{colour} {thing},{other} {named} no {row},{label}\n",
                thing = THINGS[thing]
            );
        }
    }
    text
}

fn lists() -> Dir {
    let dir = Dir::with_rows(40);
    dir.write("lists.csv", rows(40));
    dir.write("others.csv", rows(24));
    dir
}

const CALIBRATE: &str = "calibrate --model MODEL --train lists.csv --eval others.csv";

fn number(value: &Value, path: &str) -> f64 {
    value.pointer(path).unwrap().as_f64().unwrap()
}

#[test]
fn a_scorer_is_fitted_measured_and_searched_with() {
    let dir = lists();
    let fitted = format!("{CALIBRATE} --output scorer.json --min-precision 0.9");
    let done = dir.loriot(&format!("{fitted} --json")).ok().json();
    assert!(number(&done, "/roc_auc_per_query") > 0.95, "the thing is in the title: {done}");
    assert!(number(&done, "/difference/roc_auc_per_query") > 0.1, "a random encoder: {done}");
    assert_eq!(done["verdict"], "shoppers_gain");
    assert_eq!(done["scorer"]["tried"].as_array().unwrap().len(), 5);
    assert!(number(&done, "/scorer/strength") > 0.0);
    assert!(number(&done, "/scorer/threshold/precision") >= 0.9);

    // The same figures from the file alone, the cosine's beside them.
    let eval = "eval --model MODEL --data others.csv --bootstrap 100";
    let measured = dir.loriot(&format!("{eval} --scorer scorer.json --json")).ok().json();
    let alone = dir.loriot(&format!("{eval} --json")).ok().json();
    assert_eq!(measured["roc_auc"], done["roc_auc"]);
    assert_eq!(measured["base"]["roc_auc"], alone["roc_auc"]);
    let text = dir.loriot(&format!("{eval} --scorer scorer.json")).ok().stdout;
    assert!(text.contains("\nverdict: shoppers gain\n"), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");

    dir.write("shop.csv", "product_title\nred kettle no 0\nblue lamp no 1\ngreen sofa no 2\n");
    dir.loriot("index --model MODEL --input shop.csv --output shop").ok();
    dir.write("queries.txt", "lamp\n");
    let search = |more: &str| {
        let input = std::fs::File::open(dir.path("queries.txt")).unwrap();
        let output = dir.command(&format!("search shop {more}")).stdin(input).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let answer: Value = serde_json::from_str(&search("--scorer scorer.json --json")).unwrap();
    let results = answer["results"].as_array().unwrap();
    assert_eq!(results.len(), 3);
    assert_eq!(results[0]["product_title"], "blue lamp no 1", "{answer}");
    let relevance = |at: usize| results[at]["relevance"].as_f64().unwrap();
    assert!(relevance(0) > relevance(1) && relevance(1) >= relevance(2), "{answer}");
    let score = &number(&answer, "/results/0/relevance");
    let above = search(&format!("--scorer scorer.json --threshold {} -k 2", score - 0.01));
    assert_eq!(above.matches("product='blue lamp no 1' relevance=").count(), 1, "{above}");
    assert_eq!(above.matches("product=").count(), 1, "the threshold is the score's: {above}");
    assert!(!search("").contains("relevance="), "without a scorer there is none");
}

#[test]
fn a_scorer_is_not_lost_and_not_used_with_another_encoder() {
    let dir = lists();
    dir.loriot(&format!("{CALIBRATE} --output scorer.json --within-lists")).ok();
    let before = std::fs::read(dir.path("scorer.json")).unwrap();
    let again = dir.loriot(&format!("{CALIBRATE} --output scorer.json"));
    again.refused(1, "`scorer.json` exists", "");
    assert_eq!(std::fs::read(dir.path("scorer.json")).unwrap(), before);
    dir.loriot(&format!("{CALIBRATE} --output scorer.json --overwrite")).ok();
    assert_ne!(std::fs::read(dir.path("scorer.json")).unwrap(), before, "pooled, not within lists");

    let eval = "eval --model MODEL --data others.csv --bootstrap 0 --scorer scorer.json";
    let other = dir.loriot(&format!("{eval} --query-prompt find:"));
    other.refused(1, "its query prompt is ``, here it is `find:`", "loriot calibrate");
    let other = dir.loriot(&format!("{eval} --max-length 9"));
    other.refused(1, "was fitted over another encoder: its SHA-256", "loriot calibrate");
    dir.write("scorer.json", "{\"format\":\"loriot scorer\",\"version\":9}");
    dir.loriot(eval).refused(1, "has format version 9, expected 1", "loriot calibrate");
    let few = dir.loriot("calibrate --model MODEL --train few.csv --eval lists.csv --output x");
    few.refused(1, "few.csv", "");
    dir.write("few.csv", rows(4));
    let few = dir.loriot("calibrate --model MODEL --train few.csv --eval lists.csv --output x");
    few.refused(1, "a scorer is fitted on 5 lists at least, found 4", "judge more queries");
    assert!(!dir.names().contains(&"x".to_owned()), "nothing is left behind");
}

#[test]
fn a_whole_catalogue_is_searched_for_the_queries_of_the_rows() {
    let dir = lists();
    // Fewer titles than the 100 results of a search.
    dir.write("others.csv", rows(16));
    let eval = "eval --model MODEL --data others.csv --bootstrap 50";
    // Without a file: the titles of the rows.
    let own = dir.loriot(&format!("{eval} --catalogue --json")).ok().json();
    let text = rows(16);
    let n_titles = text.lines().skip(1).map(|row| row.split(',').nth(1).unwrap().to_owned());
    let n_titles = n_titles.collect::<std::collections::BTreeSet<_>>().len();
    assert_eq!(own["catalogue"]["titles"], n_titles);
    assert!(n_titles < 100, "{n_titles}");
    let recall = number(&own, "/catalogue/recall@10");
    assert!(recall <= number(&own, "/catalogue/recall@100") && recall > 0.0, "{own}");
    assert_eq!(number(&own, "/catalogue/recall@100"), 1.0, "every title is among the results");
    dir.write("shop.csv", "product_title\nred kettle no 0\nred kettle no 0\nnothing\n");
    let done = dir.loriot(&format!("{eval} --catalogue shop.csv --json")).ok();
    assert!(done.stderr.contains("right products are not in the catalogue"), "{}", done.stderr);
    let small = done.json();
    assert_eq!(small["catalogue"]["titles"], 2, "equal titles stand once");
    // Of the rows' queries those for a kettle have one of their two right products here.
    let recall = number(&small, "/catalogue/recall@10");
    assert!(recall > 0.0 && recall < 0.5, "{small}");

    let text = dir.loriot(&format!("{eval} --catalogue shop.csv")).ok().stdout;
    assert!(text.contains("\nwhole catalogue: 2 titles, "), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    dir.loriot(&format!("{eval} --catalogue --relevant-grade 3")).refused(
        2,
        "`--relevant-grade 3` is not on the labels' scale, 0:1",
        "as the file has it",
    );
    let alone = dir.loriot(&format!("{eval} --relevant-grade 1"));
    assert!(alone.code == Some(2) && alone.stderr.contains("--catalogue"), "{}", alone.stderr);
}

#[test]
fn rows_that_are_all_right_are_enough_for_a_catalogue() {
    let dir = lists();
    dir.write("names.csv", "query,product_title,relevance_label\nlamp,blue lamp,1\nsofa,sofa,1\n");
    let eval = "eval --model MODEL --data names.csv --bootstrap 10";
    dir.loriot(eval).refused(1, "ROC-AUC is undefined", "rows of both kinds");
    let done = dir.loriot(&format!("{eval} --catalogue --json")).ok();
    assert!(done.stderr.contains("all rows count alike"), "{}", done.stderr);
    assert_eq!(done.json()["catalogue"]["recall@10"], 1.0);
    assert!(done.json().get("roc_auc").is_none());
}

#[test]
fn word_overlap_base_and_adapter_stand_beside_each_other_with_a_verdict() {
    let dir = Dir::with_rows(160);
    dir.write("eval.csv", rows(40));
    dir.loriot("train --model MODEL --train train.csv --eval eval.csv --output run --epochs 1")
        .ok();
    let eval = "eval --model MODEL --adapter run --data eval.csv --bootstrap 100";
    let json = dir.loriot(&format!("{eval} --json")).ok().json();
    assert!(json["verdict"].is_string() && json["verdict_sentence"].is_string(), "{json}");
    assert_eq!(json["word_overlap"]["roc_auc"], json["word_overlap_roc_auc"]);
    for metric in ["roc_auc", "roc_auc_per_query", "concordance", "concordance_unlike"] {
        for place in ["/word_overlap/", "/base/", "/difference/", "/difference/intervals/", "/"] {
            assert!(
                !json.pointer(&format!("{place}{metric}")).unwrap().is_null(),
                "{place}{metric}"
            );
        }
    }
    assert!(json.get("ceiling").is_none(), "nothing was judged twice");
    let text = dir.loriot(eval).ok().stdout;
    let sentence = json["verdict_sentence"].as_str().unwrap();
    assert!(text.contains(&format!("\nverdict: {sentence}\n")), "{text}");
    assert!(text.contains("\nconcordance_unlike  "), "{text}");
}
