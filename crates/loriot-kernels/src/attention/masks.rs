//! Which probabilities of one sequence dropout keeps, a bit for each.
//!
//! The rows of all heads, in order, form one long axis, and keys are taken in pairs. Each pair of keys has a string of bits:
//! bit `2·row` is for the even key and bit `2·row + 1` for the odd one. So the bits for the lanes of a vector of any width
//! are neighbours.

use super::AttentionDropout;
use crate::dropout::{Generator, Rule, first_block};
use crate::lanes::Lanes;

/// The keep bits of one sequence, and the factor for kept values.
#[derive(Clone, Copy)]
pub(super) struct Masks<'a> {
    bits: &'a [u8],
    /// Bytes from one pair of keys to the next.
    stride: usize,
    pub(super) factor: f32,
}

impl<'a> Masks<'a> {
    /// Draws the masks of sequence `b`, of `len` tokens, in a buffer that grows.
    #[inline(always)]
    pub(super) fn draw<L: Lanes>(
        lanes: L,
        buffer: &'a mut Vec<u8>,
        dropout: &AttentionDropout<'_>,
        (b, len, heads): (usize, usize, usize),
    ) -> Masks<'a> {
        let (rows, blocks_per_row) = (heads * len, len.div_ceil(4));
        let (rule, lane_rows) = (Rule::new(dropout.p), L::N / 2);
        let first = first_block(0, 4 * rows * blocks_per_row);
        // Room behind the last row, because a whole vector of bits is drawn, and four bytes are read, at a time.
        let stride = (2 * rows.next_multiple_of(lane_rows)).div_ceil(8) + 4;
        let n_bytes = 2 * blocks_per_row * stride;
        if buffer.len() < n_bytes {
            buffer.resize(n_bytes, 0);
        }
        let bits = &mut buffer[..n_bytes];
        let generator = Generator::new(lanes, dropout.streams_b[b]);
        for block in 0..blocks_per_row {
            let (even, odd) = bits[2 * block * stride..][..2 * stride].split_at_mut(stride);
            let step = blocks_per_row as u32;
            let mut at = first.wrapping_add(block as u32);
            let bytes = even.chunks_exact_mut(L::N / 8).zip(odd.chunks_exact_mut(L::N / 8));
            for (even, odd) in bytes.take(rows.div_ceil(lane_rows)) {
                let [keep_01, keep_23] = generator.keep_of_blocks(at, step, rule.threshold);
                even.copy_from_slice(&keep_01.to_le_bytes()[..L::N / 8]);
                odd.copy_from_slice(&keep_23.to_le_bytes()[..L::N / 8]);
                at = at.wrapping_add(step.wrapping_mul(lane_rows as u32));
            }
        }
        Masks { bits, stride, factor: rule.factor }
    }

    /// The bits of a pair of keys, for the rows from `row` on.
    #[inline(always)]
    pub(super) fn bits(&self, row: usize, pair: usize) -> u16 {
        let at = pair * self.stride + row / 4;
        let bytes = self.bits[at..].first_chunk().expect("4 bytes behind the last row");
        (u32::from_le_bytes(*bytes) >> (2 * (row % 4))) as u16
    }
}
