//! Keeping one process of a cluster alive.

use super::backoff::Backoff;
use super::logs;
use super::process::{Output, Process};
use super::settings::Restarts;
use crate::console::{Screen, duration};
use anyhow::{Context, Result};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Lines of a log that are shown when its process failed.
pub(super) const SHOWN_LINES: usize = 15;

/// One process of a cluster and how to start it.
pub(super) struct Member {
    /// Its name for people, and of its log.
    pub(super) name: String,
    /// Its log.
    pub(super) log: PathBuf,
    /// Time to stop in order.
    pub(super) grace: Duration,
    /// How often it is started again.
    pub(super) restarts: Restarts,
    /// Its command line.
    pub(super) command: Box<dyn Fn() -> Command + Send + Sync>,
}

impl Member {
    /// Starts the process.
    ///
    /// # Errors
    /// Names what cannot be started.
    pub(super) fn start(&self, output: Output) -> Result<Process> {
        let command = (self.command)();
        let program = command.get_program().to_owned();
        Process::start(command, logs::open(&self.log)?, output)
            .with_context(|| format!("cannot start {}", program.display()))
    }

    /// The end of its log, for an error message.
    pub(super) fn end_of_log(&self) -> String {
        let end = logs::end_of(&self.log, SHOWN_LINES);
        if end.is_empty() {
            return format!("its log, {}, is empty", self.log.display());
        }
        format!("the end of its log, {}:{end}", self.log.display())
    }
}

/// Keeps a process alive until `stop` turns true, then stops it in order. Ends early, with the reason, when the process ends
/// again and again.
pub(super) async fn keep(
    member: Member,
    mut process: Process,
    mut stop: watch::Receiver<bool>,
    screen: Screen,
) -> Result<(), String> {
    let mut backoff = Backoff::new(member.restarts == Restarts::Always);
    let mut started = Instant::now();
    loop {
        let how = tokio::select! {
            how = process.ended() => how,
            () = told(&mut stop) => {
                process.stop(member.grace).await;
                return Ok(());
            }
        };
        let Some(pause) = backoff.after(started.elapsed()) else {
            let times = backoff.quick_ends();
            return Err(format!(
                "{} {how}, {times} times in a row; {}",
                member.name,
                member.end_of_log()
            ));
        };
        let log = member.log.display();
        screen.line(&format!(
            "{} {how}; starting it again in {} (log: {log})",
            member.name,
            duration(pause.as_secs_f64())
        ));
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = told(&mut stop) => return Ok(()),
        }
        process = member.start(Output::Log).map_err(|error| format!("{error:#}"))?;
        started = Instant::now();
    }
}

/// Waits until it is to stop; also when whoever could say so has gone.
async fn told(stop: &mut watch::Receiver<bool>) {
    drop(stop.wait_for(|stop| *stop).await);
}
