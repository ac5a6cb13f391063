//! Webdataset shards: tar files whose members share a key (`000042.jpg`, `000042.txt`).
//!
//! A shard is read once, member by member, with sizes bounded before anything is allocated; later a sample is read with one seek.
//! Nothing in a shard can make this code panic: what cannot be read is classified.

mod damage;

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Largest image file read.
pub const MAX_IMAGE_BYTES: u64 = 64 << 20;
/// Largest text read.
pub const MAX_TEXT_BYTES: u64 = 64 << 10;

/// Why shards cannot be read at all.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The set's directory is not there.
    #[error("{path}: no such data set: {source}")]
    Missing {
        /// The directory.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The set's directory holds no shard.
    #[error("{path}: holds no *.tar shard")]
    Empty {
        /// The directory.
        path: PathBuf,
    },
    /// A shard cannot be opened or read.
    #[error("{path}: {source}")]
    Io {
        /// The shard.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
}

/// Where a member's bytes lie in its shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Extent {
    /// First byte.
    pub offset: u64,
    /// Number of bytes.
    pub len: u64,
}

/// A member of a shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// File name up to its first dot, directories included.
    pub key: String,
    /// The rest, lower-case, such as `jpg`.
    pub extension: String,
    /// Its bytes.
    pub extent: Extent,
}

/// The shards of a set: names of its tar files, sorted.
///
/// # Errors
/// [`Error::Missing`] or [`Error::Empty`].
pub fn list(set: &Path) -> Result<Vec<String>, Error> {
    let missing = |source| Error::Missing {
        path: set.to_owned(),
        source,
    };
    let mut names = Vec::new();
    for entry in std::fs::read_dir(set).map_err(missing)? {
        let name = entry.map_err(missing)?.file_name();
        if let Some(name) = name
            .to_str()
            .filter(|n| Path::new(n).extension().is_some_and(|e| e == "tar"))
        {
            names.push(name.to_owned());
        }
    }
    if names.is_empty() {
        return Err(Error::Empty { path: set.to_owned() });
    }
    names.sort();
    Ok(names)
}

/// What a walk over a shard found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Members {
    /// All whole members, in order.
    pub members: Vec<Member>,
    /// What is wrong with the archive as a whole, if anything is: then nobody knows what is missing.
    pub broken: Option<String>,
}

/// Lists the members of a shard.
///
/// # Errors
/// [`Error::Io`] if the file cannot be read; a damaged archive is not an error, but ends the list.
pub fn members(path: &Path) -> Result<Members, Error> {
    let io = |source| Error::Io {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(io)?;
    let size = file.metadata().map_err(io)?.len();
    let mut archive = tar::Archive::new(file);
    let mut found = Members {
        members: Vec::new(),
        broken: None,
    };
    let mut failed = None;
    let entries = archive.entries_with_seek().map_err(io)?;
    for entry in entries {
        let member = entry.and_then(|entry| member_of(&entry, size));
        match member {
            Ok(Some(member)) => found.members.push(member),
            Ok(None) => {}
            Err(error) => {
                failed = Some(error);
                break;
            }
        }
    }
    let mut file = archive.into_inner();
    found.broken = damage::of(&mut file, failed, found.members.is_empty()).map_err(io)?;
    Ok(found)
}

fn member_of<R: Read>(entry: &tar::Entry<R>, file_size: u64) -> std::io::Result<Option<Member>> {
    if !entry.header().entry_type().is_file() {
        return Ok(None);
    }
    let extent = Extent {
        offset: entry.raw_file_position(),
        len: entry.size(),
    };
    if extent.offset.checked_add(extent.len).is_none_or(|end| end > file_size) {
        return Err(std::io::Error::other("it is cut short: it ends within a file"));
    }
    let path = entry.path()?;
    let name = path.to_string_lossy();
    let base = name.rfind('/').map_or(0, |slash| slash + 1);
    let Some(dot) = name[base..].find('.') else {
        return Ok(None);
    };
    let (key, extension) = (&name[..base + dot], &name[base + dot + 1..]);
    Ok(Some(Member {
        key: key.to_owned(),
        extension: extension.to_lowercase(),
        extent,
    }))
}

/// Reads one member.
///
/// # Errors
/// What the system says; reading past the end is an error.
pub fn read(file: &mut File, extent: Extent) -> std::io::Result<Vec<u8>> {
    let size = file.metadata()?.len();
    if extent.offset.saturating_add(extent.len) > size || extent.len > MAX_IMAGE_BYTES {
        return Err(std::io::Error::other(format!(
            "no such bytes: {} from {} of {size}",
            extent.len, extent.offset
        )));
    }
    file.seek(SeekFrom::Start(extent.offset))?;
    let mut bytes = vec![0; extent.len as usize];
    file.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Writes a shard from (member name, bytes), to a temporary file first.
///
/// # Errors
/// What the system says.
pub fn write<'a>(path: &Path, files: impl Iterator<Item = (String, &'a [u8])>) -> std::io::Result<()> {
    let temporary = path.with_extension("tar.tmp");
    let mut builder = tar::Builder::new(std::io::BufWriter::new(File::create(&temporary)?));
    for (name, bytes) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(0);
        builder.append_data(&mut header, name, bytes)?;
    }
    builder
        .into_inner()?
        .into_inner()
        .map_err(std::io::IntoInnerError::into_error)?
        .sync_all()?;
    std::fs::rename(temporary, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shard(dir: &Path) -> PathBuf {
        let path = dir.join("a.tar");
        let files = [("0.jpg", &b"pixels"[..]), ("0.txt", b"a cat"), ("d/1.x.txt", b"a dog")];
        write(&path, files.into_iter().map(|(n, b)| (n.to_owned(), b))).unwrap();
        path
    }

    #[test]
    fn members_are_found_and_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = shard(dir.path());
        let found = members(&path).unwrap();
        assert_eq!(found.broken, None);
        let names: Vec<_> = found
            .members
            .iter()
            .map(|m| (m.key.as_str(), m.extension.as_str()))
            .collect();
        assert_eq!(names, [("0", "jpg"), ("0", "txt"), ("d/1", "x.txt")]);
        let mut file = File::open(&path).unwrap();
        assert_eq!(read(&mut file, found.members[1].extent).unwrap(), b"a cat");
    }

    #[test]
    fn a_truncated_shard_keeps_its_whole_members() {
        let dir = tempfile::tempdir().unwrap();
        let path = shard(dir.path());
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(512 * 3 + 2)
            .unwrap();
        let found = members(&path).unwrap();
        assert_eq!(found.members.len(), 1);
        assert!(found.broken.is_some());
    }

    /// Three members, each a header and a block; then the end, two blocks of zeros.
    #[test]
    fn whatever_is_wrong_with_an_archive_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = shard(dir.path());
        let whole = std::fs::read(&path).unwrap();
        assert_eq!(whole.len(), 512 * 8);
        let with = |at: usize, bytes: &[u8]| {
            let mut changed = whole.clone();
            changed[at..at + bytes.len()].copy_from_slice(bytes);
            changed
        };
        let padded = [&whole[..], &[0; 9 * 512]].concat();
        let unwritten = [&whole[..2048], &vec![0; 2 << 20][..]].concat();
        let cases: [(&[u8], Option<&str>); 17] = [
            (&whole, None),
            (&padded, None),
            (&[], Some("it is empty")),
            (&[0; 1024], Some("it holds no samples")),
            (&whole[..512], Some("it is cut short: it ends within a file")),
            (&whole[..600], Some("it is cut short: the end")),
            (&whole[..1024], Some("it is cut short: the end")),
            (&whole[..1100], Some("it is cut short: it ends within the header")),
            (&whole[..512 * 6], Some("it is cut short: the end")),
            (&whole[..300], Some("it is cut short: it ends within the header")),
            (&with(1024, b"X"), Some("it is damaged: what should be the header")),
            (
                &with(1024, &[0; 1024]),
                Some("its archive ends at byte 1024, and others follow"),
            ),
            (
                &[&whole[..], &whole[..]].concat(),
                Some("its archive ends at byte 3072, and others"),
            ),
            (
                &unwritten,
                Some("its archive ends at byte 2048 of 2099200: it was never written"),
            ),
            (b"\x1f\x8b\x08\0\0\0", Some("it looks gzip-compressed")),
            (
                &[b"\x28\xb5\x2f\xfd".as_slice(), &[0xa7; 2000]].concat(),
                Some("it looks zstd-compressed"),
            ),
            (&[0xa7; 2000], Some("it is no tar archive")),
        ];
        for (i, (bytes, expected)) in cases.into_iter().enumerate() {
            std::fs::write(&path, bytes).unwrap();
            let broken = members(&path).unwrap().broken;
            let is_told = match (&broken, expected) {
                (Some(told), Some(start)) => told.starts_with(start),
                (None, None) => true,
                _ => false,
            };
            assert!(is_told, "case {i}: {broken:?} instead of {expected:?}");
        }
    }

    #[test]
    fn a_file_that_cannot_be_read_is_no_damaged_archive() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(members(dir.path()), Err(Error::Io { .. })));
    }

    #[test]
    fn missing_and_empty_sets_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(list(dir.path()), Err(Error::Empty { .. })));
        assert!(matches!(list(&dir.path().join("x")), Err(Error::Missing { .. })));
    }

    proptest! {
        #[test]
        fn damaged_shards_never_panic(at in 0usize..3000, byte: u8, cut in 0usize..4096) {
            let dir = tempfile::tempdir().unwrap();
            let path = shard(dir.path());
            let mut bytes = std::fs::read(&path).unwrap();
            if let Some(b) = bytes.get_mut(at) { *b = byte; }
            bytes.truncate(bytes.len().saturating_sub(cut));
            std::fs::write(&path, &bytes).unwrap();
            for member in members(&path).unwrap().members {
                prop_assert!(member.extent.offset + member.extent.len <= bytes.len() as u64);
            }
        }
    }
}
