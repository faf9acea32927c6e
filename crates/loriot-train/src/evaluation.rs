//! How well the model ranks the evaluation rows: before training (epoch -1) and after each epoch.

use crate::loss::{Loss, mean_loss};
use crate::pairs::{PairVectors, TokenPairs};
use crate::sampler::EpochSteps;
use loriot_encoder::train_model::TrainModel;
use loriot_eval::{
    average_precision, best_accuracy, best_f1, roc_auc, roc_auc_per_query, spearman,
};
use loriot_files::Hint;
use std::fmt;
use std::ops::ControlFlow;
use std::str::FromStr;

/// The metrics of one epoch, as `metrics.jsonl` and checkpoints hold them.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Evaluation {
    /// The epoch that has ended, from 0; -1 before training.
    pub epoch: i64,
    /// Over all rows, ties as in scikit-learn.
    pub roc_auc: f64,
    /// Mean over the queries that have both labels; `None` where none has.
    pub roc_auc_per_query: Option<f64>,
    /// Over all rows.
    pub average_precision: f64,
    /// The best F1 over all thresholds.
    pub best_f1: f64,
    /// Scores of at least this count as positive for that F1.
    pub best_f1_threshold: f64,
    /// The best accuracy over all thresholds.
    pub best_accuracy: f64,
    /// The threshold of that accuracy.
    pub best_accuracy_threshold: f64,
    /// Rank correlation of score and label; `None` where either never varies.
    pub spearman: Option<f64>,
    /// The run's loss on these rows, without dropout.
    pub loss: f64,
    /// Mean of the epoch's training losses, with dropout.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train_loss: Option<f64>,
}

/// The evaluation rows cannot tell one epoch from another.
#[derive(Debug, thiserror::Error)]
pub enum EvaluationError {
    /// All rows are of one class.
    #[error(
        "ROC-AUC is undefined: none of the {n_rows} evaluation rows is {}",
        if *positive {
            format!("positive (a label above {threshold})")
        } else {
            format!("negative (a label up to {threshold})")
        }
    )]
    OneClass {
        /// Evaluation rows.
        n_rows: usize,
        /// Labels above it are positive.
        threshold: f32,
        /// Whether it is the positive class that is missing.
        positive: bool,
    },
    /// The metric that chooses the best epoch has no value.
    #[error("`{0}` is undefined on the evaluation rows, so it cannot choose the best epoch")]
    NoBestMetric(BestMetric),
}

impl Hint for EvaluationError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            EvaluationError::OneClass { .. } => {
                "give rows of both kinds, or another `--positive-threshold`".into()
            }
            EvaluationError::NoBestMetric(_) => {
                "choose another `--best-metric`, such as roc_auc".into()
            }
        })
    }
}

/// Whether labels on both sides of `threshold` are there.
pub fn check_classes(labels: &[f32], threshold: f32) -> Result<(), EvaluationError> {
    let n_positive = labels.iter().filter(|&&label| label > threshold).count();
    if n_positive == 0 || n_positive == labels.len() {
        let positive = n_positive == 0;
        return Err(EvaluationError::OneClass { n_rows: labels.len(), threshold, positive });
    }
    Ok(())
}

/// Why an evaluation did not come to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoEvaluation {
    /// It was asked to stop.
    Stopped,
    /// A score is not finite.
    Diverged,
}

/// Measures a model on the evaluation rows.
pub(crate) struct Evaluator<'a> {
    pub(crate) pairs: &'a TokenPairs,
    pub(crate) threshold: f32,
    /// Texts that are encoded at once.
    pub(crate) batch_size: usize,
    /// The run's loss.
    pub(crate) loss: &'a dyn Loss,
    /// Steps as the run's, of these rows as they stand: they decide the value of a loss that compares rows with each other.
    pub(crate) steps: EpochSteps,
}

impl Evaluator<'_> {
    /// Evaluates `model` as it is; `go_on` as of [`TokenPairs::embed`].
    pub(crate) fn evaluate(
        &self,
        model: &TrainModel,
        epoch: i64,
        train_loss: Option<f64>,
        go_on: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
    ) -> Result<Evaluation, NoEvaluation> {
        let embed = |ids: &[Vec<u32>]| model.embed_ids(ids);
        let vectors = self.pairs.embed(embed, self.batch_size, go_on);
        let vectors = vectors.ok_or(NoEvaluation::Stopped)?;
        self.measure(&vectors, epoch, train_loss).ok_or(NoEvaluation::Diverged)
    }

    /// The metrics of these vectors; `None` when a score is not finite.
    fn measure(
        &self,
        vectors: &PairVectors,
        epoch: i64,
        train_loss: Option<f64>,
    ) -> Option<Evaluation> {
        let batch = vectors.batch(&self.pairs.rows);
        let scores: Vec<f64> = batch.cosines().collect();
        if !scores.iter().all(|score| score.is_finite()) {
            return None;
        }
        let rows = &self.pairs.rows;
        let labels = self.pairs.relevance();
        let positive: Vec<bool> = labels.iter().map(|&label| label > self.threshold).collect();
        let queries: Vec<u32> = rows.row_of_candidates().map(|row| rows.queries()[row]).collect();
        let labels: Vec<f64> = labels.iter().map(|&label| f64::from(label)).collect();
        let f1 = best_f1(&scores, &positive)?;
        let accuracy = best_accuracy(&scores, &positive)?;
        Some(Evaluation {
            epoch,
            roc_auc: roc_auc(&scores, &positive)?,
            roc_auc_per_query: roc_auc_per_query(&scores, &positive, &queries)
                .map(|(mean, _)| mean),
            average_precision: average_precision(&scores, &positive)?,
            best_f1: f1.value,
            best_f1_threshold: f1.threshold,
            best_accuracy: accuracy.value,
            best_accuracy_threshold: accuracy.threshold,
            spearman: spearman(&scores, &labels),
            loss: mean_loss(self.loss, &batch, &self.steps),
            train_loss,
        })
    }
}

/// What makes one epoch better than another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BestMetric {
    /// [`Evaluation::roc_auc`].
    #[default]
    RocAuc,
    /// [`Evaluation::roc_auc_per_query`].
    RocAucPerQuery,
    /// [`Evaluation::average_precision`].
    AveragePrecision,
    /// [`Evaluation::best_f1`].
    BestF1,
    /// [`Evaluation::best_accuracy`].
    BestAccuracy,
    /// [`Evaluation::spearman`].
    Spearman,
    /// [`Evaluation::loss`], the lower the better.
    Loss,
}

impl BestMetric {
    /// All of them.
    pub const ALL: [BestMetric; 7] = [
        BestMetric::RocAuc,
        BestMetric::RocAucPerQuery,
        BestMetric::AveragePrecision,
        BestMetric::BestF1,
        BestMetric::BestAccuracy,
        BestMetric::Spearman,
        BestMetric::Loss,
    ];

    /// The metric's name in `metrics.jsonl`.
    pub fn name(self) -> &'static str {
        match self {
            BestMetric::RocAuc => "roc_auc",
            BestMetric::RocAucPerQuery => "roc_auc_per_query",
            BestMetric::AveragePrecision => "average_precision",
            BestMetric::BestF1 => "best_f1",
            BestMetric::BestAccuracy => "best_accuracy",
            BestMetric::Spearman => "spearman",
            BestMetric::Loss => "loss",
        }
    }

    /// Its value; `None` where it is undefined.
    pub fn of(self, evaluation: &Evaluation) -> Option<f64> {
        match self {
            BestMetric::RocAuc => Some(evaluation.roc_auc),
            BestMetric::RocAucPerQuery => evaluation.roc_auc_per_query,
            BestMetric::AveragePrecision => Some(evaluation.average_precision),
            BestMetric::BestF1 => Some(evaluation.best_f1),
            BestMetric::BestAccuracy => Some(evaluation.best_accuracy),
            BestMetric::Spearman => evaluation.spearman,
            BestMetric::Loss => Some(evaluation.loss),
        }
    }

    /// Whether `a` is strictly better than `b`; undefined is worse than any value.
    pub fn is_better(self, a: &Evaluation, b: &Evaluation) -> bool {
        match (self.of(a), self.of(b)) {
            (Some(a), Some(b)) if self == BestMetric::Loss => a < b,
            (Some(a), Some(b)) => a > b,
            (a, None) => a.is_some(),
            (None, Some(_)) => false,
        }
    }

    /// The first of the best epochs after training began; `None` where there is none yet.
    pub fn best(self, evaluations: &[Evaluation]) -> Option<&Evaluation> {
        let trained = evaluations.iter().filter(|evaluation| evaluation.epoch >= 0);
        trained.reduce(|best, next| if self.is_better(next, best) { next } else { best })
    }
}

impl fmt::Display for BestMetric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for BestMetric {
    type Err = String;

    fn from_str(name: &str) -> Result<BestMetric, String> {
        BestMetric::ALL.into_iter().find(|metric| metric.name() == name).ok_or_else(|| {
            let names = BestMetric::ALL.map(BestMetric::name).join(", ");
            format!("unknown metric; expected one of: {names}")
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// An evaluation of which only epoch, ROC-AUC and loss matter.
    pub(crate) fn evaluation(epoch: i64, roc_auc: f64, loss: f64) -> Evaluation {
        Evaluation {
            epoch,
            roc_auc,
            roc_auc_per_query: None,
            average_precision: 0.5,
            best_f1: 0.5,
            best_f1_threshold: 0.1,
            best_accuracy: 0.5,
            best_accuracy_threshold: 0.2,
            spearman: Some(0.3),
            loss,
            train_loss: (epoch >= 0).then_some(0.25),
        }
    }

    #[test]
    fn the_best_epoch_is_the_first_of_equals_and_never_the_untrained_one() {
        let run = [
            evaluation(-1, 0.9, 0.1),
            evaluation(0, 0.7, 0.3),
            evaluation(1, 0.8, 0.4),
            evaluation(2, 0.8, 0.2),
        ];
        let best = |metric: BestMetric| metric.best(&run).unwrap().epoch;
        assert_eq!((best(BestMetric::RocAuc), best(BestMetric::Loss)), (1, 2));
        assert!(BestMetric::RocAuc.best(&run[..1]).is_none());
    }

    #[test]
    fn one_class_alone_is_refused_with_the_missing_side() {
        let error = |labels: &[f32]| check_classes(labels, 0.5).unwrap_err().to_string();
        let none_of = "ROC-AUC is undefined: none of the";
        let want = format!("{none_of} 2 evaluation rows is positive (a label above 0.5)");
        assert_eq!(error(&[0.0, 0.5]), want);
        let want = format!("{none_of} 1 evaluation rows is negative (a label up to 0.5)");
        assert_eq!(error(&[1.0]), want);
        assert!(check_classes(&[0.0, 1.0], 0.5).is_ok());
    }

    #[test]
    fn metric_names_read_back() {
        for metric in BestMetric::ALL {
            assert_eq!(metric.name().parse(), Ok(metric));
            assert_eq!(serde_json::to_value(metric).unwrap(), metric.name());
        }
    }
}
