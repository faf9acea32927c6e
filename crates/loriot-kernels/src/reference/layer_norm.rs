//! Layer normalisation of rows, and its gradients.

/// What [`layer_norm`] computes.
pub struct Normalized {
    /// The result.
    pub y_nd: Vec<f64>,
    /// Before weight and bias.
    pub xhat_nd: Vec<f64>,
    /// The reciprocal of each row's standard deviation.
    pub rstd_n: Vec<f64>,
}

/// LayerNorm of each row, as torch.nn.LayerNorm defines it (biased variance).
///
/// ```text
/// mean = Σ_d x[d] / D      rstd = 1 / sqrt(Σ_d (x[d] − mean)² / D + eps)
/// xhat[d] = (x[d] − mean)·rstd        y[d] = xhat[d]·weight[d] + bias[d]
/// ```
pub fn layer_norm(x_nd: &[f64], weight_d: &[f64], bias_d: &[f64], eps: f64) -> Normalized {
    let width = weight_d.len();
    let (mut y_nd, mut xhat_nd, mut rstd_n) = (vec![], vec![], vec![]);
    for x_d in x_nd.chunks_exact(width) {
        let mean = x_d.iter().sum::<f64>() / width as f64;
        let variance = x_d.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / width as f64;
        let rstd = (variance + eps).sqrt().recip();
        for d in 0..width {
            let xhat = (x_d[d] - mean) * rstd;
            xhat_nd.push(xhat);
            y_nd.push(xhat * weight_d[d] + bias_d[d]);
        }
        rstd_n.push(rstd);
    }
    Normalized { y_nd, xhat_nd, rstd_n }
}

/// The gradient by the input.
///
/// ```text
/// dxhat = dy·weight
/// dx = rstd·(dxhat − Σ_d dxhat[d] / D − xhat·Σ_d dxhat[d]·xhat[d] / D)
/// ```
pub fn layer_norm_backward(
    dy_nd: &[f64],
    xhat_nd: &[f64],
    rstd_n: &[f64],
    weight_d: &[f64],
) -> Vec<f64> {
    let width = weight_d.len();
    let mut dx_nd = vec![];
    for (n, rstd) in rstd_n.iter().enumerate() {
        let (dy_d, xhat_d) = (&dy_nd[n * width..][..width], &xhat_nd[n * width..][..width]);
        let dxhat = |d: usize| dy_d[d] * weight_d[d];
        let mean = (0..width).map(dxhat).sum::<f64>() / width as f64;
        let mean_dot = (0..width).map(|d| dxhat(d) * xhat_d[d]).sum::<f64>() / width as f64;
        dx_nd.extend((0..width).map(|d| rstd * (dxhat(d) - mean - xhat_d[d] * mean_dot)));
    }
    dx_nd
}

/// Adds the gradients by the parameters: `dweight[d] += Σ_n dy[n,d]·xhat[n,d]`, `dbias[d] += Σ_n dy[n,d]`.
pub fn layer_norm_param_grads(
    dweight_d: &mut [f64],
    dbias_d: &mut [f64],
    dy_nd: &[f64],
    xhat_nd: &[f64],
) {
    let width = dweight_d.len();
    for (at, (dy, xhat)) in dy_nd.iter().zip(xhat_nd).enumerate() {
        dweight_d[at % width] += dy * xhat;
        dbias_d[at % width] += dy;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_grads_close, noise_f64, numeric_grad};

    #[test]
    fn gradients_agree_with_central_differences() {
        let (n, d, eps) = (3, 7, 1e-3);
        let (x_nd, dy_nd) = (noise_f64(n * d, 1), noise_f64(n * d, 2));
        let (weight_d, bias_d) = (noise_f64(d, 3), noise_f64(d, 4));
        let loss = |x: &[f64], weight: &[f64], bias: &[f64]| -> f64 {
            let y = layer_norm(x, weight, bias, eps).y_nd;
            y.iter().zip(&dy_nd).map(|(y, dy)| y * dy).sum()
        };
        let saved = layer_norm(&x_nd, &weight_d, &bias_d, eps);
        let dx_nd = layer_norm_backward(&dy_nd, &saved.xhat_nd, &saved.rstd_n, &weight_d);
        let (mut dweight_d, mut dbias_d) = (vec![0.0; d], vec![0.0; d]);
        layer_norm_param_grads(&mut dweight_d, &mut dbias_d, &dy_nd, &saved.xhat_nd);

        assert_grads_close(&dx_nd, &numeric_grad(&x_nd, |x| loss(x, &weight_d, &bias_d)));
        assert_grads_close(&dweight_d, &numeric_grad(&weight_d, |w| loss(&x_nd, w, &bias_d)));
        assert_grads_close(&dbias_d, &numeric_grad(&bias_d, |b| loss(&x_nd, &weight_d, b)));
    }
}
