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
    /// The bar of the steps: there from the first on, and away during evaluations, which have one of their own.
    steps: Option<Progress>,
    total_steps: u64,
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
                self.total_steps = plan.total_steps;
            }
            Event::Warning(text) => match &self.steps {
                Some(steps) => steps.say(&format!("warning: {text}")),
                None => message!("warning: {text}"),
            },
            Event::Fitted(lists) => {
                let (fit, terms) = (lists.fit, lists.weights);
                message!(
                    "fitted to the model: grades {:.2}·(cos - {:.3}), orders {:.2}·(difference of cosines); terms {:.3}, {:.3}, {:.3}",
                    fit.scale,
                    -fit.bias / fit.scale,
                    fit.pair_scale,
                    terms.pointwise,
                    terms.pairwise,
                    terms.negatives
                );
            }
            Event::Step { record, n_rows } => {
                self.rates.add(record, n_rows);
                let steps = self.steps.get_or_insert_with(|| {
                    let mut steps = Progress::new("training", self.total_steps);
                    steps.start_at(record.step - 1);
                    steps
                });
                steps.set(record.step, &self.rates.message());
            }
            Event::Evaluating { done, total } => {
                if let Some(steps) = self.steps.take() {
                    steps.finish();
                }
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
                message!("{when}: ROC-AUC {:.4}", evaluation.roc_auc);
            }
        }
    }

    /// Takes the bars away.
    pub(super) fn finish(self) {
        [self.steps, self.evaluation].into_iter().flatten().for_each(Progress::finish);
    }
}

/// Prints what came out of a run in `output`: a table, or one JSON object. `duration` is in seconds; `None` where the
/// run was finished before.
pub(super) fn print_report(
    output: &Path,
    best_metric: BestMetric,
    report: &Report,
    duration: Option<f64>,
    as_json: bool,
) -> anyhow::Result<()> {
    // A run that went on from a checkpoint alone may have come to no better epoch than the best before.
    let best = Some(output.join("best")).filter(|best| best.is_dir());
    if as_json {
        return common::print_json(&serde_json::json!({
            "output": output,
            "best": best,
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
    let place = match best {
        Some(best) => format!("the best epoch is in `{}`", best.display()),
        None => "the model after the best epoch is not at hand".into(),
    };
    match duration {
        Some(duration) => message!("trained in {}; {place}", seconds(duration)),
        None => message!("nothing was left to do; {place}"),
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use loriot_train::TrainSettings;

    #[test]
    fn there_is_one_bar_at_a_time_and_it_is_of_what_moves() {
        let settings = TrainSettings::default();
        let plan = settings.plan(&settings.sampler(&loriot_train::Rows::default()));
        let record =
            StepRecord { step: 1, epoch: 0, loss: 0.1, learning_rate: 0.1, tokens: 3, ms: 1.0 };
        let mut display = Display::default();
        let mut bars_after = |event: Event<'_>| {
            display.show(event);
            (display.steps.is_some(), display.evaluation.is_some())
        };
        let started = Event::Started { plan: &plan, step: 0, n_parameters: 1 };
        assert_eq!(bars_after(started), (false, false), "nothing has been done yet");
        assert_eq!(bars_after(Event::Step { record: &record, n_rows: 64 }), (true, false));
        assert_eq!(bars_after(Event::Evaluating { done: 0, total: 4 }), (false, true));
        assert_eq!(bars_after(Event::Evaluating { done: 2, total: 4 }), (false, true));
    }
}
