//! A buffer of f32 that starts on a cache line.

use std::ops::{Deref, DerefMut};

/// The f32 of one cache line, which is also one AVX-512 register.
const LINE: usize = 16;

#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Line([f32; LINE]);

/// Zeroed f32 from a 64-byte boundary on: a load of a whole register never straddles two cache lines.
#[derive(Clone, Debug, Default)]
pub(crate) struct AlignedBuf {
    lines: Vec<Line>,
    len: usize,
}

impl AlignedBuf {
    pub(crate) fn zeroed(len: usize) -> AlignedBuf {
        AlignedBuf { lines: vec![Line([0.0; LINE]); len.div_ceil(LINE)], len }
    }

    /// The first `len` values, whatever they hold, after growing to that length where needed.
    pub(crate) fn at_least(&mut self, len: usize) -> &mut [f32] {
        if self.len < len {
            *self = AlignedBuf::zeroed(len);
        }
        &mut self[..len]
    }
}

impl Deref for AlignedBuf {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        // SAFETY: `lines` holds `lines.len()·LINE >= len` initialised f32 in a row: `Line` is `repr(C)`, and its size,
        // 64 bytes, is that of its array, so that there is no padding. The lifetime is that of `self`.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len) }
    }
}

impl DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [f32] {
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
            let mut buf = AlignedBuf::zeroed(len);
            assert_eq!(buf.as_ptr().addr() % 64, 0);
            assert_eq!(&buf[..], vec![0.0; len]);
            assert_eq!(buf.at_least(2 * len).len(), 2 * len);
            assert_eq!(buf.at_least(len).len(), len);
        }
    }
}
