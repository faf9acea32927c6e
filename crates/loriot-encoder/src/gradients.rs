//! Gradients by the parameters of one layer: sums over the rows of every chunk.
//!
//! ```text
//! frozen + LoRA:  dB += s·dyᵀ·(x·Aᵀ)     dA += s·(dy·B)ᵀ·x       x with its LoRA dropout
//! DoRA:           dm as in [`LayerSums::magnitude`]; dy is multiplied by the gains before all else
//! trained whole:  dW += dyᵀ·x            dbias += Σ dy           LN: dweight += Σ dy·x̂, dbias += Σ dy
//! ```
//!
//! Each sum is one chain over the rows in the order of the texts ([`RowProduct`]), so it does not matter
//! how the texts are cut into chunks, nor the work into [`Task`]s.

use crate::architecture::{LinearKind, NormKind};
use crate::backward::output_of;
use crate::buffer::sized;
use crate::forward::{Pass, Texts};
use crate::row_product::RowProduct;
use crate::tape::{ChunkTape, LayerTape};
use crate::workers::Workers;
use loriot_kernels::gemm::{Mat, Precision};

/// A piece of a layer's parameter gradients that one thread computes.
pub(crate) type Task<'a> = Box<dyn FnOnce() + Send + 'a>;

/// The gradients of one layer are summed from here.
#[derive(Clone, Copy)]
pub(crate) struct LayerSums<'a> {
    pub(crate) pass: &'a Pass<'a>,
    pub(crate) layer: usize,
    pub(crate) chunks: &'a [ChunkTape],
    pub(crate) n_threads: usize,
}

impl<'a> LayerSums<'a> {
    fn tape(self, chunk: &'a ChunkTape) -> &'a LayerTape {
        &chunk.layers[self.layer - self.pass.lowest_layer()]
    }

    /// The input of a linear layer, `(n, i)`.
    fn input(self, chunk: &'a ChunkTape, kind: LinearKind) -> &'a [f32] {
        let inputs = &chunk.gradients.inputs;
        match kind {
            LinearKind::Query | LinearKind::Key | LinearKind::Value => {
                let is_lowest = self.layer == self.pass.lowest_layer();
                if is_lowest { &chunk.lowest_x_nd } else { &inputs.x_nd }
            }
            LinearKind::AttentionOutput => &self.tape(chunk).context_nd,
            LinearKind::Intermediate => &inputs.middle_nd,
            LinearKind::Output => &inputs.activated_nf,
        }
    }

    /// A sum over rows in the model's precision.
    fn sum(self, alpha: f32, c_mk: &'a mut [f32], shape: (usize, usize)) -> RowProduct<'a> {
        RowProduct::new(self.pass.isa(), self.pass.model.precision, alpha, c_mk, shape)
    }

    /// [`LayerSums::sum`] of a product with a side as narrow as LoRA's rank.
    fn narrow_sum(self, alpha: f32, c_mk: &'a mut [f32], shape: (usize, usize)) -> RowProduct<'a> {
        let precision = self.pass.model.precision;
        let isa = self.pass.isa().for_narrow(precision);
        RowProduct::new(isa, precision, alpha, c_mk, shape)
    }

    /// Adds to the gradient of an adapter's factor B.
    pub(crate) fn lora_b(self, kind: LinearKind, db_or: &'a mut [f32], tasks: &mut Vec<Task<'a>>) {
        let pass = self.pass;
        let Some(lora) = pass.lora(self.layer, kind) else { return };
        let ((o, _), r) = (kind.shape(&pass.model.config), lora.r);
        let columns_of = self.lora_columns(kind);
        tasks.push(Box::new(move || {
            let mut db = self.narrow_sum(lora.scale, db_or, (o, r));
            for chunk in self.chunks {
                let xa = columns_of(self.tape(chunk).xa_nr.get(kind));
                db.add(chunk.gradients.dy(pass, kind), xa);
            }
            db.finish();
        }));
    }

    /// Adds to the gradient of an adapter's factor A.
    pub(crate) fn lora_a(self, kind: LinearKind, da_ri: &'a mut [f32], tasks: &mut Vec<Task<'a>>) {
        let pass = self.pass;
        let Some(lora) = pass.lora(self.layer, kind) else { return };
        let ((_, i), r) = (kind.shape(&pass.model.config), lora.r);
        let columns_of = self.lora_columns(kind);
        tasks.push(Box::new(move || {
            let mut dropped = Vec::new();
            let mut da = self.narrow_sum(lora.scale, da_ri, (r, i));
            for chunk in self.chunks {
                let texts = Texts { offsets: &chunk.packed.offsets, keys: &chunk.keys };
                let x_ni = self.input(chunk, kind);
                let x_ni = pass.drop_lora(&mut dropped, x_ni, texts, self.layer, kind);
                let n = x_ni.len() / i;
                let dyb = columns_of(chunk.gradients.dyb_nr.get(kind));
                da.add(dyb, Mat::row_major(x_ni, n, i));
            }
            da.finish();
        }));
    }

    /// Adds to the gradient of DoRA's magnitudes. The norms count as constants.
    ///
    /// ```text
    /// y = bias + gain·z, gain = m/‖V‖      dm = Σ dy·z/‖V‖ = Σ (gain·dy)·(y − bias) / (gain·m)
    /// ```
    pub(crate) fn magnitude(
        self,
        kind: LinearKind,
        magnitude_o: &'a [f32],
        dmagnitude_o: &'a mut [f32],
        tasks: &mut Vec<Task<'a>>,
    ) {
        let pass = self.pass;
        let Some(gain_o) = pass.lora(self.layer, kind).and_then(|lora| lora.gain_o) else { return };
        tasks.push(Box::new(move || {
            let bias_o = pass.model.layers[self.layer].bias_of(kind, &pass.model.config);
            let mut sum_o = vec![0.0f64; gain_o.len()];
            for chunk in self.chunks {
                let tape = self.tape(chunk);
                let y_no = match kind {
                    LinearKind::Query | LinearKind::Key | LinearKind::Value => &tape.qkv_n3d,
                    LinearKind::Intermediate => &tape.preactivation_nf,
                    LinearKind::AttentionOutput | LinearKind::Output => tape.gained_no.get(kind),
                };
                let (y, dz) = (output_of(pass, kind, y_no), chunk.gradients.dy(pass, kind));
                for row in 0..y.n_rows() {
                    for (o, (sum, bias)) in sum_o.iter_mut().zip(bias_o).enumerate() {
                        *sum += f64::from(dz.at(row, o)) * f64::from(y.at(row, o) - bias);
                    }
                }
            }
            for (o, sum) in sum_o.iter().enumerate() {
                // 0 is the length of a row of zeros, whose direction nothing can tell.
                let square = f64::from(gain_o[o]) * f64::from(magnitude_o[o]);
                if square != 0.0 {
                    dmagnitude_o[o] += (sum / square) as f32;
                }
            }
        }));
    }

    /// Picks the columns of one adapter in `x·Aᵀ` or `dy·B` of all that read the same input.
    fn lora_columns(self, kind: LinearKind) -> impl Fn(&'a [f32]) -> Mat<'a> + Send {
        let group = self.pass.lora_group(self.layer, kind);
        let (width, columns) = (group.rank(), group.columns(kind));
        move |side_by_side| {
            let n = side_by_side.len() / width;
            Mat::row_major(side_by_side, n, width).columns(columns.clone())
        }
    }

    /// Adds to the gradient of a linear layer's weight, in blocks of its rows.
    pub(crate) fn linear_weight(
        self,
        kind: LinearKind,
        dw_oi: &'a mut [f32],
        tasks: &mut Vec<Task<'a>>,
    ) {
        let pass = self.pass;
        let (o, i) = kind.shape(&pass.model.config);
        let block_rows = o.div_ceil(self.n_threads);
        for (block, dw_oi) in dw_oi.chunks_mut(block_rows * i).enumerate() {
            tasks.push(Box::new(move || {
                let rows = block * block_rows..(block * block_rows + dw_oi.len() / i);
                let mut dw = self.sum(1.0, dw_oi, (rows.len(), i));
                for chunk in self.chunks {
                    let x_ni = self.input(chunk, kind);
                    let x = Mat::row_major(x_ni, x_ni.len() / i, i);
                    dw.add(chunk.gradients.dy(pass, kind).columns(rows.clone()), x);
                }
                dw.finish();
            }));
        }
    }

    /// Adds to the gradient of a linear layer's bias.
    pub(crate) fn linear_bias(
        self,
        kind: LinearKind,
        dbias_o: &'a mut [f32],
        tasks: &mut Vec<Task<'a>>,
    ) {
        let pass = self.pass;
        let (o, _) = kind.shape(&pass.model.config);
        tasks.push(Box::new(move || {
            // A row of ones times dy, in f32 because it is a sum.
            let isa = pass.isa().for_narrow(Precision::F32);
            let gain_o = pass.lora(self.layer, kind).and_then(|lora| lora.gain_o);
            let mut of_gained = vec![0.0; gain_o.map_or(0, <[f32]>::len)];
            let sum_o = if gain_o.is_some() { &mut of_gained } else { &mut *dbias_o };
            let mut dbias = RowProduct::new(isa, Precision::F32, 1.0, sum_o, (1, o));
            for chunk in self.chunks {
                let dy = chunk.gradients.dy(pass, kind);
                dbias.add(Mat::strided(&[1.0], dy.n_rows(), 1, 0, 0), dy);
            }
            dbias.finish();
            // DoRA's gains are in dy, and do not concern the bias.
            for (dbias, (sum, gain)) in
                dbias_o.iter_mut().zip(of_gained.iter().zip(gain_o.into_iter().flatten()))
            {
                *dbias += if *gain == 0.0 { 0.0 } else { sum / gain };
            }
        }));
    }

    /// Adds to the gradients of a norm inside the layer: of its weight, its bias or both.
    pub(crate) fn norm(
        self,
        kind: NormKind,
        dweight_d: Option<&'a mut [f32]>,
        dbias_d: Option<&'a mut [f32]>,
        tasks: &mut Vec<Task<'a>>,
    ) {
        tasks.push(Box::new(move || {
            let [mut unused_weight, mut unused_bias] = [(); 2].map(|()| vec![0.0; self.pass.d()]);
            let dweight_d = dweight_d.unwrap_or(&mut unused_weight);
            let dbias_d = dbias_d.unwrap_or(&mut unused_bias);
            for chunk in self.chunks {
                let (gradients, tape) = (&chunk.gradients, self.tape(chunk));
                let (dy_nd, xhat_nd) = match kind {
                    NormKind::Attention => (&gradients.dattention_norm_nd, &tape.attention_xhat_nd),
                    NormKind::Output => (&gradients.doutput_norm_nd, &tape.output_xhat_nd),
                };
                self.pass.isa().layer_norm_param_grads(dweight_d, dbias_d, dy_nd, xhat_nd);
            }
        }));
    }
}

/// Gradients of the embedding tables and their norm, where these are trained.
pub(crate) struct EmbeddingGradients<'a> {
    pub(crate) dword_vd: Option<&'a mut [f32]>,
    pub(crate) dposition_pd: Option<&'a mut [f32]>,
    pub(crate) dtoken_type_td: Option<&'a mut [f32]>,
    pub(crate) dnorm_weight_d: Option<&'a mut [f32]>,
    pub(crate) dnorm_bias_d: Option<&'a mut [f32]>,
}

impl EmbeddingGradients<'_> {
    /// Adds to all of them, given the gradient by `x₀` in every chunk's `dy_nd`.
    pub(crate) fn add(self, pass: &Pass<'_>, chunks: &mut [ChunkTape], workers: &Workers) {
        let (isa, d) = (pass.isa(), pass.d());
        workers.for_each(chunks.iter_mut().collect(), |chunk: &mut ChunkTape| {
            let texts = Texts { offsets: &chunk.packed.offsets, keys: &chunk.keys };
            let dx_nd = &mut chunk.gradients.dy_nd;
            pass.drop_embeddings(dx_nd, texts);
            let (xhat_nd, rstd_n) = (&chunk.embeddings_xhat_nd, &chunk.embeddings_rstd_n);
            let weight_d = &pass.model.embeddings.norm.weight_d;
            let dsum_nd = sized(&mut chunk.scratch.x_nd, dx_nd.len());
            isa.layer_norm_backward(dsum_nd, dx_nd, xhat_nd, rstd_n, weight_d);
        });
        let chunks = &*chunks;
        let [mut unused_weight, mut unused_bias] = [(); 2].map(|()| vec![0.0; d]);
        let EmbeddingGradients { dword_vd, dposition_pd, dtoken_type_td, .. } = self;
        let dweight_d = self.dnorm_weight_d.unwrap_or(&mut unused_weight);
        let dbias_d = self.dnorm_bias_d.unwrap_or(&mut unused_bias);
        let mut tasks: Vec<Task<'_>> = Vec::new();
        if let Some(dword_vd) = dword_vd {
            tasks.push(Box::new(|| {
                for chunk in chunks {
                    for (dsum_d, &id) in chunk.scratch.x_nd.chunks_exact(d).zip(&chunk.packed.ids) {
                        isa.add(&mut dword_vd[id as usize * d..][..d], dsum_d);
                    }
                }
            }));
        }
        if let Some(dposition_pd) = dposition_pd {
            tasks.push(Box::new(|| {
                for chunk in chunks {
                    let positions = chunk.packed.positions();
                    for (dsum_d, position) in chunk.scratch.x_nd.chunks_exact(d).zip(positions) {
                        isa.add(&mut dposition_pd[position * d..][..d], dsum_d);
                    }
                }
            }));
        }
        if let Some(dtoken_type_td) = dtoken_type_td {
            tasks.push(Box::new(|| {
                for chunk in chunks {
                    for dsum_d in chunk.scratch.x_nd.chunks_exact(d) {
                        isa.add(&mut dtoken_type_td[..d], dsum_d);
                    }
                }
            }));
        }
        tasks.push(Box::new(|| {
            for chunk in chunks {
                let (dy_nd, xhat_nd) = (&chunk.gradients.dy_nd, &chunk.embeddings_xhat_nd);
                isa.layer_norm_param_grads(dweight_d, dbias_d, dy_nd, xhat_nd);
            }
        }));
        workers.for_each(tasks, |task| task());
    }
}
