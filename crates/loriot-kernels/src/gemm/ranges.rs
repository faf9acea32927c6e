//! Cutting a range into parts of even length.

use std::ops::Range;

/// Cuts `0..total` into the fewest ranges of at most `max`, as even as multiples of `unit` allow; one empty range for 0.
pub(super) fn even_ranges(
    total: usize,
    max: usize,
    unit: usize,
) -> impl Iterator<Item = Range<usize>> {
    EvenRanges::new(total, max, unit).iter()
}

/// See [`even_ranges`].
pub(super) struct EvenRanges {
    pub(super) total: usize,
    unit: usize,
    n_ranges: usize,
}

impl EvenRanges {
    pub(super) fn new(total: usize, max: usize, unit: usize) -> EvenRanges {
        EvenRanges { total, unit, n_ranges: total.div_ceil(max).max(1) }
    }

    pub(super) fn len(&self) -> usize {
        self.n_ranges
    }

    pub(super) fn get(&self, idx: usize) -> Range<usize> {
        let n_units = self.total.div_ceil(self.unit);
        let bound = |idx: usize| (idx * n_units / self.n_ranges * self.unit).min(self.total);
        bound(idx)..bound(idx + 1)
    }

    pub(super) fn iter(self) -> impl Iterator<Item = Range<usize>> {
        (0..self.n_ranges).map(move |idx| self.get(idx))
    }

    /// Of the longest range, at most.
    pub(super) fn max_len(&self) -> usize {
        let n_units = self.total.div_ceil(self.unit);
        (n_units.div_ceil(self.n_ranges) * self.unit).min(self.total)
    }
}
