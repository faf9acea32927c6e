//! The two decompositions that adapters start from and are combined by, in f64.
//!
//! Plain loops, without a crate: each is used once for each layer, on matrices of at most some thousands of rows, and the
//! bits must be the same on every machine, because a run that goes on makes its start anew.

/// The largest singular values of a matrix, with their vectors.
pub(super) struct Svd {
    /// The largest first.
    pub(super) values_r: Vec<f64>,
    /// Left singular vectors as rows, `(r, m)`; zeros where the singular value is 0.
    pub(super) left_rm: Vec<f64>,
    /// Right singular vectors as rows, `(r, n)`; likewise.
    pub(super) right_rn: Vec<f64>,
}

/// Sweeps over all pairs of rows after which a decomposition is taken as it is; ten are usual.
const MAX_SWEEPS: usize = 40;

/// The `r` largest singular values of `a_mn`, by one-sided Jacobi rotations.
///
/// ```text
/// rotate each pair of rows until all are orthogonal: Uᵀ·A = Σ·Vᵀ    σ = ‖row‖    v = row / σ    u = A·v / σ
/// ```
///
/// A matrix with more rows than columns is transposed first.
pub(super) fn svd(a_mn: &[f64], (m, n): (usize, usize), r: usize) -> Svd {
    if m > n {
        let Svd { values_r, left_rm, right_rn } = svd(&transposed(a_mn, n), (n, m), r);
        return Svd { values_r, left_rm: right_rn, right_rn: left_rm };
    }
    let mut rows: Vec<Vec<f64>> = a_mn.chunks_exact(n).map(<[f64]>::to_vec).collect();
    for _ in 0..MAX_SWEEPS {
        // Large rows first, which needs fewer sweeps.
        rows.sort_by(|a, b| dot(b, b).total_cmp(&dot(a, a)));
        let mut squares: Vec<f64> = rows.iter().map(|row| dot(row, row)).collect();
        let mut is_done = true;
        for at in 0..m {
            let (above, below) = rows.split_at_mut(at + 1);
            for (other, b) in (at + 1..m).zip(below) {
                let a = &mut above[at];
                let (aa, bb, ab) = (squares[at], squares[other], dot(a, b));
                if ab.abs() <= 1e-14 * (aa * bb).sqrt() {
                    continue;
                }
                is_done = false;
                let zeta = (bb - aa) / (2.0 * ab);
                let tangent = zeta.signum() / (zeta.abs() + (1.0 + zeta * zeta).sqrt());
                let cosine = (1.0 + tangent * tangent).sqrt().recip();
                let sine = cosine * tangent;
                for (x, y) in a.iter_mut().zip(b) {
                    (*x, *y) = (cosine * *x - sine * *y, sine * *x + cosine * *y);
                }
                squares[at] = (aa - tangent * ab).max(0.0);
                squares[other] = bb + tangent * ab;
            }
        }
        if is_done {
            break;
        }
    }
    rows.sort_by(|a, b| dot(b, b).total_cmp(&dot(a, a)));
    let mut svd = Svd { values_r: Vec::new(), left_rm: Vec::new(), right_rn: Vec::new() };
    for row in rows.iter().take(r) {
        let value = dot(row, row).sqrt();
        let inverse = if value > 0.0 { value.recip() } else { 0.0 };
        let right_n: Vec<f64> = row.iter().map(|x| x * inverse).collect();
        svd.left_rm.extend(a_mn.chunks_exact(n).map(|a_n| dot(a_n, &right_n) * inverse));
        svd.right_rn.extend(right_n);
        svd.values_r.push(value);
    }
    svd
}

/// The first `r` columns of Q, as rows `(r, m)`, and the first `r` rows of R, `(r, n)`, of `A = Q·R`; `r` is at most the
/// smaller side.
///
/// Householder reflections with LAPACK's signs, which torch.linalg.qr has.
pub(super) fn qr(a_mn: &[f64], (m, n): (usize, usize), r: usize) -> (Vec<f64>, Vec<f64>) {
    // By columns, so that a reflection reads what lies together.
    let mut columns: Vec<Vec<f64>> =
        transposed(a_mn, n).chunks_exact(m).map(<[f64]>::to_vec).collect();
    let mut reflections: Vec<(Vec<f64>, f64)> = Vec::new();
    for k in 0..r {
        let mut normal = columns[k][k..].to_vec();
        let (first, rest) = (normal[0], dot(&normal[1..], &normal[1..]));
        let length = (first * first + rest).sqrt();
        // As LAPACK: nothing below the diagonal, nothing to reflect.
        let twice_inverse = if rest == 0.0 {
            0.0
        } else {
            normal[0] = first + length.copysign(first);
            2.0 / dot(&normal, &normal)
        };
        columns[k..]
            .iter_mut()
            .for_each(|column| reflect(&mut column[k..], &normal, twice_inverse));
        reflections.push((normal, twice_inverse));
    }
    let mut q_rm = vec![0.0; r * m];
    for (k, q_m) in q_rm.chunks_exact_mut(m).enumerate() {
        q_m[k] = 1.0;
        for (at, (normal, twice_inverse)) in reflections.iter().enumerate().rev() {
            reflect(&mut q_m[at..], normal, *twice_inverse);
        }
    }
    let r_rn = (0..r).flat_map(|k| {
        columns.iter().enumerate().map(move |(col, column)| if col < k { 0.0 } else { column[k] })
    });
    let r_rn = r_rn.collect();
    (q_rm, r_rn)
}

/// `x −= normal·(normal·x)·twice_inverse`.
fn reflect(x: &mut [f64], normal: &[f64], twice_inverse: f64) {
    let factor = twice_inverse * dot(x, normal);
    for (x, n) in x.iter_mut().zip(normal) {
        *x -= factor * n;
    }
}

/// The rows of width `n` as columns.
pub(super) fn transposed(a_mn: &[f64], n: usize) -> Vec<f64> {
    (0..n).flat_map(|col| a_mn.iter().skip(col).step_by(n).copied()).collect()
}

/// The inner product in four chains, in an order that its length alone decides.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let ((a_4, a_tail), (b_4, b_tail)) = (a.as_chunks::<4>(), b.as_chunks::<4>());
    let mut sums = [0.0; 4];
    for (a, b) in a_4.iter().zip(b_4) {
        for (sum, (a, b)) in sums.iter_mut().zip(a.iter().zip(b)) {
            *sum += a * b;
        }
    }
    let tail: f64 = a_tail.iter().zip(b_tail).map(|(a, b)| a * b).sum();
    (sums[0] + sums[1]) + (sums[2] + sums[3]) + tail
}

#[cfg(test)]
mod tests {
    use super::*;
    use loriot_kernels::random::SplitMix64;

    fn noise(len: usize, seed: u64) -> Vec<f64> {
        let mut random = SplitMix64::new(seed);
        (0..len).map(|_| (random.next_u64() >> 11) as f64 / (1u64 << 53) as f64 - 0.5).collect()
    }

    fn assert_near(got: &[f64], want: &[f64]) {
        assert_eq!(got.len(), want.len());
        let worst = got.iter().zip(want).map(|(g, w)| (g - w).abs()).fold(0.0, f64::max);
        assert!(worst < 1e-12, "off by {worst:e}");
    }

    /// Rows are orthogonal and of length 1.
    fn assert_orthonormal(rows: &[f64], width: usize) {
        let rows: Vec<&[f64]> = rows.chunks_exact(width).collect();
        for (i, a) in rows.iter().enumerate() {
            for (j, b) in rows.iter().enumerate() {
                let want = if i == j { 1.0 } else { 0.0 };
                assert!((dot(a, b) - want).abs() < 1e-12, "{i}, {j}: {}", dot(a, b));
            }
        }
    }

    #[test]
    fn singular_vectors_are_orthonormal_and_make_the_matrix_again() {
        for (m, n) in [(1, 1), (5, 5), (7, 12), (12, 7), (1, 9), (40, 33)] {
            let (a_mn, r) = (noise(m * n, 1), m.min(n));
            let Svd { values_r, left_rm, right_rn } = svd(&a_mn, (m, n), r);
            assert!(values_r.is_sorted_by(|a, b| a >= b));
            assert_orthonormal(&left_rm, m);
            assert_orthonormal(&right_rn, n);
            let mut again = vec![0.0; m * n];
            for (k, value) in values_r.iter().enumerate() {
                for (row, col) in (0..m).flat_map(|row| (0..n).map(move |col| (row, col))) {
                    again[row * n + col] += value * left_rm[k * m + row] * right_rn[k * n + col];
                }
            }
            assert_near(&again, &a_mn);
        }
    }

    #[test]
    fn a_matrix_of_lower_rank_has_zeros_for_the_rest() {
        // (1, 2)ᵀ·(3, 4): one singular value, √5·5.
        let Svd { values_r, left_rm, .. } = svd(&[3.0, 4.0, 6.0, 8.0], (2, 2), 2);
        assert_near(&values_r, &[125f64.sqrt(), 0.0]);
        assert_near(
            &left_rm[..2].iter().map(|x| x.abs()).collect::<Vec<_>>(),
            &[0.2f64.sqrt(), 0.8f64.sqrt()],
        );
        assert!(svd(&[0.0; 6], (2, 3), 2).values_r.iter().all(|&value| value == 0.0));
    }

    #[test]
    fn q_is_orthonormal_and_q_times_r_is_the_matrix() {
        for (m, n) in [(1, 1), (6, 6), (9, 4), (4, 9)] {
            let (a_mn, r) = (noise(m * n, 2), m.min(n));
            let (q_rm, r_rn) = qr(&a_mn, (m, n), r);
            assert_orthonormal(&q_rm, m);
            let element = |row: usize, col: usize| -> f64 {
                (0..r).map(|k| q_rm[k * m + row] * r_rn[k * n + col]).sum()
            };
            let again: Vec<f64> = (0..m * n).map(|at| element(at / n, at % n)).collect();
            assert_near(&again, &a_mn);
            let below = (0..r).flat_map(|row| (0..row.min(n)).map(move |col| (row, col)));
            assert!(below.into_iter().all(|(row, col)| r_rn[row * n + col] == 0.0));
            // Fewer are the first of all.
            let (q_first, _) = qr(&a_mn, (m, n), 1);
            assert_eq!(q_first, q_rm[..m]);
        }
    }
}
