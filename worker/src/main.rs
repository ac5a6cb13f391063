//! `medley-worker`: the agent of a node, one rank, a whole training without a cluster, or single steps; single images;
//! weights, in and out; and a look at what GPUs need.

use clap::{Parser, Subcommand};
use medley_worker::{agent, doctor, infer, local, print, rank, replay, weights};
use std::io::{IsTerminal, Write as _};
use std::process::ExitCode;

/// Trains BLIP: the agent of a node, and the ranks it runs.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve a coordinator as one of its nodes.
    Agent(agent::Args),
    /// Be one rank: started by an agent, or by `train`, and told what to do on standard input.
    Rank,
    /// Caption or match images: a JSON request on standard input, JSON lines on standard output. For people there are
    /// `medley caption` and `medley match`.
    Infer,
    /// Pre-train on this machine alone, without coordinator or agent.
    Train(local::Args),
    /// Say what this machine has of what ranks on GPUs need, and what is missing.
    Doctor,
    /// Run training steps on tensors from files and write losses, gradients and the state after them.
    Replay(replay::Args),
    /// Look into files of weights, and write checkpoints for other programs.
    #[command(subcommand)]
    Weights(weights::Command),
}

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into()))
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        // A log that cannot be written, as on a full disk, ends nothing: to say so on standard error would be a panic.
        .log_internal_errors(false)
        .init();
    let result = match Cli::parse().command {
        Command::Agent(args) => agent::run(args),
        Command::Rank => return rank::process::run(),
        Command::Infer => infer::run(),
        Command::Train(args) => local::run(args),
        Command::Doctor => doctor::run(),
        Command::Replay(args) => replay::run(args),
        Command::Weights(command) => weights::run(command),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if print::is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // The exit code tells it too.
            let _ = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
