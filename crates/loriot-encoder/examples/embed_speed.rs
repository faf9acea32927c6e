//! How fast texts are embedded in process, as one line of JSON for bench/bench.py.
//!
//! ```text
//! cargo run --release -p loriot-encoder --example embed_speed -- --model DIR --input FILE [FLAG VALUE …]
//!
//! --input FILE       one text a line
//! --work NAME        texts: all of them, tokenisation included (the default)
//!                    padded: those that are exactly --length tokens long, tokenised before the clock starts
//!                    query: the first of those, alone, likewise
//! --length N         70
//! --max-length N     70
//! --precision NAME   f32 (the default), bf16 or int8
//! --threads N        2
//! --repeats N        5, after one run that is not timed
//! --vectors FILE     where to write the vectors: f32, little-endian, (texts, width)
//! ```
//!
//! The three works are those of bench/peers/embed.py. `LORIOT_ISA` forces an instruction set.
#![allow(clippy::print_stdout, reason = "a bench prints its results")]

use loriot_encoder::{Encoder, EncoderOptions, Side};
use loriot_kernels::Isa;
use loriot_kernels::gemm::Precision;
use std::collections::HashMap;
use std::error::Error;
use std::hint::black_box;
use std::time::Instant;

/// As in the `loriot` binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Encodings of one query that are timed together.
const N_QUERY_CALLS: usize = 50;

fn main() -> Result<(), Box<dyn Error>> {
    let flags = Flags::parse(std::env::args().skip(1))?;
    let name = flags.text("--precision", "f32");
    let precision = Precision::ALL.into_iter().find(|precision| precision.name() == name);
    let precision = precision.ok_or_else(|| format!("no precision `{name}`"))?;
    let options = EncoderOptions {
        max_length: Some(flags.number("--max-length", 70)?),
        threads: flags.number("--threads", 2)?,
        precision,
        ..EncoderOptions::new(flags.required("--model")?, Isa::from_env()?)
    };
    let encoder = Encoder::open(&options)?;
    let input = std::fs::read_to_string(flags.required("--input")?)?;
    let texts: Vec<&str> = input.lines().collect();
    let mut ids = encoder.tokenize(&texts, Side::Product);

    let work = flags.text("--work", "texts");
    let length: usize = flags.number("--length", 70)?;
    if work != "texts" {
        ids.retain(|text| text.len() == length);
    }
    if ids.is_empty() {
        return Err(format!("no text of {length} tokens").into());
    }
    let (n_calls, run): (usize, Box<dyn Fn() -> Vec<f32>>) = match work {
        "texts" => (1, Box::new(|| encoder.embed(&texts, Side::Product))),
        "padded" => (1, Box::new(|| encoder.embed_ids(&ids))),
        "query" => (N_QUERY_CALLS, Box::new(|| encoder.embed_ids(&ids[..1]))),
        other => {
            return Err(format!("no work `{other}`; expected `texts`, `padded` or `query`").into());
        }
    };

    let vectors = run();
    let mut ms = Vec::new();
    for _ in 0..flags.number("--repeats", 5)? {
        let start = Instant::now();
        for _ in 0..n_calls {
            black_box(run());
        }
        ms.push(1e3 * start.elapsed().as_secs_f64() / n_calls as f64);
    }
    if let Some(path) = flags.get("--vectors") {
        let bytes: Vec<u8> = vectors.iter().flat_map(|x| x.to_le_bytes()).collect();
        std::fs::write(path, bytes)?;
    }
    let n_texts = vectors.len() / encoder.dim();
    let lengths: Vec<usize> = ids.iter().take(n_texts).map(Vec::len).collect();
    let line = serde_json::json!({
        "what": format!("Loriot, {precision}, {work}"),
        "isa": encoder.isa().to_string(),
        "median_ms": median(ms.clone()),
        "ms": ms,
        "lengths": [lengths],
    });
    println!("{line}");
    Ok(())
}

fn median(mut ms: Vec<f64>) -> f64 {
    ms.sort_by(f64::total_cmp);
    ms.get(ms.len() / 2).copied().unwrap_or(f64::NAN)
}

/// `--name value` pairs.
struct Flags(HashMap<String, String>);

impl Flags {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Flags, String> {
        const KNOWN: [&str; 9] = [
            "--model",
            "--input",
            "--work",
            "--length",
            "--max-length",
            "--precision",
            "--threads",
            "--repeats",
            "--vectors",
        ];
        let mut flags = HashMap::new();
        while let Some(name) = arguments.next() {
            if !KNOWN.contains(&name.as_str()) {
                return Err(format!("no flag `{name}`; expected one of {}", KNOWN.join(", ")));
            }
            let value = arguments.next().ok_or_else(|| format!("`{name}` needs a value"))?;
            flags.insert(name, value);
        }
        Ok(Flags(flags))
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    fn required(&self, name: &str) -> Result<&str, String> {
        self.get(name).ok_or_else(|| format!("`{name}` is needed"))
    }

    fn text<'a>(&'a self, name: &str, default: &'a str) -> &'a str {
        self.get(name).unwrap_or(default)
    }

    fn number(&self, name: &str, default: usize) -> Result<usize, String> {
        let Some(value) = self.get(name) else { return Ok(default) };
        value.parse().map_err(|_| format!("`{name}` takes a number, found `{value}`"))
    }
}
