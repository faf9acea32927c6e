//! Multi-head self-attention of packed sequences, and its gradient.

use super::dropout::dropout;
use crate::dropout::Stream;

/// What both passes are told: cumulative `offsets`, number of heads, and dropout's `p` with a stream per sequence.
#[derive(Clone, Copy)]
pub struct Attention<'a> {
    /// Sequence `b` is the rows `offsets[b]..offsets[b+1]`.
    pub offsets: &'a [usize],
    /// Model width.
    pub d: usize,
    /// Number of heads.
    pub heads: usize,
    /// Dropout of the probabilities.
    pub dropout: Option<(f32, &'a [Stream])>,
}

/// One head of one sequence.
struct Head {
    /// First row, and rows.
    start: usize,
    len: usize,
    /// Columns of this head's `q`, `k`, `v` in a row of `qkv`; the first is that of `ctx` too.
    parts: [usize; 3],
    k: usize,
    /// The stream and the first element of the mask.
    dropout: Option<(f32, Stream, u64)>,
}

impl Attention<'_> {
    fn heads(&self) -> Vec<Head> {
        let k = self.d / self.heads;
        let mut heads = vec![];
        for (b, pair) in self.offsets.windows(2).enumerate() {
            let len = pair[1] - pair[0];
            for head in 0..self.heads {
                let parts = [0, 1, 2].map(|part| part * self.d + head * k);
                let first_element = head * len * len.next_multiple_of(4);
                let dropout =
                    self.dropout.map(|(p, streams)| (p, streams[b], first_element as u64));
                heads.push(Head { start: pair[0], len, parts, k, dropout });
            }
        }
        heads
    }

    /// `softmax(q·kᵀ/√K)` of one head.
    fn probabilities(&self, head: &Head, qkv_n3d: &[f64]) -> Vec<f64> {
        let at = |part: usize, i: usize, w: usize| {
            qkv_n3d[(head.start + i) * 3 * self.d + head.parts[part] + w]
        };
        let mut p = vec![];
        for i in 0..head.len {
            let dot = |j: usize| (0..head.k).map(|w| at(0, i, w) * at(1, j, w)).sum::<f64>();
            let scores: Vec<f64> = (0..head.len).map(|j| dot(j) / (head.k as f64).sqrt()).collect();
            let greatest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = scores.iter().map(|s| (s - greatest).exp()).sum();
            p.extend(scores.iter().map(|s| (s - greatest).exp() / sum));
        }
        p
    }

    /// ```text
    /// p = softmax(q·kᵀ/√K)        ctx[i] = Σ_j dropout(p)[i,j]·v[j]
    /// ```
    pub fn forward(&self, qkv_n3d: &[f64]) -> Vec<f64> {
        let mut ctx_nd = vec![0.0; qkv_n3d.len() / 3];
        for head in self.heads() {
            let mut p = self.probabilities(&head, qkv_n3d);
            head.drop(&mut p);
            for i in 0..head.len {
                for w in 0..head.k {
                    let v = |j: usize| qkv_n3d[(head.start + j) * 3 * self.d + head.parts[2] + w];
                    ctx_nd[(head.start + i) * self.d + head.parts[0] + w] =
                        (0..head.len).map(|j| p[i * head.len + j] * v(j)).sum();
                }
            }
        }
        ctx_nd
    }

    /// ```text
    /// dp = dropout(dctx·vᵀ)                     ds[i,j] = p[i,j]·(dp[i,j] − Σ_l p[i,l]·dp[i,l]) / √K
    /// dq = ds·k        dk = dsᵀ·q        dv = dropout(p)ᵀ·dctx
    /// ```
    pub fn backward(&self, dctx_nd: &[f64], qkv_n3d: &[f64]) -> Vec<f64> {
        let mut dqkv_n3d = vec![0.0; qkv_n3d.len()];
        for head in self.heads() {
            let at = |part: usize, i: usize, w: usize| {
                (head.start + i) * 3 * self.d + head.parts[part] + w
            };
            let dctx = |i: usize, w: usize| dctx_nd[(head.start + i) * self.d + head.parts[0] + w];
            let p = self.probabilities(&head, qkv_n3d);
            let (mut dp, mut dropped) = (vec![], p.clone());
            for i in 0..head.len {
                for j in 0..head.len {
                    dp.push((0..head.k).map(|w| dctx(i, w) * qkv_n3d[at(2, j, w)]).sum());
                }
            }
            head.drop(&mut dp);
            head.drop(&mut dropped);
            for i in 0..head.len {
                let row = i * head.len..(i + 1) * head.len;
                let dot: f64 = p[row.clone()].iter().zip(&dp[row]).map(|(p, dp)| p * dp).sum();
                for j in 0..head.len {
                    let ij = i * head.len + j;
                    let ds = p[ij] * (dp[ij] - dot) / (head.k as f64).sqrt();
                    for w in 0..head.k {
                        dqkv_n3d[at(0, i, w)] += ds * qkv_n3d[at(1, j, w)];
                        dqkv_n3d[at(1, j, w)] += ds * qkv_n3d[at(0, i, w)];
                        dqkv_n3d[at(2, j, w)] += dropped[ij] * dctx(i, w);
                    }
                }
            }
        }
        dqkv_n3d
    }
}

impl Head {
    /// Dropout of a matrix with one row per query and one column per key.
    fn drop(&self, x: &mut [f64]) {
        if let Some((p, stream, first_element)) = self.dropout {
            let stride = self.len.next_multiple_of(4) as u64;
            for (i, row) in (0..).zip(x.chunks_exact_mut(self.len)) {
                dropout(row, stream, first_element + i * stride, p);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dropout::{Site, TextKey};
    use crate::reference::elementwise::dot;
    use crate::testing::{assert_grads_close, noise_f64, numeric_grad};

    #[test]
    fn gradient_agrees_with_central_differences_with_and_without_dropout() {
        let (offsets, d, heads) = ([0, 4, 5, 12], 6, 2);
        let (qkv_n3d, dctx_nd) = (noise_f64(12 * 3 * d, 1), noise_f64(12 * d, 2));
        let stream = |row| Stream::new(7, 1, TextKey::query(row), 0, Site::AttentionProbs);
        let streams = [stream(0), stream(1), stream(2)];
        for dropout in [None, Some((0.3, &streams[..]))] {
            let attention = Attention { offsets: &offsets, d, heads, dropout };
            let got = attention.backward(&dctx_nd, &qkv_n3d);
            let want = numeric_grad(&qkv_n3d, |qkv| dot(&attention.forward(qkv), &dctx_nd));
            assert_grads_close(&got, &want);
        }
    }
}
