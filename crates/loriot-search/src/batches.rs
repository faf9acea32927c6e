//! Rows in batches that are bounded in number and in bytes: a title may be long.

use std::ops::Range;

/// How many of rows with these `sizes` in bytes, of which there is one, make a batch: at most `max_rows`, and
/// at most `max_bytes` in all unless the first has more by itself.
pub(crate) fn first_batch(
    sizes: impl Iterator<Item = usize>,
    max_rows: usize,
    max_bytes: usize,
) -> usize {
    let mut n_bytes = 0_usize;
    let fits = |size: &usize| {
        n_bytes = n_bytes.saturating_add(*size);
        n_bytes <= max_bytes
    };
    sizes.take(max_rows).take_while(fits).count().max(1)
}

/// `n_rows` rows, of which row `i` has `size(i)` bytes, in such batches.
pub(crate) fn batches(
    n_rows: usize,
    max_rows: usize,
    max_bytes: usize,
    size: impl Fn(usize) -> usize,
) -> impl Iterator<Item = Range<usize>> {
    let mut begin = 0;
    std::iter::from_fn(move || {
        let sizes = (begin..n_rows).map(&size);
        let n_batch = (begin < n_rows).then(|| first_batch(sizes, max_rows, max_bytes))?;
        begin += n_batch;
        Some(begin - n_batch..begin)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_ends_at_so_many_rows_or_bytes() {
        let all = |sizes: &[usize]| -> Vec<Range<usize>> {
            batches(sizes.len(), 3, 10, |row| sizes[row]).collect()
        };
        assert!(all(&[]).is_empty());
        assert_eq!(all(&[1, 1, 1, 1, 1]), [0..3, 3..5]);
        assert_eq!(
            all(&[5, 5, 5, 11, 0, usize::MAX, usize::MAX]),
            [0..2, 2..3, 3..4, 4..5, 5..6, 6..7]
        );
    }
}
