//! Log files of supervised processes.

use anyhow::{Context, Result};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// A log of this size is set aside, as `NAME.log.1`, when its process starts.
const MAX_BYTES: u64 = 16 << 20;
/// How much of a log's end is read to show its last lines.
const END_BYTES: u64 = 16 << 10;

/// The log of a process.
pub(crate) fn path(logs: &Path, name: &str) -> PathBuf {
    logs.join(format!("{name}.log"))
}

/// Opens a log for appending.
///
/// # Errors
/// Names the file.
pub(crate) fn open(path: &Path) -> Result<File> {
    let context = || format!("cannot write {}", path.display());
    if std::fs::metadata(path).is_ok_and(|found| found.len() > MAX_BYTES) {
        std::fs::rename(path, path.with_extension("log.1")).with_context(context)?;
    }
    File::options()
        .create(true)
        .append(true)
        .open(path)
        .with_context(context)
}

/// The last lines of a log, each indented.
pub(crate) fn end_of(path: &Path, lines: usize) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let size = file.metadata()?.len();
        file.seek(SeekFrom::Start(size.saturating_sub(END_BYTES)))?;
        let mut bytes = Vec::new();
        file.take(END_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<&str> = text.lines().collect();
    let last = &all[all.len().saturating_sub(lines)..];
    let indented = |line: &&str| ["\n  ", *line].concat();
    last.iter().map(indented).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_log_is_set_aside_and_a_small_one_continued() {
        let dir = tempfile::tempdir().unwrap();
        let log = path(dir.path(), "coordinator");
        std::fs::write(&log, "first\n").unwrap();
        drop(open(&log).unwrap());
        assert_eq!(std::fs::read_to_string(&log).unwrap(), "first\n");
        open(&log).unwrap().set_len(MAX_BYTES + 1).unwrap();
        drop(open(&log).unwrap());
        assert_eq!(std::fs::metadata(&log).unwrap().len(), 0);
        assert!(dir.path().join("coordinator.log.1").exists());
    }

    #[test]
    fn the_end_of_a_log_is_its_last_lines() {
        let dir = tempfile::tempdir().unwrap();
        let log = path(dir.path(), "x");
        std::fs::write(&log, "a\nb\nc\n").unwrap();
        assert_eq!(end_of(&log, 2), "\n  b\n  c");
        assert_eq!(end_of(&dir.path().join("none"), 2), "");
    }
}
