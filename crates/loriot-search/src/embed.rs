//! Many texts to vectors, each distinct text once, surviving a crash.
//!
//! The work in progress is a folder beside the output, `OUTPUT.partial/`:
//!
//! ```text
//! vectors         a vector file (see `loriot_index::vectors`) whose last rows are still missing
//! progress.json   schema version 1: a hash of the work, and how many rows are synced to the disk
//! ```
//!
//! Every `BLOCK_TEXTS` texts the rows are synced and then counted, so that a crash at any moment
//! loses at most a block. A text's vector does not depend on what is embedded with it, so a
//! resumed run ends with the same bytes. Work on other texts, or by another encoder, starts over.

use loriot_encoder::batch::distinct;
use loriot_encoder::{Encoder, Precision, Side};
use loriot_files::{Hint, OutputError, Sha256Hasher, read_json, write_atomic_json};
use loriot_index::vectors::HEADER_BYTES;
use loriot_index::{Identity, Row, Vectors, VectorsError};
use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Texts between two points to resume from: less than a minute on a quiet machine with two cores.
const BLOCK_TEXTS: usize = 16_384;
/// Texts in the first call of the encoder. The number doubles while a call is shorter than
/// [`CALL_TIME`].
const FIRST_CALL_TEXTS: usize = 512;
/// How long one call should take: progress is reported after each.
const CALL_TIME: Duration = Duration::from_secs(1);

const SCHEMA_VERSION: u32 = 1;
const PROGRESS_LIMIT_BYTES: u64 = 1 << 16;

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
}

impl Hint for EmbedError {
    fn hint(&self) -> Option<String> {
        match self {
            EmbedError::Output(error) => error.hint(),
            EmbedError::Vectors(error) => error.hint(),
            EmbedError::NotFinite { .. } => Some("check the model's weights".into()),
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

    /// Removes the work in progress: call it once the vectors stand in their final place.
    pub fn discard_partial(self) -> Result<(), OutputError> {
        std::fs::remove_dir_all(&self.partial).map_err(OutputError::io(&self.partial))
    }
}

/// The folder that [`embed_all`] works in for an output at `output`.
pub fn partial_dir(output: &Path) -> PathBuf {
    let mut name = output.file_name().unwrap_or_default().to_owned();
    name.push(".partial");
    output.with_file_name(name)
}

/// Embeds `texts`, of which there is at least one, continuing what an earlier run left at
/// `partial`, a folder; see [`partial_dir`].
pub fn embed_all(
    embedder: &impl Embedder,
    texts: &[&str],
    partial: &Path,
    on_event: impl FnMut(EmbedEvent),
) -> Result<Embedded, EmbedError> {
    embed_in_blocks(embedder, texts, partial, BLOCK_TEXTS, on_event)
}

fn embed_in_blocks(
    embedder: &impl Embedder,
    texts: &[&str],
    partial: &Path,
    block_texts: usize,
    mut on_event: impl FnMut(EmbedEvent),
) -> Result<Embedded, EmbedError> {
    assert!(!texts.is_empty(), "nothing to embed");
    let (distinct, row_of) = distinct(texts.iter().copied());
    let row_of = row_of.into_iter().map(Row).collect();
    on_event(EmbedEvent::Begun { n_distinct: distinct.len() });

    let mut work = PartialFile::open(partial, embedder, &distinct)?;
    match work.n_done {
        0 if work.started_over => on_event(EmbedEvent::StartedOver),
        0 => {}
        n_done => on_event(EmbedEvent::Resumed { n_done }),
    }
    let mut call_texts = FIRST_CALL_TEXTS;
    for block in distinct[work.n_done..].chunks(block_texts) {
        let mut left = block;
        while !left.is_empty() {
            let (now, later) = left.split_at(call_texts.min(left.len()));
            let begun = Instant::now();
            let (vectors_bd, n_tokens) = embedder.embed(now);
            check_finite(now, &vectors_bd)?;
            work.append(&vectors_bd)?;
            on_event(EmbedEvent::Embedded { n_texts: now.len(), n_tokens });
            if begun.elapsed() < CALL_TIME {
                call_texts *= 2;
            }
            left = later;
        }
        work.checkpoint(block.len())?;
    }
    let distinct = Vectors::open(&work.path)?;
    Ok(Embedded { distinct, row_of, partial: partial.to_owned() })
}

fn check_finite(texts: &[&str], vectors_bd: &[f32]) -> Result<(), EmbedError> {
    let dim = vectors_bd.len() / texts.len();
    let mut rows = texts.iter().zip(vectors_bd.chunks_exact(dim));
    match rows.find(|(_, vector)| vector.iter().any(|x| !x.is_finite())) {
        None => Ok(()),
        Some((text, _)) => Err(EmbedError::NotFinite { text: text.chars().take(80).collect() }),
    }
}

/// `progress.json`.
#[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
struct Progress {
    schema_version: u32,
    /// SHA-256 of the encoder's identity, its precision and every distinct text.
    work: String,
    n_vectors: usize,
    n_done: usize,
}

/// The vector file in the making.
struct PartialFile {
    path: PathBuf,
    progress_path: PathBuf,
    file: File,
    work: String,
    n_vectors: usize,
    n_done: usize,
    /// Unfinished work was found that could not be continued.
    started_over: bool,
}

impl PartialFile {
    fn open(
        dir: &Path,
        embedder: &impl Embedder,
        distinct: &[&str],
    ) -> Result<PartialFile, OutputError> {
        let (path, progress_path) = (dir.join("vectors"), dir.join("progress.json"));
        let mut hasher = Sha256Hasher::new();
        hasher.field(&embedder.identity().0);
        hasher.field(embedder.precision().name().as_bytes());
        distinct.iter().for_each(|text| hasher.field(text.as_bytes()));
        let work = hasher.finish();
        let header = Vectors::header(embedder.dim(), embedder.identity(), distinct.len());

        std::fs::create_dir_all(dir).map_err(OutputError::io(dir))?;
        let before = read_json::<Progress>(&progress_path, PROGRESS_LIMIT_BYTES).ok();
        let started_over = progress_path.exists();
        let io = OutputError::io(&path);
        let open = || -> std::io::Result<(File, usize)> {
            let mut file =
                OpenOptions::new().create(true).write(true).truncate(false).open(&path)?;
            let bytes_of = |n_done: usize| (HEADER_BYTES + n_done * embedder.dim() * 4) as u64;
            let length = file.metadata()?.len();
            let n_done = before
                .filter(|p| p.schema_version == SCHEMA_VERSION && p.work == work)
                .filter(|p| p.n_vectors == distinct.len() && p.n_done <= distinct.len())
                .filter(|p| p.n_done > 0 && bytes_of(p.n_done) <= length)
                .map_or(0, |p| p.n_done);
            if n_done == 0 {
                file.set_len(0)?;
                file.write_all(&header)?;
            }
            file.set_len(bytes_of(n_done))?;
            file.seek(SeekFrom::End(0))?;
            Ok((file, n_done))
        };
        let (file, n_done) = open().map_err(io)?;
        let n_vectors = distinct.len();
        Ok(PartialFile { path, progress_path, file, work, n_vectors, n_done, started_over })
    }

    fn append(&mut self, vectors_bd: &[f32]) -> Result<(), OutputError> {
        self.file.write_all(bytemuck::cast_slice(vectors_bd)).map_err(OutputError::io(&self.path))
    }

    /// Counts `n_more` texts as done, once their vectors are on the disk.
    fn checkpoint(&mut self, n_more: usize) -> Result<(), OutputError> {
        self.file.sync_data().map_err(OutputError::io(&self.path))?;
        self.n_done += n_more;
        let progress = Progress {
            schema_version: SCHEMA_VERSION,
            work: self.work.clone(),
            n_vectors: self.n_vectors,
            n_done: self.n_done,
        };
        write_atomic_json(&self.progress_path, &progress)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    /// A text's length and first byte; dies after a number of texts.
    struct Stub {
        identity: u8,
        precision: Precision,
        dies_after: Cell<usize>,
        n_embedded: Cell<usize>,
    }

    impl Stub {
        fn new(identity: u8) -> Stub {
            let precision = Precision::F32;
            Stub {
                identity,
                precision,
                dies_after: Cell::new(usize::MAX),
                n_embedded: Cell::new(0),
            }
        }
    }

    impl Embedder for Stub {
        fn dim(&self) -> usize {
            2
        }
        fn identity(&self) -> Identity {
            Identity([self.identity; 32])
        }
        fn precision(&self) -> Precision {
            self.precision
        }
        fn embed(&self, texts: &[&str]) -> (Vec<f32>, u64) {
            self.n_embedded.update(|n| n + texts.len());
            assert!(self.n_embedded.get() <= self.dies_after.get(), "killed");
            let vector = |text: &&str| [text.len() as f32, f32::from(text.as_bytes()[0])];
            (texts.iter().flat_map(vector).collect(), texts.len() as u64)
        }
    }

    fn texts() -> Vec<String> {
        (0..3_000).map(|i| format!("{} kettle {}", i % 7, i % 2_500)).collect()
    }

    fn embed(
        stub: &Stub,
        texts: &[String],
        partial: &Path,
    ) -> (Result<Embedded, EmbedError>, Vec<EmbedEvent>) {
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let mut events = Vec::new();
        let embedded = embed_in_blocks(stub, &texts, partial, 600, |event| events.push(event));
        (embedded, events)
    }

    #[test]
    fn equal_texts_are_embedded_once_and_the_order_is_the_inputs() {
        let dir = tempfile::tempdir().unwrap();
        let texts: Vec<String> = ["red", "blue", "red", "mug"].map(str::to_owned).to_vec();
        let stub = Stub::new(1);
        let embedded = embed(&stub, &texts, &dir.path().join("p")).0.unwrap();
        assert_eq!((embedded.len(), embedded.n_distinct(), stub.n_embedded.get()), (4, 3, 3));
        let firsts: Vec<u8> = embedded.rows().map(|row| row[1] as u8).collect();
        assert_eq!(firsts, b"rbrm");
    }

    #[test]
    fn a_killed_run_resumes_and_ends_with_the_same_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let texts = texts();
        let whole = embed(&Stub::new(1), &texts, &dir.path().join("whole")).0.unwrap();
        for dies_after in [0, 1, 599, 600, 601, 1_800, 2_999] {
            let partial = dir.path().join(format!("p{dies_after}"));
            let stub = Stub::new(1);
            stub.dies_after.set(dies_after);
            let killed = catch_unwind(AssertUnwindSafe(|| embed(&stub, &texts, &partial)));
            let n_safe = if killed.is_err() { dies_after / 600 * 600 } else { 3_000 };

            let (resumed, events) = embed(&Stub::new(1), &texts, &partial);
            let resumed = resumed.unwrap();
            assert!(resumed.rows().eq(whole.rows()), "killed after {dies_after}");
            let n_done = events.iter().find_map(|event| match event {
                EmbedEvent::Resumed { n_done } => Some(*n_done),
                _ => None,
            });
            assert!(n_done.unwrap_or(0) <= n_safe, "{n_done:?} of {n_safe}");
            let bytes = |dir: &Path| std::fs::read(dir.join("vectors")).unwrap();
            assert_eq!(bytes(&partial), bytes(&dir.path().join("whole")));
            resumed.discard_partial().unwrap();
            assert!(!partial.exists());
        }
    }

    #[test]
    fn a_finished_run_is_taken_up_without_embedding_anything() {
        let dir = tempfile::tempdir().unwrap();
        let texts = texts();
        embed(&Stub::new(1), &texts, dir.path()).0.unwrap();
        let again = Stub::new(1);
        let (embedded, events) = embed(&again, &texts, dir.path());
        assert_eq!((embedded.unwrap().len(), again.n_embedded.get()), (3_000, 0));
        let n_distinct = 3_000;
        assert_eq!(
            events,
            [EmbedEvent::Begun { n_distinct }, EmbedEvent::Resumed { n_done: n_distinct }]
        );
    }

    #[test]
    fn other_texts_another_encoder_or_a_damaged_record_start_over() {
        let dir = tempfile::tempdir().unwrap();
        let (texts, progress) = (texts(), dir.path().join("progress.json"));
        let starts_over = |stub: &Stub, texts: &[String]| {
            let (embedded, events) = embed(stub, texts, dir.path());
            embedded.unwrap();
            assert_eq!(stub.n_embedded.get(), texts.len());
            assert_eq!(events[1], EmbedEvent::StartedOver);
        };
        embed(&Stub::new(1), &texts, dir.path()).0.unwrap();
        starts_over(&Stub::new(2), &texts);
        starts_over(&Stub { precision: Precision::Bf16, ..Stub::new(2) }, &texts);
        starts_over(&Stub::new(2), &texts);
        starts_over(&Stub::new(2), &texts[..2_000]);
        std::fs::write(&progress, "{").unwrap();
        starts_over(&Stub::new(2), &texts[..2_000]);
        // The record says more than the file holds.
        std::fs::write(dir.path().join("vectors"), "short").unwrap();
        starts_over(&Stub::new(2), &texts[..2_000]);
    }

    #[test]
    fn a_vector_with_a_nan_names_its_text() {
        struct Nan;
        impl Embedder for Nan {
            fn dim(&self) -> usize {
                1
            }
            fn identity(&self) -> Identity {
                Identity([0; 32])
            }
            fn precision(&self) -> Precision {
                Precision::F32
            }
            fn embed(&self, texts: &[&str]) -> (Vec<f32>, u64) {
                (texts.iter().map(|t| if *t == "b" { f32::NAN } else { 1.0 }).collect(), 0)
            }
        }
        let dir = tempfile::tempdir().unwrap();
        let error = embed_all(&Nan, &["a", "b"], dir.path(), |_| ()).unwrap_err();
        assert_eq!(error.to_string(), "the encoder gave no finite vector for the text `b`");
    }

    #[test]
    fn the_partial_folder_stands_beside_the_output() {
        assert_eq!(partial_dir(Path::new("a/shop")), Path::new("a/shop.partial"));
        assert_eq!(partial_dir(Path::new("v.npy")), Path::new("v.npy.partial"));
        assert_eq!(partial_dir(Path::new("a/shop/")), Path::new("a/shop.partial"));
    }
}
