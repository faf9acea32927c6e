//! Ctrl-C: long work ends at the next point where it can keep what is done.
//!
//! The first signal (SIGINT, SIGTERM, SIGHUP) only sets a flag, which training and embedding look at
//! between steps. The second ends the process at once, with status 130: what is on disk is whole at
//! every moment, so that only what came after the last checkpoint is lost.

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
        let watched = ctrlc::set_handler(|| {
            if STOP.swap(true, Ordering::Relaxed) {
                exit(STATUS.into());
            }
            message!("Interrupted: saving what is done; once more ends at once");
        });
        // Without a handler a signal ends the process, which is what the second one would do.
        if let Err(error) = watched {
            message!("note: Ctrl-C will lose what came after the last checkpoint: {error}");
        }
    });
    &STOP
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
