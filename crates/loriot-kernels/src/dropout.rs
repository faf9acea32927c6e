//! Dropout whose mask depends on nothing but the name of the dropped tensor: seed, step, text, layer and site.
//!
//! Element `e` of a tensor is kept where word `e % 4` of block `e / 4` of Philox4x32-10 (Salmon, Moraes, Dror and Shaw,
//! "Parallel random numbers: as easy as 1, 2, 3", 2011) is at least `p·2^32`. The generator has no state: a mask drawn
//! again for the backward pass, by another thread or by another machine is the same mask, at every level.
//!
//! | 32-bit word | bits   | holds                                             | limit           |
//! |-------------|--------|---------------------------------------------------|-----------------|
//! | key 0, 1    | all    | seed, low and high half                           |                 |
//! | counter 0   | all    | block: element / 4                                | 2^34 elements   |
//! | counter 1   | all    | step                                              | 2^32 steps      |
//! | counter 2   | 0..20  | row in the global batch                           | [`MAX_ROWS`]    |
//! |             | 20..32 | candidate of that row                             | [`MAX_CANDIDATES`] |
//! | counter 3   | 0..16  | layer                                             | 65,536 layers   |
//! |             | 16     | side: 0 query, 1 product                          |                 |
//! |             | 17..25 | index of the LoRA branch in its layer             | 256 branches    |
//! |             | 25..28 | site                                              | 8 sites, 5 used |
//! |             | 28..32 | always 0                                          |                 |
//!
//! A run promises its bits, so this layout is a file format: `golden_words` below fails when it changes.

use crate::Isa;
use crate::isa::dispatch;
use crate::lanes::{Lanes, Vector, Words, load_up_to, store_up_to};
use std::ops::Range;

/// Which text of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// The query.
    Query,
    /// The product title.
    Product,
}

/// Which dropout of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Site {
    /// After the embeddings' layer norm.
    Embeddings,
    /// On attention's probabilities.
    AttentionProbs,
    /// After attention's output projection.
    AttentionOutput,
    /// After the feed-forward block's second linear layer.
    FfnOutput,
    /// On the input of a LoRA branch; the number tells those of a layer apart.
    Lora(u8),
}

/// Rows that a batch may have: 1,048,576.
pub const MAX_ROWS: u32 = 1 << 20;

/// Candidates that a row may have: 4,096.
pub const MAX_CANDIDATES: u32 = 1 << 12;

/// What names a text of a training batch in the streams of its masks. A row is a query with its candidates: products
/// that it is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TextKey {
    row: u32,
    side: Side,
    candidate: u32,
}

impl TextKey {
    /// The query of `row`, which counts the rows of the whole batch, over all ranks and micro-batches.
    ///
    /// # Panics
    ///
    /// If `row` is not below [`MAX_ROWS`].
    pub fn query(row: u32) -> TextKey {
        TextKey::new(row, Side::Query, 0)
    }

    /// The product that is number `candidate` of `row`, from 0.
    ///
    /// # Panics
    ///
    /// If `row` is not below [`MAX_ROWS`] or `candidate` is not below [`MAX_CANDIDATES`].
    pub fn product(row: u32, candidate: u32) -> TextKey {
        TextKey::new(row, Side::Product, candidate)
    }

    fn new(row: u32, side: Side, candidate: u32) -> TextKey {
        assert!(row < MAX_ROWS, "row {row} of a batch of at most {MAX_ROWS}");
        assert!(candidate < MAX_CANDIDATES, "candidate {candidate} of at most {MAX_CANDIDATES}");
        TextKey { row, side, candidate }
    }
}

/// The name of one dropped tensor, which decides its mask. A position in a packed batch, a thread or a rank is no part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stream {
    key: [u32; 2],
    /// Counters 1, 2 and 3.
    counter: [u32; 3],
}

impl Stream {
    /// The stream of one site of one text.
    pub fn new(seed: u64, step: u32, text: TextKey, layer: u16, site: Site) -> Stream {
        let TextKey { row, side, candidate } = text;
        let (site, lora) = match site {
            Site::Embeddings => (0, 0),
            Site::AttentionProbs => (1, 0),
            Site::AttentionOutput => (2, 0),
            Site::FfnOutput => (3, 0),
            Site::Lora(lora) => (4, u32::from(lora)),
        };
        let side = match side {
            Side::Query => 0,
            Side::Product => 1,
        };
        let text = row | candidate << 20;
        let place = u32::from(layer) | side << 16 | lora << 17 | site << 25;
        Stream { key: [seed as u32, (seed >> 32) as u32], counter: [step, text, place] }
    }

    /// The key of this stream's blocks.
    pub fn key(self) -> [u32; 2] {
        self.key
    }

    /// The counter of one of this stream's blocks.
    pub fn counter(self, block: u32) -> [u32; 4] {
        let [step, text, place] = self.counter;
        [block, step, text, place]
    }
}

/// Dropout of the rows of texts that lie end to end, each by its own stream: element `d` of row `n` of a text `width` wide is
/// element `n·width + d` of its stream, wherever the text lies.
#[derive(Clone, Copy, Debug)]
pub struct TextDropout<'a> {
    /// The share that is dropped.
    pub p: f32,
    /// One stream per text.
    pub streams_b: &'a [Stream],
    /// Cumulative: text `b` is the rows `offsets[b] − offsets[0] .. offsets[b+1] − offsets[0]`.
    pub offsets: &'a [usize],
}

impl TextDropout<'_> {
    /// The rows and the stream of each text, after checking that they are `n_rows` in all.
    #[inline(always)]
    pub(crate) fn texts(&self, n_rows: usize) -> impl Iterator<Item = (Range<usize>, Stream)> {
        let TextDropout { streams_b, offsets, .. } = *self;
        assert!(!offsets.is_empty() && offsets.is_sorted(), "offsets are cumulative");
        assert_eq!(streams_b.len(), offsets.len() - 1, "one stream per text");
        let start = offsets[0];
        assert_eq!(offsets[offsets.len() - 1] - start, n_rows, "rows of all texts");
        let rows = offsets.windows(2).map(move |pair| pair[0] - start..pair[1] - start);
        rows.zip(streams_b.iter().copied())
    }
}

impl Isa {
    /// [`Isa::dropout`] of each text's rows, `width` wide.
    pub fn dropout_texts(self, x_nd: &mut [f32], width: usize, dropout: &TextDropout<'_>) {
        assert!(width > 0 && x_nd.len().is_multiple_of(width), "rows are {width} wide");
        for (rows, stream) in dropout.texts(x_nd.len() / width) {
            self.dropout(&mut x_nd[rows.start * width..rows.end * width], stream, 0, dropout.p);
        }
    }

    /// `x[i] = keep ? x[i]/(1−p) : 0`, where `x[i]` is element `first_element + i` of `stream`.
    ///
    /// `first_element` is a multiple of 4, `0 ≤ p < 1`. Applied to the gradient of its result, it is its own backward
    /// pass. The factor `1/(1−p)` is rounded once; kept elements are multiplied by it.
    pub fn dropout(self, x: &mut [f32], stream: Stream, first_element: u64, p: f32) {
        if p != 0.0 {
            dispatch!(self, dropout_body(
                x: &mut [f32], stream: Stream, first_element: u64, p: f32,
            ))
        }
    }

    /// [`Isa::dropout`] of `x`, written to `y`.
    pub fn dropout_to(self, y: &mut [f32], x: &[f32], stream: Stream, first_element: u64, p: f32) {
        y.copy_from_slice(x);
        self.dropout(y, stream, first_element, p);
    }
}

#[inline(always)]
fn dropout_body<L: Lanes>(x: &mut [f32], stream: Stream, first_element: u64, p: f32) {
    let lanes = L::here();
    let mut mask = Mask::new(lanes, stream, p, first_block(first_element, x.len()));
    for x in x.chunks_mut(2 * L::N) {
        let bits = mask.next_bits();
        for (x, bits) in x.chunks_mut(L::N).zip(bits) {
            let dropped = mask.drop(load_up_to(lanes, x), bits);
            store_up_to(lanes, x, dropped);
        }
    }
}

/// A stream's mask, drawn two vectors at a time from a given block on.
pub(crate) struct Mask<L: Lanes> {
    generator: Generator<L>,
    threshold: u32,
    factor: L::F32,
    block: u32,
}

impl<L: Lanes> Mask<L> {
    #[inline(always)]
    pub(crate) fn new(lanes: L, stream: Stream, p: f32, block: u32) -> Mask<L> {
        let Rule { threshold, factor } = Rule::new(p);
        let generator = Generator::new(lanes, stream);
        Mask { generator, threshold, factor: lanes.splat(factor), block }
    }

    /// Goes to another block.
    #[inline(always)]
    pub(crate) fn go_to(&mut self, block: u32) {
        self.block = block;
    }

    /// Whether each of the next elements is kept.
    #[inline(always)]
    pub(crate) fn next_bits(&mut self) -> [u16; 2] {
        let bits = self.generator.keep_in_order(self.block, self.threshold);
        self.block = self.block.wrapping_add(L::N as u32 / 2);
        bits
    }

    /// `x / (1 − p)` where the bit is set, 0 elsewhere.
    #[inline(always)]
    pub(crate) fn drop(&self, x: L::F32, bits: u16) -> L::F32 {
        (x * self.factor).keep(bits)
    }
}

/// How a random word decides about an element.
#[derive(Clone, Copy)]
pub(crate) struct Rule {
    /// An element is kept if its word is at least this.
    pub(crate) threshold: u32,
    /// Kept elements are multiplied by this: `1/(1 − p)`.
    pub(crate) factor: f32,
}

impl Rule {
    #[inline(always)]
    pub(crate) fn new(p: f32) -> Rule {
        assert!((0.0..1.0).contains(&p), "dropout probability {p}");
        // Exact: p has 24 bits. A fraction left over rounds up, as `word ≥ p·2^32` asks.
        let threshold = (f64::from(p) * 4_294_967_296.0).ceil() as u32;
        Rule { threshold, factor: 1.0 / (1.0 - p) }
    }
}

/// The block of `first_element`, after checking that `n_elements` from there on can be counted.
#[inline(always)]
pub(crate) fn first_block(first_element: u64, n_elements: usize) -> u32 {
    assert!(first_element.is_multiple_of(4), "a block begins at a multiple of 4");
    let end = first_element + n_elements as u64;
    assert!(end <= 4 << 32, "a stream has 2^34 elements");
    (first_element / 4) as u32
}

/// [`crate::reference::dropout::philox4x32_10`] of many blocks of one stream at once, a block to each 64-bit lane.
///
/// A word is the low half of its lane. The high half may hold anything, since the multiplication reads low halves only.
pub(crate) struct Generator<L: Lanes> {
    lanes: L,
    /// Both halves of each round's key.
    keys: [[L::Words; 2]; 10],
    /// Counters 1, 2 and 3.
    counter: [L::Words; 3],
}

impl<L: Lanes> Generator<L> {
    #[inline(always)]
    pub(crate) fn new(lanes: L, stream: Stream) -> Generator<L> {
        let [mut k0, mut k1] = stream.key;
        let mut keys = [[lanes.splat_word(0); 2]; 10];
        for keys in &mut keys {
            *keys = [lanes.splat_word(k0), lanes.splat_word(k1)];
            k0 = k0.wrapping_add(0x9e37_79b9);
            k1 = k1.wrapping_add(0xbb67_ae85);
        }
        let counter = stream.counter.map(|word| lanes.splat_word(word));
        Generator { lanes, keys, counter }
    }

    /// Words 0 and 1 of each block side by side, and words 2 and 3.
    #[inline(always)]
    fn words(&self, blocks: L::Words) -> [L::Words; 2] {
        let factors = [self.lanes.splat_word(0xd251_1f53), self.lanes.splat_word(0xcd9e_8d57)];
        let (mut c0, [mut c1, mut c2, mut c3]) = (blocks, self.counter);
        for [k0, k1] in self.keys {
            let (product_0, product_1) = (c0.times(factors[0]), c2.times(factors[1]));
            c0 = product_1.high().xor(c1, k0);
            c1 = product_1;
            c2 = product_0.high().xor(c3, k1);
            c3 = product_0;
        }
        [c0.join(c1), c2.join(c3)]
    }

    /// Which of the `2·N` elements from a block on are kept: a bit for each, in order.
    #[inline(always)]
    pub(crate) fn keep_in_order(&self, first_block: u32, threshold: u32) -> [u16; 2] {
        let [words_01, words_23] = self.words(self.lanes.count_zipped(first_block));
        let (low, high) = words_01.unzip(words_23);
        [low.at_least(threshold), high.at_least(threshold)]
    }

    /// Which elements of the blocks `first`, `first + step` … are kept, as many as half the lanes: elements 0 and 1 of each
    /// block side by side, then elements 2 and 3.
    #[inline(always)]
    pub(crate) fn keep_of_blocks(&self, first: u32, step: u32, threshold: u32) -> [u16; 2] {
        let words = self.words(self.lanes.count(first, step));
        [words[0].at_least(threshold), words[1].at_least(threshold)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::dropout as reference;
    use crate::testing::{EPSILON, assert_within, isas, noise};

    fn stream(row: u32, site: Site) -> Stream {
        Stream::new(0x0123_4567_89ab_cdef, 3, TextKey::product(row, 0), 2, site)
    }

    #[test]
    fn every_isa_drops_what_the_reference_drops_at_every_length() {
        for len in 0..=130 {
            let x = &noise(len + 1, 1)[1..]; // Off the alignment.
            for (first_element, p) in [(0, 0.1), (4, 0.5), (1 << 33, 0.9), ((4 << 32) - 132, 0.1)] {
                let stream = stream(5, Site::Lora(3));
                let want: Vec<f32> = (first_element..)
                    .zip(x)
                    .map(|(element, x)| {
                        let kept = reference::is_kept(stream, element, p);
                        if kept { x * (1.0 / (1.0 - p)) } else { 0.0 }
                    })
                    .collect();
                for isa in isas() {
                    let mut y = vec![7.0; len];
                    isa.dropout_to(&mut y, x, stream, first_element, p);
                    assert_eq!(y, want, "{isa}, length {len}, from {first_element}");
                }
            }
        }
    }

    #[test]
    fn texts_are_dropped_by_their_own_streams_wherever_they_lie() {
        let (width, offsets, p) = (6, [10, 13, 13, 18, 19], 0.4);
        let streams = [0, 1, 2, 3].map(|row| stream(row, Site::FfnOutput));
        let x = noise(9 * width, 1);
        let mut want = vec![];
        for (pair, stream) in offsets.windows(2).zip(streams) {
            let text = &x[(pair[0] - 10) * width..(pair[1] - 10) * width];
            let mut text: Vec<f64> = text.iter().map(|x| f64::from(*x)).collect();
            reference::dropout(&mut text, stream, 0, p);
            want.extend(text);
        }
        for isa in isas() {
            let mut got = x.clone();
            let dropout = TextDropout { p, streams_b: &streams, offsets: &offsets };
            isa.dropout_texts(&mut got, width, &dropout);
            // The factor is rounded, and the product.
            let bound = |i: usize| EPSILON * want[i].abs();
            assert_within(&got, &want, bound, &format!("{isa}"));
        }
    }

    #[test]
    fn a_mask_drawn_in_parts_is_the_mask_drawn_at_once() {
        let isa = Isa::best();
        let stream = stream(0, Site::FfnOutput);
        let mut whole = vec![1.0; 1000];
        isa.dropout(&mut whole, stream, 0, 0.3);
        let mut parts = vec![1.0; 1000];
        isa.dropout(&mut parts[..444], stream, 0, 0.3);
        isa.dropout(&mut parts[444..], stream, 444, 0.3);
        assert_eq!(parts, whole);
    }

    #[test]
    fn the_share_that_is_dropped_is_p() {
        let n = 400_000;
        for p in [0.0, 0.1, 0.5, 0.875] {
            let mut x = vec![1.0; n];
            Isa::best().dropout(&mut x, stream(1, Site::Embeddings), 0, p);
            let dropped = x.iter().filter(|x| **x == 0.0).count() as f64;
            let (n, p) = (n as f64, f64::from(p));
            // Five standard deviations of a binomial count.
            assert!((dropped - n * p).abs() <= 5.0 * (n * p * (1.0 - p)).sqrt(), "{p}: {dropped}");
        }
    }

    #[test]
    fn masks_that_differ_in_one_part_of_their_stream_are_uncorrelated() {
        let (n, p) = (100_000, 0.5);
        let mask = |stream: Stream| {
            let mut mask = vec![0.5; n];
            Isa::best().dropout(&mut mask, stream, 0, p);
            mask
        };
        let new = Stream::new;
        let (query, product) = (TextKey::query(1), TextKey::product(1, 0));
        let streams = [
            new(1, 1, query, 1, Site::Embeddings),
            new(2, 1, query, 1, Site::Embeddings),
            new(1 << 32 | 1, 1, query, 1, Site::Embeddings),
            new(1, 2, query, 1, Site::Embeddings),
            new(1, 1, TextKey::query(2), 1, Site::Embeddings),
            new(1, 1, product, 1, Site::Embeddings),
            new(1, 1, TextKey::product(1, 1), 1, Site::Embeddings),
            new(1, 1, TextKey::product(1, MAX_CANDIDATES - 1), 1, Site::Embeddings),
            new(1, 1, query, 2, Site::Embeddings),
            new(1, 1, query, 1, Site::AttentionProbs),
            new(1, 1, query, 1, Site::AttentionOutput),
            new(1, 1, query, 1, Site::FfnOutput),
            new(1, 1, query, 1, Site::Lora(0)),
            new(1, 1, query, 1, Site::Lora(1)),
        ];
        let masks = streams.map(mask);
        for (a, mask_a) in masks.iter().enumerate() {
            for (b, mask_b) in masks.iter().enumerate().take(a) {
                let both = mask_a.iter().zip(mask_b).filter(|(a, b)| a == b).count() as f64;
                // Agreements of two fair coins, five standard deviations.
                let n = n as f64;
                assert!((both - n / 2.0).abs() <= 2.5 * n.sqrt(), "{a} and {b}: {both}");
            }
        }
    }

    #[test]
    fn no_two_places_share_a_stream() {
        let sites = (0..=255).map(Site::Lora).chain([
            Site::Embeddings,
            Site::AttentionProbs,
            Site::AttentionOutput,
            Site::FfnOutput,
        ]);
        let last_row = MAX_ROWS - 1;
        let texts = [
            TextKey::query(0),
            TextKey::query(last_row),
            TextKey::product(0, 0),
            TextKey::product(last_row, 0),
            TextKey::product(0, 1),
            TextKey::product(1, 0),
            TextKey::product(last_row, MAX_CANDIDATES - 1),
        ];
        let mut streams = std::collections::HashSet::new();
        let mut n_places = 0;
        for site in sites {
            for text in texts {
                for layer in [0, 1, u16::MAX] {
                    streams.insert(Stream::new(1, 2, text, layer, site));
                    n_places += 1;
                }
            }
        }
        assert_eq!(streams.len(), n_places);
    }

    #[test]
    #[should_panic(expected = "row 1048576 of a batch of at most 1048576")]
    fn a_row_that_does_not_fit_its_field_panics() {
        TextKey::query(MAX_ROWS);
    }

    #[test]
    #[should_panic(expected = "candidate 4096 of at most 4096")]
    fn a_candidate_that_does_not_fit_its_field_panics() {
        TextKey::product(0, MAX_CANDIDATES);
    }

    /// The first two blocks of four streams, computed a second time in Python. Those of the query and of candidate 0 are
    /// what they were when a row had one product only: a run of that time goes on with the same masks.
    #[test]
    fn golden_words() {
        let golden = [
            (
                TextKey::query(77),
                Site::AttentionProbs,
                [
                    [0x9fea_9c7a, 0xf482_5bbb, 0x57fd_25a1, 0xd5bf_ec01],
                    [0x3cd5_c400, 0x8448_2ee8, 0x7a16_4cc5, 0x0eb6_0f89],
                ],
            ),
            (
                TextKey::product(77, 0),
                Site::Lora(3),
                [
                    [0xe7f0_c4aa, 0xa17f_307f, 0x8fc5_9d0c, 0x4dff_c731],
                    [0xfdf5_3a5e, 0x972d_4aac, 0xfd0f_bac2, 0x21d4_6147],
                ],
            ),
            (
                TextKey::product(77, 1),
                Site::Lora(3),
                [
                    [0xbdd5_bfa7, 0xd8a4_0a55, 0x6ba3_5866, 0x4531_4e83],
                    [0xf65c_ed1f, 0x63de_58c8, 0x6147_964e, 0xafcc_351d],
                ],
            ),
            (
                TextKey::product(77, 4095),
                Site::FfnOutput,
                [
                    [0x6787_9ad0, 0x7fd7_1f44, 0x69e5_9bdf, 0x1e0a_41fc],
                    [0x9a1f_2b6a, 0x910b_3d60, 0x5a89_1e9b, 0x7da8_1059],
                ],
            ),
        ];
        for (text, site, want) in golden {
            let stream = Stream::new(0x0123_4567_89ab_cdef, 3, text, 2, site);
            let words =
                [0, 1].map(|block| reference::philox4x32_10(stream.counter(block), stream.key()));
            assert_eq!(words, want, "{text:?}, {site:?}");
        }
    }
}
