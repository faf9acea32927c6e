//! Buffers that grow to the largest use they have seen.

/// `buffer` as `len` elements, of unspecified content.
pub(crate) fn sized(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if buffer.capacity() < len {
        // Nothing is carried over, and the next, somewhat longer batches fit: buffers that grew a little
        // at a time left a quarter of a run's memory in holes between them. Whole pages of the headroom
        // that no batch reaches are never touched.
        *buffer = Vec::new();
        buffer.reserve_exact(len + len / 8);
    }
    buffer.resize(len, 0.0);
    buffer
}

/// `buffer` as a copy of `x`.
pub(crate) fn copied<'a>(buffer: &'a mut Vec<f32>, x: &[f32]) -> &'a mut [f32] {
    let buffer = sized(buffer, x.len());
    buffer.copy_from_slice(x);
    buffer
}
