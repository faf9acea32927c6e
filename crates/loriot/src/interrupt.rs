//! Ctrl-C: long work ends at the next point where it can keep what is done.
//!
//! The first signal (SIGINT, SIGTERM, SIGHUP) only sets a flag, which training and embedding look at
//! between steps. The second ends the process at once, with status 130: what is on disk is whole at
//! every moment, so that only what came after the last checkpoint is lost.
//!
//! A signal that was ignored when the process began stays so: `nohup loriot train …` goes on after the terminal is closed.

use crate::message::message;
use std::process::exit;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

/// The exit status of a command that was interrupted, as shells have it.
pub const STATUS: u8 = 130;

static STOP: AtomicBool = AtomicBool::new(false);

/// The flag that the first signal sets. Signals are watched from the first call on; commands that never
/// call this end at the first one, as any program does.
pub fn watch() -> &'static AtomicBool {
    static WATCH: Once = Once::new();
    WATCH.call_once(|| {
        // Without a handler a signal ends the process, which is what the second one would do.
        if let Err(error) = on_signal(asked_to_stop) {
            message!("note: Ctrl-C will lose what came after the last checkpoint: {error}");
        }
    });
    &STOP
}

/// What each signal does.
fn asked_to_stop() {
    if STOP.swap(true, Ordering::Relaxed) {
        exit(STATUS.into());
    }
    message!("Interrupted: saving what is done; once more ends at once");
}

/// Calls `act`, on a thread of its own, for each signal that asks the process to end.
#[cfg(unix)]
fn on_signal(act: fn()) -> std::io::Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let ignored = ignored_signals();
    let is_heard = |signal: &i32| ignored & (1 << (signal - 1)) == 0;
    let heard = [SIGINT, SIGTERM, SIGHUP].into_iter().filter(is_heard);
    let mut signals = signal_hook::iterator::Signals::new(heard)?;
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || signals.forever().for_each(|_| act()))?;
    Ok(())
}

/// Bit n − 1 for each signal n that the process was told to ignore. Only Linux says it in a file.
#[cfg(unix)]
fn ignored_signals() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

#[cfg(not(unix))]
fn on_signal(act: fn()) -> Result<(), ctrlc::Error> {
    ctrlc::set_handler(act)
}

/// The work was interrupted and what is done is kept.
#[derive(Debug)]
pub struct Interrupted {
    /// What was kept.
    pub kept: String,
    /// What to do to go on.
    pub go_on: String,
}

impl std::fmt::Display for Interrupted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "interrupted; {}", self.kept)
    }
}

impl std::error::Error for Interrupted {}

impl loriot_files::Hint for Interrupted {
    fn hint(&self) -> Option<String> {
        Some(self.go_on.clone())
    }
}
