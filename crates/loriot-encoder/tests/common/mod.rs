//! What the golden tests share: the files that PyTorch left, and how to compare with them.

#![allow(dead_code, reason = "each test binary uses its part")]

use loriot_encoder::{
    DropoutRates, Encoder, EncoderOptions, Precision, Text, TextKey, TrainModel, Trained,
};
use loriot_kernels::Isa;
use safetensors::{Dtype, SafeTensors};

#[path = "../../../../tests/rust/files.rs"]
mod files;
pub(crate) use files::golden_path;

/// A golden file's tensors. A missing file fails.
pub(crate) struct Golden(Vec<u8>);

impl Golden {
    pub(crate) fn open(name: &str) -> Golden {
        let path = golden_path(name);
        Golden(std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
    }

    fn tensors(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.0).unwrap()
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.tensors().names().into_iter().map(str::to_owned).collect()
    }

    pub(crate) fn floats(&self, name: &str) -> Vec<f64> {
        let tensors = self.tensors();
        let tensor = tensors.tensor(name).unwrap_or_else(|_| panic!("no golden tensor `{name}`"));
        let bytes = tensor.data();
        match tensor.dtype() {
            Dtype::F64 => bytes.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b)).collect(),
            Dtype::F32 => {
                bytes.as_chunks().0.iter().map(|b| f64::from(f32::from_le_bytes(*b))).collect()
            }
            other => panic!("`{name}` is {other:?}"),
        }
    }

    pub(crate) fn integers(&self, name: &str) -> Vec<usize> {
        let tensors = self.tensors();
        let tensor = tensors.tensor(name).unwrap_or_else(|_| panic!("no golden tensor `{name}`"));
        let words = tensor.data().as_chunks().0.iter();
        match tensor.dtype() {
            Dtype::I64 => words.map(|b| i64::from_le_bytes(*b) as usize).collect(),
            other => panic!("`{name}` is {other:?}"),
        }
    }

    /// Packed ids cut into texts.
    pub(crate) fn texts(&self) -> Vec<Vec<u32>> {
        let (ids, mut at) = (self.integers("ids"), 0);
        let mut next = |length| {
            at += length;
            ids[at - length..at].iter().map(|&id| id as u32).collect()
        };
        self.integers("lengths").into_iter().map(&mut next).collect()
    }
}

/// The workspace's comparison: relative *and* absolute, reports the worst element.
#[track_caller]
pub(crate) fn assert_close(what: &str, got: &[f32], want: &[f64], rtol: f64, atol: f64) {
    assert_eq!(got.len(), want.len(), "{what}: lengths differ");
    let excess = |at: usize| (f64::from(got[at]) - want[at]).abs() - (atol + rtol * want[at].abs());
    if let Some(at) = (0..got.len()).max_by(|&i, &j| excess(i).total_cmp(&excess(j))) {
        assert!(excess(at) <= 0.0, "{what}[{at}]: got {}, want {}", got[at], want[at]);
    }
}

/// The largest of these, 0 for none. A NaN fails: `f64::max` would let it pass for a small number.
#[track_caller]
pub(crate) fn largest(values: impl IntoIterator<Item = f64>) -> f64 {
    values.into_iter().fold(0.0, |largest, value| {
        assert!(!value.is_nan(), "there is a NaN");
        largest.max(value)
    })
}

/// ‖x‖.
pub(crate) fn norm(x: impl IntoIterator<Item = f64>) -> f64 {
    x.into_iter().map(|x| x * x).sum::<f64>().sqrt()
}

/// The instruction sets that these tests run on: the one that `LORIOT_ISA` names, or all there are.
pub(crate) fn isas() -> Vec<Isa> {
    match std::env::var_os(loriot_kernels::isa::ISA_VARIABLE) {
        Some(_) => vec![Isa::from_env().unwrap()],
        None => Isa::available(),
    }
}

/// Every level of this CPU with every precision.
pub(crate) fn isas_and_precisions() -> impl Iterator<Item = (Isa, Precision)> {
    isas().into_iter().flat_map(|isa| Precision::ALL.map(|precision| (isa, precision)))
}

/// The tiny golden model's folder.
pub(crate) fn tiny() -> String {
    golden_path("tiny_bert").to_str().unwrap().to_owned()
}

pub(crate) fn options(model: &str, isa: Isa) -> EncoderOptions {
    EncoderOptions { threads: 2, ..EncoderOptions::new(model, isa) }
}

pub(crate) fn open(model: &str, isa: Isa) -> Encoder {
    Encoder::open(&options(model, isa)).unwrap()
}

/// Queries, then products, of as many pairs.
pub(crate) fn pair_texts(ids: &[Vec<u32>]) -> Vec<Text<'_>> {
    pair_texts_from(ids, 0)
}

/// [`pair_texts`] that are the pairs from `first` on in their batch.
pub(crate) fn pair_texts_from(ids: &[Vec<u32>], first: u32) -> Vec<Text<'_>> {
    let (queries, products) = ids.split_at(ids.len() / 2);
    let queries = (first..).zip(queries).map(|(row, ids)| Text { ids, key: TextKey::query(row) });
    let products =
        (first..).zip(products).map(|(row, ids)| Text { ids, key: TextKey::product(row, 0) });
    queries.chain(products).collect()
}

/// The reference's loss and its derivative by the unit vectors, queries before products.
///
/// `mean((y·(1−cos) + max((1−y)·cos, 0))²)`
pub(crate) fn loss_and_gradient(unit_bd: &[f32], labels: &[f64], d: usize) -> (f64, Vec<f32>) {
    let n = labels.len();
    let (q, p) = unit_bd.split_at(n * d);
    let mut dunit_bd = vec![0.0; 2 * n * d];
    let mut loss = 0.0;
    for (at, &y) in labels.iter().enumerate() {
        let (q, p) = (&q[at * d..][..d], &p[at * d..][..d]);
        let cos: f64 = q.iter().zip(p).map(|(q, p)| f64::from(*q) * f64::from(*p)).sum();
        let negative = (1.0 - y) * cos;
        let inner = y * (1.0 - cos) + negative.max(0.0);
        loss += inner * inner / n as f64;
        let slope = -y + if negative > 0.0 { 1.0 - y } else { 0.0 };
        let dcos = 2.0 * inner * slope / n as f64;
        for k in 0..d {
            dunit_bd[at * d + k] = (dcos * f64::from(p[k])) as f32;
            dunit_bd[(n + at) * d + k] = (dcos * f64::from(q[k])) as f32;
        }
    }
    (loss, dunit_bd)
}

/// One forward and backward pass without dropout.
pub(crate) fn gradients(
    encoder: Encoder,
    trained: Trained,
    ids: &[Vec<u32>],
    labels: &[f64],
) -> (f64, TrainModel) {
    let d = encoder.dim();
    let mut model = TrainModel::new(encoder, trained, DropoutRates::NONE, 0).unwrap();
    let unit_bd = model.forward(&pair_texts(ids), 0);
    let (loss, dunit_bd) = loss_and_gradient(&unit_bd, labels, d);
    model.backward(&dunit_bd);
    (loss, model)
}

/// all-MiniLM-L6-v2, as `--model` takes it.
pub(crate) fn minilm() -> String {
    files::minilm().to_str().unwrap().to_owned()
}

/// A golden JSON file.
pub(crate) fn golden_json(name: &str) -> serde_json::Value {
    let path = golden_path(name);
    let text = std::fs::read_to_string(&path);
    serde_json::from_str(&text.unwrap_or_else(|error| panic!("{}: {error}", path.display())))
        .unwrap()
}

/// ‖g−g'‖ ≤ 1e-4·‖g‖ per tensor, plus a floor of 1e-6 of the largest: key biases are zero in theory.
#[track_caller]
pub(crate) fn assert_gradients(what: &str, model: &TrainModel, golden: &Golden, prefix: &str) {
    let want_of = |name: &str| golden.floats(&format!("{prefix}.grad.{name}"));
    let largest = largest(model.parameters().iter().map(|p| norm(want_of(p.name()))));
    for parameter in model.parameters().iter() {
        let want = want_of(parameter.name());
        assert_eq!(parameter.gradient().len(), want.len(), "{}", parameter.name());
        let gradient = parameter.gradient();
        let difference = gradient.iter().zip(&want).map(|(g, w)| f64::from(*g) - w);
        let (error, size) = (norm(difference), norm(want.iter().copied()));
        assert!(
            error <= 1e-4 * size + 1e-6 * largest,
            "{what}, {}: off by {error:e} of {size:e}",
            parameter.name()
        );
    }
    let n_golden =
        golden.names().iter().filter(|n| n.starts_with(&format!("{prefix}.grad."))).count();
    assert_eq!(model.parameters().len(), n_golden, "{what}: every gradient is compared");
}
