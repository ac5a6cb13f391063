//! `medley`: starts a cluster on this machine, submits jobs, shows what they do, and runs the demo.
//!
//! The command is thin over the REST API: what it knows, it was told by a coordinator ([`connect`]). [`cluster`]
//! supervises the processes of a cluster on one machine for `up`, [`demo`] and [`chaos`]; [`follow`] shows a job's progress;
//! [`report`] scores a finished demo against the truth of its generated corpus; [`infer`] uses trained models. Results go to
//! standard output, progress and messages to standard error ([`console`]).

mod chaos;
mod checkpoints;
mod cluster;
mod connect;
mod console;
mod demo;
mod failure;
#[cfg(test)]
mod fake;
mod follow;
mod foreseen;
mod infer;
mod jobs;
mod ledger;
mod nodes;
mod report;
mod signals;
mod submit;
mod up;

use crate::infer::{caption, matching};
use clap::error::ErrorKind;
use clap::{Parser, Subcommand};
use std::process::ExitCode;

const EXAMPLES: &str = "\
Examples:
  medley demo --quick                       the whole recipe on a handful of images
  medley up --state-dir /var/lib/medley     a cluster on this machine, with its dashboard
  medley submit job.toml --watch            submit a job and follow it
  medley jobs                               what is queued, running and done
  medley jobs show latest                   one job with its stages
  medley caption photo.jpg                  what the newest captioner says of an image

Commands that talk to a coordinator find it by --url and --token-file (MEDLEY_URL, MEDLEY_TOKEN_FILE), or by the
--state-dir (MEDLEY_STATE_DIR) of a coordinator on this machine; .medley if nothing is said.";

/// Trains BLIP on a cluster that may lose machines: start one, submit jobs, watch them.
#[derive(Debug, Parser)]
#[command(name = "medley", version, after_help = EXAMPLES)]
struct Cli {
    /// Print JSON for scripts instead of tables for people; errors too, as one line on standard error.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a coordinator and its nodes on this machine until Ctrl-C.
    Up(up::Args),
    /// Generate a small corpus, train BLIP on it with CapFilt, and report how much that helped.
    Demo(demo::Args),
    /// Kill and stop processes of a training at random, and compare its end with an undisturbed one.
    Chaos(chaos::Args),
    /// Submit a job.
    Submit(submit::Args),
    /// List, show, follow, cancel and retry jobs.
    Jobs(jobs::Args),
    /// Check which samples the steps of a job have read.
    Ledger(ledger::Args),
    /// List, cordon and drain the nodes of the cluster.
    Nodes(nodes::Args),
    /// List, take, verify and compare checkpoints.
    Checkpoints(checkpoints::Args),
    /// Say what images show, with a trained model.
    Caption(caption::Args),
    /// Tell how well texts match an image, with a trained model.
    Match(matching::Args),
}

/// How a command ended when nothing went wrong with the command itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// All is well.
    Success,
    /// The job that was followed did not succeed.
    JobFailed,
    /// What was checked is not whole.
    NotWhole,
    /// A signal ended the command.
    Interrupted,
}

impl From<Ending> for ExitCode {
    fn from(ending: Ending) -> Self {
        match ending {
            Ending::Success => Self::SUCCESS,
            Ending::JobFailed | Ending::NotWhole => Self::FAILURE,
            Ending::Interrupted => Self::from(130),
        }
    }
}

/// The command line; ends the program if it is wrong.
fn parse() -> Cli {
    Cli::try_parse().unwrap_or_else(|error| {
        if error.kind() != ErrorKind::ValueValidation {
            error.exit();
        }
        console::complain(&plain_words(&error.render().to_string()));
        std::process::exit(2)
    })
}

/// What is wrong with a value, without what only programmers say.
fn plain_words(text: &str) -> String {
    text.replace("invalid digit found in string", "give a whole number")
}

fn main() -> ExitCode {
    let cli = parse();
    let json = cli.json;
    match run(cli) {
        Ok(ending) => ending.into(),
        Err(error) if console::is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            failure::tell(&error, json);
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<Ending> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let ending = runtime.block_on(async {
        match cli.command {
            Command::Up(args) => up::run(args, cli.json).await,
            Command::Demo(args) => demo::run(args, cli.json).await,
            Command::Chaos(args) => chaos::run(args, cli.json).await,
            Command::Submit(args) => submit::run(args, cli.json).await,
            Command::Jobs(args) => jobs::run(args, cli.json).await,
            Command::Ledger(args) => ledger::run(args, cli.json).await,
            Command::Nodes(args) => nodes::run(args, cli.json).await,
            Command::Checkpoints(args) => checkpoints::run(args, cli.json).await,
            Command::Caption(args) => caption::run(args, cli.json).await,
            Command::Match(args) => matching::run(args, cli.json).await,
        }
    });
    // A read of standard input that was given up must not hold the end up.
    runtime.shutdown_background();
    ending
}

#[cfg(test)]
mod tests {
    use super::{Cli, plain_words};
    use clap::{CommandFactory, Parser};

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_is_no_number_is_told_in_plain_words() {
        let error = Cli::try_parse_from(["medley", "jobs", "--limit", "x"]).unwrap_err();
        let words = plain_words(&error.render().to_string());
        assert!(
            words.contains("'x'") && words.contains("give a whole number"),
            "{words}"
        );
    }
}
