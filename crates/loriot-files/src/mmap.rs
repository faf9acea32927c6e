//! Read-only memory maps: the one place outside the kernels with `unsafe`.

#![allow(unsafe_code)] // Mapping is unsafe because another process may change the file.

use crate::open_regular;
use std::fs::File;
use std::ops::{Deref, Range};
use std::path::Path;

/// A file's bytes, mapped read-only.
#[derive(Debug)]
pub struct Mmap(memmap2::Mmap);

impl Mmap {
    /// Maps the whole of a regular file. An empty one is an error of kind `InvalidInput` on some systems.
    pub fn open(path: &Path) -> std::io::Result<Mmap> {
        Mmap::of(&open_regular(path)?)
    }

    /// Maps the whole of an open file, which must be a regular one; see [`open_regular`]. The map stays
    /// when the file is closed.
    pub fn of(file: &File) -> std::io::Result<Mmap> {
        // SAFETY: the bytes must stay as they are while they are borrowed, and no file system promises that: this is the
        // caller's world to keep. What we write under a name of our own is replaced by renaming, so that a map goes on with
        // the old file; the one file that grows in place, of embeddings not yet finished, is mapped only once its writer is
        // done. A model or catalogue that another program rewrites under us may give other numbers, each of which every
        // reader checks or copes with as it comes; one that is cut short ends the process by SIGBUS, as with every loader
        // that maps weights.
        unsafe { memmap2::Mmap::map(file) }.map(Mmap)
    }

    /// Tells the system that the pages of `range`, a part of the file, will not be read again soon, so
    /// that they stop counting as this process's memory. They are read back from the file if they are.
    pub fn release(&self, range: Range<usize>) {
        assert!(range.end <= self.0.len(), "a range of the file");
        #[cfg(unix)]
        {
            let (advice, len) = (memmap2::UncheckedAdvice::DontNeed, range.len());
            // SAFETY: `DontNeed` on a read-only file map drops clean pages only; a later read
            // faults them in again with the same content.
            let _ = unsafe { self.0.unchecked_advise_range(advice, range.start, len) };
        }
    }
}

impl Deref for Mmap {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_released_map_still_reads_the_same() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), vec![7; 100_000]).unwrap();
        let map = Mmap::open(file.path()).unwrap();
        map.release(0..100_000);
        map.release(5_000..60_001);
        assert_eq!(map.len(), 100_000);
        assert!(map.iter().all(|&byte| byte == 7));
    }

    #[test]
    fn a_folder_cannot_be_mapped() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Mmap::open(dir.path()).is_err());
    }
}
