//! Making a new cluster of files.
//!
//! `initdb` works in a draft directory that is renamed once it is complete, so a start that was cut short leaves
//! nothing that a later one could take for a database.

use super::find::Binaries;
use super::identity::Identity;
use super::layout::{Layout, USER};
use super::run::Durability;
use super::{Doing, Error, Result, system};
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::process::{Command, Stdio};

/// Makes the files if they do not exist. To be called on a thread that outlives `initdb`.
pub(super) fn init(layout: &Layout, binaries: &Binaries, identity: &Identity, durability: Durability) -> Result<()> {
    if layout.data().exists() {
        return Ok(());
    }
    let draft = layout.draft();
    if draft.exists() {
        fs::remove_dir_all(&draft).doing("remove", &draft)?;
    }
    DirBuilder::new().mode(0o700).create(&draft).doing("make", &draft)?;
    identity.give(&draft)?;

    let password = blake3::hash(&rand::random::<[u8; 32]>()).to_hex();
    write_private(&layout.password(), &password)?;
    let password_draft = layout.password_draft();
    write_private(&password_draft, &password)?;
    identity.give(&password_draft)?;
    let made = initdb(layout, binaries, identity, durability);
    fs::remove_file(&password_draft).doing("remove", &password_draft)?;
    made?;
    fs::rename(&draft, layout.data()).doing("rename", &draft)
}

fn initdb(layout: &Layout, binaries: &Binaries, identity: &Identity, durability: Durability) -> Result<()> {
    let mut command = Command::new(binaries.initdb());
    command
        .args([
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
            "--data-checksums",
        ])
        .args(["--no-instructions", "--username", USER])
        .arg("--pgdata")
        .arg(layout.draft())
        .arg("--pwfile")
        .arg(layout.password_draft());
    if durability == Durability::None {
        command.arg("--no-sync");
    }
    prepare(&mut command, identity);
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|e| identity.explain(&binaries.initdb(), e))?;
    let mut said = String::new();
    if let Some(mut stderr) = child.stderr.take() {
        // What cannot be read cannot be shown; the exit code tells whether it worked.
        let _ = stderr.read_to_string(&mut said);
    }
    let status = child.wait().doing("wait for", &binaries.initdb())?;
    if status.success() {
        return Ok(());
    }
    Err(Error::Init(format!(
        "initdb ended with {status} and said: {}",
        said.trim()
    )))
}

/// What the programs of the server have in common: who they are, a clean environment, an end with this thread.
pub(super) fn prepare(command: &mut Command, identity: &Identity) {
    command
        .env_clear()
        .env("LC_ALL", "C.UTF-8")
        .env("PATH", "/usr/bin:/bin");
    command.current_dir("/").stdin(Stdio::null());
    identity.apply(command);
    // Last, because a change of identity makes the kernel forget it.
    system::end_with_thread(command);
}

fn write_private(path: &Path, text: &str) -> Result<()> {
    // A file that exists may be open to others.
    let _ = fs::remove_file(path);
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .doing("make", path)?;
    file.write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .doing("write", path)
}
