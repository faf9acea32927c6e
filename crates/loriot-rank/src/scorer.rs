//! A fitted scorer, and the scores that it gives.

use crate::features::{List, N_FEATURES, Rarity, features};

/// What a scorer's cosines come from. Another encoder's mean something else.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MadeFor {
    /// SHA-256 of everything that decides a title's vector.
    pub encoder: String,
    /// The prompt before a query.
    pub query_prompt: String,
}

/// A score from which on a share of the results is right.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Threshold {
    /// The share that was wanted.
    pub precision: f64,
    /// The score.
    pub score: f64,
}

/// One feature's part in the score: `weight·(x − mean) / scale`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Weighed {
    /// Mean over the rows that it was fitted on, which also stands for a value that is missing.
    pub mean: f64,
    /// Standard deviation over them; a feature that never varied has 0 and no part.
    pub scale: f64,
    /// What one standard deviation adds to the score.
    pub weight: f64,
}

/// An estimate of the label from the features of a query and a title.
///
/// ```text
/// score = (1 − strength)·(from_cosine.0 + from_cosine.1·cosine) + strength·(intercept + Σ weight·(x − mean) / scale)
/// ```
///
/// With strength 0 the order is the cosine's.
#[derive(Clone, Debug, PartialEq)]
pub struct Scorer {
    /// What its cosines come from.
    pub made_for: MadeFor,
    /// Intercept and slope (above 0) of the label by the cosine alone.
    pub from_cosine: (f64, f64),
    /// The score where every feature has its mean.
    pub intercept: f64,
    /// The features in the order of [`crate::features::NAMES`].
    pub features: [Weighed; N_FEATURES],
    /// How rare words are.
    pub rarity: Rarity,
    /// How much the features count beside the cosine alone, from 0 to 1.
    pub strength: f64,
    /// A score for a wanted precision, where one was asked for.
    pub threshold: Option<Threshold>,
}

/// The two estimates of which a score is mixed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimates {
    /// From the cosine alone.
    pub cosine: f64,
    /// From all features.
    pub features: f64,
}

impl Estimates {
    /// The score at a strength from 0 to 1.
    pub fn mix(self, strength: f64) -> f64 {
        (1.0 - strength) * self.cosine + strength * self.features
    }
}

impl Scorer {
    /// Both estimates of each result.
    pub fn estimates(&self, list: &List<'_>) -> Vec<Estimates> {
        let of_result = |(x, cosine): (&[Option<f64>; N_FEATURES], &f64)| {
            let parts = x.iter().zip(&self.features).map(|(x, weighed)| weighed.part(*x));
            Estimates {
                cosine: self.from_cosine.0 + self.from_cosine.1 * cosine,
                features: self.intercept + parts.sum::<f64>(),
            }
        };
        features(list, &self.rarity).iter().zip(list.cosines).map(of_result).collect()
    }

    /// The score of each result.
    pub fn scores(&self, list: &List<'_>) -> Vec<f64> {
        self.estimates(list).into_iter().map(|both| both.mix(self.strength)).collect()
    }
}

impl Weighed {
    /// `x` less its mean, in standard deviations; 0 where it is missing or never varied.
    pub(crate) fn standardised(&self, x: Option<f64>) -> f64 {
        match x {
            Some(x) if self.scale > 0.0 => (x - self.mean) / self.scale,
            _ => 0.0,
        }
    }

    fn part(&self, x: Option<f64>) -> f64 {
        self.weight * self.standardised(x)
    }
}
