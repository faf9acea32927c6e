//! The command line: `loriot <command>`.
//!
//! stdout is data; progress, messages and errors go to stderr. The exit status is 0 when done, 1
//! when the work failed and 2 when the command line was wrong. Nothing here computes: a command
//! reads its options, calls the libraries and prints.
//!
//! In reading order: [`commands`] one module per command · [`help`] its layout · [`config_file`] options from a TOML file · [`recipe`] options under a name
//! · [`message`] lines to people · [`interrupt`] Ctrl-C · [`report`] errors, causes and hints · [`progress`] bars on a terminal, lines elsewhere ·
//! [`memory`] whether a batch fits · [`lines`] lines of stdin as they arrive · [`table`] aligned columns · [`visible`] text that a terminal can be given.

#![allow(unreachable_pub, reason = "`pub` says what a module offers to the others of the binary")]

mod commands;
mod config_file;
mod help;
mod interrupt;
mod lines;
mod memory;
mod message;
mod progress;
mod recipe;
mod report;
mod table;
mod visible;

use clap::{FromArgMatches, Parser};
use std::process::ExitCode;

/// Asks the system for pages of 2 MiB. With pages of 4 KiB, the weights and activations of one pass take more
/// pages than the CPU's address cache (TLB) has entries for.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Teach a text encoder your catalogue, then embed, index and search it
#[derive(Debug, Parser)]
#[command(name = "loriot", version, max_term_width = 100)]
#[command(after_help = "\
A first session:
  BASE=sentence-transformers/all-MiniLM-L6-v2
  loriot train  --model $BASE --train train.csv --eval eval.csv --output run
  loriot eval   --model $BASE --adapter run/best --data test.csv
  loriot index  --model $BASE --adapter run/best --input shop.csv --output shop
  loriot search shop \"red kettle\"

Rows have the columns `query`, `product_title` and `relevance_label`, which is from 0 (irrelevant) to 1
(relevant); `--column` names others.")]
struct Cli {
    #[command(subcommand)]
    command: commands::Command,
    /// TOML file of options, under the names they have here: above the first section those of every command,
    /// in `[train]`, `[search]` … those of one. A section wins over what stands above, the command line over both
    #[arg(long, value_name = "FILE", global = true)]
    #[allow(dead_code, reason = "read before clap is; here for the help and the check")]
    config: Option<std::path::PathBuf>,
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => report::print(&error),
    }
}

/// The command line.
fn command() -> clap::Command {
    help::command::<Cli>()
}

fn run() -> anyhow::Result<()> {
    let mut built = command();
    built.build();
    let arguments = config_file::expand(&built, std::env::args_os().collect())?;
    let matches = command().get_matches_from(recipe::expand(&built, arguments));
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    commands::run(cli.command)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }
}
