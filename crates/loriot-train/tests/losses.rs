//! The losses and their derivatives: against sentence-transformers' (`tests/golden/losses.json`), against central
//! differences where it has no such loss, and whatever the order of the rows.

#![allow(clippy::unwrap_used, reason = "a test helper's failure is the test's")]

mod support;

use loriot_kernels::random::SplitMix64;
use loriot_train::Rows;
use loriot_train::loss::{Batch, GradedLists, LossGradient, LossName, ProductWords, StepSize};
use std::collections::BTreeMap;
use support::golden;

#[derive(serde::Deserialize)]
struct Case {
    dim: usize,
    queries: Vec<f64>,
    candidates: Vec<f64>,
    n_candidates: Vec<usize>,
    labels: Vec<f32>,
    losses: BTreeMap<LossName, Measured>,
}

#[derive(serde::Deserialize)]
struct Measured {
    value: f64,
    dqueries: Vec<f64>,
    dcandidates: Vec<f64>,
}

/// Rows whose texts are all different.
fn rows(n_candidates: &[usize], labels: &[f32]) -> Rows {
    let mut rows = Rows::default();
    let mut next = 0;
    for (row, &n) in n_candidates.iter().enumerate() {
        rows.push(row as u32, (next..next + n).map(|at| (at as u32, labels[at])));
        next += n;
    }
    rows
}

/// What a run would have fitted, and products that share words.
fn lists() -> GradedLists {
    let products = [vec![1, 2, 3], vec![2, 3, 4], vec![5], vec![5, 6], vec![7]];
    GradedLists { words: ProductWords::new(&products).into(), ..GradedLists::default() }
}

fn narrow(x: &[f64]) -> Vec<f32> {
    x.iter().map(|&x| x as f32).collect()
}

/// What is left of a derivative by a unit vector on the sphere: theirs has no part along the vector.
fn on_sphere(gradient_nd: &[f32], unit_nd: &[f64], dim: usize) -> Vec<f64> {
    let vectors = gradient_nd.chunks(dim).zip(unit_nd.chunks(dim));
    let project = |(gradient_d, unit_d): (&[f32], &[f64])| {
        let along: f64 = gradient_d.iter().zip(unit_d).map(|(&g, u)| f64::from(g) * u).sum();
        let parts = gradient_d.iter().zip(unit_d).map(move |(&g, u)| f64::from(g) - along * u);
        parts.collect::<Vec<_>>()
    };
    vectors.flat_map(project).collect()
}

fn norm(x: &[f64]) -> f64 {
    x.iter().map(|x| x * x).sum::<f64>().sqrt()
}

#[track_caller]
fn assert_near(got: &[f64], want: &[f64], what: &str) {
    let difference: Vec<f64> = got.iter().zip(want).map(|(a, b)| a - b).collect();
    assert_eq!(got.len(), want.len(), "{what}");
    assert!(norm(&difference) <= 1e-4 * norm(want) + 1e-6, "{what}: {got:?}, not {want:?}");
}

#[test]
fn losses_have_the_values_and_gradients_of_sentence_transformers() {
    let cases = std::fs::read_to_string(golden("losses.json")).unwrap();
    let cases: Vec<Case> = serde_json::from_str(&cases).unwrap();
    let mut seen = std::collections::BTreeSet::new();
    for (at, case) in cases.iter().enumerate() {
        let rows = rows(&case.n_candidates, &case.labels);
        let (queries, candidates) = (narrow(&case.queries), narrow(&case.candidates));
        let batch = Batch::of_each(&rows, &queries, &candidates, case.dim);
        for (name, want) in &case.losses {
            let what = format!("case {at}, {name}");
            let loss = name.loss(&lists());
            let LossGradient { loss: value, dquery_rd, dcandidate_cd } =
                loss.gradient(&batch, StepSize::of(&rows));
            assert!((value - want.value).abs() <= 1e-5 * want.value.max(1.0), "{what}: {value}");
            assert!((loss.value(&batch) - value).abs() <= 1e-12 * value.max(1.0), "{what}");
            let got = on_sphere(&dquery_rd, &case.queries, case.dim);
            assert_near(&got, &want.dqueries, &what);
            let got = on_sphere(&dcandidate_cd, &case.candidates, case.dim);
            assert_near(&got, &want.dcandidates, &what);
            seen.insert(*name);
        }
    }
    let of_our_own = LossName::ALL.into_iter().filter(|name| !seen.contains(name));
    let fitted = [LossName::Bce, LossName::Ranknet, LossName::GradedLists];
    let ours = [LossName::CosineSquared].into_iter().chain(fitted);
    assert!(of_our_own.eq(ours));
}

/// A query comes twice, and so does a product that is relevant to one query and not to another.
fn repeated() -> Rows {
    let mut rows = Rows::default();
    rows.push(0, [(0, 1.0), (1, 0.0)]);
    rows.push(1, [(2, 1.0), (0, 0.25)]);
    rows.push(0, [(3, 0.75), (0, 1.0)]);
    rows.push(2, [(1, 1.0)]);
    rows.push(3, [(4, 0.0)]);
    rows
}

const DIM: usize = 6;

/// Unit vectors that are no function of their text, as with dropout.
fn noise(n: usize) -> Vec<f32> {
    let mut random = SplitMix64::new(3);
    let mut vector = || -> Vec<f64> {
        let values =
            (0..DIM).map(|_| (random.next_u64() >> 11) as f64 / (1_u64 << 52) as f64 - 1.0);
        values.collect()
    };
    (0..n)
        .flat_map(|_| {
            let vector = vector();
            let norm = norm(&vector);
            vector.into_iter().map(move |x| (x / norm) as f32)
        })
        .collect()
}

#[test]
fn derivatives_are_the_central_differences_of_the_values() {
    let rows = repeated();
    let step = StepSize::of(&rows);
    let vectors = noise(step.n_rows + step.n_candidates);
    let value = |name: LossName, vectors: &[f32]| {
        let (queries, candidates) = vectors.split_at(step.n_rows * DIM);
        name.loss(&lists()).value(&Batch::of_each(&rows, queries, candidates, DIM))
    };
    for name in LossName::ALL {
        let (queries, candidates) = vectors.split_at(step.n_rows * DIM);
        let batch = Batch::of_each(&rows, queries, candidates, DIM);
        let got = name.loss(&lists()).gradient(&batch, step);
        let got = [got.dquery_rd, got.dcandidate_cd].concat();
        assert!(got.iter().any(|&g| g != 0.0), "{name}");
        for at in 0..vectors.len() {
            let mut probe = vectors.clone();
            // Values are f64 functions of f32 vectors, so that the step is what f32 makes of it.
            probe[at] = vectors[at] + 1e-3;
            let (above, high) = (value(name, &probe), f64::from(probe[at]));
            probe[at] = vectors[at] - 1e-3;
            let (below, low) = (value(name, &probe), f64::from(probe[at]));
            let numeric = (above - below) / (high - low);
            // The differences are right to O(h²) times a third derivative of up to 20³.
            let error = (f64::from(got[at]) - numeric).abs();
            assert!(error <= 2e-3 * numeric.abs() + 2e-3, "{name}[{at}]: {}, {numeric}", got[at]);
        }
    }
}

#[test]
fn a_step_that_says_nothing_has_no_loss() {
    for (name, label) in [
        (LossName::Cosent, 1.0),
        (LossName::Angle, 0.0),
        (LossName::MultipleNegativesRanking, 0.0),
        (LossName::MultipleNegativesSymmetricRanking, 0.5),
        (LossName::OnlineContrastive, 0.5),
    ] {
        let rows = rows(&[1, 1, 1], &[label; 3]);
        let vectors = noise(6);
        let batch = Batch::of_each(&rows, &vectors[..3 * DIM], &vectors[3 * DIM..], DIM);
        let got = name.loss(&lists()).gradient(&batch, StepSize::of(&rows));
        assert_eq!(got.loss, 0.0, "{name}");
        assert!(got.dquery_rd.iter().chain(&got.dcandidate_cd).all(|&g| g == 0.0), "{name}");
    }
}

/// Relevant pairs of one query are not each other's negatives, nor is another appearance of a relevant text.
#[test]
fn what_is_relevant_by_another_row_is_no_negative() {
    let vectors = noise(10);
    let value = |rows: &Rows| {
        let n = StepSize::of(rows).n_candidates;
        let (queries, candidates) = (&vectors[..rows.len() * DIM], &vectors[4 * DIM..][..n * DIM]);
        LossName::MultipleNegativesRanking
            .loss(&lists())
            .value(&Batch::of_each(rows, queries, candidates, DIM))
    };
    let mut one = Rows::default();
    one.push(0, [(0, 1.0), (1, 0.0)]);
    let mut same_text = one.clone();
    same_text.push(1, [(0, 0.0)]);
    assert_eq!(value(&one), value(&same_text), "row 1 has no positive, and its text is row 0's");
    let mut other_text = one.clone();
    other_text.push(1, [(2, 0.0)]);
    assert!(value(&one) < value(&other_text), "a negative more");
}
