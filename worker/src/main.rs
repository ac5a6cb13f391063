//! `medley-worker`: the agent of a node, one rank, or a whole training without a cluster.

use clap::{Parser, Subcommand};
use medley_worker::agent;

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
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Agent(args) => agent::run(args),
    }
}
