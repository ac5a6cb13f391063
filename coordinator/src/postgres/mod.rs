//! A real PostgreSQL server of our own, for operators who have none.
//!
//! The server's binaries come from the system (`find`); the cluster of files lies under the coordinator's state
//! directory (`layout`) and is made at the first start (`init`). [`Server`] is a handle to a thread that starts the
//! server, watches it, starts it again if it dies, and stops it. The database is fully durable, listens on a private
//! Unix socket only, and asks for a generated password.
//!
//! Three rules keep the files safe:
//! - One supervisor at a time: it holds `supervisor.lock` for its whole life.
//! - The server never outlives its supervisor: the kernel sends it a signal when the thread that started it ends, and
//!   whatever is left of an earlier life is ended before a new server starts (`leftovers`).
//! - Nothing is taken for whole before it is: a new cluster is renamed into place once it is complete.

mod find;
mod identity;
mod init;
mod layout;
mod leftovers;
mod run;
mod supervise;
mod system;
#[cfg(test)]
mod tests;

pub use run::Durability;
pub use supervise::{Health, Server, running};

use std::io;
use std::path::PathBuf;

/// Why there is no database.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No usable binaries.
    #[error(
        "no PostgreSQL {oldest} or newer was found ({seen}): install one (`apt-get install postgresql`), \
         name its folder of programs in MEDLEY_PG_BINDIR, or give a server with --database-url",
        oldest = find::OLDEST_MAJOR
    )]
    NoBinaries {
        /// What was looked at.
        seen: String,
    },
    /// The files need another version.
    #[error(
        "the database in {data} was made by PostgreSQL {made_by}, which was not found ({seen}): install that version \
         or name its folder of programs in MEDLEY_PG_BINDIR, or carry the data over with pg_upgrade"
    )]
    OtherVersion {
        /// The files.
        data: PathBuf,
        /// The version that made them.
        made_by: u32,
        /// What was looked at.
        seen: String,
    },
    /// Somebody else runs this database.
    #[error("another coordinator runs the database in {0}: stop it, or choose another --state-dir")]
    InUse(PathBuf),
    /// PostgreSQL refuses to run as root and nobody else can reach the files.
    #[error(
        "PostgreSQL cannot run as root, and the users postgres and nobody cannot reach {blocked}: \
         keep the state where all users can come (MEDLEY_STATE_DIR or --state-dir, such as /var/tmp/medley), or give a server \
         with DATABASE_URL or --database-url"
    )]
    NoIdentity {
        /// The directory that is closed to them.
        blocked: PathBuf,
        /// Why running in a user namespace failed.
        source: io::Error,
    },
    /// The cluster's files could not be made.
    #[error("the database could not be made: {0}")]
    Init(String),
    /// The server did not become ready.
    #[error("the database server did not start: {cause}; the end of {log} says:\n{tail}")]
    Start {
        /// What was seen.
        cause: String,
        /// The server's log.
        log: PathBuf,
        /// Its last lines.
        tail: String,
    },
    /// Processes of an earlier life cannot be ended.
    #[error("processes {pids:?} of an earlier database server still use {data} and cannot be ended")]
    Leftovers {
        /// The processes.
        pids: Vec<u32>,
        /// Their files.
        data: PathBuf,
    },
    /// A file operation failed.
    #[error("cannot {doing} {path}: {source}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// Asks a process to end.
pub(crate) fn terminate(pid: u32) {
    system::signal(pid, system::TERMINATE);
}

type Result<T, E = Error> = std::result::Result<T, E>;

/// Says what was being done to which file when it failed.
trait Doing<T> {
    fn doing(self, doing: &'static str, path: &std::path::Path) -> Result<T>;
}

impl<T> Doing<T> for io::Result<T> {
    fn doing(self, doing: &'static str, path: &std::path::Path) -> Result<T> {
        let path = path.to_owned();
        self.map_err(|source| Error::Io { doing, path, source })
    }
}
