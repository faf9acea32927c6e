//! SHA-256, as lower-case hexadecimal: the identity of models, adapters and data files. And a short form of it,
//! by which millions of texts are told apart.

use crate::open_regular;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io;
use std::path::Path;

/// SHA-256 of bytes that arrive in pieces.
#[derive(Clone, Debug, Default)]
pub struct Sha256Hasher(Sha256);

impl Sha256Hasher {
    /// A hasher that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends `bytes` to what is hashed.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Appends a field after its length, so that the fields `ab`, `c` and `a`, `bc` hash differently.
    pub fn field(&mut self, bytes: &[u8]) {
        self.update(&(bytes.len() as u64).to_le_bytes());
        self.update(bytes);
    }

    /// The hash of all that was appended, 64 hexadecimal digits.
    pub fn finish(self) -> String {
        self.0.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// The first 128 bits of a SHA-256: equal for equal bytes, and nobody can make two different ones with the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 16]);

impl Fingerprint {
    /// That of `bytes`.
    pub fn of(bytes: &[u8]) -> Fingerprint {
        let digest = Sha256::digest(bytes);
        let mut first = [0; 16];
        first.copy_from_slice(&digest[..16]);
        Fingerprint(first)
    }
}

/// SHA-256 of a regular file's content, read in pieces.
pub fn sha256_file(path: &Path) -> io::Result<String> {
    sha256_open(&open_regular(path)?)
}

/// SHA-256 of all that is in an open file. Where it is read next does not matter, and on Unix stays as it is.
pub fn sha256_open(file: &File) -> io::Result<String> {
    let mut hasher = Sha256Hasher::new();
    let (mut piece, mut at) = (vec![0; 1 << 16], 0);
    loop {
        match read_at(file, &mut piece, at)? {
            0 => return Ok(hasher.finish()),
            n => {
                hasher.update(&piece[..n]);
                at += n as u64;
            }
        }
    }
}

/// Reads some bytes from position `at` on; 0 at the end of the file. Where the file is read next does not matter,
/// and on Unix stays as it is.
pub fn read_at(file: &File, piece: &mut [u8], at: u64) -> io::Result<usize> {
    #[cfg(unix)]
    let read = |piece: &mut [u8]| std::os::unix::fs::FileExt::read_at(file, piece, at);
    #[cfg(windows)]
    let read = |piece: &mut [u8]| std::os::windows::fs::FileExt::seek_read(file, piece, at);
    loop {
        match read(piece) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_of_abc_is_the_standards() {
        let want = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let mut hasher = Sha256Hasher::new();
        hasher.update(b"a");
        hasher.update(b"bc");
        assert_eq!(hasher.finish(), want);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "abc").unwrap();
        assert_eq!(sha256_file(file.path()).unwrap(), want);
        assert_eq!(Fingerprint::of(b"abc").0[..4], [0xba, 0x78, 0x16, 0xbf]);
        let open = File::open(file.path()).unwrap();
        assert_eq!([&open, &open].map(|open| sha256_open(open).unwrap()), [want, want]);
    }

    #[test]
    fn fields_do_not_run_into_each_other() {
        let hash = |fields: [&[u8]; 2]| {
            let mut hasher = Sha256Hasher::new();
            fields.iter().for_each(|field| hasher.field(field));
            hasher.finish()
        };
        assert_ne!(hash([b"ab", b"c"]), hash([b"a", b"bc"]));
    }
}
