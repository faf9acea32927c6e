//! One adapted linear layer: what it does to the layer's weight.
//!
//! ```text
//! LoRA             W' = W + scale·B·A
//! begun in W       W' = W + scale·(B·A − B₀·A₀)     PiSSA, OLoRA: the weight that is trained on is W − scale·B₀·A₀
//! DoRA             W'[o] = m[o] / ‖V[o]‖ · V[o]     V is W' as above
//! ```
//!
//! PiSSA: Meng et al., 2024; OLoRA: Büyükakyüz, 2024; DoRA: Liu et al., 2024.

use super::Factor;
use crate::architecture::LinearSite;

/// One adapted linear layer.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraModule {
    /// Which layer.
    pub site: LinearSite,
    /// Rank.
    pub r: usize,
    /// What `B·A` is multiplied with.
    pub scale: f32,
    /// The first matrix, `(r, i)`.
    pub a_ri: Vec<f32>,
    /// The second matrix, `(o, r)`.
    pub b_or: Vec<f32>,
    /// DoRA's length of each row of the weight, `(o)`.
    pub magnitude_o: Option<Vec<f32>>,
    /// What was taken out of the weight before training.
    pub start: Option<Start>,
}

/// The factors that training began with, where they were taken out of the weight.
#[derive(Clone, Debug, PartialEq)]
pub struct Start {
    /// As [`LoraModule::a_ri`].
    pub a_ri: Vec<f32>,
    /// As [`LoraModule::b_or`].
    pub b_or: Vec<f32>,
}

impl LoraModule {
    /// The numbers of one of its tensors, row-major; none where it has no such tensor.
    pub fn factor(&self, factor: Factor) -> &[f32] {
        match factor {
            Factor::A => &self.a_ri,
            Factor::B => &self.b_or,
            Factor::Magnitude => self.magnitude_o.as_deref().unwrap_or_default(),
        }
    }

    pub(crate) fn factor_mut(&mut self, factor: Factor) -> &mut Vec<f32> {
        match factor {
            Factor::A => &mut self.a_ri,
            Factor::B => &mut self.b_or,
            Factor::Magnitude => self.magnitude_o.get_or_insert_default(),
        }
    }

    /// The tensors that it has.
    pub fn factors(&self) -> impl Iterator<Item = Factor> + use<> {
        let is_dora = self.magnitude_o.is_some();
        Factor::ALL.into_iter().filter(move |&factor| factor != Factor::Magnitude || is_dora)
    }

    /// The shape of one of its tensors.
    pub fn shape(&self, factor: Factor) -> Vec<usize> {
        let (r, n) = (self.r, self.factor(factor).len());
        match factor {
            Factor::A => vec![r, n / r],
            Factor::B => vec![n / r, r],
            Factor::Magnitude => vec![n],
        }
    }

    /// Its numbers where they stand.
    pub(crate) fn numbers(&self) -> Numbers<'_> {
        Numbers {
            r: self.r,
            scale: self.scale,
            a_ri: &self.a_ri,
            b_or: &self.b_or,
            magnitude_o: self.magnitude_o.as_deref(),
            start: self.start.as_ref(),
        }
    }

    /// The weight that is trained on: `weight_oi` without the factors of the start.
    pub(crate) fn residual(&self, weight_oi: &mut [f32]) {
        if let Some(Start { a_ri, b_or }) = &self.start {
            add(weight_oi, -f64::from(self.scale), a_ri, b_or, self.r);
        }
    }

    /// The module that does the same to the weight without a [`Start`]: of twice the rank, `[A; A₀]` and `[B, −B₀]`, as
    /// PEFT converts it. Its first half is A and B.
    pub(crate) fn standing_alone(&self) -> LoraModule {
        let Some(start) = &self.start else { return self.clone() };
        let rows = self.b_or.chunks_exact(self.r).zip(start.b_or.chunks_exact(self.r));
        LoraModule {
            site: self.site,
            r: 2 * self.r,
            scale: self.scale,
            a_ri: [&self.a_ri[..], &start.a_ri].concat(),
            b_or: rows.flat_map(|(b, b0)| b.iter().copied().chain(b0.iter().map(|b| -b))).collect(),
            magnitude_o: self.magnitude_o.clone(),
            start: None,
        }
    }
}

/// The numbers of an adapted layer, wherever they are kept.
#[derive(Clone, Copy)]
pub(crate) struct Numbers<'a> {
    pub(crate) r: usize,
    pub(crate) scale: f32,
    pub(crate) a_ri: &'a [f32],
    pub(crate) b_or: &'a [f32],
    pub(crate) magnitude_o: Option<&'a [f32]>,
    pub(crate) start: Option<&'a Start>,
}

impl Numbers<'_> {
    /// Makes `weight_oi` the changed weight. Each row is summed in f64 and rounded once.
    pub(crate) fn apply(self, weight_oi: &mut [f32]) {
        let i = self.a_ri.len() / self.r;
        let mut row_i = vec![0.0; i];
        for (o, weight_i) in weight_oi.chunks_exact_mut(i).enumerate() {
            self.changed(o, weight_i, &mut row_i);
            let gain = self.magnitude_o.map_or(1.0, |m| gain(m[o], &row_i));
            for (weight, value) in weight_i.iter_mut().zip(&row_i) {
                *weight = (gain * value) as f32;
            }
        }
    }

    /// DoRA's factor for each output, `m / ‖V‖`; `None` without DoRA.
    pub(crate) fn gains(self, weight_oi: &[f32]) -> Option<Vec<f32>> {
        let magnitude_o = self.magnitude_o?;
        let i = self.a_ri.len() / self.r;
        let mut row_i = vec![0.0; i];
        let rows = weight_oi.chunks_exact(i).zip(magnitude_o).enumerate();
        let gains = rows.map(|(o, (weight_i, &m))| {
            self.changed(o, weight_i, &mut row_i);
            gain(m, &row_i) as f32
        });
        Some(gains.collect())
    }

    /// Row `o` of `W + scale·(B·A − B₀·A₀)`.
    fn changed(self, o: usize, weight_i: &[f32], row_i: &mut [f64]) {
        row_i.fill(0.0);
        add_row(row_i, 1.0, self.a_ri, &self.b_or[o * self.r..][..self.r]);
        if let Some(Start { a_ri, b_or }) = self.start {
            add_row(row_i, -1.0, a_ri, &b_or[o * self.r..][..self.r]);
        }
        for (value, weight) in row_i.iter_mut().zip(weight_i) {
            *value = f64::from(*weight) + f64::from(self.scale) * *value;
        }
    }
}

/// `m / ‖row‖`. A row of zeros has no direction: it stays, and its factor is 1, where PEFT divides by 0.
fn gain(m: f32, row_i: &[f64]) -> f64 {
    let norm = norm(row_i);
    if norm == 0.0 { 1.0 } else { f64::from(m) / norm }
}

fn norm(row_i: &[f64]) -> f64 {
    row_i.iter().map(|x| x * x).sum::<f64>().sqrt()
}

/// The length of each row.
pub(super) fn row_norms(weight_oi: &[f32], i: usize) -> Vec<f32> {
    let wide = |row_i: &[f32]| row_i.iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
    weight_oi.chunks_exact(i).map(|row_i| norm(&wide(row_i)) as f32).collect()
}

/// `weight += scale·B·A`, row by row of the weight.
pub(super) fn add(weight_oi: &mut [f32], scale: f64, a_ri: &[f32], b_or: &[f32], r: usize) {
    let i = a_ri.len() / r;
    let mut delta_i = vec![0.0f64; i];
    for (weight_i, b_r) in weight_oi.chunks_exact_mut(i).zip(b_or.chunks_exact(r)) {
        delta_i.fill(0.0);
        add_row(&mut delta_i, 1.0, a_ri, b_r);
        for (weight, delta) in weight_i.iter_mut().zip(&delta_i) {
            *weight = (f64::from(*weight) + scale * delta) as f32;
        }
    }
}

/// `row += sign·b·A`.
fn add_row(row_i: &mut [f64], sign: f64, a_ri: &[f32], b_r: &[f32]) {
    for (&b, a_i) in b_r.iter().zip(a_ri.chunks_exact(row_i.len())) {
        for (value, &a) in row_i.iter_mut().zip(a_i) {
            *value += sign * f64::from(b) * f64::from(a);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::architecture::LinearKind;

    fn module() -> LoraModule {
        let site = LinearSite { layer: 0, kind: LinearKind::Query };
        let (a_ri, b_or) = (vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0], vec![1.0, 10.0, -1.0, 0.5]);
        LoraModule { site, r: 2, scale: 0.5, a_ri, b_or, magnitude_o: None, start: None }
    }

    #[test]
    fn a_merge_is_the_product_scaled_and_added() {
        let mut weight_oi = vec![100.0; 6];
        module().numbers().apply(&mut weight_oi);
        // B·A = [[41, 52, 63], [1, 0.5, 0]]
        assert_eq!(weight_oi, [120.5, 126.0, 131.5, 100.5, 100.25, 100.0]);
    }

    #[test]
    fn a_start_is_taken_out_and_both_halves_together_stand_alone() {
        let start =
            Start { a_ri: vec![1.0, 0.0, 0.0, 0.0, 0.0, 0.0], b_or: vec![2.0, 0.0, 4.0, 0.0] };
        let module = LoraModule { start: Some(start), ..module() };
        let (mut trained_on, mut whole, mut alone) = ([100.0; 6], [100.0; 6], [100.0; 6]);
        module.residual(&mut trained_on);
        assert_eq!(trained_on, [99.0, 100.0, 100.0, 98.0, 100.0, 100.0]);
        module.numbers().apply(&mut whole);
        assert_eq!(whole, [119.5, 126.0, 131.5, 98.5, 100.25, 100.0]);
        let converted = module.standing_alone();
        assert_eq!((converted.r, converted.b_or[..4].to_vec()), (4, vec![1.0, 10.0, -2.0, -0.0]));
        converted.numbers().apply(&mut alone);
        assert_eq!(alone, whole);
    }

    #[test]
    fn dora_gives_each_row_its_length() {
        let module = LoraModule { magnitude_o: Some(vec![5.0, 7.0]), scale: 0.0, ..module() };
        let mut weight_oi = [0.0, 3.0, 4.0, 0.0, 0.0, 0.0];
        assert_eq!(module.numbers().gains(&weight_oi), Some(vec![1.0, 1.0]));
        module.numbers().apply(&mut weight_oi);
        assert_eq!(weight_oi, [0.0, 3.0, 4.0, 0.0, 0.0, 0.0], "a row of zeros stays");
        let doubled = LoraModule { magnitude_o: Some(vec![10.0, 7.0]), ..module };
        doubled.numbers().apply(&mut weight_oi);
        assert_eq!(weight_oi, [0.0, 6.0, 8.0, 0.0, 0.0, 0.0]);
    }
}
