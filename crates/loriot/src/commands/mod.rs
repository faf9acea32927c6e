//! One module per command; each exports its options (`XArgs`) and its body (`run_x`).

pub mod calibrate;
mod catalogue_eval;
mod columns;
pub mod common;
pub mod embed;
pub mod eval;
mod eval_text;
pub mod full_disk;
pub mod index;
pub mod merge;
pub mod merged_folder;
pub mod output;
mod scoring;
pub mod search;
mod texts;
pub mod train;
mod train_display;

/// The commands.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    Train(Box<train::TrainArgs>),
    Eval(eval::EvalArgs),
    Calibrate(calibrate::CalibrateArgs),
    Merge(merge::MergeArgs),
    Embed(embed::EmbedArgs),
    Index(index::IndexArgs),
    Search(search::SearchArgs),
}

/// Runs one command to its end.
pub fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Train(args) => train::run_train(*args),
        Command::Eval(args) => eval::run_eval(args),
        Command::Calibrate(args) => calibrate::run_calibrate(args),
        Command::Merge(args) => merge::run_merge(args),
        Command::Embed(args) => {
            let output = args.output.clone();
            embed::run_embed(args).map_err(|error| full_disk::explain(error, &output))
        }
        Command::Index(args) => {
            let output = args.output.clone();
            index::run_index(args).map_err(|error| full_disk::explain(error, &output))
        }
        Command::Search(args) => search::run_search(args),
    }
}
