//! A scorer's file: JSON, format version 1, at most 64 MiB.
//!
//! ```text
//! format      "loriot scorer"
//! version     1
//! made_for    encoder: SHA-256 of what decides a title's vector; query_prompt
//! from_cosine [intercept, slope] of the label by the cosine alone
//! intercept   the score where every feature has its mean
//! features    name, mean, scale and weight of each, in the order of `features::NAMES`
//! strength    how much the features count beside the cosine alone, 0 to 1
//! threshold   precision and score, or null
//! n_titles    titles whose words were counted
//! words       of each word in two titles or more, in how many
//! ```
//!
//! A change to this table needs a new version, and a test that still reads a file of the old one.

use crate::features::{N_FEATURES, NAMES, Rarity};
use crate::scorer::{MadeFor, Scorer, Threshold, Weighed};
use loriot_files::{Hint, OutputError, ReadFileError, parse_json, read_limited, write_atomic_json};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

/// What the field `format` says.
const FORMAT: &str = "loriot scorer";
/// The version written, and the only one read.
const VERSION: u32 = 1;
/// A file of more bytes is none.
const MAX_BYTES: u64 = 64 << 20;

/// No number of a fitted scorer is larger, so that every score is finite.
const LARGEST: f64 = 1e6;
/// The least standard deviation of a feature that varies.
const LEAST_SCALE: f64 = 1e-9;

/// A scorer could not be read or used.
#[derive(Debug, thiserror::Error)]
pub enum ScorerError {
    /// The file is missing, too large, or no such JSON.
    #[error(transparent)]
    Read(#[from] ReadFileError),
    /// The file is something else.
    #[error("`{}` is no scorer: its `format` is `{found}`, expected `{FORMAT}`", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What it says it is.
        found: String,
    },
    /// The file is of a version that this program does not read.
    #[error("`{}` has format version {found}, expected {VERSION}", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u64,
    },
    /// A value is not what it may be.
    #[error("`{}`: `{field}` is {found}, expected {expected}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// Which.
        field: &'static str,
        /// What it is.
        found: String,
        /// What it may be.
        expected: &'static str,
    },
    /// The scorer was fitted over another encoder.
    #[error("`{}` was fitted over another encoder: its {what} is `{found}`, here it is `{expected}`", path.display())]
    OtherEncoder {
        /// The file.
        path: PathBuf,
        /// What differs.
        what: &'static str,
        /// What it was fitted over.
        found: String,
        /// What it is to be used with.
        expected: String,
    },
}

impl Hint for ScorerError {
    fn hint(&self) -> Option<String> {
        match self {
            ScorerError::Read(error) => error.hint(),
            ScorerError::Format { .. }
            | ScorerError::Version { .. }
            | ScorerError::OtherEncoder { .. } => {
                Some("make one for this encoder with `loriot calibrate`".into())
            }
            ScorerError::Value { .. } => {
                Some("the file is damaged: make it again with `loriot calibrate`".into())
            }
        }
    }
}

/// What says whether the rest can be read.
#[derive(serde::Deserialize)]
struct Head {
    #[serde(default)]
    format: String,
    #[serde(default)]
    version: u64,
}

#[derive(serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    format: String,
    version: u32,
    made_for: MadeFor,
    from_cosine: (f64, f64),
    intercept: f64,
    features: Vec<StoredFeature>,
    strength: f64,
    threshold: Option<Threshold>,
    n_titles: u64,
    words: BTreeMap<String, u64>,
}

#[derive(serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredFeature {
    name: String,
    mean: f64,
    scale: f64,
    weight: f64,
}

impl Scorer {
    /// Writes the scorer: the whole file or nothing.
    pub fn write(&self, path: &Path) -> Result<(), OutputError> {
        let feature = |(name, weighed): (&&str, &Weighed)| StoredFeature {
            name: (*name).to_owned(),
            mean: weighed.mean,
            scale: weighed.scale,
            weight: weighed.weight,
        };
        let words = self.rarity.titles_with.iter();
        write_atomic_json(
            path,
            &Stored {
                format: FORMAT.to_owned(),
                version: VERSION,
                made_for: self.made_for.clone(),
                from_cosine: self.from_cosine,
                intercept: self.intercept,
                features: NAMES.iter().zip(&self.features).map(feature).collect(),
                strength: self.strength,
                threshold: self.threshold,
                n_titles: self.rarity.n_titles,
                words: words.map(|(word, n)| (word.clone(), *n)).collect(),
            },
        )
    }

    /// Reads a scorer after checking every value.
    pub fn open(path: &Path) -> Result<Scorer, ScorerError> {
        let bytes = read_limited(path, MAX_BYTES)?;
        let head: Head = parse_json(&bytes, path)?;
        if head.format != FORMAT {
            return Err(ScorerError::Format { path: path.to_owned(), found: head.format });
        }
        if head.version != u64::from(VERSION) {
            return Err(ScorerError::Version { path: path.to_owned(), found: head.version });
        }
        let stored: Stored = parse_json(&bytes, path)?;
        let check = |is_right: bool, field: &'static str, found: String, expected: &'static str| {
            let path = path.to_owned();
            is_right.then_some(()).ok_or(ScorerError::Value { path, field, found, expected })
        };
        let names: Vec<&str> = stored.features.iter().map(|feature| &*feature.name).collect();
        let found = names.iter().take(N_FEATURES + 1).map(|name| short(name));
        let found = found.collect::<Vec<_>>().join(", ");
        check(names == NAMES, "features", found, "those of this version, in their order")?;
        let numbers = stored.features.iter().flat_map(|f| [f.mean, f.scale, f.weight]);
        let others = [stored.from_cosine.0, stored.from_cosine.1, stored.intercept];
        for number in numbers.chain(others) {
            let is_usual = number.abs() <= LARGEST;
            check(is_usual, "features", number.to_string(), "numbers up to a million")?;
        }
        for feature in &stored.features {
            let is_scale = feature.scale == 0.0 || feature.scale >= LEAST_SCALE;
            check(is_scale, "scale", feature.scale.to_string(), "0, or 1e-9 and more")?;
        }
        let slope = stored.from_cosine.1;
        check(slope > 0.0, "from_cosine", format!("a slope of {slope}"), "a slope above 0")?;
        let strength = stored.strength;
        let is_share = (0.0..=1.0).contains(&strength);
        check(is_share, "strength", strength.to_string(), "a number from 0 to 1")?;
        let n_titles = stored.n_titles;
        for (word, &n) in &stored.words {
            let found = || format!("{n} for `{}`", short(word));
            check((1..=n_titles).contains(&n), "words", found(), "1 to `n_titles`")?;
        }
        let weighed = |feature: &StoredFeature| Weighed {
            mean: feature.mean,
            scale: feature.scale,
            weight: feature.weight,
        };
        Ok(Scorer {
            made_for: stored.made_for,
            from_cosine: stored.from_cosine,
            intercept: stored.intercept,
            features: std::array::from_fn(|at| weighed(&stored.features[at])),
            rarity: Rarity { n_titles, titles_with: HashMap::from_iter(stored.words) },
            strength,
            threshold: stored.threshold,
        })
    }

    /// Whether the scorer of `path` may score what `encoder` embedded.
    pub fn check_encoder(&self, path: &Path, encoder: &MadeFor) -> Result<(), ScorerError> {
        let parts = [
            ("SHA-256", &self.made_for.encoder, &encoder.encoder),
            ("query prompt", &self.made_for.query_prompt, &encoder.query_prompt),
        ];
        match parts.into_iter().find(|(_, found, expected)| found != expected) {
            None => Ok(()),
            Some((what, found, expected)) => Err(ScorerError::OtherEncoder {
                path: path.to_owned(),
                what,
                found: short(found),
                expected: short(expected),
            }),
        }
    }
}

/// The first characters of a text of any length.
fn short(text: &str) -> String {
    text.chars().take(64).collect()
}
