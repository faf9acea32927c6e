//! Pooling of each text's token vectors, and normalisation to unit length.

use crate::pooling::MIN_NORM;

/// `pooled[b] = Σ_n x[n] / len` over the rows `offsets[b]..offsets[b+1]`, `width` wide; 0 where there are none.
pub fn mean_pool(x_nd: &[f64], offsets: &[usize], width: usize) -> Vec<f64> {
    let mut pooled_bd = vec![];
    for pair in offsets.windows(2) {
        let len = (pair[1] - pair[0]).max(1) as f64;
        for d in 0..width {
            let sum: f64 = (pair[0]..pair[1]).map(|n| x_nd[n * width + d]).sum();
            pooled_bd.push(sum / len);
        }
    }
    pooled_bd
}

/// `dx[n] = dpooled[b] / len`.
pub fn mean_pool_backward(dpooled_bd: &[f64], offsets: &[usize], width: usize) -> Vec<f64> {
    let mut dx_nd = vec![];
    for (b, pair) in offsets.windows(2).enumerate() {
        let len = (pair[1] - pair[0]) as f64;
        for _ in pair[0]..pair[1] {
            dx_nd.extend(dpooled_bd[b * width..][..width].iter().map(|dpooled| dpooled / len));
        }
    }
    dx_nd
}

/// Unit vectors and norms of rows: `x / max(‖x‖, 1e-12)`.
pub fn normalize(x_bd: &[f64], width: usize) -> (Vec<f64>, Vec<f64>) {
    let (mut unit_bd, mut norm_b) = (vec![], vec![]);
    for x_d in x_bd.chunks_exact(width) {
        let norm = x_d.iter().map(|x| x * x).sum::<f64>().sqrt();
        unit_bd.extend(x_d.iter().map(|x| x / norm.max(f64::from(MIN_NORM))));
        norm_b.push(norm);
    }
    (unit_bd, norm_b)
}

/// `dx = (dunit − unit·(unit·dunit)) / norm`, and `dunit / 1e-12` where the norm is below that.
pub fn normalize_backward(dunit_bd: &[f64], unit_bd: &[f64], norm_b: &[f64]) -> Vec<f64> {
    let width = dunit_bd.len() / norm_b.len().max(1);
    let mut dx_bd = vec![];
    for (b, &norm) in norm_b.iter().enumerate() {
        let (dunit_d, unit_d) = (&dunit_bd[b * width..][..width], &unit_bd[b * width..][..width]);
        let floor = f64::from(MIN_NORM);
        let dot: f64 = unit_d.iter().zip(dunit_d).map(|(unit, dunit)| unit * dunit).sum();
        let along = if norm < floor { 0.0 } else { dot };
        let rows = dunit_d.iter().zip(unit_d);
        dx_bd.extend(rows.map(|(dunit, unit)| (dunit - unit * along) / norm.max(floor)));
    }
    dx_bd
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::elementwise::dot;
    use crate::testing::{assert_grads_close, noise_f64, numeric_grad};

    #[test]
    fn gradients_agree_with_central_differences() {
        let (offsets, width) = ([0, 3, 4, 4, 9], 5);
        let (x_nd, dy_bd) = (noise_f64(9 * width, 1), noise_f64(4 * width, 2));
        let got = mean_pool_backward(&dy_bd, &offsets, width);
        let want = numeric_grad(&x_nd, |x| dot(&mean_pool(x, &offsets, width), &dy_bd));
        assert_grads_close(&got, &want);

        let x_bd = noise_f64(4 * width, 3);
        let (unit_bd, norm_b) = normalize(&x_bd, width);
        let got = normalize_backward(&dy_bd, &unit_bd, &norm_b);
        assert_grads_close(&got, &numeric_grad(&x_bd, |x| dot(&normalize(x, width).0, &dy_bd)));
    }
}
