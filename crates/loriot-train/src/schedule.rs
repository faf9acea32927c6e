//! How the learning rate runs over the steps: the six schedules of transformers'
//! `get_scheduler`, with its formulas and defaults.
//!
//! ```text
//! s step from 0    w warm-up steps    t steps in all    x = (s − w) / max(1, t − w)
//! s < w (all but constant):   s / max(1, w)
//! linear                      max(0, (t − s) / max(1, t − w))
//! cosine                      max(0, (1 + cos πx) / 2)
//! cosine_with_restarts        the same with one hard restart, which is at the end: 0 for x ≥ 1
//! polynomial                  ((rate − 1e-7)·(1 − x) + 1e-7) / rate, and 1e-7 / rate for s > t
//! constant, constant_with_warmup    1
//! ```

use std::f64::consts::PI;
use std::fmt;
use std::str::FromStr;

/// The polynomial schedule's last rate.
const POLYNOMIAL_END: f64 = 1e-7;

/// How the learning rate changes over a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleKind {
    /// Straight down to 0.
    #[default]
    Linear,
    /// Half a cosine down to 0.
    Cosine,
    /// Cosines with hard restarts (one cycle, as transformers' default).
    CosineWithRestarts,
    /// A polynomial of power 1 down to 1e-7.
    Polynomial,
    /// No change, no warm-up.
    Constant,
    /// No change after the warm-up.
    ConstantWithWarmup,
}

impl ScheduleKind {
    /// All of them.
    pub const ALL: [ScheduleKind; 6] = [
        ScheduleKind::Linear,
        ScheduleKind::Cosine,
        ScheduleKind::CosineWithRestarts,
        ScheduleKind::Polynomial,
        ScheduleKind::Constant,
        ScheduleKind::ConstantWithWarmup,
    ];

    /// The name that transformers gives it.
    pub fn name(self) -> &'static str {
        match self {
            ScheduleKind::Linear => "linear",
            ScheduleKind::Cosine => "cosine",
            ScheduleKind::CosineWithRestarts => "cosine_with_restarts",
            ScheduleKind::Polynomial => "polynomial",
            ScheduleKind::Constant => "constant",
            ScheduleKind::ConstantWithWarmup => "constant_with_warmup",
        }
    }
}

impl fmt::Display for ScheduleKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for ScheduleKind {
    type Err = String;

    fn from_str(name: &str) -> Result<ScheduleKind, String> {
        ScheduleKind::ALL.into_iter().find(|kind| kind.name() == name).ok_or_else(|| {
            let names = ScheduleKind::ALL.map(ScheduleKind::name).join(", ");
            format!("unknown schedule; expected one of: {names}")
        })
    }
}

/// The learning rate at every step of one run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// How it changes.
    pub kind: ScheduleKind,
    /// The highest rate.
    pub learning_rate: f64,
    /// Steps in which it rises from 0.
    pub warmup_steps: u64,
    /// Steps of the whole run.
    pub total_steps: u64,
}

impl Schedule {
    /// The rate of the step that `done` steps came before.
    pub fn rate(&self, done: u64) -> f64 {
        self.learning_rate * self.factor(done as f64)
    }

    fn factor(&self, s: f64) -> f64 {
        let (w, t) = (self.warmup_steps as f64, self.total_steps as f64);
        if self.kind != ScheduleKind::Constant && s < w {
            return s / w.max(1.0);
        }
        let x = (s - w) / (t - w).max(1.0);
        match self.kind {
            ScheduleKind::Linear => ((t - s) / (t - w).max(1.0)).max(0.0),
            ScheduleKind::Cosine => (0.5 * (1.0 + (PI * x).cos())).max(0.0),
            ScheduleKind::CosineWithRestarts if x >= 1.0 => 0.0,
            ScheduleKind::CosineWithRestarts => (0.5 * (1.0 + (PI * (x % 1.0)).cos())).max(0.0),
            ScheduleKind::Polynomial if s > t => POLYNOMIAL_END / self.learning_rate,
            ScheduleKind::Polynomial => {
                let range = self.learning_rate - POLYNOMIAL_END;
                (range * (1.0 - x) + POLYNOMIAL_END) / self.learning_rate
            }
            ScheduleKind::Constant | ScheduleKind::ConstantWithWarmup => 1.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `tests/golden/schedules.json`: forty steps of each schedule, with and without warm-up.
    #[test]
    fn the_rates_are_those_of_transformers() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/schedules.json");
        let golden: serde_json::Value =
            serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let schedules = golden["schedules"].as_object().unwrap();
        assert_eq!(schedules.len(), 2 * ScheduleKind::ALL.len());
        for (name, wanted) in schedules {
            let schedule = Schedule {
                kind: wanted["schedule"].as_str().unwrap().parse().unwrap(),
                learning_rate: golden["learning_rate"].as_f64().unwrap(),
                warmup_steps: wanted["warmup_steps"].as_u64().unwrap(),
                total_steps: golden["steps"].as_u64().unwrap(),
            };
            for (step, want) in wanted["learning_rate"].as_array().unwrap().iter().enumerate() {
                let (got, want) = (schedule.rate(step as u64), want.as_f64().unwrap());
                assert!((got - want).abs() < 1e-18, "{name} at {step}: got {got}, want {want}");
            }
        }
    }

    #[test]
    fn the_last_rates_are_those_of_the_formulas() {
        let rate = |kind, step| {
            Schedule { kind, learning_rate: 0.1, warmup_steps: 2, total_steps: 10 }.rate(step)
        };
        assert_eq!([10, 11].map(|step| rate(ScheduleKind::Linear, step)), [0.0, 0.0]);
        assert_eq!([10, 11].map(|step| rate(ScheduleKind::CosineWithRestarts, step)), [0.0, 0.0]);
        for step in [10, 11] {
            assert!((rate(ScheduleKind::Polynomial, step) - 1e-7).abs() < 1e-20);
        }
        assert_eq!(rate(ScheduleKind::Constant, 0), 0.1);
        assert_eq!(
            [0, 1, 2].map(|step| rate(ScheduleKind::ConstantWithWarmup, step)),
            [0.0, 0.05, 0.1]
        );
    }

    #[test]
    fn a_quarter_through_the_cosine_is_above_the_line() {
        let schedule =
            |kind| Schedule { kind, learning_rate: 1.0, warmup_steps: 0, total_steps: 8 };
        let quarter = (1.0 + (PI / 4.0).cos()) / 2.0;
        assert!((schedule(ScheduleKind::Cosine).rate(2) - quarter).abs() < 1e-15);
        assert_eq!(schedule(ScheduleKind::Linear).rate(2), 0.75);
    }

    #[test]
    fn a_run_that_is_all_warm_up_stays_finite() {
        for kind in ScheduleKind::ALL {
            let schedule = Schedule { kind, learning_rate: 1.0, warmup_steps: 4, total_steps: 4 };
            assert!((0..=5).all(|step| schedule.rate(step).is_finite()), "{kind}");
        }
    }

    #[test]
    fn names_read_back_and_an_unknown_one_lists_them() {
        for kind in ScheduleKind::ALL {
            assert_eq!(kind.name().parse(), Ok(kind));
        }
        let error = "linaer".parse::<ScheduleKind>().unwrap_err();
        assert!(error.ends_with(
            "linear, cosine, cosine_with_restarts, polynomial, constant, constant_with_warmup"
        ));
    }
}
