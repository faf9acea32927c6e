//! Each product once: by id, or by its text where it has no id.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::records::Product;

/// How many conflicts are kept.
const N_CONFLICTS: usize = 5;

/// Products, of which equal ones are kept once: the first.
///
/// To find them, a hash of 128 bits is kept of each, not its text, so that millions fit. The chance
/// that two different ones among ten million share a hash is about 1e-25.
#[derive(Debug, Default)]
pub struct Deduplicate {
    kept: Vec<Product>,
    place_of: HashMap<u128, usize>,
    n_dropped: u64,
    n_conflicts: u64,
    conflicts: Vec<Conflict>,
}

/// A product that was left out although its title is another than that of the product with its id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The id that both have.
    pub id: String,
    /// The title of the one that is kept.
    pub kept_title: String,
    /// Which of the files it is in, and on which line (row of a parquet file).
    pub kept_at: (usize, u64),
    /// The title of the one that is left out.
    pub dropped_title: String,
    /// Where that is.
    pub dropped_at: (usize, u64),
}

impl Deduplicate {
    /// No product yet.
    pub fn new() -> Deduplicate {
        Deduplicate::default()
    }

    /// Keeps `product` if it is the first with its id (its text, where it has no id).
    pub fn push(&mut self, product: Product) {
        let key = match &product.id {
            Some(id) => fingerprint("id", id),
            None => fingerprint("text", &product.product_title),
        };
        let place = *self.place_of.entry(key).or_insert(self.kept.len());
        let Some(kept) = self.kept.get(place) else {
            self.kept.push(product);
            return;
        };
        self.n_dropped += 1;
        let Some(id) = &product.id else { return };
        if kept.product_title == product.product_title {
            return;
        }
        self.n_conflicts += 1;
        if self.conflicts.len() < N_CONFLICTS {
            self.conflicts.push(Conflict {
                id: id.clone(),
                kept_title: kept.product_title.clone(),
                kept_at: (kept.file_idx, kept.line),
                dropped_title: product.product_title.clone(),
                dropped_at: (product.file_idx, product.line),
            });
        }
    }

    /// How many products were not the first.
    pub fn n_dropped(&self) -> u64 {
        self.n_dropped
    }

    /// How many of these had another title than the first with their id.
    pub fn n_conflicts(&self) -> u64 {
        self.n_conflicts
    }

    /// The first five of them.
    pub fn conflicts(&self) -> &[Conflict] {
        &self.conflicts
    }

    /// The products that were first, in their order.
    pub fn into_products(self) -> Vec<Product> {
        self.kept
    }
}

fn fingerprint(kind: &str, text: &str) -> u128 {
    let half = |salt: u8| -> u128 {
        let mut hasher = DefaultHasher::new();
        (salt, kind, text).hash(&mut hasher);
        u128::from(hasher.finish())
    };
    half(0) << 64 | half(1)
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
        for (line, (id, title)) in products.into_iter().enumerate() {
            once.push(product(id, title, line as u64));
        }
        assert_eq!((once.n_dropped(), once.n_conflicts()), (3, 1));
        assert_eq!(
            once.conflicts(),
            [Conflict {
                id: "1".into(),
                kept_title: "Red kettle".into(),
                kept_at: (0, 0),
                dropped_title: "Red kettle, 1.7 l".into(),
                dropped_at: (0, 2),
            }]
        );
        let lines: Vec<u64> = once.into_products().iter().map(|product| product.line).collect();
        assert_eq!(lines, [0, 1, 3, 5]);
    }

    #[test]
    fn of_many_conflicts_the_first_are_kept() {
        let mut once = Deduplicate::new();
        (0..100).for_each(|line| once.push(product(Some("1"), &format!("title {line}"), line)));
        assert_eq!((once.n_conflicts(), once.conflicts().len()), (99, N_CONFLICTS));
    }
}
