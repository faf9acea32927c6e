//! The training loop.
//!
//! A run is one state that moves on: steps to the end of the epoch, its evaluation, the next epoch.
//! It can stop anywhere and go on from the last checkpoint, because each part of the loop asks the
//! state what is left to do.

use crate::accumulate::{StepLoss, accumulate};
use crate::card::model_card;
use crate::checkpoint::{self, CheckpointEvery};
use crate::evaluation::{EvaluationError, Evaluator, NoEvaluation, check_classes};
use crate::fitting::fit_lists;
use crate::folder::RunFolder;
use crate::fork::fork;
use crate::job::{Event, Job, Report, TrainError};
use crate::loss::{GradedLists, Loss, ProductWords};
use crate::metrics_log::{MetricsLog, StepRecord};
use crate::optimiser::Adam;
use crate::output::write_model;
use crate::own_files::{BEST, INTERIM};
use crate::pairs::TokenPairs;
use crate::sampler::{EpochSteps, Sampler};
use crate::schedule::Schedule;
use crate::settings::{Plan, TrainSettings};
use crate::state::State;
use loriot_encoder::DropoutRates;
use loriot_encoder::train_model::TrainModel;
use loriot_files::{NewDir, write_atomic_bytes};
use std::error::Error;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Trains, evaluates and saves, from the beginning or from a checkpoint. `observe` hears of it.
///
/// A run that is resumed and [finished](RunFolder::finished) is reported, and nothing of it is changed.
pub fn train(job: Job, observe: &mut dyn FnMut(Event<'_>)) -> Result<Report, TrainError> {
    if let Some(state) = job.folder.finished().cloned() {
        job.folder.check_run(&State::new(job.identity(), job.encoder.isa().to_string()))?;
        job.folder.clear_up()?;
        return Ok(report(state));
    }
    let mut run = Run::new(job, observe)?;
    if run.state.evaluations.is_empty() {
        run.evaluate(None)?;
    }
    while run.state.epoch < run.plan.n_epochs() {
        let steps = run.sampler.steps(run.state.epoch);
        while run.state.step < run.plan.end_of_epoch(run.state.epoch) {
            run.stop_if_asked()?;
            run.step(&steps)?;
            run.save_if_due()?;
        }
        run.end_epoch()?;
    }
    run.finish()
}

/// A run in progress.
struct Run<'a> {
    model: TrainModel,
    optimiser: Adam,
    schedule: Schedule,
    loss: Box<dyn Loss>,
    /// The same loss for the evaluation rows.
    eval_loss: Box<dyn Loss>,
    sampler: Sampler,
    plan: Plan,
    state: State,
    train: TokenPairs,
    eval: TokenPairs,
    eval_batch_size: usize,
    folder: RunFolder,
    checkpoint: CheckpointEvery,
    keep_checkpoints: Option<usize>,
    interim: Interim,
    stop: &'static AtomicBool,
    log: MetricsLog,
    observe: &'a mut dyn FnMut(Event<'_>),
}

impl<'a> Run<'a> {
    /// A run at its beginning, or at its checkpoint. Checks everything, then touches the folder.
    fn new(job: Job, observe: &'a mut dyn FnMut(Event<'_>)) -> Result<Run<'a>, TrainError> {
        job.settings.check()?;
        if job.train.is_empty() {
            return Err(TrainError::NoRows);
        }
        check_classes(job.eval.relevance(), job.settings.positive_threshold)?;
        let sampler = job.settings.sampler(&job.train.rows);
        let plan = job.settings.plan(&sampler);
        let fresh = State::new(job.identity(), job.encoder.isa().to_string());
        if job.folder.checkpoint().is_none() {
            job.folder.check_run(&fresh)?;
        }
        let mut state = fresh.clone();
        let Job { encoder, trained, settings, train, eval, mut folder, .. } = job;
        let rates = DropoutRates {
            hidden: settings.hidden_dropout,
            attention: settings.attention_dropout,
            lora: settings.lora_dropout,
        };
        let mut model = TrainModel::new(encoder, trained, rates, settings.seed)?;
        if let Some(ratio) = settings.loraplus_lr_ratio {
            model.set_lora_plus(ratio);
        }
        let mut optimiser = Adam::new(&model, settings.weight_decay, settings.max_grad_norm);
        // Before a checkpoint is read, so that a resumed run fits to the same model.
        let (mut lists, mut eval_lists) = (GradedLists::default(), GradedLists::default());
        if settings.loss.is_fitted() {
            let sizes = settings.loss_terms.unwrap_or_default();
            lists = fit_lists(&model, &train, &sampler, sizes);
            let words = Arc::new(ProductWords::new(&eval.products));
            eval_lists = GradedLists { words, ..lists.clone() };
            observe(Event::Fitted(&lists));
        }
        for damaged in folder.damaged() {
            observe(Event::Warning(&format!("a damaged checkpoint is left out: {damaged}")));
        }
        while let Some(dir) = folder.checkpoint() {
            let saved = checkpoint::read(dir, &state, &plan, &sampler, &mut model, &mut optimiser);
            let saved = match saved {
                Ok(saved) => saved,
                Err(error) if error.is_damage() && folder.fall_back() => {
                    let text = format!("a damaged checkpoint is left out: {error}");
                    observe(Event::Warning(&text));
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            if saved.isa != state.isa {
                observe(Event::Warning(&format!(
                    "the checkpoint was computed with `{}` and this run goes on with `{}`: its \
                     result will differ in the last bits from an uninterrupted run's",
                    saved.isa, state.isa
                )));
            }
            // The run is the saved one, as was checked, in the form of today's version.
            let State { schema_version, isa, run, .. } = state;
            state = State { schema_version, isa, run, ..saved };
            break;
        }
        for note in folder.begin(&fresh, (state.step, state.epoch))? {
            observe(Event::Warning(&note));
        }
        if folder.goes_on_from_elsewhere() {
            for note in fork(&mut folder, &state, &model, &optimiser)? {
                observe(Event::Warning(&note));
            }
        }
        let after = folder.checkpoint().map(|_| (state.step, state.epoch));
        let interim = Interim {
            every: job.interim_every,
            last: Instant::now(),
            saved: after.zip(folder.checkpoint().map(Path::to_owned)),
        };
        let log = MetricsLog::open(folder.path(), after)?;
        let n_parameters = model.parameters().n_values();
        observe(Event::Started { plan: &plan, step: state.step, n_parameters });
        Ok(Run {
            model,
            optimiser,
            schedule: settings.schedule(&plan),
            loss: settings.loss.loss(&lists),
            eval_loss: settings.loss.loss(&eval_lists),
            sampler,
            plan,
            state,
            train,
            eval,
            eval_batch_size: job.eval_batch_size,
            folder,
            checkpoint: job.checkpoint,
            keep_checkpoints: job.keep_checkpoints,
            interim,
            stop: job.stop,
            log,
            observe,
        })
    }

    /// Makes the next of the epoch's `steps`.
    fn step(&mut self, steps: &EpochSteps) -> Result<(), TrainError> {
        let begun = Instant::now();
        let first_step = self.plan.start_of_epoch(self.state.epoch);
        let rows = steps.rows(self.state.step - first_step);
        let rows = self.train.rows.select(rows.iter().map(|&row| row as usize));
        let learning_rate = self.schedule.rate(self.state.step);

        self.model.zero_gradients();
        let (micro_batch_size, step) = (self.state.run.settings.batch_size, self.state.step as u32);
        let (model, loss) = (&mut self.model, &*self.loss);
        let StepLoss { loss, tokens } =
            accumulate(model, loss, &self.train, &rows, micro_batch_size, step);
        if !loss.is_finite() {
            return Err(self.diverged("the loss is not a number"));
        }
        self.optimiser.step(&mut self.model, step + 1, learning_rate);

        self.state.step += 1;
        self.state.position += rows.len();
        self.state.loss_sum += loss;
        let (step, epoch) = (self.state.step, self.state.epoch);
        let ms = milliseconds(begun);
        let record = StepRecord { step, epoch, loss, learning_rate, tokens, ms };
        self.log.step(&record)?;
        (self.observe)(Event::Step { record: &record, n_rows: rows.len() });
        Ok(())
    }

    /// Evaluates the model and keeps it in `best/` where it is better than all before.
    fn end_epoch(&mut self) -> Result<(), TrainError> {
        let n_steps = self.state.step - self.plan.start_of_epoch(self.state.epoch);
        self.evaluate(Some(self.state.loss_sum / n_steps as f64))?;
        let metric = self.state.run.settings.best_metric;
        let is_best = metric.best(&self.state.evaluations) == self.state.evaluations.last();
        if is_best {
            let note = self.folder.make_room(BEST)?;
            self.warn(note);
            let best = NewDir::begin(&self.folder.path().join(BEST), true)?;
            self.write_model_with_card(best.path())?;
            best.commit()?;
        }
        self.state.epoch += 1;
        self.state.position = 0;
        self.state.loss_sum = 0.0;
        if self.checkpoint == CheckpointEvery::Epoch {
            self.save(&format!("epoch_{}", self.state.epoch - 1))?;
        }
        Ok(())
    }

    /// Appends an evaluation of the model as it is; without a training loss it is the one before
    /// training.
    fn evaluate(&mut self, train_loss: Option<f64>) -> Result<(), TrainError> {
        let begun = Instant::now();
        let epoch = train_loss.map_or(-1, |_| self.state.epoch as i64);
        let settings = &self.state.run.settings;
        let (threshold, best_metric) = (settings.positive_threshold, settings.best_metric);
        let evaluator = Evaluator {
            pairs: &self.eval,
            threshold,
            batch_size: self.eval_batch_size,
            loss: &*self.eval_loss,
            steps: TrainSettings { shuffle: false, ..settings.clone() }
                .sampler(&self.eval.rows)
                .steps(0),
        };
        let (observe, stop) = (&mut self.observe, self.stop);
        let evaluation = evaluator.evaluate(&self.model, epoch, train_loss, &mut |done, total| {
            observe(Event::Evaluating { done, total });
            if stop.load(Ordering::Relaxed) && done < total {
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        });
        let evaluation = match evaluation {
            Ok(evaluation) => evaluation,
            Err(NoEvaluation::Stopped) => return Err(self.interrupt()),
            Err(NoEvaluation::Diverged) => {
                return Err(self.diverged("the vectors are not numbers"));
            }
        };
        if best_metric.of(&evaluation).is_none() {
            return Err(EvaluationError::NoBestMetric(best_metric).into());
        }
        self.log.evaluation(&evaluation, milliseconds(begun))?;
        (self.observe)(Event::Evaluated(&evaluation));
        self.state.evaluations.push(evaluation);
        Ok(())
    }

    fn save_if_due(&mut self) -> Result<(), TrainError> {
        let step = self.state.step;
        match self.checkpoint {
            CheckpointEvery::Steps(n) if step.is_multiple_of(n) => {
                self.save(&format!("step_{step}"))
            }
            _ if self.interim.is_due() => match self.save_interim() {
                // Nobody asked for it, so that its failure does not end the run.
                Err(
                    error @ (TrainError::Save(_) | TrainError::Output(_) | TrainError::Folder(_)),
                ) => {
                    let text = format!("no interim checkpoint could be saved: {error}");
                    let cause = error.source().map(|cause| format!(": {cause}"));
                    (self.observe)(Event::Warning(&(text + &cause.unwrap_or_default())));
                    self.interim.last = Instant::now();
                    Ok(())
                }
                saved => saved.map(|_| ()),
            },
            _ => Ok(()),
        }
    }

    /// Ends the run if that was asked for.
    fn stop_if_asked(&mut self) -> Result<(), TrainError> {
        if self.stop.load(Ordering::Relaxed) { Err(self.interrupt()) } else { Ok(()) }
    }

    /// Saves what is done, and returns the error that ends the run.
    fn interrupt(&mut self) -> TrainError {
        let step = self.state.step;
        // Before the first evaluation there is nothing to keep.
        if self.state.evaluations.is_empty() {
            return TrainError::Interrupted { step, checkpoint: None };
        }
        match self.save_interim() {
            Ok(dir) => TrainError::Interrupted { step, checkpoint: Some(dir) },
            Err(error) => error,
        }
    }

    /// Writes a checkpoint that was asked for, and removes older ones that the run no longer needs.
    fn save(&mut self, name: &str) -> Result<(), TrainError> {
        let dir = self.write_checkpoint(name)?;
        if let Some(keep) = self.keep_checkpoints {
            let notes = self.folder.prune(keep)?;
            self.warn(notes);
        }
        let notes = self.folder.remove_interim(self.place(), Some(&dir))?;
        self.warn(notes);
        Ok(())
    }

    /// Writes a checkpoint that goes when a later one is there. Where one of this place is there already, it does.
    fn save_interim(&mut self) -> Result<PathBuf, TrainError> {
        let State { step, epoch, .. } = self.state;
        let is_after_epoch = epoch > 0 && step == self.plan.start_of_epoch(epoch);
        let name =
            if is_after_epoch { format!("epoch_{}", epoch - 1) } else { format!("step_{step}") };
        if let Some((place, dir)) = &self.interim.saved
            && *place == self.place()
            && dir.exists()
        {
            return Ok(dir.clone());
        }
        let dir = self.write_checkpoint(&format!("{INTERIM}{name}"))?;
        let notes = self.folder.remove_interim(self.place(), Some(&dir))?;
        self.warn(notes);
        Ok(dir)
    }

    /// Writes a checkpoint, after the log lines that a resumed run will expect are on the disk.
    fn write_checkpoint(&mut self, name: &str) -> Result<PathBuf, TrainError> {
        let begun = Instant::now();
        self.check_finite()?;
        self.log.sync()?;
        let note = self.folder.make_room(name)?;
        self.warn(note);
        let dir = self.folder.path().join(name);
        checkpoint::write(&dir, &self.model, &self.optimiser, &self.state)?;
        self.interim.saved(self.place(), &dir, begun.elapsed());
        Ok(dir)
    }

    /// Steps done, and epochs evaluated.
    fn place(&self) -> (u64, u64) {
        (self.state.step, self.state.epoch)
    }

    /// Leaves the model after the last step in the run folder.
    fn finish(mut self) -> Result<Report, TrainError> {
        let staged = self.folder.stage_model()?;
        self.write_model_with_card(staged.path())?;
        self.log.sync()?;
        let notes = self.folder.finish(staged, &self.state)?;
        self.warn(notes);
        Ok(report(self.state))
    }

    fn warn(&mut self, notes: impl IntoIterator<Item = String>) {
        notes.into_iter().for_each(|note| (self.observe)(Event::Warning(&note)));
    }

    fn write_model_with_card(&self, dir: &Path) -> Result<(), TrainError> {
        self.check_finite()?;
        let card = model_card(&self.model.encoder().folder().name, &self.state);
        write_atomic_bytes(&dir.join("README.md"), card.as_bytes())?;
        Ok(write_model(&self.model, dir)?)
    }

    /// Refuses to go on, before anything is written, if a weight is NaN or infinite.
    fn check_finite(&self) -> Result<(), TrainError> {
        if self.model.parameters().are_finite() {
            return Ok(());
        }
        Err(self.diverged("the weights are not numbers"))
    }

    fn diverged(&self, what: &'static str) -> TrainError {
        let learning_rate = self.schedule.rate(self.state.step);
        TrainError::Diverged { step: self.state.step + 1, what, learning_rate }
    }
}

/// The report of a run that ended in `state`.
fn report(state: State) -> Report {
    let best = state.run.settings.best_metric.best(&state.evaluations);
    let best_epoch = best.map_or(-1, |best| best.epoch);
    Report { best_epoch, evaluations: state.evaluations, steps: state.step }
}

/// When the run leaves a checkpoint that nobody asked for.
struct Interim {
    /// Longest time without a checkpoint; made longer where writing one takes more than a twentieth of it. Zero is after
    /// every step.
    every: Duration,
    /// When there was a checkpoint, or the run began.
    last: Instant,
    /// The place of the last checkpoint (steps, epochs) and its folder.
    saved: Option<((u64, u64), PathBuf)>,
}

impl Interim {
    fn is_due(&self) -> bool {
        self.last.elapsed() >= self.every
    }

    /// A checkpoint of `place` is in `dir`; writing it took `duration`.
    fn saved(&mut self, place: (u64, u64), dir: &Path, duration: Duration) {
        if !self.every.is_zero() {
            self.every = self.every.max(20 * duration);
        }
        (self.last, self.saved) = (Instant::now(), Some((place, dir.to_owned())));
    }
}

/// Since `begun`, to the microsecond.
fn milliseconds(begun: Instant) -> f64 {
    begun.elapsed().as_micros() as f64 / 1e3
}
