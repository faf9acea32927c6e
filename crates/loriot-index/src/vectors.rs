//! Vectors in memory or in a file, format versions 1 and 2.
//!
//! ```text
//! offset  bytes        field
//! 0       8            magic "LORVEC\0\0"
//! 8       4            format version, u32 little-endian: 1, or 2 where ids follow the rows
//! 12      4            dim, u32
//! 16      8            n_vectors, u64
//! 24      32           identity: SHA-256 of what embedded the vectors
//! 56      8            zero, so that the rows begin on a cache line
//! 64      n·dim·4      vectors, f32 little-endian, row-major
//!         n·8          version 2: id of each row, u64, ascending
//! ```
//!
//! In version 1 a row's id is its number. Version 2 is what compaction leaves: rows have gone, and
//! those behind them keep their ids. The file is mapped and searched as it lies there; opening it
//! reads the header and the ids alone. A change to this table needs a new version, a file of the
//! old version under `tests/formats/`, and a test that still opens it.

use crate::{Row, VectorId};
use loriot_files::{Hint, Mmap, OutputError, open_regular, write_atomic};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

/// What a vector file begins with.
pub const MAGIC: &[u8; 8] = b"LORVEC\0\0";
/// Without ids, and with them.
const VERSIONS: [u32; 2] = [1, 2];
/// Where the rows begin.
pub const HEADER_BYTES: usize = 64;
/// Wider than any encoder; keeps `n·dim·4` far from overflow.
const MAX_DIM: usize = 1 << 16;

/// The SHA-256 of what made the vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Identity(pub [u8; 32]);

impl Identity {
    /// The identity written as 64 hexadecimal digits; `None` where it is not that.
    pub fn from_hex(hex: &str) -> Option<Identity> {
        let digits = hex.as_bytes();
        let mut bytes = [0; 32];
        if digits.len() != 64 {
            return None;
        }
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let digit = |ascii: u8| char::from(ascii).to_digit(16).map(|digit| digit as u8);
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Some(Identity(bytes))
    }

    /// 64 lower-case hexadecimal digits.
    pub fn to_hex(self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// A vector file could not be used.
#[derive(Debug, thiserror::Error)]
pub enum VectorsError {
    /// The file is missing or may not be read.
    #[error("cannot open `{}`", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The file does not begin as a vector file does.
    #[error("`{}` is not a vector file: it does not begin with `LORVEC`", path.display())]
    Magic {
        /// The file.
        path: PathBuf,
    },
    /// The file is of a format that this version does not read.
    #[error("`{}` has format version {found}, expected 1 or 2", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// The header claims what no vector file has.
    #[error("`{}` claims {n_vectors} vectors of {dim} numbers", path.display())]
    Shape {
        /// The file.
        path: PathBuf,
        /// Claimed width.
        dim: u32,
        /// Claimed count.
        n_vectors: u64,
    },
    /// The file is shorter or longer than its header says.
    #[error("`{}` is {found} bytes, expected {expected}", path.display())]
    Length {
        /// The file.
        path: PathBuf,
        /// Its size.
        found: u64,
        /// The size its header implies.
        expected: u64,
    },
    /// Two rows have one id, or a later row a lower one.
    #[error("`{}`: the id of row {row} is not above that of the row before it", path.display())]
    Ids {
        /// The file.
        path: PathBuf,
        /// The later row.
        row: usize,
    },
}

impl Hint for VectorsError {
    fn hint(&self) -> Option<String> {
        match self {
            VectorsError::Version { .. } => Some("build the catalogue again".into()),
            VectorsError::Length { .. } | VectorsError::Magic { .. } | VectorsError::Ids { .. } => {
                Some("the file is damaged or half copied: copy or build it again".into())
            }
            VectorsError::Open { .. } | VectorsError::Shape { .. } => None,
        }
    }
}

/// `(c, d)` vectors of one width, row-major, at most 2³² of them.
#[derive(Debug)]
pub struct Vectors {
    dim: usize,
    n_vectors: usize,
    identity: Identity,
    storage: Storage,
    ids: Ids,
}

#[derive(Debug)]
enum Storage {
    Memory(Vec<f32>),
    File(Mmap),
}

#[derive(Debug)]
enum Ids {
    /// A row's id is its number.
    Rows,
    Listed(Vec<u64>),
}

impl Vectors {
    /// Vectors that are in memory already. Panics unless `rows_cd` is whole rows of `dim`.
    pub fn new(dim: usize, identity: Identity, rows_cd: Vec<f32>) -> Vectors {
        assert!(dim > 0 && rows_cd.len().is_multiple_of(dim), "vectors must be whole rows");
        let n_vectors = rows_cd.len() / dim;
        assert!(u32::try_from(n_vectors).is_ok(), "a row is 32 bits");
        Vectors { dim, n_vectors, identity, storage: Storage::Memory(rows_cd), ids: Ids::Rows }
    }

    /// The same vectors under these ids instead of their rows' numbers. Panics unless there is an id
    /// for each and they ascend.
    pub fn with_ids(self, ids: Vec<u64>) -> Vectors {
        assert_eq!(ids.len(), self.n_vectors, "an id for each vector");
        assert!(first_unordered(&ids).is_none(), "ids ascend, each once");
        Vectors { ids: Ids::Listed(ids), ..self }
    }

    /// Maps a vector file after its header and length were checked.
    pub fn open(path: &Path) -> Result<Vectors, VectorsError> {
        let open = |source| VectorsError::Open { path: path.to_owned(), source };
        Vectors::from_file(&open_regular(path).map_err(open)?, path)
    }

    /// The same of a regular file that is open; `path` is for messages.
    pub fn from_file(file: &File, path: &Path) -> Result<Vectors, VectorsError> {
        let path_buf = || path.to_owned();
        let open = |source| VectorsError::Open { path: path_buf(), source };
        let length = file.metadata().map_err(open)?.len();
        if length < HEADER_BYTES as u64 {
            let expected = HEADER_BYTES as u64;
            return Err(VectorsError::Length { path: path_buf(), found: length, expected });
        }
        let map = Mmap::of(file).map_err(open)?;
        let Some(header) = map.first_chunk::<HEADER_BYTES>() else {
            return Err(VectorsError::Magic { path: path_buf() });
        };
        let u32_at = |at: usize| u32::from_le_bytes(array(&header[at..]));
        if !header.starts_with(MAGIC) {
            return Err(VectorsError::Magic { path: path_buf() });
        }
        let version = u32_at(8);
        if !VERSIONS.contains(&version) {
            return Err(VectorsError::Version { path: path_buf(), found: version });
        }
        let (dim, n_vectors) = (u32_at(12), u64::from_le_bytes(array(&header[16..])));
        if dim == 0 || dim as usize > MAX_DIM || n_vectors == 0 || n_vectors > 1 << 32 {
            return Err(VectorsError::Shape { path: path_buf(), dim, n_vectors });
        }
        let rows_end = HEADER_BYTES as u64 + n_vectors * u64::from(dim) * 4;
        let has_ids = version == VERSIONS[1];
        let expected = if has_ids { rows_end + 8 * n_vectors } else { rows_end };
        let found = map.len() as u64;
        if found != expected {
            return Err(VectorsError::Length { path: path_buf(), found, expected });
        }
        let ids = if has_ids {
            let (ids, _) = map[rows_end as usize..].as_chunks::<8>();
            let ids: Vec<u64> = ids.iter().map(|id| u64::from_le_bytes(*id)).collect();
            if let Some(row) = first_unordered(&ids) {
                return Err(VectorsError::Ids { path: path_buf(), row });
            }
            Ids::Listed(ids)
        } else {
            Ids::Rows
        };
        Ok(Vectors {
            dim: dim as usize,
            n_vectors: n_vectors as usize,
            identity: Identity(array(&header[24..])),
            storage: Storage::File(map),
            ids,
        })
    }

    /// Writes a vector file with the rows of `kept`, which ascend, under the ids they have here.
    pub fn write_rows(&self, path: &Path, kept: &[Row]) -> Result<(), OutputError> {
        assert!(kept.is_sorted_by(|a, b| a < b), "rows ascend, each once");
        write_atomic(path, |writer| {
            let mut header = Vectors::header(self.dim, self.identity, kept.len());
            header[8..12].copy_from_slice(&VERSIONS[1].to_le_bytes());
            writer.write_all(&header)?;
            for &row in kept {
                writer.write_all(bytemuck::cast_slice(self.vector(row)))?;
            }
            for &row in kept {
                writer.write_all(&self.id(row).0.to_le_bytes())?;
            }
            Ok(())
        })
    }

    /// Writes a vector file of `n_vectors` rows, taken from `rows` as they come, whose ids are their
    /// numbers.
    ///
    /// Panics unless there are that many rows, at least one, each `dim` wide.
    pub fn write<'a>(
        path: &Path,
        dim: usize,
        identity: Identity,
        n_vectors: usize,
        rows: impl Iterator<Item = &'a [f32]>,
    ) -> Result<(), OutputError> {
        write_atomic(path, |writer| {
            writer.write_all(&Vectors::header(dim, identity, n_vectors))?;
            let mut n_written = 0;
            for row in rows {
                assert_eq!(row.len(), dim, "a row of another width");
                writer.write_all(bytemuck::cast_slice(row))?;
                n_written += 1;
            }
            assert_eq!(n_written, n_vectors, "as many rows as announced");
            Ok(())
        })
    }

    /// The first bytes of a vector file, for a writer that appends the rows itself.
    pub fn header(dim: usize, identity: Identity, n_vectors: usize) -> [u8; HEADER_BYTES] {
        assert!((1..=MAX_DIM).contains(&dim) && n_vectors > 0, "no such vector file");
        let mut header = [0; HEADER_BYTES];
        header[..8].copy_from_slice(MAGIC);
        header[8..12].copy_from_slice(&VERSIONS[0].to_le_bytes());
        header[12..16].copy_from_slice(&(dim as u32).to_le_bytes());
        header[16..24].copy_from_slice(&(n_vectors as u64).to_le_bytes());
        header[24..56].copy_from_slice(&identity.0);
        header
    }

    /// Numbers in a vector.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// How many vectors there are.
    pub fn len(&self) -> usize {
        self.n_vectors
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.n_vectors == 0
    }

    /// What made them.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// All of them, `(c, d)`.
    pub fn rows_cd(&self) -> &[f32] {
        match &self.storage {
            Storage::Memory(rows_cd) => rows_cd,
            // A map begins on a page, so the rows are aligned.
            Storage::File(map) => {
                bytemuck::cast_slice(&map[HEADER_BYTES..][..self.n_vectors * self.dim * 4])
            }
        }
    }

    /// One of them. Panics when there is no such row.
    pub fn vector(&self, row: Row) -> &[f32] {
        &self.rows_cd()[row.index() * self.dim..][..self.dim]
    }

    /// The id of a row. Panics when there is no such row.
    pub fn id(&self, row: Row) -> VectorId {
        assert!(row.index() < self.n_vectors, "no such row");
        match &self.ids {
            Ids::Rows => VectorId(row.0.into()),
            Ids::Listed(ids) => VectorId(ids[row.index()]),
        }
    }

    /// Where the vector `id` stands; `None` when it is not here.
    pub fn row_of(&self, id: VectorId) -> Option<Row> {
        let row = match &self.ids {
            Ids::Rows => usize::try_from(id.0).ok().filter(|&row| row < self.n_vectors)?,
            Ids::Listed(ids) => ids.binary_search(&id.0).ok()?,
        };
        Some(Row(row as u32))
    }
}

/// The first row whose id is not above that of the row before it.
fn first_unordered(ids: &[u64]) -> Option<usize> {
    ids.windows(2).position(|pair| pair[0] >= pair[1]).map(|at| at + 1)
}

/// The first `N` bytes, which the caller has made sure are there.
fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    *bytes.first_chunk().expect("the header is as long as its table says")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity::from_hex(&"5a".repeat(32)).unwrap()
    }

    /// The path of a file of two vectors of width three, and its bytes.
    fn written(dir: &Path) -> (PathBuf, Vec<u8>) {
        let path = dir.join("vectors");
        let rows_cd = [1.0, 2.0, 3.0, 4.0, 5.0, 6.5];
        Vectors::write(&path, 3, identity(), 2, rows_cd.chunks(3)).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        (path, bytes)
    }

    #[test]
    fn vectors_come_back_as_they_were_written() {
        let dir = tempfile::tempdir().unwrap();
        let vectors = Vectors::open(&written(dir.path()).0).unwrap();
        assert_eq!((vectors.dim(), vectors.len(), vectors.identity()), (3, 2, identity()));
        assert_eq!(vectors.vector(Row(1)), [4.0, 5.0, 6.5]);
        assert_eq!((vectors.id(Row(1)), vectors.row_of(VectorId(1))), (VectorId(1), Some(Row(1))));
        assert_eq!(vectors.row_of(VectorId(2)), None);
        assert_eq!(vectors.identity().to_hex(), "5a".repeat(32));
    }

    #[test]
    fn a_damaged_file_is_refused_with_what_was_found_and_expected() {
        let dir = tempfile::tempdir().unwrap();
        let (path, good) = written(dir.path());
        let refusal = |damage: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = good.clone();
            damage(&mut bytes);
            std::fs::write(&path, bytes).unwrap();
            let error = Vectors::open(&path).unwrap_err().to_string();
            error.replace(&path.display().to_string(), "FILE")
        };
        assert_eq!(refusal(&|b| b.truncate(87)), "`FILE` is 87 bytes, expected 88");
        assert_eq!(refusal(&|b| b.push(0)), "`FILE` is 89 bytes, expected 88");
        assert_eq!(refusal(&|b| b.truncate(30)), "`FILE` is 30 bytes, expected 64");
        assert_eq!(refusal(&|b| b.clear()), "`FILE` is 0 bytes, expected 64");
        assert_eq!(refusal(&|b| b[8] = 3), "`FILE` has format version 3, expected 1 or 2");
        assert_eq!(refusal(&|b| b[8] = 2), "`FILE` is 88 bytes, expected 104");
        let magic = "`FILE` is not a vector file: it does not begin with `LORVEC`";
        assert_eq!(refusal(&|b| b[0] = b'x'), magic);
        let huge = "`FILE` claims 1152921504606846976 vectors of 3 numbers";
        assert_eq!(refusal(&|b| b[16..24].copy_from_slice(&(1u64 << 60).to_le_bytes())), huge);
        assert_eq!(refusal(&|b| b[12] = 0), "`FILE` claims 2 vectors of 0 numbers");
        assert_eq!(refusal(&|b| b[16] = 0), "`FILE` claims 0 vectors of 3 numbers");
        assert!(matches!(Vectors::open(dir.path()), Err(VectorsError::Open { .. })));
    }

    #[test]
    fn rows_that_are_kept_keep_their_ids() {
        let dir = tempfile::tempdir().unwrap();
        let vectors = Vectors::open(&written(dir.path()).0).unwrap();
        let path = dir.path().join("kept");
        vectors.write_rows(&path, &[Row(1)]).unwrap();
        let kept = Vectors::open(&path).unwrap();
        assert_eq!((kept.len(), kept.vector(Row(0))), (1, &[4.0, 5.0, 6.5][..]));
        assert_eq!(kept.id(Row(0)), VectorId(1));
        assert_eq!(kept.row_of(VectorId(1)), Some(Row(0)));
        assert_eq!(kept.row_of(VectorId(0)), None);

        vectors.write_rows(&path, &[Row(0), Row(1)]).unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        let last_id = bytes.len() - 8;
        bytes[last_id] = 0;
        std::fs::write(&path, bytes).unwrap();
        let error = Vectors::open(&path).unwrap_err();
        assert!(matches!(error, VectorsError::Ids { row: 1, .. }), "{error}");
    }

    #[test]
    fn every_cut_of_a_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (path, good) = written(dir.path());
        for length in 0..good.len() {
            std::fs::write(&path, &good[..length]).unwrap();
            assert!(Vectors::open(&path).is_err(), "cut to {length} bytes");
        }
    }

    #[test]
    fn an_identity_is_64_hexadecimal_digits() {
        assert_eq!(Identity::from_hex("5a"), None);
        assert_eq!(Identity::from_hex(&"zz".repeat(32)), None);
        assert_eq!(Identity::from_hex(&"é".repeat(32)), None);
    }
}
