//! What decides the result of a run, with the guide's defaults (`REFERENCE`: Hugging Face PEFT,
//! "LoRA for semantic similarity tasks"). Where the result lies, how often it is saved and how many
//! threads work is not part of it.

use crate::evaluation::BestMetric;
use crate::loss::{LossName, Terms};
use crate::rows::Rows;
use crate::sampler::{Lists, Sampler};
use crate::schedule::{Schedule, ScheduleKind};
use loriot_encoder::batch::MAX_ROWS;
use loriot_files::Hint;
use std::sync::Arc;

/// Settings of a run; the same settings, data, model and instruction set give the same bytes.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainSettings {
    /// What is minimised. Runs from before there was a choice have the guide's.
    #[serde(default)]
    pub loss: LossName,
    /// How long the gradients of the terms of [`LossName::GradedLists`] are made beside each other, before training.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_terms: Option<Terms>,
    /// Whether all rows of a query are in one step.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub by_query: bool,
    /// Passes over the training rows.
    pub epochs: u64,
    /// Length of the run in optimiser steps; overrides `epochs`, as in transformers.
    pub max_steps: Option<u64>,
    /// Rows whose activations are held at once.
    pub batch_size: usize,
    /// How many batches of that size make a step.
    pub gradient_accumulation_steps: usize,
    /// The highest learning rate.
    pub learning_rate: f64,
    /// How it changes over the run.
    pub schedule: ScheduleKind,
    /// Steps in which it rises from 0.
    pub warmup_steps: u64,
    /// LoRA+: what the learning rate of each factor B is multiplied with. Not written where there is none, as in runs from
    /// before there was a choice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loraplus_lr_ratio: Option<f64>,
    /// Decoupled weight decay (AdamW); 0 is plain Adam.
    pub weight_decay: f64,
    /// Gradients are scaled down to this norm over all parameters.
    pub max_grad_norm: Option<f64>,
    /// Dropout of hidden states.
    pub hidden_dropout: f32,
    /// Dropout of attention probabilities.
    pub attention_dropout: f32,
    /// Dropout of the inputs of an adapter.
    pub lora_dropout: f32,
    /// Whether each epoch has an order of its own.
    pub shuffle: bool,
    /// Seed of the shuffle, of the dropout and of a fresh adapter.
    pub seed: u64,
    /// Labels above it are positive in the evaluation.
    pub positive_threshold: f32,
    /// The metric by which `best/` is chosen.
    pub best_metric: BestMetric,
}

impl Default for TrainSettings {
    fn default() -> TrainSettings {
        TrainSettings {
            loss: LossName::default(),
            loss_terms: None,
            by_query: false,
            epochs: 3,
            max_steps: None,
            batch_size: 64,
            gradient_accumulation_steps: 1,
            learning_rate: 5e-4,
            schedule: ScheduleKind::Linear,
            warmup_steps: 0,
            loraplus_lr_ratio: None,
            weight_decay: 0.0,
            max_grad_norm: None,
            hidden_dropout: 0.1,
            attention_dropout: 0.1,
            lora_dropout: 0.0,
            shuffle: true,
            seed: 42,
            positive_threshold: 0.5,
            best_metric: BestMetric::RocAuc,
        }
    }
}

/// A setting that no run can have.
#[derive(Debug, thiserror::Error)]
#[error("`{name}` is {found}, expected {expected}")]
pub struct SettingsError {
    name: &'static str,
    found: String,
    expected: &'static str,
}

/// The name of a number that two options make.
const PRODUCT: &str = "batch-size times gradient-accumulation-steps";

impl Hint for SettingsError {
    fn hint(&self) -> Option<String> {
        Some(match self.name {
            PRODUCT => "give a smaller number for either".into(),
            name => format!("leave out `--{name}` for its default"),
        })
    }
}

impl TrainSettings {
    /// Refuses what cannot be trained with.
    pub fn check(&self) -> Result<(), SettingsError> {
        let check = |name, is_right: bool, found: String, expected| {
            if is_right { Ok(()) } else { Err(SettingsError { name, found, expected }) }
        };
        let at_least_1 = |name, value: u64| check(name, value >= 1, value.to_string(), "1 or more");
        at_least_1("epochs", self.epochs)?;
        at_least_1("max-steps", self.max_steps.unwrap_or(1))?;
        at_least_1("batch-size", self.batch_size as u64)?;
        at_least_1("gradient-accumulation-steps", self.gradient_accumulation_steps as u64)?;
        let n_rows = self.batch_size.saturating_mul(self.gradient_accumulation_steps);
        let is_right = n_rows <= MAX_ROWS as usize;
        let found = format!("{} times {}", self.batch_size, self.gradient_accumulation_steps);
        check(PRODUCT, is_right, found, "at most 1048576 rows a step")?;
        let positive = |name, value: f64| {
            let is_right = value.is_finite() && value > 0.0;
            check(name, is_right, value.to_string(), "a finite number above 0")
        };
        positive("learning-rate", self.learning_rate)?;
        positive("loraplus-lr-ratio", self.loraplus_lr_ratio.unwrap_or(1.0))?;
        positive("max-grad-norm", self.max_grad_norm.unwrap_or(1.0))?;
        let decay = self.weight_decay;
        let is_right = decay.is_finite() && decay >= 0.0;
        check("weight-decay", is_right, decay.to_string(), "a finite number, 0 or more")?;
        let threshold = self.positive_threshold;
        let name = "positive-threshold";
        check(name, threshold.is_finite(), threshold.to_string(), "a finite number")?;
        for (name, rate) in [
            ("dropout", self.hidden_dropout),
            ("dropout", self.attention_dropout),
            ("lora-dropout", self.lora_dropout),
        ] {
            check(name, (0.0..1.0).contains(&rate), rate.to_string(), "from 0 to below 1")?;
        }
        Ok(())
    }

    /// Rows of a step, but for the last of an epoch.
    pub fn rows_per_step(&self) -> usize {
        self.batch_size.saturating_mul(self.gradient_accumulation_steps)
    }

    /// How `rows` of training data are cut into steps.
    pub fn sampler(&self, rows: &Rows) -> Sampler {
        let rows_per_step = self.rows_per_step();
        Sampler {
            n_rows: rows.len() as u32,
            rows_per_step,
            seed: self.seed,
            shuffle: self.shuffle,
            lists: self.by_query.then(|| Arc::new(Lists::new(rows, rows_per_step))),
        }
    }

    /// How the steps of `sampler` make epochs and the run.
    pub fn plan(&self, sampler: &Sampler) -> Plan {
        let total_steps = self.max_steps.unwrap_or(sampler.n_steps_before(self.epochs));
        Plan { n_rows: sampler.n_rows as usize, total_steps, sampler: sampler.clone() }
    }

    /// The learning rate over the steps of `plan`.
    pub fn schedule(&self, plan: &Plan) -> Schedule {
        Schedule {
            kind: self.schedule,
            learning_rate: self.learning_rate,
            warmup_steps: self.warmup_steps,
            total_steps: plan.total_steps,
        }
    }
}

/// Rows, steps and epochs of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Training rows.
    pub n_rows: usize,
    /// Optimiser steps of the run; it may end within an epoch.
    pub total_steps: u64,
    sampler: Sampler,
}

impl Plan {
    /// Epochs of the run, the last perhaps unfinished.
    pub fn n_epochs(&self) -> u64 {
        self.sampler.n_epochs(self.total_steps)
    }

    /// Steps of the run done when `epoch` begins; all of them after the last epoch.
    pub fn start_of_epoch(&self, epoch: u64) -> u64 {
        self.sampler.n_steps_before(epoch).min(self.total_steps)
    }

    /// Steps of the run done when `epoch` ends.
    pub fn end_of_epoch(&self, epoch: u64) -> u64 {
        self.start_of_epoch(epoch.saturating_add(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(n_rows: u32) -> Rows {
        let mut rows = Rows::default();
        (0..n_rows).for_each(|row| rows.push(row, [(row, 0.0)]));
        rows
    }

    #[test]
    fn the_defaults_are_the_guides() {
        let settings = TrainSettings::default();
        settings.check().unwrap();
        assert_eq!((settings.batch_size, settings.epochs, settings.seed), (64, 3, 42));
        assert_eq!((settings.learning_rate, settings.weight_decay), (5e-4, 0.0));
    }

    #[test]
    fn a_short_last_batch_is_a_step_of_its_own() {
        let settings =
            TrainSettings { batch_size: 4, gradient_accumulation_steps: 2, ..Default::default() };
        let plan = settings.plan(&settings.sampler(&pairs(17)));
        assert_eq!((plan.n_rows, plan.total_steps, plan.n_epochs()), (17, 9, 3));
        assert_eq!([0, 1, 2, 3].map(|epoch| plan.start_of_epoch(epoch)), [0, 3, 6, 9]);
        assert_eq!([0, 1, 2, 3].map(|epoch| plan.end_of_epoch(epoch)), [3, 6, 9, 9]);
    }

    #[test]
    fn max_steps_overrides_the_epochs_in_both_directions() {
        let plan = |max_steps| {
            let settings =
                TrainSettings { max_steps: Some(max_steps), batch_size: 1, ..Default::default() };
            settings.plan(&settings.sampler(&pairs(10)))
        };
        assert_eq!((plan(7).n_epochs(), plan(7).end_of_epoch(0)), (1, 7));
        assert_eq!((plan(45).n_epochs(), plan(45).end_of_epoch(4)), (5, 45));
    }

    #[test]
    fn a_wrong_setting_is_named_with_what_was_found() {
        let error = |settings: TrainSettings| settings.check().unwrap_err().to_string();
        let settings = TrainSettings { learning_rate: -1.0, ..Default::default() };
        assert_eq!(error(settings), "`learning-rate` is -1, expected a finite number above 0");
        let settings = TrainSettings { batch_size: 1 << 20, ..Default::default() };
        settings.check().unwrap();
        let settings = TrainSettings { gradient_accumulation_steps: 2, ..settings };
        assert_eq!(
            error(settings),
            "`batch-size times gradient-accumulation-steps` is 1048576 times 2, expected at most \
             1048576 rows a step"
        );
        let settings = TrainSettings {
            batch_size: 1 << 32,
            gradient_accumulation_steps: 1 << 32,
            ..Default::default()
        };
        assert!(error(settings.clone()).contains("4294967296 times 4294967296, expected at most"));
        assert_eq!(settings.rows_per_step(), usize::MAX, "not 0, which would have no steps");
        let settings = TrainSettings { positive_threshold: f32::NAN, ..Default::default() };
        assert_eq!(error(settings), "`positive-threshold` is NaN, expected a finite number");
        let settings = TrainSettings { loraplus_lr_ratio: Some(0.0), ..Default::default() };
        assert_eq!(error(settings), "`loraplus-lr-ratio` is 0, expected a finite number above 0");
        let settings = TrainSettings { hidden_dropout: 1.0, ..Default::default() };
        assert_eq!(error(settings), "`dropout` is 1, expected from 0 to below 1");
    }
}
