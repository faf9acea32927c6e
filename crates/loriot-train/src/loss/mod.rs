//! The loss of judged pairs, and its derivative by the unit vectors.
//!
//! ```text
//! cos  = Σ_d q[d]·p[d]                       q, p unit vectors, y in 0..=1 the label
//! e    = y·(1 − cos) + max((1 − y)·cos, 0)   how far the pair is from what its label asks
//! loss = Σ_pairs e² / B                      B pairs of the whole batch
//! ```
//!
//! A batch may arrive in micro-batches (gradient accumulation). Each divides by the `B` of the
//! whole, so that sums over micro-batches are those of the batch at once, the last short one
//! included. Sums are f64.

/// Loss and derivative of one micro-batch.
#[derive(Clone, Debug, PartialEq)]
pub struct PairLoss {
    /// Its share of the batch's loss: add the shares of all micro-batches.
    pub loss: f64,
    /// Derivative of the batch's loss by the unit vectors: queries, then products.
    pub dunit_bd: Vec<f32>,
}

/// The loss of pairs whose unit vectors are `unit_bd`: first all queries, then all products.
///
/// `batch_size` is the number of pairs in the whole batch that these are a part of.
pub fn pair_loss(unit_bd: &[f32], labels: &[f32], batch_size: usize) -> PairLoss {
    let (query_bd, product_bd) = unit_bd.split_at(unit_bd.len() / 2);
    let dim = query_bd.len() / labels.len();
    assert_eq!(unit_bd.len(), 2 * labels.len() * dim, "two vectors a label");
    let mut dunit_bd = vec![0.0; unit_bd.len()];
    let (dquery_bd, dproduct_bd) = dunit_bd.split_at_mut(query_bd.len());
    let mut loss = 0.0;
    for (pair, &label) in labels.iter().enumerate() {
        let row = pair * dim..(pair + 1) * dim;
        let (query_d, product_d) = (&query_bd[row.clone()], &product_bd[row.clone()]);
        let (square, dcos) = square_error(cosine(query_d, product_d), f64::from(label));
        loss += square / batch_size as f64;
        let dcos = (dcos / batch_size as f64) as f32;
        // cos is linear in each vector: its derivative by one is the other.
        scale(&mut dquery_bd[row.clone()], dcos, product_d);
        scale(&mut dproduct_bd[row], dcos, query_d);
    }
    PairLoss { loss, dunit_bd }
}

/// The inner product of two unit vectors, summed in f64.
pub fn cosine(a_d: &[f32], b_d: &[f32]) -> f64 {
    a_d.iter().zip(b_d).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

/// `e²` of one pair, and its derivative by the cosine (that of `max` at 0 is 1, as in torch.clamp).
pub fn square_error(cos: f64, label: f64) -> (f64, f64) {
    let irrelevant = (1.0 - label) * cos;
    let error = label * (1.0 - cos) + irrelevant.max(0.0);
    let derror = -label + if irrelevant >= 0.0 { 1.0 - label } else { 0.0 };
    (error * error, 2.0 * error * derror)
}

fn scale(to_d: &mut [f32], factor: f32, from_d: &[f32]) {
    to_d.iter_mut().zip(from_d).for_each(|(to, from)| *to = factor * from);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Unit vectors of three pairs at cosines on both sides of zero.
    fn units() -> Vec<f32> {
        let angles: [f32; 6] = [0.1, 1.3, 2.0, 0.6, 1.0, 5.0];
        angles.iter().flat_map(|angle| [angle.cos(), angle.sin()]).collect()
    }

    const LABELS: [f32; 3] = [1.0, 0.0, 0.25];

    #[test]
    fn a_pair_is_right_at_one_or_below_zero() {
        assert_eq!(square_error(1.0, 1.0).0, 0.0);
        assert_eq!(square_error(-0.3, 0.0), (0.0, 0.0));
        assert_eq!(square_error(0.5, 0.0), (0.25, 1.0));
        assert_eq!(square_error(0.5, 1.0), (0.25, -1.0));
        assert_eq!(square_error(0.5, 0.5).0, 0.25);
    }

    #[test]
    fn the_derivative_matches_central_differences() {
        let unit_bd = units();
        let loss_of = |unit_bd: &[f64]| -> f64 {
            let (query_bd, product_bd) = unit_bd.split_at(6);
            let pairs = query_bd.chunks(2).zip(product_bd.chunks(2)).zip(LABELS);
            pairs.map(|((q, p), y)| square_error(q[0] * p[0] + q[1] * p[1], y.into()).0 / 3.0).sum()
        };
        let got = pair_loss(&unit_bd, &LABELS, 3);
        let exact: Vec<f64> = unit_bd.iter().map(|&x| f64::from(x)).collect();
        assert!((got.loss - loss_of(&exact)).abs() < 1e-12);
        let (h, mut probe) = (1e-5, exact.clone());
        for k in 0..exact.len() {
            probe[k] = exact[k] + h;
            let above = loss_of(&probe);
            probe[k] = exact[k] - h;
            let below = loss_of(&probe);
            probe[k] = exact[k];
            let numeric = (above - below) / (2.0 * h);
            // f32 rounding of the derivative, at most 1.2e-7 of a value below 2.
            assert!((f64::from(got.dunit_bd[k]) - numeric).abs() < 3e-7, "[{k}]");
        }
    }

    #[test]
    fn micro_batches_add_up_to_the_batch_the_short_one_too() {
        let unit_bd = units();
        let whole = pair_loss(&unit_bd, &LABELS, 3);
        let part = |pairs: std::ops::Range<usize>| {
            let rows = |start: usize| &unit_bd[start + 2 * pairs.start..start + 2 * pairs.end];
            pair_loss(&[rows(0), rows(6)].concat(), &LABELS[pairs.clone()], 3)
        };
        let (first, last) = (part(0..2), part(2..3));
        assert!((first.loss + last.loss - whole.loss).abs() < 1e-15);
        let queries = [&first.dunit_bd[..4], &last.dunit_bd[..2]].concat();
        let products = [&first.dunit_bd[4..], &last.dunit_bd[2..]].concat();
        assert_eq!([queries, products].concat(), whole.dunit_bd);
    }
}
