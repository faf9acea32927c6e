//! Judged pairs as token ids. Equal texts are tokenised and held once.

use crate::loss::cosine;
use loriot_data::Pair;
use loriot_encoder::batch::{Side, Text, TextKey, distinct};
use loriot_encoder::encoder::Encoder;
use loriot_files::Sha256Hasher;

/// The rows of a data set, ready to be encoded.
#[derive(Clone, Debug, Default)]
pub struct TokenPairs {
    /// Token ids of the distinct queries, in the order of their first rows.
    pub queries: Vec<Vec<u32>>,
    /// Token ids of the distinct products.
    pub products: Vec<Vec<u32>>,
    /// Of each row, where its query and its product stand in the lists above.
    pub rows: Vec<(u32, u32)>,
    /// Of each row, how relevant the product is, in `0.0..=1.0`.
    pub labels: Vec<f32>,
    /// SHA-256 over the texts and labels of all rows in order.
    pub sha256: String,
}

impl TokenPairs {
    /// Tokenises `pairs` as `encoder` reads them, prompts included.
    pub fn new(encoder: &Encoder, pairs: &[Pair]) -> TokenPairs {
        let mut hasher = Sha256Hasher::new();
        for pair in pairs {
            hasher.field(pair.query.as_bytes());
            hasher.field(pair.product_title.as_bytes());
            hasher.update(&pair.relevance_label.to_le_bytes());
        }
        let (queries, query_of) = distinct(pairs.iter().map(|pair| pair.query.as_str()));
        let (products, product_of) = distinct(pairs.iter().map(|pair| pair.product_title.as_str()));
        TokenPairs {
            queries: encoder.tokenize(&queries, Side::Query),
            products: encoder.tokenize(&products, Side::Product),
            rows: query_of.into_iter().zip(product_of).collect(),
            labels: pairs.iter().map(|pair| pair.relevance_label).collect(),
            sha256: hasher.finish(),
        }
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

    /// The cosine of every row, given what makes unit vectors `(b, d)` of texts. Each distinct text
    /// is embedded once, `batch_size` at a time; `on_progress` hears how many of how many are done.
    pub fn scores(
        &self,
        embed: impl Fn(&[Vec<u32>]) -> Vec<f32>,
        batch_size: usize,
        on_progress: &mut dyn FnMut(usize, usize),
    ) -> Vec<f64> {
        let mut done = 0;
        let mut embed_all = |texts: &[Vec<u32>]| -> Vec<f32> {
            let mut unit_bd = Vec::new();
            for batch in texts.chunks(batch_size) {
                unit_bd.extend(embed(batch));
                done += batch.len();
                on_progress(done, self.n_texts());
            }
            unit_bd
        };
        let (query_bd, product_bd) = (embed_all(&self.queries), embed_all(&self.products));
        let dim = query_bd.len() / self.queries.len().max(1);
        let row = |at: u32| at as usize * dim..(at as usize + 1) * dim;
        let score = |&(query, product): &(u32, u32)| {
            cosine(&query_bd[row(query)], &product_bd[row(product)])
        };
        self.rows.iter().map(score).collect()
    }

    /// The texts of `rows`, all queries first, and their labels. `first` is the place of the first
    /// of them in the global batch, which names its dropout masks.
    pub fn batch(&self, rows: &[u32], first: usize) -> (Vec<Text<'_>>, Vec<f32>) {
        let text = |place: usize, row: u32, side: Side| {
            let (query, product) = self.rows[row as usize];
            let place = (first + place) as u32;
            match side {
                Side::Query => {
                    Text { ids: &self.queries[query as usize], key: TextKey::query(place) }
                }
                Side::Product => {
                    Text { ids: &self.products[product as usize], key: TextKey::product(place, 0) }
                }
            }
        };
        let texts = [Side::Query, Side::Product].into_iter().flat_map(|side| {
            rows.iter().enumerate().map(move |(place, &row)| text(place, row, side))
        });
        (texts.collect(), rows.iter().map(|&row| self.labels[row as usize]).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_row_scores_the_cosine_of_its_own_texts() {
        let pairs = TokenPairs {
            queries: vec![vec![0], vec![1]],
            products: vec![vec![1], vec![0]],
            rows: vec![(0, 0), (0, 1), (1, 0)],
            labels: vec![0.0; 3],
            sha256: String::new(),
        };
        // Text 0 lies along one axis and text 1 along the other.
        let embed = |texts: &[Vec<u32>]| -> Vec<f32> {
            texts.iter().flat_map(|ids| if ids[0] == 0 { [1.0, 0.0] } else { [0.0, 1.0] }).collect()
        };
        let mut told = Vec::new();
        let scores = pairs.scores(embed, 1, &mut |done, total| told.push((done, total)));
        assert_eq!(scores, [0.0, 1.0, 1.0]);
        assert_eq!(told, [(1, 4), (2, 4), (3, 4), (4, 4)]);
    }

    #[test]
    fn a_batch_holds_queries_then_products_with_their_place_in_the_whole() {
        let pairs = TokenPairs {
            queries: vec![vec![1], vec![2]],
            products: vec![vec![3], vec![4], vec![5]],
            rows: vec![(0, 0), (0, 1), (1, 2)],
            labels: vec![1.0, 0.0, 0.5],
            sha256: String::new(),
        };
        let (texts, labels) = pairs.batch(&[2, 0], 64);
        let got: Vec<_> = texts.iter().map(|text| (text.ids[0], text.key)).collect();
        let (q, p) = (TextKey::query, |row| TextKey::product(row, 0));
        assert_eq!(got, [(2, q(64)), (1, q(65)), (5, p(64)), (3, p(65))]);
        assert_eq!(labels, [0.5, 1.0]);
    }
}
