//! The coordinator's state directory: everything that it keeps on its own disk, and what others on this machine read to
//! find it.
//!
//! ```text
//! coordinator.url   where it serves, while it serves
//! tokens/{admin,node}   credentials, for their holders alone
//! store/            datasets, checkpoints and results, unless --store names another place
//! postgres/         the database, unless --database-url names another one
//! ```
//!
//! It is for its owner alone. Root's is entered by others too, by the user as whom its database server runs, but not listed; and
//! credentials and objects are in directories that only their owner enters.

use crate::tokens::Role;
use anyhow::Context;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// An existing state directory.
#[derive(Debug, Clone)]
pub struct StateDir {
    root: PathBuf,
}

impl StateDir {
    /// Opens the directory, which is made if it is missing.
    ///
    /// # Errors
    /// When it can neither be found nor made.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let is_root = fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0);
        make_dir(path, if is_root { 0o711 } else { 0o700 })?;
        let root = path
            .canonicalize()
            .with_context(|| format!("cannot find the state directory {}", path.display()))?;
        Ok(Self { root })
    }

    /// The database's files.
    pub fn postgres(&self) -> PathBuf {
        self.root.join("postgres")
    }

    /// The default object store, made if it is missing.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn store(&self) -> anyhow::Result<PathBuf> {
        let path = self.root.join("store");
        make_dir(&path, 0o700)?;
        Ok(path)
    }

    /// The file with the token of a role.
    pub fn token_file(&self, role: Role) -> PathBuf {
        self.root.join("tokens").join(role.name())
    }

    /// The file that tells where the coordinator serves.
    pub fn url_file(&self) -> PathBuf {
        self.root.join("coordinator.url")
    }

    /// Makes sure that no other coordinator serves from this directory while the answer lives.
    ///
    /// # Errors
    /// When there is one.
    pub fn lock(&self) -> anyhow::Result<File> {
        let path = self.root.join("coordinator.lock");
        let file = File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => anyhow::bail!(
                "another coordinator serves from {}: stop it, or choose another --state-dir",
                self.root.display()
            ),
            Err(TryLockError::Error(e)) => Err(e).with_context(|| format!("cannot lock {}", path.display())),
        }
    }
}

/// Makes a directory and its parents if they are missing.
fn make_dir(path: &Path, mode: u32) -> anyhow::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .with_context(|| format!("cannot make the directory {}", path.display()))
}

/// Writes a file for its owner alone; readers find the old text or the new, never a part.
///
/// # Errors
/// When it cannot be written.
pub fn write_private(path: &Path, text: &str) -> anyhow::Result<()> {
    write_whole(path, text, 0o600)
}

/// Writes a file for everybody; readers find the old text or the new, never a part.
///
/// # Errors
/// When it cannot be written.
pub fn write_public(path: &Path, text: &str) -> anyhow::Result<()> {
    write_whole(path, text, 0o644)
}

fn write_whole(path: &Path, text: &str, mode: u32) -> anyhow::Result<()> {
    let failed = || format!("cannot write {}", path.display());
    if let Some(parent) = path.parent() {
        make_dir(parent, 0o700)?;
    }
    let draft = path.with_extension("tmp");
    // A draft of a start that was cut short may be there, under whatever mode.
    let _ = fs::remove_file(&draft);
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&draft)
        .with_context(failed)?;
    file.write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .with_context(failed)?;
    fs::rename(&draft, path).with_context(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn private_files_are_for_their_owner_even_if_they_were_not_before() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        let path = state.token_file(Role::Admin);
        write_private(&path, "one\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        write_private(&path, "two\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "two\n");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(
            fs::metadata(path.parent().unwrap()).unwrap().permissions().mode() & 0o777,
            0o700
        );
    }

    #[test]
    fn nobody_else_lists_the_directory_or_enters_its_store() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new");
        let state = StateDir::open(&path).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        let is_root = fs::metadata("/proc/self").unwrap().uid() == 0;
        assert_eq!(mode(&path), if is_root { 0o711 } else { 0o700 });
        assert_eq!(mode(&state.store().unwrap()), 0o700);
    }

    #[test]
    fn one_coordinator_serves_from_a_directory() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(&dir.path().join("new")).unwrap();
        let first = state.lock().unwrap();
        assert!(state.lock().unwrap_err().to_string().contains("another coordinator"));
        drop(first);
        state.lock().unwrap();
    }
}
