//! The order in which bf16 and int8 weights are stored, and in which the kernels that multiply them read panels.
//!
//! A panel has 32 columns. Along `k` it is a sequence of steps of two AMX tiles, for columns 0 to 15 and 16 to 31. A tile
//! is 16 rows of 64 bytes; a row holds, for 16 columns, as many consecutive elements of `k` as fit four bytes: two of
//! bf16, four of int8. Such a row is also the operand of one `vdpbf16ps` or `vpdpbusd`.
//!
//! ```text
//! element (k, col):   step k/(16e)   tile col/16   row k%(16e)/e   column col%16   place k%e         e = 2 or 4
//! ```

use std::ops::Range;

/// Columns of a panel.
pub(super) const NR: usize = 32;

/// Columns, and rows, of a tile.
pub(super) const TILE: usize = 16;

/// Bytes of a tile.
pub(super) const TILE_BYTES: usize = 64 * TILE;

/// `k` of a step: 32 of bf16.
pub(super) const BF16_STEP: usize = 2 * TILE;

/// `k` of a step: 64 of int8.
pub(super) const INT8_STEP: usize = 4 * TILE;

/// Parts of an f32 that is split in bf16.
pub(super) const PLANES: usize = 3;

/// Where in a panel element `k` of column 0 of tile `tile` stands; the next columns follow at a distance of `per_word`.
pub(super) fn place(per_word: usize, k: usize, tile: usize) -> usize {
    let step = per_word * TILE;
    ((k / step * 2 + tile) * TILE + k % step / per_word) * per_word * TILE + k % per_word
}

/// `x` as bf16: the nearest, of two equally near the even one; NaN stays NaN.
pub(super) fn to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    if x.is_nan() {
        return (bits >> 16) as u16 | 0x40;
    }
    (bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16) as u16
}

/// The value of a bf16.
pub(super) fn from_bf16(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// Most of `k` that one scale of the int8 kernels covers: a token's values come with one scale for each such stretch.
pub(super) const INT8_KC: usize = 1536;

/// The stretches of `0..k`.
pub(super) fn int8_blocks(k: usize) -> impl Iterator<Item = Range<usize>> {
    super::ranges::even_ranges(k, INT8_KC, INT8_STEP)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_element_of_a_panel_has_its_own_place() {
        for (per_word, k) in [(2, 96), (4, 192)] {
            let mut seen = vec![false; k * NR];
            for at in 0..k {
                for col in 0..NR {
                    let place = place(per_word, at, col / TILE) + col % TILE * per_word;
                    assert!(!std::mem::replace(&mut seen[place], true));
                }
            }
        }
    }

    #[test]
    fn bf16_is_that_of_the_reference() {
        use crate::reference::bf16 as reference;
        let ties = (0..0x7f80).map(|bits| f32::from_bits(bits << 16 | 0x8000));
        let noise = crate::testing::noise(10_000, 1).into_iter();
        let ends = [0.0, -0.0, f32::MAX, f32::MIN, f32::INFINITY, f32::NEG_INFINITY, 1e-40];
        for x in ties.chain(noise).chain(ends) {
            assert_eq!(to_bf16(x), reference::to_bf16(x), "{x}");
            assert_eq!(f64::from(from_bf16(to_bf16(x))), reference::from_bf16(to_bf16(x)), "{x}");
        }
        assert!(from_bf16(to_bf16(f32::NAN)).is_nan());
        assert!(from_bf16(to_bf16(f32::from_bits(0x7f80_0001))).is_nan());
    }
}
