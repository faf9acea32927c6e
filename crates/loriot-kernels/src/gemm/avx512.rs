//! The AVX-512 micro-kernel.

use std::arch::x86_64::*;

use super::Mat;
use super::avx512_copy::{Avx512, load, store};
use super::kernel::{self, Start, Tile, f32_operands};
use crate::isa::Isa;

/// 14×32: 28 accumulators, two registers of the right operand and a broadcast fill 31 of 32 registers.
const MR: usize = 14;
const NR: usize = 32;
const KC: usize = 384;
const LANES: usize = 16;

#[derive(Clone, Copy)]
pub(super) struct Kernel(Avx512);

impl Kernel {
    pub(super) fn new(isa: Isa) -> Kernel {
        Kernel(Avx512::new(isa))
    }
}

impl kernel::Kernel for Kernel {
    f32_operands!();
    const MR: usize = MR;
    const NR: usize = NR;
    const KC: usize = KC;
    const PREFETCHES: bool = true;

    fn tile(self, tile: Tile<'_, f32>) {
        macro_rules! tile_of {
            ($($rows:literal)*) => {
                match (tile.rows, tile.cols > LANES) {
                    // SAFETY: `self` exists only where an `Isa` proved the features that `tile_of` enables.
                    $(($rows, true) => unsafe { tile_of::<$rows, 2>(tile) },)*
                    // SAFETY: as above.
                    $(($rows, false) => unsafe { tile_of::<$rows, 1>(tile) },)*
                    (rows, _) => unreachable!("a tile of {rows} rows"),
                }
            };
        }
        tile_of!(1 2 3 4 5 6 7 8 9 10 11 12 13 14)
    }

    fn copy(self, dst: &mut [f32], dst_stride: usize, src: Mat, alpha: f32) {
        self.0.copy(dst, dst_stride, src, alpha);
    }
}

/// `R` rows of `V` registers.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")]
fn tile_of<const R: usize, const V: usize>(tile: Tile<'_, f32>) {
    const A_STRIDE: usize = <Kernel as kernel::Kernel>::A_STRIDE;
    let Tile { depth, a, b, c, c_stride, start, prefetch, .. } = tile;
    // A stride known here makes one pointer serve all rows; fourteen pointers and as many bounds checks cost a quarter.
    let a: &[[f32; A_STRIDE]; R] = a.as_chunks().0.first_chunk().expect("a strip has R rows");
    assert!(depth <= A_STRIDE, "depth of a strip");
    let b = &b.as_chunks::<LANES>().0.as_chunks::<2>().0[..depth];

    let mut sums = [[_mm512_setzero_ps(); V]; R];
    match start {
        Start::Zero => {}
        Start::Row(values) => {
            let values = values.as_chunks().0;
            sums = [std::array::from_fn(|v| load(&values[v])); R];
        }
        Start::Load => {
            for r in 0..R {
                let row = c[r * c_stride..][..NR].as_chunks().0;
                sums[r] = std::array::from_fn(|v| load(&row[v]));
            }
        }
    }
    // Without anything to prefetch this touches one and the same address, which costs nothing.
    let prefetch_step = prefetch.len().div_ceil(depth.max(1));
    for k in 0..depth {
        let ahead = prefetch.as_ptr().wrapping_add(k * prefetch_step);
        _mm_prefetch::<_MM_HINT_T1>(ahead.cast());
        let b: [__m512; V] = std::array::from_fn(|v| load(&b[k][v]));
        for r in 0..R {
            let a = _mm512_set1_ps(a[r][k]);
            for v in 0..V {
                sums[r][v] = _mm512_fmadd_ps(a, b[v], sums[r][v]);
            }
        }
    }
    for r in 0..R {
        let row = c[r * c_stride..][..NR].as_chunks_mut().0;
        for v in 0..V {
            store(&mut row[v], sums[r][v]);
        }
    }
}
