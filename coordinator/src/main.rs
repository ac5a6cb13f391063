//! `medley-coordinator`: serves the cluster, and a few commands for its operators.

use clap::{Parser, Subcommand};
use medley_coordinator::{serve, token_command, with_postgres};
use std::fmt::Display;
use std::io::{IsTerminal, Write as _};
use std::process::ExitCode;

/// Keeps the job table, schedules jobs over nodes, and serves API and dashboard.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the cluster until SIGINT or SIGTERM.
    Serve(serve::Args),
    /// Make, list and revoke tokens.
    Token(token_command::Args),
    /// Run a command with a throw-away database server, named to it in TEST_DATABASE_URL.
    WithPostgres(with_postgres::Args),
}

/// What is logged unless RUST_LOG says otherwise: PostgreSQL's notices tell nothing that matters here.
const LOG: &str = "info,sqlx::postgres::notice=warn";

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| LOG.into()))
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        // A log that cannot be written, as on a full disk, ends nothing: to say so on standard error would be a panic.
        .log_internal_errors(false)
        .init();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => return failed(&format!("cannot start the runtime: {e}")),
    };
    let result = runtime.block_on(async {
        match Cli::parse().command {
            Command::Serve(args) => Box::pin(serve::run(args)).await.map(|()| ExitCode::SUCCESS),
            Command::Token(args) => Box::pin(token_command::run(args)).await.map(|()| ExitCode::SUCCESS),
            Command::WithPostgres(args) => with_postgres::run(args).await,
        }
    });
    // Nothing that still runs in the background is worth waiting for.
    runtime.shutdown_background();
    result.unwrap_or_else(|error| failed(&format!("{error:#}")))
}

fn failed(why: &dyn Display) -> ExitCode {
    // The exit code tells it too.
    let _ = writeln!(std::io::stderr(), "error: {why}");
    ExitCode::FAILURE
}
