//! Whether a batch, a model or a graph fits in memory, guessed before it is tried.
//!
//! Rust ends a process whose allocation fails, and Linux rather kills one than to let an allocation fail; neither leaves a
//! moment for advice. So the advice comes first. It is a guess: of the largest part, not of all that a process holds.

use loriot_encoder::Precision;
use loriot_encoder::config::Config;
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
    let remedy = "a smaller `--batch-size` with more `--gradient-accumulation-steps` makes the same steps in less, \
                  and so does a smaller `--max-length`";
    too_much("a batch and the optimiser", needed, free, remedy)
}

/// What to say if a model's packed weights need more than the `free` bytes. The files' own are mapped, and read again
/// where memory is short.
pub fn model_warning(config: &Config, precision: Precision, free: u64) -> Option<String> {
    let (d, i) = (config.hidden_size as u64, config.intermediate_size as u64);
    let numbers = config.n_layers as u64 * (4 * d * d + 2 * d * i);
    let (needed, remedy) = match precision {
        Precision::F32 => (4 * numbers, "`--precision bf16` takes half of it and `int8` a quarter"),
        Precision::Bf16 => (2 * numbers, "`--precision int8` takes half of it"),
        Precision::Int8 => (numbers, "a smaller model takes less"),
    };
    too_much("the model's weights", needed, free, remedy)
}

/// What to say if a graph of so many vectors needs more than the `free` bytes while it is built: of each a list of twice
/// `connectivity` neighbours, and the vector itself, which is compared again and again.
pub fn graph_warning(n: usize, dim: usize, connectivity: usize, free: u64) -> Option<String> {
    let needed = n as u64 * (8 * connectivity + 4 + 4 * dim) as u64;
    let remedy = "a smaller `--connectivity` takes less, and `--kind exact` builds no graph";
    too_much("the graph and its vectors", needed, free, remedy)
}

fn too_much(what: &str, needed: u64, free: u64, remedy: &str) -> Option<String> {
    let gigabytes = |bytes: u64| bytes as f64 / 1e9;
    (needed > free).then(|| {
        let (needed, free) = (gigabytes(needed), gigabytes(free));
        format!("{what} take some {needed:.1} GB and {free:.1} GB of memory are free; {remedy}")
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
    use loriot_encoder::folder::ModelFolder;
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

    #[test]
    fn a_graph_of_many_neighbours_takes_804_bytes_a_node_beside_the_vector() {
        let per_node = 804 + 4 * 384;
        assert_eq!(graph_warning(1_000_000, 384, 100, 1_000_000 * per_node), None);
        let text = graph_warning(1_000_000, 384, 100, 1_000_000 * per_node - 1).unwrap();
        assert!(
            text.starts_with("the graph and its vectors take some 2.3 GB and 2.3 GB"),
            "{text}"
        );
        assert!(text.contains("`--connectivity`") && text.contains("`--kind exact`"), "{text}");
    }

    #[test]
    fn weights_take_four_two_or_one_byte_a_number() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/tiny_bert");
        let config = ModelFolder::open(path.as_ref()).unwrap().config;
        let (d, i) = (config.hidden_size, config.intermediate_size);
        let numbers = (config.n_layers * (4 * d * d + 2 * d * i)) as u64;
        for (precision, bytes, remedy) in [
            (Precision::F32, 4, "bf16"),
            (Precision::Bf16, 2, "int8"),
            (Precision::Int8, 1, "a smaller model"),
        ] {
            assert_eq!(model_warning(&config, precision, bytes * numbers), None);
            let text = model_warning(&config, precision, bytes * numbers - 1).unwrap();
            assert!(text.contains(remedy), "{text}");
        }
    }
}
