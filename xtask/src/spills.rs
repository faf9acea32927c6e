//! Whether the sums of every matrix micro-kernel stay in registers, read from the release build's machine code.
//!
//! A tile that needs one register too many still computes the right thing, at half the speed: the compiler keeps what has
//! no room on the stack, and loads or stores it in every turn of the inner loop. This needs no clock, and no CPU with the
//! instructions in question.
//!
//! A micro-kernel is a function of the module `gemm` with `tile` in its name, or in a module `micro_kernels`; its inner
//! loops are the innermost ones with a multiply-add or dot product. New ones are found by this rule. [`FAMILIES`] lists
//! how many there must be.

mod assembly;

use crate::run;
use anyhow::{Context, Result, bail, ensure};
use assembly::{Function, functions};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Module below `gemm`, the instruction that its inner loops multiply with, and how many there are at least.
const FAMILIES: &[(&str, &str, usize)] = &[
    ("avx2", "vfmadd", 12),
    ("avx2_int8", "vpmaddwd", 6),
    ("avx512", "vfmadd", 28),
    ("avx512_dot", "vdpbf16ps", 14),
    ("avx512_dot", "vpdpbusd", 14),
    ("amx", "tdpbf16ps", 6),
    ("amx", "tdpbusd", 2),
];

/// What micro-kernels multiply with: the beginnings of these instructions' names.
const PRODUCTS: &[&str] = &["vfmadd", "vdpbf16ps", "vpdpbusd", "vpmaddubsw", "vpmaddwd", "tdp"];

/// `cargo xtask spills [FILE.s]`: checks the assembly in `FILE.s`, or that of the kernels' release build.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let file = match arguments {
        [] => build()?,
        [file] => PathBuf::from(file),
        _ => bail!("`spills` takes at most one file of assembly"),
    };
    let text = std::fs::read_to_string(&file)
        .with_context(|| format!("cannot read `{}`", file.display()))?;
    let report = check(&text);
    for ((module, product), count) in &report.found {
        println!("gemm::{module}, {product}: {count} inner loops");
    }
    for problem in &report.problems {
        eprintln!("{problem}");
    }
    ensure!(report.problems.is_empty(), "{} faults in micro-kernels", report.problems.len());
    Ok(())
}

/// Builds the kernels as a release does, in a folder of its own, and gives the file of their assembly.
fn build() -> Result<PathBuf> {
    ensure!(cfg!(target_arch = "x86_64"), "the micro-kernels are built on x86-64 only");
    let target = run::root().join("target/spills");
    std::fs::create_dir_all(&target)
        .with_context(|| format!("cannot make `{}`", target.display()))?;
    let file = target.join("kernels.s");
    let mut cargo = run::cargo(&["rustc", "--quiet", "--package", "loriot-kernels", "--lib"]);
    // As users build it: flags of the environment could give a level registers that it lacks elsewhere.
    cargo.env_remove("CARGO_ENCODED_RUSTFLAGS").env("RUSTFLAGS", "");
    cargo.arg("--release").arg("--target-dir").arg(&target).arg("--");
    cargo.arg(format!("--emit=asm={}", file.display()));
    // Names in which the rows of a tile can be read.
    cargo.args(["-C", "symbol-mangling-version=v0"]);
    run::checked(&mut cargo)?;
    Ok(file)
}

/// What a file of assembly holds.
#[derive(Debug, Default)]
struct Report {
    /// Inner loops by module and product.
    found: BTreeMap<(String, String), usize>,
    problems: Vec<String>,
}

fn check(text: &str) -> Report {
    let mut report = Report::default();
    for function in functions(text) {
        let Some(module) = micro_kernel_module(&function) else { continue };
        for lines in function.inner_loops(is_product) {
            let product = lines.clone().find_map(|at| product_of(function.lines[at]));
            let key = (module.clone(), product.unwrap_or_default().to_owned());
            *report.found.entry(key).or_default() += 1;
            let touches = function.stack_uses(lines);
            if let Some(first) = touches.first().map(|line| line.replace('\t', " ")) {
                report.problems.push(format!(
                    "`{}` uses the stack {} times in each turn of its inner loop, first in `{first}`: \
                     give the tile fewer rows, or the loop fewer pointers and no second loop around it",
                    function.name,
                    touches.len(),
                ));
            }
        }
    }
    for &(module, product, wanted) in FAMILIES {
        let found = report.found.get(&(module.to_owned(), product.to_owned())).unwrap_or(&0);
        if *found < wanted {
            report.problems.push(format!(
                "{found} inner loops with `{product}` in `gemm::{module}`, expected {wanted} or more: name the function of a micro-kernel \
                 `…tile…`, or correct the list in xtask/src/spills.rs"
            ));
        }
    }
    report
}

/// The module below `gemm` that a micro-kernel is in; `None` for other functions.
fn micro_kernel_module(function: &Function) -> Option<String> {
    let mut parts = function.path.iter().skip_while(|part| *part != "gemm").skip(1);
    let module = parts.next()?;
    parts.any(|part| part.contains("tile") || part == "micro_kernels").then(|| module.clone())
}

fn product_of(line: &str) -> Option<&'static str> {
    let name = line.split_whitespace().next()?;
    let product = PRODUCTS.iter().find(|product| name.starts_with(**product))?;
    // AMX has a product for each type.
    Some(match name {
        "tdpbf16ps" => "tdpbf16ps",
        "tdpbusd" => "tdpbusd",
        _ => product,
    })
}

fn is_product(line: &str) -> bool {
    product_of(line).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A function of `gemm::avx512_dot` with these lines.
    fn bf16_tile(body: &str) -> String {
        format!("_RINvNtNtCs1a_14loriot_kernels4gemm10avx512_dot9bf16_tileKje_EB6_:\n{body}\n")
    }

    fn faults(body: &str) -> Vec<String> {
        let report = check(&bf16_tile(body));
        let is_fault = |problem: &String| problem.contains("uses the stack");
        report.problems.into_iter().filter(is_fault).collect()
    }

    #[test]
    fn a_stored_sum_in_the_inner_loop_is_named_with_function_and_remedy() {
        let body = "\tvmovaps 64(%rsp), %zmm1\n.LBB0_1:\n\tvdpbf16ps %zmm2, %zmm3, %zmm1\n\
                    \tvmovaps %zmm1, 320(%rsp)\n\tjne .LBB0_1\n\tretq";
        let faults = faults(body);
        assert_eq!(faults.len(), 1, "{faults:?}");
        for part in ["gemm::avx512_dot::bf16_tile::<14>", "1 times", "320(%rsp)", "fewer rows"] {
            assert!(faults[0].contains(part), "{part} in {}", faults[0]);
        }
    }

    #[test]
    fn loops_without_products_and_code_around_the_loop_may_use_the_stack() {
        let body = "\tmovq %rdi, 8(%rsp)\n.LBB0_1:\n\tmovq 8(%rsp), %rax\n\tjne .LBB0_1\n\
                    .LBB0_2:\n\tmovq 8(%rsp), %rax\n\
                    .LBB0_3:\n\tvdpbf16ps (%rax), %zmm3, %zmm1\n\tjne .LBB0_3\n\
                    \tmovq %rax, 8(%rsp)\n\tjne .LBB0_2\n\tretq";
        assert!(faults(body).is_empty());
    }

    #[test]
    fn a_general_register_is_the_stack_only_where_it_points_there() {
        let in_loop = |before: &str| {
            faults(&format!(
                "{before}\n.LBB0_1:\n\tvdpbf16ps 64(%rbp), %zmm3, %zmm1\n\tjne .LBB0_1\n\tretq"
            ))
        };
        assert!(in_loop("\tmovq %rsi, %rbp").is_empty());
        assert_eq!(in_loop("\tmovq %rsp, %rbp\n\tandq $-64, %rsp").len(), 1);
        assert_eq!(in_loop("\tleaq 128(%rsp), %rax\n\tmovq %rax, %rbp").len(), 1);
        assert!(in_loop("\tleaq 128(%rsp), %rbp\n\tmovq 8(%rdi), %rbp").is_empty());
        assert_eq!(in_loop("\tleaq 192(%rsp), %r8\n\taddq %r8, %rbp").len(), 1);
        assert!(in_loop("\tleaq 192(%rsp), %r8\n\taddq %r9, %rbp").is_empty());
        assert_eq!(in_loop("\tmovq %rsp, %rbp\n\tpopq %rbp\n\tretq").len(), 1);
    }

    #[test]
    fn calls_and_pushes_count_and_address_arithmetic_does_not() {
        let in_loop = |line: &str| {
            faults(&format!(
                ".LBB0_1:\n\t{line}\n\tvdpbf16ps %zmm2, %zmm3, %zmm1\n\tjne .LBB0_1\n\tretq"
            ))
        };
        assert_eq!(in_loop("callq memcpy").len(), 1);
        assert_eq!(in_loop("pushq %rax").len(), 1);
        assert!(in_loop("leaq 8(%rsp), %rax").is_empty());
        assert!(in_loop("prefetcht1 (%rbx)").is_empty());
    }

    #[test]
    fn two_jumps_back_to_a_label_are_one_loop() {
        let body = ".LBB0_1:\n\tvdpbf16ps %zmm2, %zmm3, %zmm1\n\tje .LBB0_1\n\
                    \tvmovaps %zmm1, 320(%rsp)\n\tjne .LBB0_1\n\tretq";
        assert_eq!(faults(body).len(), 1);
    }

    #[test]
    fn a_kernel_of_an_unknown_module_is_checked_and_a_missing_one_reported() {
        let text = "_RNvNtNtCs1a_14loriot_kernels4gemm9avx2_int89tile_rows:\n\
                    .Ltmp1:\n\tvpmaddubsw (%rdi), %ymm1, %ymm2\n\tmovq 8(%rsp), %rax\n\tjne .Ltmp1\n";
        let report = check(text);
        assert_eq!(report.found[&("avx2_int8".to_owned(), "vpmaddubsw".to_owned())], 1);
        assert_eq!(report.problems.len(), 1 + FAMILIES.len());
    }
}
