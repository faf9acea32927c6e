//! A linear layer's weight, packed once.

use super::kernel::Kernel;
use super::tiles::{self, BF16_STEP, INT8_STEP, PLANES, TILE, from_bf16, int8_blocks, to_bf16};
use super::{Mat, Precision, scalar};
#[cfg(target_arch = "x86_64")]
use super::{amx, avx2, avx512, avx512_dot};
use crate::aligned::AlignedBuf;
use crate::isa::{Isa, Level};
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
    isa: Isa,
    panels: Panels,
    panel_cols: usize,
    o: usize,
    i: usize,
    /// Inputs of a panel, with the zeros behind them.
    panel_i: usize,
}

#[derive(Clone)]
enum Panels {
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

impl Isa {
    /// Packs row-major weights of `i` inputs; several blocks are stacked, so that query, key and value make one weight.
    pub fn pack(self, row_blocks_oi: &[&[f32]], i: usize, precision: Precision) -> PackedWeight {
        let n_values: usize = row_blocks_oi.iter().map(|block| block.len()).sum();
        let o = n_values.checked_div(i).unwrap_or(0);
        let is_split = precision == Precision::F32 && self.level() == Level::Amx;
        let (panel_cols, k_unit) = match precision {
            Precision::F32 if is_split => (tiles::NR, BF16_STEP),
            Precision::F32 => (panel_cols(self), 1),
            Precision::Bf16 => (tiles::NR, BF16_STEP),
            Precision::Int8 => (tiles::NR, INT8_STEP),
        };
        let (o_padded, panel_i) = (o.next_multiple_of(panel_cols), i.next_multiple_of(k_unit));
        let panels = match precision {
            Precision::F32 if is_split => {
                Panels::Split(AlignedBuf::zeroed(PLANES * o_padded * panel_i))
            }
            Precision::F32 => Panels::F32(AlignedBuf::zeroed(o_padded * panel_i)),
            Precision::Bf16 => Panels::Bf16(AlignedBuf::zeroed(o_padded * panel_i)),
            Precision::Int8 => Panels::Int8(Int8 {
                bytes: AlignedBuf::zeroed(o_padded * panel_i),
                scale_o: vec![0.0; o_padded],
                sums_ko: vec![0; int8_blocks(i).count() * o_padded],
            }),
        };
        let mut weight = PackedWeight { isa: self, panels, panel_cols, o, i, panel_i };
        weight.repack(row_blocks_oi);
        weight
    }
}

impl PackedWeight {
    /// Overwrites the weight by another of the same shape.
    pub fn repack(&mut self, row_blocks_oi: &[&[f32]]) {
        let (o, i) = (self.o, self.i);
        let mut next_o = 0;
        for block in row_blocks_oi {
            assert!(
                i == 0 || block.len().is_multiple_of(i),
                "{} values in rows of {i}",
                block.len()
            );
            let rows = block.len().checked_div(i).unwrap_or(0);
            assert!(next_o + rows <= o, "more than {o} rows of weights");
            let block = Mat::row_major(block, rows, i);
            let mut row = 0;
            while row < rows {
                // As many rows as go into the panel that is being filled.
                let n_rows = (self.panel_cols - next_o % self.panel_cols).min(rows - row);
                self.pack_rows(next_o, block.rows(row..row + n_rows));
                (row, next_o) = (row + n_rows, next_o + n_rows);
            }
        }
        assert_eq!(next_o, o, "rows of weights");
    }

    /// Packs rows of weights that belong to one panel, the first of them being output `o`.
    fn pack_rows(&mut self, o: usize, w_oi: Mat) {
        let (panel, col) = (o / self.panel_cols, o % self.panel_cols);
        let panel_start = self.start_of(panel, 0);
        let panel_len = self.panel_stride();
        match &mut self.panels {
            Panels::F32(panels) => {
                copy(self.isa, &mut panels[panel_start + col..], self.panel_cols, w_oi.t());
            }
            Panels::Split(panels) => {
                let panel = &mut panels[panel_start..][..panel_len];
                #[cfg(target_arch = "x86_64")]
                if w_oi.n_rows() == tiles::NR {
                    return amx::Split::new(self.isa, TILE).pack_right(panel, w_oi.t(), 1.0);
                }
                for row in 0..w_oi.n_rows() {
                    let column = Column::new(2, col + row);
                    for i in 0..w_oi.n_cols() {
                        let mut rest = w_oi.at(row, i);
                        for plane in 0..PLANES {
                            let part = to_bf16(rest);
                            rest -= from_bf16(part);
                            panel[column.place_in_plane(i, plane)] = part;
                        }
                    }
                }
            }
            Panels::Bf16(panels) => {
                let panel = &mut panels[panel_start..][..panel_len];
                #[cfg(target_arch = "x86_64")]
                if self.isa.level() >= Level::Avx512Bf16 && w_oi.n_rows() == tiles::NR {
                    return avx512_dot::Bf16::new(self.isa).pack_right(panel, w_oi.t(), 1.0);
                }
                for row in 0..w_oi.n_rows() {
                    let column = Column::new(2, col + row);
                    for i in 0..w_oi.n_cols() {
                        panel[column.place(i)] = to_bf16(w_oi.at(row, i));
                    }
                }
            }
            Panels::Int8(Int8 { bytes, scale_o, sums_ko }) => {
                let panel = &mut bytes[panel_start..][..panel_len];
                let o_padded = scale_o.len();
                for row in 0..w_oi.n_rows() {
                    let column = Column::new(4, col + row);
                    let greatest =
                        (0..w_oi.n_cols()).fold(0.0f32, |max, i| max.max(w_oi.at(row, i).abs()));
                    let scale = greatest / 127.0;
                    let per_unit = if greatest > 0.0 { 127.0 / greatest } else { 0.0 };
                    scale_o[o + row] = scale;
                    for (block, range) in int8_blocks(w_oi.n_cols()).enumerate() {
                        let mut sum = 0;
                        for i in range {
                            // At most 127 in magnitude, or 0 for NaN: `as` saturates.
                            let byte = (w_oi.at(row, i) * per_unit).round_ties_even() as i8;
                            panel[column.place(i)] = byte.cast_unsigned();
                            sum += i32::from(byte);
                        }
                        sums_ko[block * o_padded + o + row] = sum;
                    }
                }
            }
        }
    }

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
struct Column {
    per_word: usize,
    tile: usize,
    at: usize,
}

impl Column {
    fn new(per_word: usize, col: usize) -> Column {
        Column { per_word, tile: col / TILE, at: col % TILE * per_word }
    }

    fn place(self, k: usize) -> usize {
        tiles::place(self.per_word, k, self.tile) + self.at
    }

    /// Of a panel with [`PLANES`] planes.
    fn place_in_plane(self, k: usize, plane: usize) -> usize {
        let step = k / BF16_STEP * PLANES + plane;
        step * BF16_STEP * tiles::NR + self.place(k % BF16_STEP)
    }
}

fn panel_cols(isa: Isa) -> usize {
    match isa.level() {
        Level::Scalar => scalar::Kernel::NR,
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => avx2::Kernel::NR,
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 | Level::Avx512Bf16 | Level::Amx => avx512::Kernel::NR,
        #[cfg(not(target_arch = "x86_64"))]
        _ => unreachable!("`Isa` has no other level on this architecture"),
    }
}

fn copy(isa: Isa, dst: &mut [f32], dst_stride: usize, src: Mat) {
    match isa.level() {
        Level::Scalar => scalar::Kernel.copy(dst, dst_stride, src, 1.0),
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => avx2::Kernel::new(isa).copy(dst, dst_stride, src, 1.0),
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 | Level::Avx512Bf16 | Level::Amx => {
            avx512::Kernel::new(isa).copy(dst, dst_stride, src, 1.0);
        }
        #[cfg(not(target_arch = "x86_64"))]
        _ => unreachable!("`Isa` has no other level on this architecture"),
    }
}
