//! A fresh folder in which the built binary runs, beside the tiny golden model.

#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, reason = "a test helper's failure is the test's")]

#[path = "../../../../tests/rust/files.rs"]
mod files;

use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

/// A folder of its own, removed at the end.
pub(crate) struct Dir(tempfile::TempDir);

/// What a command left behind.
pub(crate) struct Done {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Where the tiny golden model stands.
pub(crate) fn tiny_model() -> String {
    golden("tiny_bert")
}

pub(crate) fn golden(name: &str) -> String {
    files::golden_path(name).canonicalize().unwrap().display().to_string()
}

impl Dir {
    /// With `train.csv` (`n_train` rows) and `eval.csv` (60 rows).
    pub(crate) fn with_rows(n_train: usize) -> Dir {
        let dir = Dir(tempfile::tempdir().unwrap());
        let text = fs::read_to_string(golden("train_rows.csv")).unwrap();
        let mut lines = text.lines();
        let header = lines.next().unwrap();
        let rows: Vec<_> = lines.collect();
        let file = |rows: &[&str]| format!("{header}\n{}\n", rows.join("\n"));
        dir.write("train.csv", file(&rows[..n_train]));
        dir.write("eval.csv", file(&rows[rows.len() - 60..]));
        dir
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.path(name), content).unwrap();
    }

    /// The binary, to run in this folder with arguments that are split at spaces; `MODEL` stands
    /// for the tiny model.
    pub(crate) fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_loriot"));
        let model = tiny_model();
        command.args(arguments.split_whitespace().map(|a| if a == "MODEL" { &model } else { a }));
        command.current_dir(self.0.path()).env_remove("LORIOT_ISA");
        command
    }

    pub(crate) fn loriot(&self, arguments: &str) -> Done {
        let Output { status, stdout, stderr } = self.command(arguments).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Done { code: status.code(), stdout: text(stdout), stderr: text(stderr) }
    }

    /// Names in the folder, sorted.
    pub(crate) fn names(&self) -> Vec<String> {
        let names = fs::read_dir(self.0.path()).unwrap();
        let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name();
        let mut names: Vec<_> =
            names.map(|entry| name(entry).to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// Every file below `name`; of the log, all but the times.
    pub(crate) fn contents(&self, name: &str) -> BTreeMap<String, Vec<u8>> {
        let mut found = BTreeMap::new();
        let (root, mut folders) = (self.path(name), vec![self.path(name)]);
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                    continue;
                }
                let name = path.strip_prefix(&root).unwrap().display().to_string();
                let bytes = fs::read(&path).unwrap();
                let is_log = name == "metrics.jsonl";
                found.insert(name, if is_log { without_times(&bytes) } else { bytes });
            }
        }
        found
    }
}

impl Done {
    #[track_caller]
    pub(crate) fn ok(self) -> Done {
        assert_eq!(self.code, Some(0), "{}", self.stderr);
        self
    }

    /// Fails unless the command failed with this status, one error with these words, and a hint
    /// with those (none where they are empty).
    #[track_caller]
    pub(crate) fn refused(&self, code: i32, error: &str, hint: &str) {
        let Done { stderr, stdout, .. } = self;
        assert_eq!(self.code, Some(code), "{stderr}");
        assert_eq!(stdout, "", "stdout is for results");
        let line = |head: &str| stderr.lines().find(|line| line.starts_with(head)).unwrap_or("");
        let whole = format!("{} {}", line("error: "), line("caused by: "));
        assert!(line("error: ").len() > 8 && whole.contains(error), "{stderr}");
        assert!(line("hint: ").contains(hint), "{stderr}");
        assert_eq!(stderr.matches("error: ").count(), 1, "{stderr}");
        assert!(!stderr.contains("panicked"), "{stderr}");
    }

    pub(crate) fn json(&self) -> Value {
        assert_eq!(self.stdout.lines().count(), 1, "one object, one line: {}", self.stdout);
        serde_json::from_str(&self.stdout).unwrap()
    }
}

fn without_times(log: &[u8]) -> Vec<u8> {
    let lines = log.split_inclusive(|&byte| byte == b'\n').map(|line| {
        let mut value: Value = serde_json::from_slice(line).unwrap();
        value.as_object_mut().unwrap().remove("ms").unwrap();
        value.to_string() + "\n"
    });
    lines.collect::<String>().into_bytes()
}
