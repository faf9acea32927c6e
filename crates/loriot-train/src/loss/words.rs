//! The words of products, to say how alike two are.

use loriot_eval::jaccard;
use std::collections::HashMap;

/// The distinct tokens of each product of a data set. Tokens that all products have (the special ones, a prompt) say nothing
/// and are left out.
#[derive(Clone, Debug, Default)]
pub struct ProductWords {
    /// Of each product, in rising order.
    tokens: Vec<Vec<u32>>,
}

impl ProductWords {
    /// Of products given as token ids.
    pub fn new(products: &[Vec<u32>]) -> ProductWords {
        let distinct = products.iter().map(|ids| {
            let mut ids = ids.clone();
            ids.sort_unstable();
            ids.dedup();
            ids
        });
        let mut tokens: Vec<Vec<u32>> = distinct.collect();
        let mut n_products: HashMap<u32, usize> = HashMap::new();
        tokens.iter().flatten().for_each(|&token| *n_products.entry(token).or_default() += 1);
        for ids in &mut tokens {
            ids.retain(|token| products.len() < 2 || n_products[token] < products.len());
            ids.shrink_to_fit();
        }
        ProductWords { tokens }
    }

    /// The Jaccard index of two products' words: how many they share of all they have. 1 for a product and itself, 0 where
    /// the words are not known.
    pub fn jaccard(&self, a: u32, b: u32) -> f64 {
        if a == b {
            return 1.0;
        }
        let (Some(a), Some(b)) = (self.tokens.get(a as usize), self.tokens.get(b as usize)) else {
            return 0.0;
        };
        jaccard(a, b)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alike_is_what_is_shared_beside_what_all_have() {
        let products = [vec![101, 7, 8, 8, 102], vec![101, 8, 9, 102], vec![101, 5, 102]];
        let words = ProductWords::new(&products);
        assert_eq!(words.jaccard(0, 1), 1.0 / 3.0);
        assert_eq!((words.jaccard(0, 2), words.jaccard(2, 2)), (0.0, 1.0));
        assert_eq!(words.jaccard(0, 9), 0.0, "not known");
        assert_eq!(ProductWords::default().jaccard(3, 3), 1.0);
    }
}
