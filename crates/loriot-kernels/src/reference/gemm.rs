//! Matrix product and linear layer.

/// `C += alpha·A·B`, all row-major.
///
/// ```text
/// c[m, n] += Σ_k alpha·a[m, k]·b[k, n]
/// ```
pub fn gemm(
    c_mn: &mut [f64],
    alpha: f64,
    a_mk: &[f64],
    b_kn: &[f64],
    (m, n, k): (usize, usize, usize),
) {
    assert_eq!((c_mn.len(), a_mk.len(), b_kn.len()), (m * n, m * k, k * n), "lengths of C, A, B");
    for row in 0..m {
        for col in 0..n {
            for inner in 0..k {
                c_mn[row * n + col] += alpha * a_mk[row * k + inner] * b_kn[inner * n + col];
            }
        }
    }
}

/// A linear layer as torch.nn.Linear defines it.
///
/// ```text
/// y[n, o] = bias[o] + Σ_i x[n, i]·w[o, i]
/// ```
pub fn linear(y_no: &mut [f64], x_ni: &[f64], w_oi: &[f64], bias_o: &[f64], i: usize) {
    let o = bias_o.len();
    assert_eq!(w_oi.len(), o * i, "length of W");
    assert_eq!(x_ni.len() * o, y_no.len() * i, "lengths of x and y");
    for n in 0..y_no.len().checked_div(o).unwrap_or(0) {
        for row in 0..o {
            y_no[n * o + row] = bias_o[row];
            for col in 0..i {
                y_no[n * o + row] += x_ni[n * i + col] * w_oi[row * i + col];
            }
        }
    }
}

/// The gradients of [`linear`], added to `dx`, `dw` and `dbias`.
///
/// ```text
/// dx += dy·W      dW += dyᵀ·x      dbias[o] += Σ_n dy[n, o]
/// ```
pub fn linear_backward(
    (dx_ni, dw_oi, dbias_o): (&mut [f64], &mut [f64], &mut [f64]),
    dy_no: &[f64],
    (x_ni, w_oi): (&[f64], &[f64]),
    i: usize,
) {
    let o = dbias_o.len();
    assert_eq!((dw_oi.len(), w_oi.len()), (o * i, o * i), "lengths of dW and W");
    assert_eq!(x_ni.len() * o, dy_no.len() * i, "lengths of x and dy");
    for n in 0..dy_no.len().checked_div(o).unwrap_or(0) {
        for row in 0..o {
            let dy = dy_no[n * o + row];
            dbias_o[row] += dy;
            for col in 0..i {
                dx_ni[n * i + col] += dy * w_oi[row * i + col];
                dw_oi[row * i + col] += dy * x_ni[n * i + col];
            }
        }
    }
}
