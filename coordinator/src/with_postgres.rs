//! `medley-coordinator with-postgres -- COMMAND`: runs a command with a throw-away database server.
//!
//! Test runners that start a process per test would otherwise start a server per test.

use crate::postgres::{Durability, Server};
use crate::test_database::{Scratch, TEST_DATABASE_URL};
use anyhow::Context;
use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitCode, ExitStatus};
use tokio::process::{Child, Command};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Runs a command with TEST_DATABASE_URL set to a private server that lives as long as it.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The command and its arguments.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

/// Runs the command; the answer is its exit code, or 128 and the number of the signal that ended it.
///
/// # Errors
/// When the server or the command cannot be started.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    // Listened to from the start: a signal must not end this process before the server and its files are gone.
    let interrupts = signal(SignalKind::interrupt()).context("cannot listen to SIGINT")?;
    let terminations = signal(SignalKind::terminate()).context("cannot listen to SIGTERM")?;
    let scratch = Scratch::make().context("cannot make a directory for the database")?;
    let server = Server::start(scratch.path(), Durability::None).await?;
    let (program, arguments) = args.command.split_first().context("no command was given")?;
    let started = Command::new(program)
        .args(arguments)
        .env(TEST_DATABASE_URL, server.url())
        .spawn()
        .with_context(|| format!("cannot start {}", program.display()));
    let status = match started {
        Ok(child) => wait(child, interrupts, terminations).await,
        Err(e) => Err(e),
    };
    server.stop().await;
    Ok(exit_code(status?))
}

/// Waits for the command. A terminal sends an interrupt to the command as well, so only a termination is passed on.
async fn wait(mut child: Child, mut interrupts: Signal, mut terminations: Signal) -> anyhow::Result<ExitStatus> {
    loop {
        tokio::select! {
            status = child.wait() => return status.context("cannot wait for the command"),
            _ = interrupts.recv() => {}
            _ = terminations.recv() => {
                if let Some(pid) = child.id() {
                    crate::postgres::terminate(pid);
                }
            }
        }
    }
}

fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok())
        .map_or(ExitCode::FAILURE, ExitCode::from)
}
