//! The assembly: tiles of sums, all the way down `k`.

use crate::gemm::tiles::{TILE, TILE_BYTES};
use std::arch::asm;

/// Where a micro-kernel reads and writes; `start` and `sums` are rows of 32 numbers of four bytes.
pub(super) struct Run {
    /// Two tiles a plane and step, or one where there are up to 16 rows.
    pub(super) a: *const u8,
    pub(super) b: *const u8,
    pub(super) n_steps: usize,
    pub(super) start: *const u8,
    pub(super) start_stride: usize,
    pub(super) sums: *mut u8,
    pub(super) sums_stride: usize,
}

/// A function that runs down `k`: `$step` multiplies the tiles at `a` and `b`, at distances given by operands, and every
/// step goes on by `$a_bytes` and `$b_bytes`. `tmm0` to `tmm3` hold rows 0 to 15 and 16 to 31 of columns 0 to 15, then of
/// columns 16 to 31; `tmm4` and `tmm5` are of the left operand, `tmm6` and `tmm7` of the right one.
macro_rules! micro_kernel {
    ($name:ident, rows: 2, $a_bytes:expr, $b_bytes:expr, $($step:literal)*) => {
        /// # Safety
        ///
        /// Between the ends of [`super::with_tiles`], with tiles of 16 rows. The operands are `n_steps` steps long; `start` has
        /// 32 readable rows and `sums` 32 writable ones.
        pub(super) unsafe fn $name(run: &Run) {
            // SAFETY: the caller's promise covers every address that is read or written.
            unsafe {
                asm!(
                    "tileloadd tmm0, [{start} + {start_stride}]",
                    "tileloadd tmm1, [{start} + {start_stride} + 64]",
                    "tileloadd tmm2, [{start_16} + {start_stride}]",
                    "tileloadd tmm3, [{start_16} + {start_stride} + 64]",
                    "test {n}, {n}",
                    "jz 3f",
                    "2:",
                    $($step,)*
                    "add {a}, {a_bytes}",
                    "add {b}, {b_bytes}",
                    "dec {n}",
                    "jnz 2b",
                    "3:",
                    "tilestored [{sums} + {sums_stride}], tmm0",
                    "tilestored [{sums} + {sums_stride} + 64], tmm1",
                    "tilestored [{sums_16} + {sums_stride}], tmm2",
                    "tilestored [{sums_16} + {sums_stride} + 64], tmm3",
                    a = inout(reg) run.a => _,
                    b = inout(reg) run.b => _,
                    n = inout(reg) run.n_steps => _,
                    row = in(reg) 64_usize,
                    start = in(reg) run.start,
                    start_16 = in(reg) run.start.wrapping_add(TILE * run.start_stride),
                    start_stride = in(reg) run.start_stride,
                    sums = in(reg) run.sums,
                    sums_16 = in(reg) run.sums.wrapping_add(TILE * run.sums_stride),
                    sums_stride = in(reg) run.sums_stride,
                    a_bytes = const $a_bytes,
                    b_bytes = const $b_bytes,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack),
                );
            }
        }
    };
    ($name:ident, rows: 1, $a_bytes:expr, $b_bytes:expr, $($step:literal)*) => {
        /// # Safety
        ///
        /// Between the ends of [`super::with_tiles`]. The operands are `n_steps` steps long; `start` has as many readable rows
        /// and `sums` as many writable ones as the tiles have.
        pub(super) unsafe fn $name(run: &Run) {
            // SAFETY: the caller's promise covers every address that is read or written.
            unsafe {
                asm!(
                    "tileloadd tmm0, [{start} + {start_stride}]",
                    "tileloadd tmm1, [{start} + {start_stride} + 64]",
                    "test {n}, {n}",
                    "jz 3f",
                    "2:",
                    $($step,)*
                    "add {a}, {a_bytes}",
                    "add {b}, {b_bytes}",
                    "dec {n}",
                    "jnz 2b",
                    "3:",
                    "tilestored [{sums} + {sums_stride}], tmm0",
                    "tilestored [{sums} + {sums_stride} + 64], tmm1",
                    a = inout(reg) run.a => _,
                    b = inout(reg) run.b => _,
                    n = inout(reg) run.n_steps => _,
                    row = in(reg) 64_usize,
                    start = in(reg) run.start,
                    start_stride = in(reg) run.start_stride,
                    sums = in(reg) run.sums,
                    sums_stride = in(reg) run.sums_stride,
                    a_bytes = const $a_bytes,
                    b_bytes = const $b_bytes,
                    out("tmm0") _, out("tmm1") _, out("tmm4") _, out("tmm6") _, out("tmm7") _,
                    options(nostack),
                );
            }
        }
    };
}

micro_kernel!(bf16_32, rows: 2, 2 * TILE_BYTES, 2 * TILE_BYTES,
    "tileloadd tmm4, [{a} + {row}]"
    "tileloadd tmm6, [{b} + {row}]"
    "tdpbf16ps tmm0, tmm4, tmm6"
    "tileloadd tmm7, [{b} + {row} + 1024]"
    "tdpbf16ps tmm1, tmm4, tmm7"
    "tileloadd tmm5, [{a} + {row} + 1024]"
    "tdpbf16ps tmm2, tmm5, tmm6"
    "tdpbf16ps tmm3, tmm5, tmm7"
);
micro_kernel!(bf16_16, rows: 1, TILE_BYTES, 2 * TILE_BYTES,
    "tileloadd tmm4, [{a} + {row}]"
    "tileloadd tmm6, [{b} + {row}]"
    "tdpbf16ps tmm0, tmm4, tmm6"
    "tileloadd tmm7, [{b} + {row} + 1024]"
    "tdpbf16ps tmm1, tmm4, tmm7"
);
micro_kernel!(int8_32, rows: 2, 2 * TILE_BYTES, 2 * TILE_BYTES,
    "tileloadd tmm4, [{a} + {row}]"
    "tileloadd tmm6, [{b} + {row}]"
    "tdpbusd tmm0, tmm4, tmm6"
    "tileloadd tmm7, [{b} + {row} + 1024]"
    "tdpbusd tmm1, tmm4, tmm7"
    "tileloadd tmm5, [{a} + {row} + 1024]"
    "tdpbusd tmm2, tmm5, tmm6"
    "tdpbusd tmm3, tmm5, tmm7"
);
micro_kernel!(int8_16, rows: 1, TILE_BYTES, 2 * TILE_BYTES,
    "tileloadd tmm4, [{a} + {row}]"
    "tileloadd tmm6, [{b} + {row}]"
    "tdpbusd tmm0, tmm4, tmm6"
    "tileloadd tmm7, [{b} + {row} + 1024]"
    "tdpbusd tmm1, tmm4, tmm7"
);

// a₀b₂ a₀b₁ a₁b₁ a₁b₀ a₂b₀ a₀b₀: small products first, and each shares an operand with the one before.
micro_kernel!(split_32, rows: 2, 6 * TILE_BYTES, 6 * TILE_BYTES,
    "tileloadd tmm4, [{a} + {row}]"
    "tileloadd tmm6, [{b} + {row} + 4096]"
    "tdpbf16ps tmm0, tmm4, tmm6"
    "tileloadd tmm7, [{b} + {row} + 5120]"
    "tdpbf16ps tmm1, tmm4, tmm7"
    "tileloadd tmm5, [{a} + {row} + 1024]"
    "tdpbf16ps tmm2, tmm5, tmm6"
    "tileloadd tmm6, [{b} + {row} + 2048]"
    "tdpbf16ps tmm3, tmm5, tmm7"
    "tileloadd tmm7, [{b} + {row} + 3072]"
    "tdpbf16ps tmm0, tmm4, tmm6"
    "tdpbf16ps tmm1, tmm4, tmm7"
    "tileloadd tmm4, [{a} + {row} + 2048]"
    "tdpbf16ps tmm2, tmm5, tmm6"
    "tdpbf16ps tmm3, tmm5, tmm7"
    "tileloadd tmm5, [{a} + {row} + 3072]"
    "tdpbf16ps tmm0, tmm4, tmm6"
    "tdpbf16ps tmm1, tmm4, tmm7"
    "tdpbf16ps tmm2, tmm5, tmm6"
    "tileloadd tmm6, [{b} + {row}]"
    "tdpbf16ps tmm3, tmm5, tmm7"
    "tileloadd tmm7, [{b} + {row} + 1024]"
    "tdpbf16ps tmm0, tmm4, tmm6"
    "tdpbf16ps tmm1, tmm4, tmm7"
    "tileloadd tmm4, [{a} + {row} + 4096]"
    "tdpbf16ps tmm2, tmm5, tmm6"
    "tdpbf16ps tmm3, tmm5, tmm7"
    "tileloadd tmm5, [{a} + {row} + 5120]"
    "tdpbf16ps tmm0, tmm4, tmm6"
    "tdpbf16ps tmm1, tmm4, tmm7"
    "tileloadd tmm4, [{a} + {row}]"
    "tdpbf16ps tmm2, tmm5, tmm6"
    "tdpbf16ps tmm3, tmm5, tmm7"
    "tileloadd tmm5, [{a} + {row} + 1024]"
    "tdpbf16ps tmm0, tmm4, tmm6"
    "tdpbf16ps tmm1, tmm4, tmm7"
    "tdpbf16ps tmm2, tmm5, tmm6"
    "tdpbf16ps tmm3, tmm5, tmm7"
);
micro_kernel!(split_16, rows: 1, 3 * TILE_BYTES, 6 * TILE_BYTES,
    "tileloadd tmm4, [{a} + {row}]"
    "tileloadd tmm6, [{b} + {row} + 4096]"
    "tileloadd tmm7, [{b} + {row} + 5120]"
    "tdpbf16ps tmm0, tmm4, tmm6"
    "tdpbf16ps tmm1, tmm4, tmm7"
    "tileloadd tmm6, [{b} + {row} + 2048]"
    "tileloadd tmm7, [{b} + {row} + 3072]"
    "tdpbf16ps tmm0, tmm4, tmm6"
    "tdpbf16ps tmm1, tmm4, tmm7"
    "tileloadd tmm4, [{a} + {row} + 1024]"
    "tdpbf16ps tmm0, tmm4, tmm6"
    "tdpbf16ps tmm1, tmm4, tmm7"
    "tileloadd tmm6, [{b} + {row}]"
    "tileloadd tmm7, [{b} + {row} + 1024]"
    "tdpbf16ps tmm0, tmm4, tmm6"
    "tdpbf16ps tmm1, tmm4, tmm7"
    "tileloadd tmm4, [{a} + {row} + 2048]"
    "tdpbf16ps tmm0, tmm4, tmm6"
    "tdpbf16ps tmm1, tmm4, tmm7"
    "tileloadd tmm4, [{a} + {row}]"
    "tdpbf16ps tmm0, tmm4, tmm6"
    "tdpbf16ps tmm1, tmm4, tmm7"
);
// a₂b₀ a₁b₀ a₁b₁ a₀b₁ a₀b₂ a₀b₀: the same products in the same order once the operands have changed sides.
micro_kernel!(mirrored_32, rows: 2, 6 * TILE_BYTES, 6 * TILE_BYTES,
    "tileloadd tmm4, [{a} + {row} + 4096]"
    "tileloadd tmm6, [{b} + {row}]"
    "tdpbf16ps tmm0, tmm4, tmm6"
    "tileloadd tmm7, [{b} + {row} + 1024]"
    "tdpbf16ps tmm1, tmm4, tmm7"
    "tileloadd tmm5, [{a} + {row} + 5120]"
    "tdpbf16ps tmm2, tmm5, tmm6"
    "tileloadd tmm4, [{a} + {row} + 2048]"
    "tdpbf16ps tmm3, tmm5, tmm7"
    "tileloadd tmm5, [{a} + {row} + 3072]"
    "tdpbf16ps tmm0, tmm4, tmm6"
    "tdpbf16ps tmm1, tmm4, tmm7"
    "tdpbf16ps tmm2, tmm5, tmm6"
    "tileloadd tmm6, [{b} + {row} + 2048]"
    "tdpbf16ps tmm3, tmm5, tmm7"
    "tileloadd tmm7, [{b} + {row} + 3072]"
    "tdpbf16ps tmm0, tmm4, tmm6"
    "tdpbf16ps tmm1, tmm4, tmm7"
    "tileloadd tmm4, [{a} + {row}]"
    "tdpbf16ps tmm2, tmm5, tmm6"
    "tdpbf16ps tmm3, tmm5, tmm7"
    "tileloadd tmm5, [{a} + {row} + 1024]"
    "tdpbf16ps tmm0, tmm4, tmm6"
    "tdpbf16ps tmm1, tmm4, tmm7"
    "tdpbf16ps tmm2, tmm5, tmm6"
    "tileloadd tmm6, [{b} + {row} + 4096]"
    "tdpbf16ps tmm3, tmm5, tmm7"
    "tileloadd tmm7, [{b} + {row} + 5120]"
    "tdpbf16ps tmm0, tmm4, tmm6"
    "tdpbf16ps tmm1, tmm4, tmm7"
    "tdpbf16ps tmm2, tmm5, tmm6"
    "tileloadd tmm6, [{b} + {row}]"
    "tdpbf16ps tmm3, tmm5, tmm7"
    "tileloadd tmm7, [{b} + {row} + 1024]"
    "tdpbf16ps tmm0, tmm4, tmm6"
    "tdpbf16ps tmm1, tmm4, tmm7"
    "tdpbf16ps tmm2, tmm5, tmm6"
    "tdpbf16ps tmm3, tmm5, tmm7"
);
micro_kernel!(mirrored_16, rows: 1, 3 * TILE_BYTES, 6 * TILE_BYTES,
    "tileloadd tmm4, [{a} + {row} + 2048]"
    "tileloadd tmm6, [{b} + {row}]"
    "tileloadd tmm7, [{b} + {row} + 1024]"
    "tdpbf16ps tmm0, tmm4, tmm6"
    "tdpbf16ps tmm1, tmm4, tmm7"
    "tileloadd tmm4, [{a} + {row} + 1024]"
    "tdpbf16ps tmm0, tmm4, tmm6"
    "tdpbf16ps tmm1, tmm4, tmm7"
    "tileloadd tmm6, [{b} + {row} + 2048]"
    "tileloadd tmm7, [{b} + {row} + 3072]"
    "tdpbf16ps tmm0, tmm4, tmm6"
    "tdpbf16ps tmm1, tmm4, tmm7"
    "tileloadd tmm4, [{a} + {row}]"
    "tdpbf16ps tmm0, tmm4, tmm6"
    "tdpbf16ps tmm1, tmm4, tmm7"
    "tileloadd tmm6, [{b} + {row} + 4096]"
    "tileloadd tmm7, [{b} + {row} + 5120]"
    "tdpbf16ps tmm0, tmm4, tmm6"
    "tdpbf16ps tmm1, tmm4, tmm7"
    "tileloadd tmm6, [{b} + {row}]"
    "tileloadd tmm7, [{b} + {row} + 1024]"
    "tdpbf16ps tmm0, tmm4, tmm6"
    "tdpbf16ps tmm1, tmm4, tmm7"
);
