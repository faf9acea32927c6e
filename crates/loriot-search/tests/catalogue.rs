//! A catalogue from outside: built, searched, damaged, replaced.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[cfg(target_os = "linux")]
#[path = "../../../tests/rust/crash.rs"]
mod crash;

use loriot_data::{Product, Spool, SpoolWriter, Value};
use loriot_encoder::Precision;
use loriot_files::{Hint, OutputError};
#[cfg(target_os = "linux")]
use loriot_files::{OutputLock, disk::Call};
use loriot_index::{HnswConfig, Identity, Isa, Row, Vectors};
use loriot_search::build::{BuildError, IndexChoice};
use loriot_search::embed::Embedder;
use loriot_search::*;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Places a text on the unit circle by its length.
struct Circle;

impl Embedder for Circle {
    fn dim(&self) -> usize {
        2
    }
    fn identity(&self) -> Identity {
        Identity([7; 32])
    }
    fn precision(&self) -> Precision {
        Precision::F32
    }
    fn embed(&self, texts: &[&str]) -> (Vec<f32>, u64) {
        let vector = |text: &&str| point(text.len());
        (texts.iter().flat_map(vector).collect(), texts.len() as u64)
    }
}

static NEVER: AtomicBool = AtomicBool::new(false);

fn point(length: usize) -> [f32; 2] {
    let angle = length as f32 * 0.05;
    [angle.cos(), angle.sin()]
}

fn encoder() -> EncoderRecord {
    EncoderRecord {
        identity: "07".repeat(32),
        base_identity: "08".repeat(32),
        model: "circle".into(),
        adapter: None,
        max_length: 70,
        query_prompt: String::new(),
        document_prompt: String::new(),
        precision: Some("f32".into()),
        computation: Some(loriot_encoder::Computation::default()),
        text_template: None,
        identity_v1: None,
    }
}

fn spooled(products: impl IntoIterator<Item = Product>) -> Spool {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = SpoolWriter::beside(&dir.path().join("shop")).unwrap();
    products.into_iter().for_each(|product| spool.push(&product).unwrap());
    spool.finish().unwrap()
}

/// 60 products whose titles are 1 to 60 letters long.
fn products() -> Products {
    products_of(1..=60)
}

/// Those whose titles are as long as these.
fn products_of(lengths: impl IntoIterator<Item = usize>) -> Products {
    let product = |length: usize| Product {
        id: Some(format!("sku-{length}")),
        product_title: "x".repeat(length),
        other: match length % 2 {
            0 => Vec::new(),
            _ => vec![(0, Value::Text("red".into())), (1, Value::Number(format!("{length}.50")))],
        },
        line: 0,
        file_idx: 0,
    };
    let rows = spooled(lengths.into_iter().map(product));
    Products { rows, other_columns: vec!["colour".into(), "price".into()] }
}

fn options(index: IndexChoice, overwrite: bool) -> BuildOptions {
    let hnsw = HnswConfig { connectivity: 8, ef_construction: 50 };
    BuildOptions { index, hnsw, overwrite, n_threads: 2, isa: Isa::best() }
}

fn build(dir: &Path, index: IndexChoice, overwrite: bool) -> Result<Manifest, BuildError> {
    build_products(dir, &products(), index, overwrite)
}

fn build_products(
    dir: &Path,
    products: &Products,
    index: IndexChoice,
    overwrite: bool,
) -> Result<Manifest, BuildError> {
    let embedded = embed_all(&Circle, &products.rows, &partial_dir(dir), &NEVER, |_| ()).unwrap();
    let options = options(index, overwrite);
    build_catalogue(dir, products, &embedded, encoder(), &options, &NEVER, |_| ())
}

fn open(dir: &Path) -> Result<Catalogue, CatalogueError> {
    Catalogue::open(dir, &OpenOptions { exact: false, n_threads: 1, isa: Isa::best() })
}

/// So few candidates that a graph of 60 products is walked: with more, every vector would be looked at.
const BEST_THREE: SearchOptions = SearchOptions { k: 3, ef: 3, threshold: None };

/// A folder with a catalogue in it, and the catalogue's path.
fn built(index: IndexChoice) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("shop");
    build(&path, index, false).unwrap();
    (dir, path)
}

#[test]
fn exact_and_graph_search_give_the_same_results() {
    for index in [IndexChoice::Exact, IndexChoice::Hnsw] {
        let (_dir, path) = built(index);
        let catalogue = open(&path).unwrap();
        catalogue.verify().unwrap();
        let queries_qd = [point(17), point(60)].concat();
        let results = catalogue.search(&queries_qd, &BEST_THREE).unwrap();
        let ids = |query: usize| results[query].iter().map(|found| &*found.id).collect::<Vec<_>>();
        assert_eq!(ids(0)[0], "sku-17");
        assert_eq!(ids(1), ["sku-60", "sku-59", "sku-58"]);
        let first = &results[0][0];
        assert_eq!((first.rank, &*first.product_title), (1, &*"x".repeat(17)));
        let colour = ("colour".to_owned(), Value::Text("red".into()));
        assert_eq!(first.fields, [colour, ("price".to_owned(), Value::Number("17.50".into()))]);
        assert!((first.score - 1.0).abs() < 1e-6 && first.score <= 1.0, "{}", first.score);
    }
}

#[test]
fn a_result_is_json_of_the_documented_form() {
    let (_dir, path) = built(IndexChoice::Auto);
    let results = open(&path).unwrap().search(&point(1), &BEST_THREE).unwrap();
    let value = serde_json::to_value(&results[0]).unwrap();
    let mut keys: Vec<_> = value[1].as_object().unwrap().keys().collect();
    keys.sort();
    assert_eq!(keys, ["id", "product_title", "rank", "score"]);
    assert_eq!(value[0]["fields"], json!({"colour": "red", "price": 1.5}));
    assert_eq!((&value[1]["rank"], &value[1]["id"]), (&json!(2), &json!("sku-2")));
}

#[test]
fn a_threshold_leaves_out_what_is_below_it_and_k_may_exceed_the_catalogue() {
    let (_dir, path) = built(IndexChoice::Exact);
    let catalogue = open(&path).unwrap();
    let search = |k, threshold| {
        let options = SearchOptions { k, ef: 1, threshold };
        catalogue.search(&point(1), &options).unwrap().remove(0).len()
    };
    assert_eq!(search(1_000, None), 60);
    assert_eq!(search(1_000, Some((0.05f32 * 9.5).cos())), 10);
    assert_eq!(search(1_000, Some(1.1)), 0);
    assert_eq!(search(0, None), 0);
}

#[test]
fn candidates_are_found_through_a_filter_and_read_afterwards() {
    for index in [IndexChoice::Exact, IndexChoice::Hnsw] {
        let (_dir, path) = built(index);
        let catalogue = open(&path).unwrap();
        let queries_qd = [point(17), point(60)].concat();
        let short = |key: ProductKey| key.0 < 50 && !key.0.is_multiple_of(2);
        let candidates = catalogue.candidates(&queries_qd, 2, 60, short);
        let keys = |query: usize| candidates[query].iter().map(|c| c.key.0).collect::<Vec<_>>();
        // The key of a new catalogue's product is its row: titles are one letter longer.
        assert_eq!(keys(1), [49, 47]);
        assert_eq!(keys(0).len(), 2);
        assert!(keys(0).iter().all(|key| [15, 17].contains(key)));
        let wanted = [candidates[1][1].key, candidates[1][0].key, candidates[1][1].key];
        let records = catalogue.records(&wanted).unwrap();
        let ids: Vec<&str> = records.iter().map(|record| &*record.id).collect();
        assert_eq!(ids, ["sku-48", "sku-50", "sku-48"]);

        assert_eq!(catalogue.candidates(&queries_qd, 3, 60, |_| false), [vec![], vec![]]);
        let error = catalogue.records(&[ProductKey(60)]).unwrap_err().to_string();
        assert!(error.ends_with("shop` has no product with the key 60"), "{error}");
    }
}

#[test]
fn a_product_keeps_its_key_when_others_are_gone() {
    let (_dir, path) = built(IndexChoice::Exact);
    let kept: Vec<Row> = (0..60).filter(|row| row % 3 == 0).map(Row).collect();
    let vectors = Vectors::open(&path.join("vectors")).unwrap();
    vectors.write_rows(&path.join("vectors"), &kept).unwrap();
    let few = products_of(kept.iter().map(|row| row.index() + 1));
    few.write(&path.join("products.parquet")).unwrap();
    edit_manifest(&path, |manifest| {
        manifest["n_products"] = json!(20);
        for name in ["vectors", "products.parquet"] {
            let length = std::fs::metadata(path.join(name)).unwrap().len();
            manifest["files"][name]["bytes"] = json!(length);
        }
    });
    let catalogue = open(&path).unwrap();
    let candidates = catalogue.candidates(&point(31), 1, 1, any_product).remove(0);
    assert_eq!(candidates[0].key, ProductKey(30));
    assert_eq!(catalogue.records(&[ProductKey(30)]).unwrap()[0].id, "sku-31");
    assert!(catalogue.records(&[ProductKey(31)]).is_err());
    assert_eq!(catalogue.search(&point(31), &BEST_THREE).unwrap()[0][0].id, "sku-31");
    assert_eq!(catalogue.manifest().next_key(), ProductKey(60));
}

/// Written by this file's `build` with `IndexChoice::Hnsw`, when the formats were at version 2.
#[test]
fn a_catalogue_of_version_2_still_opens() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/formats/catalogue_v2");
    let catalogue = open(&path).unwrap();
    catalogue.verify().unwrap();
    let results = catalogue.search(&point(60), &BEST_THREE).unwrap();
    let ids: Vec<&str> = results[0].iter().map(|found| &*found.id).collect();
    assert_eq!(ids, ["sku-60", "sku-59", "sku-58"]);
    assert_eq!(results[0][1].fields[1], ("price".to_owned(), Value::Number("59.50".into())));
}

#[test]
fn the_manifest_tells_what_was_built() {
    let (_dir, path) = built(IndexChoice::Hnsw);
    let manifest = Catalogue::manifest_of(&path).unwrap();
    assert_eq!((manifest.n_products, manifest.dim), (60, 2));
    assert_eq!(manifest.encoder, encoder());
    let IndexKind::Hnsw { connectivity, ef_construction, recall_at_10 } = manifest.index else {
        panic!("{:?}", manifest.index);
    };
    assert_eq!((connectivity, ef_construction, recall_at_10), (8, 50, Some(1.0)));
    let (_dir, small) = built(IndexChoice::Auto);
    assert_eq!(Catalogue::manifest_of(&small).unwrap().index, IndexKind::Exact);
}

#[test]
fn an_existing_folder_is_replaced_only_when_asked() {
    let (_dir, path) = built(IndexChoice::Hnsw);
    let error = build(&path, IndexChoice::Exact, false).unwrap_err();
    assert!(matches!(error, BuildError::Output(OutputError::Exists { .. })));
    assert!(error.hint().unwrap().contains("--overwrite"));
    open(&path).unwrap();
    build(&path, IndexChoice::Exact, true).unwrap();
    assert!(!path.join("hnsw").exists());
    open(&path).unwrap();
}

#[test]
fn another_encoder_is_refused_and_told_what_differs() {
    let (_dir, path) = built(IndexChoice::Exact);
    let catalogue = open(&path).unwrap();
    catalogue.check_encoder(&encoder()).unwrap();
    let other = EncoderRecord { identity: "09".repeat(32), max_length: 128, ..encoder() };
    let error = catalogue.check_encoder(&other).unwrap_err().to_string();
    assert!(
        error.ends_with("another encoder: the maximum length is 128 tokens, expected 70"),
        "{error}"
    );
}

/// The error of opening the catalogue after `damage`, without the folder's name.
fn refusal(index: IndexChoice, damage: impl Fn(&Path)) -> String {
    let (_dir, path) = built(index);
    damage(&path);
    let error = open(&path).unwrap_err();
    assert!(error.hint().is_some(), "{error}");
    error.to_string().replace(&path.display().to_string(), "shop")
}

fn edit_manifest(path: &Path, edit: impl Fn(&mut serde_json::Value)) {
    let path = path.join("catalogue.json");
    let mut manifest = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    edit(&mut manifest);
    std::fs::write(path, manifest.to_string()).unwrap();
}

#[test]
fn a_damaged_catalogue_says_what_is_wrong_with_which_file() {
    use IndexChoice::{Exact, Hnsw};
    let cut = |name: &'static str| {
        move |path: &Path| {
            let bytes = std::fs::read(path.join(name)).unwrap();
            std::fs::write(path.join(name), &bytes[..bytes.len() / 2]).unwrap();
        }
    };
    assert_eq!(refusal(Exact, cut("vectors")), "`shop/vectors` is 272 bytes, expected 544");
    assert!(refusal(Exact, cut("products.parquet")).starts_with("`shop/products.parquet` is "));
    assert!(refusal(Hnsw, cut("hnsw")).starts_with("`shop/hnsw` is "));
    let remove = |path: &Path| std::fs::remove_file(path.join("hnsw")).unwrap();
    assert_eq!(refusal(Hnsw, remove), "cannot open `shop/hnsw`");
    let remove = |path: &Path| std::fs::remove_file(path.join("catalogue.json")).unwrap();
    assert_eq!(refusal(Exact, remove), "`shop` is no catalogue: it has no `catalogue.json`");
}

#[test]
fn a_manifest_of_nonsense_is_refused() {
    use IndexChoice::{Exact, Hnsw};
    let nonsense = |path: &Path| std::fs::write(path.join("catalogue.json"), "[1, 2").unwrap();
    assert!(refusal(Exact, nonsense).contains("not the expected JSON"));
    let version = |path: &Path| edit_manifest(path, |m| m["schema_version"] = json!(3));
    let said = refusal(Exact, version);
    assert_eq!(said, "`shop/catalogue.json` has schema version 3, expected 1 or 2");
    let count = |path: &Path| edit_manifest(path, |m| m["n_products"] = json!(1u64 << 60));
    let said = refusal(Exact, count);
    assert_eq!(said, "`shop/vectors`: number of vectors is 60, expected 1152921504606846976");
    let width = |path: &Path| edit_manifest(path, |m| m["dim"] = json!(3));
    assert_eq!(refusal(Exact, width), "`shop/vectors`: width is 2, expected 3");
    let key = |path: &Path| edit_manifest(path, |m| m["next_key"] = json!(59));
    assert_eq!(refusal(Exact, key), "`shop/vectors`: highest id is 59, expected below 59");
    let kind = |path: &Path| edit_manifest(path, |m| m["index"] = json!({"kind": "tree"}));
    assert!(refusal(Exact, kind).contains("not the expected JSON"));
    let files = |path: &Path| edit_manifest(path, |m| m["files"] = json!({}));
    assert_eq!(refusal(Hnsw, files), "`shop/catalogue.json` lists no file `vectors`");
    let swapped = |path: &Path| edit_manifest(path, |m| m["encoder"]["identity"] = json!("no"));
    assert!(refusal(Exact, swapped).starts_with("`shop/vectors`: identity of its encoder is 0707"));
}

#[test]
fn a_flipped_bit_passes_the_lengths_and_is_found_by_verify() {
    let (_dir, path) = built(IndexChoice::Exact);
    let mut bytes = std::fs::read(path.join("vectors")).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(path.join("vectors"), bytes).unwrap();
    let error = open(&path).unwrap().verify().unwrap_err();
    assert!(matches!(error, CatalogueError::Manifest(ManifestError::Hash { .. })), "{error}");
}

#[test]
fn a_build_that_is_stopped_keeps_the_vectors_and_goes_on_from_them() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("shop");
    let products = products();
    let embedded = embed_all(&Circle, &products.rows, &partial_dir(&path), &NEVER, |_| ()).unwrap();
    let (stop, n_inserted) = (AtomicBool::new(false), AtomicUsize::new(0));
    let on_event = |event| {
        assert_ne!(event, BuildEvent::GraphBuilt);
        if event == BuildEvent::Inserted && n_inserted.fetch_add(1, Ordering::Relaxed) == 20 {
            stop.store(true, Ordering::Relaxed);
        }
    };
    let options = options(IndexChoice::Hnsw, false);
    let stopped =
        build_catalogue(&path, &products, &embedded, encoder(), &options, &stop, on_event);
    let error = stopped.unwrap_err();
    assert!(matches!(error, BuildError::Stopped { .. }), "{error}");
    assert!(error.hint().unwrap().contains("the same command"));
    assert_eq!(n_inserted.into_inner(), 21);
    let names = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(names.collect::<Vec<_>>(), ["shop.partial"]);

    let mut events = Vec::new();
    embed_all(&Circle, &products.rows, &partial_dir(&path), &NEVER, |event| events.push(event))
        .unwrap();
    assert!(events.contains(&EmbedEvent::Resumed { n_done: 60 }));
    build(&path, IndexChoice::Hnsw, false).unwrap();
    open(&path).unwrap();
}

/// What a crash leaves after every sync, rename and removal of a build that replaces a catalogue.
#[cfg(target_os = "linux")]
#[test]
fn a_crash_at_any_moment_of_a_build_leaves_a_whole_catalogue() {
    for index in [IndexChoice::Exact, IndexChoice::Hnsw] {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("shop");
        let before = build(&path, IndexChoice::Exact, false).unwrap();
        let products = products_of(11..=60);
        let partial = partial_dir(&path);
        let embedded = embed_all(&Circle, &products.rows, &partial, &NEVER, |_| ()).unwrap();
        let options = options(index, true);
        let work =
            || build_catalogue(&path, &products, &embedded, encoder(), &options, &NEVER, |_| ());
        let old = before.clone();
        let check = move |left: &Path, call: &Call| {
            let path = left.join("shop");
            let lock = OutputLock::take(&path).unwrap();
            let catalogue = open(&path).unwrap_or_else(|error| panic!("{error} after {call:?}"));
            catalogue.verify().unwrap_or_else(|error| panic!("{error} after {call:?}"));
            let n_products = catalogue.manifest().n_products;
            assert!([old.n_products, 50].contains(&n_products), "{n_products}");
            drop(lock);
            let mut names: Vec<_> = std::fs::read_dir(left)
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            assert_eq!(names, ["shop", "shop.partial"], "after {call:?}");
        };
        let (built, n_calls) = crash::after_each_call(root.path(), work, check);
        assert_eq!((before.n_products, built.unwrap().n_products), (60, 50));
        assert!(n_calls > 10, "three calls a file, and those of the folder: {n_calls}");
        open(&path).unwrap().verify().unwrap();
    }
}

#[test]
fn an_open_catalogue_stays_what_it_was_when_another_takes_its_name() {
    let (_dir, path) = built(IndexChoice::Hnsw);
    let catalogue = open(&path).unwrap();
    let before = catalogue.search(&point(5), &BEST_THREE).unwrap();
    // As many products, so that the lengths of vectors agree.
    let others = products_of((1..=60).rev());
    build_products(&path, &others, IndexChoice::Exact, true).unwrap();
    catalogue.verify().unwrap();
    assert_eq!(catalogue.search(&point(5), &BEST_THREE).unwrap(), before);
    let found = open(&path).unwrap().candidates(&point(60), 1, 1, any_product);
    assert_eq!(found[0][0].key, ProductKey(0), "the new one is in reverse");
}

#[test]
fn a_catalogue_that_is_replaced_while_it_is_opened_is_one_or_the_other() {
    let (_dir, path) = built(IndexChoice::Exact);
    let others = products_of((1..=60).rev());
    let is_done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..20 {
                let all = if round % 2 == 0 { &others } else { &products() };
                build_products(&path, all, IndexChoice::Exact, true).unwrap();
            }
            is_done.store(true, Ordering::Relaxed);
        });
        while !is_done.load(Ordering::Relaxed) {
            let catalogue = open(&path).unwrap();
            catalogue.verify().unwrap();
            let found = catalogue.search(&point(17), &BEST_THREE).unwrap();
            assert_eq!((&*found[0][0].id, found[0][0].product_title.len()), ("sku-17", 17));
        }
    });
}

#[cfg(unix)]
#[test]
fn a_pipe_a_device_or_a_path_in_place_of_a_file_is_refused_at_once() {
    use IndexChoice::Exact;
    let pipe_for = |name: &'static str| {
        move |path: &Path| {
            std::fs::remove_file(path.join(name)).unwrap();
            let made = std::process::Command::new("mkfifo").arg(path.join(name)).status();
            assert!(made.unwrap().success());
        }
    };
    assert_eq!(refusal(Exact, pipe_for("catalogue.json")), "cannot read `shop/catalogue.json`");
    assert_eq!(refusal(Exact, pipe_for("vectors")), "cannot open `shop/vectors`");
    assert_eq!(refusal(Exact, pipe_for("products.parquet")), "cannot open `shop/products.parquet`");
    let device = |path: &Path| {
        std::fs::remove_file(path.join("vectors")).unwrap();
        std::os::unix::fs::symlink("/dev/zero", path.join("vectors")).unwrap();
    };
    assert_eq!(refusal(Exact, device), "cannot open `shop/vectors`");
    for name in ["/dev/zero", "../secret", "..", "a\\b", ""] {
        let list = |path: &Path| {
            edit_manifest(path, |m| m["files"][name] = json!({"bytes": 0, "sha256": "00"}));
        };
        let said = format!("`shop/catalogue.json` lists `{name}`, which is no name of a file");
        assert_eq!(refusal(Exact, list), said);
    }
}

#[test]
fn only_a_catalogue_is_replaced() {
    let (_dir, path) = built(IndexChoice::Exact);
    std::fs::write(path.join("thesis.tex"), "years of work").unwrap();
    let error = build(&path, IndexChoice::Exact, true).unwrap_err();
    let said = "shop` is not replaced: `thesis.tex` in it is no part of a catalogue";
    assert!(error.to_string().ends_with(said), "{error}");
    assert!(path.join("thesis.tex").exists());
    std::fs::remove_file(path.join("thesis.tex")).unwrap();
    build(&path, IndexChoice::Exact, true).unwrap();
}

/// Written by this file's `build` with `IndexChoice::Hnsw`, when the formats were at version 1.
#[test]
fn a_catalogue_of_version_1_still_opens() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/formats/catalogue_v1");
    let catalogue = open(&path).unwrap();
    catalogue.verify().unwrap();
    let results = catalogue.search(&point(60), &BEST_THREE).unwrap();
    let ids: Vec<&str> = results[0].iter().map(|found| &*found.id).collect();
    assert_eq!(ids, ["sku-60", "sku-59", "sku-58"]);
    assert_eq!(results[0][1].fields, [("colour".to_owned(), Value::Text("red".into()))]);
    assert!(results[0][0].fields.is_empty());
    assert_eq!(catalogue.manifest().next_key(), ProductKey(60));
}
