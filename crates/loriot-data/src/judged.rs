//! All judged rows of some files, their labels brought to the scale from 0 to 1.
//!
//! Without [`ReadOptions::label_scale`] labels are from 0 to 1. Where some are above 1, the scale
//! may be the range that all labels together have, lowest to highest. So that a typing error or a
//! marker like 99 does not change what every row means, that range is taken only if
//!
//! - no label is below 0 (-1 may mean irrelevant, or unknown: only the user knows),
//! - no label is a letter of ESCI, which stands for a number from 0 to 1,
//! - at least one row in a hundred is above 1, and
//! - those rows have two different labels, or there are ten of them.
//!
//! Otherwise a label outside 0 to 1 is a bad row. All rows decide, so that their order does not
//! matter. Grades stay as they are: they may be on any scale.

use std::path::PathBuf;

use crate::error::{ReadError, RowFault};
use crate::label_scale::LabelScale;
use crate::options::ReadOptions;
use crate::records::{Pair, read_pairs, read_pairs_with_any_label};
use crate::rows::SkippedRows;

/// In how many rows there is one above 1 at least, where labels are on a scale of their own.
const ONE_ABOVE_IN: usize = 100;
/// How many rows above 1 there are at least, if they all have one label.
const N_ALIKE: usize = 10;

/// Judged rows in memory.
#[derive(Clone, Debug)]
pub struct Judged {
    /// The rows, labels from 0 to 1.
    pub pairs: Vec<Pair>,
    /// What was left out.
    pub skipped: SkippedRows,
    /// The scale that the labels were read on.
    pub scale: LabelScale,
    /// Whether that scale is the labels' own range, which no option said.
    pub is_found: bool,
    /// What was assumed about the files.
    pub notes: Vec<String>,
}

/// Judged rows of one or several files, on the scale that `options` names or the labels have.
pub fn read_judged(paths: &[PathBuf], options: &ReadOptions) -> Result<Judged, ReadError> {
    if let Some(scale) = options.label_scale {
        let rows = read_pairs(paths, options)?;
        let notes = rows.notes().to_vec();
        let (pairs, skipped) = rows.read_all()?;
        return Ok(Judged { pairs, skipped, scale, is_found: false, notes });
    }
    let mut rows = read_pairs_with_any_label(paths, options)?;
    let notes = rows.notes().to_vec();
    let mut pairs = rows.by_ref().collect::<Result<Vec<Pair>, ReadError>>()?;
    let mut skipped = rows.skipped().clone();
    let found = match rows.has_letters() {
        true => None,
        false => own_scale(&pairs),
    };
    if let Some(scale) = found {
        for pair in &mut pairs {
            // Every label is in the range of all labels.
            pair.relevance_label = scale.apply(pair.relevance_label).unwrap_or(0.0);
        }
        return Ok(Judged { pairs, skipped, scale, is_found: true, notes });
    }
    let column = options.columns.in_file("relevance_label");
    let mut bad = Vec::new();
    let is_label = |pair: &Pair| LabelScale::UNIT.apply(pair.relevance_label).is_some();
    pairs.retain(|pair| {
        let is_label = is_label(pair);
        if !is_label {
            bad.push((pair.file_idx, pair.line, pair.relevance_label));
        }
        is_label
    });
    for (file_idx, line, found) in bad {
        let fault = RowFault::Label { column: column.to_owned(), found };
        let error = rows.row_error(file_idx, line, fault);
        if !options.skip_bad_rows {
            return Err(error);
        }
        skipped.add(&error);
    }
    if pairs.is_empty() {
        return Err(rows.all_skipped(&skipped));
    }
    Ok(Judged { pairs, skipped, scale: LabelScale::UNIT, is_found: false, notes })
}

/// The range of the labels, where it is plainly another than 0 to 1.
fn own_scale(pairs: &[Pair]) -> Option<LabelScale> {
    let labels = || pairs.iter().map(|pair| pair.relevance_label);
    let scale = LabelScale::of(labels())?;
    let above = || labels().filter(|label| *label > 1.0);
    let n_above = above().count();
    let differ = above().any(|label| label < scale.high());
    let is_scale = scale.low() >= 0.0
        && n_above > 0
        && n_above.saturating_mul(ONE_ABOVE_IN) >= pairs.len()
        && (differ || n_above >= N_ALIKE);
    is_scale.then_some(scale)
}
