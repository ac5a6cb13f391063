//! Finding the server's programs.
//!
//! `MEDLEY_PG_BINDIR` is used alone if it is set. Otherwise the places where distributions put PostgreSQL are looked
//! through, and of the versions found the one that made the data is taken, or the newest.

use super::{Error, Result};
use std::ffi::OsString;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The oldest version with everything that the job table and the tests use.
pub(super) const OLDEST_MAJOR: u32 = 15;
/// Names the folder of programs to use.
const BINDIR: &str = "MEDLEY_PG_BINDIR";

/// A usable folder of programs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Binaries {
    /// The folder with `postgres` and `initdb`.
    pub(super) dir: PathBuf,
    /// Their version.
    pub(super) major: u32,
}

impl Binaries {
    pub(super) fn postgres(&self) -> PathBuf {
        self.dir.join("postgres")
    }

    pub(super) fn initdb(&self) -> PathBuf {
        self.dir.join("initdb")
    }
}

/// The programs for data made by the version `made_by`, or for new data; `data` is for the message.
pub(super) fn find(made_by: Option<u32>, data: &Path) -> Result<Binaries> {
    let dirs = match std::env::var_os(BINDIR) {
        Some(dir) => vec![PathBuf::from(dir)],
        None => usual_dirs(std::env::var_os("PATH")),
    };
    let mut found: Vec<Binaries> = Vec::new();
    for dir in dirs {
        // The same folder under another name is no other choice.
        let dir = dir.canonicalize().unwrap_or(dir);
        if found.iter().any(|known| known.dir == dir) {
            continue;
        }
        if let Some(major) = version(&dir) {
            found.push(Binaries { dir, major });
        }
    }
    choose(&found, made_by).cloned().ok_or_else(|| {
        let seen = seen(&found);
        match made_by {
            Some(made_by) => Error::OtherVersion {
                data: data.to_owned(),
                made_by,
                seen,
            },
            None => Error::NoBinaries { seen },
        }
    })
}

fn choose(found: &[Binaries], made_by: Option<u32>) -> Option<&Binaries> {
    match made_by {
        Some(major) => found.iter().find(|one| one.major == major),
        // The first of equals: an earlier place is meant more.
        None => found
            .iter()
            .rev()
            .filter(|one| one.major >= OLDEST_MAJOR)
            .max_by_key(|one| one.major),
    }
}

fn seen(found: &[Binaries]) -> String {
    if found.is_empty() {
        return match std::env::var_os(BINDIR) {
            Some(dir) => format!("{BINDIR} is {} and has no working postgres and initdb", dir.display()),
            None => "neither in the usual folders nor in PATH".into(),
        };
    }
    let mut text = String::from("seen:");
    for one in found {
        // Writing to a string does not fail.
        let _ = write!(text, " {} in {}", one.major, one.dir.display());
    }
    text
}

fn usual_dirs(path: Option<OsString>) -> Vec<PathBuf> {
    let mut dirs = children("/usr/lib/postgresql", "");
    dirs.extend(children("/usr", "pgsql-"));
    dirs.extend(children("/opt", "postgresql"));
    dirs.extend(children("/home/linuxbrew/.linuxbrew/opt", "postgresql@"));
    let mut dirs: Vec<PathBuf> = dirs.into_iter().map(|dir| dir.join("bin")).collect();
    dirs.extend(told_by_pg_config());
    dirs.extend(path.iter().flat_map(std::env::split_paths));
    dirs
}

/// Directories in `parent` whose names begin with `prefix`.
fn children(parent: &str, prefix: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(parent).into_iter().flatten().flatten();
    let begins = |name: OsString| name.to_string_lossy().starts_with(prefix);
    let mut dirs: Vec<PathBuf> = entries
        .filter(|entry| begins(entry.file_name()))
        .map(|entry| entry.path())
        .collect();
    dirs.sort();
    dirs
}

fn told_by_pg_config() -> Option<PathBuf> {
    let output = Command::new("pg_config")
        .arg("--bindir")
        .stdin(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| PathBuf::from(text.trim()))
}

/// The version of the programs in a folder; none if they are not all there or do not run.
fn version(dir: &Path) -> Option<u32> {
    if !dir.join("initdb").is_file() {
        return None;
    }
    let output = Command::new(dir.join("postgres"))
        .arg("--version")
        .stdin(Stdio::null())
        .output()
        .ok()?;
    major_of(&String::from_utf8(output.stdout).ok()?)
}

/// The major version in what `postgres --version` prints, such as `postgres (PostgreSQL) 15.18 (Debian)`.
fn major_of(text: &str) -> Option<u32> {
    let number = text.split_once(") ")?.1;
    let digits = number.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(majors: &[u32]) -> Vec<Binaries> {
        let one = |(i, &major): (usize, &u32)| Binaries {
            dir: format!("/{i}").into(),
            major,
        };
        majors.iter().enumerate().map(one).collect()
    }

    #[test]
    fn new_data_gets_the_newest_version() {
        let found = found(&[14, 16, 18, 18, 15]);
        assert_eq!(choose(&found, None).unwrap(), &found[2]);
    }

    #[test]
    fn old_data_gets_the_version_that_made_it() {
        let found = found(&[16, 15, 18]);
        assert_eq!(choose(&found, Some(15)).unwrap(), &found[1]);
        assert_eq!(choose(&found, Some(17)), None);
    }

    #[test]
    fn versions_that_are_too_old_are_not_taken() {
        assert_eq!(choose(&found(&[13, 14]), None), None);
    }

    #[test]
    fn versions_are_read_as_every_vendor_prints_them() {
        assert_eq!(
            major_of("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n"),
            Some(15)
        );
        assert_eq!(major_of("postgres (PostgreSQL) 18beta1\n"), Some(18));
        assert_eq!(major_of("something else\n"), None);
    }
}
