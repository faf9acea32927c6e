//! What a comparison says in one sentence.

use std::fmt;

use crate::bootstrap::Interval;

/// Whether a model is of use to those who search, by paired 95 % intervals of model minus base.
///
/// A shopper sees one query's products, never those of all queries in one list. So the order within queries decides;
/// pooled figures also reward telling easy queries from hard ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Within queries the order is better.
    ShoppersGain,
    /// Neither the pooled figure nor that within queries has an interval without 0.
    NoDifference,
    /// The pooled figure is better; within queries the interval has 0 in it.
    OnlyPooledRose,
    /// The pooled figure is worse; within queries the interval has 0 in it.
    OnlyPooledFell,
    /// Within queries the order is worse.
    ShoppersLose,
}

impl Verdict {
    /// From the intervals of the differences in ROC-AUC per query and over all rows.
    pub fn of(per_query: Interval, pooled: Interval) -> Option<Verdict> {
        let is_ordered = |interval: Interval| interval.low <= interval.high;
        (is_ordered(per_query) && is_ordered(pooled)).then_some(match (per_query, pooled) {
            (Interval { low, .. }, _) if low > 0.0 => Verdict::ShoppersGain,
            (Interval { high, .. }, _) if high < 0.0 => Verdict::ShoppersLose,
            (_, Interval { low, .. }) if low > 0.0 => Verdict::OnlyPooledRose,
            (_, Interval { high, .. }) if high < 0.0 => Verdict::OnlyPooledFell,
            _ => Verdict::NoDifference,
        })
    }

    /// Its name in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Verdict::ShoppersGain => "shoppers_gain",
            Verdict::NoDifference => "no_difference",
            Verdict::OnlyPooledRose => "only_pooled_rose",
            Verdict::OnlyPooledFell => "only_pooled_fell",
            Verdict::ShoppersLose => "shoppers_lose",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Verdict::ShoppersGain => "shoppers gain",
            Verdict::NoDifference => "no difference that this data can show",
            Verdict::OnlyPooledRose => "the pooled figure rose, the order within a query did not",
            Verdict::OnlyPooledFell => "the pooled figure fell, the order within a query did not",
            Verdict::ShoppersLose => "shoppers lose",
        })
    }
}
