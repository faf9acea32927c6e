//! Each product once: by id, or by its text where it has no id.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::records::Product;

/// Remembers which products were seen. Of equal products the first is kept.
///
/// Of a product only a hash of 128 bits is kept, not its text, so that millions fit. The chance
/// that two different ones among ten million share a hash is about 1e-25.
#[derive(Debug, Default)]
pub struct Deduplicate {
    seen: HashSet<u128>,
    n_dropped: u64,
}

impl Deduplicate {
    /// Nothing seen yet.
    pub fn new() -> Deduplicate {
        Deduplicate::default()
    }

    /// Whether this product is the first with its id (its text, where it has no id).
    pub fn is_first(&mut self, product: &Product) -> bool {
        let first = self.seen.insert(match &product.id {
            Some(id) => fingerprint("id", id),
            None => fingerprint("text", &product.product_title),
        });
        self.n_dropped += u64::from(!first);
        first
    }

    /// How many products were not the first.
    pub fn n_dropped(&self) -> u64 {
        self.n_dropped
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

    fn product(id: Option<&str>, title: &str) -> Product {
        Product {
            id: id.map(str::to_owned),
            product_title: title.to_owned(),
            other: Vec::new(),
            line: 1,
            file_idx: 0,
        }
    }

    #[test]
    fn the_id_decides_and_the_text_only_where_there_is_none() {
        let mut catalogue = Deduplicate::new();
        assert!(catalogue.is_first(&product(Some("1"), "Red kettle")));
        assert!(catalogue.is_first(&product(Some("2"), "Red kettle")));
        assert!(!catalogue.is_first(&product(Some("1"), "Red kettle, 1.7 l")));
        assert!(catalogue.is_first(&product(None, "Red kettle")));
        assert!(!catalogue.is_first(&product(None, "Red kettle")));
        assert!(catalogue.is_first(&product(None, "1")));
        assert_eq!(catalogue.n_dropped(), 2);
    }
}
