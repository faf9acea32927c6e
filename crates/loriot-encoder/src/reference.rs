//! The encoder in f64, in plain loops: the definition that the engine is tested against.
//!
//! It computes every gradient, frozen or not, and keeps everything. It is for tests: a text of twenty
//! tokens takes a second at MiniLM's size.

use crate::adapter::{Adapter, Factor};
use crate::architecture::{LinearKind, LinearSite, NormKind, Part, QKV, Role, TableKind};
use crate::batch::{Packed, Text, TextKey};
use crate::encoder::Encoder;
use crate::folder::Pooling;
use crate::tape::{Dropout, DropoutRates, lora_site};
use loriot_kernels::dropout::{Site, Stream};
use loriot_kernels::reference::activation::{activation, activation_derivative};
use loriot_kernels::reference::attention::Attention;
use loriot_kernels::reference::dropout::dropout;
use loriot_kernels::reference::elementwise::axpy;
use loriot_kernels::reference::gemm::{linear, linear_backward};
use loriot_kernels::reference::layer_norm::{
    Normalized, layer_norm, layer_norm_backward, layer_norm_param_grads,
};
use loriot_kernels::reference::pooling::{
    mean_pool, mean_pool_backward, normalize, normalize_backward,
};
use std::collections::BTreeMap;

/// Tensors by name: parameters, or their gradients under the same names.
pub type Tensors = BTreeMap<String, Vec<f64>>;

/// An encoder in f64.
pub struct Reference {
    /// The names of the weights.
    names: BTreeMap<Role, String>,
    config: crate::config::Config,
    pooling: Pooling,
    /// Every parameter: weights by their own names, an adapter's factors by PEFT's.
    pub tensors: Tensors,
    /// Rank and scale of each adapted linear layer.
    lora: BTreeMap<LinearSite, (usize, f64)>,
    dropout: Option<Dropout>,
}

/// What [`Reference::backward`] needs of a forward pass, and what it returned.
pub struct Trace {
    packed: Packed,
    keys: Vec<TextKey>,
    embeddings: Normalized,
    layers: Vec<LayerTrace>,
    norm_b: Vec<f64>,
    /// Unit vectors `(b, d)`.
    pub unit_bd: Vec<f64>,
}

struct LayerTrace {
    qkv: [LinearTrace; 3],
    qkv_n3d: Vec<f64>,
    attention_output: LinearTrace,
    attention_norm: Normalized,
    intermediate: LinearTrace,
    preactivation_nf: Vec<f64>,
    output: LinearTrace,
    output_norm: Normalized,
}

struct LinearTrace {
    x_ni: Vec<f64>,
    /// DoRA's norms of the rows of `W + s·B·A`, and the result before it is divided by them, without the bias.
    dora: Option<(Vec<f64>, Vec<f64>)>,
    /// `x` with LoRA's dropout, and `dropout(x)·Aᵀ`.
    lora: Option<(Vec<f64>, Vec<f64>)>,
}

impl Reference {
    /// The encoder's weights as read, no adapter, no dropout.
    ///
    /// # Panics
    ///
    /// If an adapter was folded into the encoder.
    pub fn of(encoder: &Encoder) -> Reference {
        let weights = encoder.weights().expect("no adapter was folded in");
        let wide = |name: &str| weights.get(name).iter().map(|&w| f64::from(w)).collect();
        let tensors = weights.names().map(|name| (name.to_owned(), wide(name))).collect();
        let config = encoder.folder().config.clone();
        let names = weights.specs().map(|spec| (spec.role, spec.name.clone())).collect();
        Reference {
            names,
            config,
            pooling: encoder.pooling(),
            tensors,
            lora: BTreeMap::new(),
            dropout: None,
        }
    }

    /// With an adapter beside the weights, and the tensors that it replaces replaced.
    ///
    /// # Panics
    ///
    /// If it was begun in the weights: [`Adapter::standing_alone`] is the one to give.
    pub fn with_adapter(mut self, adapter: &Adapter) -> Reference {
        for tensor in &adapter.whole {
            let values = tensor.values.iter().map(|&v| f64::from(v)).collect();
            self.tensors.insert(self.names[&tensor.role].clone(), values);
        }
        for module in &adapter.modules {
            assert!(module.start.is_none(), "the weights are whole here");
            let wide = |values: &[f32]| values.iter().map(|&v| f64::from(v)).collect();
            for factor in module.factors() {
                self.tensors.insert(self.factor(module.site, factor), wide(module.factor(factor)));
            }
            self.lora.insert(module.site, (module.r, f64::from(module.scale)));
        }
        self
    }

    /// With the dropout masks of one training step.
    pub fn with_dropout(mut self, rates: DropoutRates, seed: u64, step: u32) -> Reference {
        self.dropout = Some(Dropout { rates, seed, step });
        self
    }

    fn tensor(&self, role: Role) -> &[f64] {
        &self.tensors[&self.names[&role]]
    }

    /// The name of an adapted layer's tensor.
    fn factor(&self, site: LinearSite, factor: Factor) -> String {
        factor.key(self.config.family, site)
    }

    /// Adds to the gradient of a weight.
    fn add(&self, grads: &mut Tensors, role: Role, by: &[f64]) {
        add(grads, &self.names[&role], by);
    }

    /// Unit vectors of `texts`, and the way there.
    pub fn forward(&self, texts: &[Text<'_>]) -> Trace {
        let d = self.config.hidden_size;
        let packed = Packed::new(texts.iter().map(|text| text.ids));
        let keys: Vec<TextKey> = texts.iter().map(|text| text.key).collect();
        let word = self.tensor(Role::Table(TableKind::Word));
        let position = self.tensor(Role::Table(TableKind::Position));
        let token_type = self.tensor(Role::Table(TableKind::TokenType));
        let tokens = packed.ids.iter().zip(packed.positions());
        let sum_nd: Vec<f64> = tokens
            .flat_map(|(&id, at)| {
                (0..d)
                    .map(move |k| word[id as usize * d + k] + position[at * d + k] + token_type[k])
            })
            .collect();
        let embeddings = self.norm(&Role::EmbeddingNorm, &sum_nd);
        let mut x_nd = embeddings.y_nd.clone();
        self.drop_hidden(&mut x_nd, &packed, &keys, 0, Site::Embeddings);
        let mut layers = Vec::new();
        for layer in 0..self.config.n_layers {
            let trace = self.forward_layer(layer, x_nd, &packed, &keys);
            x_nd = trace.output_norm.y_nd.clone();
            layers.push(trace);
        }
        let pooled_bd = match self.pooling {
            Pooling::Mean => mean_pool(&x_nd, &packed.offsets, d),
            Pooling::Cls => {
                packed.rows().flat_map(|rows| x_nd[rows.start * d..][..d].to_vec()).collect()
            }
        };
        let (unit_bd, norm_b) = normalize(&pooled_bd, d);
        Trace { packed, keys, embeddings, layers, norm_b, unit_bd }
    }

    fn forward_layer(
        &self,
        layer: usize,
        x_nd: Vec<f64>,
        packed: &Packed,
        keys: &[TextKey],
    ) -> LayerTrace {
        let d = self.config.hidden_size;
        let run = |kind, x: Vec<f64>| self.linear(LinearSite { layer, kind }, x, packed, keys);
        let norm_of = |kind| move |part| Role::Norm(layer, kind, part);

        let (q, query) = run(LinearKind::Query, x_nd.clone());
        let (k, key) = run(LinearKind::Key, x_nd.clone());
        let (v, value) = run(LinearKind::Value, x_nd.clone());
        let rows = q.chunks(d).zip(k.chunks(d)).zip(v.chunks(d));
        let qkv_n3d: Vec<f64> = rows.flat_map(|((q, k), v)| [q, k, v].concat()).collect();
        let streams = self.attention_streams(keys, layer);
        let context_nd = self.attention(packed, &streams).forward(&qkv_n3d);

        let (mut branch_nd, attention_output) = run(LinearKind::AttentionOutput, context_nd);
        self.drop_hidden(&mut branch_nd, packed, keys, layer, Site::AttentionOutput);
        axpy(&mut branch_nd, 1.0, &x_nd);
        let attention_norm = self.norm(&norm_of(NormKind::Attention), &branch_nd);

        let middle_nd = attention_norm.y_nd.clone();
        let (preactivation_nf, intermediate) = run(LinearKind::Intermediate, middle_nd.clone());
        let f = self.config.activation;
        let activated_nf = preactivation_nf.iter().map(|&x| activation(x, f)).collect();
        let (mut branch_nd, output) = run(LinearKind::Output, activated_nf);
        self.drop_hidden(&mut branch_nd, packed, keys, layer, Site::FfnOutput);
        axpy(&mut branch_nd, 1.0, &middle_nd);
        let output_norm = self.norm(&norm_of(NormKind::Output), &branch_nd);
        LayerTrace {
            qkv: [query, key, value],
            qkv_n3d,
            attention_output,
            attention_norm,
            intermediate,
            preactivation_nf,
            output,
            output_norm,
        }
    }

    /// The gradient by every parameter, given the one by the unit vectors.
    pub fn backward(&self, trace: &Trace, dunit_bd: &[f64]) -> Tensors {
        let d = self.config.hidden_size;
        let (packed, keys) = (&trace.packed, &trace.keys[..]);
        let zeros = |(name, values): (&String, &Vec<f64>)| (name.clone(), vec![0.0; values.len()]);
        let mut grads: Tensors = self.tensors.iter().map(zeros).collect();
        let dpooled_bd = normalize_backward(dunit_bd, &trace.unit_bd, &trace.norm_b);
        let mut dx_nd = match self.pooling {
            Pooling::Mean => mean_pool_backward(&dpooled_bd, &packed.offsets, d),
            Pooling::Cls => {
                let mut dx_nd = vec![0.0; packed.n_tokens() * d];
                for (rows, dpooled_d) in packed.rows().zip(dpooled_bd.chunks(d)) {
                    dx_nd[rows.start * d..][..d].copy_from_slice(dpooled_d);
                }
                dx_nd
            }
        };
        for (layer, saved) in trace.layers.iter().enumerate().rev() {
            dx_nd = self.backward_layer(layer, saved, dx_nd, packed, keys, &mut grads);
        }
        self.drop_hidden(&mut dx_nd, packed, keys, 0, Site::Embeddings);
        let dsum_nd =
            self.norm_backward(&Role::EmbeddingNorm, &dx_nd, &trace.embeddings, &mut grads);
        let tokens = packed.ids.iter().zip(packed.positions());
        for (dsum_d, (&id, position)) in dsum_nd.chunks(d).zip(tokens) {
            for (table, row) in [
                (TableKind::Word, id as usize),
                (TableKind::Position, position),
                (TableKind::TokenType, 0),
            ] {
                let name = &self.names[&Role::Table(table)];
                let grad = grads.get_mut(name).expect("a gradient for every tensor");
                axpy(&mut grad[row * d..][..d], 1.0, dsum_d);
            }
        }
        grads
    }

    fn backward_layer(
        &self,
        layer: usize,
        saved: &LayerTrace,
        dy_nd: Vec<f64>,
        packed: &Packed,
        keys: &[TextKey],
        grads: &mut Tensors,
    ) -> Vec<f64> {
        let d = self.config.hidden_size;
        let norm_of = |kind| move |part| Role::Norm(layer, kind, part);
        let site = |kind| LinearSite { layer, kind };

        let mut dmiddle_nd =
            self.norm_backward(&norm_of(NormKind::Output), &dy_nd, &saved.output_norm, grads);
        let mut dbranch_nd = dmiddle_nd.clone();
        self.drop_hidden(&mut dbranch_nd, packed, keys, layer, Site::FfnOutput);
        let run = (packed, keys);
        let mut df_nf =
            self.linear_backward(site(LinearKind::Output), &dbranch_nd, &saved.output, run, grads);
        for (df, &x) in df_nf.iter_mut().zip(&saved.preactivation_nf) {
            *df *= activation_derivative(x, self.config.activation);
        }
        let kind = LinearKind::Intermediate;
        let dx = self.linear_backward(site(kind), &df_nf, &saved.intermediate, run, grads);
        axpy(&mut dmiddle_nd, 1.0, &dx);

        let norm = norm_of(NormKind::Attention);
        let mut dx_nd = self.norm_backward(&norm, &dmiddle_nd, &saved.attention_norm, grads);
        let mut dbranch_nd = dx_nd.clone();
        self.drop_hidden(&mut dbranch_nd, packed, keys, layer, Site::AttentionOutput);
        let kind = LinearKind::AttentionOutput;
        let dcontext_nd =
            self.linear_backward(site(kind), &dbranch_nd, &saved.attention_output, run, grads);
        let streams = self.attention_streams(keys, layer);
        let dqkv_n3d = self.attention(packed, &streams).backward(&dcontext_nd, &saved.qkv_n3d);
        for (part, kind) in QKV.into_iter().enumerate() {
            let dy_nd: Vec<f64> =
                dqkv_n3d.chunks(3 * d).flat_map(|row| row[part * d..][..d].to_vec()).collect();
            let dx = self.linear_backward(site(kind), &dy_nd, &saved.qkv[part], run, grads);
            axpy(&mut dx_nd, 1.0, &dx);
        }
        dx_nd
    }

    /// `y = x·Wᵀ + b + s·(dropout(x)·Aᵀ)·Bᵀ`.
    fn linear(
        &self,
        site: LinearSite,
        x_ni: Vec<f64>,
        packed: &Packed,
        keys: &[TextKey],
    ) -> (Vec<f64>, LinearTrace) {
        let (o, i) = site.kind.shape(&self.config);
        let n = packed.n_tokens();
        let (weight, bias) = (Role::Linear(site, Part::Weight), Role::Linear(site, Part::Bias));
        let mut y_no = vec![0.0; n * o];
        linear(&mut y_no, &x_ni, self.tensor(weight), self.tensor(bias), i);
        let lora = self.lora.get(&site).map(|&(r, scale)| {
            let mut dropped_ni = x_ni.clone();
            self.drop_lora(&mut dropped_ni, packed, keys, site);
            let (mut xa_nr, mut xab_no) = (vec![0.0; n * r], vec![0.0; n * o]);
            let [a, b] =
                [Factor::A, Factor::B].map(|factor| &self.tensors[&self.factor(site, factor)]);
            linear(&mut xa_nr, &dropped_ni, a, &vec![0.0; r], i);
            linear(&mut xab_no, &xa_nr, b, &vec![0.0; o], r);
            axpy(&mut y_no, scale, &xab_no);
            (dropped_ni, xa_nr)
        });
        let dora = self.norms(site).map(|norm_o| {
            let (magnitude, bias) = (self.magnitude(site), self.tensor(bias));
            let mut z_no = y_no.clone();
            for (y_o, z_o) in y_no.chunks_mut(o).zip(z_no.chunks_mut(o)) {
                for k in 0..o {
                    z_o[k] -= bias[k];
                    y_o[k] = bias[k] + magnitude[k] / norm_o[k] * z_o[k];
                }
            }
            (norm_o, z_no)
        });
        (y_no, LinearTrace { x_ni, dora, lora })
    }

    fn linear_backward(
        &self,
        site: LinearSite,
        dy_no: &[f64],
        saved: &LinearTrace,
        (packed, keys): (&Packed, &[TextKey]),
        grads: &mut Tensors,
    ) -> Vec<f64> {
        let (o, i) = site.kind.shape(&self.config);
        let (weight, bias) = (Role::Linear(site, Part::Weight), Role::Linear(site, Part::Bias));
        // DoRA: y = bias + m/‖V‖·z, where the norm counts as a constant. Of the bias, the gradient is that by `y`.
        let mut dz_no = dy_no.to_vec();
        if let Some((norm_o, z_no)) = &saved.dora {
            let magnitude = self.magnitude(site);
            let mut dmagnitude_o = vec![0.0; o];
            for (dz_o, z_o) in dz_no.chunks_mut(o).zip(z_no.chunks(o)) {
                for k in 0..o {
                    dmagnitude_o[k] += dz_o[k] * z_o[k] / norm_o[k];
                    dz_o[k] *= magnitude[k] / norm_o[k];
                }
            }
            add(grads, &self.factor(site, Factor::Magnitude), &dmagnitude_o);
            for (dy_o, dz_o) in dy_no.chunks(o).zip(dz_no.chunks(o)) {
                let difference: Vec<f64> = dy_o.iter().zip(dz_o).map(|(dy, dz)| dy - dz).collect();
                self.add(grads, bias, &difference);
            }
        }
        let dy_no = &dz_no[..];
        let mut dx_ni = vec![0.0; saved.x_ni.len()];
        let (mut dw_oi, mut dbias_o) = (vec![0.0; o * i], vec![0.0; o]);
        let results = (&mut dx_ni[..], &mut dw_oi[..], &mut dbias_o[..]);
        linear_backward(results, dy_no, (&saved.x_ni, self.tensor(weight)), i);
        self.add(grads, weight, &dw_oi);
        self.add(grads, bias, &dbias_o);
        if let Some((dropped_ni, xa_nr)) = &saved.lora {
            let (r, scale) = self.lora[&site];
            let [a_name, b_name] = [Factor::A, Factor::B].map(|factor| self.factor(site, factor));
            let dy_no: Vec<f64> = dy_no.iter().map(|dy| scale * dy).collect();
            let (mut dxa_nr, mut db_or) = (vec![0.0; xa_nr.len()], vec![0.0; o * r]);
            let results = (&mut dxa_nr[..], &mut db_or[..], &mut vec![0.0; o][..]);
            linear_backward(results, &dy_no, (xa_nr, &self.tensors[&b_name]), r);
            let (mut ddropped_ni, mut da_ri) = (vec![0.0; dropped_ni.len()], vec![0.0; r * i]);
            let results = (&mut ddropped_ni[..], &mut da_ri[..], &mut vec![0.0; r][..]);
            linear_backward(results, &dxa_nr, (dropped_ni, &self.tensors[&a_name]), i);
            self.drop_lora(&mut ddropped_ni, packed, keys, site);
            axpy(&mut dx_ni, 1.0, &ddropped_ni);
            add(grads, &a_name, &da_ri);
            add(grads, &b_name, &db_or);
        }
        dx_ni
    }

    /// DoRA's magnitudes; none where it is not DoRA's.
    fn magnitude(&self, site: LinearSite) -> &[f64] {
        self.tensors.get(&self.factor(site, Factor::Magnitude)).map_or(&[], Vec::as_slice)
    }

    /// `‖W[o] + s·(B·A)[o]‖` of a layer with DoRA.
    fn norms(&self, site: LinearSite) -> Option<Vec<f64>> {
        let (_, i) = site.kind.shape(&self.config);
        let &(r, scale) = self.lora.get(&site)?;
        if self.magnitude(site).is_empty() {
            return None;
        }
        let [a, b] = [Factor::A, Factor::B].map(|factor| &self.tensors[&self.factor(site, factor)]);
        let rows = self.tensor(Role::Linear(site, Part::Weight)).chunks(i).zip(b.chunks(r));
        let norms = rows.map(|(w_i, b_r)| {
            let element = |at: usize| -> f64 {
                w_i[at] + scale * (0..r).map(|k| b_r[k] * a[k * i + at]).sum::<f64>()
            };
            (0..i).map(|at| element(at).powi(2)).sum::<f64>().sqrt()
        });
        Some(norms.collect())
    }

    fn norm(&self, role: &dyn Fn(Part) -> Role, x_nd: &[f64]) -> Normalized {
        let eps = f64::from(self.config.layer_norm_eps);
        layer_norm(x_nd, self.tensor(role(Part::Weight)), self.tensor(role(Part::Bias)), eps)
    }

    fn norm_backward(
        &self,
        role: &dyn Fn(Part) -> Role,
        dy_nd: &[f64],
        saved: &Normalized,
        grads: &mut Tensors,
    ) -> Vec<f64> {
        let d = self.config.hidden_size;
        let (mut dweight_d, mut dbias_d) = (vec![0.0; d], vec![0.0; d]);
        layer_norm_param_grads(&mut dweight_d, &mut dbias_d, dy_nd, &saved.xhat_nd);
        self.add(grads, role(Part::Weight), &dweight_d);
        self.add(grads, role(Part::Bias), &dbias_d);
        layer_norm_backward(dy_nd, &saved.xhat_nd, &saved.rstd_n, self.tensor(role(Part::Weight)))
    }

    fn attention<'a>(&self, packed: &'a Packed, streams: &'a [Stream]) -> Attention<'a> {
        let rate = self.dropout.map_or(0.0, |dropout| dropout.rates.attention);
        Attention {
            offsets: &packed.offsets,
            d: self.config.hidden_size,
            heads: self.config.n_heads,
            dropout: (rate > 0.0).then_some((rate, streams)),
        }
    }

    fn attention_streams(&self, keys: &[TextKey], layer: usize) -> Vec<Stream> {
        let Some(dropout) = self.dropout else { return Vec::new() };
        keys.iter().map(|&key| dropout.stream(key, layer, Site::AttentionProbs)).collect()
    }

    fn drop_hidden(
        &self,
        x: &mut [f64],
        packed: &Packed,
        keys: &[TextKey],
        layer: usize,
        site: Site,
    ) {
        let rate = self.dropout.map_or(0.0, |dropout| dropout.rates.hidden);
        self.drop(x, packed, keys, layer, site, rate);
    }

    fn drop_lora(&self, x: &mut [f64], packed: &Packed, keys: &[TextKey], site: LinearSite) {
        let rate = self.dropout.map_or(0.0, |dropout| dropout.rates.lora);
        self.drop(x, packed, keys, site.layer, lora_site(site.kind), rate);
    }

    fn drop(
        &self,
        x: &mut [f64],
        packed: &Packed,
        keys: &[TextKey],
        layer: usize,
        site: Site,
        rate: f32,
    ) {
        let Some(masks) = self.dropout.filter(|_| rate > 0.0) else { return };
        let width = x.len() / packed.n_tokens();
        for (rows, &key) in packed.rows().zip(keys) {
            let x = &mut x[rows.start * width..rows.end * width];
            dropout(x, masks.stream(key, layer, site), 0, rate);
        }
    }
}

fn add(grads: &mut Tensors, name: &str, by: &[f64]) {
    axpy(grads.get_mut(name).expect("a gradient for every tensor"), 1.0, by);
}
