//! Eight lanes in plain loops, which the compiler turns into whatever the target's baseline has (SSE2 on x86-64).

use super::{Lanes, Vector, inlined};
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

    const N: usize = 8;

    #[inline(always)]
    fn here() -> Self {
        Scalar(())
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
    fn transpose(self, rows: [[f32; 8]; 8]) -> [[f32; 8]; 8] {
        let mut columns = [[0.0; 8]; 8];
        for (i, row) in rows.iter().enumerate() {
            for (j, x) in row.iter().enumerate() {
                columns[j][i] = *x;
            }
        }
        columns
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
    fn greatest(self) -> f32 {
        let max = |a: f32, b: f32| if a > b { a } else { b };
        let x = self.0;
        max(max(max(x[0], x[4]), max(x[2], x[6])), max(max(x[1], x[5]), max(x[3], x[7])))
    }
}
