//! The search of a whole catalogue: of the products judged right for a query, how many are found, and how high.
//!
//! Judgements are incomplete: a product that nobody judged counts as wrong. That is unjust to every model, and more so
//! to one that differs from the search by which the judged products were chosen.

use crate::bootstrap::{Interval, draw};
use crate::metric::Metric;
use crate::ranked::RankedList;
use crate::report::{Difference, Measured};

/// What is measured.
const METRICS: [Metric; 4] =
    [Metric::Recall(10), Metric::Recall(100), Metric::MrrWithin(10), Metric::Ndcg(10)];

/// Results that [`retrieval`] needs of each query.
pub const N_RESULTS: usize = 100;

/// The results for one query.
#[derive(Clone, Debug, PartialEq)]
pub struct Retrieved {
    /// Scores, highest first: [`N_RESULTS`] of them, or as many as there are products.
    pub scores: Vec<f64>,
    /// Whether each is right.
    pub relevant: Vec<bool>,
    /// How many are right in all, those not found as well.
    pub n_relevant: usize,
}

/// Figures of a model, beside its base where there is one.
#[derive(Clone, Debug, PartialEq)]
pub struct Retrieval {
    /// Queries with something right, over which the means are.
    pub n_queries: usize,
    /// recall@10, recall@100, mrr@10 and ndcg@10 (a right product has gain 1).
    pub model: Vec<Measured>,
    /// The same of the base.
    pub base: Option<Vec<Measured>>,
    /// Model minus base, on the same resamples of queries.
    pub differences: Option<Vec<Difference>>,
}

/// Measures the results of a model, and those of its base for the same queries.
pub fn retrieval(
    model: &[Retrieved],
    base: Option<&[Retrieved]>,
    n_bootstrap: usize,
    seed: u64,
) -> Retrieval {
    assert!(base.is_none_or(|base| base.len() == model.len()), "the same queries");
    let n_queries = model.iter().filter(|retrieved| retrieved.n_relevant > 0).count();
    let of_model = Sampled::new(model, n_bootstrap, seed);
    let of_base = base.map(|base| Sampled::new(base, n_bootstrap, seed));
    let differences = of_base.as_ref().map(|base| of_model.minus(base));
    Retrieval {
        n_queries,
        model: of_model.measured(n_queries),
        base: of_base.map(|base| base.measured(n_queries)),
        differences,
    }
}

/// The mean of each metric, and its resamples.
struct Sampled {
    values: Vec<Option<f64>>,
    samples: Vec<Vec<f64>>,
}

impl Sampled {
    fn new(queries: &[Retrieved], n_bootstrap: usize, seed: u64) -> Sampled {
        let of_queries: Vec<[f64; 4]> = queries.iter().filter_map(Retrieved::measure).collect();
        let mean = |metric: usize, multiplicities: &[u32]| {
            let all = of_queries.iter().zip(multiplicities);
            let sum: f64 = all.map(|(values, times)| f64::from(*times) * values[metric]).sum();
            sum / of_queries.len() as f64
        };
        let ones = vec![1; of_queries.len()];
        let is_defined = !of_queries.is_empty();
        let values = (0..METRICS.len()).map(|metric| is_defined.then(|| mean(metric, &ones)));
        let mut samples = vec![Vec::new(); METRICS.len()];
        let n_resamples = if of_queries.len() < 2 { 0 } else { n_bootstrap };
        let mut multiplicities = ones.clone();
        for resample in 0..n_resamples {
            draw(&mut multiplicities, seed, resample as u64);
            for (metric, samples) in samples.iter_mut().enumerate() {
                samples.push(mean(metric, &multiplicities));
            }
        }
        Sampled { values: values.collect(), samples }
    }

    fn measured(&self, n_queries: usize) -> Vec<Measured> {
        let measured = |(at, metric): (usize, Metric)| Measured {
            metric,
            value: self.values[at],
            interval: Interval::of(&self.samples[at]),
            threshold: None,
            n_queries: Some(n_queries),
            random_order: None,
        };
        METRICS.into_iter().enumerate().map(measured).collect()
    }

    fn minus(&self, base: &Sampled) -> Vec<Difference> {
        let difference = |(at, metric): (usize, Metric)| {
            let pairs = self.samples[at].iter().zip(&base.samples[at]);
            let differences: Vec<f64> = pairs.map(|(ours, theirs)| ours - theirs).collect();
            let values = self.values[at].zip(base.values[at]);
            let value = values.map(|(ours, theirs)| ours - theirs);
            Difference { metric, value, interval: Interval::of(&differences) }
        };
        METRICS.into_iter().enumerate().map(difference).collect()
    }
}

impl Retrieved {
    /// The values of [`METRICS`]; `None` where nothing is right.
    fn measure(&self) -> Option<[f64; 4]> {
        let n_found = self.relevant.iter().filter(|relevant| **relevant).count();
        assert!(n_found <= self.n_relevant, "what is found is some of all");
        // What was not found ranks behind 100 results, and is part of the best order.
        let (mut scores, mut relevant) = (self.scores.clone(), self.relevant.clone());
        let last = scores.last().copied().unwrap_or(0.0);
        scores.resize(scores.len().max(N_RESULTS), last - 1.0);
        relevant.resize(scores.len(), false);
        scores.resize(scores.len() + self.n_relevant - n_found, last - 2.0);
        relevant.resize(scores.len(), true);
        let gains: Vec<f64> =
            relevant.iter().map(|relevant| f64::from(u8::from(*relevant))).collect();
        let list = RankedList::new(&scores, &gains, &relevant);
        Some([
            list.recall(10)?,
            list.recall(N_RESULTS)?,
            list.reciprocal_rank_within(10)?,
            list.ndcg(10)?,
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `n` results of which those at `ranks`, from 1, are right.
    fn retrieved(n: usize, ranks: &[usize], n_relevant: usize) -> Retrieved {
        Retrieved {
            scores: (0..n).map(|at| 1.0 / (at + 1) as f64).collect(),
            relevant: (1..=n).map(|rank| ranks.contains(&rank)).collect(),
            n_relevant,
        }
    }

    #[test]
    fn figures_by_hand() {
        let [recall_10, recall_100, mrr, ndcg] =
            retrieved(100, &[2, 11, 100], 4).measure().unwrap();
        assert_eq!([recall_10, recall_100, mrr], [0.25, 0.75, 0.5]);
        let ideal: f64 = (2..6).map(|i| f64::from(i).log2().recip()).sum();
        assert!((ndcg - 1.0 / 3_f64.log2() / ideal).abs() < 1e-12);
        assert_eq!(retrieved(100, &[11], 1).measure().unwrap(), [0.0, 1.0, 0.0, 0.0]);
        assert_eq!(retrieved(100, &[], 0).measure(), None);
    }

    /// Five products, one right one found, one that the catalogue lacks: it is not found at rank 6.
    #[test]
    fn what_a_small_catalogue_lacks_is_not_found() {
        let [recall_10, recall_100, mrr, _] = retrieved(5, &[1], 2).measure().unwrap();
        assert_eq!([recall_10, recall_100, mrr], [0.5, 0.5, 1.0]);
        assert_eq!(retrieved(0, &[], 1).measure().unwrap(), [0.0; 4]);
    }

    #[test]
    fn a_model_beside_its_base_is_measured_on_the_same_queries() {
        let better: Vec<Retrieved> = (0..40).map(|q| retrieved(100, &[1 + q % 3], 1)).collect();
        let base: Vec<Retrieved> = (0..40).map(|q| retrieved(100, &[2 + q % 3], 1)).collect();
        let found = retrieval(&better, Some(&base), 200, 1);
        assert_eq!(found.n_queries, 40);
        let mrr = found.differences.as_ref().unwrap()[2];
        assert_eq!(mrr.metric, Metric::MrrWithin(10));
        assert!(mrr.value.unwrap() > 0.0 && mrr.interval.unwrap().low > 0.0, "{mrr:?}");
        let recall = found.differences.unwrap()[0];
        assert_eq!((recall.value, recall.interval.unwrap().high), (Some(0.0), 0.0));
        let nothing = retrieval(&[retrieved(3, &[], 0)], None, 10, 1);
        assert_eq!((nothing.n_queries, nothing.model[0].value), (0, None));
        assert_eq!(nothing.differences, None);
    }
}
