//! Token ids, packed end to end.
//!
//! A [`Packed`] batch has no padding: text `t` owns the rows `offsets[t]..offsets[t + 1]` of every
//! activation. Batches are cut into chunks that one thread carries through the whole encoder. Where
//! the cuts lie depends on the number of threads; nothing that is computed does.

pub use loriot_kernels::dropout::{MAX_CANDIDATES, MAX_ROWS, Side, TextKey};
use std::collections::HashMap;
use std::hash::Hash;
use std::ops::Range;

/// A text of a training batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Text<'a> {
    /// Token ids with the special ones, at least one.
    pub ids: &'a [u32],
    /// Its place in the batch, which names its dropout masks.
    pub key: TextKey,
}

impl<'a> Text<'a> {
    /// A text of a pass that draws no masks: equal texts are equal.
    pub(crate) fn without_masks(ids: &'a [u32]) -> Text<'a> {
        Text { ids, key: TextKey::query(0) }
    }
}

/// A text, and which of a pass's adapters it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Work<'a> {
    pub(crate) text: Text<'a>,
    /// An index into the pass's adapters; an index past their end means no adapter.
    pub(crate) adapter: usize,
}

/// Rows of a chunk that belong to one adapter. `adapter` is an index into the pass's adapters; past their end it means
/// no adapter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) rows: Range<usize>,
    pub(crate) adapter: usize,
}

/// Texts end to end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Packed {
    /// Token ids of all texts, `n` of them.
    pub ids: Vec<u32>,
    /// First row of each text, then `n`: one more entry than texts.
    pub offsets: Vec<usize>,
}

impl Packed {
    /// Packs `texts` in their order. Each must have at least one token.
    pub fn new<'a>(texts: impl IntoIterator<Item = &'a [u32]>) -> Packed {
        let mut packed = Packed { ids: Vec::new(), offsets: vec![0] };
        for ids in texts {
            assert!(!ids.is_empty(), "a text has at least its special tokens");
            packed.ids.extend_from_slice(ids);
            packed.offsets.push(packed.ids.len());
        }
        packed
    }

    /// Tokens.
    pub fn n_tokens(&self) -> usize {
        self.ids.len()
    }

    /// Texts.
    pub fn n_texts(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Rows of each text in turn.
    pub fn rows(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        self.offsets.windows(2).map(|pair| pair[0]..pair[1])
    }

    /// The position of every token in its text.
    pub fn positions(&self) -> impl Iterator<Item = usize> + '_ {
        self.rows().flat_map(|rows| 0..rows.len())
    }
}

/// The different items in the order of their first appearance, and each item's place among them: equal
/// texts are encoded once.
pub fn distinct<T: Copy + Eq + Hash>(items: impl IntoIterator<Item = T>) -> (Vec<T>, Vec<u32>) {
    let (mut kept, mut place_of) = (Vec::new(), HashMap::new());
    let places = items.into_iter().map(|item| {
        *place_of.entry(item).or_insert_with(|| {
            kept.push(item);
            kept.len() as u32 - 1
        })
    });
    let places = places.collect();
    (kept, places)
}

/// Cuts texts of these lengths, in order, into a multiple of `n_threads` runs of about equally many
/// tokens, each of about `target_tokens` at most. Runs may be fewer when texts are few; none is empty.
pub fn chunks(lengths: &[usize], n_threads: usize, target_tokens: usize) -> Vec<Range<usize>> {
    let total: usize = lengths.iter().sum();
    let rounds = total.div_ceil(target_tokens * n_threads).max(1);
    let n_chunks = rounds * n_threads;
    let mut cuts = Vec::with_capacity(n_chunks);
    let (mut start, mut seen) = (0, 0);
    for (text, length) in lengths.iter().enumerate() {
        seen += length;
        // The chunk ends where the running total is nearest its share of the whole.
        let share = (cuts.len() + 1) * total / n_chunks;
        let next = lengths.get(text + 1).copied().unwrap_or(0);
        if seen + next / 2 >= share || text + 1 == lengths.len() {
            cuts.push(start..text + 1);
            start = text + 1;
        }
    }
    cuts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_lie_end_to_end_and_positions_restart() {
        let packed = Packed::new([&[1, 2, 3][..], &[4], &[5, 6]]);
        assert_eq!(packed.ids, [1, 2, 3, 4, 5, 6]);
        assert_eq!(packed.offsets, [0, 3, 4, 6]);
        assert_eq!(packed.positions().collect::<Vec<_>>(), [0, 1, 2, 0, 0, 1]);
        assert_eq!((packed.n_texts(), packed.n_tokens()), (3, 6));
    }

    #[test]
    fn distinct_items_keep_the_order_of_their_first_appearance() {
        assert_eq!(distinct(["b", "a", "b", "c", "a"]), (vec!["b", "a", "c"], vec![0, 1, 0, 2, 1]));
    }

    #[test]
    fn chunks_cover_every_text_once_in_order_and_are_balanced() {
        let lengths: Vec<usize> = (0..128).map(|i| 3 + i * 7 % 40).collect();
        let total: usize = lengths.iter().sum();
        for n_threads in 1..=8 {
            let cuts = chunks(&lengths, n_threads, 384);
            let flat: Vec<usize> = cuts.iter().cloned().flatten().collect();
            assert_eq!(flat, (0..128).collect::<Vec<_>>());
            assert_eq!(cuts.len() % n_threads, 0, "{n_threads} threads, {} chunks", cuts.len());
            for cut in &cuts {
                let tokens: usize = lengths[cut.clone()].iter().sum();
                assert!(tokens.abs_diff(total / cuts.len()) <= 2 * 43, "{tokens}");
            }
        }
    }

    #[test]
    fn few_texts_make_few_chunks() {
        let one = chunks(&[5], 4, 384);
        assert_eq!((one.len(), one[0].clone()), (1, 0..1));
        assert!(chunks(&[], 4, 384).is_empty());
        assert_eq!(chunks(&[5, 5], 2, 384), [0..1, 1..2]);
    }
}
