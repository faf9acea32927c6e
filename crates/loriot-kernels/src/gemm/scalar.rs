//! The portable micro-kernel: plain loops over arrays, which the compiler turns into what vectors the target has.

use super::Mat;
use super::kernel::{self, Start, Tile, copy_plain, f32_operands};

/// 4×8: eight accumulators of four lanes leave room for the operands in the sixteen registers of SSE2.
const MR: usize = 4;
const NR: usize = 8;
const KC: usize = 256;

#[derive(Clone, Copy)]
pub(super) struct Kernel;

impl kernel::Kernel for Kernel {
    f32_operands!();
    const MR: usize = MR;
    const NR: usize = NR;
    const KC: usize = KC;

    fn tile(self, tile: Tile<'_, f32>) {
        match tile.rows {
            1 => tile_of::<1>(tile),
            2 => tile_of::<2>(tile),
            3 => tile_of::<3>(tile),
            4 => tile_of::<4>(tile),
            rows => unreachable!("a tile of {rows} rows"),
        }
    }

    fn copy(self, dst: &mut [f32], dst_stride: usize, src: Mat, alpha: f32) {
        copy_plain(dst, dst_stride, src, alpha);
    }
}

fn tile_of<const R: usize>(tile: Tile<'_, f32>) {
    const A_STRIDE: usize = <Kernel as kernel::Kernel>::A_STRIDE;
    let Tile { depth, a, b, c, c_stride, start, .. } = tile;
    let a: &[[f32; A_STRIDE]; R] = a.as_chunks().0.first_chunk().expect("a strip has R rows");
    assert!(depth <= A_STRIDE, "depth of a strip");
    let mut sums = [[0.0f32; NR]; R];
    for (r, sums) in sums.iter_mut().enumerate() {
        match start {
            Start::Zero => {}
            Start::Row(values) => sums.copy_from_slice(&values[..NR]),
            Start::Load => sums.copy_from_slice(&c[r * c_stride..][..NR]),
        }
    }
    for (k, b) in b.as_chunks::<NR>().0[..depth].iter().enumerate() {
        for r in 0..R {
            for (sum, b) in sums[r].iter_mut().zip(b) {
                *sum += a[r][k] * b;
            }
        }
    }
    for (r, sums) in sums.iter().enumerate() {
        c[r * c_stride..][..NR].copy_from_slice(sums);
    }
}
