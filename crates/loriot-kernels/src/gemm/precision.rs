//! What weights are rounded to.

use crate::isa::{Isa, Level};
use std::fmt;

/// What the operands of a linear layer are rounded to; sums are f32 (of int8: exact integers, then f32).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Precision {
    /// Not rounded.
    #[default]
    F32,
    /// bf16: 8 significant bits.
    Bf16,
    /// Signed bytes with a scale per output channel; a token's activations get a scale each. Forward only.
    Int8,
}

impl Precision {
    /// All of them, most precise first.
    pub const ALL: [Precision; 3] = [Precision::F32, Precision::Bf16, Precision::Int8];

    /// The name used in options, messages and records.
    pub fn name(self) -> &'static str {
        match self {
            Precision::F32 => "f32",
            Precision::Bf16 => "bf16",
            Precision::Int8 => "int8",
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl Isa {
    /// Whether this instruction set multiplies operands of this precision as they are. Where it does not, a weight packed
    /// so is widened to f32 block by block, and activations are not rounded.
    pub fn has_native(self, precision: Precision) -> bool {
        match precision {
            Precision::F32 => true,
            Precision::Bf16 => self.level() >= Level::Avx512Bf16,
            Precision::Int8 => self.level() == Level::Avx2 || self.level() >= Level::Avx512Bf16,
        }
    }

    /// The level for [`Isa::gemm_in`] of a product with a narrow side, such as LoRA's rank: in f32 splitting the wide
    /// operand for tiles costs more than tiles save.
    pub fn for_narrow(self, precision: Precision) -> Isa {
        if precision == Precision::F32 { self.without_tiles() } else { self }
    }
}
