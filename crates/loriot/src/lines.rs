//! Lines of text as they arrive: a batch is what is there, and never waits for more than its first line.

use anyhow::{Context, bail};
use std::io::{BufRead, BufReader, Read};

/// Bytes asked of the input at once: what a pipe holds.
const BUFFER_BYTES: usize = 1 << 16;
/// A longer line is no query.
const LINE_LIMIT_BYTES: u64 = 1 << 20;

/// The lines of an input that may be slow.
pub struct Lines<R> {
    input: BufReader<R>,
    /// Lines read.
    number: u64,
}

/// Lines that stood ready together.
pub struct Batch {
    /// The lines without the blanks around them; lines of blanks alone are left out.
    pub lines: Vec<String>,
    /// What came after them: `None` where the input may go on.
    pub end: Option<anyhow::Result<()>>,
}

impl<R: Read> Lines<R> {
    /// Reads `input`, which should have no buffer of its own: what stands there would be waited for.
    pub fn new(input: R) -> Lines<R> {
        Lines { input: BufReader::with_capacity(BUFFER_BYTES, input), number: 0 }
    }

    /// Waits for a line, and takes those that have arrived with it, at most `most`. Without a line, the input
    /// has ended.
    pub fn next_batch(&mut self, most: usize) -> Batch {
        let mut lines = Vec::new();
        loop {
            match self.next() {
                Ok(Some(line)) if line.is_empty() => {}
                Ok(Some(line)) => lines.push(line),
                Ok(None) => return Batch { lines, end: Some(Ok(())) },
                Err(error) => return Batch { lines, end: Some(Err(error)) },
            }
            // A blank line that came with the last one must not make that one wait.
            let has_more = self.input.buffer().contains(&b'\n');
            if lines.len() == most || !lines.is_empty() && !has_more {
                return Batch { lines, end: None };
            }
        }
    }

    fn next(&mut self) -> anyhow::Result<Option<String>> {
        let mut line = Vec::new();
        let mut limited = (&mut self.input).take(LINE_LIMIT_BYTES + 1);
        limited.read_until(b'\n', &mut line).context("cannot read stdin")?;
        if line.is_empty() {
            return Ok(None);
        }
        self.number += 1;
        let number = self.number;
        if line.len() as u64 > LINE_LIMIT_BYTES {
            bail!("stdin line {number} has more than {LINE_LIMIT_BYTES} bytes");
        }
        match std::str::from_utf8(&line) {
            Ok(line) => Ok(Some(line.trim().to_owned())),
            Err(_) => bail!("stdin line {number} is not UTF-8 text"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives one piece per read, as a pipe whose writer is slow.
    struct Pieces(Vec<&'static [u8]>);

    impl Read for Pieces {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            if self.0.is_empty() {
                return Ok(0);
            }
            self.0.remove(0).read(buffer)
        }
    }

    /// The lines of each batch, joined, and the error at the end.
    fn batches(pieces: &[&'static [u8]], most: usize) -> (Vec<String>, Option<String>) {
        let mut lines = Lines::new(Pieces(pieces.to_vec()));
        let mut batches = Vec::new();
        loop {
            let batch = lines.next_batch(most);
            batches.push(batch.lines.join("|"));
            if let Some(end) = batch.end {
                return (batches, end.err().map(|error| error.to_string()));
            }
        }
    }

    #[test]
    fn a_batch_is_what_has_arrived() {
        let (got, error) = batches(&[b"red\n", b"blue\n  mug \r\n\n", b"la", b"mp\nx"], 9);
        assert_eq!(
            (got, error),
            (["red", "blue|mug", "lamp", "x", ""].map(str::to_owned).to_vec(), None)
        );
        let (got, _) = batches(&[b"a\nb\nc\nd\n"], 3);
        assert_eq!(got, ["a|b|c", "d", ""]);
        assert_eq!(batches(&[b" \n\t\n"], 3).0, [""]);
    }

    #[test]
    fn what_comes_before_a_bad_line_is_kept() {
        let (got, error) = batches(&[b"red\n\n\xff\nblue\n"], 9);
        assert_eq!((&*got[0], &*error.unwrap()), ("red", "stdin line 3 is not UTF-8 text"));
        let endless = std::io::repeat(b'x');
        let error = Lines::new(endless).next_batch(9).end.unwrap().unwrap_err();
        assert_eq!(error.to_string(), "stdin line 1 has more than 1048576 bytes");
    }
}
