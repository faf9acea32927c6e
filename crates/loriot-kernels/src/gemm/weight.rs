//! A linear layer's weight as it is stored, and read. [`super::pack`] makes it.

use super::Precision;
use super::tiles::{self, BF16_STEP, PLANES, TILE, from_bf16};
use crate::aligned::AlignedBuf;
use crate::isa::Isa;
use std::ops::Range;

/// `W[o, i]` in the order in which kernels read it.
///
/// Panels of `NR` outputs each, one after the other; in a panel, as f32, for each input, the `NR` weights side by side:
///
/// ```text
/// panels[(o / NR)·i_len·NR + i·NR + o % NR] = W[o, i]        zero where o >= o_len
/// ```
///
/// bf16 and int8 panels have 32 columns, in the order of AMX tiles on every instruction set; `i_len` is filled up with
/// zeros to whole tiles. So have f32 panels on AMX, whose three parts stand one behind the other in each step: 6 bytes
/// a weight, which spares splitting it for every block of rows.
///
/// [`Isa::linear`] reads panels as they lie where its instruction set can. [`Isa::linear_backward`] transposes a block at
/// a time into scratch, which costs it about 8 % of its speed at 256 rows (AVX-512, f32, 384×384) and spares a second
/// copy of every weight.
#[derive(Clone)]
pub struct PackedWeight {
    pub(super) isa: Isa,
    pub(super) panels: Panels,
    pub(super) panel_cols: usize,
    pub(super) o: usize,
    pub(super) i: usize,
    /// Inputs of a panel, with the zeros behind them.
    pub(super) panel_i: usize,
}

#[derive(Clone)]
pub(super) enum Panels {
    F32(AlignedBuf<f32>),
    /// f32 in three parts, for AMX.
    Split(AlignedBuf<u16>),
    Bf16(AlignedBuf<u16>),
    Int8(Int8),
}

/// Weights as signed bytes: `W[o, i] ≈ bytes·scale_o`.
#[derive(Clone)]
pub(super) struct Int8 {
    pub bytes: AlignedBuf<u8>,
    /// `max |W[o, :]| / 127`; zeros behind the outputs, to whole panels.
    pub scale_o: Vec<f32>,
    /// `Σ bytes` over each stretch of [`int8_blocks`], as many in a row as there are scales.
    pub sums_ko: Vec<i32>,
}

impl PackedWeight {
    /// `W[o, i]`, row-major, as it is multiplied: rounded to the precision that it was packed in.
    pub fn unpack(&self) -> Vec<f32> {
        let mut w_oi = vec![0.0; self.o * self.i];
        self.widen(0..self.i, 0..self.o, |o, i, w| w_oi[o * self.i + i] = w);
        w_oi
    }

    /// Calls `each(o, i, W[o, i])` for every weight of some inputs and outputs.
    pub(super) fn widen(
        &self,
        i: Range<usize>,
        o: Range<usize>,
        mut each: impl FnMut(usize, usize, f32),
    ) {
        for o in o {
            let panel = self.start_of(o / self.panel_cols, 0);
            match &self.panels {
                Panels::F32(panels) => {
                    let column = &panels[panel + o % self.panel_cols..];
                    i.clone().for_each(|i| each(o, i, column[i * self.panel_cols]));
                }
                Panels::Split(panels) => {
                    let (column, panel) = (Column::new(2, o % tiles::NR), &panels[panel..]);
                    let part = |i, plane| from_bf16(panel[column.place_in_plane(i, plane)]);
                    i.clone().for_each(|i| each(o, i, part(i, 0) + part(i, 1) + part(i, 2)));
                }
                Panels::Bf16(panels) => {
                    let (column, panel) = (Column::new(2, o % tiles::NR), &panels[panel..]);
                    i.clone().for_each(|i| each(o, i, from_bf16(panel[column.place(i)])));
                }
                Panels::Int8(Int8 { bytes, scale_o, .. }) => {
                    let (column, panel) = (Column::new(4, o % tiles::NR), &bytes[panel..]);
                    let value = |i| f32::from(panel[column.place(i)].cast_signed()) * scale_o[o];
                    i.clone().for_each(|i| each(o, i, value(i)));
                }
            }
        }
    }

    /// Number of outputs.
    pub fn n_outputs(&self) -> usize {
        self.o
    }

    /// Number of inputs.
    pub fn n_inputs(&self) -> usize {
        self.i
    }

    /// What the weights were rounded to.
    pub fn precision(&self) -> Precision {
        match self.panels {
            Panels::F32(_) | Panels::Split(_) => Precision::F32,
            Panels::Bf16(_) => Precision::Bf16,
            Panels::Int8(_) => Precision::Int8,
        }
    }

    /// Bytes that the packed copy takes.
    pub fn n_bytes(&self) -> usize {
        match &self.panels {
            Panels::F32(panels) => size_of_val(&**panels),
            Panels::Split(panels) | Panels::Bf16(panels) => size_of_val(&**panels),
            Panels::Int8(Int8 { bytes, scale_o, sums_ko }) => {
                bytes.len() + size_of_val(&**scale_o) + size_of_val(&**sums_ko)
            }
        }
    }

    /// The index of input `i` of the `panel_idx`-th panel, where a row or a step of panels begins.
    pub(super) fn start_of(&self, panel_idx: usize, i: usize) -> usize {
        (panel_idx * self.panel_i + i) * self.units_of_i()
    }

    /// Columns of a panel.
    pub(super) fn panel_cols(&self) -> usize {
        self.panel_cols
    }

    /// Elements from panel to panel.
    pub(super) fn panel_stride(&self) -> usize {
        self.panel_i * self.units_of_i()
    }

    /// Elements that a panel has for each input.
    pub(super) fn units_of_i(&self) -> usize {
        match self.panels {
            Panels::Split(_) => PLANES * self.panel_cols,
            _ => self.panel_cols,
        }
    }

    pub(super) fn split_panels(&self) -> Option<&[u16]> {
        if let Panels::Split(panels) = &self.panels { Some(panels) } else { None }
    }

    pub(super) fn f32_panels(&self) -> Option<&[f32]> {
        if let Panels::F32(panels) = &self.panels { Some(panels) } else { None }
    }

    pub(super) fn bf16_panels(&self) -> Option<&[u16]> {
        if let Panels::Bf16(panels) = &self.panels { Some(panels) } else { None }
    }

    pub(super) fn int8_panels(&self) -> Option<&Int8> {
        if let Panels::Int8(panels) = &self.panels { Some(panels) } else { None }
    }

    pub(super) fn assert_packed_for(&self, isa: Isa) {
        assert_eq!(self.isa, isa, "the weight is packed for another instruction set");
    }
}

/// One column of a panel in the order of [`tiles`].
#[derive(Clone, Copy)]
pub(super) struct Column {
    per_word: usize,
    tile: usize,
    at: usize,
}

impl Column {
    pub(super) fn new(per_word: usize, col: usize) -> Column {
        Column { per_word, tile: col / TILE, at: col % TILE * per_word }
    }

    pub(super) fn place(self, k: usize) -> usize {
        tiles::place(self.per_word, k, self.tile) + self.at
    }

    /// Of a panel with [`PLANES`] planes.
    pub(super) fn place_in_plane(self, k: usize, plane: usize) -> usize {
        let step = k / BF16_STEP * PLANES + plane;
        step * BF16_STEP * tiles::NR + self.place(k % BF16_STEP)
    }
}
