//! Word overlap: the baseline that a model must beat to have learnt anything.

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

fn words(text: &str) -> Vec<String> {
    let words = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    words.map(str::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::word_overlap;

    #[test]
    fn shares_of_query_words() {
        assert_eq!(word_overlap("Red kettle", "kettle, RED, 1.7 l"), 1.0);
        assert_eq!(word_overlap("red steel kettle kettle", "kettle"), 1.0 / 3.0);
        assert_eq!(word_overlap("ket", "kettle"), 0.0);
        assert_eq!(word_overlap("", "kettle"), 0.0);
        assert_eq!(word_overlap("--", "--"), 0.0);
        assert_eq!(word_overlap("ÉCLAIR 5", "5 éclair"), 1.0);
    }
}
