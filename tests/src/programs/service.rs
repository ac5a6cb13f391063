//! One long-lived program with a log of its own.

use super::{tree, until};
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Longest wait for the end of a program that was told to end.
const END_PATIENCE: Duration = Duration::from_mins(1);
/// Time between looks at a process.
const LOOK: Duration = Duration::from_millis(10);
/// How much of the log a failed test shows, in lines.
const SHOWN: usize = 40;

/// A running program. Dropping it kills it with all that it has started.
#[derive(Debug)]
pub struct Service {
    child: Child,
    log: PathBuf,
}

impl Service {
    /// Starts a program whose output is appended to `log`.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(mut command: Command, log: PathBuf) -> Self {
        let file = File::options().create(true).append(true).open(&log);
        let file = file.unwrap_or_else(|error| panic!("{}: {error}", log.display()));
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("a log can be shared"))
            .stderr(file)
            .spawn();
        let child = child.unwrap_or_else(|error| panic!("{command:?} cannot be started: {error}"));
        Self { child, log }
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal, such as `-STOP`.
    pub fn tell(&self, signal: &str) {
        tree::tell(self.pid(), signal);
    }

    /// Kills one of the processes that it has started.
    ///
    /// # Panics
    /// When there is none.
    pub fn kill_a_child(&self) {
        let children = tree::children(self.pid());
        let child = children.first().expect("it has started a process");
        tree::kill(child.pid);
    }

    /// Whether it has not ended.
    pub fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Kills it with all that it has started.
    pub fn kill(mut self) {
        self.end();
    }

    /// Waits until it ends by itself.
    ///
    /// # Panics
    /// When it does not.
    pub async fn ended(&mut self) -> ExitStatus {
        let deadline = Instant::now() + END_PATIENCE;
        loop {
            if let Ok(Some(status)) = self.child.try_wait() {
                return status;
            }
            assert!(Instant::now() < deadline, "{} does not end", self.log.display());
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Waits until its log says something.
    pub async fn says(&self, words: &str) {
        let what = format!("{} says {words:?}", self.log.display());
        until(&what, async || self.log().contains(words).then_some(())).await;
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    fn end(&mut self) {
        if self.is_alive() {
            tree::kill(self.pid());
            // It is dead already.
            let _ = self.child.wait();
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.end();
        if std::thread::panicking() {
            let log = self.log();
            // Steps would fill the screen.
            let told: Vec<&str> = log.lines().filter(|line| !line.contains("committed step=")).collect();
            let end = told.len().saturating_sub(SHOWN);
            eprintln!("--- the end of {}\n{}", self.log.display(), told[end..].join("\n"));
        }
    }
}
