//! `metrics.jsonl`: one JSON object a line, appended as the run goes.
//!
//! ```text
//! {"event":"eval","epoch":-1,"roc_auc":…,…}                                  before training
//! {"event":"step","step":1,"epoch":0,"loss":…,"learning_rate":…,"tokens":…,"ms":…}
//! {"event":"eval","epoch":0,"roc_auc":…,…,"train_loss":…,"ms":…}             after epoch 0
//! ```
//!
//! A resumed run takes back the lines that were written after its checkpoint (and a last one cut
//! short), so that the file ends as that of a run without a break; only `ms` may differ.

use crate::evaluation::Evaluation;
use loriot_files::{OutputError, disk, write_atomic, write_atomic_bytes};
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};

/// The log's name in a run folder.
pub const METRICS_FILE: &str = "metrics.jsonl";

/// One optimiser step.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct StepRecord {
    /// From 1, counted over the whole run.
    pub step: u64,
    /// From 0.
    pub epoch: u64,
    /// Mean over the rows of this step.
    pub loss: f64,
    /// The rate this step was taken with.
    pub learning_rate: f64,
    /// Tokens that were encoded. There is no padding, and without dropout equal texts of a batch
    /// count once.
    pub tokens: u64,
    /// How long it took.
    pub ms: f64,
}

#[derive(serde::Serialize, serde::Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
enum Line {
    Step(StepRecord),
    Eval {
        #[serde(flatten)]
        evaluation: Evaluation,
        ms: f64,
    },
}

/// The open file.
#[derive(Debug)]
pub struct MetricsLog {
    path: PathBuf,
    file: File,
}

impl MetricsLog {
    /// Opens the log of the run in `dir`, as it stood after `step` steps and `epochs` evaluated
    /// epochs: later lines are dropped. A fresh run passes `None`, which empties it.
    pub fn open(dir: &Path, after: Option<(u64, u64)>) -> Result<MetricsLog, OutputError> {
        let path = dir.join(METRICS_FILE);
        let kept = match after {
            Some((step, epochs)) => lines_until(&path, step, epochs)?,
            None => Vec::new(),
        };
        write_atomic(&path, |writer| writer.write_all(&kept))?;
        let file = OpenOptions::new().append(true).open(&path).map_err(OutputError::io(&path))?;
        Ok(MetricsLog { path, file })
    }

    /// Appends a step.
    pub fn step(&mut self, step: &StepRecord) -> Result<(), OutputError> {
        self.append(&Line::Step(step.clone()))
    }

    /// Appends an evaluation that took `ms`.
    pub fn evaluation(&mut self, evaluation: &Evaluation, ms: f64) -> Result<(), OutputError> {
        self.append(&Line::Eval { evaluation: evaluation.clone(), ms })
    }

    /// Waits until all lines are on the disk, as they must be before a checkpoint counts on them.
    pub fn sync(&self) -> Result<(), OutputError> {
        disk::sync(&self.file, &self.path).map_err(OutputError::io(&self.path))
    }

    fn append(&mut self, line: &Line) -> Result<(), OutputError> {
        let text = serde_json::to_string(line).map_err(std::io::Error::from);
        // One write a line: another process that reads along never sees half of one for long.
        text.and_then(|text| self.file.write_all((text + "\n").as_bytes()))
            .map_err(OutputError::io(&self.path))
    }
}

/// Whether the first line of the file `path` is one that this module writes.
pub(crate) fn is_log(path: &Path) -> bool {
    /// A line of ours is some 500 bytes.
    const LIMIT_BYTES: u64 = 1 << 16;
    let Ok(file) = loriot_files::open_regular(path) else { return false };
    let mut line = String::new();
    let read = BufReader::new(file.take(LIMIT_BYTES)).read_line(&mut line);
    read.is_ok() && serde_json::from_str::<Line>(&line).is_ok()
}

/// Gives the new run folder `to` the lines that the log in `from` has for the first `step` steps and for exactly these
/// `evaluations`. `false`, with no change, where it has other ones.
pub(crate) fn copy_lines(
    from: &Path,
    to: &Path,
    step: u64,
    evaluations: &[Evaluation],
) -> Result<bool, OutputError> {
    // The first evaluation is that of epoch -1.
    let kept = lines_until(&from.join(METRICS_FILE), step, evaluations.len() as u64 - 1)?;
    let (mut n_steps, mut found) = (0, Vec::new());
    for line in kept.split_inclusive(|&byte| byte == b'\n') {
        match serde_json::from_slice(line) {
            Ok(Line::Step(_)) => n_steps += 1,
            Ok(Line::Eval { evaluation, .. }) => found.push(evaluation),
            Err(_) => {}
        }
    }
    let is_whole = n_steps == step && found == evaluations;
    if is_whole {
        write_atomic_bytes(&to.join(METRICS_FILE), &kept)?;
    }
    Ok(is_whole)
}

/// The lines at the head of the log that were written by the first `step` steps and `epochs` evaluations.
fn lines_until(path: &Path, step: u64, epochs: u64) -> Result<Vec<u8>, OutputError> {
    let file = match File::open(path) {
        Ok(file) => file,
        // A checkpoint may be continued in a new folder, and its own may have lost the log.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(OutputError::io(path)(error)),
    };
    let mut kept = Vec::new();
    for line in BufReader::new(file).lines().map_while(Result::ok) {
        let belongs = match serde_json::from_str(&line) {
            Ok(Line::Step(record)) => record.step <= step,
            Ok(Line::Eval { evaluation, .. }) => evaluation.epoch < epochs as i64,
            Err(_) => false,
        };
        if !belongs {
            break;
        }
        kept.extend_from_slice(line.as_bytes());
        kept.push(b'\n');
    }
    Ok(kept)
}
