//! Ending what is left of an earlier life.
//!
//! After a kill -9 the lock file proves nothing: its process may be gone, a zombie, or another program that got the same
//! number, while a server process without its parent still writes. What counts is which processes work in the data
//! directory. Only when there is none are the old notes and the socket removed, because they are what keeps a second
//! server out.

use super::layout::{Layout, Notes, remove_socket};
use super::{Error, Result, system};
use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

/// Signals for processes that should be gone, each with the time it gets.
const ESCALATION: [(i32, Duration); 3] = [
    (system::FAST, Duration::from_secs(10)),
    (system::IMMEDIATE, Duration::from_secs(5)),
    (system::KILL, Duration::from_secs(5)),
];
/// Time between looks.
const LOOK: Duration = Duration::from_millis(20);

/// Ends every process that uses the data and removes what the last server left. To be called with the lock held.
pub(super) fn clear(layout: &Layout) -> Result<()> {
    let data = layout.data();
    if !data.exists() {
        return Ok(());
    }
    end_users(&data)?;
    let path = layout.postmaster();
    if let Some(notes) = Notes::read(&path) {
        tracing::warn!(
            pid = notes.pid,
            "the last database server did not end cleanly; the next one recovers"
        );
        if let Some(socket_dir) = notes.socket_dir {
            remove_socket(&socket_dir);
        }
    }
    match fs::remove_file(&path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => Err(Error::Io {
            doing: "remove",
            path,
            source,
        }),
        _ => Ok(()),
    }
}

fn end_users(data: &Path) -> Result<()> {
    for (signal, patience) in ESCALATION {
        let deadline = Instant::now() + patience;
        let users = users_of(data);
        if users.is_empty() {
            return Ok(());
        }
        tracing::warn!(pids = ?users, signal, "ending processes of an earlier database server");
        for pid in users {
            system::signal(pid, signal);
        }
        // Not our children, so their end can only be looked for.
        while Instant::now() < deadline {
            if users_of(data).is_empty() {
                return Ok(());
            }
            thread::sleep(LOOK);
        }
    }
    let pids = users_of(data);
    if pids.is_empty() {
        return Ok(());
    }
    Err(Error::Leftovers {
        pids,
        data: data.to_owned(),
    })
}

/// Processes whose working directory is `data`. A zombie has none.
fn users_of(data: &Path) -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
            let cwd = fs::read_link(entry.path().join("cwd")).ok()?;
            (cwd == data && pid != std::process::id()).then_some(pid)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_process_that_works_in_the_data_is_ended_and_its_notes_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::open(dir.path()).unwrap();
        fs::create_dir(layout.data()).unwrap();
        fs::write(layout.postmaster(), "1\n").unwrap();
        let mut user = Command::new("sleep")
            .arg("600")
            .current_dir(layout.data())
            .spawn()
            .unwrap();
        // Its working directory is set before `spawn` returns.
        assert_eq!(users_of(&layout.data()), [user.id()]);

        clear(&layout).unwrap();
        assert!(!layout.postmaster().exists());
        assert!(!user.wait().unwrap().success());
    }

    #[test]
    fn without_data_there_is_nothing_to_clear() {
        let dir = tempfile::tempdir().unwrap();
        clear(&Layout::open(dir.path()).unwrap()).unwrap();
    }
}
