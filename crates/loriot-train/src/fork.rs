//! A checkpoint of another run folder, gone on from in a new one.
//!
//! The new folder gets what the run would have left in it up to the checkpoint: the log, the model after the best epoch
//! so far, the checkpoint itself. So everything that is said of a run folder holds for it too.

use crate::card::model_card;
use crate::checkpoint;
use crate::folder::RunFolder;
use crate::metrics_log::copy_lines;
use crate::optimiser::Adam;
use crate::own_files::{BEST, INTERIM, MODEL_FILES, is_checkpoint};
use crate::state::State;
use loriot_encoder::error::SaveError;
use loriot_encoder::train_model::TrainModel;
use loriot_files::{NewDir, OutputError, write_atomic_bytes};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

const CARD: &str = "README.md";

/// Fills the new run `folder` up to the checkpoint that it goes on from, which was read as `state`, `model` and
/// `optimiser`; the run goes on from its copy. Returns what the user should know.
pub(crate) fn fork(
    folder: &mut RunFolder,
    state: &State,
    model: &TrainModel,
    optimiser: &Adam,
) -> Result<Vec<String>, SaveError> {
    let Some(from) = folder.checkpoint().map(Path::to_owned) else { return Ok(Vec::new()) };
    let from = fs::canonicalize(&from).map_err(OutputError::io(&from))?;
    let source = from.parent().unwrap_or(Path::new("/"));
    let to = folder.path();
    let mut notes = Vec::new();
    if !copy_lines(source, to, state.step, &state.evaluations)? {
        notes.push(format!(
            "the log of the run is not beside `{}`: the new one begins there",
            from.display()
        ));
    }
    let base = &model.encoder().folder().name;
    match state.run.settings.best_metric.best(&state.evaluations).map(|best| best.epoch) {
        None => {} // There was no epoch yet.
        Some(epoch) => match BestModel::find(&from, source, epoch) {
            Some(best) => best.copy(base, &to.join(BEST))?,
            None => notes.push(format!(
                "the model after epoch {epoch}, the best so far, is not beside `{}`: `{BEST}` will \
                 hold only the model of a better one",
                from.display()
            )),
        },
    }
    let name = from.file_name().unwrap_or_default().to_string_lossy();
    let name =
        if is_checkpoint(&name) { name.into_owned() } else { format!("step_{}", state.step) };
    let copy = to.join(name);
    checkpoint::write(&copy, model, optimiser, state)?;
    folder.adopt(copy);
    Ok(notes)
}

/// The model after the best epoch, in another run's folder.
struct BestModel {
    dir: PathBuf,
    /// The state after that epoch, as its card shows it.
    state: State,
}

impl BestModel {
    /// Finds the model after `epoch` of the run of the checkpoint `from` in its folder `source`.
    fn find(from: &Path, source: &Path, epoch: i64) -> Option<BestModel> {
        let mut state = State::open(from).ok()?;
        state.evaluations.retain(|evaluation| evaluation.epoch <= epoch);
        let name = format!("epoch_{epoch}");
        let candidates =
            [from.to_owned(), source.join(&name), source.join(format!("{INTERIM}{name}"))];
        let is_it = |dir: &PathBuf| {
            State::open(dir).is_ok_and(|found| {
                let is_after_evaluation = found.position == 0;
                is_after_evaluation
                    && found.run == state.run
                    && found.evaluations == state.evaluations
            })
        };
        let best = source.join(BEST);
        // The base model may have been named otherwise there.
        let results = |card: String| card.split_once("\n## ").map(|(_, end)| end.to_owned());
        let is_best = |dir: &PathBuf| {
            let card = fs::read_to_string(dir.join(CARD)).ok().and_then(results);
            card.is_some() && card == results(model_card("", &state))
        };
        let found = candidates.into_iter().find(is_it).or_else(|| Some(best).filter(is_best));
        found.map(|dir| BestModel { dir, state })
    }

    /// Copies it to `best`, with a card that names the `base` model.
    fn copy(&self, base: &str, best: &Path) -> Result<(), OutputError> {
        let new = NewDir::begin(best, true)?;
        for name in MODEL_FILES.iter().filter(|name| **name != CARD) {
            let from = self.dir.join(name);
            if from.exists() {
                copy(&from, &new.path().join(name)).map_err(OutputError::io(best))?;
            }
        }
        let card = model_card(base, &self.state);
        write_atomic_bytes(&new.path().join(CARD), card.as_bytes())?;
        new.commit()
    }
}

/// Copies a file or a folder.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    if !from.is_dir() {
        return fs::copy(from, to).map(|_| ());
    }
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        copy(&entry.path(), &to.join(entry.file_name()))?;
    }
    Ok(())
}
