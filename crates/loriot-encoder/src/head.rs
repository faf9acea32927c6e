//! What an encoder ends in: from the last hidden states of a text to its output.
//!
//! ```text
//! unit vector      p = mean or first of the text's rows      u = p / ‖p‖
//! ```
//!
//! as sentence-transformers' Pooling and Normalize. The passes know only that a head makes `width` numbers of each text
//! and, given the loss's derivative by them, the derivative by the hidden states.

use crate::buffer::sized;
use crate::folder::Pooling;
use loriot_kernels::Isa;

/// The end of an encoder.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Head {
    /// One vector of length 1, as wide as the model.
    UnitVector(Pooling),
}

/// What a head's forward pass leaves for the way back, and its result.
#[derive(Default)]
pub(crate) struct HeadTape {
    /// Length of each pooled vector.
    norm_b: Vec<f32>,
    /// One row a text, as wide as [`Head::width`] says.
    pub(crate) output_bo: Vec<f32>,
}

impl Head {
    /// Numbers that come out for each text of a model of width `d`.
    pub(crate) fn width(self, d: usize) -> usize {
        match self {
            Head::UnitVector(_) => d,
        }
    }

    /// Leaves the output of each text in `tape`. The rows between two `offsets` are the hidden states of a text.
    pub(crate) fn forward(
        self,
        isa: Isa,
        tape: &mut HeadTape,
        hidden_nd: &[f32],
        offsets: &[usize],
        d: usize,
    ) {
        let b = offsets.len() - 1;
        let Head::UnitVector(pooling) = self;
        let mut pooled_bd = vec![0.0; b * d];
        match pooling {
            Pooling::Mean => isa.mean_pool(&mut pooled_bd, hidden_nd, offsets),
            Pooling::Cls => isa.cls_pool(&mut pooled_bd, hidden_nd, offsets),
        }
        let unit_bd = sized(&mut tape.output_bo, b * d);
        isa.normalize(unit_bd, sized(&mut tape.norm_b, b), &pooled_bd);
    }

    /// The derivative by the hidden states, given that by the outputs which `tape` has.
    pub(crate) fn backward(
        self,
        isa: Isa,
        dhidden_nd: &mut [f32],
        doutput_bo: &[f32],
        tape: &HeadTape,
        offsets: &[usize],
    ) {
        let Head::UnitVector(pooling) = self;
        let mut dpooled_bd = vec![0.0; doutput_bo.len()];
        isa.normalize_backward(&mut dpooled_bd, doutput_bo, &tape.output_bo, &tape.norm_b);
        match pooling {
            Pooling::Mean => isa.mean_pool_backward(dhidden_nd, &dpooled_bd, offsets),
            Pooling::Cls => isa.cls_pool_backward(dhidden_nd, &dpooled_bd, offsets),
        }
    }
}
