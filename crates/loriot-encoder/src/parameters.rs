//! The trained tensors of a model, their gradients and Adam's moments of them.
//!
//! They are kept where the model computes. An optimiser says what is to be done with all of them together; values are
//! copied out, and set, by name, for files and tests. So nothing outside depends on where they are kept. A parameter is
//! one unit of work, and norms are summed in f64 in the order of the parameters, so results do not depend on the number of
//! threads.

use crate::workers::Workers;
use loriot_kernels::Isa;
use loriot_kernels::adam::AdamStep;
use std::borrow::Cow;

/// A trained tensor and its gradient.
#[derive(Clone, Debug)]
pub struct Parameter {
    name: String,
    shape: Vec<usize>,
    pub(crate) value: Vec<f32>,
    pub(crate) gradient: Vec<f32>,
    /// What the learning rate is multiplied with for it.
    pub(crate) rate: f64,
}

impl Parameter {
    /// A parameter whose gradient is 0.
    ///
    /// # Panics
    ///
    /// If `value` does not have that shape.
    pub(crate) fn new(name: String, shape: Vec<usize>, value: Vec<f32>) -> Parameter {
        assert_eq!(value.len(), shape.iter().product::<usize>(), "{name}");
        Parameter { gradient: vec![0.0; value.len()], name, shape, value, rate: 1.0 }
    }

    /// Its key in the files that training writes: PEFT's for an adapter, `transformers`' for a weight.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its shape, row-major.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Its values as they are.
    pub fn value(&self) -> Cow<'_, [f32]> {
        Cow::Borrowed(&self.value)
    }

    /// Derivative of the loss by its values, summed over the backward passes since gradients were last set to 0.
    pub fn gradient(&self) -> Cow<'_, [f32]> {
        Cow::Borrowed(&self.gradient)
    }
}

/// All trained tensors of a model, in the order of its files.
#[derive(Debug)]
pub struct Parameters {
    pub(crate) all: Vec<Parameter>,
    isa: Isa,
    workers: Workers,
}

impl Parameters {
    pub(crate) fn new(all: Vec<Parameter>, isa: Isa, workers: Workers) -> Parameters {
        Parameters { all, isa, workers }
    }

    /// Each in turn.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Parameter> {
        self.all.iter()
    }

    /// How many tensors there are.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Whether nothing is trained.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// How many numbers are trained.
    pub fn n_values(&self) -> usize {
        self.all.iter().map(|parameter| parameter.value.len()).sum()
    }

    /// Whether every value is a finite number.
    pub fn are_finite(&self) -> bool {
        self.all.iter().flat_map(|parameter| &parameter.value).all(|value| value.is_finite())
    }

    /// The norm of all gradients together.
    pub fn gradient_norm(&self) -> f64 {
        let square = |parameter: &Parameter| -> f64 {
            parameter.gradient.iter().map(|&g| f64::from(g) * f64::from(g)).sum()
        };
        self.workers.map(self.all.iter().collect(), square).into_iter().sum::<f64>().sqrt()
    }

    /// Sets every gradient to 0.
    pub(crate) fn zero_gradients(&mut self) {
        self.for_each(|parameter| parameter.gradient.fill(0.0));
    }

    /// Multiplies every gradient by `factor`.
    pub(crate) fn scale_gradients(&mut self, factor: f32) {
        self.for_each(|parameter| parameter.gradient.iter_mut().for_each(|g| *g *= factor));
    }

    /// One step of Adam; see [`Isa::adam`].
    ///
    /// # Panics
    ///
    /// If `moments` are those of other parameters.
    pub(crate) fn adam_step(&mut self, moments: &mut AdamMoments, step: &AdamStep) {
        assert_eq!(self.all.len(), moments.all.len(), "moments of as many parameters");
        let isa = self.isa;
        let pairs = self.all.iter_mut().zip(&mut moments.all).collect();
        self.workers.for_each(pairs, |(parameter, moments): (&mut Parameter, &mut Moments)| {
            let Moments { m, v, .. } = moments;
            let learning_rate = parameter.rate * step.learning_rate;
            let step = AdamStep { learning_rate, ..*step };
            isa.adam(&mut parameter.value, m, v, &parameter.gradient, &step);
        });
    }

    /// Sets every value to what `read` gives for its name and shape; stops at the first error.
    ///
    /// # Panics
    ///
    /// If `read` gives another number of values than the shape asks for.
    pub(crate) fn read<E>(
        &mut self,
        mut read: impl FnMut(&str, &[usize]) -> Result<Vec<f32>, E>,
    ) -> Result<(), E> {
        for Parameter { name, shape, value, .. } in &mut self.all {
            set(value, read(name, shape)?);
        }
        Ok(())
    }

    fn for_each(&mut self, change: impl Fn(&mut Parameter) + Sync + Send) {
        self.workers.for_each(self.all.iter_mut().collect(), change);
    }
}

/// What Adam remembers of a model's parameters: for each, the means of its gradients and of their squares, which start at
/// 0.
#[derive(Debug)]
pub struct AdamMoments {
    all: Vec<Moments>,
}

#[derive(Debug)]
struct Moments {
    parameter: String,
    shape: Vec<usize>,
    m: Vec<f32>,
    v: Vec<f32>,
}

impl AdamMoments {
    /// The moments of parameters that have not moved yet.
    pub(crate) fn new(parameters: &Parameters) -> AdamMoments {
        let moments = |parameter: &Parameter| {
            let zeros = || vec![0.0; parameter.value.len()];
            let (parameter, shape) = (parameter.name.clone(), parameter.shape.clone());
            Moments { parameter, shape, m: zeros(), v: zeros() }
        };
        AdamMoments { all: parameters.iter().map(moments).collect() }
    }

    /// Name, shape and values of each tensor: `m.NAME`, the mean of the gradients of parameter `NAME`, and `v.NAME`, the
    /// mean of their squares.
    pub fn tensors(&self) -> impl Iterator<Item = (String, &[usize], Cow<'_, [f32]>)> {
        self.all.iter().flat_map(|Moments { parameter, shape, m, v }| {
            [('m', m), ('v', v)].map(|(moment, values)| {
                (format!("{moment}.{parameter}"), shape.as_slice(), Cow::from(values))
            })
        })
    }

    /// Sets every tensor to what `read` gives for its name and shape; stops at the first error, with some of them set.
    ///
    /// # Panics
    ///
    /// If `read` gives another number of values than the shape asks for.
    pub fn read<E>(
        &mut self,
        mut read: impl FnMut(&str, &[usize]) -> Result<Vec<f32>, E>,
    ) -> Result<(), E> {
        for Moments { parameter, shape, m, v } in &mut self.all {
            for (moment, values) in [('m', m), ('v', v)] {
                set(values, read(&format!("{moment}.{parameter}"), shape)?);
            }
        }
        Ok(())
    }
}

fn set(values: &mut Vec<f32>, to: Vec<f32>) {
    assert_eq!(to.len(), values.len(), "as many values as the shape asks for");
    *values = to;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    fn parameters(n_threads: usize) -> Parameters {
        let all = [("a", 3, 0.5), ("b", 4, -1.0)]
            .map(|(name, n, value)| Parameter::new(name.into(), vec![n], vec![value; n]));
        let mut parameters =
            Parameters::new(all.to_vec(), Isa::best(), Workers::start(n_threads).unwrap());
        parameters.all[0].gradient = vec![1.0, 2.0, 2.0];
        parameters.all[1].gradient = vec![4.0, 0.0, 0.0, 0.0];
        parameters
    }

    fn step() -> AdamStep {
        AdamStep {
            learning_rate: 0.1,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.0,
            step: 1,
        }
    }

    #[test]
    fn norm_scale_and_zero_are_those_of_all_gradients_together() {
        let mut parameters = parameters(2);
        assert_eq!(parameters.n_values(), 7);
        assert_eq!(parameters.gradient_norm(), 5.0);
        parameters.scale_gradients(0.5);
        assert_eq!(parameters.gradient_norm(), 2.5);
        assert_eq!(*parameters.all[0].gradient(), [0.5, 1.0, 1.0]);
        parameters.zero_gradients();
        assert_eq!(parameters.gradient_norm(), 0.0);
    }

    #[test]
    fn an_adam_step_moves_each_value_against_its_gradient_by_the_rate() {
        for n_threads in [1, 2] {
            let mut parameters = parameters(n_threads);
            let mut moments = AdamMoments::new(&parameters);
            parameters.adam_step(&mut moments, &step());
            // In Adam's first step m/√v is the gradient's sign.
            let near = |got: f32, want: f32| assert!((got - want).abs() < 1e-6, "{got}");
            parameters.all[0].value.iter().for_each(|&value| near(value, 0.4));
            near(parameters.all[1].value[0], -1.1);
            near(parameters.all[1].value[1], -1.0);
            let names: Vec<String> = moments.tensors().map(|(name, _, _)| name).collect();
            assert_eq!(names, ["m.a", "v.a", "m.b", "v.b"]);
        }
    }

    #[test]
    fn what_was_written_is_read_back_by_name() {
        let (mut parameters, other) = (parameters(1), parameters(1));
        let (mut moments, mut back) = (AdamMoments::new(&parameters), AdamMoments::new(&other));
        parameters.adam_step(&mut moments, &step());
        let written: std::collections::HashMap<String, Vec<f32>> =
            moments.tensors().map(|(name, _, values)| (name, values.into_owned())).collect();
        back.read(|name, _| Ok::<_, Infallible>(written[name].clone())).unwrap();
        assert!(back.tensors().eq(moments.tensors()));
        parameters.read(|_, shape| Ok::<_, Infallible>(vec![7.0; shape[0]])).unwrap();
        assert_eq!(*parameters.all[1].value(), [7.0; 4]);
        assert_eq!(parameters.read(|name, _| Err(name.to_owned())), Err("a".to_owned()));
    }

    #[test]
    fn a_value_that_is_no_number_is_noticed() {
        let mut parameters = parameters(1);
        assert!(parameters.are_finite());
        parameters.all[1].value[2] = f32::NAN;
        assert!(!parameters.are_finite());
    }
}
