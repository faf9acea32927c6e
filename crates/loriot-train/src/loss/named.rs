//! The losses by name, as `--loss` and a run's settings have them.

use super::Loss;
use super::cosent::OrderLoss;
use super::graded_lists::{GradedLists, Terms};
use super::multiple_negatives::MultipleNegatives;
use super::online_contrastive::OnlineContrastive;
use super::pairs::PairLoss;

/// The margin of the contrastive losses, as in sentence-transformers.
const MARGIN: f64 = 0.5;

/// A loss.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    serde::Serialize,
    serde::Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum LossName {
    /// The guide's: how far a pair is from what its label asks, squared.
    #[default]
    CosineSquared,
    /// The cosine is to be the label.
    CosineSimilarity,
    /// Relevant pairs together, others apart up to a margin.
    Contrastive,
    /// The same, of a step's hard pairs alone.
    OnlineContrastive,
    /// The order of all pairs of a step, by cosine.
    Cosent,
    /// The order of all pairs of a step, by angles.
    Angle,
    /// Each relevant pair against all other products of the step.
    MultipleNegativesRanking,
    /// The same, and against all other queries.
    MultipleNegativesSymmetricRanking,
    /// The grade by the cosine, on a scale that is fitted before training.
    Bce,
    /// The order of the products of each query, by grade.
    Ranknet,
    /// Both, and relevant products against those of other queries.
    GradedLists,
}

impl LossName {
    /// All of them.
    pub const ALL: [LossName; 11] = [
        LossName::CosineSquared,
        LossName::CosineSimilarity,
        LossName::Contrastive,
        LossName::OnlineContrastive,
        LossName::Cosent,
        LossName::Angle,
        LossName::MultipleNegativesRanking,
        LossName::MultipleNegativesSymmetricRanking,
        LossName::Bce,
        LossName::Ranknet,
        LossName::GradedLists,
    ];

    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            LossName::CosineSquared => "cosine-squared",
            LossName::CosineSimilarity => "cosine-similarity",
            LossName::Contrastive => "contrastive",
            LossName::OnlineContrastive => "online-contrastive",
            LossName::Cosent => "cosent",
            LossName::Angle => "angle",
            LossName::MultipleNegativesRanking => "multiple-negatives-ranking",
            LossName::MultipleNegativesSymmetricRanking => "multiple-negatives-symmetric-ranking",
            LossName::Bce => "bce",
            LossName::Ranknet => "ranknet",
            LossName::GradedLists => "graded-lists",
        }
    }

    /// Whether it rests on what is fitted to the encoder before training.
    pub fn is_fitted(self) -> bool {
        matches!(self, LossName::Bce | LossName::Ranknet | LossName::GradedLists)
    }

    /// Whether it compares the products of one query.
    pub fn is_of_lists(self) -> bool {
        matches!(self, LossName::Ranknet | LossName::GradedLists)
    }

    /// The loss, with sentence-transformers' scale and margin where it has one. Those that are fitted are as `lists` has it.
    pub fn loss(self, lists: &GradedLists) -> Box<dyn Loss> {
        let only = |weights| Box::new(GradedLists { weights, ..lists.clone() });
        match self {
            LossName::CosineSquared => Box::new(PairLoss::CosineSquared),
            LossName::CosineSimilarity => Box::new(PairLoss::CosineSimilarity),
            LossName::Contrastive => Box::new(PairLoss::Contrastive { margin: MARGIN }),
            LossName::OnlineContrastive => Box::new(OnlineContrastive { margin: MARGIN }),
            LossName::Cosent => Box::new(OrderLoss::Cosent),
            LossName::Angle => Box::new(OrderLoss::Angle),
            LossName::MultipleNegativesRanking => Box::new(MultipleNegatives { symmetric: false }),
            LossName::MultipleNegativesSymmetricRanking => {
                Box::new(MultipleNegatives { symmetric: true })
            }
            LossName::Bce => only(Terms { pointwise: 1.0, ..Terms::NONE }),
            LossName::Ranknet => only(Terms { pairwise: 1.0, ..Terms::NONE }),
            LossName::GradedLists => Box::new(lists.clone()),
        }
    }
}

impl std::fmt::Display for LossName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for LossName {
    type Err = String;

    fn from_str(text: &str) -> Result<LossName, String> {
        LossName::ALL.into_iter().find(|loss| loss.name() == text).ok_or_else(|| {
            let names = LossName::ALL.map(LossName::name).join(", ");
            format!("expected one of: {names}")
        })
    }
}
