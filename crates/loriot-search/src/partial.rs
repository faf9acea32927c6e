//! Embedding in progress: a folder beside the output, `OUTPUT.partial/`.
//!
//! ```text
//! vectors         a vector file (see `loriot_index::vectors`) whose last rows are still missing
//! progress.json   schema version 2: SHA-256 of the work, how many rows are done, SHA-256 of `vectors` up to them
//! ```
//!
//! Rows are synced first and then counted in the record, so that a crash at any moment loses no more than
//! what came after the last count. The record is read with exactly the vectors that it was written for, or
//! not at all. Work on other texts, or by another encoder, is withdrawn (a record of no rows is on the disk)
//! before its vectors are touched. A folder in which something else stands is somebody else's and is left
//! alone.

use crate::embed::{EmbedError, Embedder};
use loriot_files::{OutputError, Sha256Hasher, disk, parent, read_json, write_atomic_json};
use loriot_index::Vectors;
use loriot_index::vectors::{HEADER_BYTES, MAGIC};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

const VECTORS: &str = "vectors";
const PROGRESS: &str = "progress.json";
const SCHEMA_VERSION: u32 = 2;
const PROGRESS_LIMIT_BYTES: u64 = 1 << 16;

/// The folder that [`crate::embed_all`] works in for an output at `output`.
pub fn partial_dir(output: &Path) -> PathBuf {
    let mut name = output.file_name().unwrap_or_default().to_owned();
    name.push(".partial");
    output.with_file_name(name)
}

/// `progress.json`.
#[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
struct Progress {
    schema_version: u32,
    /// SHA-256 of the encoder's identity, its precision and every distinct text.
    work: String,
    n_vectors: usize,
    n_done: usize,
    /// SHA-256 of the header and the rows that are done. Version 1 has none, and is not continued.
    #[serde(default)]
    vectors: String,
}

/// The vector file in the making.
pub(crate) struct Partial {
    dir: PathBuf,
    file: File,
    work: String,
    n_vectors: usize,
    /// Rows that are counted as done.
    pub(crate) n_done: usize,
    /// What `file` holds, counted or not.
    written: Sha256Hasher,
    /// Unfinished work was found that could not be continued.
    pub(crate) started_over: bool,
}

impl Partial {
    /// Continues the work, `n_vectors` of `embedder` for the texts that are hashed in `work` (see [`work_hasher`]),
    /// that stands in `dir`, or begins it there.
    pub(crate) fn open(
        dir: &Path,
        embedder: &impl Embedder,
        work: String,
        n_vectors: usize,
    ) -> Result<Partial, EmbedError> {
        let error = OutputError::io(dir);
        let header = Vectors::header(embedder.dim(), embedder.identity(), n_vectors);
        let is_there = match find(dir) {
            Ok(Found::Nothing) => false,
            Ok(Found::Ours) => true,
            Ok(Found::Foreign(name)) => {
                return Err(EmbedError::ForeignPartial { path: dir.to_owned(), name });
            }
            Err(source) => return Err(error(source).into()),
        };
        if let Err(source) = make_folder(dir) {
            return Err(error(source).into());
        }
        let before = read_json::<Progress>(&dir.join(PROGRESS), PROGRESS_LIMIT_BYTES).ok();
        let (path, row_bytes) = (dir.join(VECTORS), embedder.dim() * 4);
        let open =
            || OpenOptions::new().create(true).read(true).write(true).truncate(false).open(&path);
        let mut file = open().map_err(OutputError::io(&path))?;
        let same_work = before.as_ref().is_some_and(|before| before.work == work);
        let had_rows = before.as_ref().is_some_and(|before| before.n_done > 0);
        let continued = before
            .filter(|b| b.schema_version == SCHEMA_VERSION && same_work)
            .filter(|b| b.n_vectors == n_vectors && (1..=n_vectors).contains(&b.n_done))
            .and_then(|b| {
                let n_bytes = HEADER_BYTES as u64 + b.n_done as u64 * row_bytes as u64;
                let written = hash_up_to(&mut file, n_bytes).ok()?;
                (written.clone().finish() == b.vectors).then_some((b.n_done, n_bytes, written))
            });
        if let Some((n_done, n_bytes, written)) = continued {
            let cut = || file.set_len(n_bytes).and_then(|()| (&file).seek(SeekFrom::End(0)));
            cut().map_err(OutputError::io(&path))?;
            let dir = dir.to_owned();
            return Ok(Partial {
                dir,
                file,
                work,
                n_vectors,
                n_done,
                written,
                started_over: false,
            });
        }
        let mut partial = Partial {
            dir: dir.to_owned(),
            file,
            work,
            n_vectors,
            n_done: 0,
            written: Sha256Hasher::new(),
            started_over: is_there && (!same_work || had_rows),
        };
        partial.write_record()?;
        let restart = || partial.file.set_len(0).and_then(|()| (&partial.file).rewind());
        restart().map_err(OutputError::io(&path))?;
        partial.append(&header)?;
        Ok(partial)
    }

    /// Appends bytes of the vector file.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> Result<(), OutputError> {
        self.written.update(bytes);
        self.file.write_all(bytes).map_err(OutputError::io(&self.vectors_path()))
    }

    /// Counts `n_more` texts as done, once their vectors are on the disk.
    pub(crate) fn checkpoint(&mut self, n_more: usize) -> Result<(), OutputError> {
        let path = self.vectors_path();
        disk::sync(&self.file, &path).map_err(OutputError::io(&path))?;
        self.n_done += n_more;
        self.write_record()
    }

    fn write_record(&self) -> Result<(), OutputError> {
        let progress = Progress {
            schema_version: SCHEMA_VERSION,
            work: self.work.clone(),
            n_vectors: self.n_vectors,
            n_done: self.n_done,
            vectors: self.written.clone().finish(),
        };
        write_atomic_json(&self.dir.join(PROGRESS), &progress)
    }

    pub(crate) fn vectors_path(&self) -> PathBuf {
        self.dir.join(VECTORS)
    }
}

/// Removes the folder `dir` of finished work. Of what is not ours in it, nothing is removed, and then
/// neither is the folder.
pub(crate) fn remove(dir: &Path) -> Result<(), OutputError> {
    // The record last: it says whose folder this is.
    let remove = || {
        for name in [VECTORS, PROGRESS] {
            disk::remove(&dir.join(name))?;
        }
        match fs::remove_dir(dir) {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
            done => done,
        }
    };
    remove().map_err(OutputError::io(dir))
}

/// The hash of the work of `embedder`, before the distinct texts: each is a field of its own.
pub(crate) fn work_hasher(embedder: &impl Embedder) -> Sha256Hasher {
    let mut hasher = Sha256Hasher::new();
    hasher.field(&embedder.identity().0);
    hasher.field(embedder.precision().name().as_bytes());
    hasher
}

/// The hash of the first `n_bytes` of a file that has as many.
fn hash_up_to(file: &mut File, n_bytes: u64) -> io::Result<Sha256Hasher> {
    let (mut hasher, mut piece, mut left) = (Sha256Hasher::new(), vec![0; 1 << 16], n_bytes);
    file.rewind()?;
    while left > 0 {
        let n = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        file.read_exact(&mut piece[..n])?;
        hasher.update(&piece[..n]);
        left -= n as u64;
    }
    Ok(hasher)
}

fn make_folder(dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    disk::sync_folder(parent(dir))
}

/// What stands where the work in progress goes.
enum Found {
    Nothing,
    /// Work of an earlier run.
    Ours,
    /// This name, which no run of ours has made.
    Foreign(String),
}

/// Looks into `dir`, and clears away what a killed run left of a record that it was writing.
fn find(dir: &Path) -> io::Result<Found> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
        entries => entries?,
    };
    let (mut is_empty, mut half_written) = (true, Vec::new());
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_file = entry.file_type()?.is_file();
        if is_file && name.starts_with(".tmp-progress.json-") {
            half_written.push(entry.path());
        } else if is_file && (name == VECTORS || name == PROGRESS) {
            is_empty = false;
        } else {
            return Ok(Found::Foreign(name));
        }
    }
    half_written.iter().try_for_each(|path| disk::remove(path))?;
    if is_empty {
        return Ok(Found::Nothing);
    }
    // Either of the two files may be damaged; that both are, and still ours, is not believed.
    let record = dir.join(PROGRESS);
    if !record.exists() && fs::metadata(dir.join(VECTORS))?.len() == 0 {
        return Ok(Found::Nothing); // The first record was not written yet.
    }
    let is_ours = read_json::<Progress>(&record, PROGRESS_LIMIT_BYTES).is_ok()
        || begins_with(&dir.join(VECTORS), MAGIC);
    match is_ours {
        true => Ok(Found::Ours),
        false if record.exists() => Ok(Found::Foreign(PROGRESS.to_owned())),
        false => Ok(Found::Foreign(VECTORS.to_owned())),
    }
}

fn begins_with(path: &Path, magic: &[u8]) -> bool {
    let mut head = vec![0; magic.len()];
    File::open(path).and_then(|mut file| file.read_exact(&mut head)).is_ok() && head == magic
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_partial_folder_stands_beside_the_output() {
        assert_eq!(partial_dir(Path::new("a/shop")), Path::new("a/shop.partial"));
        assert_eq!(partial_dir(Path::new("v.npy")), Path::new("v.npy.partial"));
        assert_eq!(partial_dir(Path::new("a/shop/")), Path::new("a/shop.partial"));
    }
}
