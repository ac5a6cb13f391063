//! Where everything of a database lies.
//!
//! The root belongs to whoever runs the coordinator. Only `data` and the socket's directory belong to the user that the
//! server runs as, so that user cannot trick the coordinator into opening other files under the names it uses.

use super::{Doing, Result};
use sqlx::postgres::PgConnectOptions;
use std::fs::{self, DirBuilder};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

/// The database's superuser.
pub(super) const USER: &str = "medley";
/// The database.
pub(super) const DATABASE: &str = "postgres";
/// Only part of the socket's name: the server does not listen on TCP.
pub(super) const PORT: u16 = 5432;
/// Longest directory in which the socket's address fits into the kernel's 107 bytes.
const MAX_SOCKET_DIR_BYTES: usize = 107 - "/.s.PGSQL.5432".len();
/// Beginning of the name of a socket directory outside the root.
const SHORT_SOCKET_PREFIX: &str = "medley-pg-";

/// The files of one database.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    root: PathBuf,
}

impl Layout {
    /// The database under `root`, whose directory is made if it is missing.
    pub(super) fn open(root: &Path) -> Result<Self> {
        let mut builder = DirBuilder::new();
        // Others may pass through to what belongs to them, and see nothing else.
        builder.recursive(true).mode(0o711);
        builder.create(root).doing("make", root)?;
        let root = root.canonicalize().doing("find", root)?;
        Ok(Self { root })
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// The cluster's files; complete if they exist.
    pub(super) fn data(&self) -> PathBuf {
        self.root.join("data")
    }

    /// The cluster's files while they are made.
    pub(super) fn draft(&self) -> PathBuf {
        self.root.join("data.tmp")
    }

    /// The generated password.
    pub(super) fn password(&self) -> PathBuf {
        self.root.join("password")
    }

    /// The password while `initdb` reads it.
    pub(super) fn password_draft(&self) -> PathBuf {
        self.root.join("password.tmp")
    }

    /// What the server says.
    pub(super) fn log(&self) -> PathBuf {
        self.root.join("postgres.log")
    }

    /// Held by the supervisor.
    pub(super) fn lock(&self) -> PathBuf {
        self.root.join("supervisor.lock")
    }

    /// The running server's own notes.
    pub(super) fn postmaster(&self) -> PathBuf {
        self.data().join("postmaster.pid")
    }

    /// The major version that made the files; none if there are none yet.
    pub(super) fn made_by(&self) -> Result<Option<u32>> {
        let path = self.data().join("PG_VERSION");
        if !self.data().exists() {
            return Ok(None);
        }
        let text = fs::read_to_string(&path).doing("read", &path)?;
        let unreadable = std::io::Error::other(format!("{:?} is not a version", text.trim()));
        text.trim()
            .parse()
            .map(Some)
            .map_err(|_| unreadable)
            .doing("read", &path)
    }

    /// Makes the directory for the socket: in the root, or in `/tmp` if its path would be too long there.
    pub(super) fn make_socket_dir(&self) -> Result<PathBuf> {
        let inside = self.root.join("socket");
        let (path, may_exist) = if inside.as_os_str().as_bytes().len() <= MAX_SOCKET_DIR_BYTES {
            (inside, true)
        } else {
            let name = format!("{SHORT_SOCKET_PREFIX}{}", uuid::Uuid::now_v7().simple());
            (Path::new("/tmp").join(name), false)
        };
        if may_exist && path.is_dir() {
            return Ok(path);
        }
        // Not recursive: in /tmp, a directory that somebody else made under this name is refused.
        DirBuilder::new().mode(0o700).create(&path).doing("make", &path)?;
        Ok(path)
    }

    /// The owner of the cluster's files; none if there are none yet.
    pub(super) fn owner(&self) -> Option<(u32, u32)> {
        let metadata = fs::metadata(self.data()).ok()?;
        Some((metadata.uid(), metadata.gid()))
    }

    /// How to connect to the server that listens in `socket_dir`.
    pub(super) fn connect_options(&self, socket_dir: &Path) -> Result<PgConnectOptions> {
        let path = self.password();
        let password = fs::read_to_string(&path).doing("read", &path)?;
        Ok(PgConnectOptions::new_without_pgpass()
            .socket(socket_dir)
            .port(PORT)
            .username(USER)
            .password(password.trim())
            .database(DATABASE))
    }
}

/// Removes the socket of a server that is gone, and its directory if it is not in the database's root.
pub(super) fn remove_socket(socket_dir: &Path) {
    for name in [format!(".s.PGSQL.{PORT}"), format!(".s.PGSQL.{PORT}.lock")] {
        // Missing is as good as removed.
        let _ = fs::remove_file(socket_dir.join(name));
    }
    let name = socket_dir.file_name().unwrap_or_default().as_bytes();
    if socket_dir.parent() == Some(Path::new("/tmp")) && name.starts_with(SHORT_SOCKET_PREFIX.as_bytes()) {
        let _ = fs::remove_dir(socket_dir);
    }
}

/// The notes that a server keeps in `postmaster.pid`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Notes {
    /// The server's process.
    pub(super) pid: u32,
    /// Where it listens.
    pub(super) socket_dir: Option<PathBuf>,
    /// Whether it accepts connections.
    pub(super) ready: bool,
}

impl Notes {
    /// Reads the notes; none if there are none, or they are being written.
    pub(super) fn read(path: &Path) -> Option<Self> {
        Self::parse(&fs::read_to_string(path).ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        let socket_dir = lines.get(4).filter(|line| !line.is_empty()).map(PathBuf::from);
        Some(Self {
            // A server that runs alone notes its process id as a negative number.
            pid: lines.first()?.trim_start_matches('-').parse().ok()?,
            socket_dir,
            ready: lines.get(7) == Some(&"ready"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_tell_when_the_server_is_ready() {
        let mut text = "4711\n/x/data\n1700000000\n5432\n/x/socket\n\n  5432001   0\n".to_owned();
        let starting = Notes::parse(&text).unwrap();
        assert_eq!((starting.pid, starting.ready), (4711, false));
        assert_eq!(starting.socket_dir, Some(PathBuf::from("/x/socket")));
        text.push_str("ready   \n");
        assert!(Notes::parse(&text).unwrap().ready);
        assert_eq!(Notes::parse(""), None);
    }

    #[test]
    fn a_deep_root_gets_its_socket_elsewhere() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("d".repeat(100));
        let (shallow, deep) = (
            Layout::open(&dir.path().join("s")).unwrap(),
            Layout::open(&deep).unwrap(),
        );
        assert!(shallow.make_socket_dir().unwrap().starts_with(shallow.root()));

        let elsewhere = deep.make_socket_dir().unwrap();
        assert!(elsewhere.starts_with("/tmp/") && !elsewhere.starts_with(deep.root()));
        remove_socket(&elsewhere);
        assert!(!elsewhere.exists());
    }
}
