//! Training of an encoder on judged pairs: loss, optimiser, schedules, checkpoints, the loop.
//!
//! It prints nothing and reads no command line: [`train`] takes a [`Job`] and tells an observer
//! what happens. It knows no index and no search. The same settings, data, model and instruction
//! set give the same bytes, on any number of threads and through any number of interruptions.
//!
//! In reading order: [`run`] the loop · [`job`] what goes in and comes out · [`settings`] what decides the result · [`rows`] which
//! texts are compared · [`pairs`] their token ids · [`loss`] · `fitting` what it learns of the encoder first · `accumulate` the gradient of a step · [`schedule`] ·
//! [`sampler`] which rows come when · `optimiser` ·
//! [`evaluation`] · [`state`] where a run stands · [`checkpoint`] · [`tensors`] their files ·
//! [`folder`] the run folder · `record` its mark · `own_files` what in it is Loriot's · `fork` a checkpoint gone on from elsewhere ·
//! [`metrics_log`] · `output`, `card` what is left at the end.

mod accumulate;
mod card;
pub mod checkpoint;
pub mod evaluation;
mod fitting;
pub mod folder;
mod fork;
pub mod job;
pub mod loss;
pub mod metrics_log;
mod optimiser;
mod output;
mod own_files;
pub mod pairs;
mod record;
pub mod rows;
pub mod run;
pub mod sampler;
pub mod schedule;
pub mod settings;
pub mod state;
pub mod tensors;

pub use accumulate::{StepLoss, accumulate};
pub use checkpoint::CheckpointEvery;
pub use evaluation::{BestMetric, Evaluation};
pub use folder::{RunFolder, Start};
pub use job::{Event, Job, Report, TrainError};
pub use pairs::TokenPairs;
pub use rows::Rows;
pub use run::train;
pub use schedule::ScheduleKind;
pub use settings::TrainSettings;
