//! Sums of slices.

/// `Σ a[i]·b[i]`.
pub fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// `y += s·x`.
pub fn axpy(y: &mut [f64], s: f64, x: &[f64]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y += s * x;
    }
}

/// `sums[o] += Σ_n y[n,o]`.
pub fn add_column_sums(sums_o: &mut [f64], y_no: &[f64]) {
    let width = sums_o.len();
    for (at, y) in y_no.iter().enumerate() {
        sums_o[at % width] += y;
    }
}
