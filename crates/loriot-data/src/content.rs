//! What a file's first bytes say it is, where that is not the text that was expected.

use std::fmt;
use std::path::Path;

/// Something other than UTF-8 text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// gzip.
    Gzip,
    /// bzip2.
    Bzip2,
    /// xz.
    Xz,
    /// zstd.
    Zstd,
    /// A zip archive; so is an Excel workbook.
    Zip,
    /// Parquet.
    Parquet,
    /// UTF-16; the name that iconv has for it.
    Utf16(&'static str),
    /// Control characters.
    Binary,
}

impl Content {
    /// What the first line of a file is; `None` for what may be UTF-8 text.
    pub(crate) fn of(start: &[u8]) -> Option<Content> {
        match start {
            [0x1f, 0x8b, ..] => Some(Content::Gzip),
            [b'B', b'Z', b'h', b'1'..=b'9', 0x31, 0x41, ..] => Some(Content::Bzip2),
            [0xfd, b'7', b'z', b'X', b'Z', ..] => Some(Content::Xz),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Content::Zstd),
            [b'P', b'K', 3, 4, ..] => Some(Content::Zip),
            [b'P', b'A', b'R', b'1', ..] => Some(Content::Parquet),
            [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => Some(Content::Utf16("UTF-16")),
            _ => utf16_without_mark(start).or_else(|| is_binary(start).then_some(Content::Binary)),
        }
    }

    /// What to do about it.
    pub(crate) fn remedy(self, path: &Path) -> String {
        let name = path.display();
        let unpack = |command: &str| format!("decompress it first: `{command} {name}`");
        match self {
            Content::Gzip => {
                "rename it so that its name ends in `.gz`, as in `.csv.gz`, or say what it holds \
                 with `--format`"
                    .into()
            }
            Content::Bzip2 => unpack("bunzip2"),
            Content::Xz => unpack("unxz"),
            Content::Zstd => unpack("unzstd"),
            Content::Zip => {
                "unpack it, or if it is a spreadsheet, save it there as csv in UTF-8".into()
            }
            Content::Parquet => {
                "rename it so that its name ends in `.parquet`, or say `--format parquet`; it \
                 cannot come through a pipe"
                    .into()
            }
            Content::Utf16(code) => {
                format!("convert it: `iconv -f {code} -t UTF-8 {name} > utf8.csv`")
            }
            Content::Binary => {
                "if it is compressed, as by Brotli (`.br`), decompress it first; is it the right \
                 file?"
                    .into()
            }
        }
    }
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Content::Gzip => "gzip data",
            Content::Bzip2 => "bzip2 data",
            Content::Xz => "xz data",
            Content::Zstd => "zstd data",
            Content::Zip => "a zip archive",
            Content::Parquet => "parquet data",
            Content::Utf16(_) => "UTF-16 text",
            Content::Binary => "binary data",
        })
    }
}

/// ASCII in UTF-16 without a byte order mark: every second byte is 0.
fn utf16_without_mark(start: &[u8]) -> Option<Content> {
    const N_PAIRS: usize = 4;
    let pairs: Vec<(u8, u8)> =
        start.chunks_exact(2).take(N_PAIRS).map(|pair| (pair[0], pair[1])).collect();
    if pairs.len() < N_PAIRS {
        return None;
    }
    if pairs.iter().all(|(first, second)| first.is_ascii_graphic() && *second == 0) {
        return Some(Content::Utf16("UTF-16LE"));
    }
    let is_big_endian = |(first, second): &(u8, u8)| *first == 0 && second.is_ascii_graphic();
    pairs.iter().all(is_big_endian).then_some(Content::Utf16("UTF-16BE"))
}

/// NUL, or another control character in what is no UTF-8.
fn is_binary(start: &[u8]) -> bool {
    let is_control = |byte: &u8| matches!(byte, 0x01..=0x08 | 0x0e..=0x1f);
    if start.contains(&0) {
        return true;
    }
    // The look may have ended inside a character.
    let is_utf8 = match std::str::from_utf8(start) {
        Ok(_) => true,
        Err(error) => error.error_len().is_none(),
    };
    !is_utf8 && start.iter().any(is_control)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn utf16_is_told_from_binary_data_and_latin_1_from_both() {
        let utf16 = |order: fn(u16) -> [u8; 2]| -> Vec<u8> {
            "query,title\n".encode_utf16().flat_map(order).collect()
        };
        assert_eq!(Content::of(&utf16(u16::to_le_bytes)), Some(Content::Utf16("UTF-16LE")));
        assert_eq!(Content::of(&utf16(u16::to_be_bytes)), Some(Content::Utf16("UTF-16BE")));
        assert_eq!(Content::of(b"\x8b\x02\x80query"), Some(Content::Binary));
        assert_eq!(Content::of(b"a\0b"), Some(Content::Binary));
        for text in [b"caf\xe9,b\n".as_slice(), b"a\x1b[31m,b\n", b"", "é".as_bytes(), b"BZh"] {
            assert_eq!(Content::of(text), None);
        }
    }
}
