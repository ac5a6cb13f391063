//! What is wrong with an archive as a whole, in words. How many samples are lost with it cannot be known.

use std::fs::File;
use std::io::{Error, ErrorKind, Read, Result, Seek};

/// How files begin that are often taken for tar archives.
const FORMATS: [(&[u8], &str); 6] = [
    (b"\x1f\x8b", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\xfd7zXZ\0", "xz"),
    (b"BZh", "bzip2"),
    (b"\x04\x22\x4d\x18", "lz4"),
    (b"PK\x03\x04", "zip"),
];
/// What the header of a tar archive holds, and where.
const MAGIC: (usize, &[u8]) = (257, b"ustar");
/// A header; an archive ends with two such blocks of zeros.
const BLOCK_BYTES: u64 = 512;
/// Most zeros that an archive may end with: programs fill up their last record, which is much smaller.
const MOST_PADDING: u64 = 1 << 20;

/// What is wrong with an archive that was walked through until it `failed`, or to its end. A walk that found nothing is `bare`.
///
/// # Errors
/// What the system says: that the file cannot be read is no damage.
pub(super) fn of(file: &mut File, failed: Option<Error>, is_bare: bool) -> Result<Option<String>> {
    let Some(error) = failed else {
        return after_end(file, is_bare);
    };
    if !is_of_archive(&error) {
        return Err(error);
    }
    let other = if is_bare { other_format(file)? } else { None };
    Ok(other.or_else(|| Some(told(&error))))
}

/// What is wrong with an archive whose walk has come to an end: it has read one block of zeros, or has nothing left to read.
fn after_end(file: &mut File, is_bare: bool) -> Result<Option<String>> {
    let (at, size) = (file.stream_position()?, file.metadata()?.len());
    if size == 0 {
        return Ok(Some("it is empty".into()));
    }
    if at >= size {
        return Ok(Some("it is cut short: the end of the archive is missing".into()));
    }
    let end = at - BLOCK_BYTES;
    if size - at > MOST_PADDING {
        return Ok(Some(format!(
            "its archive ends at byte {end} of {size}: it was never written to its end"
        )));
    }
    let mut rest = [0; 1 << 13];
    loop {
        match file.read(&mut rest)? {
            0 => return Ok(is_bare.then(|| "it holds no samples".into())),
            read if rest[..read].iter().any(|byte| *byte != 0) => {
                return Ok(Some(format!(
                    "its archive ends at byte {end}, and others follow: zeros were written over it, or it is several archives \
                     in a row"
                )));
            }
            _ => {}
        }
    }
}

/// Whether a walk failed for what an archive holds; what the system says has other kinds.
fn is_of_archive(error: &Error) -> bool {
    use ErrorKind::{InvalidData, InvalidInput, Other, UnexpectedEof};
    matches!(error.kind(), InvalidData | InvalidInput | Other | UnexpectedEof)
}

/// What a file is whose first header cannot be read, unless that is the header of a tar archive.
fn other_format(file: &mut File) -> Result<Option<String>> {
    let mut start = Vec::new();
    file.rewind()?;
    file.take(BLOCK_BYTES).read_to_end(&mut start)?;
    let (at, magic) = MAGIC;
    if start.get(at..).is_some_and(|rest| rest.starts_with(magic)) {
        return Ok(None);
    }
    let format = FORMATS.iter().find(|(begin, _)| start.starts_with(begin));
    Ok(Some(format.map_or_else(
        || "it is no tar archive".into(),
        |(_, name)| format!("it looks {name}-compressed, and shards are read as plain tar archives: decompress it"),
    )))
}

/// The tar crate quotes what it could not read, which may be anything.
fn told(error: &Error) -> String {
    let text = error.to_string();
    if text == "failed to read entire block" {
        "it is cut short: it ends within the header of a file".into()
    } else if text.starts_with("numeric field") || text == "archive header checksum mismatch" {
        "it is damaged: what should be the header of a file is none".into()
    } else {
        text.escape_debug().to_string()
    }
}
