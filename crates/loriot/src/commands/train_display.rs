//! A training run on the terminal: bars while it goes, a table at its end.

use super::common;
use crate::message::message;
use crate::progress::{Progress, count, seconds};
use crate::table;
use loriot_train::metrics_log::StepRecord;
use loriot_train::{BestMetric, Evaluation, Event, Report};
use std::path::Path;

/// The run on the terminal.
#[derive(Default)]
pub(super) struct Display {
    steps: Option<Progress>,
    evaluation: Option<Progress>,
    rates: Rates,
}

/// What is told beside the bar: the epoch's mean loss, and recent rates without evaluations. Texts are
/// those of the rows, tokens what was encoded of them.
#[derive(Default)]
struct Rates {
    epoch: u64,
    loss_sum: f64,
    n_steps: u64,
    seconds: f64,
    texts: f64,
    tokens: f64,
}

impl Rates {
    /// A step counts half as much as one that is seven steps later.
    const DECAY: f64 = 0.9;

    fn add(&mut self, step: &StepRecord, n_rows: usize) {
        if step.epoch != self.epoch {
            (self.epoch, self.loss_sum, self.n_steps) = (step.epoch, 0.0, 0);
        }
        self.loss_sum += step.loss;
        self.n_steps += 1;
        let mix = |sum: &mut f64, new: f64| *sum = *sum * Self::DECAY + new;
        mix(&mut self.seconds, step.ms / 1e3);
        mix(&mut self.texts, 2.0 * n_rows as f64);
        mix(&mut self.tokens, step.tokens as f64);
    }

    fn message(&self) -> String {
        let per_second = |n: f64| count(n / self.seconds.max(1e-9));
        format!(
            "loss {:.4}  {} texts/s  {} tokens/s",
            self.loss_sum / self.n_steps.max(1) as f64,
            per_second(self.texts),
            per_second(self.tokens)
        )
    }
}

impl Display {
    /// Shows one event.
    pub(super) fn show(&mut self, event: Event<'_>) {
        match event {
            Event::Started { plan, step, n_parameters } => {
                let (rows, steps) = (count(plan.n_rows as f64), count(plan.total_steps as f64));
                let parameters = count(n_parameters as f64);
                message!("training {parameters} parameters on {rows} rows for {steps} steps");
                if step > 0 {
                    message!("going on after step {step}");
                }
                let mut progress = Progress::new("training", plan.total_steps);
                progress.start_at(step);
                self.steps = Some(progress);
            }
            Event::Warning(text) => message!("warning: {text}"),
            Event::Step { record, n_rows } => {
                self.rates.add(record, n_rows);
                if let Some(steps) = &mut self.steps {
                    steps.set(record.step, &self.rates.message());
                }
            }
            Event::Evaluating { done, total } => {
                let evaluation = self
                    .evaluation
                    .get_or_insert_with(|| Progress::new("evaluating", total as u64));
                evaluation.set(done as u64, "");
            }
            Event::Evaluated(evaluation) => {
                if let Some(progress) = self.evaluation.take() {
                    progress.finish();
                }
                let when = match evaluation.epoch {
                    -1 => "before training".to_owned(),
                    epoch => format!("after epoch {epoch}"),
                };
                let text = format!("{when}: ROC-AUC {:.4}", evaluation.roc_auc);
                match &self.steps {
                    Some(steps) => steps.say(&text),
                    None => message!("{text}"),
                }
            }
        }
    }

    /// Takes the bars away.
    pub(super) fn finish(self) {
        [self.steps, self.evaluation].into_iter().flatten().for_each(Progress::finish);
    }
}

/// Prints what came out of a run in `output`: a table, or one JSON object.
pub(super) fn print_report(
    output: &Path,
    best_metric: BestMetric,
    report: &Report,
    duration: f64,
    as_json: bool,
) -> anyhow::Result<()> {
    if as_json {
        return common::print_json(&serde_json::json!({
            "output": output,
            "best": output.join("best"),
            "steps": report.steps,
            "seconds": duration,
            "best_metric": best_metric,
            "best_epoch": report.best_epoch,
            "evaluations": report.evaluations,
        }));
    }
    let header = ["", "ROC-AUC", "per query", "avg. precision", "loss", "train loss"];
    let number = |value: Option<f64>| value.map_or_else(|| "–".into(), |v| format!("{v:.4}"));
    let row = |evaluation: &Evaluation| {
        let name = match evaluation.epoch {
            -1 => "before training".to_owned(),
            epoch if epoch == report.best_epoch => format!("epoch {epoch} (best)"),
            epoch => format!("epoch {epoch}"),
        };
        vec![
            name,
            number(Some(evaluation.roc_auc)),
            number(evaluation.roc_auc_per_query),
            number(Some(evaluation.average_precision)),
            number(Some(evaluation.loss)),
            number(evaluation.train_loss),
        ]
    };
    let rows: Vec<_> = report.evaluations.iter().map(row).collect();
    common::print_text(&table::render(&header, &rows))?;
    warn_if_worse(best_metric, report);
    let best = output.join("best");
    message!("trained in {}; the best epoch is in `{}`", seconds(duration), best.display());
    Ok(())
}

/// Training that made the model worse should not pass for a success.
fn warn_if_worse(metric: BestMetric, report: &Report) {
    let before = report.evaluations.iter().find(|evaluation| evaluation.epoch == -1);
    let best = metric.best(&report.evaluations);
    if let (Some(before), Some(best)) = (before, best)
        && !metric.is_better(best, before)
    {
        message!("warning: no epoch was better in {metric} than the model before training");
    }
}
