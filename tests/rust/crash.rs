//! Crashes played through: what a folder would hold if the program, or the machine, stopped right after a call.
//!
//! [`after_each_call`] runs some work and, after each sync, rename and removal that it makes through
//! `loriot_files::disk`, builds three folders and hands them to a check:
//!
//! - what a killed program leaves: names and contents as they are;
//! - what a power failure may leave: names as they are, of each file what was last synced;
//! - what it may leave as well: the names that each folder had when it was last synced.
//!
//! A disk may also keep more than was asked for, which these leave out. Test files take this in by
//! `#[path = "…/tests/rust/crash.rs"] mod crash;`: it belongs to no crate.

#![allow(clippy::unwrap_used, reason = "a test helper's failure is the test's")]

use loriot_files::disk::{Call, observe};
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// What is on the disk for certain, by inode.
#[derive(Default)]
struct Synced {
    content: HashMap<u64, Vec<u8>>,
    /// Of each folder: its names, their inodes, and whether each is a folder.
    names: HashMap<u64, BTreeMap<OsString, (u64, bool)>>,
    /// Keeps the number of each, lest what is made after a removal gets it and passes for what was removed.
    held: HashMap<u64, File>,
}

fn inode(path: &Path) -> u64 {
    fs::symlink_metadata(path).unwrap().ino()
}

fn listing(dir: &Path) -> BTreeMap<OsString, (u64, bool)> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    entries.map(|e| (e.file_name(), (inode(&e.path()), e.path().is_dir()))).collect()
}

impl Synced {
    /// Everything in `dir`, as after a long time.
    fn add_all(&mut self, dir: &Path) {
        self.hold(dir);
        listing(dir).keys().for_each(|name| self.hold(&dir.join(name)));
        self.names.insert(inode(dir), listing(dir));
        for (name, (inode, is_folder)) in listing(dir) {
            match is_folder {
                true => self.add_all(&dir.join(name)),
                false => drop(self.content.insert(inode, fs::read(dir.join(name)).unwrap())),
            }
        }
    }

    fn hold(&mut self, path: &Path) {
        self.held.entry(inode(path)).or_insert_with(|| File::open(path).unwrap());
    }

    fn take_in(&mut self, call: &Call) {
        match call {
            Call::Sync(path) => {
                self.hold(path);
                self.content.insert(inode(path), fs::read(path).unwrap());
            }
            Call::SyncFolder(path) => {
                self.hold(path);
                listing(path).keys().for_each(|name| self.hold(&path.join(name)));
                self.names.insert(inode(path), listing(path));
            }
            Call::Rename(..) | Call::Exchange(..) | Call::Remove(_) => {}
        }
    }

    /// The names in `from` with synced contents.
    fn copy_by_names_of(&self, from: &Path, to: &Path) {
        fs::create_dir_all(to).unwrap();
        for (name, (inode, is_folder)) in listing(from) {
            match is_folder {
                true => self.copy_by_names_of(&from.join(&name), &to.join(&name)),
                false => {
                    let content = self.content.get(&inode).map_or(&[][..], |content| content);
                    fs::write(to.join(name), content).unwrap();
                }
            }
        }
    }

    /// The synced names in the folder `inode` with synced contents.
    fn copy_synced(&self, inode: u64, to: &Path) {
        fs::create_dir_all(to).unwrap();
        for (name, (inode, is_folder)) in self.names.get(&inode).into_iter().flatten() {
            match is_folder {
                true => self.copy_synced(*inode, &to.join(name)),
                false => {
                    let content = self.content.get(inode).map_or(&[][..], |content| content);
                    fs::write(to.join(name), content).unwrap();
                }
            }
        }
    }
}

fn copy_all(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for (name, (_, is_folder)) in listing(from) {
        match is_folder {
            true => copy_all(&from.join(&name), &to.join(&name)),
            false => drop(fs::copy(from.join(&name), to.join(&name)).unwrap()),
        }
    }
}

/// Runs `work`, which writes in `root`, and gives `check` a copy of `root` as each kind of crash would leave it
/// after each call, with the call. Returns what `work` returns, and how many calls there were.
pub(crate) fn after_each_call<R>(
    root: &Path,
    work: impl FnOnce() -> R,
    mut check: impl FnMut(&Path, &Call) + 'static,
) -> (R, usize) {
    let root: PathBuf = root.to_owned();
    let mut synced = Synced::default();
    synced.add_all(&root);
    let n_calls = Rc::new(RefCell::new(0));
    let counted = Rc::clone(&n_calls);
    let on_call = move |call: &Call| {
        *counted.borrow_mut() += 1;
        synced.take_in(call);
        let copies = tempfile::tempdir().unwrap();
        let [killed, contents, names] =
            ["killed", "contents", "names"].map(|n| copies.path().join(n));
        copy_all(&root, &killed);
        synced.copy_by_names_of(&root, &contents);
        synced.copy_synced(inode(&root), &names);
        for copy in [killed, contents, names] {
            check(&copy, call);
        }
    };
    let result = observe(on_call, work);
    let n_calls = *n_calls.borrow();
    (result, n_calls)
}
