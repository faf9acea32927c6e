//! What is known of a query and one of its results.
//!
//! | feature | of a query and a title |
//! |---|---|
//! | `cosine` | of their vectors |
//! | `trigram_overlap` | share of the query's character trigrams that the title has |
//! | `word_overlap` | share of the query's words that the title has |
//! | `idf_overlap` | the same, words weighed by how rare they are in titles |
//! | `product_in_query` | 1 where the title's product word is in the query |
//! | `product_in_title` | 1 where the query's product word is in the title |
//! | `title_length`, `query_length` | `ln(1 + words)` |
//! | `likeness` | mean cosine of the title and the other results, of the 20 nearest to the query |

use crate::words::{product_word, trigrams, words};
use std::collections::HashMap;

/// The features' names, in their order.
pub const NAMES: [&str; N_FEATURES] = [
    "cosine",
    "trigram_overlap",
    "word_overlap",
    "idf_overlap",
    "product_in_query",
    "product_in_title",
    "title_length",
    "query_length",
    "likeness",
];
/// How many there are.
pub const N_FEATURES: usize = 9;
/// Where the cosine stands.
pub(crate) const COSINE: usize = 0;
/// Results that the others are compared with.
const N_LIKE: usize = 20;

/// A query and its results in any order.
#[derive(Clone, Copy, Debug)]
pub struct List<'a> {
    /// The query's text.
    pub query: &'a str,
    /// A title for each result.
    pub titles: &'a [&'a str],
    /// The cosine of each.
    pub cosines: &'a [f64],
    /// What [`likeness`] says of each.
    pub likeness: &'a [Option<f64>],
}

/// The mean cosine of each result's vector and those of the other results, of the 20 with the highest `cosines`.
/// `None` where a result is alone. The vectors are of length 1.
pub fn likeness(vectors: &[&[f32]], cosines: &[f64]) -> Vec<Option<f64>> {
    assert_eq!(vectors.len(), cosines.len(), "a cosine for each vector");
    let mut nearest: Vec<usize> = (0..vectors.len()).collect();
    nearest.sort_by(|&a, &b| cosines[b].total_cmp(&cosines[a]));
    nearest.truncate(N_LIKE);
    let dim = vectors.first().map_or(0, |vector| vector.len());
    let mut sum_d = vec![0.0; dim];
    for &at in &nearest {
        sum_d.iter_mut().zip(vectors[at]).for_each(|(sum, x)| *sum += f64::from(*x));
    }
    let of_result = |(at, vector): (usize, &&[f32])| {
        // A vector times itself is 1.
        let own = if nearest.contains(&at) { 1.0 } else { 0.0 };
        let n_others = nearest.len() as f64 - own;
        let sum: f64 = sum_d.iter().zip(*vector).map(|(sum, x)| sum * f64::from(*x)).sum();
        (n_others > 0.0).then(|| (sum - own) / n_others)
    };
    vectors.iter().enumerate().map(of_result).collect()
}

/// In how many of some titles each word is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rarity {
    /// The titles.
    pub n_titles: u64,
    /// Words that are in two titles or more; others count as in one.
    pub titles_with: HashMap<String, u64>,
}

impl Rarity {
    /// Counts the words of `titles`, each of which should stand there once.
    pub fn of<'a>(titles: impl IntoIterator<Item = &'a str>) -> Rarity {
        let mut rarity = Rarity::default();
        for title in titles {
            rarity.n_titles += 1;
            let mut words = words(title);
            words.sort_unstable();
            words.dedup();
            for word in words {
                *rarity.titles_with.entry(word).or_default() += 1;
            }
        }
        rarity.titles_with.retain(|_, n_titles| *n_titles > 1);
        rarity
    }

    /// `ln((titles + 1) / (titles with the word + 1/2))`, above 0.
    fn idf(&self, word: &str) -> f64 {
        let n_with = self.titles_with.get(word).copied().unwrap_or(1).min(self.n_titles.max(1));
        ((self.n_titles.max(1) as f64 + 1.0) / (n_with as f64 + 0.5)).ln()
    }
}

/// The features of each result, `None` where there is nothing to measure.
pub(crate) fn features(list: &List<'_>, rarity: &Rarity) -> Vec<[Option<f64>; N_FEATURES]> {
    let List { query, titles, cosines, likeness } = *list;
    assert!(titles.len() == cosines.len() && titles.len() == likeness.len(), "one of each");
    let query_words = words(query);
    let query_trigrams = trigrams(&query_words);
    let query_product = product_word(query);
    let mut distinct = query_words.clone();
    distinct.sort_unstable();
    distinct.dedup();
    let idfs: Vec<f64> = distinct.iter().map(|word| rarity.idf(word)).collect();
    let length = |words: &[String]| (words.len() as f64).ln_1p();
    let of_title = |at: usize| {
        let title_words = words(titles[at]);
        let title_trigrams = trigrams(&title_words);
        let is_in_title = |word: &String| title_words.contains(word);
        let n_trigrams =
            query_trigrams.iter().filter(|three| title_trigrams.binary_search(three).is_ok());
        let n_words = distinct.iter().filter(|word| is_in_title(word)).count();
        let found = distinct.iter().zip(&idfs).filter(|(word, _)| is_in_title(word));
        let idf_found: f64 = found.map(|(_, idf)| idf).sum();
        let is = |found: bool| f64::from(u8::from(found));
        let product = product_word(titles[at]);
        [
            Some(cosines[at]),
            share(n_trigrams.count() as f64, query_trigrams.len() as f64),
            share(n_words as f64, distinct.len() as f64),
            share(idf_found, idfs.iter().sum()),
            product.map(|word| is(query_words.contains(&word))),
            query_product.as_ref().map(|word| is(is_in_title(word))),
            Some(length(&title_words)),
            Some(length(&query_words)),
            likeness[at],
        ]
    };
    (0..titles.len()).map(of_title).collect()
}

fn share(part: f64, whole: f64) -> Option<f64> {
    (whole > 0.0).then(|| part / whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_of_a_query_and_its_titles() {
        let titles = ["Steel Kettle with Lid", "Red Towels", "--"];
        let rarity = Rarity::of(["kettle", "steel kettle", "towel"]);
        assert_eq!(rarity.titles_with, HashMap::from([("kettle".to_owned(), 2)]));
        let list = List {
            query: "red kettles",
            titles: &titles,
            cosines: &[0.5, 0.25, 0.0],
            likeness: &[Some(0.1), None, None],
        };
        let got = features(&list, &rarity);
        let (red, kettle) = ((4.0_f64 / 1.5).ln(), (4.0_f64 / 2.5).ln());
        // `red` has 3 trigrams and `kettle` 6: " re red ed " and " ke ket ett ttl tle le ".
        let want = [
            Some(0.5),
            Some(6.0 / 9.0),
            Some(0.5),
            Some(kettle / (red + kettle)),
            Some(1.0),
            Some(1.0),
            Some(4.0_f64.ln_1p()),
            Some(2.0_f64.ln_1p()),
            Some(0.1),
        ];
        assert_eq!(got[0], want);
        assert_eq!((got[1][4], got[1][5]), (Some(0.0), Some(0.0)), "a towel is no kettle");
        assert_eq!(got[2][4], None, "no product is named");
        let nothing = List { query: "", ..list };
        assert_eq!(features(&nothing, &rarity)[0][1..4], [None; 3]);
    }

    #[test]
    fn likeness_is_the_mean_cosine_with_the_other_results() {
        let [x, y, between]: [&[f32]; 3] = [&[1.0, 0.0], &[0.0, 1.0], &[0.6, 0.8]];
        let got = likeness(&[x, y, between], &[0.1, 0.2, 0.3]);
        for (got, want) in got.into_iter().zip([0.3, 0.4, 0.7]) {
            assert!((got.unwrap() - want).abs() < 1e-6, "{got:?}");
        }
        assert_eq!(likeness(&[x], &[0.1]), [None]);
        assert!(likeness(&[], &[]).is_empty());
    }

    #[test]
    fn only_the_twenty_nearest_are_compared_with() {
        let (near, far): (&[f32], &[f32]) = (&[1.0, 0.0], &[0.0, 1.0]);
        let vectors: Vec<&[f32]> = (0..25).map(|at| if at < 20 { near } else { far }).collect();
        let cosines: Vec<f64> = (0..25).map(|at| f64::from(-at)).collect();
        let got = likeness(&vectors, &cosines);
        assert_eq!((got[0], got[24]), (Some(1.0), Some(0.0)));
    }
}
