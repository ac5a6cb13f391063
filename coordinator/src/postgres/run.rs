//! One life of the server process: start, become ready, stop.

use super::find::Binaries;
use super::identity::Identity;
use super::init::prepare;
use super::layout::{Layout, Notes, PORT};
use super::{Doing, Error, Result, system};
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Time for a start. Generous, because recovery after a crash belongs to it.
const READY_PATIENCE: Duration = Duration::from_mins(5);
/// Signals of a stop, each with the time it gets; together well below the grace period of service managers.
const ESCALATION: [(i32, Duration); 3] = [
    (system::FAST, Duration::from_secs(7)),
    (system::IMMEDIATE, Duration::from_secs(2)),
    (system::KILL, Duration::from_secs(1)),
];
/// Time between looks at a process or its notes.
pub(super) const LOOK: Duration = Duration::from_millis(10);
/// A log of this size is put aside at the next start.
const MAX_LOG_BYTES: u64 = 16 << 20;
/// How much of the log an error shows.
const TAIL_LINES: usize = 12;

/// What a commit promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// It survives a loss of power.
    Full,
    /// Nothing: for tests.
    None,
}

/// Everything a start needs.
#[derive(Debug, Clone)]
pub(super) struct Setup {
    pub(super) layout: Layout,
    pub(super) binaries: Binaries,
    pub(super) identity: Identity,
    pub(super) durability: Durability,
    pub(super) socket_dir: std::path::PathBuf,
}

impl Setup {
    /// Starts the server process. To be called on a thread that outlives it.
    pub(super) fn spawn(&self) -> Result<Child> {
        let mut command = Command::new(self.binaries.postgres());
        command.arg("-D").arg(self.layout.data());
        for (name, value) in self.settings() {
            let mut setting = OsString::from(format!("{name}="));
            setting.push(value);
            command.arg("-c").arg(setting);
        }
        let log = open_log(&self.layout.log())?;
        let second = log.try_clone().doing("open", &self.layout.log())?;
        prepare(&mut command, &self.identity);
        command.stdout(Stdio::from(log)).stderr(Stdio::from(second));
        // The terminal's Ctrl-C is for the coordinator, which stops the server last.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        command
            .spawn()
            .map_err(|e| self.identity.explain(&self.binaries.postgres(), e))
    }

    fn settings(&self) -> Vec<(&'static str, OsString)> {
        let mut settings: Vec<(&str, OsString)> = vec![
            ("listen_addresses", "".into()),
            ("port", PORT.to_string().into()),
            ("unix_socket_directories", quoted(&self.socket_dir)),
            ("unix_socket_permissions", "0700".into()),
            ("timezone", "UTC".into()),
            ("log_timezone", "UTC".into()),
            ("log_line_prefix", "%m [%p] ".into()),
        ];
        match self.durability {
            Durability::Full => settings.push(("max_connections", "60".into())),
            Durability::None => settings.extend([
                ("max_connections", "200".into()),
                ("fsync", "off".into()),
                ("synchronous_commit", "off".into()),
                ("full_page_writes", "off".into()),
                ("autovacuum", "off".into()),
            ]),
        }
        settings
    }

    /// Waits until the server accepts connections; `stopping` is asked at every look.
    pub(super) fn wait_until_ready(&self, child: &mut Child, stopping: impl Fn() -> bool) -> Result<()> {
        let deadline = Instant::now() + READY_PATIENCE;
        let notes = self.layout.postmaster();
        loop {
            // The server's own notes tell, as for pg_ctl; those of an earlier life have another number.
            if Notes::read(&notes).is_some_and(|notes| notes.ready && notes.pid == child.id()) {
                return Ok(());
            }
            if let Some(status) = child.try_wait().doing("wait for", &self.binaries.postgres())? {
                return Err(self.start_failed(format!("it ended with {status}")));
            }
            if stopping() {
                return Err(self.start_failed("it was stopped".into()));
            }
            if Instant::now() >= deadline {
                return Err(self.start_failed(format!("it was not ready after {READY_PATIENCE:?}")));
            }
            thread::sleep(LOOK);
        }
    }

    fn start_failed(&self, cause: String) -> Error {
        let log = self.layout.log();
        let text = fs::read(&log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        let tail = lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n");
        Error::Start { cause, log, tail }
    }
}

/// Ends the server: politely, then less so.
pub(super) fn stop(child: &mut Child) -> Option<ExitStatus> {
    for (signal, patience) in ESCALATION {
        // Not reaped yet, so the number is still its own.
        system::signal(child.id(), signal);
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline {
            match child.try_wait() {
                Ok(Some(status)) => return Some(status),
                Ok(None) => thread::sleep(LOOK),
                Err(_) => return None,
            }
        }
        tracing::warn!(signal, "the database server did not end in {patience:?}");
    }
    None
}

/// A path as one element of the server's list of directories.
fn quoted(path: &Path) -> OsString {
    let mut text = OsString::from("\"");
    text.push(path.to_string_lossy().replace('"', "\"\""));
    text.push("\"");
    text
}

fn open_log(path: &Path) -> Result<File> {
    if fs::metadata(path).is_ok_and(|log| log.len() > MAX_LOG_BYTES) {
        let aside = path.with_extension("log.1");
        fs::rename(path, &aside).doing("put aside", path)?;
    }
    let mut options = OpenOptions::new();
    options
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
        .doing("open", path)
}
