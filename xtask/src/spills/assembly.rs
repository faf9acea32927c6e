//! Functions, loops and uses of the stack in a file of x86-64 assembly, as LLVM writes it (AT&T syntax).

use std::collections::{HashMap, HashSet};
use std::ops::RangeInclusive;

/// A function's lines between its name and the next function's.
pub(super) struct Function<'a> {
    /// Modules and name, after the crate; of a method also its type and trait.
    pub(super) path: Vec<String>,
    /// The path as Rust writes it, with the numbers that it is generic over.
    pub(super) name: String,
    /// Labels and instructions, trimmed.
    pub(super) lines: Vec<&'a str>,
}

/// The functions of Loriot's kernels; their symbols are mangled as Rust's "v0" has it.
pub(super) fn functions(text: &str) -> Vec<Function<'_>> {
    let mut functions: Vec<Function> = Vec::new();
    for line in text.lines() {
        if let Some(symbol) = line.strip_suffix(':').filter(|label| !label.starts_with('.')) {
            let (path, numbers) = demangle(symbol);
            let generic = match numbers.as_slice() {
                [] => String::new(),
                numbers => format!("::<{}>", numbers.join(", ")),
            };
            let name = path.join("::") + &generic;
            functions.push(Function { path, name, lines: Vec::new() });
        } else if let Some(function) = functions.last_mut() {
            let line = line.trim();
            let is_directive = line.starts_with('.') && !line.ends_with(':');
            if !line.is_empty() && !line.starts_with('#') && !is_directive {
                function.lines.push(line);
            }
        }
    }
    functions
}

/// The names behind that of the crate, and the numbers. Enough of the grammar for functions and methods of one crate:
/// names with their length before them, `K` and a number, and references and disambiguators, which are skipped.
fn demangle(symbol: &str) -> (Vec<String>, Vec<String>) {
    let (mut path, mut numbers) = (Vec::new(), Vec::<String>::new());
    let Some((_, mut rest)) = symbol.split_once("14loriot_kernels") else {
        return (path, numbers);
    };
    while let Some(first) = rest.chars().next() {
        if first.is_ascii_digit() {
            let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
            let Ok(len) = rest[..digits].parse::<usize>() else { break };
            let name = rest[digits..].strip_prefix('_').unwrap_or(&rest[digits..]);
            let Some((name, after)) = name.split_at_checked(len) else { break };
            path.push(name.to_owned());
            rest = after;
        } else if matches!(first, 'B' | 's' | 'K') {
            let Some((skipped, after)) = rest.split_once('_') else { break };
            if let Some(number) = skipped.strip_prefix("Kj") {
                // In hexadecimal; nothing stands for 0.
                let number = usize::from_str_radix(number, 16).unwrap_or(0);
                numbers.push(number.to_string());
            } else if skipped.starts_with("KB") {
                // A number that stood before: with two of them, the first.
                numbers.extend(numbers.first().cloned());
            }
            rest = after;
        } else {
            rest = &rest[first.len_utf8()..];
        }
    }
    (path, numbers)
}

impl Function<'_> {
    /// The innermost loops among those with an instruction that `is_wanted`: from a label to the jump back to it.
    pub(super) fn inner_loops(
        &self,
        is_wanted: impl Fn(&str) -> bool,
    ) -> Vec<RangeInclusive<usize>> {
        let mut labels = HashMap::new();
        let mut loops: Vec<RangeInclusive<usize>> = Vec::new();
        for (at, line) in self.lines.iter().enumerate() {
            if let Some(label) = line.strip_suffix(':') {
                labels.insert(label, at);
            } else if let Some(&start) = jump_target(line).and_then(|label| labels.get(label))
                && self.lines[start..=at].iter().any(|line| is_wanted(line))
            {
                loops.push(start..=at);
            }
        }
        let contains = |outer: &RangeInclusive<usize>, inner: &RangeInclusive<usize>| {
            outer != inner && outer.start() <= inner.start() && inner.end() <= outer.end()
        };
        // Two jumps back to one label are one loop.
        loops.sort_by_key(|range| (*range.start(), std::cmp::Reverse(*range.end())));
        loops.dedup_by_key(|range| *range.start());
        let is_inner = |range: &RangeInclusive<usize>| !loops.iter().any(|l| contains(range, l));
        loops.iter().filter(|range| is_inner(range)).cloned().collect()
    }

    /// The instructions of a loop that read or write the stack: a memory operand whose base or index is `%rsp`, or another
    /// register that points to the stack by then, and calls, pushes and pops. What only computes an address does not
    /// count, nor does a prefetch.
    ///
    /// Registers are followed from the function's first line on in the order of the lines, whatever jumps there are: LLVM
    /// sets pointers to the stack before the loops that use them.
    pub(super) fn stack_uses(&self, range: RangeInclusive<usize>) -> Vec<&str> {
        let mut pointers = HashSet::from(["rsp".to_owned()]);
        let mut uses = Vec::new();
        for (at, line) in self.lines[..=*range.end()].iter().enumerate() {
            let (name, operands) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
            let memory = memory_operand(operands);
            let is_on_stack = memory.is_some_and(|memory| {
                registers(memory).iter().any(|register| pointers.contains(register))
            });
            let is_access = !name.starts_with("lea") && !name.starts_with("prefetch");
            let moves_stack = ["call", "push", "pop"].iter().any(|verb| name.starts_with(verb));
            if range.contains(&at) && (is_on_stack && is_access || moves_stack) {
                uses.push(*line);
            }
            follow(&mut pointers, name, operands, is_on_stack);
        }
        uses
    }
}

/// Keeps the set of registers that point to the stack true after an instruction.
fn follow(pointers: &mut HashSet<String>, name: &str, operands: &str, is_on_stack: bool) {
    // What an early return pops is for the caller; the lines after it go on with what was there.
    let reads_only = ["cmp", "test", "push", "pop", "j", "call", "prefetch"];
    if reads_only.iter().any(|verb| name.starts_with(verb)) || operands.ends_with(')') {
        return;
    }
    let written = operands.rsplit(',').next().map(registers).unwrap_or_default();
    let [written] = written.as_slice() else { return };
    let points = if name.starts_with("lea") {
        is_on_stack
    } else if name == "movq" && !operands.contains('(') {
        let source = operands.split(',').next().map(registers).unwrap_or_default();
        source.iter().any(|source| pointers.contains(source))
    } else {
        // A pointer that is moved on stays one; a number plus a pointer is one.
        let moves = ["add", "sub", "and", "inc", "dec"].iter().any(|verb| name.starts_with(verb));
        let adds = name.starts_with("add") && !operands.contains('(');
        let source = operands.split(',').next().map(registers).unwrap_or_default();
        let is_added = adds && source.iter().any(|source| pointers.contains(source));
        moves && pointers.contains(written) || is_added
    };
    if points {
        pointers.insert(written.clone());
    } else if written != "rsp" {
        pointers.remove(written);
    }
}

fn jump_target(line: &str) -> Option<&str> {
    let (name, target) = line.split_once(char::is_whitespace)?;
    name.starts_with('j').then_some(target.trim())
}

/// What stands in parentheses: base, index and scale.
fn memory_operand(operands: &str) -> Option<&str> {
    let (_, rest) = operands.split_once('(')?;
    rest.split_once(')').map(|(inside, _)| inside)
}

/// The general registers named in a text, by their names of 64 bits.
fn registers(text: &str) -> Vec<String> {
    let names = text.split('%').skip(1).map(|name| {
        let end = name.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(name.len());
        &name[..end]
    });
    names
        .filter_map(|name| match name.as_bytes() {
            [b'r', b'0'..=b'9', ..] => Some(name.trim_end_matches(['d', 'w', 'b']).to_owned()),
            [b'r', ..] if name.len() == 3 => Some(name.to_owned()),
            [b'e', ..] if name.len() == 3 => Some(format!("r{}", &name[1..])),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_read_from_symbols() {
        let of = |symbol| {
            let (path, numbers) = demangle(symbol);
            (path.join("::"), numbers.join(", "))
        };
        let tile = "_RINvNtNtCs25Vj2cnLULF_14loriot_kernels4gemm4avx27tile_ofKj6_Kj2_EB6_";
        assert_eq!(of(tile), ("gemm::avx2::tile_of".into(), "6, 2".into()));
        let same = "_RINvNtNtCs25Vj2cnLULF_14loriot_kernels4gemm4avx27tile_ofKj2_KBT_EB6_";
        assert_eq!(of(same), ("gemm::avx2::tile_of".into(), "2, 2".into()));
        let method =
            "_RNvXs0_NtNtCs1_14loriot_kernels4gemm3amxNtB5_4Bf16NtNtB7_6kernel6Kernel4tile";
        assert_eq!(of(method).0, "gemm::amx::Bf16::kernel::Kernel::tile");
        assert_eq!(of("memcpy"), (String::new(), String::new()));
    }

    #[test]
    fn the_innermost_wanted_loop_is_found() {
        let text = "f:\n.L1:\n\tnop\n.L2:\n\tadd\n.L3:\n\tnop\n\tjb\t.L3\n\tjb\t.L2\n\tjb\t.L1\n";
        let function = &functions(text)[0];
        assert_eq!(function.inner_loops(|line| line == "add"), [2..=7]);
    }

    #[test]
    fn registers_have_one_name_each() {
        assert_eq!(registers("8(%rax,%r9d,4), %ebp, %zmm1, %r15"), ["rax", "r9", "rbp", "r15"]);
    }
}
