//! The loss of judged lists: queries with graded products, of which only a part of the grades' differences is real.
//!
//! ```text
//! c = cosine of a query and a product, y in 0..=1 the grade        BCE(z, p): binary cross-entropy of sigmoid(z) and p
//!
//! pointwise  L_pt = mean over judged pairs of BCE(s·c + b, y)
//!
//! pairwise   L_in = Σ w BCE(r·(cᵢ − cⱼ), P) / Σ w                  over pairs of one list with yᵢ > yⱼ
//!            P = sigmoid(k·(yᵢ − yⱼ)), w = (2P − 1)·(1 − J)        J: Jaccard index of the two titles' words
//!
//! negatives  L_nce = −Σ y log(e^{20 c} / (e^{20 c} + Σ e^{20 c'})) / Σ y
//!            over pairs with y ≥ 0.75; c' is of its query and the products of other lists, without those that may well
//!            be right: products that share half of their words with one of this query's relevant products, and the
//!            products of queries within a cosine of 0.75 of it
//!
//! loss = a₁·L_pt + a₂·L_in + a₃·L_nce
//! ```
//!
//! `s`, `b`, `r` and `k` are fitted to the encoder as it is before training ([`super::fit`]), so that learning does not begin by
//! stretching the space, which ranks nothing. `P` says how often an order of two grades is the true one: grades of a few
//! raters are noisy. Products that are nearly alike differ by noise alone, hence `w`.
//!
//! The pointwise term is that of BiXSE (arXiv 2508.06781) on judged pairs; the pairwise one is RankNet (Burges et al., 2005) with
//! soft targets; the last is InfoNCE (van den Oord et al., 2018) whose negatives are other lists' products.

use super::words::ProductWords;
use super::{Batch, Loss, LossGradient, StepSize, cosine};
use std::collections::HashMap;
use std::sync::Arc;

/// Scale of the cosines against other lists' products.
const NEGATIVES_SCALE: f64 = 20.0;

/// Grades from here on are relevant.
const RELEVANT: f32 = 0.75;

/// Products that share this much of their words with a relevant one are no clean negatives.
const ALIKE: f64 = 0.5;

/// Nor are the products of queries from this cosine on.
const NEAR_QUERY: f64 = 0.75;

/// A number for each term.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Terms {
    /// Of `L_pt`.
    pub pointwise: f64,
    /// Of `L_in`.
    pub pairwise: f64,
    /// Of `L_nce`.
    pub negatives: f64,
}

impl Terms {
    /// Of no term.
    pub const NONE: Terms = Terms { pointwise: 0.0, pairwise: 0.0, negatives: 0.0 };
}

/// What is fitted before training.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fit {
    /// `s`: the logit of a grade rises by it with the cosine.
    pub scale: f64,
    /// `b`: that logit at a cosine of 0.
    pub bias: f64,
    /// `r`: the logit of an order, by the difference of cosines.
    pub pair_scale: f64,
    /// `k`: the same by the difference of grades.
    pub steepness: f64,
}

impl Default for Fit {
    /// Of nothing: where a typical encoder of sentences begins.
    fn default() -> Fit {
        Fit { scale: 3.0, bias: -0.5, pair_scale: 2.5, steepness: 3.2 }
    }
}

/// The loss.
#[derive(Clone, Debug, Default)]
pub struct GradedLists {
    /// The words of the products of the data that the rows are of.
    pub words: Arc<ProductWords>,
    /// What was fitted before training.
    pub fit: Fit,
    /// How much each term counts; one that counts 0 is not computed.
    pub weights: Terms,
}

impl Default for Terms {
    /// All the same.
    fn default() -> Terms {
        Terms { pointwise: 1.0, pairwise: 1.0, negatives: 1.0 }
    }
}

impl Loss for GradedLists {
    /// The first term is a mean over pairs; the others compare pairs.
    fn adds_over_parts(&self) -> bool {
        self.weights.pairwise == 0.0 && self.weights.negatives == 0.0
    }

    fn gradient(&self, batch: &Batch<'_>, step: StepSize) -> LossGradient {
        let mut gradient = LossGradient::zero(batch);
        let add = |pair, dcos| gradient.add_cosine(batch, pair, dcos);
        gradient.loss = self.visit(batch, step, add);
        gradient
    }

    fn value(&self, batch: &Batch<'_>) -> f64 {
        self.visit(batch, StepSize::of(batch.rows), |_, _| ())
    }
}

impl GradedLists {
    /// What `batch` is of the loss of a step of this `size`; `visit` is given the derivative by the cosine of each row's query
    /// and a candidate.
    fn visit(
        &self,
        batch: &Batch<'_>,
        size: StepSize,
        mut visit: impl FnMut((usize, usize), f64),
    ) -> f64 {
        let step = Step::new(batch);
        // By the cosine of each candidate and its own row's query.
        let mut dcos = vec![0.0; step.pairs.len()];
        let mut loss = 0.0;
        if self.weights.pointwise != 0.0 {
            loss += self.weights.pointwise * self.pointwise(&step, size, &mut dcos);
        }
        if self.weights.pairwise != 0.0 {
            loss += self.weights.pairwise * self.pairwise(&step, &mut dcos);
        }
        if self.weights.negatives != 0.0 {
            loss += self.weights.negatives * self.negatives(&step, &mut dcos, &mut visit);
        }
        for (candidate, (pair, dcos)) in step.pairs.iter().zip(dcos).enumerate() {
            visit((pair.row, candidate), dcos);
        }
        loss
    }

    fn pointwise(&self, step: &Step<'_>, size: StepSize, dcos: &mut [f64]) -> f64 {
        let n_pairs = size.n_candidates as f64;
        let weight = self.weights.pointwise / n_pairs;
        let Fit { scale, bias, .. } = self.fit;
        let values = step.pairs.iter().zip(dcos).map(|(pair, dcos)| {
            let (value, dlogit) = cross_entropy(scale * pair.cos + bias, pair.grade);
            *dcos += weight * scale * dlogit;
            value
        });
        values.sum::<f64>() / n_pairs
    }

    fn pairwise(&self, step: &Step<'_>, dcos: &mut [f64]) -> f64 {
        let orders = step.orders(&self.words, self.fit.steepness);
        let weights: f64 = orders.iter().map(|order| order.weight).sum();
        if weights == 0.0 {
            return 0.0;
        }
        let scale = self.fit.pair_scale;
        let values = orders.iter().map(|order| {
            let difference = step.pairs[order.better].cos - step.pairs[order.worse].cos;
            let (value, dlogit) = cross_entropy(scale * difference, order.target);
            let share = order.weight / weights;
            dcos[order.better] += self.weights.pairwise * share * scale * dlogit;
            dcos[order.worse] -= self.weights.pairwise * share * scale * dlogit;
            share * value
        });
        values.sum()
    }

    fn negatives(
        &self,
        step: &Step<'_>,
        dcos: &mut [f64],
        visit: &mut impl FnMut((usize, usize), f64),
    ) -> f64 {
        let is_relevant = |pair: &&Pair| pair.grade >= f64::from(RELEVANT);
        let grades: f64 = step.pairs.iter().filter(is_relevant).map(|pair| pair.grade).sum();
        let mut loss = 0.0;
        let mut shares = vec![0.0; step.pairs.len()];
        for list in 0..step.lists.len() {
            let negatives = step.clean_negatives(list, &self.words);
            for &at in step.lists[list].iter().filter(|&&at| is_relevant(&&step.pairs[at])) {
                let pair = &step.pairs[at];
                let query_d = step.batch.queries.get(pair.row);
                let own = NEGATIVES_SCALE * pair.cos;
                let mut highest = own;
                for &negative in &negatives {
                    let cos = cosine(query_d, step.batch.candidates.get(negative));
                    shares[negative] = NEGATIVES_SCALE * cos;
                    highest = highest.max(shares[negative]);
                }
                let mut sum = (own - highest).exp();
                for &negative in &negatives {
                    shares[negative] = (shares[negative] - highest).exp();
                    sum += shares[negative];
                }
                let weight = pair.grade / grades;
                loss += weight * (highest + sum.ln() - own);
                let by_logit = self.weights.negatives * weight * NEGATIVES_SCALE;
                dcos[at] += by_logit * ((own - highest).exp() / sum - 1.0);
                for &negative in &negatives {
                    visit((pair.row, negative), by_logit * shares[negative] / sum);
                }
            }
        }
        loss
    }
}

/// Binary cross-entropy of the sigmoid of `logit` and `target`, and its derivative by the logit.
pub(crate) fn cross_entropy(logit: f64, target: f64) -> (f64, f64) {
    let softplus = logit.max(0.0) + (-logit.abs()).exp().ln_1p();
    (softplus - target * logit, sigmoid(logit) - target)
}

/// `1 / (1 + e^-x)`.
pub(crate) fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// A row's query and one of its candidates.
pub(crate) struct Pair {
    row: usize,
    /// The product's number.
    product: u32,
    pub(crate) grade: f64,
    pub(crate) cos: f64,
}

/// Two pairs of a list of which the first is judged better.
pub(crate) struct Order {
    pub(crate) better: usize,
    pub(crate) worse: usize,
    /// How likely that is right.
    pub(crate) target: f64,
    /// What it counts.
    pub(crate) weight: f64,
}

/// The pairs of a step by lists.
pub(crate) struct Step<'a> {
    batch: &'a Batch<'a>,
    /// In the order of the candidates.
    pub(crate) pairs: Vec<Pair>,
    /// The pairs of each query, by its first row.
    pub(crate) lists: Vec<Vec<usize>>,
}

impl<'a> Step<'a> {
    pub(crate) fn new(batch: &'a Batch<'a>) -> Step<'a> {
        let rows = batch.rows;
        let of_candidates = rows.row_of_candidates().zip(batch.cosines()).enumerate();
        let pairs = of_candidates.map(|(candidate, (row, cos))| Pair {
            row,
            product: rows.candidates()[candidate],
            grade: f64::from(rows.labels()[candidate]),
            cos,
        });
        let pairs: Vec<Pair> = pairs.collect();
        let mut list_of: HashMap<u32, usize> = HashMap::new();
        let mut lists: Vec<Vec<usize>> = Vec::new();
        for (at, pair) in pairs.iter().enumerate() {
            let list = *list_of.entry(rows.queries()[pair.row]).or_insert(lists.len());
            if list == lists.len() {
                lists.push(Vec::new());
            }
            lists[list].push(at);
        }
        Step { batch, pairs, lists }
    }

    /// The pairs of pairs of each list whose grades differ.
    pub(crate) fn orders(&self, words: &ProductWords, steepness: f64) -> Vec<Order> {
        let mut orders = Vec::new();
        for list in &self.lists {
            for &better in list {
                for &worse in list {
                    let (a, b) = (&self.pairs[better], &self.pairs[worse]);
                    if a.grade > b.grade {
                        let target = sigmoid(steepness * (a.grade - b.grade));
                        let alike = words.jaccard(a.product, b.product);
                        let weight = (2.0 * target - 1.0) * (1.0 - alike);
                        orders.push(Order { better, worse, target, weight });
                    }
                }
            }
        }
        orders
    }

    /// The candidates of other lists that are surely wrong for the query of `list`.
    fn clean_negatives(&self, list: usize, words: &ProductWords) -> Vec<usize> {
        let query = |list: &[usize]| self.batch.queries.get(self.pairs[list[0]].row);
        let of_list = &self.lists[list];
        let pairs = of_list.iter().map(|&at| &self.pairs[at]);
        let relevant = pairs.filter(|pair| pair.grade >= f64::from(RELEVANT));
        let relevant: Vec<u32> = relevant.map(|pair| pair.product).collect();
        let others = self.lists.iter().enumerate().filter(|&(other, candidates)| {
            other != list && cosine(query(of_list), query(candidates)) < NEAR_QUERY
        });
        let candidates = others.flat_map(|(_, candidates)| candidates).copied();
        let is_clean = |&at: &usize| {
            let product = self.pairs[at].product;
            relevant.iter().all(|&right| words.jaccard(right, product) < ALIKE)
        };
        candidates.filter(is_clean).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::Rows;

    /// Query 0 has products 0 and 1, query 1 product 2. All cosines are those of the angles' differences.
    struct Made {
        rows: Rows,
        queries: Vec<f32>,
        products: Vec<f32>,
    }

    const QUERY_ANGLES: [f64; 3] = [0.0, 0.0, 1.5];
    const PRODUCT_ANGLES: [f64; 3] = [0.5, 0.8, 1.1];

    fn made(grades: [f32; 3]) -> Made {
        let mut rows = Rows::default();
        for (at, query) in [0, 0, 1].into_iter().enumerate() {
            rows.push(query, [(at as u32, grades[at])]);
        }
        let units = |angles: [f64; 3]| {
            angles.iter().flat_map(|angle| [angle.cos() as f32, angle.sin() as f32]).collect()
        };
        Made { rows, queries: units(QUERY_ANGLES), products: units(PRODUCT_ANGLES) }
    }

    fn value(made: &Made, words: &[Vec<u32>], weights: Terms) -> f64 {
        let words = Arc::new(ProductWords::new(words));
        let loss = GradedLists { words, fit: Fit::default(), weights };
        loss.value(&Batch::of_each(&made.rows, &made.queries, &made.products, 2))
    }

    #[track_caller]
    fn assert_near(got: f64, want: f64) {
        assert!((got - want).abs() < 1e-6, "{got}, not {want}");
    }

    const POINTWISE: Terms = Terms { pointwise: 1.0, ..Terms::NONE };
    const PAIRWISE: Terms = Terms { pairwise: 1.0, ..Terms::NONE };
    const NEGATIVES: Terms = Terms { negatives: 1.0, ..Terms::NONE };

    #[test]
    fn the_terms_are_those_of_the_formulas() {
        let made = made([1.0, 0.25, 0.8]);
        let Fit { scale, bias, pair_scale, steepness } = Fit::default();
        let cos = [0.5_f64.cos(), 0.8_f64.cos(), 0.4_f64.cos()];
        let grades = [1.0, 0.25, f64::from(0.8_f32)];
        let entropy = |logit: f64, target: f64| {
            let p = 1.0 / (1.0 + (-logit).exp());
            -target * p.ln() - (1.0 - target) * (1.0 - p).ln()
        };
        let points = (0..3).map(|at| entropy(scale * cos[at] + bias, grades[at]));
        assert_near(value(&made, &[], POINTWISE), points.sum::<f64>() / 3.0);
        // There is one pair of a list: its weight divides itself.
        let target = 1.0 / (1.0 + (-steepness * 0.75).exp());
        let pair = entropy(pair_scale * (cos[0] - cos[1]), target);
        assert_near(value(&made, &[], PAIRWISE), pair);
        // Product 0 against product 2, and product 2 against products 0 and 1.
        let e = |angle: f64| (20.0 * angle.cos()).exp();
        let first = -(e(0.5) / (e(0.5) + e(1.1))).ln();
        let last = -(e(0.4) / (e(0.4) + e(1.0) + e(0.7))).ln();
        let want = (first + grades[2] * last) / (1.0 + grades[2]);
        assert_near(value(&made, &[], NEGATIVES), want);
        let all = Terms { pointwise: 2.0, pairwise: 3.0, negatives: 0.5 };
        let sum: f64 = [POINTWISE, PAIRWISE, NEGATIVES]
            .into_iter()
            .zip([2.0, 3.0, 0.5])
            .map(|(term, weight)| weight * value(&made, &[], term))
            .sum();
        assert_near(value(&made, &[], all), sum);
    }

    #[test]
    fn a_product_like_a_relevant_one_is_no_negative() {
        let made = made([1.0, 0.0, 0.0]);
        let unlike = [vec![1, 2], vec![3], vec![4]];
        let alike = [vec![1, 2], vec![3], vec![1, 2, 5]];
        assert!(value(&made, &unlike, NEGATIVES) > 0.0);
        assert_eq!(value(&made, &alike, NEGATIVES), 0.0);
    }

    #[test]
    fn nor_is_one_of_nearly_the_same_query() {
        let mut made = made([1.0, 0.0, 0.0]);
        assert!(value(&made, &[], NEGATIVES) > 0.0);
        let near = 0.6_f64;
        made.queries[4..].copy_from_slice(&[near.cos() as f32, near.sin() as f32]);
        assert_eq!(value(&made, &[], NEGATIVES), 0.0);
    }

    #[test]
    fn products_nearly_alike_say_little_of_the_order() {
        let mut rows = Rows::default();
        for (product, grade) in [(0, 1.0), (1, 0.0), (2, 0.0)] {
            rows.push(0, [(product, grade)]);
        }
        let Made { queries, products, .. } = made([0.0; 3]);
        let queries = [&queries[..2]; 3].concat();
        let batch = Batch::of_each(&rows, &queries, &products, 2);
        let words = ProductWords::new(&[vec![1, 2, 3, 4], vec![1, 2, 3, 9], vec![7]]);
        let orders = Step::new(&batch).orders(&words, 3.2);
        let weights: Vec<f64> = orders.iter().map(|order| order.weight).collect();
        let whole = 2.0 * sigmoid(3.2) - 1.0;
        assert_eq!(weights.len(), 2);
        assert_near(weights[0], whole * 0.4);
        assert_near(weights[1], whole);
    }
}
