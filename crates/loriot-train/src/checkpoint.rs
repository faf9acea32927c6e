//! Checkpoints: `step_N/`, `epoch_N/` and `interim_…/` in the run folder, each appearing whole or not at all.
//!
//! ```text
//! adapter_model.safetensors …  the model as it is (or `model.safetensors …`, fully fine-tuned)
//! optimiser.safetensors        Adam's moments
//! state.json                   where the run stands
//! ```
//!
//! A checkpoint, with the model, data and settings that the run is started with, decides the rest of the run; `state.json`
//! names those by hashes. So a resumed run ends with the bytes of an uninterrupted one.

use crate::optimiser::{Adam, MOMENTS_FILE};
use crate::output::write_model;
use crate::sampler::Sampler;
use crate::settings::Plan;
use crate::state::{State, StateError};
use crate::tensors::{TensorsError, TensorsFile};
use loriot_encoder::error::SaveError;
use loriot_encoder::train_model::TrainModel;
use loriot_files::NewDir;
use std::path::Path;

/// How often the run is saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckpointEvery {
    /// After each epoch, as `epoch_N`.
    Epoch,
    /// After so many steps, as `step_N`.
    Steps(u64),
}

impl std::str::FromStr for CheckpointEvery {
    type Err = String;

    fn from_str(text: &str) -> Result<CheckpointEvery, String> {
        match text.parse() {
            _ if text == "epoch" => Ok(CheckpointEvery::Epoch),
            Ok(steps) if steps > 0 => Ok(CheckpointEvery::Steps(steps)),
            _ => Err("expected `epoch` or a number of steps above 0".into()),
        }
    }
}

/// Writes the checkpoint `dir`, replacing one of that name.
pub(crate) fn write(
    dir: &Path,
    model: &TrainModel,
    optimiser: &Adam,
    state: &State,
) -> Result<(), SaveError> {
    let new = NewDir::begin(dir, true)?;
    write_model(model, new.path())?;
    optimiser.write(&new.path().join(MOMENTS_FILE))?;
    state.write(new.path())?;
    Ok(new.commit()?)
}

/// Reads the checkpoint `dir` of a run that was `fresh` at its beginning: puts its parameters and
/// moments in place, and returns where it stood.
pub(crate) fn read(
    dir: &Path,
    fresh: &State,
    plan: &Plan,
    sampler: &Sampler,
    model: &mut TrainModel,
    optimiser: &mut Adam,
) -> Result<State, ResumeError> {
    let state = State::open(dir)?;
    state.check(dir, fresh, plan, sampler)?;
    optimiser.read(&dir.join(MOMENTS_FILE))?;
    let name = match model.adapter() {
        Some(_) => "adapter_model.safetensors",
        None => "model.safetensors",
    };
    let file = TensorsFile::open(&dir.join(name))?;
    model.read_parameters(|name, shape| file.read(name, shape))?;
    Ok(state)
}

/// A run cannot go on from a checkpoint.
#[derive(Debug, thiserror::Error)]
pub enum ResumeError {
    /// Its state is damaged or that of another run.
    #[error(transparent)]
    State(#[from] StateError),
    /// Its tensors are damaged or of another model.
    #[error(transparent)]
    Tensors(#[from] TensorsError),
}

impl ResumeError {
    /// Whether the checkpoint is damaged, and not one of another version or run.
    pub(crate) fn is_damage(&self) -> bool {
        match self {
            ResumeError::State(error) => error.is_damage(),
            ResumeError::Tensors(_) => true,
        }
    }
}

impl loriot_files::Hint for ResumeError {
    fn hint(&self) -> Option<String> {
        match self {
            ResumeError::State(error) => error.hint(),
            ResumeError::Tensors(error) => error.hint(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::CheckpointEvery;

    #[test]
    fn how_often_is_epoch_or_a_number_of_steps() {
        assert_eq!("epoch".parse(), Ok(CheckpointEvery::Epoch));
        assert_eq!("50".parse(), Ok(CheckpointEvery::Steps(50)));
        assert!("0".parse::<CheckpointEvery>().is_err());
        assert!("never".parse::<CheckpointEvery>().is_err());
    }
}
