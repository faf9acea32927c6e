//! From judged lists to a scorer.

use crate::features::{COSINE, List, N_FEATURES, Rarity, features};
use crate::ridge::Moments;
use crate::scorer::{MadeFor, Scorer, Weighed};
use loriot_files::Hint;

/// Penalties that are tried; features have a standard deviation of 1.
const LAMBDAS: [f64; 6] = [1e-6, 1e-4, 1e-3, 1e-2, 1e-1, 1.0];
/// Parts of the lists of which each is left out once.
const N_FOLDS: usize = 5;
/// The least slope of the label by the cosine: an estimate by the cosine alone keeps its order.
const LEAST_SLOPE: f64 = 1e-3;

/// A judged list.
#[derive(Clone, Copy, Debug)]
pub struct FitList<'a> {
    /// The query and its rows.
    pub list: List<'a>,
    /// What the score is to estimate: the label of each row, or its grade, from 0 to 1.
    pub targets: &'a [f64],
}

/// Which differences between rows the weights are fitted to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Spread {
    /// All: easy queries against hard ones as well, which a threshold needs.
    #[default]
    Pooled,
    /// Those between rows of one list alone.
    WithinLists,
}

/// A scorer and how it came about.
#[derive(Clone, Debug)]
pub struct Fitted {
    /// The scorer, at strength 1.
    pub scorer: Scorer,
    /// The penalty with the least squared error on lists left out.
    pub lambda: f64,
    /// Rows that it was fitted on.
    pub n_rows: usize,
}

/// The lists tell nothing.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum FitError {
    /// There are too few lists to leave some out.
    #[error("a scorer is fitted on {N_FOLDS} lists at least, found {0}")]
    TooFewLists(usize),
    /// All rows, or all rows of each list, count alike.
    #[error("{}", match .0 {
        Spread::Pooled => "all rows to fit on have one label",
        Spread::WithinLists => "in no list to fit on two rows have different labels",
    })]
    NoSpread(Spread),
}

impl Hint for FitError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            FitError::TooFewLists(_) => "judge more queries: a hundred, of ten titles each".into(),
            FitError::NoSpread(_) => "give rows of which some are right and some are not".into(),
        })
    }
}

/// Fits a scorer. The lists' titles, each once, say how rare words are.
pub fn fit<'a>(
    lists: &[FitList<'a>],
    titles: impl IntoIterator<Item = &'a str>,
    made_for: MadeFor,
    spread: Spread,
) -> Result<Fitted, FitError> {
    if lists.len() < N_FOLDS {
        return Err(FitError::TooFewLists(lists.len()));
    }
    let rarity = Rarity::of(titles);
    let values: Vec<Vec<[Option<f64>; N_FEATURES]>> =
        lists.iter().map(|list| features(&list.list, &rarity)).collect();
    let mut weighed: [Weighed; N_FEATURES] = std::array::from_fn(|at| {
        let of_rows = values.iter().flatten().filter_map(|row| row[at]);
        standard(&of_rows.collect::<Vec<_>>())
    });
    let targets: Vec<f64> = lists.iter().flat_map(|list| list.targets).copied().collect();
    let mean_target = standard(&targets).mean;

    let mut folds = [Moments::default(); N_FOLDS];
    let mut has_spread = false;
    for (at, (list, values)) in lists.iter().zip(&values).enumerate() {
        assert_eq!(list.targets.len(), values.len(), "a target for each row");
        let mut rows: Vec<[f64; N_FEATURES]> = values
            .iter()
            .map(|row| std::array::from_fn(|at| weighed[at].standardised(row[at])))
            .collect();
        let mut targets: Vec<f64> = list.targets.iter().map(|y| y - mean_target).collect();
        if spread == Spread::WithinLists {
            centre(&mut rows, &mut targets);
        }
        for (x, y) in rows.iter().zip(&targets) {
            has_spread |= y.abs() > 1e-9;
            folds[at % N_FOLDS].add(x, *y);
        }
    }
    if !has_spread {
        return Err(FitError::NoSpread(spread));
    }
    let all = folds.iter().fold(Moments::default(), |sum, fold| sum.plus(1.0, fold));
    let left_out = |lambda: f64| -> f64 {
        folds.iter().map(|fold| fold.squared_error(&all.plus(-1.0, fold).solve(lambda))).sum()
    };
    let errors = LAMBDAS.map(|lambda| (lambda, left_out(lambda)));
    let lambda = errors.into_iter().min_by(|a, b| a.1.total_cmp(&b.1)).map_or(1.0, |best| best.0);
    for (weighed, weight) in weighed.iter_mut().zip(all.solve(lambda)) {
        weighed.weight = weight;
    }

    let cosine = weighed[COSINE];
    let slope = match cosine.scale > 0.0 {
        true => (all.slope(COSINE) / cosine.scale).max(LEAST_SLOPE),
        false => LEAST_SLOPE,
    };
    let scorer = Scorer {
        made_for,
        from_cosine: (mean_target - slope * cosine.mean, slope),
        intercept: mean_target,
        features: weighed,
        rarity,
        strength: 1.0,
        threshold: None,
    };
    Ok(Fitted { scorer, lambda, n_rows: targets.len() })
}

/// Mean and standard deviation, and no weight yet.
fn standard(values: &[f64]) -> Weighed {
    let n = values.len().max(1) as f64;
    let mean = values.iter().sum::<f64>() / n;
    let variance = values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
    // Below this a feature is one number with rounding.
    let scale = if variance > 1e-18 { variance.sqrt() } else { 0.0 };
    Weighed { mean, scale, weight: 0.0 }
}

/// Takes the list's means away.
fn centre(rows: &mut [[f64; N_FEATURES]], targets: &mut [f64]) {
    let n = targets.len().max(1) as f64;
    for at in 0..N_FEATURES {
        let mean = rows.iter().map(|row| row[at]).sum::<f64>() / n;
        rows.iter_mut().for_each(|row| row[at] -= mean);
    }
    let mean = targets.iter().sum::<f64>() / n;
    targets.iter_mut().for_each(|y| *y -= mean);
}
