//! Word overlap: the baseline that a model must beat to have learnt anything.

use std::collections::HashMap;

/// Share of the query's distinct words that are in the title, in `0.0..=1.0`.
///
/// Words are runs of letters and digits, lower-cased; a query without a word scores 0.
pub fn word_overlap(query: &str, title: &str) -> f64 {
    let (mut query_words, title_words) = (words(query), words(title));
    query_words.sort_unstable();
    query_words.dedup();
    let n_found = query_words.iter().filter(|word| title_words.contains(word)).count();
    if query_words.is_empty() { 0.0 } else { n_found as f64 / query_words.len() as f64 }
}

/// The words of each text as numbers, ascending and each once; equal words have equal numbers.
pub fn number_words<'a>(texts: impl IntoIterator<Item = &'a str>) -> Vec<Vec<u32>> {
    let mut numbers = HashMap::new();
    let mut numbered = |text: &str| -> Vec<u32> {
        let mut number = |word: String| {
            let next = u32::try_from(numbers.len()).expect("fewer than 2^32 words");
            *numbers.entry(word).or_insert(next)
        };
        let mut of_text: Vec<u32> = words(text).into_iter().map(&mut number).collect();
        of_text.sort_unstable();
        of_text.dedup();
        of_text
    };
    texts.into_iter().map(&mut numbered).collect()
}

/// Share of the words of `a` or `b` that both have (Jaccard), in `0.0..=1.0`; both are ascending. 1 where neither
/// has one.
pub fn jaccard(a: &[u32], b: &[u32]) -> f64 {
    let (mut n_both, mut rest) = (0, b);
    for word in a {
        let n_below = rest.partition_point(|other| other < word);
        rest = &rest[n_below..];
        n_both += usize::from(rest.first() == Some(word));
    }
    let n_either = a.len() + b.len() - n_both;
    if n_either == 0 { 1.0 } else { n_both as f64 / n_either as f64 }
}

fn words(text: &str) -> Vec<String> {
    let words = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    words.map(str::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::{jaccard, number_words, word_overlap};

    #[test]
    fn shares_of_query_words() {
        assert_eq!(word_overlap("Red kettle", "kettle, RED, 1.7 l"), 1.0);
        assert_eq!(word_overlap("red steel kettle kettle", "kettle"), 1.0 / 3.0);
        assert_eq!(word_overlap("ket", "kettle"), 0.0);
        assert_eq!(word_overlap("", "kettle"), 0.0);
        assert_eq!(word_overlap("--", "--"), 0.0);
        assert_eq!(word_overlap("ÉCLAIR 5", "5 éclair"), 1.0);
    }

    #[test]
    fn equal_words_have_equal_numbers_and_likeness_is_the_share_of_common_ones() {
        let words = number_words(["Red kettle, red", "KETTLE 1.7 l", "", "--"]);
        assert_eq!(words, [vec![0, 1], vec![1, 2, 3, 4], vec![], vec![]]);
        assert_eq!(jaccard(&words[0], &words[1]), 1.0 / 5.0);
        assert_eq!(jaccard(&words[0], &words[0]), 1.0);
        assert_eq!(jaccard(&words[0], &words[2]), 0.0);
        assert_eq!(jaccard(&words[2], &words[3]), 1.0);
        assert_eq!(jaccard(&[0, 2, 4, 9], &[1, 2, 3, 9]), 2.0 / 6.0);
    }
}
