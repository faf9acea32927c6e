//! Eight lanes in plain loops, which the compiler turns into whatever the target's baseline has (SSE2 on x86-64).

use super::{Lanes, Vector, Words, inlined};
use std::ops::{Add, Div, Mul, Sub};

/// The portable level; every CPU has it.
#[derive(Clone, Copy)]
pub(crate) struct Scalar(());

/// Eight lanes of [`Scalar`].
#[derive(Clone, Copy)]
#[repr(align(32))]
pub(crate) struct F32x8([f32; 8]);

impl Lanes for Scalar {
    type F32 = F32x8;

    type Table = [f32; 16];

    type Words = U64x4;

    const N: usize = 8;

    #[inline(always)]
    fn here() -> Self {
        Scalar(())
    }

    #[inline(always)]
    fn apart<R>(self, f: impl FnOnce() -> R) -> R {
        #[inline(never)]
        fn apart<R>(f: impl FnOnce() -> R) -> R {
            f()
        }
        apart(f)
    }

    #[inline(always)]
    fn splat(self, x: f32) -> F32x8 {
        F32x8([x; 8])
    }

    #[inline(always)]
    fn load(self, x: &[f32]) -> F32x8 {
        F32x8(*x.first_chunk().expect("at least a vector"))
    }

    #[inline(always)]
    fn load_part(self, x: &[f32], fill: f32) -> F32x8 {
        let mut lanes = [fill; 8];
        lanes[..x.len()].copy_from_slice(x);
        F32x8(lanes)
    }

    #[inline(always)]
    fn store(self, y: &mut [f32], value: F32x8) {
        *y.first_chunk_mut().expect("at least a vector") = value.0;
    }

    #[inline(always)]
    fn store_part(self, y: &mut [f32], value: F32x8) {
        y.copy_from_slice(&value.0[..y.len()]);
    }

    #[inline(always)]
    fn splat_pair(self, &[a, b]: &[f32; 2]) -> F32x8 {
        F32x8([a, b, a, b, a, b, a, b])
    }

    #[inline(always)]
    fn load_pairs<'a>(self, row: impl Fn(usize) -> &'a [f32; 4]) -> (F32x8, F32x8) {
        let (mut first, mut second) = ([0.0; 8], [0.0; 8]);
        for i in 0..4 {
            first[2 * i..][..2].copy_from_slice(&row(i)[..2]);
            second[2 * i..][..2].copy_from_slice(&row(i)[2..]);
        }
        (F32x8(first), F32x8(second))
    }

    #[inline(always)]
    fn table(self, entries: &[f32; 16]) -> [f32; 16] {
        *entries
    }

    #[inline(always)]
    fn look_up(self, table: [f32; 16], mut index: F32x8) -> F32x8 {
        for x in &mut index.0 {
            *x = table[(x.to_bits() & 15) as usize];
        }
        index
    }

    #[inline(always)]
    fn splat_word(self, word: u32) -> U64x4 {
        U64x4([u64::from(word); 4])
    }

    #[inline(always)]
    fn count(self, first: u32, step: u32) -> U64x4 {
        U64x4([0, 1, 2, 3].map(|lane: u32| first.wrapping_add(lane.wrapping_mul(step)).into()))
    }

    #[inline(always)]
    fn count_zipped(self, first: u32) -> U64x4 {
        U64x4([0, 2, 1, 3].map(|lane| first.wrapping_add(lane).into()))
    }
}

/// Four 64-bit lanes of [`Scalar`].
#[derive(Clone, Copy)]
#[repr(align(32))]
pub(crate) struct U64x4([u64; 4]);

/// The low half.
const LOW: u64 = 0xffff_ffff;

impl Words for U64x4 {
    #[inline(always)]
    fn times(mut self, factor: U64x4) -> U64x4 {
        for i in 0..4 {
            self.0[i] = (self.0[i] & LOW) * (factor.0[i] & LOW);
        }
        self
    }

    #[inline(always)]
    fn high(mut self) -> U64x4 {
        for i in 0..4 {
            self.0[i] >>= 32;
        }
        self
    }

    #[inline(always)]
    fn xor(mut self, a: U64x4, b: U64x4) -> U64x4 {
        for i in 0..4 {
            self.0[i] ^= a.0[i] ^ b.0[i];
        }
        self
    }

    #[inline(always)]
    fn join(mut self, high: U64x4) -> U64x4 {
        for i in 0..4 {
            self.0[i] = self.0[i] & LOW | high.0[i] << 32;
        }
        self
    }

    #[inline(always)]
    fn unzip(self, other: U64x4) -> (U64x4, U64x4) {
        let (a, b) = (self.0, other.0);
        (U64x4([a[0], b[0], a[2], b[2]]), U64x4([a[1], b[1], a[3], b[3]]))
    }

    #[inline(always)]
    fn at_least(self, threshold: u32) -> u16 {
        let mut bits = 0;
        for i in 0..4 {
            bits |= u16::from(self.0[i] as u32 >= threshold) << (2 * i);
            bits |= u16::from((self.0[i] >> 32) as u32 >= threshold) << (2 * i + 1);
        }
        bits
    }
}

impl F32x8 {
    // A loop, as `array::from_fn` was left a call in the larger kernels, and `f` then worked through memory.
    #[inline(always)]
    fn zip(mut self, other: F32x8, f: impl Fn(f32, f32) -> f32) -> F32x8 {
        for i in 0..8 {
            self.0[i] = f(self.0[i], other.0[i]);
        }
        self
    }
}

impl Add for F32x8 {
    type Output = F32x8;

    #[inline(always)]
    fn add(self, other: F32x8) -> F32x8 {
        self.zip(other, inlined!(|a, b| a + b))
    }
}

impl Sub for F32x8 {
    type Output = F32x8;

    #[inline(always)]
    fn sub(self, other: F32x8) -> F32x8 {
        self.zip(other, inlined!(|a, b| a - b))
    }
}

impl Mul for F32x8 {
    type Output = F32x8;

    #[inline(always)]
    fn mul(self, other: F32x8) -> F32x8 {
        self.zip(other, inlined!(|a, b| a * b))
    }
}

impl Div for F32x8 {
    type Output = F32x8;

    #[inline(always)]
    fn div(self, other: F32x8) -> F32x8 {
        self.zip(other, inlined!(|a, b| a / b))
    }
}

impl Vector for F32x8 {
    // Not `f32::mul_add`: without the instruction that is a call into the C library, some 50 times as slow.
    #[inline(always)]
    fn mul_add(self, factor: F32x8, term: F32x8) -> F32x8 {
        self * factor + term
    }

    #[inline(always)]
    fn neg_mul_add(self, factor: F32x8, term: F32x8) -> F32x8 {
        term - self * factor
    }

    #[inline(always)]
    fn min(self, other: F32x8) -> F32x8 {
        self.zip(other, inlined!(|a, b| if a < b { a } else { b }))
    }

    #[inline(always)]
    fn max(self, other: F32x8) -> F32x8 {
        self.zip(other, inlined!(|a, b| if a > b { a } else { b }))
    }

    #[inline(always)]
    fn abs(self) -> F32x8 {
        self.zip(self, inlined!(|a, _| a.abs()))
    }

    #[inline(always)]
    fn with_sign_of(self, other: F32x8) -> F32x8 {
        self.zip(other, inlined!(|a, b| f32::from_bits(a.to_bits() ^ b.to_bits() & 1 << 31)))
    }

    #[inline(always)]
    fn sqrt(self) -> F32x8 {
        self.zip(self, inlined!(|a, _| a.sqrt()))
    }

    #[inline(always)]
    fn if_less(self, limit: F32x8, yes: F32x8, no: F32x8) -> F32x8 {
        let mut chosen = no;
        for i in 0..8 {
            chosen.0[i] = if self.0[i] < limit.0[i] { yes.0[i] } else { no.0[i] };
        }
        chosen
    }

    #[inline(always)]
    fn scale_by_exponent(self, shifted: F32x8) -> F32x8 {
        self.zip(
            shifted,
            inlined!(|x, n| f32::from_bits(x.to_bits().wrapping_add(n.to_bits() << 23))),
        )
    }

    #[inline(always)]
    fn sum(self) -> f32 {
        let x = self.0;
        ((x[0] + x[4]) + (x[2] + x[6])) + ((x[1] + x[5]) + (x[3] + x[7]))
    }

    #[inline(always)]
    fn add_pairs(self, other: F32x8) -> F32x8 {
        let (a, b) = (self.0, other.0);
        F32x8([
            a[0] + a[1],
            b[0] + b[1],
            a[2] + a[3],
            b[2] + b[3],
            a[4] + a[5],
            b[4] + b[5],
            a[6] + a[7],
            b[6] + b[7],
        ])
    }

    #[inline(always)]
    fn swap_pairs(self) -> F32x8 {
        let x = self.0;
        F32x8([x[1], x[0], x[3], x[2], x[5], x[4], x[7], x[6]])
    }

    #[inline(always)]
    fn keep(mut self, bits: u16) -> F32x8 {
        for (i, x) in self.0.iter_mut().enumerate() {
            // A choice between two values became a branch per element, wrong one time in ten.
            let keep = u32::from(bits >> i & 1).wrapping_neg();
            *x = f32::from_bits(x.to_bits() & keep);
        }
        self
    }
}
