//! Runs of the tiny golden model, for the tests of the training loop.

#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, reason = "a test helper's failure is the test's")]

use loriot_data::{Pair, ReadOptions, read_pairs};
use loriot_encoder::adapter::{Adapter, LoraConfig};
use loriot_encoder::encoder::{Encoder, EncoderOptions};
use loriot_encoder::train_model::Trained;
use loriot_kernels::Isa;
use loriot_train::{
    CheckpointEvery, Event, Job, Report, RunFolder, Start, TokenPairs, TrainError, TrainSettings,
};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

#[path = "../../../../tests/rust/files.rs"]
mod files;
pub(crate) use files::golden_path as golden;
use files::minilm;

pub(crate) fn golden_json(name: &str) -> Value {
    serde_json::from_slice(&fs::read(golden(name)).unwrap()).unwrap()
}

pub(crate) fn rows() -> Vec<Pair> {
    let options = ReadOptions::default();
    read_pairs(&[golden("train_rows.csv")], &options).unwrap().read_all().unwrap().0
}

/// What a test run does differently from another.
#[derive(Clone)]
pub(crate) struct Setup {
    pub(crate) model: PathBuf,
    pub(crate) max_length: usize,
    /// The folder of a PEFT adapter under `tests/golden`; full fine-tuning without.
    pub(crate) adapter: Option<&'static str>,
    /// A new adapter instead.
    pub(crate) fresh: Option<LoraConfig>,
    pub(crate) settings: TrainSettings,
    pub(crate) train: Vec<Pair>,
    pub(crate) eval: Vec<Pair>,
    pub(crate) threads: usize,
    pub(crate) checkpoint: CheckpointEvery,
    pub(crate) keep_checkpoints: Option<usize>,
    pub(crate) interim_every: Duration,
    pub(crate) stop: &'static AtomicBool,
}

/// For runs that nobody stops.
static NEVER: AtomicBool = AtomicBool::new(false);

impl Setup {
    /// Two epochs of six steps, the last of each with half as many rows, with dropout and shuffle.
    pub(crate) fn short() -> Setup {
        let rows = rows();
        let settings = TrainSettings {
            epochs: 2,
            batch_size: 8,
            learning_rate: 5e-3,
            lora_dropout: 0.1,
            ..TrainSettings::default()
        };
        Setup {
            model: golden("tiny_bert"),
            max_length: 48,
            adapter: Some("adapters/qkv"),
            fresh: None,
            settings,
            train: rows[..44].to_vec(),
            eval: rows[200..260].to_vec(),
            threads: 2,
            checkpoint: CheckpointEvery::Steps(2),
            keep_checkpoints: None,
            interim_every: Duration::MAX,
            stop: &NEVER,
        }
    }

    pub(crate) fn job(&self, output: &Path, start: Start) -> Result<Job, TrainError> {
        let folder = RunFolder::open(output, &start)?;
        let options = EncoderOptions {
            max_length: Some(self.max_length),
            threads: self.threads,
            ..EncoderOptions::new(self.model.display().to_string(), Isa::from_env().unwrap())
        };
        let encoder = Encoder::open(&options).unwrap();
        let fresh = self.fresh.as_ref().map(|lora| {
            let (config, weights) = (&encoder.folder().config, encoder.weights().unwrap());
            Adapter::init(lora, config, weights, encoder.workers(), self.settings.seed).unwrap()
        });
        let trained = match self.adapter {
            _ if fresh.is_some() => Trained::Lora(fresh.unwrap()),
            Some(name) => {
                let config = &encoder.folder().config;
                let mut adapter = Adapter::open(&golden(name), config).unwrap();
                adapter.config.base_model = Some("tiny_bert".into());
                Trained::Lora(adapter)
            }
            None => Trained::Full,
        };
        Ok(Job {
            train: TokenPairs::new(&encoder, &self.train),
            eval: TokenPairs::new(&encoder, &self.eval),
            encoder,
            trained,
            settings: self.settings.clone(),
            eval_batch_size: 128,
            folder,
            checkpoint: self.checkpoint,
            keep_checkpoints: self.keep_checkpoints,
            interim_every: self.interim_every,
            stop: self.stop,
        })
    }

    pub(crate) fn run(&self, output: &Path, start: Start) -> Result<Report, TrainError> {
        self.run_observed(output, start, &mut |_| {})
    }

    pub(crate) fn run_observed(
        &self,
        output: &Path,
        start: Start,
        observe: &mut dyn FnMut(Event<'_>),
    ) -> Result<Report, TrainError> {
        loriot_train::train(self.job(output, start)?, observe)
    }
}

/// A file of training runs that PyTorch made, and the model they were made with.
pub(crate) struct Traced {
    pub(crate) traces: &'static str,
    pub(crate) minilm: bool,
}

impl Traced {
    /// Trains as the golden run `name` did: its rows in order, once, without dropout. Every loss
    /// must be PyTorch's (in f64) within the relative `tolerance`.
    pub(crate) fn follows_pytorch(
        &self,
        name: &str,
        adapter: Option<&'static str>,
        tolerance: f64,
    ) {
        let run = &golden_json(self.traces)["runs"][name];
        let number = |key: &str| run["settings"][key].as_f64().unwrap();
        let settings = TrainSettings {
            max_steps: Some(number("steps") as u64),
            batch_size: number("batch_size") as usize,
            learning_rate: number("learning_rate"),
            schedule: run["settings"]["schedule"].as_str().unwrap().parse().unwrap(),
            warmup_steps: number("warmup_steps") as u64,
            weight_decay: number("weight_decay"),
            max_grad_norm: run["settings"]["clip"].as_f64(),
            hidden_dropout: 0.0,
            attention_dropout: 0.0,
            lora_dropout: 0.0,
            shuffle: false,
            ..TrainSettings::default()
        };
        let (train, max_length) = (rows(), number("max_length") as usize);
        let eval = train[..100].to_vec();
        let model = if self.minilm { minilm() } else { golden("tiny_bert") };
        let setup = Setup { model, max_length, adapter, settings, train, eval, ..Setup::short() };
        let dir = tempfile::tempdir().unwrap();
        let output = dir.path().join("run");
        setup.run(&output, Start::New).unwrap();
        let (got, want) = (losses(&output), run["f64"]["loss"].as_array().unwrap());
        assert_eq!(got.len(), want.len());
        for (step, (got, want)) in got.iter().zip(want).enumerate() {
            let want = want.as_f64().unwrap();
            let error = (got - want).abs() / want;
            assert!(error < tolerance, "step {}: got {got}, want {want}", step + 1);
        }
    }
}

/// The losses of all steps in a run's log.
pub(crate) fn losses(output: &Path) -> Vec<f64> {
    let log = fs::read_to_string(output.join("metrics.jsonl")).unwrap();
    let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines
        .filter(|line| line["event"] == "step")
        .map(|line| line["loss"].as_f64().unwrap())
        .collect()
}

/// Every file below `dir` by its path; of the log, all but the times.
pub(crate) fn contents(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let name = path.strip_prefix(dir).unwrap().display().to_string();
            let bytes = fs::read(&path).unwrap();
            let is_log = name == "metrics.jsonl";
            found.insert(name, if is_log { without_times(&bytes) } else { bytes });
        }
    }
    found
}

fn without_times(log: &[u8]) -> Vec<u8> {
    let lines = log.split_inclusive(|&byte| byte == b'\n').map(|line| {
        let mut value: Value = serde_json::from_slice(line).unwrap();
        value.as_object_mut().unwrap().remove("ms").unwrap();
        value.to_string() + "\n"
    });
    lines.collect::<String>().into_bytes()
}

/// Fails with the names of the files that differ.
#[track_caller]
pub(crate) fn assert_same_files(got: &Path, want: &Path) {
    let (got, want) = (contents(got), contents(want));
    assert_eq!(got.keys().collect::<Vec<_>>(), want.keys().collect::<Vec<_>>(), "other files");
    let differing: Vec<_> = got.keys().filter(|name| got[*name] != want[*name]).collect();
    assert!(differing.is_empty(), "other bytes in {differing:?}");
}

pub(crate) fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy_folder(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}

/// Makes the finished run in `dir` one that was killed before it recorded its end.
pub(crate) fn reopen(dir: &Path) {
    let path = dir.join("loriot_run.json");
    let finished = fs::read_to_string(&path).unwrap();
    let unfinished = finished.replace("\"finished\": true", "\"finished\": false");
    assert_ne!(unfinished, finished);
    fs::write(path, unfinished).unwrap();
}
