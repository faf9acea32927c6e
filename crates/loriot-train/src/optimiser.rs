//! Adam with decoupled weight decay (AdamW), and clipping by the global norm.
//!
//! Kingma and Ba, 2015; Loshchilov and Hutter, 2019; betas and epsilon are torch.optim.Adam's. The
//! arithmetic of one step is a kernel ([`loriot_kernels::adam`]); here are the moments, their file
//! and the order of things. Each parameter is one unit of work and norms are summed in f64 in the
//! parameters' order, so the number of threads decides nothing.

use crate::tensors::{TensorsError, TensorsFile, write_tensors};
use loriot_encoder::train_model::{Parameter, TrainModel};
use loriot_files::OutputError;
use loriot_kernels::adam::AdamStep;
use std::path::Path;
use std::sync::Mutex;

/// The moments' file in a checkpoint: for each parameter `NAME` the tensors `m.NAME`, the mean of
/// its gradients, and `v.NAME`, the mean of their squares.
pub(crate) const MOMENTS_FILE: &str = "optimiser.safetensors";

/// What the optimiser remembers of one parameter.
#[derive(Debug)]
struct Moments {
    m: Vec<f32>,
    v: Vec<f32>,
}

/// The optimiser of a run.
#[derive(Debug)]
pub(crate) struct Adam {
    weight_decay: f64,
    max_grad_norm: Option<f64>,
    /// One lock a parameter: each is taken by the one thread that has the parameter.
    moments: Vec<Mutex<Moments>>,
}

impl Adam {
    /// An optimiser that has seen no gradient yet.
    pub(crate) fn new(
        parameters: &[Parameter],
        weight_decay: f64,
        max_grad_norm: Option<f64>,
    ) -> Adam {
        let moments = parameters.iter().map(|parameter| {
            let zeros = vec![0.0; parameter.value.len()];
            Mutex::new(Moments { m: zeros.clone(), v: zeros })
        });
        Adam { weight_decay, max_grad_norm, moments: moments.collect() }
    }

    /// Changes every parameter by its gradient; `step` counts from 1.
    pub(crate) fn step(&self, model: &mut TrainModel, step: u32, learning_rate: f64) {
        let gradient_scale = match self.max_grad_norm {
            Some(limit) => clip_factor(gradient_norm(model), limit),
            None => 1.0,
        };
        let isa = model.encoder().isa();
        let adam = AdamStep {
            learning_rate,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: self.weight_decay,
            step,
        };
        model.for_each_parameter(|at, parameter| {
            let mut moments = self.moments[at].lock().expect("no thread panics holding it");
            let Moments { m, v } = &mut *moments;
            if gradient_scale < 1.0 {
                parameter.gradient.iter_mut().for_each(|g| *g *= gradient_scale as f32);
            }
            isa.adam(&mut parameter.value, m, v, &parameter.gradient, &adam);
        });
        model.parameters_changed();
    }

    /// Writes the moments as the new file `path`.
    pub(crate) fn write(
        &mut self,
        parameters: &[Parameter],
        path: &Path,
    ) -> Result<(), OutputError> {
        let moments = self.moments.iter_mut().map(|moments| {
            let Moments { m, v } = moments.get_mut().expect("no thread panics holding it");
            (m.as_slice(), v.as_slice())
        });
        let tensors =
            parameters.iter().zip(moments).flat_map(|(Parameter { name, shape, .. }, (m, v))| {
                let shape = shape.as_slice();
                [(format!("m.{name}"), shape, m), (format!("v.{name}"), shape, v)]
            });
        write_tensors(path, tensors)
    }

    /// Reads the moments that [`Adam::write`] left at `path`.
    pub(crate) fn read(
        &mut self,
        parameters: &[Parameter],
        path: &Path,
    ) -> Result<(), TensorsError> {
        let moments = self.moments.iter_mut().map(|moments| {
            let Moments { m, v } = moments.get_mut().expect("no thread panics holding it");
            (m.as_mut_slice(), v.as_mut_slice())
        });
        let buffers =
            parameters.iter().zip(moments).flat_map(|(Parameter { name, shape, .. }, (m, v))| {
                let shape = shape.as_slice();
                [(format!("m.{name}"), shape, m), (format!("v.{name}"), shape, v)]
            });
        TensorsFile::open(path)?.copy_into(buffers)
    }
}

/// The norm of all gradients together.
fn gradient_norm(model: &mut TrainModel) -> f64 {
    let squares: Vec<Mutex<f64>> = model.parameters().iter().map(|_| Mutex::default()).collect();
    model.for_each_parameter(|at, parameter| {
        *squares[at].lock().expect("no thread panics holding it") =
            sum_of_squares(&parameter.gradient);
    });
    let squares = squares.into_iter().map(|square| square.into_inner().unwrap_or(f64::NAN));
    squares.sum::<f64>().sqrt()
}

fn sum_of_squares(values: &[f32]) -> f64 {
    values.iter().map(|&value| f64::from(value) * f64::from(value)).sum()
}

/// What gradients of this norm are scaled by: `limit / (norm + 1e-6)`, at most 1, as
/// torch.nn.utils.clip_grad_norm_ does it.
fn clip_factor(norm: f64, limit: f64) -> f64 {
    (limit / (norm + 1e-6)).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameter(name: &str, n: usize) -> Parameter {
        Parameter { name: name.into(), shape: vec![n], value: vec![0.0; n], gradient: vec![0.0; n] }
    }

    #[test]
    fn only_gradients_above_the_limit_are_clipped() {
        assert_eq!(clip_factor(0.5, 1.0), 1.0);
        assert!((clip_factor(4.0, 1.0) - 0.25).abs() < 1e-6);
        assert_eq!(sum_of_squares(&[3.0, 4.0]).sqrt(), 5.0);
    }

    #[test]
    fn moments_come_back_bit_for_bit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(MOMENTS_FILE);
        let parameters = [parameter("a", 3), parameter("b", 2)];
        let mut adam = Adam::new(&parameters, 0.0, None);
        adam.moments[0].get_mut().unwrap().m = vec![0.1, -1e-30, f32::MIN_POSITIVE / 8.0];
        adam.moments[1].get_mut().unwrap().v = vec![1.0 / 3.0, 7.0];
        adam.write(&parameters, &path).unwrap();
        let mut back = Adam::new(&parameters, 0.0, None);
        back.read(&parameters, &path).unwrap();
        for (was, is) in adam.moments.into_iter().zip(back.moments) {
            let (was, is) = (was.into_inner().unwrap(), is.into_inner().unwrap());
            assert_eq!((was.m, was.v), (is.m, is.v));
        }
    }

    #[test]
    fn moments_of_another_model_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(MOMENTS_FILE);
        Adam::new(&[parameter("a", 3)], 0.0, None).write(&[parameter("a", 3)], &path).unwrap();
        let error = |parameters: &[Parameter]| {
            Adam::new(parameters, 0.0, None).read(parameters, &path).unwrap_err().to_string()
        };
        assert!(error(&[parameter("a", 4)]).ends_with("`m.a` is F32 [3], expected F32 [4]"));
        assert!(error(&[parameter("b", 3)]).ends_with("`m.b` is missing, expected F32 [3]"));
    }
}
