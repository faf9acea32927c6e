//! The threads of an encoder.

use rayon::prelude::*;
use std::sync::Arc;

/// A pool of threads of its own size. One thread means the caller's: nothing is woken for it.
#[derive(Clone, Debug)]
pub struct Workers {
    pool: Option<Arc<rayon::ThreadPool>>,
    n_threads: usize,
}

/// The threads could not be started.
#[derive(Debug, thiserror::Error)]
#[error("cannot start {n_threads} threads")]
pub struct WorkersError {
    n_threads: usize,
    #[source]
    source: rayon::ThreadPoolBuildError,
}

impl Workers {
    /// Starts `n_threads` threads; 0 means one for each core there is.
    pub fn start(n_threads: usize) -> Result<Workers, WorkersError> {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        let n_threads = if n_threads == 0 { cores() } else { n_threads };
        if n_threads == 1 {
            return Ok(Workers { pool: None, n_threads });
        }
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(n_threads)
            .thread_name(|i| format!("loriot-{i}"))
            .build()
            .map_err(|source| WorkersError { n_threads, source })?;
        Ok(Workers { pool: Some(Arc::new(pool)), n_threads })
    }

    /// How many threads there are.
    pub fn n_threads(&self) -> usize {
        self.n_threads
    }

    /// Runs both, at the same time if there are threads for it.
    pub fn join<A: Send, B: Send>(
        &self,
        a: impl FnOnce() -> A + Send,
        b: impl FnOnce() -> B + Send,
    ) -> (A, B) {
        match &self.pool {
            Some(pool) => pool.join(a, b),
            None => (a(), b()),
        }
    }

    /// Runs `task` on every item, each by one thread, in no particular order.
    pub fn for_each<T: Send>(&self, items: Vec<T>, task: impl Fn(T) + Sync + Send) {
        match &self.pool {
            Some(pool) if items.len() > 1 => {
                pool.install(|| items.into_par_iter().with_max_len(1).for_each(task));
            }
            _ => items.into_iter().for_each(task),
        }
    }

    /// As [`Workers::for_each`], gathering results in the order of the items.
    pub fn map<T: Send, R: Send>(
        &self,
        items: Vec<T>,
        task: impl Fn(T) -> R + Sync + Send,
    ) -> Vec<R> {
        match &self.pool {
            Some(pool) if items.len() > 1 => {
                pool.install(|| items.into_par_iter().with_max_len(1).map(task).collect())
            }
            _ => items.into_iter().map(task).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_keep_the_order_of_the_items() {
        for n_threads in [1, 2, 3] {
            let workers = Workers::start(n_threads).unwrap();
            assert_eq!(workers.n_threads(), n_threads);
            let squares = workers.map((0..100).collect(), |i: u64| i * i);
            assert_eq!(squares, (0..100).map(|i| i * i).collect::<Vec<_>>());
            assert_eq!(workers.join(|| 1, || "two"), (1, "two"));
        }
        assert!(Workers::start(0).unwrap().n_threads() >= 1);
    }
}
