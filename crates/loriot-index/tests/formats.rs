//! Files of every version that was ever written, which open for ever.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use loriot_index::{Hnsw, Isa, Row, VectorId, Vectors, any_row};
use std::path::{Path, PathBuf};

fn stored(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/formats").join(name)
}

/// 60 vectors of 64: all but each sixteenth; rows 7 and 39 are equal.
#[test]
fn vectors_of_version_2_keep_their_ids() {
    let vectors = Vectors::open(&stored("vectors_v2")).unwrap();
    assert_eq!((vectors.len(), vectors.dim()), (60, 4));
    assert_eq!(vectors.id(Row(0)), VectorId(1));
    assert_eq!(vectors.row_of(VectorId(17)), Some(Row(15)));
    assert_eq!(vectors.row_of(VectorId(16)), None);
    assert_eq!(vectors.vector(Row(7)), vectors.vector(Row(39)));
}

/// Connectivity 4, three levels, over those vectors.
#[test]
fn a_graph_of_version_1_leads_to_its_vectors() {
    let vectors = Vectors::open(&stored("vectors_v2")).unwrap();
    let graph = Hnsw::open(&stored("hnsw_v1"), &vectors).unwrap();
    let mut n_found = 0;
    for row in 0..60 {
        // With so few candidates no other way is quicker than the graph.
        let query = vectors.vector(Row(row));
        let hits = graph.search(Isa::best(), &vectors, query, 2, 2, any_row);
        n_found += usize::from(hits.iter().any(|hit| hit.row == Row(row)));
        if row == 39 {
            let ids: Vec<u64> = hits.iter().map(|hit| hit.id.0).collect();
            assert_eq!(ids, [8, 42], "equal vectors, the lower id first");
        }
    }
    assert!(n_found >= 50, "{n_found} of 60");
}
