//! Every target over its seeds and over some thousands of damaged seeds, in an ordinary test run.
//!
//! The damage comes from a generator with a fixed start, so that a run is the same as the last one.
//! `LORIOT_FUZZ_ROUNDS=100 cargo test -p loriot-fuzz --release` looks a hundred times as long, each round at other
//! damage. `LORIOT_FUZZ_CORPUS=fuzz/corpus` also writes the seeds there, for `cargo fuzz` to begin with.

use crate::{inputs_of, targets};
use loriot_kernels::random::SplitMix64;
use std::fs;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How long one input may take before it counts as a hang. The slowest takes some hundredths of a second.
const PATIENCE: Duration = Duration::from_secs(120);

const CSV: &str = "id,query,product_title,relevance_label,grade,price\n\
                   1,kettle,\"Red \"\"kettle\"\", 1.7 l\",1,3,9.99\r\n2,lamp,,0.5,0,\n";
const TSV: &str =
    "query\tproduct_title\trelevance_label\nkettle\tRed kettle\t1\nlamp\tDesk\tlamp\t0\n";
const JSONL: &str = "{\"query\":\"kettle\",\"product_title\":\"Red \\u006bettle\",\"relevance_label\":1}\n\n\
                     {\"id\":7,\"query\":\"lamp\",\"product_title\":\"Lamp\",\"relevance_label\":0.25,\"tags\":[1,{\"a\":null}]}\n";
/// A csv of one row, gzipped.
const GZIP: &[u8] = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\xff\x2b\x2c\x4d\x2d\xaa\xd4\x29\x28\xca\x4f\x29\x4d\x2e\x89\x2f\xc9\x2c\xc9\x49\xd5\x29\x4a\xcd\x49\x2d\x4b\xcc\x4b\x4e\x8d\xcf\x49\x4c\x4a\xcd\xe1\xca\x4e\x2d\x01\x09\x07\xa5\xa6\x28\x40\x99\x86\x5c\x00\xdf\x1f\x2e\xd2\x38\x00\x00\x00";

/// Runs `target` over the seeds and over `n_damaged` of their damaged copies.
fn smoke(name: &'static str, target: fn(&[u8]), seeds: Vec<Vec<u8>>, n_damaged: u64) {
    if let Some(corpus) = std::env::var_os("LORIOT_FUZZ_CORPUS") {
        let folder = std::path::Path::new(&corpus).join(name);
        fs::create_dir_all(&folder).expect("a folder of the corpus can be made");
        for (at, seed) in seeds.iter().enumerate() {
            fs::write(folder.join(format!("seed-{at}")), seed).expect("a seed can be written");
        }
    }
    let rounds = std::env::var("LORIOT_FUZZ_ROUNDS").ok();
    let rounds: u64 = rounds.map_or(1, |rounds| rounds.parse().expect("a number of rounds"));
    let now = Arc::new(Mutex::new(Vec::new()));
    let (done, finished) = channel();
    let worker = std::thread::spawn({
        let now = now.clone();
        move || {
            let mut random = SplitMix64::new(22);
            let whole = seeds.iter().cloned().map(|seed| (seed, false));
            let picks =
                (0..n_damaged * rounds).map(|at| (seeds[at as usize % seeds.len()].clone(), true));
            for (mut input, is_damaged) in whole.chain(picks) {
                if is_damaged {
                    damage(&mut input, &mut random);
                }
                now.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&input);
                target(&input);
                let _ = done.send(());
            }
        }
    });
    loop {
        let problem = match finished.recv_timeout(PATIENCE) {
            Ok(()) => continue,
            Err(RecvTimeoutError::Timeout) => "hangs",
            Err(RecvTimeoutError::Disconnected) => match worker.join() {
                Ok(()) => return,
                Err(_) => "panics",
            },
        };
        let input = now.lock().unwrap_or_else(PoisonError::into_inner);
        let path = std::env::temp_dir().join(format!("loriot-fuzz-{name}"));
        fs::write(&path, &*input).expect("a temporary file can be written");
        panic!("`{name}` {problem}; the input is in `{}`", path.display());
    }
}

/// One to four changes, half of them near the beginning, where headers are.
fn damage(input: &mut Vec<u8>, random: &mut SplitMix64) {
    const NUMBERS: [u64; 8] =
        [0, 1, u64::MAX, 1 << 63, (1 << 63) - 1, 1 << 31, (1 << 31) - 1, 1 << 20];
    for _ in 0..=random.below(4) {
        if input.len() < 2 {
            return;
        }
        let reach = if random.below(2) == 0 { input.len().min(1_024) } else { input.len() };
        // The first byte, the choice, changes now and then.
        let at = random.below(reach as u64) as usize;
        let end = (at + 1 + random.below(64) as usize).min(input.len());
        match random.below(9) {
            0 => input[at] ^= 1 << random.below(8),
            1 => input[at] = random.next_u64() as u8,
            2 => input.truncate(at.max(1)),
            3 => drop(input.drain(at..end)),
            4 => {
                let copy = input[at..end].to_vec();
                let to = random.below(input.len() as u64) as usize;
                input.splice(to..to, copy);
            }
            5 | 6 => {
                let bytes = NUMBERS[random.below(8) as usize].to_le_bytes();
                let width = [2, 4, 8][random.below(3) as usize].min(input.len() - at);
                input[at..at + width].copy_from_slice(&bytes[..width]);
            }
            7 => {
                // A number written in digits becomes another.
                let digit = input[at..].iter().position(u8::is_ascii_digit);
                let texts: [&[u8]; 5] = [b"0", b"-1", b"18446744073709551616", b"1e999", b"null"];
                if let Some(digit) = digit {
                    let text = texts[random.below(5) as usize];
                    input.splice(at + digit..at + digit + 1, text.iter().copied());
                }
            }
            _ => {
                let signs = b"\0\"\\,\n\r\t{}[]:\xff\xe2";
                input[at] = signs[random.below(signs.len() as u64) as usize];
            }
        }
    }
}

#[test]
fn rows() {
    let parquet = targets::good_catalogues().map(|dir| dir.join("products.parquet"));
    let parquet = parquet.map(|path| fs::read(path).expect("the stored products are there"));
    let json: &[u8] = br#"[{"query":"a","product_title":"b","relevance_label":1,"id":2}]"#;
    let mut seeds = Vec::new();
    // See `targets::rows`: bad rows left out, labels on a scale, a text template, short records.
    for flags in [0, 2, 2 + 4, 8, 2 + 16] {
        let mut push = |format: u8, flags: u8, content: &[u8]| {
            seeds.push([&[format, flags], content].concat());
        };
        push(0, flags, CSV.as_bytes());
        push(0, flags + 1, GZIP);
        push(1, flags, TSV.as_bytes());
        push(2, flags, JSONL.as_bytes());
        push(3, flags, &parquet[0]);
        push(3, flags, &parquet[1]);
        push(4, flags, json);
        push(5, flags, CSV.as_bytes());
    }
    smoke("rows", targets::rows, seeds, 5_000);
}

#[test]
fn model_folder() {
    smoke("model_folder", targets::model_folder, inputs_of(&targets::good_model()), 1_000);
}

#[test]
fn adapter() {
    smoke("adapter", targets::adapter, inputs_of(&targets::good_adapter()), 1_000);
}

#[test]
fn catalogue() {
    let mut seeds = Vec::new();
    for (version, good) in targets::good_catalogues().iter().enumerate() {
        // What stands there opens and is found by, so that damage is searched and not only refused.
        assert_eq!(targets::search(good), Some(2), "{}", good.display());
        let of_file = inputs_of(good).into_iter().map(|mut input| {
            input[0] = 2 * input[0] + version as u8;
            input
        });
        seeds.extend(of_file);
    }
    assert_eq!(seeds.len(), 8);
    smoke("catalogue", targets::catalogue, seeds, 1_500);
}

#[test]
fn graph() {
    let graphs = [
        "crates/loriot-index/tests/formats/hnsw_v1",
        "crates/loriot-search/tests/formats/catalogue_v1/hnsw.usearch",
    ];
    let seeds =
        graphs.map(|path| fs::read(crate::repository(path)).expect("the stored graph is there"));
    smoke("graph", targets::graph, seeds.to_vec(), 3_000);
}

#[test]
fn damage_is_the_same_every_time_and_seldom_nothing() {
    let damaged = || {
        let mut random = SplitMix64::new(1);
        let damaged = (0..500).map(|_| {
            let mut input = CSV.as_bytes().to_vec();
            damage(&mut input, &mut random);
            input
        });
        damaged.collect::<Vec<_>>()
    };
    assert_eq!(damaged(), damaged());
    let unchanged = damaged().iter().filter(|input| *input == CSV.as_bytes()).count();
    assert!(unchanged < 25, "{unchanged}");
}
