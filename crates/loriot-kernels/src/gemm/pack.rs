//! Packing a weight: each instruction set and precision in its own order, with the code of the kernels that read it.

use super::kernel::Kernel;
use super::tiles::{self, BF16_STEP, INT8_STEP, PLANES, from_bf16, int8_blocks, to_bf16};
use super::weight::{Column, Int8, Panels};
use super::{Mat, PackedWeight, Precision, scalar};
#[cfg(target_arch = "x86_64")]
use super::{amx, avx2, avx512, avx512_dot};
use crate::aligned::AlignedBuf;
use crate::isa::{Isa, Level};

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
                    return amx::pack_split_panel(self.isa, panel, w_oi.t());
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
