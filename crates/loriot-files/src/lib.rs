//! Everything that touches a disk: atomic writes, memory maps, hashes, size limits, hints.
//!
//! Every other crate reads untrusted files and leaves files behind through this one, so that two
//! promises hold everywhere: a reader checks a size before it allocates that much, and a writer
//! never leaves half a file under its final name. It knows no format.
//!
//! In reading order: [`hint`] the remedy beside an error · [`disk`] syncs and renames, which tests can watch ·
//! [`atomic`] files that appear whole or not at all · [`new_dir`] folders that do · [`lock`] one writer at a
//! time · [`open`](mod@open) regular files only · [`read`] small files with a limit · [`mmap`] large ones · [`hash`] SHA-256
//! identities.

pub mod atomic;
pub mod disk;
pub mod hash;
pub mod hint;
pub mod lock;
pub mod mmap;
pub mod new_dir;
pub mod open;
pub mod read;

pub use atomic::{
    OutputError, follow_links, parent, scratch_file, write_atomic, write_atomic_bytes,
    write_atomic_json,
};
pub use hash::{Fingerprint, Sha256Hasher, read_at, sha256_file, sha256_open};
pub use hint::Hint;
pub use lock::OutputLock;
pub use mmap::Mmap;
pub use new_dir::{NewDir, is_absent};
pub use open::{OpenFolder, is_plain_name, open_regular};
pub use read::{ReadFileError, parse_json, read_json, read_limited, read_limited_open};
