//! A graph file, of Loriot or of usearch, over the stored vectors; what opens is searched.

#![no_main]

use libfuzzer_sys::fuzz_target;
use loriot_fuzz::repository;
use loriot_index::{Hnsw, Isa, Row, Vectors, any_row};

fuzz_target!(|input: &[u8]| {
    let vectors = Vectors::open(&repository("crates/loriot-index/tests/formats/vectors_v2"))
        .expect("the stored vectors open");
    let file = tempfile::NamedTempFile::new().expect("a temporary file can be made");
    std::fs::write(file.path(), input).expect("a temporary file can be written");
    if let Ok(graph) = Hnsw::open(file.path(), &vectors) {
        // With so few candidates the graph is followed, not passed over.
        graph.search(Isa::best(), &vectors, vectors.vector(Row(0)), 2, 2, any_row);
    }
});
