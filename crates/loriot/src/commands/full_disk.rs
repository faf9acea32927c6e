//! A disk that is full in the middle of an embedding: what is kept, and what may go.

use loriot_files::Hint;
use loriot_search::partial_dir;
use std::io::{Error, ErrorKind};
use std::path::{Path, PathBuf};

/// The work could not be written for want of space, and what is done of it takes some.
#[derive(Debug)]
pub struct PartialKept {
    partial: PathBuf,
    source: anyhow::Error,
}

impl std::fmt::Display for PartialKept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "no space is left; `{}` keeps what is done", self.partial.display())
    }
}

impl std::error::Error for PartialKept {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(self.source.as_ref())
    }
}

impl Hint for PartialKept {
    fn hint(&self) -> Option<String> {
        Some(format!(
            "free some space and give the same command again: it goes on from there. Or delete `{}` and write \
             elsewhere",
            self.partial.display()
        ))
    }
}

/// `error` of a command that writes `output`, said so that its `.partial` folder is not forgotten.
pub fn explain(error: anyhow::Error, output: &Path) -> anyhow::Error {
    let is_full = error.chain().filter_map(|cause| cause.downcast_ref::<Error>()).any(|error| {
        let kind = error.kind();
        // A file may be larger than the system lets one be, which stands for a full disk in the tests.
        matches!(kind, ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge)
    });
    let partial = partial_dir(output);
    match is_full && partial.exists() {
        true => PartialKept { partial, source: error }.into(),
        false => error,
    }
}
