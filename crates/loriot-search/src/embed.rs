//! Many texts to vectors, each distinct text once, surviving a crash.
//!
//! The texts are gone through twice, first to tell which are equal and whether work on them has begun, and are not
//! held in memory: of each there is a fingerprint, and the texts of one call of the encoder.
//!
//! Rows go to the folder of [`crate::partial`] as they come. A text's vector does not depend on what is
//! embedded with it, so a resumed run ends with the same bytes however it was interrupted; where it goes on with
//! another instruction set, the last bits of later rows are that one's.

use crate::batches::next_batch;
use crate::partial::{self, Partial};
use crate::texts::Texts;
use loriot_encoder::{Encoder, Precision, Side};
use loriot_files::{Fingerprint, Hint, OutputError, Sha256Hasher};
use loriot_index::{Identity, Row, Vectors, VectorsError};
use std::borrow::Cow;
use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How the work is cut.
#[derive(Clone, Copy, Debug)]
struct Pace {
    /// Texts after which rows are counted as done, at the latest.
    block_texts: usize,
    /// Time after which they are, at the latest.
    checkpoint_every: Duration,
    /// Texts in the first call of the encoder.
    first_call_texts: usize,
    /// Texts in a call at most.
    max_call_texts: usize,
    /// Bytes of texts in a call at most, where it has more than one.
    max_call_bytes: usize,
    /// How long a call should take, about. Progress is reported, and Ctrl-C heard, after each.
    call_time: Duration,
}

/// The first call is short even for the largest encoder on one core. 4 MiB of texts are some hundred MB of tokens on
/// their way to vectors.
const PACE: Pace = Pace {
    block_texts: 16_384,
    checkpoint_every: Duration::from_secs(20),
    first_call_texts: 32,
    max_call_texts: 8_192,
    max_call_bytes: 4 << 20,
    call_time: Duration::from_secs(1),
};

/// What turns texts into vectors: an encoder on one of its sides.
pub trait Embedder {
    /// Width of a vector.
    fn dim(&self) -> usize;
    /// SHA-256 of everything that decides a text's vector.
    fn identity(&self) -> Identity;
    /// The arithmetic. It is no part of the identity, but unfinished work is only continued in the
    /// same arithmetic.
    fn precision(&self) -> Precision;
    /// Vectors of the texts, and how many tokens they were.
    fn embed(&self, texts: &[&str]) -> (Vec<f32>, u64);
}

/// An encoder that reads texts as queries, or as products.
#[derive(Clone, Copy)]
pub struct EncoderSide<'a> {
    /// The encoder.
    pub encoder: &'a Encoder,
    /// Which of its prompts goes before a text.
    pub side: Side,
}

impl Embedder for EncoderSide<'_> {
    fn dim(&self) -> usize {
        self.encoder.dim()
    }

    fn identity(&self) -> Identity {
        let of_documents = self.encoder.identity();
        let hex = match self.side {
            Side::Product => of_documents.to_owned(),
            Side::Query => {
                let mut hasher = Sha256Hasher::new();
                hasher.field(of_documents.as_bytes());
                hasher.field(self.encoder.prompts().query.as_bytes());
                hasher.finish()
            }
        };
        Identity::from_hex(&hex).expect("an encoder's identity is a SHA-256")
    }

    fn precision(&self) -> Precision {
        self.encoder.precision()
    }

    fn embed(&self, texts: &[&str]) -> (Vec<f32>, u64) {
        let ids = self.encoder.tokenize(texts, self.side);
        let n_tokens = ids.iter().map(|ids| ids.len() as u64).sum();
        (self.encoder.embed_ids(&ids), n_tokens)
    }
}

/// Progress of [`embed_all`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EmbedEvent {
    /// Embedding begins.
    Begun {
        /// Distinct texts to embed in all.
        n_distinct: usize,
    },
    /// Unfinished work of an earlier run is continued.
    Resumed {
        /// Distinct texts that it has embedded.
        n_done: usize,
    },
    /// Unfinished work was found, but of other texts or another encoder. It was deleted.
    StartedOver,
    /// A call of the encoder is done.
    Embedded {
        /// Texts of this call.
        n_texts: usize,
        /// Their tokens.
        n_tokens: u64,
    },
}

/// Texts could not be embedded.
#[derive(Debug, thiserror::Error)]
pub enum EmbedError {
    /// The work in progress could not be written.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// The finished work could not be read back.
    #[error(transparent)]
    Vectors(#[from] VectorsError),
    /// The encoder gave a vector with a NaN or an infinity in it.
    #[error("the encoder gave no finite vector for the text `{text}`")]
    NotFinite {
        /// The text, shortened.
        text: String,
    },
    /// The encoder gave a vector of zeros, which has no direction.
    #[error("the encoder gave a vector of zeros for the text `{text}`")]
    Zero {
        /// The text, shortened.
        text: String,
    },
    /// A vector was lost after it was written.
    #[error("row {row} of `{}` was never written", path.display())]
    Unwritten {
        /// The file of vectors in progress.
        path: PathBuf,
        /// The row, from 0.
        row: usize,
    },
    /// Something else stands where the work in progress goes.
    #[error("`{}` holds `{name}`, which is no embedding in progress", path.display())]
    ForeignPartial {
        /// The folder.
        path: PathBuf,
        /// What is in it.
        name: String,
    },
    /// The work was stopped. What is done is on the disk.
    #[error("stopped after {n_done} of {n_distinct} texts, which `{}` keeps", partial.display())]
    Stopped {
        /// Distinct texts that are embedded.
        n_done: usize,
        /// Distinct texts in all.
        n_distinct: usize,
        /// The folder of the work in progress.
        partial: PathBuf,
    },
}

impl Hint for EmbedError {
    fn hint(&self) -> Option<String> {
        match self {
            EmbedError::Output(error) => error.hint(),
            EmbedError::Vectors(error) => error.hint(),
            EmbedError::NotFinite { .. } | EmbedError::Zero { .. } => {
                Some("check the model's weights".into())
            }
            EmbedError::Unwritten { .. } => {
                Some("another program has changed the file: remove it and run again".into())
            }
            EmbedError::ForeignPartial { .. } => Some(
                "the work in progress would go there: move it, or choose another `--output`".into(),
            ),
            EmbedError::Stopped { .. } => Some("the same command again goes on from there".into()),
        }
    }
}

/// The vector of each text, in the order of the texts.
#[derive(Debug)]
pub struct Embedded {
    distinct: Vectors,
    /// The row in `distinct` of each text.
    row_of: Vec<Row>,
    partial: PathBuf,
}

impl Embedded {
    /// How many texts there are.
    pub fn len(&self) -> usize {
        self.row_of.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.row_of.is_empty()
    }

    /// Numbers in a vector.
    pub fn dim(&self) -> usize {
        self.distinct.dim()
    }

    /// What embedded them.
    pub fn identity(&self) -> Identity {
        self.distinct.identity()
    }

    /// How many different texts there are.
    pub fn n_distinct(&self) -> usize {
        self.distinct.len()
    }

    /// The vectors in order.
    pub fn rows(&self) -> impl Iterator<Item = &[f32]> {
        self.row_of.iter().map(|&row| self.distinct.vector(row))
    }

    /// The folder of the work in progress, which has all vectors.
    pub fn partial(&self) -> &Path {
        &self.partial
    }

    /// Removes the work in progress: call it once the vectors stand in their final place.
    pub fn discard_partial(self) -> Result<(), OutputError> {
        let Embedded { distinct, partial, .. } = self;
        drop(distinct); // Some systems do not remove a file that is mapped.
        partial::remove(&partial)
    }
}

/// Embeds `texts`, of which there is at least one, continuing what an earlier run left at
/// `partial`, a folder; see [`crate::partial_dir`]. The caller is the only one who writes there.
///
/// Once `stop` is true, what is done is put on the disk and the error is [`EmbedError::Stopped`].
pub fn embed_all(
    embedder: &impl Embedder,
    texts: &(impl Texts + ?Sized),
    partial: &Path,
    stop: &AtomicBool,
    on_event: impl FnMut(EmbedEvent),
) -> Result<Embedded, EmbedError> {
    embed_at_pace(PACE, embedder, texts, partial, stop, on_event)
}

fn embed_at_pace(
    pace: Pace,
    embedder: &impl Embedder,
    texts: &(impl Texts + ?Sized),
    partial: &Path,
    stop: &AtomicBool,
    mut on_event: impl FnMut(EmbedEvent),
) -> Result<Embedded, EmbedError> {
    let unreadable = |source| OutputError::Io { path: partial.to_owned(), source };
    let Distinct { row_of, n_distinct, work } =
        Distinct::of(embedder, texts).map_err(unreadable)?;
    assert!(n_distinct > 0, "nothing to embed");
    on_event(EmbedEvent::Begun { n_distinct });

    let mut work = Partial::open(partial, embedder, work, n_distinct)?;
    match work.n_done {
        0 if work.started_over => on_event(EmbedEvent::StartedOver),
        0 => {}
        n_done => on_event(EmbedEvent::Resumed { n_done }),
    }
    let mut n_embedded = work.n_done;
    let mut rest = first_appearances(texts, &row_of).skip(n_embedded).peekable();
    let (mut call_texts, mut n_uncounted, mut counted) = (pace.first_call_texts, 0, Instant::now());
    while n_embedded < n_distinct {
        let most = call_texts.min(pace.block_texts - n_uncounted);
        let now = next_batch(&mut rest, most, pace.max_call_bytes, |text| text.len())
            .map_err(unreadable)?;
        assert!(!now.is_empty(), "the texts are the same each time");
        let now: Vec<&str> = now.iter().map(|text| &**text).collect();
        let begun = Instant::now();
        let (vectors_bd, n_tokens) = embedder.embed(&now);
        check_vectors(&now, &vectors_bd)?;
        work.append(bytemuck::cast_slice(&vectors_bd))?;
        on_event(EmbedEvent::Embedded { n_texts: now.len(), n_tokens });
        let took = begun.elapsed();
        if took < pace.call_time / 2 {
            call_texts = (2 * call_texts).min(pace.max_call_texts);
        } else if took / 2 > pace.call_time {
            call_texts = (call_texts / 2).max(1);
        }
        n_embedded += now.len();
        n_uncounted += now.len();

        let is_done = n_embedded == n_distinct;
        let is_stopped = stop.load(Ordering::Relaxed) && !is_done;
        let is_due = n_uncounted == pace.block_texts || counted.elapsed() >= pace.checkpoint_every;
        if is_stopped || is_due || is_done {
            work.checkpoint(n_uncounted)?;
            (n_uncounted, counted) = (0, Instant::now());
        }
        if is_stopped {
            let n_done = work.n_done;
            return Err(EmbedError::Stopped { n_done, n_distinct, partial: partial.to_owned() });
        }
    }
    drop(rest);
    let path = work.vectors_path();
    let distinct = Vectors::open(&path)?;
    match first_unwritten(&distinct) {
        None => Ok(Embedded { distinct, row_of, partial: partial.to_owned() }),
        Some(row) => Err(EmbedError::Unwritten { path, row }),
    }
}

/// Which of the texts are equal.
struct Distinct {
    /// For each text its place among the distinct ones, which stand in the order of their first appearance.
    row_of: Vec<Row>,
    n_distinct: usize,
    /// The hash of the work; see [`partial::work_hasher`].
    work: String,
}

impl Distinct {
    fn of(embedder: &impl Embedder, texts: &(impl Texts + ?Sized)) -> io::Result<Distinct> {
        let (mut row_of, mut work) = (Vec::new(), partial::work_hasher(embedder));
        let mut rows = HashMap::new();
        for text in texts.texts() {
            let text = text?;
            let next = Row(u32::try_from(rows.len()).expect("fewer texts than 2³²"));
            let row = *rows.entry(Fingerprint::of(text.as_bytes())).or_insert(next);
            if row == next {
                work.field(text.as_bytes());
            }
            row_of.push(row);
        }
        Ok(Distinct { row_of, n_distinct: rows.len(), work: work.finish() })
    }
}

/// Those of `texts` that no equal text comes before.
fn first_appearances<'a>(
    texts: &'a (impl Texts + ?Sized),
    row_of: &'a [Row],
) -> impl Iterator<Item = io::Result<Cow<'a, str>>> {
    let mut n_seen = 0;
    texts.texts().zip(row_of).filter_map(move |(text, row)| {
        let is_first = row.index() == n_seen;
        n_seen += usize::from(is_first);
        (is_first || text.is_err()).then_some(text)
    })
}

/// The first row that is all zeros, as a part of a file is that nobody wrote. Of a vector that was written
/// some number is not zero, and mostly the first.
fn first_unwritten(vectors: &Vectors) -> Option<usize> {
    let mut rows = vectors.rows_cd().chunks_exact(vectors.dim());
    rows.position(|row| row.iter().all(|&x| x == 0.0))
}

fn check_vectors(texts: &[&str], vectors_bd: &[f32]) -> Result<(), EmbedError> {
    let dim = vectors_bd.len() / texts.len();
    for (text, vector) in texts.iter().zip(vectors_bd.chunks_exact(dim)) {
        let shortened = || text.chars().take(80).collect();
        if vector.iter().any(|x| !x.is_finite()) {
            return Err(EmbedError::NotFinite { text: shortened() });
        }
        if vector.iter().all(|&x| x == 0.0) {
            return Err(EmbedError::Zero { text: shortened() });
        }
    }
    Ok(())
}

#[cfg(all(test, target_os = "linux"))]
#[path = "../../../tests/rust/crash.rs"]
mod crash;

#[cfg(test)]
mod tests;
