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

    /// `f()`, in a function of its own that is compiled for this level. A large kernel calls its parts this way: in one
    /// large function the compiler stops inlining and leaves calls in the innermost loops.
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

    /// For each lane, the entry of a table at the low four bits of `index`.
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

    /// The high halves, as low ones; the high halves of the result are unspecified.
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

/// Brings `x` into the second cache.
#[inline(always)]
pub(crate) fn prefetch<T>(x: &[T]) {
    #[cfg(target_arch = "x86_64")]
    for line in x.chunks(const { 64 / size_of::<T>() }) {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: a prefetch reads nothing that the program sees; SSE is part of every x86-64.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(line.as_ptr().cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = x;
}

/// `len` rounded down to a multiple of `n`.
///
/// Loops count to it and cut slices by index. For slices of equal length the compiler then checks one bound, where zipped
/// chunks count each slice; and in the larger kernels it did not inline `zip`.
#[inline(always)]
fn whole(len: usize, n: usize) -> usize {
    len - len % n
}

/// `y[i] = f(x[i])`.
#[inline(always)]
pub(crate) fn map<L: Lanes>(lanes: L, y: &mut [f32], x: &[f32], f: impl Fn(L::F32) -> L::F32) {
    map_2(lanes, y, x, x, inlined!(|x, _| f(x)));
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
    update_with_2(lanes, y, a, b, inlined!(|_, a, b| f(a, b)));
}

/// `x[i] = f(x[i])`.
#[inline(always)]
pub(crate) fn update<L: Lanes>(lanes: L, x: &mut [f32], f: impl Fn(L::F32) -> L::F32) {
    let (mut at, end) = (0, whole(x.len(), L::N));
    while at < end {
        let x = &mut x[at..][..L::N];
        lanes.store(x, f(lanes.load(x)));
        at += L::N;
    }
    let x = &mut x[end..];
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
    update_with_2(lanes, y, x, x, inlined!(|y, x, _| f(y, x)));
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
    let (mut at, end) = (0, whole(y.len(), L::N));
    while at < end {
        let (y, a, b) = (&mut y[at..][..L::N], &a[at..][..L::N], &b[at..][..L::N]);
        lanes.store(y, f(lanes.load(y), lanes.load(a), lanes.load(b)));
        at += L::N;
    }
    let (y, a, b) = (&mut y[end..], &a[end..], &b[end..]);
    if !y.is_empty() {
        let value = f(lanes.load_part(y, 0.0), lanes.load_part(a, 0.0), lanes.load_part(b, 0.0));
        lanes.store_part(y, value);
    }
}

/// Folds `f(sum, a[i], b[i])` by lane in four partial sums, and adds those up. `fill_a` and `fill_b` fill the
/// lanes behind the tail; with them, `f` must return its sum unchanged.
#[inline(always)]
pub(crate) fn fold_2<L: Lanes>(
    lanes: L,
    (a, fill_a): (&[f32], f32),
    (b, fill_b): (&[f32], f32),
    f: impl Fn(L::F32, L::F32, L::F32) -> L::F32,
) -> f32 {
    assert_eq!(a.len(), b.len(), "lengths of a and b");
    // With one sum each addition would wait for the last: one takes four cycles, and two can start in every cycle.
    let mut sums = [lanes.splat(0.0); 4];
    let (mut at, end) = (0, whole(a.len(), 4 * L::N));
    while at < end {
        let (a, b) = (&a[at..][..4 * L::N], &b[at..][..4 * L::N]);
        for (u, sum) in sums.iter_mut().enumerate() {
            *sum = f(*sum, lanes.load(&a[u * L::N..]), lanes.load(&b[u * L::N..]));
        }
        at += 4 * L::N;
    }
    let end = whole(a.len(), L::N);
    for sum in &mut sums[..3] {
        if at < end {
            *sum = f(*sum, lanes.load(&a[at..]), lanes.load(&b[at..]));
            at += L::N;
        }
    }
    let (a, b) = (&a[end..], &b[end..]);
    if !a.is_empty() {
        sums[3] = f(sums[3], lanes.load_part(a, fill_a), lanes.load_part(b, fill_b));
    }
    ((sums[0] + sums[1]) + (sums[2] + sums[3])).sum()
}

/// `y[i] = f(a[i], b[i], c[i])`, and the sum of `y` with the bits of [`fold`]; `f(0, 0, 0)` must be 0.
#[inline(always)]
pub(crate) fn map_3_sum<L: Lanes>(
    lanes: L,
    y: &mut [f32],
    [a, b, c]: [&[f32]; 3],
    f: impl Fn(L::F32, L::F32, L::F32) -> L::F32,
) -> f32 {
    assert_eq!(y.len(), a.len(), "lengths of y and a");
    assert_eq!(y.len(), b.len(), "lengths of y and b");
    assert_eq!(y.len(), c.len(), "lengths of y and c");
    let mut sums = [lanes.splat(0.0); 4];
    let (mut at, end) = (0, whole(y.len(), 4 * L::N));
    while at < end {
        let (a, b, c) = (&a[at..][..4 * L::N], &b[at..][..4 * L::N], &c[at..][..4 * L::N]);
        let y = &mut y[at..][..4 * L::N];
        for (u, sum) in sums.iter_mut().enumerate() {
            let from = u * L::N;
            let value = f(lanes.load(&a[from..]), lanes.load(&b[from..]), lanes.load(&c[from..]));
            lanes.store(&mut y[from..], value);
            *sum = *sum + value;
        }
        at += 4 * L::N;
    }
    let end = whole(y.len(), L::N);
    for sum in &mut sums[..3] {
        if at < end {
            let value = f(lanes.load(&a[at..]), lanes.load(&b[at..]), lanes.load(&c[at..]));
            lanes.store(&mut y[at..], value);
            *sum = *sum + value;
            at += L::N;
        }
    }
    let (y, a, b, c) = (&mut y[end..], &a[end..], &b[end..], &c[end..]);
    if !y.is_empty() {
        let (a, b) = (lanes.load_part(a, 0.0), lanes.load_part(b, 0.0));
        let value = f(a, b, lanes.load_part(c, 0.0));
        lanes.store_part(y, value);
        sums[3] = sums[3] + value;
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
