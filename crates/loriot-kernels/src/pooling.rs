//! From the packed token vectors of a batch to one vector per text, and to unit length.
//!
//! `offsets` are cumulative: the tokens of text `b` are the rows `offsets[b] − offsets[0] .. offsets[b+1] − offsets[0]`,
//! so that a part of a batch goes with a part of its offsets.

use crate::Isa;
use crate::isa::dispatch;
use crate::lanes::{Lanes, Vector, fold_2, inlined, map, update, update_with};

/// Norms below this divide as if they were this: the default of `torch.nn.functional.normalize`.
pub const MIN_NORM: f32 = 1e-12;

impl Isa {
    /// `pooled[b] = Σ x[n] / len` over the rows of text `b`, in order; 0 for a text without tokens.
    pub fn mean_pool(self, pooled_bd: &mut [f32], x_nd: &[f32], offsets: &[usize]) {
        dispatch!(self, mean_pool_body(pooled_bd: &mut [f32], x_nd: &[f32], offsets: &[usize]))
    }

    /// `dx[n] = dpooled[b] / len` for each row of text `b`.
    pub fn mean_pool_backward(self, dx_nd: &mut [f32], dpooled_bd: &[f32], offsets: &[usize]) {
        dispatch!(self, mean_pool_backward_body(
            dx_nd: &mut [f32], dpooled_bd: &[f32], offsets: &[usize],
        ))
    }

    /// `pooled[b]` is the first row of text `b`, where BERT has its `[CLS]`; 0 for a text without tokens.
    pub fn cls_pool(self, pooled_bd: &mut [f32], x_nd: &[f32], offsets: &[usize]) {
        let width = text_width(pooled_bd.len(), x_nd.len(), offsets);
        for (pooled_d, rows) in pooled_bd.chunks_exact_mut(width).zip(texts(offsets, width)) {
            match x_nd[rows].get(..width) {
                Some(x_d) => pooled_d.copy_from_slice(x_d),
                None => pooled_d.fill(0.0),
            }
        }
    }

    /// The gradient of [`Isa::cls_pool`]: `dpooled[b]` in the first row of text `b`, 0 in the others.
    pub fn cls_pool_backward(self, dx_nd: &mut [f32], dpooled_bd: &[f32], offsets: &[usize]) {
        let width = text_width(dpooled_bd.len(), dx_nd.len(), offsets);
        dx_nd.fill(0.0);
        for (dpooled_d, rows) in dpooled_bd.chunks_exact(width).zip(texts(offsets, width)) {
            if let Some(dx_d) = dx_nd[rows].get_mut(..width) {
                dx_d.copy_from_slice(dpooled_d);
            }
        }
    }

    /// `unit = x / max(norm, 1e-12)`, `norm = ‖x‖` of each row: `torch.nn.functional.normalize`.
    pub fn normalize(self, unit_bd: &mut [f32], norm_b: &mut [f32], x_bd: &[f32]) {
        dispatch!(self, normalize_body(unit_bd: &mut [f32], norm_b: &mut [f32], x_bd: &[f32]))
    }

    /// The gradient of [`Isa::normalize`], from its results.
    ///
    /// ```text
    /// dx = (dunit − unit·(unit·dunit)) / norm        dx = dunit / 1e-12 where norm < 1e-12
    /// ```
    pub fn normalize_backward(
        self,
        dx_bd: &mut [f32],
        dunit_bd: &[f32],
        unit_bd: &[f32],
        norm_b: &[f32],
    ) {
        dispatch!(self, normalize_backward_body(
            dx_bd: &mut [f32], dunit_bd: &[f32], unit_bd: &[f32], norm_b: &[f32],
        ))
    }
}

#[inline(always)]
fn mean_pool_body<L: Lanes>(pooled_bd: &mut [f32], x_nd: &[f32], offsets: &[usize]) {
    let lanes = L::here();
    let width = text_width(pooled_bd.len(), x_nd.len(), offsets);
    for (pooled_d, rows) in pooled_bd.chunks_exact_mut(width).zip(texts(offsets, width)) {
        pooled_d.fill(0.0);
        let share = mean_share(rows.len() / width);
        for x_d in x_nd[rows].chunks_exact(width) {
            update_with(lanes, pooled_d, x_d, inlined!(|sum, x| sum + x));
        }
        let share = lanes.splat(share);
        update(lanes, pooled_d, inlined!(|sum| sum * share));
    }
}

#[inline(always)]
fn mean_pool_backward_body<L: Lanes>(dx_nd: &mut [f32], dpooled_bd: &[f32], offsets: &[usize]) {
    let lanes = L::here();
    let width = text_width(dpooled_bd.len(), dx_nd.len(), offsets);
    for (dpooled_d, rows) in dpooled_bd.chunks_exact(width).zip(texts(offsets, width)) {
        let share = lanes.splat(mean_share(rows.len() / width));
        for dx_d in dx_nd[rows].chunks_exact_mut(width) {
            map(lanes, dx_d, dpooled_d, inlined!(|dpooled| dpooled * share));
        }
    }
}

#[inline(always)]
fn normalize_body<L: Lanes>(unit_bd: &mut [f32], norm_b: &mut [f32], x_bd: &[f32]) {
    let lanes = L::here();
    assert_eq!(unit_bd.len(), x_bd.len(), "elements of unit");
    let width = row_width(x_bd.len(), norm_b.len());
    let rows = unit_bd.chunks_exact_mut(width).zip(x_bd.chunks_exact(width));
    for ((unit_d, x_d), norm) in rows.zip(norm_b) {
        *norm = dot(lanes, x_d, x_d).sqrt();
        let divisor = lanes.splat(norm.max(MIN_NORM));
        map(lanes, unit_d, x_d, inlined!(|x| x / divisor));
    }
}

#[inline(always)]
fn normalize_backward_body<L: Lanes>(
    dx_bd: &mut [f32],
    dunit_bd: &[f32],
    unit_bd: &[f32],
    norm_b: &[f32],
) {
    let lanes = L::here();
    assert_eq!(dx_bd.len(), dunit_bd.len(), "elements of dx");
    assert_eq!(unit_bd.len(), dunit_bd.len(), "elements of unit");
    let width = row_width(dunit_bd.len(), norm_b.len());
    let rows = dx_bd.chunks_exact_mut(width).zip(dunit_bd.chunks_exact(width));
    for (((dx_d, dunit_d), unit_d), norm) in rows.zip(unit_bd.chunks_exact(width)).zip(norm_b) {
        dx_d.copy_from_slice(dunit_d);
        let along = if *norm < MIN_NORM { 0.0 } else { dot(lanes, unit_d, dunit_d) };
        let along = lanes.splat(along);
        let divisor = lanes.splat(norm.max(MIN_NORM));
        update_with(
            lanes,
            dx_d,
            unit_d,
            inlined!(|dunit, unit| unit.neg_mul_add(along, dunit) / divisor),
        );
    }
}

#[inline(always)]
fn dot<L: Lanes>(lanes: L, a: &[f32], b: &[f32]) -> f32 {
    fold_2(lanes, (a, 0.0), (b, 0.0), inlined!(|sum, a, b| a.mul_add(b, sum)))
}

/// The weight of each of `len` rows in their mean.
fn mean_share(len: usize) -> f32 {
    1.0 / len.max(1) as f32
}

/// Columns of a matrix of `n_rows`; 1 for a matrix of none, so that it can be cut into rows.
fn row_width(n_elements: usize, n_rows: usize) -> usize {
    assert!(n_elements.is_multiple_of(n_rows.max(1)), "{n_elements} elements, {n_rows} rows");
    (n_elements / n_rows.max(1)).max(1)
}

/// Columns of pooled vectors and of token vectors, after checking that `offsets` fits both.
fn text_width(pooled_len: usize, x_len: usize, offsets: &[usize]) -> usize {
    assert!(!offsets.is_empty() && offsets.is_sorted(), "offsets are cumulative");
    let width = row_width(pooled_len, offsets.len() - 1);
    let n_tokens = offsets[offsets.len() - 1] - offsets[0];
    assert_eq!(x_len, n_tokens * width, "elements of {n_tokens} token vectors, {width} wide");
    width
}

/// Where the elements of each text are.
fn texts(offsets: &[usize], width: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
    let start = offsets[0];
    offsets.windows(2).map(move |pair| (pair[0] - start) * width..(pair[1] - start) * width)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::pooling as reference;
    use crate::testing::{EPSILON, assert_within, isas, noise, wide};

    /// Texts of 3, 1, 0, 5 and 2 tokens.
    const OFFSETS: [usize; 6] = [0, 3, 4, 4, 9, 11];

    #[test]
    fn mean_pool_matches_reference_at_every_width_on_every_isa() {
        for width in 1..=130 {
            let (x, dpooled) = (noise(11 * width + 1, 1), noise(5 * width + 1, 2));
            let (x, dpooled) = (&x[1..], &dpooled[1..]); // Off the alignment.
            for isa in isas() {
                let what = format!("{isa}, width {width}");
                let mut pooled = vec![7.0; 5 * width];
                isa.mean_pool(&mut pooled, x, &OFFSETS);
                // At most 5 numbers below 1, and the share is rounded.
                let want = reference::mean_pool(&wide(x), &OFFSETS, width);
                assert_within(&pooled, &want, |_| 7.0 * EPSILON, &what);

                let mut dx = vec![7.0; 11 * width];
                isa.mean_pool_backward(&mut dx, dpooled, &OFFSETS);
                let want = reference::mean_pool_backward(&wide(dpooled), &OFFSETS, width);
                assert_within(&dx, &want, |i| 2.0 * EPSILON * want[i].abs(), &what);
            }
        }
    }

    #[test]
    fn part_of_a_batch_pools_with_its_part_of_the_offsets() {
        let (x, width) = (noise(11 * 3, 1), 3);
        let isa = Isa::best();
        let (mut whole, mut part) = (vec![0.0; 5 * width], vec![0.0; 3 * width]);
        isa.mean_pool(&mut whole, &x, &OFFSETS);
        isa.mean_pool(&mut part, &x[4 * width..], &OFFSETS[2..]);
        assert_eq!(part, whole[2 * width..]);
    }

    #[test]
    fn cls_pool_takes_first_rows_and_gives_gradients_to_them_alone() {
        let x: Vec<f32> = (0..22_u8).map(f32::from).collect();
        let isa = Isa::best();
        let mut pooled = [7.0; 10];
        isa.cls_pool(&mut pooled, &x, &OFFSETS);
        assert_eq!(pooled, [0.0, 1.0, 6.0, 7.0, 0.0, 0.0, 8.0, 9.0, 18.0, 19.0]);
        let mut dx = [7.0; 22];
        isa.cls_pool_backward(&mut dx, &pooled, &OFFSETS);
        let kept: Vec<f32> = dx.into_iter().filter(|dx| *dx != 0.0).collect();
        assert_eq!(kept, [1.0, 6.0, 7.0, 8.0, 9.0, 18.0, 19.0]);
    }

    #[test]
    fn normalize_matches_reference_at_every_width_on_every_isa() {
        for width in 1..=130 {
            let (x, dunit) = (noise(4 * width + 1, 1), noise(4 * width + 1, 2));
            let (x, dunit) = (&x[1..], &dunit[1..]);
            let (want_unit, want_norm) = reference::normalize(&wide(x), width);
            for isa in isas() {
                let what = format!("{isa}, width {width}");
                let (mut unit, mut norm) = (vec![7.0; 4 * width], [7.0; 4]);
                isa.normalize(&mut unit, &mut norm, x);
                // The sum of squares is off by width·ε of itself, its root by half of that.
                let relative = (width + 4) as f64 * EPSILON;
                assert_within(&unit, &want_unit, |i| relative * want_unit[i].abs(), &what);
                assert_within(&norm, &want_norm, |b| relative * want_norm[b], &what);

                let mut dx = vec![7.0; 4 * width];
                isa.normalize_backward(&mut dx, dunit, &unit, &norm);
                let want = reference::normalize_backward(&wide(dunit), &wide(&unit), &wide(&norm));
                // The product with the unit vector is below ‖dunit‖ ≤ √width, and off by width·ε of that.
                let bound =
                    |i: usize| relative * (width as f64).sqrt() / f64::from(norm[i / width]);
                assert_within(&dx, &want, bound, &what);
            }
        }
    }

    #[test]
    fn a_zero_vector_stays_zero_and_its_gradient_finite() {
        for isa in isas() {
            let (mut unit, mut norm, mut dx) = ([7.0; 3], [7.0], [7.0; 3]);
            isa.normalize(&mut unit, &mut norm, &[0.0; 3]);
            assert_eq!((unit, norm), ([0.0; 3], [0.0]), "{isa}");
            isa.normalize_backward(&mut dx, &[1e-12, 0.0, -2e-12], &unit, &norm);
            assert_eq!(dx, [1.0, 0.0, -2.0], "{isa}");
        }
    }
}
