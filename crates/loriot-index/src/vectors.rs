//! Vectors in memory or in a file, format version 1.
//!
//! ```text
//! offset  bytes        field
//! 0       8            magic "LORVEC\0\0"
//! 8       4            format version, u32 little-endian
//! 12      4            dim, u32
//! 16      8            n_vectors, u64
//! 24      32           identity: SHA-256 of what embedded the vectors
//! 56      8            zero, so that the rows begin on a cache line
//! 64      n·dim·4      vectors, f32 little-endian, row-major
//! ```
//!
//! The file is mapped and searched as it lies there; opening it reads the header alone. A change
//! to this table needs a new version, a file of the old version under `tests/formats/`, and a test
//! that still opens it.

use crate::VectorId;
use loriot_files::{Hint, Mmap, OutputError, write_atomic};
use std::io::Write;
use std::path::{Path, PathBuf};

const MAGIC: &[u8; 8] = b"LORVEC\0\0";
const VERSION: u32 = 1;
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
    #[error("`{}` has format version {found}, expected {VERSION}", path.display())]
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
}

impl Hint for VectorsError {
    fn hint(&self) -> Option<String> {
        match self {
            VectorsError::Version { .. } => Some("build the catalogue again".into()),
            VectorsError::Length { .. } | VectorsError::Magic { .. } => {
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
}

#[derive(Debug)]
enum Storage {
    Memory(Vec<f32>),
    File(Mmap),
}

impl Vectors {
    /// Vectors that are in memory already. Panics unless `rows_cd` is whole rows of `dim`.
    pub fn new(dim: usize, identity: Identity, rows_cd: Vec<f32>) -> Vectors {
        assert!(dim > 0 && rows_cd.len().is_multiple_of(dim), "vectors must be whole rows");
        let n_vectors = rows_cd.len() / dim;
        assert!(u32::try_from(n_vectors).is_ok(), "an id is 32 bits");
        Vectors { dim, n_vectors, identity, storage: Storage::Memory(rows_cd) }
    }

    /// Maps a vector file after its header and length were checked.
    pub fn open(path: &Path) -> Result<Vectors, VectorsError> {
        let path_buf = || path.to_owned();
        let open = |source| VectorsError::Open { path: path_buf(), source };
        let length = std::fs::metadata(path).map_err(open)?.len();
        if length < HEADER_BYTES as u64 {
            let expected = HEADER_BYTES as u64;
            return Err(VectorsError::Length { path: path_buf(), found: length, expected });
        }
        let map = Mmap::open(path).map_err(open)?;
        let Some(header) = map.first_chunk::<HEADER_BYTES>() else {
            return Err(VectorsError::Magic { path: path_buf() });
        };
        let u32_at = |at: usize| u32::from_le_bytes(array(&header[at..]));
        if !header.starts_with(MAGIC) {
            return Err(VectorsError::Magic { path: path_buf() });
        }
        if u32_at(8) != VERSION {
            return Err(VectorsError::Version { path: path_buf(), found: u32_at(8) });
        }
        let (dim, n_vectors) = (u32_at(12), u64::from_le_bytes(array(&header[16..])));
        if dim == 0 || dim as usize > MAX_DIM || n_vectors == 0 || n_vectors > 1 << 32 {
            return Err(VectorsError::Shape { path: path_buf(), dim, n_vectors });
        }
        let expected = HEADER_BYTES as u64 + n_vectors * u64::from(dim) * 4;
        let found = map.len() as u64;
        if found != expected {
            return Err(VectorsError::Length { path: path_buf(), found, expected });
        }
        Ok(Vectors {
            dim: dim as usize,
            n_vectors: n_vectors as usize,
            identity: Identity(array(&header[24..])),
            storage: Storage::File(map),
        })
    }

    /// Writes a vector file of `n_vectors` rows, taken from `rows` as they come.
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
        header[8..12].copy_from_slice(&VERSION.to_le_bytes());
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
            Storage::File(map) => bytemuck::cast_slice(&map[HEADER_BYTES..]),
        }
    }

    /// One of them. Panics when there is no such row.
    pub fn row(&self, id: VectorId) -> &[f32] {
        &self.rows_cd()[id.row() * self.dim..][..self.dim]
    }
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
        assert_eq!(vectors.row(VectorId(1)), [4.0, 5.0, 6.5]);
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
        assert_eq!(refusal(&|b| b[8] = 2), "`FILE` has format version 2, expected 1");
        let magic = "`FILE` is not a vector file: it does not begin with `LORVEC`";
        assert_eq!(refusal(&|b| b[0] = b'x'), magic);
        let huge = "`FILE` claims 1152921504606846976 vectors of 3 numbers";
        assert_eq!(refusal(&|b| b[16..24].copy_from_slice(&(1u64 << 60).to_le_bytes())), huge);
        assert_eq!(refusal(&|b| b[12] = 0), "`FILE` claims 2 vectors of 0 numbers");
        assert_eq!(refusal(&|b| b[16] = 0), "`FILE` claims 0 vectors of 3 numbers");
        assert!(matches!(Vectors::open(dir.path()), Err(VectorsError::Open { .. })));
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
