//! Between f32 and bfloat16, its upper half: 8 bits of exponent, 8 of precision. Values are held as their bits, in u16.

use crate::Isa;
use crate::isa::dispatch;
use crate::lanes::Lanes;

impl Isa {
    /// `y[i]` is the bf16 nearest to `x[i]`, the even one of two as near; NaN stays NaN. The same bits at every level.
    pub fn to_bf16(self, y: &mut [u16], x: &[f32]) {
        dispatch!(self, to_bf16_body(y: &mut [u16], x: &[f32]))
    }

    /// `y[i] = x[i]`, exactly.
    pub fn from_bf16(self, y: &mut [f32], x: &[u16]) {
        dispatch!(self, from_bf16_body(y: &mut [f32], x: &[u16]))
    }
}

/// Plain code that the compiler makes vectors of; `L` only names the features it may use.
#[inline(always)]
fn to_bf16_body<L: Lanes>(y: &mut [u16], x: &[f32]) {
    assert_eq!(y.len(), x.len(), "lengths of y and x");
    for (y, x) in y.iter_mut().zip(x) {
        let bits = x.to_bits();
        // What is dropped is half a unit at most, or more with an odd unit above it: then this carries into the upper half.
        // It cannot overflow but for a NaN, and the greatest numbers carry into infinity.
        let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
        // A NaN may have all its bits below; one of those that stay makes it a quiet one.
        let nan = bits >> 16 | 0x40;
        *y = if bits & 0x7fff_ffff > 0x7f80_0000 { nan } else { rounded } as u16;
    }
}

/// As [`to_bf16_body`].
#[inline(always)]
fn from_bf16_body<L: Lanes>(y: &mut [f32], x: &[u16]) {
    assert_eq!(y.len(), x.len(), "lengths of y and x");
    for (y, x) in y.iter_mut().zip(x) {
        *y = f32::from_bits(u32::from(*x) << 16);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::bf16 as reference;
    use crate::testing::noise;

    #[test]
    fn every_length_rounds_as_the_reference_on_every_isa() {
        for len in 0..=130 {
            let x = &noise(len + 1, 1)[1..]; // Off the alignment.
            let want: Vec<u16> = x.iter().map(|x| reference::to_bf16(*x)).collect();
            for isa in Isa::available() {
                let mut y = vec![7; len + 1];
                isa.to_bf16(&mut y[1..], x);
                assert_eq!(y[1..], want, "{isa}, length {len}");
                let mut back = vec![7.0; len];
                isa.from_bf16(&mut back, &y[1..]);
                let want: Vec<f32> = want.iter().map(|y| reference::from_bf16(*y) as f32).collect();
                assert_eq!(back, want, "{isa}, length {len}");
            }
        }
    }

    /// Every bf16 with what lies just below, at and just above half way to the next.
    #[test]
    fn halves_go_to_the_even_one_at_every_magnitude_and_sign() {
        let halves = [0, 1, 0x7fff, 0x8000, 0x8001, 0xffff];
        let x: Vec<f32> = (0..=0xffff_u32)
            .flat_map(|upper| halves.map(|lower| f32::from_bits(upper << 16 | lower)))
            .collect();
        for isa in Isa::available() {
            let (mut y, mut back) = (vec![7; x.len()], vec![7.0; x.len()]);
            isa.to_bf16(&mut y, &x);
            isa.from_bf16(&mut back, &y);
            for ((x, y), back) in x.iter().zip(y).zip(back) {
                if x.is_nan() {
                    assert!(back.is_nan(), "{isa}: {x:?} became {y:#x}");
                } else {
                    assert_eq!(y, reference::to_bf16(*x), "{isa}: {x:e}");
                }
            }
        }
    }
}
