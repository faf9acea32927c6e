//! A linear layer's weight, packed once.

use super::kernel::Kernel;
use super::{Mat, scalar};
#[cfg(target_arch = "x86_64")]
use super::{avx2, avx512};
use crate::aligned::AlignedBuf;
use crate::isa::{Isa, Level};

/// `W[o, i]` in the order in which one instruction set's kernels read it.
///
/// Panels of `NR` outputs each, one after the other; in a panel, for each input, the `NR` weights side by side:
///
/// ```text
/// panels[(o / NR)·i_len·NR + i·NR + o % NR] = W[o, i]        zero where o >= o_len
/// ```
///
/// [`Isa::linear`] reads panels as they lie. [`Isa::linear_backward`] transposes a block at a time into scratch, which
/// costs it about 8 % of its speed at 256 rows (AVX-512, 384×384) and spares a second copy of every weight.
#[derive(Clone)]
pub struct PackedWeight {
    isa: Isa,
    panels: AlignedBuf,
    panel_cols: usize,
    o: usize,
    i: usize,
}

impl Isa {
    /// Packs row-major weights of `i` inputs; several blocks are stacked, so that query, key and value make one weight.
    pub fn pack(self, row_blocks_oi: &[&[f32]], i: usize) -> PackedWeight {
        let n_values: usize = row_blocks_oi.iter().map(|block| block.len()).sum();
        let o = n_values.checked_div(i).unwrap_or(0);
        let panel_cols = panel_cols(self);
        let panels = AlignedBuf::zeroed(o.next_multiple_of(panel_cols) * i);
        let mut weight = PackedWeight { isa: self, panels, panel_cols, o, i };
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
                let (panel, col) = (next_o / self.panel_cols, next_o % self.panel_cols);
                let n_rows = (self.panel_cols - col).min(rows - row);
                let dst = &mut self.panels[panel * i * self.panel_cols + col..];
                pack(self.isa, dst, self.panel_cols, block.rows(row..row + n_rows).t());
                (row, next_o) = (row + n_rows, next_o + n_rows);
            }
        }
        assert_eq!(next_o, o, "rows of weights");
    }

    /// `W[o, i]`, row-major, as it was packed.
    pub fn unpack(&self) -> Vec<f32> {
        let weight = |o: usize, i: usize| {
            self.panel(o / self.panel_cols)[i * self.panel_cols + o % self.panel_cols]
        };
        (0..self.o).flat_map(|o| (0..self.i).map(move |i| weight(o, i))).collect()
    }

    /// Number of outputs.
    pub fn n_outputs(&self) -> usize {
        self.o
    }

    /// Number of inputs.
    pub fn n_inputs(&self) -> usize {
        self.i
    }

    /// Bytes that the packed copy takes.
    pub fn n_bytes(&self) -> usize {
        size_of_val(&*self.panels)
    }

    /// The panels from the `panel_idx`-th on, from input `i` of that panel on.
    pub(super) fn panels_from(&self, panel_idx: usize, i: usize) -> &[f32] {
        &self.panels[(panel_idx * self.i + i) * self.panel_cols..]
    }

    /// The `panel_idx`-th panel: a row of `NR` weights per input.
    pub(super) fn panel(&self, panel_idx: usize) -> &[f32] {
        let len = self.i * self.panel_cols;
        &self.panels[panel_idx * len..][..len]
    }

    pub(super) fn assert_packed_for(&self, isa: Isa) {
        assert_eq!(self.isa, isa, "the weight is packed for another instruction set");
    }
}

fn panel_cols(isa: Isa) -> usize {
    match isa.level() {
        Level::Scalar => scalar::Kernel::NR,
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => avx2::Kernel::NR,
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => avx512::Kernel::NR,
        #[cfg(not(target_arch = "x86_64"))]
        _ => unreachable!("`Isa` has no other level on this architecture"),
    }
}

fn pack(isa: Isa, dst: &mut [f32], dst_stride: usize, src: Mat) {
    match isa.level() {
        Level::Scalar => scalar::Kernel.pack(dst, dst_stride, src, 1.0),
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => avx2::Kernel::new(isa).pack(dst, dst_stride, src, 1.0),
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => avx512::Kernel::new(isa).pack(dst, dst_stride, src, 1.0),
        #[cfg(not(target_arch = "x86_64"))]
        _ => unreachable!("`Isa` has no other level on this architecture"),
    }
}
