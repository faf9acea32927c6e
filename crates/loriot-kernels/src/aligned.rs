//! Buffers of plain numbers that start on a cache line.

use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

/// Bytes of a cache line, of an AVX-512 register, and of a row of an AMX tile.
const LINE: usize = 64;

#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Line([u8; LINE]);

/// A number for which every pattern of bits is a value.
///
/// # Safety
///
/// No padding, no pattern that is not a value, and a size that divides 64.
pub(crate) unsafe trait Plain: Copy + Default + 'static {}

// SAFETY: IEEE 754 defines every pattern; 4 bytes without padding.
unsafe impl Plain for f32 {}
// SAFETY: every pattern is a value; 2 bytes.
unsafe impl Plain for u16 {}
// SAFETY: every pattern is a value; 1 byte.
unsafe impl Plain for u8 {}

/// The bytes of numbers, in the order of this CPU.
pub(crate) fn bytes_of<T: Plain>(values: &[T]) -> &[u8] {
    // SAFETY: a `Plain` has no padding, so that all `size_of_val(values)` bytes are initialised; the borrow goes on.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}

/// Zeroed numbers from a 64-byte boundary on: a load of a whole register never straddles two cache lines.
#[derive(Clone, Debug)]
pub(crate) struct AlignedBuf<T = f32> {
    lines: Vec<Line>,
    len: usize,
    of: PhantomData<T>,
}

impl<T: Plain> Default for AlignedBuf<T> {
    fn default() -> AlignedBuf<T> {
        AlignedBuf { lines: Vec::new(), len: 0, of: PhantomData }
    }
}

impl<T: Plain> AlignedBuf<T> {
    pub(crate) fn zeroed(len: usize) -> AlignedBuf<T> {
        let n_lines = (len * size_of::<T>()).div_ceil(LINE);
        AlignedBuf { lines: vec![Line([0; LINE]); n_lines], len, of: PhantomData }
    }

    /// The first `len` values, with unspecified content, after growing to that length where needed.
    pub(crate) fn at_least(&mut self, len: usize) -> &mut [T] {
        if self.len < len {
            *self = AlignedBuf::zeroed(len);
        }
        &mut self[..len]
    }
}

impl AlignedBuf<u8> {
    /// The buffer's first bytes as `len` values of another type.
    pub(crate) fn at_least_of<T: Plain>(&mut self, len: usize) -> &mut [T] {
        let bytes = self.at_least(len * size_of::<T>());
        // SAFETY: `bytes` are `len·size_of::<T>()` initialised bytes from a 64-byte boundary on, which is aligned for `T`,
        // as its size divides 64; every pattern of bits is a `T`. The borrow goes on with the slice.
        unsafe { std::slice::from_raw_parts_mut(bytes.as_mut_ptr().cast(), len) }
    }
}

impl<T: Plain> Deref for AlignedBuf<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: `lines` holds at least `len·size_of::<T>()` initialised bytes in a row: `Line` is `repr(C)`, and its
        // size is that of its array, so that there is no padding. Every pattern of bits is a `T`, and 64 bytes are
        // aligned for it. The lifetime is that of `self`.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len) }
    }
}

impl<T: Plain> DerefMut for AlignedBuf<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`; `self` is borrowed mutably for as long as the slice lives.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_start_on_a_cache_line_and_are_as_long_as_asked() {
        for len in [0, 1, 15, 16, 17, 1000] {
            let mut buf = AlignedBuf::<f32>::zeroed(len);
            assert_eq!(buf.as_ptr().addr() % 64, 0);
            assert_eq!(&buf[..], vec![0.0; len]);
            assert_eq!(buf.at_least(2 * len).len(), 2 * len);
            assert_eq!(buf.at_least(len).len(), len);
            let mut bytes = AlignedBuf::<u8>::zeroed(len);
            let words = bytes.at_least_of::<u16>(len);
            assert_eq!((words.as_ptr().addr() % 64, words.len()), (0, len));
        }
    }
}
