//! What writers that were killed leave in a store that is a directory.
//!
//! An object is written under its own name with `#` and a number after it, and gets its name only when it is whole. No key has
//! a `#` in it, so a file of such a name that nobody has written to for an hour is of no use to anybody.

use crate::reconcile::Control;
use std::fs;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Age at which nobody writes a file any more: every operation of a writer has a deadline of minutes.
const AGE: Duration = Duration::from_hours(1);
/// Time between two looks, and before the first.
const PAUSE: Duration = Duration::from_mins(10);

/// Removes what is left in the store at `directory`, again and again until `stop`, while this coordinator leads.
pub async fn run(directory: PathBuf, control: Control, stop: impl Future<Output = ()>) {
    let mut stop = std::pin::pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => return,
            () = tokio::time::sleep(PAUSE) => {}
        }
        if !control.leads() {
            continue;
        }
        let store = directory.clone();
        match tokio::task::spawn_blocking(move || remove(&store, SystemTime::now() - AGE)).await {
            Ok(Ok(0)) => {}
            Ok(Ok(removed)) => tracing::info!("{removed} files are removed that killed writers have left"),
            Ok(Err(error)) => tracing::warn!("what killed writers have left in the store stays for now: {error}"),
            Err(error) => tracing::warn!("what killed writers have left in the store stays for now: {error}"),
        }
    }
}

/// Removes the unfinished files below a directory that were last written before a time. Returns how many there were.
///
/// # Errors
/// When a directory cannot be read, or a file not be removed.
pub fn remove(store: &Path, before: SystemTime) -> io::Result<usize> {
    let (mut removed, mut directories) = (0, vec![store.to_owned()]);
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                directories.push(entry.path());
            } else if kind.is_file() && is_unfinished(&entry.path()) && is_older(&entry.path(), before)? {
                fs::remove_file(entry.path())?;
                removed += 1;
            }
        }
    }
    Ok(removed)
}

fn is_unfinished(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    let number = name.and_then(|name| name.rsplit_once('#'));
    number.is_some_and(|(_, digits)| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()))
}

/// False for a file that has got its name, or is gone, meanwhile.
fn is_older(path: &Path, before: SystemTime) -> io::Result<bool> {
    match fs::metadata(path) {
        Ok(file) => Ok(file.modified()? < before),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_unfinished_files_go_and_all_others_stay() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("checkpoints/stage");
        fs::create_dir_all(&folder).unwrap();
        for name in [
            "20-part-0-of-1-ab",
            "20-part-0-of-1-ab#1",
            "40-part-0-of-1-cd#12",
            "40#",
            "4#0-part",
        ] {
            fs::write(folder.join(name), name).unwrap();
        }
        assert_eq!(
            remove(dir.path(), SystemTime::UNIX_EPOCH).unwrap(),
            0,
            "they may be being written"
        );
        let later = SystemTime::now() + Duration::from_mins(1);
        assert_eq!(remove(dir.path(), later).unwrap(), 2);
        let mut left: Vec<_> = fs::read_dir(&folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        left.sort();
        assert_eq!(left, ["20-part-0-of-1-ab", "4#0-part", "40#"]);
        assert!(remove(&dir.path().join("away"), later).is_err());
    }
}
