//! Rows of a data set or of a batch: which texts are compared with which, and what is known about them.

use std::ops::Range;

/// Rows in order. A row is a query with its candidates: products that it is compared with, each with a label. A judged
/// pair is a row with one candidate.
///
/// Texts are named by their places in lists of distinct texts ([`crate::TokenPairs`]): equal numbers are equal texts.
/// Rows with one query are a group.
#[derive(Clone, Debug, PartialEq)]
pub struct Rows {
    /// The query of each row.
    queries: Vec<u32>,
    /// Where the candidates of each row begin; then their number.
    starts: Vec<usize>,
    /// Candidates of row 0, then those of row 1 …
    candidates: Vec<u32>,
    /// Of each candidate, how relevant it is to its row's query, in `0.0..=1.0`.
    labels: Vec<f32>,
}

impl Default for Rows {
    fn default() -> Rows {
        Rows { queries: vec![], starts: vec![0], candidates: vec![], labels: vec![] }
    }
}

impl Rows {
    /// Appends a row: its query, and of each candidate the text and the label.
    pub fn push(&mut self, query: u32, candidates: impl IntoIterator<Item = (u32, f32)>) {
        self.queries.push(query);
        for (candidate, label) in candidates {
            self.candidates.push(candidate);
            self.labels.push(label);
        }
        self.starts.push(self.candidates.len());
    }

    /// Rows.
    pub fn len(&self) -> usize {
        self.queries.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.queries.is_empty()
    }

    /// The same rows with other labels, and the labels that they had.
    ///
    /// # Panics
    ///
    /// Unless there is one for each candidate.
    pub fn with_labels(mut self, labels: &[f32]) -> (Rows, Vec<f32>) {
        assert_eq!(labels.len(), self.labels.len(), "a label for each candidate");
        let before = std::mem::replace(&mut self.labels, labels.to_vec());
        (self, before)
    }

    /// The query of each row.
    pub fn queries(&self) -> &[u32] {
        &self.queries
    }

    /// The text of each candidate, those of row 0 first.
    pub fn candidates(&self) -> &[u32] {
        &self.candidates
    }

    /// The label of each candidate, in the same order.
    pub fn labels(&self) -> &[f32] {
        &self.labels
    }

    /// Which candidates are those of `row`.
    pub fn candidates_of(&self, row: usize) -> Range<usize> {
        self.starts[row]..self.starts[row + 1]
    }

    /// The row of each candidate.
    pub fn row_of_candidates(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.len()).flat_map(move |row| self.candidates_of(row).map(move |_| row))
    }

    /// These rows of `self`, in their order.
    pub fn select(&self, rows: impl IntoIterator<Item = usize>) -> Rows {
        let mut selected = Rows::default();
        for row in rows {
            let candidates = self.candidates_of(row);
            let labels = self.labels[candidates.clone()].iter().copied();
            selected
                .push(self.queries[row], self.candidates[candidates].iter().copied().zip(labels));
        }
        selected
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selected_rows_keep_their_candidates_and_labels() {
        let mut rows = Rows::default();
        rows.push(3, [(7, 1.0)]);
        rows.push(4, [(8, 0.5), (9, 0.0)]);
        rows.push(3, []);
        assert_eq!((rows.len(), rows.candidates_of(1), rows.candidates_of(2)), (3, 1..3, 3..3));
        assert_eq!(rows.row_of_candidates().collect::<Vec<_>>(), [0, 1, 1]);
        let selected = rows.select([1, 0]);
        assert_eq!(selected.queries(), [4, 3]);
        assert_eq!(selected.candidates(), [8, 9, 7]);
        assert_eq!(selected.labels(), [0.5, 0.0, 1.0]);
        assert_eq!(selected.candidates_of(1), 2..3);
        assert!(rows.select([]).is_empty());
    }
}
