//! Vectors of the texts of judged rows, each distinct text embedded once.

use crate::progress::Progress;
use loriot_data::Pair;
use loriot_encoder::Side;
use loriot_encoder::batch::distinct;
use loriot_encoder::encoder::Encoder;
use loriot_train::loss::cosine;

/// Texts between two movements of the progress bar.
const PROGRESS_TEXTS: usize = 256;

/// The distinct texts of judged rows, and of a catalogue where there is one.
pub struct Texts<'a> {
    /// Queries in the order of their first rows.
    pub queries: Vec<&'a str>,
    /// Titles of the rows in the order of their first rows, then those of the catalogue that no row has.
    pub titles: Vec<&'a str>,
    /// Of each row, the place of its query.
    pub query_of: Vec<u32>,
    /// Of each row, the place of its title.
    pub title_of: Vec<u32>,
    /// The places of the catalogue's titles, each once.
    pub catalogue: Vec<u32>,
}

impl<'a> Texts<'a> {
    /// The texts of `pairs`, and of a catalogue that has the titles `catalogue`.
    pub fn new(pairs: &'a [Pair], catalogue: &'a [String]) -> Texts<'a> {
        let (queries, query_of) = distinct(pairs.iter().map(|pair| pair.query.as_str()));
        let of_rows = pairs.iter().map(|pair| pair.product_title.as_str());
        let (titles, mut places) = distinct(of_rows.chain(catalogue.iter().map(String::as_str)));
        let of_catalogue = places.split_off(pairs.len());
        let (catalogue, _) = distinct(of_catalogue);
        Texts { queries, titles, query_of, title_of: places, catalogue }
    }

    /// All vectors.
    pub fn embed(&self, encoder: &Encoder) -> TextVectors {
        let n_texts = self.queries.len() + self.titles.len();
        let mut progress = Progress::new("embedding", n_texts as u64);
        let mut embed = |texts: &[&str], side: Side| -> Vec<f32> {
            let mut unit_td = Vec::with_capacity(texts.len() * encoder.dim());
            for texts in texts.chunks(PROGRESS_TEXTS) {
                unit_td.extend(encoder.embed(texts, side));
                progress.add(texts.len() as u64);
            }
            unit_td
        };
        let query_qd = embed(&self.queries, Side::Query);
        let title_td = embed(&self.titles, Side::Product);
        progress.finish();
        TextVectors { query_qd, title_td, dim: encoder.dim() }
    }

    /// The rows of each query, in their order.
    pub fn lists(&self) -> Vec<Vec<usize>> {
        let mut lists = vec![Vec::new(); self.queries.len()];
        for (row, &query) in self.query_of.iter().enumerate() {
            lists[query as usize].push(row);
        }
        lists
    }
}

/// The unit vectors of [`Texts`].
pub struct TextVectors {
    /// `(q, d)`, of the queries.
    pub query_qd: Vec<f32>,
    /// `(t, d)`, of the titles.
    pub title_td: Vec<f32>,
    /// Numbers in a vector.
    pub dim: usize,
}

impl TextVectors {
    /// The vector of a query.
    pub fn query(&self, place: u32) -> &[f32] {
        &self.query_qd[place as usize * self.dim..][..self.dim]
    }

    /// The vector of a title.
    pub fn title(&self, place: u32) -> &[f32] {
        &self.title_td[place as usize * self.dim..][..self.dim]
    }

    /// The cosine of each row.
    pub fn cosines(&self, texts: &Texts<'_>) -> Vec<f64> {
        let rows = texts.query_of.iter().zip(&texts.title_of);
        rows.map(|(&query, &title)| cosine(self.query(query), self.title(title))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(query: &str, product_title: &str) -> Pair {
        Pair {
            query: query.into(),
            product_title: product_title.into(),
            relevance_label: 0.0,
            id: None,
            grade: None,
            line: 1,
            file_idx: 0,
        }
    }

    #[test]
    fn each_text_stands_once_and_each_row_finds_its_own() {
        let pairs = [pair("a", "lamp"), pair("b", "tv"), pair("a", "tv")];
        let catalogue = ["tv", "sofa", "tv"].map(str::to_owned);
        let texts = Texts::new(&pairs, &catalogue);
        assert_eq!(
            (&texts.queries[..], &texts.titles[..]),
            (&["a", "b"][..], &["lamp", "tv", "sofa"][..])
        );
        assert_eq!((&texts.query_of[..], &texts.title_of[..]), (&[0, 1, 0][..], &[0, 1, 1][..]));
        assert_eq!(texts.catalogue, [1, 2]);
        assert_eq!(texts.lists(), [vec![0, 2], vec![1]]);
        let vectors = TextVectors {
            query_qd: vec![1.0, 0.0, 0.0, 1.0],
            title_td: vec![1.0, 0.0, 0.6, 0.8, 0.0, 1.0],
            dim: 2,
        };
        let cosines = vectors.cosines(&texts);
        let cosines: Vec<f32> = cosines.into_iter().map(|cosine| cosine as f32).collect();
        assert_eq!(cosines, [1.0, 0.8, 0.6]);
    }
}
