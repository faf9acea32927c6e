//! How rows are read: column names, limits, and what happens to a bad row.

use crate::columns::Columns;
use crate::label_scale::LabelScale;
use crate::source::Format;
use crate::template::TextTemplate;

/// How rows are read.
#[derive(Clone, Debug)]
pub struct ReadOptions {
    /// What the files call our columns.
    pub columns: Columns,
    /// Count rows that are wrong instead of stopping at the first.
    pub skip_bad_rows: bool,
    /// The scale of labels; `None` for 0 to 1.
    pub label_scale: Option<LabelScale>,
    /// The scale of grades; `None` for any number from 0 up, which is kept as it is.
    pub grade_scale: Option<LabelScale>,
    /// What a product's text is made of, instead of one column.
    pub text_template: Option<TextTemplate>,
    /// What all files are, whatever their names say; `None` to go by the names.
    pub format: Option<Format>,
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
            label_scale: None,
            grade_scale: None,
            text_template: None,
            format: None,
            max_text_bytes: 1 << 20,
            max_record_bytes: 1 << 24,
        }
    }
}
