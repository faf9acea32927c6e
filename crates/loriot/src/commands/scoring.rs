//! A scorer over the vectors of judged rows, or of what a search found.

use super::texts::{TextVectors, Texts};
use loriot_encoder::encoder::Encoder;
use loriot_rank::scorer::Estimates;
use loriot_rank::{List, MadeFor, Scorer, likeness};

/// What names the cosines of `encoder`.
pub fn made_for(encoder: &Encoder) -> MadeFor {
    MadeFor {
        encoder: encoder.identity().to_owned(),
        query_prompt: encoder.prompts().query.clone(),
    }
}

/// The lists of judged rows with what a scorer needs of each.
pub struct ScoredLists<'a> {
    /// For each query its rows, in their order.
    pub rows: Vec<Vec<usize>>,
    queries: &'a [&'a str],
    titles: Vec<Vec<&'a str>>,
    cosines: Vec<Vec<f64>>,
    likeness: Vec<Vec<Option<f64>>>,
}

impl<'a> ScoredLists<'a> {
    /// The lists of `texts`.
    pub fn new(texts: &'a Texts<'a>, vectors: &TextVectors) -> ScoredLists<'a> {
        let rows = texts.lists();
        let cosines = vectors.cosines(texts);
        let cosines: Vec<Vec<f64>> =
            rows.iter().map(|rows| rows.iter().map(|&row| cosines[row]).collect()).collect();
        let title_of = |&row: &usize| texts.title_of[row];
        let vectors_of = |rows: &Vec<usize>| -> Vec<&[f32]> {
            rows.iter().map(|row| vectors.title(title_of(row))).collect()
        };
        ScoredLists {
            queries: &texts.queries,
            titles: rows
                .iter()
                .map(|rows| rows.iter().map(|row| texts.titles[title_of(row) as usize]).collect())
                .collect(),
            likeness: rows
                .iter()
                .zip(&cosines)
                .map(|(rows, cosines)| likeness(&vectors_of(rows), cosines))
                .collect(),
            cosines,
            rows,
        }
    }

    /// The list of a query.
    pub fn list(&self, query: usize) -> List<'_> {
        List {
            query: self.queries[query],
            titles: &self.titles[query],
            cosines: &self.cosines[query],
            likeness: &self.likeness[query],
        }
    }

    /// Both estimates of every row, in the order of the rows.
    pub fn estimates(&self, scorer: &Scorer) -> Vec<Estimates> {
        let n_rows = self.rows.iter().map(Vec::len).sum();
        let mut estimates = vec![Estimates { cosine: 0.0, features: 0.0 }; n_rows];
        for (query, rows) in self.rows.iter().enumerate() {
            for (&row, both) in rows.iter().zip(scorer.estimates(&self.list(query))) {
                estimates[row] = both;
            }
        }
        estimates
    }
}

/// The score of every row, in the order of the rows.
pub fn row_scores(scorer: &Scorer, texts: &Texts<'_>, vectors: &TextVectors) -> Vec<f64> {
    let estimates = ScoredLists::new(texts, vectors).estimates(scorer);
    estimates.into_iter().map(|both| both.mix(scorer.strength)).collect()
}

/// The scores of `titles`, which were found for a query with these cosines; both are places in `texts`.
pub fn list_scores(
    scorer: &Scorer,
    texts: &Texts<'_>,
    vectors: &TextVectors,
    (query, titles): (u32, &[u32]),
    cosines: &[f64],
) -> Vec<f64> {
    let of_titles: Vec<&[f32]> = titles.iter().map(|&title| vectors.title(title)).collect();
    let titles: Vec<&str> = titles.iter().map(|&title| texts.titles[title as usize]).collect();
    scorer.scores(&List {
        query: texts.queries[query as usize],
        titles: &titles,
        cosines,
        likeness: &likeness(&of_titles, cosines),
    })
}
