//! Sums, products and reductions of plain slices.

use crate::Isa;
use crate::isa::dispatch;
use crate::lanes::{Lanes, Vector, fold_2, inlined, update, update_with};

impl Isa {
    /// `y += x`.
    pub fn add(self, y: &mut [f32], x: &[f32]) {
        dispatch!(self, add_body(y: &mut [f32], x: &[f32]))
    }

    /// `x = s·x`.
    pub fn scale(self, x: &mut [f32], s: f32) {
        dispatch!(self, scale_body(x: &mut [f32], s: f32))
    }

    /// `y += s·x`.
    pub fn axpy(self, y: &mut [f32], s: f32, x: &[f32]) {
        dispatch!(self, axpy_body(y: &mut [f32], s: f32, x: &[f32]))
    }

    /// `Σ a[i]·b[i]`.
    pub fn dot(self, a: &[f32], b: &[f32]) -> f32 {
        dispatch!(self, dot_body(a: &[f32], b: &[f32]) -> f32)
    }

    /// `Σ x[i]²` in f64: the same bits at every level, as the order of the additions is fixed and squares are exact.
    pub fn sum_squares(self, x: &[f32]) -> f64 {
        dispatch!(self, sum_squares_body(x: &[f32]) -> f64)
    }

    /// `dbias[o] += Σ_n dy[n,o]`, rows in increasing order: the gradient of a bias that was added to each row.
    pub fn add_column_sums(self, dbias_o: &mut [f32], dy_no: &[f32]) {
        dispatch!(self, add_column_sums_body(dbias_o: &mut [f32], dy_no: &[f32]))
    }
}

#[inline(always)]
fn add_body<L: Lanes>(y: &mut [f32], x: &[f32]) {
    update_with(L::here(), y, x, inlined!(|y, x| y + x));
}

#[inline(always)]
fn scale_body<L: Lanes>(x: &mut [f32], s: f32) {
    let lanes = L::here();
    let s = lanes.splat(s);
    update(lanes, x, inlined!(|x| x * s));
}

#[inline(always)]
fn axpy_body<L: Lanes>(y: &mut [f32], s: f32, x: &[f32]) {
    let lanes = L::here();
    let s = lanes.splat(s);
    update_with(lanes, y, x, inlined!(|y, x| s.mul_add(x, y)));
}

#[inline(always)]
pub(crate) fn dot_body<L: Lanes>(a: &[f32], b: &[f32]) -> f32 {
    fold_2(L::here(), (a, 0.0), (b, 0.0), inlined!(|sum, a, b| a.mul_add(b, sum)))
}

/// Sixteen partial sums in plain f64 code, which the compiler vectorises; `L` only names the CPU features it may use.
#[inline(always)]
fn sum_squares_body<L: Lanes>(x: &[f32]) -> f64 {
    let (chunks, tail) = x.as_chunks::<16>();
    let mut sums = [0.0_f64; 16];
    for chunk in chunks {
        for (sum, x) in sums.iter_mut().zip(chunk) {
            let x = f64::from(*x);
            *sum += x * x;
        }
    }
    for (sum, x) in sums.iter_mut().zip(tail) {
        let x = f64::from(*x);
        *sum += x * x;
    }
    let mut width = sums.len() / 2;
    while width > 0 {
        for i in 0..width {
            sums[i] += sums[i + width];
        }
        width /= 2;
    }
    sums[0]
}

#[inline(always)]
fn add_column_sums_body<L: Lanes>(dbias_o: &mut [f32], dy_no: &[f32]) {
    let lanes = L::here();
    let width = dbias_o.len();
    assert!(width > 0 && dy_no.len().is_multiple_of(width), "rows are {width} wide");
    for dy_o in dy_no.chunks_exact(width) {
        update_with(lanes, dbias_o, dy_o, inlined!(|dbias, dy| dbias + dy));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::elementwise as reference;
    use crate::testing::{EPSILON, assert_within, isas, noise, wide};

    #[test]
    fn dot_matches_reference_at_every_length_on_every_isa() {
        for len in 0..=300 {
            let (a, b) = (noise(len + 1, 1), noise(len + 1, 2));
            let (a, b) = (&a[1..], &b[1..]); // Off the alignment.
            let want = reference::dot(&wide(a), &wide(b));
            // |fl(a·b) − a·b| ≤ len·ε·Σ|a[i]·b[i]| for any order of the additions.
            let magnitude: f64 = a.iter().zip(b).map(|(a, b)| f64::from(a * b).abs()).sum();
            for isa in isas() {
                let what = format!("{isa}, length {len}");
                let bound = |_| len as f64 * EPSILON * magnitude;
                assert_within(&[isa.dot(a, b)], &[want], bound, &what);
            }
        }
    }

    #[test]
    fn sum_squares_has_the_same_bits_on_every_isa() {
        for len in 0..=130 {
            let x = &noise(len + 1, 1)[1..];
            let want = reference::dot(&wide(x), &wide(x));
            let scalar = Isa::SCALAR.sum_squares(x);
            assert!((scalar - want).abs() <= len as f64 * f64::EPSILON * want, "length {len}");
            for isa in isas() {
                assert_eq!(isa.sum_squares(x).to_bits(), scalar.to_bits(), "{isa}, length {len}");
            }
        }
    }

    #[test]
    fn sums_and_products_match_reference_at_every_length_on_every_isa() {
        for len in 0..=130 {
            let (x, y) = (noise(len + 1, 1), noise(len + 1, 2));
            let (x, y) = (&x[1..], &y[1..]);
            for isa in isas() {
                let what = format!("{isa}, length {len}");
                let (mut got, mut want) = (y.to_vec(), wide(y));
                isa.axpy(&mut got, 0.7, x);
                reference::axpy(&mut want, f64::from(0.7_f32), &wide(x));
                // Two roundings of numbers below 2.
                assert_within(&got, &want, |_| 2.0 * EPSILON, &what);

                let mut got = y.to_vec();
                isa.add(&mut got, x);
                let want: Vec<f32> = y.iter().zip(x).map(|(y, x)| y + x).collect();
                assert_eq!(got, want, "{what}");

                isa.scale(&mut got, 0.7);
                let want: Vec<f32> = want.iter().map(|y| y * 0.7).collect();
                assert_eq!(got, want, "{what}");
            }
        }
    }

    #[test]
    fn add_column_sums_adds_rows_in_order_at_every_width_on_every_isa() {
        let n = 5;
        for width in 1..=130 {
            let (start, y) = (noise(width, 1), &noise(n * width + 1, 2)[1..]);
            // One chain of f32 additions per column: nothing is left to rounding.
            let mut want = start.clone();
            for row in y.chunks(width) {
                want.iter_mut().zip(row).for_each(|(sum, y)| *sum += y);
            }
            let mut exact = wide(&start);
            reference::add_column_sums(&mut exact, &wide(y));
            for isa in isas() {
                let mut got = start.clone();
                isa.add_column_sums(&mut got, y);
                assert_eq!(got, want, "{isa}, width {width}");
                assert_within(&got, &exact, |_| (n * (n + 1)) as f64 * EPSILON, "against f64");
            }
        }
    }
}
