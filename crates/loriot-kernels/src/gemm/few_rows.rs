//! Products of a few rows with a packed weight: those of a single query.
//!
//! Such a product waits for the weight, of which it needs every byte once. There is one strip and nothing to block for, so
//! that panels follow each other with as little between them as can be: what is not asking for the next line of the weight
//! is lost. The chains, and so the bits, are those of any other number of rows.

use super::driver::{Product, Right, Scratch, Term, depths_of, narrow_tile};
use super::kernel::{Kernel, Start, Tile, panel_len};
use super::tiles::TILE;
use super::{Epilogue, Init, PackedWeight};
use crate::aligned::bytes_of;
use crate::isa::Isa;

/// What [`Product::run_few_rows`] multiplies.
pub(super) struct FewRows<'a, U> {
    term: Term<'a>,
    weight: &'a PackedWeight,
    panels: &'a [U],
}

impl<'a> Product<'a> {
    /// `Some` if all rows go into one tile, and the right operand is a weight whose panels `K` reads as they lie.
    pub(super) fn as_few_rows<K: Kernel>(&self) -> Option<FewRows<'a, K::Unit>> {
        let &[term @ Term { b: Right::Packed(weight), .. }] = self.terms else { return None };
        let panels = K::stored(weight)?;
        (self.c.n_rows() <= K::MR.min(TILE)).then_some(FewRows { term, weight, panels })
    }

    /// [`Product::run_blocks`] of the only strip.
    pub(super) fn run_few_rows<K: Kernel>(
        self,
        isa: Isa,
        kernel: K,
        FewRows { term, weight, panels }: FewRows<'_, K::Unit>,
        scratch: &mut Scratch,
    ) {
        let Product { mut c, init, mut epilogue, .. } = self;
        let (m, n, c_stride) = (c.n_rows(), c.n_cols(), c.row_stride());
        let strip = scratch.a.at_least_of::<K::Unit>(K::MR * K::A_STRIDE);
        for (block, depth) in depths_of::<K>(term.a.n_cols()).iter().enumerate() {
            kernel.pack_left(strip, term.a.columns(depth.clone()), term.alpha);
            let init = if block == 0 { init } else { Init::Accumulate };
            let panel = |col: usize| {
                let start = weight.start_of(col / K::NR, depth.start);
                &panels[start..][..panel_len::<K>(depth.len())]
            };
            for col in (0..n).step_by(K::NR) {
                let next = col + K::NR;
                let tile = Tile {
                    rows: m,
                    depth: depth.len(),
                    block,
                    cols: K::NR.min(n - col),
                    first_col: col,
                    a: strip,
                    b: panel(col),
                    c_stride,
                    c: c.from(0, col),
                    start: Start::of(init, col),
                    prefetch: if K::PREFETCHES && next < n { bytes_of(panel(next)) } else { &[] },
                };
                if tile.cols == K::NR {
                    kernel.tile(tile);
                } else {
                    narrow_tile(kernel, tile);
                }
            }
        }
        if !matches!(epilogue, Epilogue::None) {
            epilogue.apply(isa, &mut c, 0..m, 0..n);
        }
    }
}
