//! LoRA inside the passes: `y += s·dropout(x)·Aᵀ·Bᵀ`, beside a frozen linear layer.
//!
//! Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021. Adapted layers that read the same input are
//! computed as one, whose rank is the sum of their ranks. With dropout each is computed alone, because PEFT draws the
//! masks of each adapted layer on its own.

use crate::architecture::LinearKind;
use loriot_kernels::gemm::Mat;
use std::ops::Range;

/// The two factors of one adapted linear layer, borrowed from the parameters.
#[derive(Clone, Copy)]
pub(crate) struct Lora<'a> {
    pub(crate) r: usize,
    pub(crate) scale: f32,
    pub(crate) a_ri: &'a [f32],
    pub(crate) b_or: &'a [f32],
    /// DoRA's factor for each output, without the bias: `y = bias + gain·(x·Wᵀ + s·x·Aᵀ·Bᵀ)`.
    pub(crate) gain_o: Option<&'a [f32]>,
}

impl<'a> Lora<'a> {
    pub(crate) fn a(&self) -> Mat<'a> {
        Mat::row_major(self.a_ri, self.r, self.a_ri.len() / self.r)
    }

    pub(crate) fn b(&self) -> Mat<'a> {
        Mat::row_major(self.b_or, self.b_or.len() / self.r, self.r)
    }
}

/// An adapter among those that read the same input.
#[derive(Clone)]
pub(crate) struct Member<'a> {
    pub(crate) kind: LinearKind,
    pub(crate) lora: Lora<'a>,
    /// Its columns in `x·Aᵀ` and `dy·B`, where all stand side by side.
    pub(crate) columns: Range<usize>,
}

/// The adapters that read the same input.
pub(crate) struct Group<'a>(Vec<Member<'a>>);

impl<'a> Group<'a> {
    pub(crate) fn new(adapters: impl Iterator<Item = (LinearKind, Lora<'a>)>) -> Group<'a> {
        let mut end = 0;
        let member = |(kind, lora): (LinearKind, Lora<'a>)| {
            end += lora.r;
            Member { kind, lora, columns: end - lora.r..end }
        };
        Group(adapters.map(member).collect())
    }

    /// The sum of the ranks; 0 where nothing is adapted.
    pub(crate) fn rank(&self) -> usize {
        self.0.last().map_or(0, |member| member.columns.end)
    }

    /// Width of the input that all read; 0 where nothing is adapted.
    pub(crate) fn n_inputs(&self) -> usize {
        self.0.first().map_or(0, |member| member.lora.a_ri.len() / member.lora.r)
    }

    pub(crate) fn members(&self) -> &[Member<'a>] {
        &self.0
    }

    /// The factor of each of the `o` columns of the product that the members share, in `buffer`: DoRA's, and 1 where a
    /// layer has none. `None` where no member has any.
    pub(crate) fn gains<'b>(
        &self,
        buffer: &'b mut Vec<f32>,
        o: usize,
        columns_of: impl Fn(LinearKind) -> Range<usize>,
    ) -> Option<&'b [f32]> {
        let mut with_gain = self.0.iter().filter_map(|m| Some((m.kind, m.lora.gain_o?))).peekable();
        with_gain.peek()?;
        buffer.clear();
        buffer.resize(o, 1.0);
        for (kind, gain_o) in with_gain {
            buffer[columns_of(kind)].copy_from_slice(gain_o);
        }
        Some(buffer)
    }

    /// The columns of one of the members.
    pub(crate) fn columns(&self, kind: LinearKind) -> Range<usize> {
        self.0.iter().find(|member| member.kind == kind).map_or(0..0, |m| m.columns.clone())
    }

    /// The factors `B` of all times their scales, transposed, in `buffer`: `(rank, o)`, where each writes
    /// into the columns that `columns_of` gives.
    pub(crate) fn stack_b<'b>(
        &self,
        buffer: &'b mut Vec<f32>,
        o: usize,
        columns_of: impl Fn(LinearKind) -> Range<usize>,
    ) -> Mat<'b> {
        buffer.clear();
        buffer.resize(self.rank() * o, 0.0);
        for Member { kind, lora, columns } in &self.0 {
            let (b_or, outputs) = (lora.b(), columns_of(*kind));
            for (row, at) in columns.clone().zip(0..) {
                for (into, from) in buffer[row * o..][outputs.clone()].iter_mut().zip(0..) {
                    *into = lora.scale * b_or.at(from, at);
                }
            }
        }
        Mat::row_major(buffer, self.rank(), o)
    }

    /// The factors `A` of all, one above the other, in `buffer`; each times its scale if `scaled`.
    pub(crate) fn stack_a<'b>(&self, buffer: &'b mut Vec<f32>, scaled: bool) -> Mat<'b> {
        buffer.clear();
        for Member { lora, .. } in &self.0 {
            let scale = if scaled { lora.scale } else { 1.0 };
            buffer.extend(lora.a_ri.iter().map(|a| scale * a));
        }
        Mat::row_major(buffer, self.rank(), buffer.len() / self.rank())
    }
}
