//! Rows of texts as token ids. Equal texts are tokenised and held once.

use crate::loss::Batch;
use crate::rows::Rows;
use loriot_data::Pair;
use loriot_encoder::batch::{Side, Text, TextKey, distinct};
use loriot_encoder::encoder::Encoder;
use loriot_files::Sha256Hasher;
use std::ops::ControlFlow;

/// The rows of a data set, ready to be encoded.
#[derive(Clone, Debug, Default)]
pub struct TokenPairs {
    /// Token ids of the distinct queries, in the order of their first rows.
    pub queries: Vec<Vec<u32>>,
    /// Token ids of the distinct products.
    pub products: Vec<Vec<u32>>,
    /// The rows, whose texts are named by their places in the lists above. Their labels are what training asks for.
    pub rows: Rows,
    /// The labels by which evaluations tell relevant candidates from others, where they are not those of the rows.
    pub relevance: Option<Vec<f32>>,
    /// SHA-256 over the texts and labels of all rows in order.
    pub sha256: String,
}

impl TokenPairs {
    /// Tokenises `pairs` as `encoder` reads them, prompts included: a row with one candidate for each.
    pub fn new(encoder: &Encoder, pairs: &[Pair]) -> TokenPairs {
        let mut hasher = Sha256Hasher::new();
        for pair in pairs {
            hasher.field(pair.query.as_bytes());
            hasher.field(pair.product_title.as_bytes());
            hasher.update(&pair.relevance_label.to_le_bytes());
        }
        let (queries, query_of) = distinct(pairs.iter().map(|pair| pair.query.as_str()));
        let (products, product_of) = distinct(pairs.iter().map(|pair| pair.product_title.as_str()));
        let mut rows = Rows::default();
        for ((pair, query), product) in pairs.iter().zip(query_of).zip(product_of) {
            rows.push(query, [(product, pair.relevance_label)]);
        }
        TokenPairs {
            queries: encoder.tokenize(&queries, Side::Query),
            products: encoder.tokenize(&products, Side::Product),
            rows,
            relevance: None,
            sha256: hasher.finish(),
        }
    }

    /// The same, with another label for each pair to train on, in `0.0..=1.0`; the pairs' own decide evaluations.
    pub fn with_targets(encoder: &Encoder, pairs: &[Pair], targets: &[f32]) -> TokenPairs {
        let own = TokenPairs::new(encoder, pairs);
        let mut hasher = Sha256Hasher::new();
        hasher.field(own.sha256.as_bytes());
        targets.iter().for_each(|target| hasher.update(&target.to_le_bytes()));
        let (rows, relevance) = own.rows.with_labels(targets);
        TokenPairs { rows, relevance: Some(relevance), sha256: hasher.finish(), ..own }
    }

    /// The labels of the candidates by which evaluations tell relevant ones from others.
    pub fn relevance(&self) -> &[f32] {
        self.relevance.as_deref().unwrap_or(self.rows.labels())
    }

    /// Rows.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Distinct queries and products.
    pub fn n_texts(&self) -> usize {
        self.queries.len() + self.products.len()
    }

    /// The unit vectors of all texts, given what makes unit vectors `(b, d)` of texts. Each distinct text is embedded once,
    /// `batch_size` at a time. Before the first batch and after each, `go_on` hears how many of how many are done; `None`
    /// once it breaks.
    pub fn embed(
        &self,
        embed: impl Fn(&[Vec<u32>]) -> Vec<f32>,
        batch_size: usize,
        go_on: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
    ) -> Option<PairVectors> {
        let mut done = 0;
        if go_on(0, self.n_texts()).is_break() {
            return None;
        }
        let mut embed_all = |texts: &[Vec<u32>]| -> Option<Vec<f32>> {
            let mut unit_bd = Vec::new();
            for batch in texts.chunks(batch_size) {
                unit_bd.extend(embed(batch));
                done += batch.len();
                if go_on(done, self.n_texts()).is_break() {
                    return None;
                }
            }
            Some(unit_bd)
        };
        let (query_qd, product_pd) = (embed_all(&self.queries)?, embed_all(&self.products)?);
        let dim = query_qd.len() / self.queries.len().max(1);
        Some(PairVectors { query_qd, product_pd, dim })
    }

    /// The cosine of every candidate, those of row 0 first; arguments and `None` as of [`TokenPairs::embed`].
    pub fn scores(
        &self,
        embed: impl Fn(&[Vec<u32>]) -> Vec<f32>,
        batch_size: usize,
        go_on: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
    ) -> Option<Vec<f64>> {
        let vectors = self.embed(embed, batch_size, go_on)?;
        Some(vectors.batch(&self.rows).cosines().collect())
    }

    /// The texts of `rows`, which are some of this data: all queries, then all candidates. `first` is the number of the
    /// first row in its step, which names the dropout masks.
    pub fn texts(&self, rows: &Rows, first: usize) -> Vec<Text<'_>> {
        let place = |row: usize| (first + row) as u32;
        let queries = rows.queries().iter().enumerate().map(|(row, &query)| Text {
            ids: &self.queries[query as usize],
            key: TextKey::query(place(row)),
        });
        let candidates = rows.row_of_candidates().zip(rows.candidates()).enumerate();
        let candidates = candidates.map(|(at, (row, &product))| {
            let candidate = (at - rows.candidates_of(row).start) as u32;
            let ids = &self.products[product as usize];
            Text { ids, key: TextKey::product(place(row), candidate) }
        });
        queries.chain(candidates).collect()
    }
}

/// The unit vectors of all distinct texts of a data set.
#[derive(Clone, Debug)]
pub struct PairVectors {
    query_qd: Vec<f32>,
    product_pd: Vec<f32>,
    dim: usize,
}

impl PairVectors {
    /// `rows` of that data set with their vectors.
    pub fn batch<'a>(&'a self, rows: &'a Rows) -> Batch<'a> {
        Batch::of_distinct(rows, &self.query_qd, &self.product_pd, self.dim)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(n_queries: u32, n_products: u32, rows: Rows) -> TokenPairs {
        let ids = |n| (0..n).map(|id| vec![id]).collect();
        TokenPairs {
            queries: ids(n_queries),
            products: ids(n_products),
            rows,
            ..TokenPairs::default()
        }
    }

    #[test]
    fn each_candidate_scores_the_cosine_of_its_own_texts() {
        let mut rows = Rows::default();
        rows.push(0, [(1, 0.0), (0, 0.0)]);
        rows.push(1, [(1, 0.0)]);
        let pairs = pairs(2, 2, rows);
        // Text 0 lies along one axis and text 1 along the other.
        let embed = |texts: &[Vec<u32>]| -> Vec<f32> {
            texts.iter().flat_map(|ids| if ids[0] == 0 { [1.0, 0.0] } else { [0.0, 1.0] }).collect()
        };
        let mut told = Vec::new();
        let scores = pairs.scores(embed, 1, &mut |done, total| {
            told.push((done, total));
            ControlFlow::Continue(())
        });
        assert_eq!(scores.unwrap(), [0.0, 1.0, 1.0]);
        assert_eq!(told, [(0, 4), (1, 4), (2, 4), (3, 4), (4, 4)]);
        for last in 0..=4 {
            let mut n_told = 0;
            let scores = pairs.scores(embed, 1, &mut |done, _| {
                n_told += 1;
                if done == last { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
            assert!(scores.is_none() && n_told == last + 1, "{last}: {n_told}");
        }
    }

    #[test]
    fn texts_are_queries_then_candidates_with_their_places_in_the_step() {
        let mut rows = Rows::default();
        rows.push(0, [(0, 1.0)]);
        rows.push(1, [(2, 0.5), (1, 0.0)]);
        let pairs = pairs(2, 3, rows);
        let texts = pairs.texts(&pairs.rows.select([1, 0]), 64);
        let got: Vec<_> = texts.iter().map(|text| (text.ids[0], text.key)).collect();
        let (q, p) = (TextKey::query, TextKey::product);
        assert_eq!(got, [(1, q(64)), (0, q(65)), (2, p(64, 0)), (1, p(64, 1)), (0, p(65, 0))]);
    }
}
