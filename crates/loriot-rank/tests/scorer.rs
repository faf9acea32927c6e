//! Fitting, scoring, and the file: what a caller sees.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use loriot_files::Hint;
use loriot_rank::{FitError, FitList, Fitted, List, MadeFor, Scorer, Spread, Threshold, fit};
use serde_json::{Value, json};
use std::path::PathBuf;

const TITLES: [&str; 4] = ["red kettle", "steel kettle with lid", "red towel", "lamp"];
const LIKENESS: [Option<f64>; 4] = [Some(0.4), Some(0.5), Some(0.1), Some(0.2)];

fn made_for() -> MadeFor {
    MadeFor { encoder: "ab".repeat(32), query_prompt: String::new() }
}

/// Thirty lists of kettles in which the cosine misleads and the product word does not; list by list the labels
/// are higher or lower.
struct Lists {
    cosines: Vec<[f64; 4]>,
    targets: Vec<[f64; 4]>,
}

impl Lists {
    fn new() -> Lists {
        let wave = |at: usize| (at as f64 * 1.7).sin() / 20.0;
        let cosines = (0..30).map(|at| std::array::from_fn(|row| 0.3 + wave(4 * at + row)));
        let of_list = |at: usize| if at.is_multiple_of(2) { 0.2 } else { 0.0 };
        let targets = (0..30)
            .map(|at| std::array::from_fn(|row| of_list(at) + if row < 2 { 0.7 } else { 0.1 }));
        Lists { cosines: cosines.collect(), targets: targets.collect() }
    }

    fn fit(&self, spread: Spread) -> Result<Fitted, FitError> {
        let list = |at: usize| FitList { list: self.list(at), targets: &self.targets[at] };
        let lists: Vec<_> = (0..self.cosines.len()).map(list).collect();
        fit(&lists, TITLES, made_for(), spread)
    }

    fn list(&self, at: usize) -> List<'_> {
        List { query: "kettle", titles: &TITLES, cosines: &self.cosines[at], likeness: &LIKENESS }
    }
}

fn scorer() -> Scorer {
    Lists::new().fit(Spread::Pooled).unwrap().scorer
}

#[test]
fn the_scorer_learns_what_the_cosine_does_not_show() {
    let lists = Lists::new();
    for spread in [Spread::Pooled, Spread::WithinLists] {
        let fitted = lists.fit(spread).unwrap();
        assert_eq!(fitted.n_rows, 120);
        let mut scorer = fitted.scorer;
        for at in 0..30 {
            let scores = scorer.scores(&lists.list(at));
            assert!(scores[0].min(scores[1]) > scores[2].max(scores[3]) + 0.4, "{scores:?}");
        }
        // The score estimates the label, whose mean is a half.
        let all = (0..30).flat_map(|at| scorer.scores(&lists.list(at)));
        assert!((all.sum::<f64>() / 120.0 - 0.5).abs() < 1e-6);
        // Without strength the order is the cosine's.
        scorer.strength = 0.0;
        for at in 0..30 {
            let (scores, cosines) = (scorer.scores(&lists.list(at)), lists.cosines[at]);
            for (a, b) in [(0, 1), (1, 2), (2, 3), (0, 3)] {
                assert_eq!(scores[a] > scores[b], cosines[a] > cosines[b]);
            }
        }
    }
}

#[test]
fn strength_mixes_the_two_estimates() {
    let (mut scorer, lists) = (scorer(), Lists::new());
    let estimates = scorer.estimates(&lists.list(0));
    scorer.strength = 0.25;
    for (score, both) in scorer.scores(&lists.list(0)).into_iter().zip(estimates) {
        assert!((score - (0.75 * both.cosine + 0.25 * both.features)).abs() < 1e-12);
    }
}

#[test]
fn lists_that_tell_nothing_are_refused() {
    let mut lists = Lists::new();
    lists.cosines.truncate(4);
    assert_eq!(lists.fit(Spread::Pooled).unwrap_err(), FitError::TooFewLists(4));
    let mut lists = Lists::new();
    lists.targets.iter_mut().zip(0..).for_each(|(targets, at)| *targets = [f64::from(at % 2); 4]);
    assert!(lists.fit(Spread::Pooled).is_ok());
    let error = lists.fit(Spread::WithinLists).unwrap_err();
    assert_eq!(error.to_string(), "in no list to fit on two rows have different labels");
    lists.targets.iter_mut().for_each(|targets| *targets = [1.0; 4]);
    let error = lists.fit(Spread::Pooled).unwrap_err();
    assert_eq!(error.to_string(), "all rows to fit on have one label");
    assert!(error.hint().is_some());
}

#[test]
fn a_scorer_is_read_as_it_was_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("scorer.json");
    let mut scorer = scorer();
    scorer.strength = 0.75;
    scorer.threshold = Some(Threshold { precision: 0.9, score: 0.61 });
    scorer.write(&path).unwrap();
    assert_eq!(Scorer::open(&path).unwrap(), scorer);
    scorer.check_encoder(&path, &made_for()).unwrap();
    let other = MadeFor { query_prompt: "query: ".into(), ..made_for() };
    let error = scorer.check_encoder(&path, &other).unwrap_err().to_string();
    assert!(
        error.contains("another encoder: its query prompt is ``, here it is `query: `"),
        "{error}"
    );
}

/// A file of version 1, kept as it was when that version came.
#[test]
fn version_1_is_read() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/formats/scorer_v1.json");
    let scorer = Scorer::open(&path).unwrap();
    assert_eq!(scorer.strength, 0.5);
    let lists = Lists::new();
    let scores = scorer.scores(&lists.list(0));
    // Half of 0.35 from the cosine, half of 1.0461: five features at +0.1, likeness +0.05, length -0.0039.
    assert!((scores[0] - 0.698_028).abs() < 1e-5, "{scores:?}");
}

#[test]
fn hostile_files_are_refused_with_a_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("scorer.json");
    scorer().write(&path).unwrap();
    let good: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let refusal = |text: &str| {
        std::fs::write(&path, text).unwrap();
        let error = Scorer::open(&path).unwrap_err();
        assert!(error.hint().is_some(), "{error}");
        error.to_string()
    };
    let with = |pointer: &str, value: Value| {
        let mut changed = good.clone();
        *changed.pointer_mut(pointer).unwrap() = value;
        refusal(&changed.to_string())
    };
    for (pointer, value, want) in [
        ("/format", json!("other"), "`format` is `other`, expected `loriot scorer`"),
        ("/version", json!(2), "has format version 2, expected 1"),
        ("/strength", json!(1.5), "`strength` is 1.5, expected a number from 0 to 1"),
        ("/from_cosine", json!([0.0, -1.0]), "a slope of -1, expected a slope above 0"),
        ("/from_cosine", json!([0.0]), "not the expected JSON"),
        ("/features/0/scale", json!(-1.0), "`scale` is -1"),
        ("/features/0/scale", json!(1e-300), "`scale` is 0.0"),
        ("/features/0/weight", json!(1e300), "expected numbers up to a million"),
        ("/features/1/name", json!("x".repeat(1000)), "`features` is cosine, xxx"),
        ("/features", json!([]), "`features` is , expected"),
        ("/words/kettle", json!(5), "`words` is 5 for `kettle`, expected 1 to `n_titles`"),
        ("/words/kettle", json!(0), "`words` is 0 for `kettle`"),
        ("/words/kettle", json!(-1), "not the expected JSON"),
        ("/intercept", json!("x"), "not the expected JSON"),
    ] {
        let error = with(pointer, value);
        assert!(error.contains(want), "{pointer}: {error}");
    }
    for text in ["", "{", "[]", "null", "{\"format\":\"loriot scorer\",\"version\":1}"] {
        refusal(text);
    }
    let infinite = good.to_string().replace("\"strength\":1.0", "\"strength\":1e999");
    assert_ne!(infinite, good.to_string());
    refusal(&infinite);
    // Every cut, and every byte changed: an error or a scorer, never a panic.
    let bytes = good.to_string().into_bytes();
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 0x11;
        for hostile in [&bytes[..at], &changed[..]] {
            std::fs::write(&path, hostile).unwrap();
            if let Ok(scorer) = Scorer::open(&path) {
                let scores = scorer.scores(&Lists::new().list(0));
                assert!(scores.iter().all(|score| score.is_finite()));
            }
        }
    }
}

#[test]
fn a_file_beyond_the_limit_is_not_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("scorer.json");
    std::fs::File::create(&path).unwrap().set_len((64 << 20) + 1).unwrap();
    let error = Scorer::open(&path).unwrap_err().to_string();
    assert!(error.contains("more than the 67108864"), "{error}");
}
