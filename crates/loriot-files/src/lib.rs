//! Everything that touches a disk: atomic writes, memory maps, hashes, size limits, hints.
//!
//! Every other crate reads untrusted files and leaves files behind through this one, so that two
//! promises hold everywhere: a reader checks a size before it allocates that much, and a writer
//! never leaves half a file under its final name. It knows no format.
//!
//! In reading order: [`hint`] the remedy beside an error · [`atomic`] files and folders that
//! appear whole or not at all · [`lock`] one writer at a time · [`read`] small files with a limit · [`mmap`] large ones ·
//! [`hash`] SHA-256 identities.

pub mod atomic;
pub mod hash;
pub mod hint;
pub mod lock;
pub mod mmap;
pub mod read;

pub use atomic::{NewDir, OutputError, write_atomic, write_atomic_bytes, write_atomic_json};
pub use hash::{Sha256Hasher, sha256_file};
pub use hint::Hint;
pub use lock::OutputLock;
pub use mmap::Mmap;
pub use read::{ReadFileError, read_json, read_limited};
