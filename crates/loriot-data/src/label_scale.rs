//! From the labels of a file to numbers from 0 to 1: `--label-scale LOW:HIGH`, and ESCI's letters.
//!
//! | label | read as |
//! |---|---|
//! | a number `x` from LOW to HIGH | `(x - LOW) / (HIGH - LOW)`; without a scale `x` itself, from 0 to 1 |
//! | `E`, `exact` | 1.0 |
//! | `S`, `substitute` | 0.1 |
//! | `C`, `complement` | 0.01 |
//! | `I`, `irrelevant` | 0.0 |
//!
//! The letters are those of Amazon's ESCI shopping queries (Reddy et al., 2022), in either case;
//! the numbers are the gains by which that data's ranking task is scored. They are on the scale
//! from 0 to 1, so that no other scale goes with them.

use loriot_files::Hint;
use std::fmt;
use std::str::FromStr;

/// The lowest and the highest label of a data set: `1:3`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LabelScale {
    low: f32,
    high: f32,
}

/// A `--label-scale` that is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{argument}` is no scale of labels, expected two numbers, the lower first, such as `1:3`")]
pub struct LabelScaleError {
    /// The option's value.
    pub argument: String,
}

impl Hint for LabelScaleError {
    fn hint(&self) -> Option<String> {
        Some("give the lowest and the highest label that the data may have".into())
    }
}

impl FromStr for LabelScale {
    type Err = LabelScaleError;

    fn from_str(argument: &str) -> Result<LabelScale, LabelScaleError> {
        let number = |text: &str| text.trim().parse::<f32>().ok();
        argument
            .split_once(':')
            .and_then(|(low, high)| LabelScale::new(number(low)?, number(high)?))
            .ok_or_else(|| LabelScaleError { argument: argument.to_owned() })
    }
}

impl fmt::Display for LabelScale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.low, self.high)
    }
}

impl LabelScale {
    /// Labels as they are trained on.
    pub const UNIT: LabelScale = LabelScale { low: 0.0, high: 1.0 };

    /// The scale from `low` to `high`; `None` unless both are finite and `low` is the lower.
    pub fn new(low: f32, high: f32) -> Option<LabelScale> {
        (low.is_finite() && high.is_finite() && low < high).then_some(LabelScale { low, high })
    }

    /// The range of `labels`; `None` where they do not differ.
    pub fn of(labels: impl Iterator<Item = f32>) -> Option<LabelScale> {
        let (low, high) = labels.fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), label| {
            (low.min(label), high.max(label))
        });
        LabelScale::new(low, high)
    }

    /// The lowest label.
    pub fn low(self) -> f32 {
        self.low
    }

    /// The highest label.
    pub fn high(self) -> f32 {
        self.high
    }

    /// `label` as a number from 0 to 1; `None` outside the scale and for NaN.
    pub fn apply(self, label: f32) -> Option<f32> {
        if self == LabelScale::UNIT {
            return (0.0..=1.0).contains(&label).then_some(label);
        }
        let [label, low, high] = [label, self.low, self.high].map(f64::from);
        (low..=high).contains(&label).then(|| ((label - low) / (high - low)) as f32)
    }

    /// What a message expects of a label.
    pub(crate) fn expected(self) -> String {
        format!("a number from {} to {}", self.low, self.high)
    }
}

/// The gain of one of ESCI's judgements.
pub(crate) fn esci_gain(text: &str) -> Option<f32> {
    const GAINS: [(&str, &str, f32); 4] = [
        ("e", "exact", 1.0),
        ("s", "substitute", 0.1),
        ("c", "complement", 0.01),
        ("i", "irrelevant", 0.0),
    ];
    let is = |name: &str| text.eq_ignore_ascii_case(name);
    GAINS.iter().find(|(letter, word, _)| is(letter) || is(word)).map(|(.., gain)| *gain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ends_of_a_scale_are_0_and_1_and_what_is_outside_is_no_label() {
        let scale: LabelScale = "1:3".parse().unwrap();
        let mapped = [1.0, 1.5, 3.0, 0.999, 3.001, f32::NAN].map(|label| scale.apply(label));
        assert_eq!(mapped, [Some(0.0), Some(0.25), Some(1.0), None, None, None]);
        let scale: LabelScale = " -1 : 1 ".parse().unwrap();
        assert_eq!((scale.apply(0.0), scale.to_string()), (Some(0.5), "-1:1".to_owned()));
        // Labels that are from 0 to 1 already keep their bits.
        assert_eq!(LabelScale::UNIT.apply(0.33), Some(0.33));
        let wide = LabelScale::new(f32::MIN, f32::MAX).unwrap();
        assert_eq!((wide.apply(f32::MAX), wide.apply(0.0)), (Some(1.0), Some(0.5)));
    }

    #[test]
    fn a_scale_that_is_none_says_what_one_is() {
        for bad in ["", "1", "3:1", "1:1", "0:inf", "nan:1", "a:b", "1:2:3"] {
            let error = bad.parse::<LabelScale>().unwrap_err().to_string();
            assert_eq!(
                error,
                format!(
                    "`{bad}` is no scale of labels, expected two numbers, the lower first, such as `1:3`"
                )
            );
        }
    }

    #[test]
    fn escis_letters_are_the_gains_of_its_ranking_task() {
        let gains = ["E", "s", "Complement", "irrelevant", "x", ""].map(esci_gain);
        assert_eq!(gains, [Some(1.0), Some(0.1), Some(0.01), Some(0.0), None, None]);
    }
}
