//! Where the tests of all crates find their files: golden ones in the repository, the real model in the cache.
//!
//! Test files take it in by `#[path = "…/tests/rust/files.rs"] mod files;`: it belongs to no crate.

#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, reason = "a test helper's failure is the test's")]

use std::path::{Path, PathBuf};

/// A file or folder of `tests/golden`, whose absence fails.
pub(crate) fn golden_path(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(name);
    assert!(path.exists(), "`{}` is missing: `cargo xtask golden` makes it", path.display());
    path
}

/// The folder of all-MiniLM-L6-v2, where `cargo xtask prepare` puts it. Its absence fails.
pub(crate) fn minilm() -> PathBuf {
    let variable =
        |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = variable("LORIOT_CACHE")
        .or_else(|| variable("XDG_CACHE_HOME").map(|cache| cache.join("loriot")))
        .or_else(|| variable("HOME").map(|home| home.join(".cache/loriot")))
        .unwrap();
    let folder = cache.join("models/all-MiniLM-L6-v2");
    assert!(folder.is_dir(), "no `{}`: run `cargo xtask prepare`", folder.display());
    folder
}
