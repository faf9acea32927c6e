//! Rows in batches that are bounded in number and in bytes: a title may be long.

use std::iter::Peekable;

/// The next of `rows`, of which each has `size` bytes: at most `max_rows`, and at most `max_bytes` in all unless the
/// first has more by itself. Empty at the end.
pub(crate) fn next_batch<T, E>(
    rows: &mut Peekable<impl Iterator<Item = Result<T, E>>>,
    max_rows: usize,
    max_bytes: usize,
    size: impl Fn(&T) -> usize,
) -> Result<Vec<T>, E> {
    let (mut batch, mut n_bytes) = (Vec::new(), 0_usize);
    while batch.len() < max_rows {
        let fits = |row: &Result<T, E>| {
            n_bytes = n_bytes.saturating_add(row.as_ref().map_or(0, &size));
            batch.is_empty() || n_bytes <= max_bytes
        };
        match rows.next_if(fits) {
            Some(row) => batch.push(row?),
            None => break,
        }
    }
    Ok(batch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_ends_at_so_many_rows_or_bytes() {
        let all = |sizes: &[usize]| -> Vec<Vec<usize>> {
            let mut rows = sizes.iter().copied().map(Ok::<usize, ()>).peekable();
            let next = || next_batch(&mut rows, 3, 10, |&size| size).unwrap();
            std::iter::repeat_with(next).take_while(|batch| !batch.is_empty()).collect()
        };
        assert!(all(&[]).is_empty());
        assert_eq!(all(&[1, 1, 1, 1, 1]), [vec![1, 1, 1], vec![1, 1]]);
        let max = usize::MAX;
        let want = [vec![5, 5], vec![5], vec![11], vec![0], vec![max], vec![max]];
        assert_eq!(all(&[5, 5, 5, 11, 0, max, max]), want);
    }

    #[test]
    fn a_row_that_cannot_be_read_ends_in_its_error() {
        let mut rows = [Ok(1), Err("gone")].into_iter().peekable();
        assert_eq!(next_batch(&mut rows, 3, 10, |&size| size), Err("gone"));
    }
}
