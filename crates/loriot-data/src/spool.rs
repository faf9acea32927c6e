//! Products kept in a file, to be gone through again and again with one of them in memory.
//!
//! What comes through a pipe comes once, a file may change while it is read, and titles may be long: whoever
//! needs all products more than once writes them here first. The file has no name and goes with the process.
//! It is one gzip stream of records:
//!
//! ```text
//! id        string; the length 0xffff_ffff where there is none
//! title     string: its length in bytes, u32, and its bytes in UTF-8
//! n_other   u32; then for each value its column, u32, its kind, u8, and its text, string
//! line      u64
//! file_idx  u32
//! ```
//!
//! All numbers are little-endian. No other process reads it, so that it has no version.

use crate::records::Product;
use crate::value::Value;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use loriot_files::{OutputError, read_at, scratch_file};
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::Path;

/// Bytes that are read or written at a time.
const BUFFER_BYTES: usize = 1 << 16;
/// Stands for the length of an id that is not there.
const NO_ID: u32 = u32::MAX;

/// Products on their way into a [`Spool`].
#[derive(Debug)]
pub struct SpoolWriter {
    /// The quickest compression: a small gzip file may hold titles of gigabytes.
    writer: BufWriter<GzEncoder<File>>,
    n_products: usize,
    n_ids: usize,
}

/// Products in a file, in the order in which they were written.
#[derive(Debug)]
pub struct Spool {
    file: File,
    n_products: usize,
    n_ids: usize,
}

impl SpoolWriter {
    /// Begins in the folder of `output`, which must have the space.
    pub fn beside(output: &Path) -> Result<SpoolWriter, OutputError> {
        let gzip = GzEncoder::new(scratch_file(output)?, Compression::fast());
        let writer = BufWriter::with_capacity(BUFFER_BYTES, gzip);
        Ok(SpoolWriter { writer, n_products: 0, n_ids: 0 })
    }

    /// Appends `product`.
    pub fn push(&mut self, product: &Product) -> io::Result<()> {
        self.n_products += 1;
        match &product.id {
            Some(id) => {
                self.n_ids += 1;
                self.put_text(id)?;
            }
            None => self.put_u32(NO_ID)?,
        }
        self.put_text(&product.product_title)?;
        self.put_u32(product.other.len() as u32)?;
        for (column, value) in &product.other {
            self.put_u32(*column)?;
            let (kind, text) = match value {
                Value::Text(text) => (0, text.as_str()),
                Value::Number(text) => (1, text.as_str()),
                Value::Json(text) => (2, text.as_str()),
                Value::Bool(false) => (3, ""),
                Value::Bool(true) => (4, ""),
            };
            self.writer.write_all(&[kind])?;
            self.put_text(text)?;
        }
        self.writer.write_all(&product.line.to_le_bytes())?;
        self.put_u32(product.file_idx as u32)
    }

    /// All products that were written.
    pub fn finish(self) -> io::Result<Spool> {
        let SpoolWriter { writer, n_products, n_ids } = self;
        let gzip = writer.into_inner().map_err(io::IntoInnerError::into_error)?;
        Ok(Spool { file: gzip.finish()?, n_products, n_ids })
    }

    fn put_u32(&mut self, number: u32) -> io::Result<()> {
        self.writer.write_all(&number.to_le_bytes())
    }

    fn put_text(&mut self, text: &str) -> io::Result<()> {
        let length = u32::try_from(text.len()).ok().filter(|&length| length != NO_ID);
        self.put_u32(length.ok_or(io::ErrorKind::InvalidInput)?)?;
        self.writer.write_all(text.as_bytes())
    }
}

impl Spool {
    /// How many products there are.
    pub fn len(&self) -> usize {
        self.n_products
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.n_products == 0
    }

    /// How many of them have an id.
    pub fn n_ids(&self) -> usize {
        self.n_ids
    }

    /// The products from the first on. Several may go through them at once.
    pub fn products(&self) -> impl Iterator<Item = io::Result<Product>> {
        let gzip = GzDecoder::new(FromStart { file: &self.file, at: 0 });
        let mut reader = BufReader::with_capacity(BUFFER_BYTES, gzip);
        (0..self.n_products).map(move |_| read_product(&mut reader))
    }
}

/// Reads a file from its start, wherever others read it.
struct FromStart<'a> {
    file: &'a File,
    at: u64,
}

impl Read for FromStart<'_> {
    fn read(&mut self, piece: &mut [u8]) -> io::Result<usize> {
        let n_bytes = read_at(self.file, piece, self.at)?;
        self.at += n_bytes as u64;
        Ok(n_bytes)
    }
}

fn read_product(reader: &mut impl Read) -> io::Result<Product> {
    let id = match read_u32(reader)? {
        NO_ID => None,
        length => Some(read_text(reader, length)?),
    };
    let length = read_u32(reader)?;
    let product_title = read_text(reader, length)?;
    let other = (0..read_u32(reader)?).map(|_| read_value(reader)).collect::<io::Result<_>>()?;
    let line = u64::from_le_bytes(read_bytes(reader)?);
    Ok(Product { id, product_title, other, line, file_idx: read_u32(reader)? as usize })
}

fn read_value(reader: &mut impl Read) -> io::Result<(u32, Value)> {
    let column = read_u32(reader)?;
    let [kind] = read_bytes(reader)?;
    let length = read_u32(reader)?;
    let text = read_text(reader, length)?;
    let value = match kind {
        0 => Value::Text(text),
        1 => Value::Number(text),
        2 => Value::Json(text),
        kind => Value::Bool(kind == 4),
    };
    Ok((column, value))
}

fn read_bytes<const N: usize>(reader: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    reader.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn read_u32(reader: &mut impl Read) -> io::Result<u32> {
    read_bytes(reader).map(u32::from_le_bytes)
}

fn read_text(reader: &mut impl Read, length: u32) -> io::Result<String> {
    let mut bytes = vec![0; length as usize];
    reader.read_exact(&mut bytes)?;
    String::from_utf8(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_come_back_as_they_were_as_often_as_asked_for() {
        let text = |text: &str| Value::Text(text.to_owned());
        let values = [
            vec![],
            vec![(0, text("")), (7, Value::Number("1.50".into())), (4_095, Value::Bool(true))],
            vec![(1, Value::Bool(false)), (2, Value::Json("[1, \"é\"]".into()))],
        ];
        let product = |i: usize| Product {
            id: [None, Some(String::new()), Some(format!("sku-{i}"))][i % 3].clone(),
            product_title: "kettle é\0 ".repeat(i),
            other: values[i % values.len()].clone(),
            line: u64::MAX - i as u64,
            file_idx: i,
        };
        let dir = tempfile::tempdir().unwrap();
        let mut writer = SpoolWriter::beside(&dir.path().join("deep/shop")).unwrap();
        let products: Vec<Product> = (0..2_000).map(product).collect();
        products.iter().for_each(|product| writer.push(product).unwrap());
        let spool = writer.finish().unwrap();
        assert_eq!((spool.len(), spool.n_ids(), spool.is_empty()), (2_000, 1_333, false));
        let (mut first, second) = (spool.products(), spool.products());
        assert!(first.by_ref().take(3).map(Result::unwrap).eq(products[..3].iter().cloned()));
        assert!(second.map(Result::unwrap).eq(products.iter().cloned()));
        assert!(first.map(Result::unwrap).eq(products[3..].iter().cloned()));
        // It has no name.
        assert_eq!(std::fs::read_dir(dir.path().join("deep")).unwrap().count(), 0);
    }

    #[test]
    fn long_titles_that_repeat_take_little_space() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = SpoolWriter::beside(&dir.path().join("shop")).unwrap();
        let mut product = Product {
            id: None,
            product_title: "red kettle ".repeat(100_000),
            other: Vec::new(),
            line: 1,
            file_idx: 0,
        };
        for line in 0..20 {
            product.line = line;
            writer.push(&product).unwrap();
        }
        let spool = writer.finish().unwrap();
        let n_bytes = spool.file.metadata().unwrap().len();
        assert!(n_bytes < 1_000_000, "{n_bytes} bytes of 22 MB");
    }
}
