//! Embedding that is killed, stopped, disturbed and continued.

use super::*;
use loriot_files::disk::{Call, observe};
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
        Stub { identity, precision, dies_after: Cell::new(usize::MAX), n_embedded: Cell::new(0) }
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

/// So much time that only the number of texts decides when rows are counted.
const BLOCKS_OF_600: Pace =
    Pace { block_texts: 600, checkpoint_every: Duration::MAX, call_time: Duration::MAX, ..PACE };

static NEVER: AtomicBool = AtomicBool::new(false);

fn embed_at(
    pace: Pace,
    stub: &Stub,
    texts: &[String],
    partial: &Path,
) -> (Result<Embedded, EmbedError>, Vec<EmbedEvent>) {
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let mut events = Vec::new();
    let embedded =
        embed_at_pace(pace, stub, &texts[..], partial, &NEVER, |event| events.push(event));
    (embedded, events)
}

fn embed(
    stub: &Stub,
    texts: &[String],
    partial: &Path,
) -> (Result<Embedded, EmbedError>, Vec<EmbedEvent>) {
    embed_at(BLOCKS_OF_600, stub, texts, partial)
}

fn n_resumed(events: &[EmbedEvent]) -> usize {
    let resumed = events.iter().find_map(|event| match event {
        EmbedEvent::Resumed { n_done } => Some(*n_done),
        _ => None,
    });
    resumed.unwrap_or(0)
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
        assert_eq!(n_resumed(&events), n_safe, "killed after {dies_after}");
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
            let vector = |text: &&str| match *text {
                "b" => f32::NAN,
                "0" => 0.0,
                _ => 1.0,
            };
            (texts.iter().map(vector).collect(), 0)
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let error = embed_all(&Nan, &["a", "b"][..], dir.path(), &NEVER, |_| ()).unwrap_err();
    assert_eq!(error.to_string(), "the encoder gave no finite vector for the text `b`");
    let error = embed_all(&Nan, &["a", "0"][..], dir.path(), &NEVER, |_| ()).unwrap_err();
    assert_eq!(error.to_string(), "the encoder gave a vector of zeros for the text `0`");
}

/// The case of a folder that is killed at the second sync of one work, then at the first of another, as
/// long, and then gets the first again.
#[test]
fn a_record_is_never_read_with_the_vectors_of_another_input() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, theirs) = (texts(), texts().iter().map(|text| format!("{text}!")).collect());
    let partial = dir.path().join("p");
    let killed_at_sync = |n: usize, texts: &Vec<String>| {
        let mut n_left = n;
        let kill = move |call: &Call| {
            if matches!(call, Call::Sync(path) if path.ends_with("vectors")) {
                n_left -= 1;
                assert!(n_left > 0, "killed");
            }
        };
        let run = AssertUnwindSafe(|| embed(&Stub::new(1), texts, &partial));
        assert!(catch_unwind(|| observe(kill, run)).is_err());
    };
    killed_at_sync(2, &ours);
    killed_at_sync(1, &theirs);
    let (embedded, events) = embed(&Stub::new(1), &ours, &partial);
    assert_eq!((n_resumed(&events), events[1]), (0, EmbedEvent::StartedOver));
    let whole = embed(&Stub::new(1), &ours, &dir.path().join("whole")).0.unwrap();
    let embedded = embedded.unwrap();
    assert!(embedded.rows().eq(whole.rows()));
    embedded.discard_partial().unwrap();

    // And if the withdrawal never reached the disk, the record is not that of these vectors.
    killed_at_sync(3, &ours);
    let record = std::fs::read(partial.join("progress.json")).unwrap();
    killed_at_sync(3, &theirs);
    std::fs::write(partial.join("progress.json"), record).unwrap();
    let (embedded, events) = embed(&Stub::new(1), &ours, &partial);
    assert_eq!((n_resumed(&events), events[1]), (0, EmbedEvent::StartedOver));
    assert!(embedded.unwrap().rows().eq(whole.rows()));
}

#[cfg(target_os = "linux")]
#[test]
fn whatever_a_crash_leaves_the_next_run_loses_nothing_that_was_counted() {
    let dir = tempfile::tempdir().unwrap();
    let (theirs, ours) = (texts()[..1_300].to_vec(), texts()[100..1_900].to_vec());
    let whole = embed(&Stub::new(1), &ours, &dir.path().join("whole")).0.unwrap();
    let want: Vec<f32> = whole.rows().flatten().copied().collect();
    let root = tempfile::tempdir().unwrap();
    embed(&Stub::new(1), &theirs, &root.path().join("p")).0.unwrap();
    let resumed = ours.clone();
    let check = move |left: &Path, call: &Call| {
        let partial = left.join("p");
        let record = std::fs::read(partial.join("progress.json")).unwrap();
        let record: serde_json::Value = serde_json::from_slice(&record).unwrap();
        let (embedded, events) = embed(&Stub::new(1), &resumed, &partial);
        let got: Vec<f32> = embedded.unwrap().rows().flatten().copied().collect();
        assert!(got == want, "after {call:?}");
        // A record of other work, that is on its way to be withdrawn, counts nothing.
        let n_counted = record["n_done"].as_u64().unwrap() as usize;
        let is_ours = record["n_vectors"] == 1_800;
        assert_eq!(n_resumed(&events), if is_ours { n_counted } else { 0 }, "after {call:?}");
    };
    let work = || embed(&Stub::new(1), &ours, &root.path().join("p")).0.unwrap().discard_partial();
    let (done, n_calls) = crash::after_each_call(root.path(), work, {
        move |left: &Path, call: &Call| {
            // Removing finished work is the one moment without a record.
            if !matches!(call, Call::Remove(_)) {
                check(left, call);
            }
        }
    });
    done.unwrap();
    assert!(n_calls >= 4 * 4, "three calls a record and one a block: {n_calls}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_crash_at_any_moment_of_the_first_run_is_no_obstacle_to_the_next() {
    let root = tempfile::tempdir().unwrap();
    let ours = texts()[..700].to_vec();
    let again = ours.clone();
    let check = move |left: &Path, call: &Call| {
        let (embedded, _) = embed(&Stub::new(1), &again, &left.join("p"));
        embedded.unwrap_or_else(|error| panic!("{error} after {call:?}"));
    };
    let work = || embed(&Stub::new(1), &ours, &root.path().join("p")).0;
    let (done, n_calls) = crash::after_each_call(root.path(), work, check);
    assert_eq!((done.unwrap().len(), n_calls > 8), (700, true), "{n_calls}");
    // Killed before the first record: nothing tells it from a folder with an empty file of this name.
    let partial = root.path().join("q");
    std::fs::create_dir(&partial).unwrap();
    std::fs::write(partial.join("vectors"), "").unwrap();
    embed(&Stub::new(1), &ours, &partial).0.unwrap();
}

#[test]
fn work_that_is_stopped_keeps_all_of_its_texts() {
    let dir = tempfile::tempdir().unwrap();
    let texts = texts();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let whole = embed_all(&Stub::new(1), &texts[..], &dir.path().join("whole"), &NEVER, |_| ());
    let (partial, stop) = (dir.path().join("p"), AtomicBool::new(false));
    let mut n_embedded = 0;
    let stopping = |event| {
        if let EmbedEvent::Embedded { n_texts, .. } = event {
            n_embedded += n_texts;
            stop.store(n_embedded > 1_000, Ordering::Relaxed);
        }
    };
    let error = embed_all(&Stub::new(1), &texts[..], &partial, &stop, stopping).unwrap_err();
    let EmbedError::Stopped { n_done, n_distinct: 3_000, .. } = error else { panic!("{error}") };
    assert_eq!(n_done, n_embedded);
    assert!((1_001..3_000).contains(&n_done), "{n_done}");
    let (stub, mut events) = (Stub::new(1), Vec::new());
    let embedded = embed_all(&stub, &texts[..], &partial, &NEVER, |event| events.push(event));
    assert_eq!((n_resumed(&events), stub.n_embedded.get()), (n_done, 3_000 - n_done));
    assert!(embedded.unwrap().rows().eq(whole.unwrap().rows()));
    // Stopped when there is nothing left to do, it is done.
    let stop = AtomicBool::new(true);
    embed_all(&Stub::new(1), &texts[..], &partial, &stop, |_| ()).unwrap();
}

#[test]
fn rows_are_counted_after_a_time_as_well() {
    let dir = tempfile::tempdir().unwrap();
    let pace = Pace { checkpoint_every: Duration::ZERO, max_call_texts: 64, ..PACE };
    let stub = Stub::new(1);
    stub.dies_after.set(200);
    let killed = AssertUnwindSafe(|| embed_at(pace, &stub, &texts(), dir.path()));
    assert!(catch_unwind(killed).is_err());
    let (_, events) = embed(&Stub::new(1), &texts(), dir.path());
    assert_eq!(n_resumed(&events), 32 + 64 + 64);
    assert!(PACE.checkpoint_every <= Duration::from_secs(30));
}

#[test]
fn a_call_is_bounded_by_texts_and_by_bytes() {
    /// The most texts, and the most bytes, that a call had.
    struct Seen(Cell<(usize, usize)>, Stub);
    impl Embedder for Seen {
        fn dim(&self) -> usize {
            2
        }
        fn identity(&self) -> Identity {
            self.1.identity()
        }
        fn precision(&self) -> Precision {
            Precision::F32
        }
        fn embed(&self, texts: &[&str]) -> (Vec<f32>, u64) {
            let n_bytes = texts.iter().map(|text| text.len()).sum();
            self.0.update(|(most, largest)| (most.max(texts.len()), largest.max(n_bytes)));
            self.1.embed(texts)
        }
    }
    let seen = |pace: Pace, texts: &[String]| {
        let dir = tempfile::tempdir().unwrap();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let seen = Seen(Cell::default(), Stub::new(1));
        embed_at_pace(pace, &seen, &texts[..], dir.path(), &NEVER, |_| ()).unwrap();
        seen.0.get()
    };
    // However quick the encoder is, its calls stop growing.
    let pace = Pace { call_time: Duration::MAX, block_texts: usize::MAX, ..PACE };
    let short: Vec<String> = (0..40_000).map(|i| i.to_string()).collect();
    assert_eq!(seen(pace, &short).0, PACE.max_call_texts);
    let long: Vec<String> = (0..200).map(|i| format!("{i:01000}")).collect();
    assert_eq!(seen(Pace { max_call_bytes: 10_500, ..pace }, &long), (10, 10_000));
    assert_eq!(seen(Pace { max_call_bytes: 10, ..pace }, &long), (1, 1_000));
    // However slow it is, they do not grow, nor fall below one text.
    let pace = Pace { call_time: Duration::ZERO, ..PACE };
    assert_eq!(seen(pace, &long).0, PACE.first_call_texts);
}

#[test]
fn a_folder_of_somebody_else_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |name: &str, content: &str| {
        let partial = dir.path().join("p");
        std::fs::create_dir(&partial).unwrap();
        std::fs::write(partial.join(name), content).unwrap();
        let error = embed(&Stub::new(1), &texts(), &partial).0.unwrap_err();
        let said = format!("p` holds `{name}`, which is no embedding in progress");
        assert!(error.to_string().ends_with(&said), "{error}");
        assert_eq!(std::fs::read_to_string(partial.join(name)).unwrap(), content);
        std::fs::remove_dir_all(&partial).unwrap();
    };
    refused("thesis.tex", "chapter");
    refused("vectors", "[1, 2]");
    refused("progress.json", r#"{"done": 3}"#);
    // What somebody puts beside our work stays when the work is done.
    let partial = dir.path().join("p");
    let embedded = embed(&Stub::new(1), &texts(), &partial).0.unwrap();
    std::fs::write(partial.join("notes"), "mine").unwrap();
    embedded.discard_partial().unwrap();
    assert_eq!(std::fs::read_dir(&partial).unwrap().count(), 1);
}

#[test]
fn a_row_that_was_never_written_is_not_read_as_a_vector() {
    let vectors = |rows_cd: &[f32]| Vectors::new(2, Identity([1; 32]), rows_cd.to_vec());
    assert_eq!(first_unwritten(&vectors(&[0.0, 1.0, -0.5, 0.0])), None);
    assert_eq!(first_unwritten(&vectors(&[0.0, 1.0, 0.0, -0.0])), Some(1));
    // Zeroed by another program while we work: the run says so instead of giving zeros.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vectors");
    let texts = texts();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let mut n_calls = 0;
    let disturb = |event| {
        if matches!(event, EmbedEvent::Embedded { .. }) {
            n_calls += 1;
            if n_calls == 2 {
                let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
                let length = file.metadata().unwrap().len();
                file.set_len(64 + 8).unwrap();
                file.set_len(length).unwrap();
            }
        }
    };
    let error = embed_all(&Stub::new(1), &texts[..], dir.path(), &NEVER, disturb).unwrap_err();
    assert!(matches!(error, EmbedError::Unwritten { row: 1, .. }), "{error}");
}
