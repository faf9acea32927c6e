//! Philox4x32-10, and dropout by its words.

use crate::dropout::Stream;

/// Ten rounds of Philox4x32 (Salmon, Moraes, Dror and Shaw 2011): four random words for each counter and key.
///
/// ```text
/// (c0, c1, c2, c3) <- (hi(M1·c2) ^ c1 ^ k0, lo(M1·c2), hi(M0·c0) ^ c3 ^ k1, lo(M0·c0))        k += W between rounds
/// ```
pub fn philox4x32_10(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let product = |a: u32, b: u32| {
        let product = u64::from(a) * u64::from(b);
        ((product >> 32) as u32, product as u32)
    };
    let ([mut c0, mut c1, mut c2, mut c3], [mut k0, mut k1]) = (counter, key);
    for _ in 0..10 {
        let (high_0, low_0) = product(0xd251_1f53, c0);
        let (high_1, low_1) = product(0xcd9e_8d57, c2);
        [c0, c1, c2, c3] = [high_1 ^ c1 ^ k0, low_1, high_0 ^ c3 ^ k1, low_0];
        k0 = k0.wrapping_add(0x9e37_79b9);
        k1 = k1.wrapping_add(0xbb67_ae85);
    }
    [c0, c1, c2, c3]
}

/// Whether `element` of what `stream` drops is kept: its word is at least `p·2^32`.
pub fn is_kept(stream: Stream, element: u64, p: f32) -> bool {
    let words = philox4x32_10(stream.counter((element / 4) as u32), stream.key());
    f64::from(words[(element % 4) as usize]) >= f64::from(p) * 2f64.powi(32)
}

/// `x[i] = keep ? x[i] / (1 − p) : 0`.
pub fn dropout(x: &mut [f64], stream: Stream, first_element: u64, p: f32) {
    for (element, x) in (first_element..).zip(x) {
        *x = if is_kept(stream, element, p) { *x / (1.0 - f64::from(p)) } else { 0.0 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors of `kat_vectors` in the authors' Random123.
    #[test]
    fn philox_gives_the_published_words() {
        let ones = u32::MAX;
        let pi = [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344, 0xa409_3822, 0x299f_31d0];
        for (counter, key, want) in [
            ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            ([ones; 4], [ones; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            (
                [pi[0], pi[1], pi[2], pi[3]],
                [pi[4], pi[5]],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ] {
            assert_eq!(philox4x32_10(counter, key), want);
        }
    }
}
