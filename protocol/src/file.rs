//! Files that somebody else names: shards, weights, vocabularies, images.
//!
//! Whoever names one may name anything. A named pipe blocks whoever opens it until somebody writes, and a device has no end. So
//! nothing is read but regular files, and no open waits.

use std::fs::{File, FileType, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

/// Opens a regular file, or one that a link leads to, for reading.
///
/// # Errors
/// What the system says; [`ErrorKind::InvalidInput`] if it is something else than a regular file.
pub fn open(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)?;
    match no_file(file.metadata()?.file_type()) {
        None => Ok(file),
        Some(what) => Err(io::Error::new(ErrorKind::InvalidInput, format!("it is {what}"))),
    }
}

/// Whether an error of [`open`], or of reading what it gave, may pass: not that there is no such file, or that it is none.
pub fn may_pass(error: &io::Error) -> bool {
    !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::InvalidInput)
}

/// What something is that is no regular file, for people.
pub fn no_file(found: FileType) -> Option<&'static str> {
    match found {
        _ if found.is_file() => None,
        _ if found.is_dir() => Some("a directory, not a file"),
        _ if found.is_fifo() => Some("a named pipe, not a regular file"),
        _ if found.is_socket() => Some("a socket, not a regular file"),
        _ if found.is_char_device() || found.is_block_device() => Some("a device, not a regular file"),
        _ => Some("not a regular file"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_but_regular_files_is_opened_and_nothing_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link, pipe) = (dir.path().join("a"), dir.path().join("b"), dir.path().join("c"));
        std::fs::write(&file, "x").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
        assert!(made.success());
        open(&file).unwrap();
        open(&link).unwrap();
        for (path, what) in [
            (pipe.as_path(), "named pipe"),
            (dir.path(), "directory"),
            (Path::new("/dev/zero"), "device"),
        ] {
            let error = open(path).unwrap_err();
            assert!(error.to_string().contains(what) && !may_pass(&error), "{error}");
        }
        assert!(!may_pass(&open(&dir.path().join("d")).unwrap_err()));
    }
}
