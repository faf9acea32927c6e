//! Whether a batch fits in memory, guessed before it is tried.
//!
//! Rust ends a process whose allocation fails, and Linux rather kills one than to let an allocation fail; neither leaves a
//! moment for advice. So the advice comes first. It is a guess: of what a batch keeps, not of all that a process holds.

use loriot_train::TokenPairs;
use std::fs;

/// What a batch of `batch_size` rows of `data` keeps for its backward pass, in bytes, if its texts are as long as the mean
/// and every layer is trained or above one that is.
///
/// `4·(5·d + i)` bytes for each token and layer of width `d` and inner width `i`: query, key and value, the normalised
/// values of both norms, the input of the inner layer.
pub fn batch_bytes(
    data: &TokenPairs,
    batch_size: usize,
    (d, i, n_layers): (usize, usize, usize),
) -> u64 {
    let rows = &data.rows;
    let tokens = |texts: &[Vec<u32>], which: &[u32]| -> usize {
        which.iter().map(|&text| texts[text as usize].len()).sum()
    };
    let n_tokens =
        tokens(&data.queries, rows.queries()) + tokens(&data.products, rows.candidates());
    let n_tokens_of_batch =
        n_tokens as f64 / rows.len().max(1) as f64 * batch_size.min(rows.len()) as f64;
    (n_tokens_of_batch * n_layers as f64 * 4.0 * (5 * d + i) as f64) as u64
}

/// What to say if training needs `needed` bytes beside the weights and `free` are left.
pub fn warning(needed: u64, free: u64) -> Option<String> {
    let gigabytes = |bytes: u64| bytes as f64 / 1e9;
    (needed > free).then(|| {
        format!(
            "a batch and the optimiser take some {:.1} GB and {:.1} GB of memory are free; a smaller \
             `--batch-size` with more `--gradient-accumulation-steps` makes the same steps in less, and \
             so does a smaller `--max-length`",
            gigabytes(needed),
            gigabytes(free)
        )
    })
}

/// Bytes that this process may still take; `None` where the system does not say.
pub fn free_bytes() -> Option<u64> {
    let read = |path: &str| fs::read_to_string(path).ok();
    let of_machine = read("/proc/meminfo").and_then(|text| kilobytes(&text, "MemAvailable:"));
    let folder = "/sys/fs/cgroup";
    let of_group = || {
        let limit = read(&format!("{folder}/memory.max"))?.trim().parse::<u64>().ok()?;
        let used = read(&format!("{folder}/memory.current"))?.trim().parse::<u64>().ok()?;
        let stat = read(&format!("{folder}/memory.stat"))?;
        Some(free_of_group(limit, used, &stat))
    };
    [of_machine, of_group()].into_iter().flatten().min()
}

/// The number of bytes in a line of `/proc/meminfo`.
fn kilobytes(meminfo: &str, name: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

/// What is left of a container's limit. Cached files are given back when memory is asked for.
fn free_of_group(limit: u64, used: u64, stat: &str) -> u64 {
    let cached = stat.lines().find_map(|line| line.strip_prefix("file ")?.trim().parse().ok());
    limit.saturating_sub(used.saturating_sub(cached.unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use loriot_train::Rows;

    #[test]
    fn a_batch_keeps_nine_widths_a_token_and_layer() {
        let mut rows = Rows::default();
        rows.push(0, [(0, 1.0)]);
        rows.push(0, [(1, 0.0)]);
        let data = TokenPairs {
            queries: vec![vec![1; 3]],
            products: vec![vec![1; 5], vec![1; 9]],
            rows,
            ..TokenPairs::default()
        };
        // 3 + 5 and 3 + 9 tokens; a batch has at most all rows.
        let per_token = 6 * 4 * 9 * 384;
        assert_eq!(batch_bytes(&data, 1, (384, 4 * 384, 6)), 10 * per_token);
        assert_eq!(batch_bytes(&data, 64, (384, 4 * 384, 6)), 20 * per_token);
    }

    #[test]
    fn what_is_free_is_read_as_the_system_writes_it() {
        let meminfo = "MemTotal:       8000 kB\nMemAvailable:    123 kB\n";
        assert_eq!(kilobytes(meminfo, "MemAvailable:"), Some(123 * 1024));
        assert_eq!(kilobytes(meminfo, "Swap:"), None);
        assert_eq!(free_of_group(1_000, 800, "anon 300\nfile 500\n"), 700);
        assert_eq!(free_of_group(1_000, 1_200, ""), 0);
    }

    #[test]
    fn what_does_not_fit_is_told_with_what_takes_less() {
        assert_eq!(warning(5, 5), None);
        let text = warning(3_400_000_000, 2_000_000_000).unwrap();
        assert!(
            text.starts_with("a batch and the optimiser take some 3.4 GB and 2.0 GB of memory")
        );
        assert!(text.contains("`--gradient-accumulation-steps`"));
    }
}
