//! The targets' bodies, one function each: bytes in, and nothing may panic, hang or allocate beyond its limits.

use crate::{repository, with_one_file_replaced};
use loriot_data::{
    FileKind, Format, LabelScale, ReadOptions, TextTemplate, read_pairs_from, read_products_from,
    read_texts_from,
};
use loriot_encoder::adapter::Adapter;
use loriot_encoder::config::Config;
use loriot_encoder::folder::{ModelFolder, Settings};
use loriot_encoder::tokenizer::Tokenizer;
use loriot_encoder::weights::Weights;
use loriot_index::{Hnsw, Isa, Row, Vectors, any_row};
use loriot_search::catalogue::{Catalogue, OpenOptions, any_product};
use std::path::PathBuf;

/// So few candidates that a graph of 60 vectors is followed, not passed over.
const FEW: usize = 2;

const FORMATS: [Format; 6] =
    [Format::Csv, Format::Tsv, Format::Jsonl, Format::Parquet, Format::Json, Format::Text];

/// Rows of every format, plain and gzipped: the first byte chooses the format, the second how it is read.
pub fn rows(input: &[u8]) {
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
}

/// The folder in which [`model_folder`] damages a file.
pub fn good_model() -> PathBuf {
    repository("tests/golden/tiny_bert")
}

/// A model folder with one damaged file: configuration, weights, tokeniser, pooling, settings.
pub fn model_folder(input: &[u8]) {
    let Some(folder) = with_one_file_replaced(&good_model(), input) else { return };
    let _ = Settings::open(folder.path());
    let Ok(model) = ModelFolder::open(folder.path()) else { return };
    let _ = Weights::open(&model.path, &model.config);
    if let Ok(tokenizer) = Tokenizer::open(&model.path, model.config.vocab_size) {
        let _ = tokenizer.encode("a red kettle, 2 litres", 48);
    }
}

/// The folder in which [`adapter`] damages a file.
pub fn good_adapter() -> PathBuf {
    repository("tests/golden/adapters/qkv")
}

/// A PEFT adapter with a damaged configuration or damaged tensors.
pub fn adapter(input: &[u8]) {
    let config = Config::open(&good_model()).expect("the golden model opens");
    let Some(folder) = with_one_file_replaced(&good_adapter(), input) else { return };
    let _ = Adapter::open(folder.path(), &config);
}

/// The catalogues in which [`catalogue`] damages a file: of schema version 2, and of version 1 with usearch's
/// graph.
pub fn good_catalogues() -> [PathBuf; 2] {
    ["catalogue_v2", "catalogue_v1"]
        .map(|name| repository("crates/loriot-search/tests/formats").join(name))
}

/// A catalogue with one damaged file: manifest, products, vectors or graph. What opens is searched, and the
/// products that are found are read. An odd first byte takes the catalogue of version 1, and the other bits
/// choose the file.
pub fn catalogue(input: &[u8]) {
    let Some((&choice, content)) = input.split_first() else { return };
    let good = &good_catalogues()[usize::from(choice % 2)];
    let input = [&[choice / 2], content].concat();
    let Some(folder) = with_one_file_replaced(good, &input) else { return };
    search(folder.path());
}

/// How many products the catalogue in `dir` finds, or `None` where it does not open.
pub fn search(dir: &std::path::Path) -> Option<usize> {
    let options = OpenOptions { exact: false, n_threads: 1, isa: Isa::best() };
    let catalogue = Catalogue::open(dir, &options).ok()?;
    let mut query_d = vec![0.0; catalogue.manifest().dim];
    query_d[0] = 1.0;
    let found = catalogue.candidates(&query_d, FEW, FEW, any_product).remove(0);
    let keys: Vec<_> = found.iter().map(|candidate| candidate.key).collect();
    let _ = catalogue.records(&keys);
    Some(keys.len())
}

/// The vectors over which [`graph`] is opened.
pub fn good_vectors() -> PathBuf {
    repository("crates/loriot-index/tests/formats/vectors_v2")
}

/// A graph file, of Loriot or of usearch, over the stored vectors; what opens is searched.
pub fn graph(input: &[u8]) {
    let vectors = Vectors::open(&good_vectors()).expect("the stored vectors open");
    let file = tempfile::NamedTempFile::new().expect("a temporary file can be made");
    std::fs::write(file.path(), input).expect("a temporary file can be written");
    if let Ok(graph) = Hnsw::open(file.path(), &vectors) {
        graph.search(Isa::best(), &vectors, vectors.vector(Row(0)), FEW, FEW, any_row);
    }
}
