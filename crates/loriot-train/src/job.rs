//! What a run needs, what it tells, what it leaves, and what can stop it.

use crate::checkpoint::{CheckpointEvery, ResumeError};
use crate::evaluation::{Evaluation, EvaluationError};
use crate::folder::{RunFolder, RunFolderError};
use crate::loss::GradedLists;
use crate::metrics_log::StepRecord;
use crate::pairs::TokenPairs;
use crate::settings::{Plan, SettingsError, TrainSettings};
use crate::state::{DataIdentity, ModelIdentity, RunIdentity, TrainedIdentity};
use loriot_encoder::Computation;
use loriot_encoder::encoder::Encoder;
use loriot_encoder::error::SaveError;
use loriot_encoder::train_model::{NotTrainable, Trained};
use loriot_files::{Hint, OutputError};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// Everything a run needs.
pub struct Job {
    /// The base model, as read.
    pub encoder: Encoder,
    /// What to train of it, as it starts.
    pub trained: Trained,
    /// The settings of the run.
    pub settings: TrainSettings,
    /// The training rows.
    pub train: TokenPairs,
    /// The evaluation rows.
    pub eval: TokenPairs,
    /// Texts encoded at once in evaluations; a matter of memory, not of results.
    pub eval_batch_size: usize,
    /// Where the run goes, and whether it goes on from a checkpoint.
    pub folder: RunFolder,
    /// How often it is saved.
    pub checkpoint: CheckpointEvery,
    /// How many checkpoints to keep; all of them where `None`.
    pub keep_checkpoints: Option<usize>,
    /// Training for so long without a checkpoint leaves an interim one, which a later checkpoint or the end of the run
    /// removes.
    pub interim_every: Duration,
    /// Once this is set, the run saves an interim checkpoint and ends with [`TrainError::Interrupted`].
    pub stop: &'static AtomicBool,
}

impl Job {
    /// What decides the run's result.
    pub(crate) fn identity(&self) -> RunIdentity {
        let encoder = &self.encoder;
        let trained = match &self.trained {
            Trained::Full => TrainedIdentity::Full,
            Trained::Lora(adapter) => {
                let kinds: BTreeSet<_> =
                    adapter.modules.iter().map(|module| module.site.kind).collect();
                TrainedIdentity::Lora {
                    rank: adapter.config.r,
                    alpha: adapter.config.alpha,
                    targets: kinds
                        .into_iter()
                        .map(|kind| adapter.family.suffix(kind).to_owned())
                        .collect(),
                    start_sha256: adapter.sha256(),
                }
            }
        };
        let data =
            |pairs: &TokenPairs| DataIdentity { rows: pairs.len(), sha256: pairs.sha256.clone() };
        RunIdentity {
            settings: self.settings.clone(),
            trained,
            model: ModelIdentity {
                weights_sha256: encoder.base_identity().to_owned(),
                tokenizer_sha256: encoder.tokenizer().sha256(),
                tokenizer_sha256_v1: encoder.tokenizer().sha256_v1(),
                computation: Some(Computation {
                    tokenizer: String::new(),
                    ..encoder.computation().clone()
                }),
                max_length: encoder.max_length(),
                query_prompt: encoder.prompts().query.clone(),
                document_prompt: encoder.prompts().document.clone(),
                precision: encoder.precision().to_string(),
            },
            train: data(&self.train),
            eval: data(&self.eval),
        }
    }
}

/// What a run tells while it goes.
#[derive(Debug)]
pub enum Event<'a> {
    /// The run begins, or goes on after `step` steps.
    Started {
        /// Steps and epochs.
        plan: &'a Plan,
        /// Steps done before.
        step: u64,
        /// Numbers that are trained.
        n_parameters: usize,
    },
    /// Something that the user should know.
    Warning(&'a str),
    /// The loss of judged lists was fitted to the model.
    Fitted(&'a GradedLists),
    /// A step was made on so many rows.
    Step {
        /// What the log says.
        record: &'a StepRecord,
        /// Rows.
        n_rows: usize,
    },
    /// `done` of `total` texts of an evaluation are encoded.
    Evaluating {
        /// Texts so far.
        done: usize,
        /// Texts in all.
        total: usize,
    },
    /// An evaluation is finished.
    Evaluated(&'a Evaluation),
}

/// What a run leaves behind, beside its files.
#[derive(Clone, Debug)]
pub struct Report {
    /// All evaluations, the first before training.
    pub evaluations: Vec<Evaluation>,
    /// The best epoch, whose model is in `best/`.
    pub best_epoch: i64,
    /// Optimiser steps of the whole run.
    pub steps: u64,
}

/// A run could not begin or go on.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// A setting makes no sense.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The encoder cannot be trained.
    #[error(transparent)]
    Encoder(#[from] NotTrainable),
    /// There is nothing to train on.
    #[error("there are no training rows")]
    NoRows,
    /// The evaluation rows cannot tell one epoch from another.
    #[error(transparent)]
    Evaluation(#[from] EvaluationError),
    /// The folder cannot be used.
    #[error(transparent)]
    Folder(#[from] RunFolderError),
    /// The checkpoint cannot be continued.
    #[error(transparent)]
    Resume(#[from] ResumeError),
    /// The model cannot be written.
    #[error(transparent)]
    Save(#[from] SaveError),
    /// A file cannot be written.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// It was asked to stop, and can go on later.
    #[error("the run was interrupted after step {step}")]
    Interrupted {
        /// Steps done.
        step: u64,
        /// Where they are kept; `None` where the run had done nothing yet.
        checkpoint: Option<PathBuf>,
    },
    /// The loss or a weight is NaN or infinite.
    #[error("training diverged at step {step}: {what} (learning rate {learning_rate:e})")]
    Diverged {
        /// The step.
        step: u64,
        /// What is not finite.
        what: &'static str,
        /// Its learning rate.
        learning_rate: f64,
    },
}

impl Hint for TrainError {
    fn hint(&self) -> Option<String> {
        match self {
            TrainError::Settings(error) => error.hint(),
            TrainError::Encoder(error) => error.hint(),
            TrainError::Evaluation(error) => error.hint(),
            TrainError::Folder(error) => error.hint(),
            TrainError::Resume(error) => error.hint(),
            TrainError::Save(error) => error.hint(),
            TrainError::Output(error) => error.hint(),
            TrainError::NoRows | TrainError::Interrupted { .. } => None,
            TrainError::Diverged { .. } => Some(
                "give a lower `--learning-rate`, or a `--max-grad-norm`; the last checkpoint is \
                 as it was"
                    .into(),
            ),
        }
    }
}
