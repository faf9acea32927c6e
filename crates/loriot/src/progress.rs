//! Progress on stderr: a bar on a terminal, a plain line now and then elsewhere.
//!
//! A log of a run in a terminal-less place (CI, `nohup`) stays readable: at most a line every
//! [`LINE_EVERY`], and the last one.

use crate::message::message;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

const LINE_EVERY: Duration = Duration::from_secs(10);

/// What is under way, how much of it is done, and how long the rest will take.
#[derive(Debug)]
pub struct Progress {
    what: String,
    bar: Option<ProgressBar>,
    total: u64,
    done: u64,
    /// Where the counting began: a resumed run has not done the first part in this process.
    first: u64,
    begun: Instant,
    last_line: Instant,
    message: String,
}

impl Progress {
    /// Begins `what` (a word or two, such as `embedding`), `total` units long.
    pub fn new(what: &str, total: u64) -> Progress {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(total);
            let template = "{prefix} {wide_bar} {human_pos}/{human_len}  {msg}  {eta} left";
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style.progress_chars("━━╌"));
            }
            bar.set_prefix(what.to_owned());
            bar
        });
        let now = Instant::now();
        Progress {
            what: what.to_owned(),
            bar,
            total,
            done: 0,
            first: 0,
            begun: now,
            last_line: now,
            message: String::new(),
        }
    }

    /// Starts the count at `done`, as after a resume; the time left is reckoned from here on.
    pub fn start_at(&mut self, done: u64) {
        (self.first, self.done) = (done, done);
        if let Some(bar) = &self.bar {
            bar.set_position(done);
            bar.reset_eta();
        }
    }

    /// Sets how much is done, and what to say beside it (rates, the loss).
    pub fn set(&mut self, done: u64, message: &str) {
        self.done = done;
        message.clone_into(&mut self.message);
        match &self.bar {
            Some(bar) => {
                bar.set_position(done);
                bar.set_message(message.to_owned());
            }
            None if self.last_line.elapsed() >= LINE_EVERY => {
                self.last_line = Instant::now();
                self.line();
            }
            None => {}
        }
    }

    /// Adds `n` to what is done.
    pub fn add(&mut self, n: u64) {
        let message = std::mem::take(&mut self.message);
        self.set(self.done + n, &message);
    }

    /// Prints `text` as a line of its own, above the bar where there is one.
    pub fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| message!("{text}")),
            None => message!("{text}"),
        }
    }

    /// Takes the bar away.
    pub fn finish(self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn line(&self) {
        let (done, total) = (self.done.max(1), self.total.max(1));
        let rate = self.begun.elapsed().as_secs_f64() / (self.done - self.first).max(1) as f64;
        let left = rate * total.saturating_sub(done) as f64;
        let gap = if self.message.is_empty() { "" } else { "  " };
        let (what, message) = (&self.what, &self.message);
        message!("{what} {}/{total}{gap}{message}  {} left", self.done, seconds(left));
    }
}

/// `0.8 s`, `42 s`, `3 min 20 s`, `2 h 5 min`.
pub fn seconds(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        _ if seconds < 9.95 => format!("{seconds:.1} s"),
        0..60 => format!("{whole} s"),
        60..3600 => format!("{} min {} s", whole / 60, whole % 60),
        _ => format!("{} h {} min", whole / 3600, whole / 60 % 60),
    }
}

/// A whole number with commas between thousands: `12,345`.
pub fn count(number: f64) -> String {
    let digits = format!("{:.0}", number.max(0.0));
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{count, seconds};

    #[test]
    fn thousands_are_set_apart() {
        let said = [0.0, 999.0, 1_000.4, 1_234_567.0].map(count);
        assert_eq!(said, ["0", "999", "1,000", "1,234,567"]);
    }

    #[test]
    fn durations_read_as_people_say_them() {
        let said = [0.84, 42.2, 200.0, 7_500.0].map(seconds);
        assert_eq!(said, ["0.8 s", "42 s", "3 min 20 s", "2 h 5 min"]);
    }
}
