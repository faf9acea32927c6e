//! The threads that build a graph and search a catalogue.

use loriot_files::Hint;

/// The threads could not be started.
#[derive(Debug, thiserror::Error)]
#[error("cannot start {n_threads} threads")]
pub struct ThreadsError {
    n_threads: usize,
    #[source]
    source: rayon::ThreadPoolBuildError,
}

impl Hint for ThreadsError {
    fn hint(&self) -> Option<String> {
        Some("give fewer `--threads`".into())
    }
}

/// A pool of `n_threads` threads of its own.
pub(crate) fn thread_pool(n_threads: usize) -> Result<rayon::ThreadPool, ThreadsError> {
    rayon::ThreadPoolBuilder::new()
        .num_threads(n_threads)
        .build()
        .map_err(|source| ThreadsError { n_threads, source })
}
