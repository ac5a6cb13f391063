//! Where the programs are, and where a test may write.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The program of this name, which lies beside the folder of the test.
///
/// # Panics
/// When it was not built: the test runner builds no programs of other crates.
pub fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its own file");
    let path = test.ancestors().nth(2).map(|dir| dir.join(name));
    path.filter(|path| path.is_file()).unwrap_or_else(|| {
        panic!(
            "there is no {name} for {}: run scripts/test.sh, or first `cargo build --release --workspace --bins`",
            test.display()
        )
    })
}

/// A folder for one test, removed in the end.
#[derive(Debug)]
pub struct Scratch(tempfile::TempDir);

impl Scratch {
    /// An empty folder.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("medley-test-").tempdir();
        let dir = dir.expect("a test may make folders");
        // Where root runs the tests, the private database is another user's, who must be able to come this way.
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).expect("the folder is our own");
        Self(dir)
    }

    /// A path in it.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.path().join(name)
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}
