//! Graphs from outside: recall beside exact search, filters, equal vectors, files.

use super::*;
use crate::{Identity, VectorId, any_row, recall};
use rayon::prelude::*;

/// Unit vectors that scatter around `n / 20` centres, as titles around products.
pub(super) fn clustered(n: usize, dim: usize) -> Vectors {
    let noise = |i: usize| ((i as f32 * 12.9898).sin() * 43_758.547).fract();
    let centre = |row: usize, i: usize| noise((row % n.div_ceil(20)) * dim + i + 7);
    let mut rows_cd: Vec<f32> =
        (0..n * dim).map(|at| centre(at / dim, at % dim) + 0.5 * noise(at)).collect();
    for row_d in rows_cd.chunks_mut(dim) {
        let norm = row_d.iter().map(|x| x * x).sum::<f32>().sqrt();
        row_d.iter_mut().for_each(|x| *x /= norm);
    }
    Vectors::new(dim, Identity([1; 32]), rows_cd)
}

const CONFIG: HnswConfig = HnswConfig { connectivity: 32, ef_construction: 200 };

/// By one thread a test sees the same graph every time.
pub(super) fn build(vectors: &Vectors, config: HnswConfig, n_threads: usize) -> Hnsw {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads).build().unwrap();
    pool.install(|| Hnsw::build(Isa::best(), vectors, config, || ()))
}

/// The best 10, by the graph whatever that costs.
pub(super) fn search_graph(graph: &Hnsw, vectors: &Vectors, query: &[f32], ef: usize) -> Vec<Hit> {
    let wanted = Wanted { k: 10, ef, accepts_all: true, budget: usize::MAX };
    graph.search_graph(Isa::best(), vectors, query, wanted, any_row).unwrap()
}

fn search_all(graph: &Hnsw, vectors: &Vectors, queries: &Vectors, ef: usize) -> Vec<Vec<Hit>> {
    let queries = queries.rows_cd().chunks(vectors.dim());
    queries.map(|query| search_graph(graph, vectors, query, ef)).collect()
}

#[test]
fn finds_nearly_all_that_exact_search_finds_with_the_same_scores() {
    let (vectors, queries) = (clustered(4_000, 32), clustered(60, 32));
    let truth = search_exact(Isa::best(), &vectors, queries.rows_cd(), 10, any_row);
    for connectivity in [8, 32] {
        let graph = build(&vectors, HnswConfig { connectivity, ..CONFIG }, 1);
        let found = search_all(&graph, &vectors, &queries, 100);
        let share = recall(&found, &truth).unwrap();
        assert!(share >= 0.95, "connectivity {connectivity}: recall {share}");
        let best_agree = found.iter().zip(&truth).filter(|(found, truth)| found[0] == truth[0]);
        assert!(best_agree.count() >= 57, "a hit has the same bits in both");
        // As many candidates as vectors miss only what no link leads to.
        let all = search_all(&graph, &vectors, &queries, 4_000);
        assert!(recall(&all, &truth).unwrap() >= 0.99);
    }
}

#[test]
fn every_vector_is_found_by_itself() {
    let vectors = clustered(3_000, 24);
    let graph = build(&vectors, HnswConfig { connectivity: 8, ef_construction: 100 }, 2);
    let is_found = |&row: &u32| {
        let found = search_graph(&graph, &vectors, vectors.vector(Row(row)), 50);
        found[0].row == Row(row)
    };
    let n_found = (0..3_000).filter(is_found).count();
    assert!(n_found >= 2_990, "{n_found} of 3000");
}

#[test]
fn threads_that_insert_at_once_lose_little() {
    let (vectors, queries) = (clustered(4_000, 32), clustered(60, 32));
    let truth = search_exact(Isa::best(), &vectors, queries.rows_cd(), 10, any_row);
    let found = search_all(&build(&vectors, CONFIG, 4), &vectors, &queries, 100);
    // Which links are made depends on who is faster.
    let share = recall(&found, &truth).unwrap();
    assert!(share >= 0.9, "recall {share}");
}

#[test]
fn a_build_that_is_stopped_inserts_little_more_and_is_no_graph() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    let vectors = clustered(3_000, 24);
    for stop_after in [1, 100, 1_000] {
        let (stop, n_inserted) = (AtomicBool::new(false), AtomicUsize::new(0));
        let on_insert = || {
            if n_inserted.fetch_add(1, Ordering::Relaxed) + 1 == stop_after {
                stop.store(true, Ordering::Relaxed);
            }
        };
        let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
        let graph =
            pool.install(|| Hnsw::build_unless(&stop, Isa::best(), &vectors, CONFIG, on_insert));
        assert!(graph.is_none());
        // What the other thread was at is inserted to its end.
        let n_inserted = n_inserted.into_inner();
        assert!(n_inserted <= stop_after + 1, "{n_inserted} after {stop_after}");
    }
}

#[test]
fn one_thread_builds_the_same_file_every_time() {
    let dir = tempfile::tempdir().unwrap();
    let vectors = clustered(1_500, 16);
    let file = |name: &str| {
        let path = dir.path().join(name);
        build(&vectors, CONFIG, 1).write(&path, &vectors).unwrap();
        std::fs::read(path).unwrap()
    };
    assert!(file("a") == file("b"));
}

#[test]
fn a_written_graph_searches_as_before() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("hnsw");
    let (vectors, queries) = (clustered(2_000, 16), clustered(20, 16));
    let graph = build(&vectors, CONFIG, 1);
    graph.write(&path, &vectors).unwrap();
    let opened = Hnsw::open(&path, &vectors).unwrap();
    let before = search_all(&graph, &vectors, &queries, 50);
    assert_eq!(search_all(&opened, &vectors, &queries, 50), before);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(8).build().unwrap();
    let search = |_| search_graph(&opened, &vectors, queries.vector(Row(3)), 50);
    let at_once: Vec<_> = pool.install(|| (0..64).into_par_iter().map(search).collect());
    assert!(at_once.iter().all(|hits| hits == &before[3]));
}

#[test]
fn one_vector_is_a_graph() {
    let vectors = Vectors::new(2, Identity([0; 32]), vec![0.6, 0.8]).with_ids(vec![9]);
    let hits = search_graph(&build(&vectors, CONFIG, 1), &vectors, &[1.0, 0.0], 100);
    assert_eq!(hits, [Hit { id: VectorId(9), row: Row(0), score: 0.6 }]);
}

#[test]
fn a_graph_of_other_vectors_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("hnsw");
    let vectors = clustered(100, 16);
    build(&vectors, CONFIG, 1).write(&path, &vectors).unwrap();
    let refusal = |vectors: &Vectors| match Hnsw::open(&path, vectors) {
        Err(HnswError::Unsound { source, .. }) => source.to_string(),
        other => panic!("{other:?}"),
    };
    assert_eq!(refusal(&clustered(99, 16)), "its number of vectors is 100, expected 99");
    assert_eq!(refusal(&clustered(100, 8)), "its width is 16, expected 8");
    std::fs::write(&path, "").unwrap();
    assert!(refusal(&vectors).starts_with("it is not a graph"));
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(Hnsw::open(&path, &vectors), Err(HnswError::Open { .. })));
}

#[test]
fn a_filter_loses_little_however_few_it_accepts_and_lets_nothing_else_through() {
    let (vectors, queries) = (clustered(6_000, 24), clustered(60, 24));
    let graph = build(&vectors, HnswConfig { connectivity: 8, ..CONFIG }, 1);
    let n_clusters = 6_000 / 20;
    // By number, and by cluster: whole regions are refused.
    let filters: [(&str, &(dyn Fn(Row) -> bool + Sync)); 7] = [
        ("all but one", &|row| row.0 != 17),
        ("every other", &|row| row.0.is_multiple_of(2)),
        ("every fifth", &|row| row.0.is_multiple_of(5)),
        ("one in 500", &|row| row.0.is_multiple_of(500)),
        ("half of the clusters", &|row| row.0 % n_clusters < n_clusters / 2),
        ("two clusters", &|row| row.0 % n_clusters < 2),
        ("none", &|_| false),
    ];
    for (name, accept) in filters {
        let truth = search_exact(Isa::best(), &vectors, queries.rows_cd(), 10, accept);
        let search = |query| graph.search(Isa::best(), &vectors, query, 10, 100, accept);
        let found: Vec<Vec<Hit>> = queries.rows_cd().chunks(24).map(search).collect();
        assert!(found.iter().flatten().all(|hit| accept(hit.row)), "{name}");
        assert!(
            found.iter().zip(&truth).all(|(found, truth)| found.len() == truth.len()),
            "{name}"
        );
        if let Some(share) = recall(&found, &truth) {
            assert!(share >= 0.95, "{name}: recall {share}");
        }

        // And by the graph alone.
        let by_graph = |query| {
            let wanted = Wanted { k: 10, ef: 100, accepts_all: false, budget: usize::MAX };
            graph.search_graph(Isa::best(), &vectors, query, wanted, accept).unwrap()
        };
        let found: Vec<Vec<Hit>> = queries.rows_cd().chunks(24).map(by_graph).collect();
        assert!(found.iter().flatten().all(|hit| accept(hit.row)), "{name}");
        if let Some(share) = recall(&found, &truth) {
            assert!(share >= 0.95, "{name}, by the graph alone: recall {share}");
        }
    }
}

#[test]
fn a_filter_is_estimated_and_a_walk_that_costs_too_much_is_given_up() {
    assert_eq!(share_accepted(1_000_000, any_row), 1.0);
    assert_eq!(share_accepted(1, any_row), 1.0);
    for period in [2, 3, 7, 10, 16] {
        let share = share_accepted(100_000, |row| row.0.is_multiple_of(period));
        let want = 1.0 / f64::from(period);
        assert!((share - want).abs() < 0.1, "one in {period}: {share}");
    }
    let vectors = clustered(3_000, 16);
    let graph = build(&vectors, CONFIG, 1);
    let wanted = Wanted { k: 10, ef: 100, accepts_all: true, budget: 1_000 };
    let query = vectors.vector(Row(0));
    let is_far =
        |row: Row| vectors.vector(row).iter().zip(query).map(|(x, y)| x * y).sum::<f32>() < 0.0;
    assert!(graph.search_graph(Isa::best(), &vectors, query, wanted, is_far).is_none());
    let found = graph.search(Isa::best(), &vectors, query, 10, 100, is_far);
    assert_eq!(found, search_exact(Isa::best(), &vectors, query, 10, is_far)[0]);
}

#[test]
fn titles_that_a_hundred_products_share_are_all_found() {
    let (distinct, n_each) = (clustered(300, 16), 100);
    let row_of = |row: usize| distinct.vector(Row((row % 300) as u32));
    let rows_cd = (0..300 * n_each).flat_map(row_of).copied().collect();
    let vectors = Vectors::new(16, Identity([0; 32]), rows_cd);
    let graph = build(&vectors, HnswConfig { connectivity: 16, ef_construction: 100 }, 2);
    assert_eq!(graph.groups.n_nodes(), 300);
    for row in 0..300 {
        let query = distinct.vector(Row(row));
        let found = search_graph(&graph, &vectors, query, 100);
        let rows: Vec<u32> = found.iter().map(|hit| hit.row.0).collect();
        let want: Vec<u32> = (0..10).map(|copy| row + 300 * copy).collect();
        assert_eq!(rows, want, "the copies that come first");
        // A filter may refuse some copies of a vector.
        let accept = |row: Row| row.0 >= 29_000;
        let found = graph.search(Isa::best(), &vectors, query, 10, 100, accept);
        assert_eq!(found, search_exact(Isa::best(), &vectors, query, 10, accept)[0]);
    }
}

#[test]
fn thirty_thousand_equal_vectors_are_one_node() {
    let rows_cd = [0.6, 0.8].repeat(30_000);
    let vectors = Vectors::new(2, Identity([0; 32]), rows_cd);
    let n_told = std::sync::atomic::AtomicUsize::new(0);
    let graph = Hnsw::build(Isa::best(), &vectors, CONFIG, || {
        n_told.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    });
    assert_eq!((graph.groups.n_nodes(), n_told.into_inner()), (1, 30_000));
    let found = graph.search(Isa::best(), &vectors, &[1.0, 0.0], 3, 100, |row| row.0 > 5);
    let rows: Vec<u32> = found.iter().map(|hit| hit.row.0).collect();
    assert_eq!(rows, [6, 7, 8]);
}

#[test]
fn vectors_that_are_no_numbers_neither_panic_nor_hide_the_others() {
    let mut rows_cd = clustered(600, 8).rows_cd().to_vec();
    rows_cd[8 * 5..8 * 9].fill(f32::NAN);
    rows_cd[8 * 9..8 * 12].fill(f32::INFINITY);
    let vectors = Vectors::new(8, Identity([0; 32]), rows_cd);
    let graph = build(&vectors, CONFIG, 1);
    let found = search_graph(&graph, &vectors, &clustered(600, 8).rows_cd()[..8], 100);
    assert!(found.iter().any(|hit| hit.row == Row(0)));
}
