//! How fast an index is built and searched, as one line of JSON for bench/bench.py.
//!
//! ```text
//! cargo run --release -p loriot-index --example index_speed -- VECTORS QUERIES DIM THREADS [M]
//! ```
//!
//! Both files are rows of f32, little-endian. The graph has M = 100, as in the guide, unless told otherwise, and ef_construction = 200; queries are asked one
//! at a time for 10 neighbours at ef = 100, first of the graph, then of all vectors, which is also the truth for the recall.
#![allow(clippy::print_stdout, reason = "a bench prints its results")]

use loriot_index::{Hnsw, HnswConfig, Identity, Isa, Vectors, any_row, recall, search_exact};
use std::error::Error;
use std::time::Instant;

const K: usize = 10;
const EF: usize = 100;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [vectors, queries, dim, threads, rest @ ..] = arguments.as_slice() else {
        return Err("expected VECTORS QUERIES DIM THREADS [M]".into());
    };
    let mut config = HnswConfig::default();
    if let [connectivity] = rest {
        config.connectivity = connectivity.parse()?;
    }
    let (isa, dim) = (Isa::from_env()?, dim.parse()?);
    let vectors = Vectors::new(dim, Identity([0; 32]), read_f32s(vectors)?);
    let queries_qd = read_f32s(queries)?;
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads.parse()?).build()?;

    let start = Instant::now();
    let graph = pool.install(|| Hnsw::build(isa, &vectors, config, || {}));
    let build_ms = milliseconds(start);

    let queries: Vec<&[f32]> = queries_qd.chunks_exact(dim).collect();
    let (mut found, mut query_ms) = (Vec::new(), Vec::new());
    for query in &queries {
        let start = Instant::now();
        found.push(graph.search(isa, &vectors, query, K, EF, any_row));
        query_ms.push(milliseconds(start));
    }
    let (mut truth, mut exact_ms) = (Vec::new(), Vec::new());
    for query in &queries {
        let start = Instant::now();
        truth.extend(pool.install(|| search_exact(isa, &vectors, query, K, any_row)));
        exact_ms.push(milliseconds(start));
    }
    let recall = recall(&found, &truth).ok_or("no queries")?;
    println!(
        r#"{{"build_ms":{build_ms},"query_ms":{query_ms:?},"exact_ms":{exact_ms:?},"recall":{recall}}}"#
    );
    Ok(())
}

fn milliseconds(since: Instant) -> f64 {
    1e3 * since.elapsed().as_secs_f64()
}

fn read_f32s(path: &str) -> Result<Vec<f32>, std::io::Error> {
    let bytes = std::fs::read(path)?;
    let (words, _) = bytes.as_chunks::<4>();
    Ok(words.iter().map(|word| f32::from_le_bytes(*word)).collect())
}
