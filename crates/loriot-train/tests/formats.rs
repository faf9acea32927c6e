//! Checkpoints of former versions are opened for ever.
//!
//! `formats/run_v1` is the log and a checkpoint of a run of schema version 1, written by Loriot of November 2026 with
//! `LORIOT_ISA=scalar` and `train --model tests/golden/tiny_bert --adapter tests/golden/adapters/qkv --epochs 2 --batch-size 8
//! --learning-rate 5e-3 --dropout 0.1 --max-length 48 --checkpoint 9`, on rows 0 to 43 of `tests/golden/train_rows.csv` with rows
//! 200 to 259 for the evaluation. It is never written again.

#![allow(clippy::unwrap_used, reason = "a test helper's failure is the test's")]

mod support;

use loriot_train::{CheckpointEvery, Start};
use std::path::Path;
use support::{Setup, copy_folder, losses};

#[test]
fn a_checkpoint_of_version_1_is_gone_on_from() {
    let stored = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/formats/run_v1");
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    copy_folder(&stored, &run);
    let setup = Setup { checkpoint: CheckpointEvery::Steps(9), ..Setup::short() };
    let changed = Setup { max_length: 47, ..setup.clone() };
    let error = changed.run(&run, Start::Latest).unwrap_err();
    assert!(error.to_string().contains("`max_length` was `48` there"), "{error}");
    let report = setup.run(&run, Start::Latest).unwrap();
    assert_eq!((report.steps, report.evaluations.len()), (12, 3));
    for file in ["loriot_run.json", "epoch_1/state.json"].map(|name| run.join(name)) {
        let now = std::fs::read_to_string(&file);
        assert!(now.is_ok_and(|text| text.contains("\"schema_version\": 2")) || !file.exists());
    }
    // The log that was written with the checkpoint tells the losses of the steps after it as well.
    let (got, want) = (losses(&run), losses(&stored));
    assert_eq!(got.len(), 12);
    for (step, (got, want)) in got.iter().zip(&want).enumerate() {
        // Another instruction set differs by 1e-6 at most; without the moments it is 1e-2.
        assert!((got - want).abs() <= 1e-4 * want, "step {}: got {got}, want {want}", step + 1);
    }
}
