//! Adam with decoupled weight decay (AdamW), and clipping by the global norm.
//!
//! Kingma and Ba, 2015; Loshchilov and Hutter, 2019; betas and epsilon are torch.optim.Adam's. This module has the constants
//! of a step, clipping and the moments' file. Parameters, gradients and moments are kept and changed by the model
//! ([`loriot_encoder::parameters`]); nothing here sees their values.

use crate::tensors::{TensorsError, TensorsFile, write_tensors};
use loriot_encoder::parameters::AdamMoments;
use loriot_encoder::train_model::TrainModel;
use loriot_files::OutputError;
use loriot_kernels::adam::AdamStep;
use std::path::Path;

/// The moments' file in a checkpoint: for each parameter `NAME` the tensors `m.NAME`, the mean of
/// its gradients, and `v.NAME`, the mean of their squares.
pub(crate) const MOMENTS_FILE: &str = "optimiser.safetensors";

/// The optimiser of a run.
#[derive(Debug)]
pub(crate) struct Adam {
    weight_decay: f64,
    max_grad_norm: Option<f64>,
    moments: AdamMoments,
}

impl Adam {
    /// An optimiser of `model` that has seen no gradient yet.
    pub(crate) fn new(model: &TrainModel, weight_decay: f64, max_grad_norm: Option<f64>) -> Adam {
        Adam { weight_decay, max_grad_norm, moments: model.adam_moments() }
    }

    /// Changes every parameter by its gradient, which is clipped first; `step` counts from 1.
    pub(crate) fn step(&mut self, model: &mut TrainModel, step: u32, learning_rate: f64) {
        if let Some(limit) = self.max_grad_norm {
            let factor = clip_factor(model.parameters().gradient_norm(), limit);
            if factor < 1.0 {
                model.scale_gradients(factor as f32);
            }
        }
        let step = AdamStep {
            learning_rate,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: self.weight_decay,
            step,
        };
        model.adam_step(&mut self.moments, &step);
    }

    /// Writes the moments as the new file `path`.
    pub(crate) fn write(&self, path: &Path) -> Result<(), OutputError> {
        write_tensors(path, self.moments.tensors())
    }

    /// Reads the moments that [`Adam::write`] left at `path`.
    pub(crate) fn read(&mut self, path: &Path) -> Result<(), TensorsError> {
        let file = TensorsFile::open(path)?;
        self.moments.read(|name, shape| file.read(name, shape))
    }
}

/// What gradients of this norm are scaled by: `limit / (norm + 1e-6)`, at most 1, as
/// torch.nn.utils.clip_grad_norm_ does it.
fn clip_factor(norm: f64, limit: f64) -> f64 {
    (limit / (norm + 1e-6)).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_gradients_above_the_limit_are_clipped() {
        assert_eq!(clip_factor(0.5, 1.0), 1.0);
        assert!((clip_factor(4.0, 1.0) - 0.25).abs() < 1e-6);
    }
}
