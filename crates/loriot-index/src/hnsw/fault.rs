//! Why a graph file is not trusted, and the checks that both formats share.

use loriot_files::Hint;

/// Why a graph file was not trusted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GraphFault {
    /// The file ends too early, or goes on after its end.
    #[error("it is {found} bytes, and its {part} should end at {expected}")]
    Length {
        /// What did not fit.
        part: &'static str,
        /// The file's size.
        found: usize,
        /// Where the part ends.
        expected: usize,
    },
    /// It does not begin as a graph file does.
    #[error(
        "it is not a graph: neither one of Loriot nor one of usearch 2 over f32 inner products"
    )]
    Head,
    /// The file is of a format that this version does not read.
    #[error("it has format version {found}, expected {expected}")]
    Version {
        /// Its version.
        found: u32,
        /// Ours.
        expected: u32,
    },
    /// It was built over the vectors of another encoder.
    #[error("it was built over the vectors of another encoder")]
    Identity,
    /// A count in the file is not what the vector file says, or cannot be.
    #[error("its {what} is {found}, expected {expected}")]
    Count {
        /// Which number.
        what: &'static str,
        /// What the file says.
        found: u64,
        /// What it should say.
        expected: String,
    },
    /// A node of the graph points where no node is.
    #[error("node {node} of its graph is damaged: {what}")]
    Node {
        /// Which node.
        node: usize,
        /// What is wrong with it.
        what: &'static str,
    },
}

impl Hint for GraphFault {
    fn hint(&self) -> Option<String> {
        Some("the graph is damaged or from another version: build the catalogue again".into())
    }
}

pub(super) fn expect(what: &'static str, found: u64, expected: u64) -> Result<(), GraphFault> {
    if found == expected {
        return Ok(());
    }
    Err(GraphFault::Count { what, found, expected: expected.to_string() })
}

pub(super) fn within(
    what: &'static str,
    found: u64,
    least: u64,
    most: u64,
) -> Result<usize, GraphFault> {
    if (least..=most).contains(&found) {
        return Ok(found as usize);
    }
    Err(GraphFault::Count { what, found, expected: format!("{least} to {most}") })
}

/// Takes a file apart from its front.
pub(super) struct Reader<'a> {
    file: &'a [u8],
    pub(super) at: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(file: &'a [u8]) -> Reader<'a> {
        Reader { file, at: 0 }
    }

    pub(super) fn take(
        &mut self,
        n_bytes: usize,
        part: &'static str,
    ) -> Result<&'a [u8], GraphFault> {
        let end = self.at.saturating_add(n_bytes);
        let fault = GraphFault::Length { part, found: self.file.len(), expected: end };
        let taken = self.file.get(self.at..end).ok_or(fault)?;
        self.at = end;
        Ok(taken)
    }

    pub(super) fn end(&self, part: &'static str) -> Result<(), GraphFault> {
        if self.at == self.file.len() {
            return Ok(());
        }
        Err(GraphFault::Length { part, found: self.file.len(), expected: self.at })
    }
}

/// The number at `at`, which the caller has made sure is there.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(*bytes[at..].first_chunk().expect("the part was taken whole"))
}

/// As [`u32_at`].
pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(*bytes[at..].first_chunk().expect("the part was taken whole"))
}
