//! How rows are read: column names, limits, and what happens to a bad row.

use crate::columns::Columns;

/// How rows are read.
#[derive(Clone, Debug)]
pub struct ReadOptions {
    /// What the files call our columns.
    pub columns: Columns,
    /// Count rows that are wrong instead of stopping at the first.
    pub skip_bad_rows: bool,
    /// The longest value of a column that is read; 1 MiB.
    pub max_text_bytes: usize,
    /// The longest record of a text format as it stands in the file; 16 MiB. This bounds memory.
    pub max_record_bytes: usize,
}

impl Default for ReadOptions {
    fn default() -> ReadOptions {
        ReadOptions {
            columns: Columns::default(),
            skip_bad_rows: false,
            max_text_bytes: 1 << 20,
            max_record_bytes: 1 << 24,
        }
    }
}
