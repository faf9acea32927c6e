//! LoRA inside the passes: `y += s·dropout(x)·Aᵀ·Bᵀ`, beside a frozen linear layer.
//!
//! Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021. PEFT draws the dropout of
//! each adapted layer on its own, so each has its own site.

use loriot_kernels::Isa;
use loriot_kernels::gemm::{Init, Mat, MatMut};

/// The two factors of one adapted linear layer, borrowed from the parameters.
#[derive(Clone, Copy)]
pub(crate) struct Lora<'a> {
    pub(crate) r: usize,
    pub(crate) scale: f32,
    pub(crate) a_ri: &'a [f32],
    pub(crate) b_or: &'a [f32],
}

impl Lora<'_> {
    fn a(&self) -> Mat<'_> {
        Mat::row_major(self.a_ri, self.r, self.a_ri.len() / self.r)
    }

    fn b(&self) -> Mat<'_> {
        Mat::row_major(self.b_or, self.b_or.len() / self.r, self.r)
    }

    /// `y += s·(x·Aᵀ)·Bᵀ`; leaves `x·Aᵀ` in `xa_nr` for the gradient of `B`.
    pub(crate) fn forward(&self, isa: Isa, y_no: MatMut<'_>, x_ni: Mat<'_>, xa_nr: &mut Vec<f32>) {
        let n = x_ni.n_rows();
        xa_nr.resize(n * self.r, 0.0);
        let xa = MatMut::row_major(xa_nr, n, self.r);
        isa.gemm(xa, 1.0, x_ni, self.a().t(), Init::Zero);
        let xa = Mat::row_major(xa_nr, n, self.r);
        isa.gemm(y_no, self.scale, xa, self.b().t(), Init::Accumulate);
    }

    /// `dy·B` in `dyb_nr`, which the gradients of `A` and of the input both need.
    pub(crate) fn project_gradient(&self, isa: Isa, dyb_nr: &mut Vec<f32>, dy_no: Mat<'_>) {
        let n = dy_no.n_rows();
        dyb_nr.resize(n * self.r, 0.0);
        let dyb = MatMut::row_major(dyb_nr, n, self.r);
        isa.gemm(dyb, 1.0, dy_no, self.b(), Init::Zero);
    }

    /// `dx (+)= s·(dy·B)·A`.
    pub(crate) fn input_gradient(
        &self,
        isa: Isa,
        dx_ni: MatMut<'_>,
        dyb_nr: &[f32],
        init: Init<'_>,
    ) {
        let dyb = Mat::row_major(dyb_nr, dyb_nr.len() / self.r, self.r);
        isa.gemm(dx_ni, self.scale, dyb, self.a(), init);
    }
}
