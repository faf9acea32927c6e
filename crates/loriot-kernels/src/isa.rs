//! Which instruction sets this CPU has, as values that prove it.
//!
//! An [`Isa`] can only be had by asking the CPU, so a kernel that is given one may run its instructions without asking
//! again. Every kernel is a method of `Isa`, or takes one. No kernel reads the environment: a program calls
//! [`Isa::from_env`] once and hands the value down.
//!
//! A level is a fixed set of CPU features, never "whatever there is": results differ in their last bits between levels
//! (fused or separate multiply-add, number of partial sums), and are the same bits on every CPU within one.
//!
//! | level        | CPU features                                                      |
//! |--------------|-------------------------------------------------------------------|
//! | `scalar`     | none; what the compiler makes of plain loops, on any architecture |
//! | `avx2`       | AVX2, FMA                                                         |
//! | `avx512`     | AVX2, FMA, AVX-512 F, BW, VL, DQ                                  |
//! | `avx512bf16` | the same and AVX-512 BF16, VNNI                                   |
//! | `amx`        | the same and AMX TILE, BF16, INT8, on Linux                       |
//!
//! Outside [`crate::gemm`], the last three run the same code.

use std::fmt;

/// The environment variable that forces a level; see [`Isa::from_env`].
pub const ISA_VARIABLE: &str = "LORIOT_ISA";

/// A set of CPU features, ordered from worst to best.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// No feature beyond the target's baseline.
    Scalar,
    /// 256-bit vectors with fused multiply-add.
    Avx2,
    /// 512-bit vectors with masks.
    Avx512,
    /// Dot products of pairs of bf16 and of quadruples of bytes in 512-bit vectors.
    Avx512Bf16,
    /// Products of whole tiles of bf16 and of bytes.
    Amx,
}

impl Level {
    /// All levels, worst first.
    pub const ALL: [Level; 5] =
        [Level::Scalar, Level::Avx2, Level::Avx512, Level::Avx512Bf16, Level::Amx];

    /// The name used in [`ISA_VARIABLE`], in messages and in records.
    pub fn name(self) -> &'static str {
        match self {
            Level::Scalar => "scalar",
            Level::Avx2 => "avx2",
            Level::Avx512 => "avx512",
            Level::Avx512Bf16 => "avx512bf16",
            Level::Amx => "amx",
        }
    }

    #[cfg(target_arch = "x86_64")]
    fn is_available(self) -> bool {
        match self {
            Level::Scalar => true,
            Level::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            Level::Avx512 => {
                Level::Avx2.is_available()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512dq")
            }
            Level::Avx512Bf16 => {
                Level::Avx512.is_available()
                    && is_x86_feature_detected!("avx512bf16")
                    && is_x86_feature_detected!("avx512vnni")
            }
            Level::Amx => Level::Avx512Bf16.is_available() && amx_is_available(),
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn is_available(self) -> bool {
        self == Level::Scalar
    }
}

/// Whether there are tiles of bf16 and of bytes, and the system lets this process use them. Asked once.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn amx_is_available() -> bool {
    static ANSWER: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *ANSWER.get_or_init(|| {
        use std::arch::x86_64::{__cpuid, __cpuid_count};
        if __cpuid(0).eax < 7 {
            return false;
        }
        // Bits 22, 24 and 25 of EDX: AMX-BF16, AMX-TILE, AMX-INT8 (Intel's manual, volume 2, CPUID).
        const AMX: u32 = (1 << 22) | (1 << 24) | (1 << 25);
        __cpuid_count(7, 0).edx & AMX == AMX && request_tile_data()
    })
}

#[cfg(all(target_arch = "x86_64", not(target_os = "linux")))]
fn amx_is_available() -> bool {
    false
}

/// Asks the kernel to save this process's tiles (`arch_prctl(2)`, Linux 5.16): until then a tile instruction faults.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn request_tile_data() -> bool {
    const SYS_ARCH_PRCTL: i64 = 158;
    const ARCH_REQ_XCOMP_PERM: i64 = 0x1023;
    const XFEATURE_XTILEDATA: i64 = 18;
    let status: i64;
    // SAFETY: the call takes two integers and touches no memory of ours; `syscall` overwrites rcx and r11.
    unsafe {
        std::arch::asm!(
            "syscall",
            inlateout("rax") SYS_ARCH_PRCTL => status,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XFEATURE_XTILEDATA,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    status == 0
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Proof that this CPU has the features of a [`Level`]; made only by asking the CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Isa(Level);

/// An instruction set was asked for by a name that is unknown, or that this CPU lacks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IsaError {
    /// No level has this name.
    #[error("unknown instruction set `{found}`; expected one of: {}", level_names(&Level::ALL))]
    Unknown {
        /// The name as given.
        found: String,
    },
    /// The level exists, on other CPUs.
    #[error("this CPU has no `{wanted}`; it has: {}", level_names(available))]
    Missing {
        /// The level asked for.
        wanted: Level,
        /// What there is, worst first.
        available: Vec<Level>,
    },
    /// [`ISA_VARIABLE`] holds one of the above.
    #[error("`{ISA_VARIABLE}` cannot be honoured")]
    Variable(#[source] Box<IsaError>),
}

fn level_names(levels: &[Level]) -> String {
    levels.iter().map(|level| level.name()).collect::<Vec<_>>().join(", ")
}

impl Isa {
    /// The portable level, there on every CPU.
    pub const SCALAR: Isa = Isa(Level::Scalar);

    /// Every level of this CPU, worst first; never empty.
    pub fn available() -> Vec<Isa> {
        Level::ALL.into_iter().filter(|level| level.is_available()).map(Isa).collect()
    }

    /// The last of [`Isa::available`].
    pub fn best() -> Isa {
        let best = Level::ALL.into_iter().rev().find(|level| level.is_available());
        best.map_or(Isa::SCALAR, Isa)
    }

    /// The level called `name` (`scalar`, `avx2`, `avx512`, `avx512bf16`, `amx`).
    pub fn named(name: &str) -> Result<Isa, IsaError> {
        let wanted = Level::ALL.into_iter().find(|level| level.name() == name);
        let wanted = wanted.ok_or_else(|| IsaError::Unknown { found: name.to_owned() })?;
        if wanted.is_available() {
            Ok(Isa(wanted))
        } else {
            let available = Isa::available().into_iter().map(Isa::level).collect();
            Err(IsaError::Missing { wanted, available })
        }
    }

    /// The level that [`ISA_VARIABLE`] names, or the best one where it is unset or empty.
    pub fn from_env() -> Result<Isa, IsaError> {
        match std::env::var_os(ISA_VARIABLE) {
            Some(name) if !name.is_empty() => Isa::named(&name.to_string_lossy())
                .map_err(|error| IsaError::Variable(Box::new(error))),
            _ => Ok(Isa::best()),
        }
    }

    /// The best level of this CPU that has no tiles, or this one where it has none.
    pub(crate) fn without_tiles(self) -> Isa {
        Isa(self.0.min(Level::Avx512Bf16))
    }

    /// What this value proves.
    pub fn level(self) -> Level {
        self.0
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Runs `body::<L>(arguments)` compiled for the level of an [`Isa`], `L` being its type in [`crate::lanes`].
///
/// ```text
/// /// Adds `x` to `y`.
/// pub fn add(isa: Isa, y: &mut [f32], x: &[f32]) {
///     dispatch!(isa, add_body(y: &mut [f32], x: &[f32]))
/// }
/// #[inline(always)]
/// fn add_body<L: Lanes>(y: &mut [f32], x: &[f32]) { … }
/// ```
///
/// `body` and all it calls must be `#[inline(always)]`: only what is inlined into the function that enables the
/// features is compiled with them. Arguments are names in scope, with their types; a result follows as `-> Type`.
macro_rules! dispatch {
    ($isa:expr, $body:ident($($argument:ident: $type:ty),* $(,)?) $(-> $output:ty)?) => {{
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")]
        #[allow(clippy::too_many_arguments, reason = "as many as the body has")]
        fn avx512($($argument: $type),*) $(-> $output)? {
            $body::<$crate::lanes::Avx512>($($argument),*)
        }
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma")]
        #[allow(clippy::too_many_arguments, reason = "as many as the body has")]
        fn avx2($($argument: $type),*) $(-> $output)? {
            $body::<$crate::lanes::Avx2>($($argument),*)
        }
        match $crate::isa::Isa::level($isa) {
            // SAFETY: an `Isa` of these levels exists only where the CPU has the features that `avx512` enables.
            #[cfg(target_arch = "x86_64")]
            $crate::isa::Level::Avx512
            | $crate::isa::Level::Avx512Bf16
            | $crate::isa::Level::Amx => unsafe { avx512($($argument),*) },
            // SAFETY: an `Isa` of this level exists only where the CPU has the features that `avx2` enables.
            #[cfg(target_arch = "x86_64")]
            $crate::isa::Level::Avx2 => unsafe { avx2($($argument),*) },
            _ => $body::<$crate::lanes::Scalar>($($argument),*),
        }
    }};
}
pub(crate) use dispatch;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cpu_has_scalar_and_the_best_is_the_last_available() {
        let available = Isa::available();
        assert_eq!(available[0], Isa::SCALAR);
        assert_eq!(available.last(), Some(&Isa::best()));
        for isa in available {
            assert_eq!(Isa::named(&isa.to_string()), Ok(isa));
        }
    }

    #[test]
    fn an_unknown_name_lists_the_known_ones() {
        let error = Isa::named("avx9").unwrap_err();
        assert_eq!(
            error.to_string(),
            "unknown instruction set `avx9`; expected one of: scalar, avx2, avx512, avx512bf16, amx"
        );
    }

    #[test]
    fn a_missing_level_is_named_with_what_there_is() {
        let error = IsaError::Missing {
            wanted: Level::Avx512,
            available: vec![Level::Scalar, Level::Avx2],
        };
        assert_eq!(error.to_string(), "this CPU has no `avx512`; it has: scalar, avx2");
    }

    /// CI runs the suite once per level: a level that is named and missing fails here, whatever else is skipped.
    #[test]
    fn the_level_that_the_environment_names_is_there() {
        Isa::from_env().unwrap();
    }
}
