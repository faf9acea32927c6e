//! Every vector looked at: the definition of a right answer, and the faster index for a small
//! catalogue.
//!
//! `q` queries · `c` catalogue · `d` width.

use crate::hit::TopK;
use crate::{Hit, Row, Vectors};
use loriot_kernels::Isa;
use rayon::prelude::*;

/// Vectors one thread takes at a time: enough work to be worth a thread.
const TASK_VECTORS: usize = 8192;
/// Vectors that all queries see before the next ones are fetched: 128 of 384 numbers are 192 KiB,
/// which stay in a core's second-level cache.
const BLOCK_VECTORS: usize = 128;

/// The `k` vectors of largest inner product with each of `queries_qd` among those that `accept`
/// accepts, best first.
///
/// Of equal scores the lower id comes first. Fewer than `k` where fewer are accepted. `accept` is
/// asked once for each row ([`crate::any_row`] accepts all); a row refused costs nothing more. The
/// threads are those of the current rayon pool; the result has the same bits for any number of
/// them, and for a query alone or among others.
pub fn search_exact(
    isa: Isa,
    vectors: &Vectors,
    queries_qd: &[f32],
    k: usize,
    accept: impl Fn(Row) -> bool + Sync,
) -> Vec<Vec<Hit>> {
    let dim = vectors.dim();
    assert!(queries_qd.len().is_multiple_of(dim), "queries must be whole rows of {dim}");
    let queries: Vec<&[f32]> = queries_qd.chunks_exact(dim).collect();
    let k = k.min(vectors.len());
    let best_of_task = |(task, rows_cd): (usize, &[f32])| {
        let mut best: Vec<TopK> = queries.iter().map(|_| TopK::new(k)).collect();
        for (block, rows_cd) in rows_cd.chunks(BLOCK_VECTORS * dim).enumerate() {
            let first_row = task * TASK_VECTORS + block * BLOCK_VECTORS;
            let row = |at: usize| Row((first_row + at) as u32);
            let accepted = rows_cd.chunks_exact(dim).enumerate();
            let accepted =
                accepted.filter_map(|(at, vector)| accept(row(at)).then_some((row(at), vector)));
            let accepted: Vec<(Row, &[f32])> = accepted.collect();
            for (query, best) in queries.iter().zip(&mut best) {
                for &(row, vector) in &accepted {
                    best.offer(row, isa.dot(query, vector));
                }
            }
        }
        best.into_iter().map(|best| best.into_hits(vectors)).collect::<Vec<_>>()
    };
    let tasks: Vec<Vec<Vec<Hit>>> = vectors
        .rows_cd()
        .par_chunks(TASK_VECTORS * dim)
        .enumerate()
        .with_max_len(1)
        .map(best_of_task)
        .collect();
    let best_of_all = |query: usize| {
        let mut hits: Vec<Hit> =
            tasks.iter().flat_map(|task| task[query].iter().copied()).collect();
        hits.sort_unstable_by(Hit::rank_order);
        hits.truncate(k);
        hits
    };
    (0..queries.len()).map(best_of_all).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Identity, any_row};

    /// Small whole numbers: inner products are exact in any order, and ties abound.
    fn vectors(n: usize, dim: usize) -> Vectors {
        let rows_cd = (0..n * dim).map(|i| ((i * 7 + i / dim * 5) % 4) as f32 - 1.0).collect();
        Vectors::new(dim, Identity([0; 32]), rows_cd)
    }

    fn brute_force(
        vectors: &Vectors,
        query: &[f32],
        k: usize,
        accept: fn(Row) -> bool,
    ) -> Vec<Hit> {
        let score = |vector: &[f32]| vector.iter().zip(query).map(|(x, y)| x * y).sum();
        let rows = vectors.rows_cd().chunks(vectors.dim()).enumerate();
        let hit = |(row, vector)| {
            let row = Row(row as u32);
            Hit { id: vectors.id(row), row, score: score(vector) }
        };
        let accepted = rows.filter(|(row, _)| accept(Row(*row as u32)));
        let mut hits: Vec<Hit> = accepted.map(hit).collect();
        hits.sort_by(Hit::rank_order);
        hits.truncate(k);
        hits
    }

    #[test]
    fn agrees_with_brute_force_ties_and_filters_included_at_every_size_around_a_block() {
        for isa in Isa::available() {
            for n in [1, 2, 127, 128, 129, 300, TASK_VECTORS + 3] {
                let (vectors, queries_qd) = (vectors(n, 5), vectors(3, 5));
                let accepts: [fn(Row) -> bool; 3] =
                    [any_row, |row| row.0.is_multiple_of(7), |_| false];
                for accept in accepts {
                    let found = search_exact(isa, &vectors, queries_qd.rows_cd(), 10, accept);
                    for (hits, query) in found.iter().zip(queries_qd.rows_cd().chunks(5)) {
                        let want = brute_force(&vectors, query, 10, accept);
                        assert_eq!(hits, &want, "{isa}, {n} vectors");
                    }
                }
            }
        }
    }

    #[test]
    fn more_results_than_vectors_are_all_of_them_and_none_asked_for_is_none() {
        let vectors = vectors(4, 3);
        let query = [1.0, 0.5, -1.0];
        let search = |query: &[f32], k| search_exact(Isa::SCALAR, &vectors, query, k, any_row);
        assert_eq!(search(&query, 99)[0].len(), 4);
        assert_eq!(search(&query, 0), [vec![]]);
        assert!(search(&[], 3).is_empty());
    }

    #[test]
    fn the_same_bits_at_any_number_of_threads() {
        let rows_cd = (0..30_000 * 3).map(|i| (i as f32 * 0.7).sin()).collect();
        let vectors = Vectors::new(3, Identity([0; 32]), rows_cd);
        let with_threads = |n_threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads).build().unwrap();
            pool.install(|| search_exact(Isa::best(), &vectors, &[0.3, -0.2, 0.9], 50, any_row))
        };
        assert_eq!(with_threads(1), with_threads(3));
    }
}
