//! One vector of f32 per instruction set, and the loops that run over slices with it.
//!
//! A kernel body is written once, generic over [`Lanes`], and compiled for each level by [`crate::isa::dispatch`]:
//!
//! ```ignore
//! #[inline(always)]
//! fn scale_body<L: Lanes>(x: &mut [f32], s: f32) {
//!     let lanes = L::here();
//!     let s = lanes.splat(s);
//!     update(lanes, x, inlined!(|x| x * s));
//! }
//! ```
//!
//! [`Lanes::here`] checks the CPU, and there is no other way to a value of its type; vectors are only made by such a
//! value. Whoever holds either has therefore passed the check, which is what makes the intrinsics behind it sound.
//! Everything here is `#[inline(always)]`, closures included: code that is not inlined into the function that enables
//! the CPU's features would be compiled without them.
//!
//! A tail shorter than a vector is loaded and stored in part, never computed by other code: an element's result does not
//! depend on where in a slice it stands.

use std::ops::{Add, Div, Mul, Sub};

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub(crate) mod math;
pub(crate) mod pieces;
mod scalar;

#[cfg(target_arch = "x86_64")]
pub(crate) use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) use avx512::Avx512;
pub(crate) use scalar::Scalar;

/// An instruction set: the proof that the CPU has it, and the way between slices and its vectors.
pub(crate) trait Lanes: Copy {
    /// A vector of [`Lanes::N`] elements.
    type F32: Vector;

    /// Sixteen numbers to look up.
    type Table: Copy;

    /// A vector of half as many 64-bit numbers, each with a word in its low half, to draw random bits with.
    type Words: Words;

    /// Elements in a vector: 8 or 16.
    const N: usize;

    /// The proof. Panics where the CPU lacks the level.
    fn here() -> Self;

    /// `f()`, in a function of its own that is compiled for this level. A large kernel calls its parts so: in one function
    /// with all of them the compiler runs out of patience, and leaves calls in their innermost loops.
    fn apart<R>(self, f: impl FnOnce() -> R) -> R;

    /// `x` in every lane.
    fn splat(self, x: f32) -> Self::F32;

    /// The first [`Lanes::N`] elements of `x`; panics if there are fewer.
    fn load(self, x: &[f32]) -> Self::F32;

    /// All of `x`, which is shorter than a vector, and `fill` in the lanes behind it.
    fn load_part(self, x: &[f32], fill: f32) -> Self::F32;

    /// Writes the first [`Lanes::N`] elements of `y`; panics if there are fewer.
    fn store(self, y: &mut [f32], value: Self::F32);

    /// Writes all of `y`, which is shorter than a vector, from the first lanes.
    fn store_part(self, y: &mut [f32], value: Self::F32);

    /// `pair` over and over.
    fn splat_pair(self, pair: &[f32; 2]) -> Self::F32;

    /// The first two elements of each of half as many rows as there are lanes, side by side, and then the next two.
    fn load_pairs<'a>(self, row: impl Fn(usize) -> &'a [f32; 4]) -> (Self::F32, Self::F32);

    /// The numbers as a table.
    fn table(self, entries: &[f32; 16]) -> Self::Table;

    /// Each lane's entry of a table, the one that the low four bits of `index` name.
    fn look_up(self, table: Self::Table, index: Self::F32) -> Self::F32;

    /// `word` in each low half.
    fn splat_word(self, word: u32) -> Self::Words;

    /// `first + lane·step` in each low half.
    fn count(self, first: u32, step: u32) -> Self::Words;

    /// `first`, `first + N/4`, `first + 1`, `first + N/4 + 1` and so on in each low half: what [`Words::unzip`] takes apart.
    fn count_zipped(self, first: u32) -> Self::Words;
}

/// The operations of Philox by lane.
pub(crate) trait Words: Copy {
    /// The 64-bit product of the low halves.
    fn times(self, factor: Self) -> Self;

    /// The high halves, as low ones; what the high halves of the result hold is not told.
    fn high(self) -> Self;

    /// Exclusive or of all three.
    fn xor(self, a: Self, b: Self) -> Self;

    /// The low halves of `self`, with those of `high` as high halves.
    fn join(self, high: Self) -> Self;

    /// Lanes 0, 2, 4 … of both in turn, then lanes 1, 3, 5 … of both in turn.
    fn unzip(self, other: Self) -> (Self, Self);

    /// One bit for each half, low ones first: whether it is at least `threshold`.
    fn at_least(self, threshold: u32) -> u16;
}

/// Arithmetic by lane. Comparisons with NaN are false.
pub(crate) trait Vector:
    Copy + Add<Output = Self> + Sub<Output = Self> + Mul<Output = Self> + Div<Output = Self>
{
    /// `self·factor + term`: rounded once where the CPU can, twice in scalar code.
    fn mul_add(self, factor: Self, term: Self) -> Self;

    /// `term − self·factor`, rounded like [`Vector::mul_add`].
    fn neg_mul_add(self, factor: Self, term: Self) -> Self;

    /// `self < other ? self : other`, so `other` where either is NaN.
    fn min(self, other: Self) -> Self;

    /// `self > other ? self : other`, so `other` where either is NaN.
    fn max(self, other: Self) -> Self;

    /// `|self|`.
    fn abs(self) -> Self;

    /// `self`, negated where the sign bit of `other` is set.
    fn with_sign_of(self, other: Self) -> Self;

    /// `√self`, correctly rounded.
    fn sqrt(self) -> Self;

    /// `self < limit ? yes : no`.
    fn if_less(self, limit: Self, yes: Self, no: Self) -> Self;

    /// `self·2^n`, where `shifted` is `n + `[`math::SHIFT`] and neither operand nor result is subnormal.
    fn scale_by_exponent(self, shifted: Self) -> Self;

    /// The sum of the lanes, in an order fixed per type.
    fn sum(self) -> f32;

    /// Sums of neighbours: of `self` in even lanes, of `other` in odd ones.
    fn add_pairs(self, other: Self) -> Self;

    /// Each lane's neighbour: 1, 0, 3, 2 and so on.
    fn swap_pairs(self) -> Self;

    /// `self` where the lane's bit is set, and 0 elsewhere.
    fn keep(self, bits: u16) -> Self;
}

/// A closure that is always inlined; see the module's documentation.
macro_rules! inlined {
    (|| $body:expr) => { #[inline(always)] || $body };
    (|$($argument:pat_param),*| $body:expr) => { #[inline(always)] |$($argument),*| $body };
}
pub(crate) use inlined;

/// The first [`Lanes::N`] elements of `x`, or all and 0 behind them.
#[inline(always)]
pub(crate) fn load_up_to<L: Lanes>(lanes: L, x: &[f32]) -> L::F32 {
    if x.len() >= L::N { lanes.load(x) } else { lanes.load_part(x, 0.0) }
}

/// Writes the first [`Lanes::N`] elements of `y`, or all.
#[inline(always)]
pub(crate) fn store_up_to<L: Lanes>(lanes: L, y: &mut [f32], value: L::F32) {
    if y.len() >= L::N { lanes.store(y, value) } else { lanes.store_part(y, value) }
}

/// `y[i] = f(x[i])`.
#[inline(always)]
pub(crate) fn map<L: Lanes>(lanes: L, y: &mut [f32], x: &[f32], f: impl Fn(L::F32) -> L::F32) {
    assert_eq!(y.len(), x.len(), "lengths of y and x");
    let (mut y, mut x) = (y.chunks_exact_mut(L::N), x.chunks_exact(L::N));
    for (y, x) in y.by_ref().zip(x.by_ref()) {
        lanes.store(y, f(lanes.load(x)));
    }
    let (y, x) = (y.into_remainder(), x.remainder());
    if !x.is_empty() {
        lanes.store_part(y, f(lanes.load_part(x, 0.0)));
    }
}

/// `y[i] = f(a[i], b[i])`.
#[inline(always)]
pub(crate) fn map_2<L: Lanes>(
    lanes: L,
    y: &mut [f32],
    a: &[f32],
    b: &[f32],
    f: impl Fn(L::F32, L::F32) -> L::F32,
) {
    assert_eq!(y.len(), a.len(), "lengths of y and a");
    assert_eq!(y.len(), b.len(), "lengths of y and b");
    let mut y = y.chunks_exact_mut(L::N);
    let (mut a, mut b) = (a.chunks_exact(L::N), b.chunks_exact(L::N));
    for ((y, a), b) in y.by_ref().zip(a.by_ref()).zip(b.by_ref()) {
        lanes.store(y, f(lanes.load(a), lanes.load(b)));
    }
    let (y, a, b) = (y.into_remainder(), a.remainder(), b.remainder());
    if !a.is_empty() {
        lanes.store_part(y, f(lanes.load_part(a, 0.0), lanes.load_part(b, 0.0)));
    }
}

/// `x[i] = f(x[i])`.
#[inline(always)]
pub(crate) fn update<L: Lanes>(lanes: L, x: &mut [f32], f: impl Fn(L::F32) -> L::F32) {
    let mut chunks = x.chunks_exact_mut(L::N);
    for x in chunks.by_ref() {
        lanes.store(x, f(lanes.load(x)));
    }
    let x = chunks.into_remainder();
    if !x.is_empty() {
        lanes.store_part(x, f(lanes.load_part(x, 0.0)));
    }
}

/// `y[i] = f(y[i], x[i])`.
#[inline(always)]
pub(crate) fn update_with<L: Lanes>(
    lanes: L,
    y: &mut [f32],
    x: &[f32],
    f: impl Fn(L::F32, L::F32) -> L::F32,
) {
    assert_eq!(y.len(), x.len(), "lengths of y and x");
    let (mut y, mut x) = (y.chunks_exact_mut(L::N), x.chunks_exact(L::N));
    for (y, x) in y.by_ref().zip(x.by_ref()) {
        lanes.store(y, f(lanes.load(y), lanes.load(x)));
    }
    let (y, x) = (y.into_remainder(), x.remainder());
    if !x.is_empty() {
        lanes.store_part(y, f(lanes.load_part(y, 0.0), lanes.load_part(x, 0.0)));
    }
}

/// `y[i] = f(y[i], a[i], b[i])`.
#[inline(always)]
pub(crate) fn update_with_2<L: Lanes>(
    lanes: L,
    y: &mut [f32],
    a: &[f32],
    b: &[f32],
    f: impl Fn(L::F32, L::F32, L::F32) -> L::F32,
) {
    assert_eq!(y.len(), a.len(), "lengths of y and a");
    assert_eq!(y.len(), b.len(), "lengths of y and b");
    let mut y = y.chunks_exact_mut(L::N);
    let (mut a, mut b) = (a.chunks_exact(L::N), b.chunks_exact(L::N));
    for ((y, a), b) in y.by_ref().zip(a.by_ref()).zip(b.by_ref()) {
        lanes.store(y, f(lanes.load(y), lanes.load(a), lanes.load(b)));
    }
    let (y, a, b) = (y.into_remainder(), a.remainder(), b.remainder());
    if !a.is_empty() {
        let value = f(lanes.load_part(y, 0.0), lanes.load_part(a, 0.0), lanes.load_part(b, 0.0));
        lanes.store_part(y, value);
    }
}

/// Folds `f(sum, a[i], b[i])` by lane in four partial sums, and adds those up: `fill_a` and `fill_b` stand behind the tail
/// and must leave `f`'s sum as it is.
#[inline(always)]
pub(crate) fn fold_2<L: Lanes>(
    lanes: L,
    (a, fill_a): (&[f32], f32),
    (b, fill_b): (&[f32], f32),
    f: impl Fn(L::F32, L::F32, L::F32) -> L::F32,
) -> f32 {
    assert_eq!(a.len(), b.len(), "lengths of a and b");
    // One sum would wait for itself: an addition takes four cycles, and two can start in each.
    let mut sums = [lanes.splat(0.0); 4];
    let (mut a, mut b) = (a.chunks_exact(4 * L::N), b.chunks_exact(4 * L::N));
    for (a, b) in a.by_ref().zip(b.by_ref()) {
        for (u, sum) in sums.iter_mut().enumerate() {
            *sum = f(*sum, lanes.load(&a[u * L::N..]), lanes.load(&b[u * L::N..]));
        }
    }
    let (mut a, mut b) = (a.remainder().chunks_exact(L::N), b.remainder().chunks_exact(L::N));
    for ((a, b), sum) in a.by_ref().zip(b.by_ref()).zip(&mut sums) {
        *sum = f(*sum, lanes.load(a), lanes.load(b));
    }
    let (a, b) = (a.remainder(), b.remainder());
    if !a.is_empty() {
        sums[3] = f(sums[3], lanes.load_part(a, fill_a), lanes.load_part(b, fill_b));
    }
    ((sums[0] + sums[1]) + (sums[2] + sums[3])).sum()
}

/// [`fold_2`] of one slice.
#[inline(always)]
pub(crate) fn fold<L: Lanes>(
    lanes: L,
    (x, fill): (&[f32], f32),
    f: impl Fn(L::F32, L::F32) -> L::F32,
) -> f32 {
    fold_2(lanes, (x, fill), (x, fill), inlined!(|sum, x, _| f(sum, x)))
}
