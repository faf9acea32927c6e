//! Words of queries and titles, as the features compare them.

/// Words longer than this lose a plural `s`.
const SHORT: usize = 3;
/// Words that stand after a number and are no product.
const UNITS: &[&str] = &[
    "amp", "cm", "count", "cu", "feet", "foot", "ft", "gal", "gallon", "gb", "gram", "hp", "hz",
    "in", "inch", "inche", "kg", "lb", "light", "liter", "litre", "lumen", "mb", "mg", "ml", "mm",
    "oz", "pack", "pc", "piece", "pk", "psi", "qt", "set", "sq", "tb", "volt", "watt", "yd",
];
/// Words before which a title has named its product: `kettle with lid`.
const AFTER_PRODUCT: &[&str] = &["with", "for", "in", "by", "from", "to", "without"];

/// The words of `text`, lower-cased, a plural `s` taken off.
///
/// A word is a run of letters or a number; letters after digits are a word of their own, so that `64GB` and `64 gb`
/// are the same. A point between digits belongs to the number.
pub fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut characters = text.chars().peekable();
    while let Some(c) = characters.next() {
        let is_digit = |c: char| c.is_numeric();
        let before = word.chars().next_back();
        let next_is_digit = characters.peek().copied().is_some_and(is_digit);
        if c == '.' && before.is_some_and(is_digit) && next_is_digit {
            word.push(c);
            continue;
        }
        let changes =
            before.is_some_and(|before| (is_digit(before) || before == '.') != is_digit(c));
        if !c.is_alphanumeric() || changes {
            finish(&mut word, &mut words);
        }
        if c.is_alphanumeric() {
            word.extend(c.to_lowercase());
        }
    }
    finish(&mut word, &mut words);
    words
}

fn finish(word: &mut String, words: &mut Vec<String>) {
    if word.is_empty() {
        return;
    }
    let is_plural = word.len() > SHORT && word.ends_with('s') && !word.ends_with("ss");
    if is_plural {
        word.pop();
    }
    words.push(std::mem::take(word));
}

/// The word for the product that `text` names, where there is one: the last word without a digit that is no unit,
/// before a comma, a bracket or a word like `with`.
///
/// `Steel Kettle with Lid, 1.7 l` is a `kettle`. It is a rule of thumb for English titles; elsewhere it is a last word.
pub fn product_word(text: &str) -> Option<String> {
    let mut product = None;
    let mut after_number = false;
    for part in text.split_whitespace() {
        let words_of_part = words(part);
        let is_bare = part.chars().all(char::is_alphabetic);
        // `in` stands for inches after a number or with a point.
        let ends_name = is_bare
            && !after_number
            && product.is_some()
            && AFTER_PRODUCT.contains(&part.to_lowercase().as_str());
        if ends_name || (product.is_some() && part.starts_with(['(', '[', ','])) {
            break;
        }
        for word in &words_of_part {
            let is_number = word.chars().any(char::is_numeric);
            let is_unit = UNITS.contains(&word.as_str()) || word.chars().count() < 2;
            if !is_number && !is_unit {
                product = Some(word.clone());
            }
            after_number = is_number;
        }
        if product.is_some() && part.ends_with([',', ';', ':']) {
            break;
        }
    }
    product
}

/// The distinct sequences of three characters of the words, each word with a blank on either side; ascending.
pub(crate) fn trigrams(words: &[String]) -> Vec<[char; 3]> {
    let mut trigrams = Vec::new();
    for word in words {
        let padded: Vec<char> = [' '].into_iter().chain(word.chars()).chain([' ']).collect();
        trigrams.extend(padded.windows(3).map(|three| [three[0], three[1], three[2]]));
    }
    trigrams.sort_unstable();
    trigrams.dedup();
    trigrams
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_numbers_and_letters_without_a_plural() {
        let of = |text: &str| words(text).join(" ");
        assert_eq!(of("Wood Screws, 64GB 1.7-l"), "wood screw 64 gb 1.7 l");
        assert_eq!(of("glass bus ÉCLAIRS"), "glass bus éclair");
        assert_eq!(of("3/4 in. x10.5."), "3 4 in x 10.5");
        assert_eq!(of(" -- "), "");
    }

    #[test]
    fn the_product_is_named_before_its_lid_its_size_and_its_colour() {
        let of = |text: &str| product_word(text).unwrap_or_default();
        assert_eq!(of("Steel Kettle with Lid, 1.7 l"), "kettle");
        assert_eq!(
            of("Whirlpool 1.9 cu. ft. Over the Range Microwave in Stainless Steel"),
            "microwave"
        );
        assert_eq!(of("MD 36 in. x 36 in. Aluminum Sheets, Silver"), "sheet");
        assert_eq!(of("Samsung TV 55 inch"), "tv");
        assert_eq!(of("lamp (2-Pack)"), "lamp");
        assert_eq!(of("for dogs"), "dog", "a title may begin with such a word");
        assert_eq!(of("36 in. 4"), "");
        assert_eq!(of(""), "");
    }

    #[test]
    fn trigrams_know_where_words_begin() {
        let of = |text: &str| trigrams(&words(text));
        assert_eq!(of("tv tv"), [[' ', 't', 'v'], ['t', 'v', ' ']]);
        assert_eq!(of("l").len(), 1);
        assert!(of("").is_empty());
    }
}
