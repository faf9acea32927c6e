//! What an approximate index missed.

use crate::Hit;

/// Share of the true nearest that were found, averaged over the queries, in `0.0..=1.0`.
///
/// `truth` holds each query's `k` nearest, best first. A vector found counts when its score reaches
/// the worst true one: of products with the same title, which of them is found is no matter.
/// `None` without queries, or where nothing was asked for.
pub fn recall(found: &[Vec<Hit>], truth: &[Vec<Hit>]) -> Option<f64> {
    assert_eq!(found.len(), truth.len(), "both answer the same queries");
    let share = |(found, truth): (&Vec<Hit>, &Vec<Hit>)| {
        let worst = truth.last()?.score;
        let n_good = found.iter().filter(|hit| hit.score >= worst).count().min(truth.len());
        Some(n_good as f64 / truth.len() as f64)
    };
    let shares: Vec<f64> = found.iter().zip(truth).filter_map(share).collect();
    (!shares.is_empty()).then(|| shares.iter().sum::<f64>() / shares.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Row, VectorId};

    fn hits(scores: &[(u64, f32)]) -> Vec<Hit> {
        let hit = |&(row, score)| Hit { id: VectorId(row), row: Row(row as u32), score };
        scores.iter().map(hit).collect()
    }

    #[test]
    fn recall_is_the_share_of_the_true_nearest() {
        let truth = [hits(&[(0, 0.9), (1, 0.8)]), hits(&[(2, 0.7), (3, 0.7)])];
        // The first query misses one; the second finds another vector that is just as near.
        let found = [hits(&[(0, 0.9), (5, 0.1)]), hits(&[(3, 0.7), (4, 0.7)])];
        assert_eq!(recall(&found, &truth), Some(0.75));
        assert_eq!(recall(&truth, &truth), Some(1.0));
    }

    #[test]
    fn without_queries_or_results_there_is_no_recall() {
        assert_eq!(recall(&[], &[]), None);
        assert_eq!(recall(&[vec![]], &[vec![]]), None);
    }
}
