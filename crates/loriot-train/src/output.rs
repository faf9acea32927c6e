//! The trained model as a folder that every later command, PEFT and Sentence Transformers open.

use loriot_encoder::error::SaveError;
use loriot_encoder::train_model::TrainModel;
use std::path::Path;

/// Writes the model as it is into the existing folder `dir`: an adapter in PEFT's format, or all
/// weights with the base model's other files; beside it the tokeniser and `loriot.json`.
pub(crate) fn write_model(model: &TrainModel, dir: &Path) -> Result<(), SaveError> {
    let encoder = model.encoder();
    encoder.settings().write(dir)?;
    if let Some(weights) = model.weights() {
        let mut folder = encoder.folder().clone();
        folder.prompts = encoder.prompts().clone();
        folder.write(dir, &weights, encoder.tokenizer(), encoder.max_length())?;
    }
    if let Some(adapter) = model.adapter() {
        encoder.tokenizer().write(dir)?;
        adapter.write(dir)?;
    }
    Ok(())
}
