//! As whom the server runs.
//!
//! PostgreSQL refuses to run as root. Root's coordinator runs it as `postgres`, or `nobody`, if that user can reach the
//! files and the programs. Where it cannot (under `/root`, say) the server runs in a user namespace, in which root looks
//! like an ordinary user: less isolation, but it works.

use super::find::Binaries;
use super::layout::Layout;
use super::{Doing, Error, Result, system};
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Users that root may become, the best first.
const USERS: [&str; 2] = ["postgres", "nobody"];

/// As whom the server runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Identity {
    /// As whoever runs the coordinator, who is not root.
    Own,
    /// As another user, which root can become.
    User { uid: u32, gid: u32 },
    /// As root in a user namespace, because other users cannot reach `blocked`.
    Namespace { blocked: PathBuf },
}

impl Identity {
    /// Chooses once; files that exist decide by their owner.
    pub(super) fn choose(layout: &Layout, binaries: &Binaries) -> Result<Self> {
        let own = fs::metadata("/proc/self").doing("read", Path::new("/proc/self"))?.uid();
        if own != 0 {
            return Ok(Self::Own);
        }
        let program = binaries.postgres();
        let mut blocked = None;
        let users = match layout.owner() {
            Some((0, _)) => Vec::new(),
            Some(owner) => vec![owner],
            None => known_users(&fs::read_to_string("/etc/passwd").unwrap_or_default()),
        };
        for (uid, gid) in users {
            match first_closed(layout.root(), uid, gid).or_else(|| first_closed(&program, uid, gid)) {
                None => return Ok(Self::User { uid, gid }),
                Some(path) => blocked = blocked.or(Some(path)),
            }
        }
        let blocked = blocked.unwrap_or_else(|| layout.data());
        Ok(Self::Namespace { blocked })
    }

    /// Makes a command run under this identity.
    pub(super) fn apply(&self, command: &mut Command) {
        match self {
            Self::Own => {}
            Self::User { uid, gid } => {
                command.uid(*uid).gid(*gid);
            }
            Self::Namespace { .. } => system::enter_namespace(command),
        }
    }

    /// Gives a file or directory to this identity.
    pub(super) fn give(&self, path: &Path) -> Result<()> {
        match self {
            Self::Own | Self::Namespace { .. } => Ok(()),
            Self::User { uid, gid } => chown(path, Some(*uid), Some(*gid)).doing("hand over", path),
        }
    }

    /// The error for a program that could not be started under this identity.
    pub(super) fn explain(&self, program: &Path, source: io::Error) -> Error {
        match self {
            Self::Namespace { blocked } if source.kind() == io::ErrorKind::PermissionDenied => Error::NoIdentity {
                blocked: blocked.clone(),
                source,
            },
            _ => Error::Io {
                doing: "start",
                path: program.to_owned(),
                source,
            },
        }
    }
}

/// User and group ids of [`USERS`] in the text of `/etc/passwd`.
fn known_users(passwd: &str) -> Vec<(u32, u32)> {
    let ids = |name: &str| {
        let fields = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>());
        let fields = fields.into_iter().find(|fields| fields.first() == Some(&name))?;
        Some((fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?))
    };
    USERS.into_iter().filter_map(ids).collect()
}

/// The first directory on the way to `path`, or `path` itself, that this user may not enter or execute.
fn first_closed(path: &Path, uid: u32, gid: u32) -> Option<PathBuf> {
    let mut way: Vec<&Path> = path.ancestors().collect();
    way.reverse();
    let closed = |step: &&Path| {
        let Ok(metadata) = fs::metadata(step) else {
            return true;
        };
        let bit = match (metadata.uid() == uid, metadata.gid() == gid) {
            (true, _) => 0o100,
            (false, true) => 0o010,
            (false, false) => 0o001,
        };
        metadata.mode() & bit == 0
    };
    way.into_iter().find(closed).map(Path::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    const STRANGER: u32 = 54_321;

    #[test]
    fn the_first_closed_directory_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let (middle, inner) = (dir.path().join("middle"), dir.path().join("middle/inner"));
        fs::create_dir_all(&inner).unwrap();
        let open = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        open(dir.path(), 0o711);
        open(&middle, 0o700);
        open(&inner, 0o711);
        assert_eq!(first_closed(&inner, STRANGER, STRANGER), Some(middle.clone()));
        open(&middle, 0o711);
        assert_eq!(first_closed(&inner, STRANGER, STRANGER), None);
    }

    #[test]
    fn users_are_read_from_the_list_of_accounts() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65533::/:/bin/false\npostgres:x:101:104::/:\n";
        assert_eq!(known_users(passwd), [(101, 104), (65_534, 65_533)]);
        assert_eq!(known_users("root:x:0:0:root:/root:/bin/sh\n"), []);
    }
}
