//! Each product once: by id, or by the text that it is embedded by where it has no id.

use std::collections::HashMap;

use loriot_files::Fingerprint;

use crate::records::Product;

/// How many conflicts are kept.
const N_CONFLICTS: usize = 5;

/// Tells which products are the first of their kind.
///
/// It keeps two fingerprints of each, not its text, so that millions fit.
#[derive(Debug, Default)]
pub struct Deduplicate {
    first: HashMap<Fingerprint, First>,
    n_dropped: u64,
    n_conflicts: u64,
    conflicts: Vec<Conflict>,
}

/// What is kept of a product that was the first.
#[derive(Debug)]
struct First {
    /// How many first ones came before it.
    place: usize,
    text: Fingerprint,
}

/// A product that was left out although its text is another than that of the product with its id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The id that both have.
    pub id: String,
    /// Which product is kept, from 0 among those that are.
    pub kept: usize,
    /// The text of the one that is left out.
    pub dropped_text: String,
    /// Which of the files that is in, and on which line (row of a parquet file).
    pub dropped_at: (usize, u64),
}

impl Deduplicate {
    /// No product yet.
    pub fn new() -> Deduplicate {
        Deduplicate::default()
    }

    /// Whether `product`, which comes next and is embedded by `text`, is the first with its id (with its text, where
    /// it has no id).
    pub fn is_first(&mut self, product: &Product, text: &str) -> bool {
        let text_key = Fingerprint::of(format!("text {text}").as_bytes());
        let key = match &product.id {
            Some(id) => Fingerprint::of(format!("id {id}").as_bytes()),
            None => text_key,
        };
        let place = self.first.len();
        let first = self.first.entry(key).or_insert(First { place, text: text_key });
        if first.place == place {
            return true;
        }
        self.n_dropped += 1;
        if let Some(id) = product.id.as_ref().filter(|_| first.text != text_key) {
            self.n_conflicts += 1;
            if self.conflicts.len() < N_CONFLICTS {
                self.conflicts.push(Conflict {
                    id: id.clone(),
                    kept: first.place,
                    dropped_text: text.to_owned(),
                    dropped_at: (product.file_idx, product.line),
                });
            }
        }
        false
    }

    /// How many products were not the first.
    pub fn n_dropped(&self) -> u64 {
        self.n_dropped
    }

    /// How many of these had another text than the first with their id.
    pub fn n_conflicts(&self) -> u64 {
        self.n_conflicts
    }

    /// The first five of them.
    pub fn conflicts(&self) -> &[Conflict] {
        &self.conflicts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn product(id: Option<&str>, title: &str, line: u64) -> Product {
        Product {
            id: id.map(str::to_owned),
            product_title: title.to_owned(),
            other: Vec::new(),
            line,
            file_idx: 0,
        }
    }

    #[test]
    fn the_id_decides_and_the_text_only_where_there_is_none() {
        let mut once = Deduplicate::new();
        let products = [
            (Some("1"), "Red kettle"),
            (Some("2"), "Red kettle"),
            (Some("1"), "Red kettle, 1.7 l"),
            (None, "Red kettle"),
            (None, "Red kettle"),
            (None, "1"),
            (Some("2"), "Red kettle"),
        ];
        let products =
            products.iter().zip(0..).map(|((id, title), line)| product(*id, title, line));
        let lines: Vec<u64> = products
            .filter(|product| once.is_first(product, &product.product_title))
            .map(|kept| kept.line)
            .collect();
        assert_eq!(lines, [0, 1, 3, 5]);
        assert_eq!((once.n_dropped(), once.n_conflicts()), (3, 1));
        assert_eq!(
            once.conflicts(),
            [Conflict {
                id: "1".into(),
                kept: 0,
                dropped_text: "Red kettle, 1.7 l".into(),
                dropped_at: (0, 2),
            }]
        );
    }

    #[test]
    fn of_many_conflicts_the_first_are_kept() {
        let mut once = Deduplicate::new();
        for line in 0..100 {
            once.is_first(&product(Some("1"), "kettle", line), &format!("kettle {line}"));
        }
        assert_eq!((once.n_conflicts(), once.conflicts().len()), (99, N_CONFLICTS));
    }

    #[test]
    fn a_text_that_is_not_the_title_decides_in_its_place() {
        let mut once = Deduplicate::new();
        let kettle = product(None, "Kettle", 1);
        let texts = ["Kettle Acme", "Kettle Bosch", "Kettle Acme", "Kettle"];
        assert_eq!(texts.map(|text| once.is_first(&kettle, text)), [true, true, false, true]);
        assert_eq!((once.n_dropped(), once.n_conflicts()), (1, 0));
        // Nor is an id taken for a text.
        assert!(once.is_first(&product(Some("Kettle Acme"), "Kettle", 2), "Kettle"));
    }
}
