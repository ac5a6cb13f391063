//! `medley checkpoints`: list, take, verify and compare checkpoints of jobs.

mod diff;
mod tensors;
mod verify;

use crate::Ending;
use crate::connect::{Connection, explain};
use crate::console::{Align, Table, ago, number, print, print_json};
use crate::jobs::{JobName, find, find_only};
use anyhow::{Result, bail};
use chrono::{DateTime, Utc};
use medley_protocol::client::Client;
use medley_protocol::ids::JobId;
use medley_protocol::rest::{CheckpointRequestView, CheckpointView};
use std::time::{Duration, Instant};

const LOOK: Duration = Duration::from_millis(500);
/// Longest wait with `--wait`.
const PATIENCE: Duration = Duration::from_mins(2);

/// Arguments of `medley checkpoints`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List the checkpoints of a job, newest first.
    List {
        /// The job: its id, the beginning or end of it, its name, or `latest`.
        #[arg(default_value = "latest")]
        job: JobName,
    },
    /// Ask for a checkpoint of the stage that trains now.
    Take {
        /// The job: its id, the beginning or end of it, its name, or `latest`.
        #[arg(default_value = "latest")]
        job: JobName,
        /// Wait until it is committed.
        #[arg(long)]
        wait: bool,
    },
    /// Read checkpoints whole and compare them with what was written.
    Verify(verify::Args),
    /// Compare two checkpoints tensor by tensor, by the hashes that ranks have listed.
    Diff(diff::Args),
}

/// Runs the command.
///
/// # Errors
/// When the coordinator does not answer or refuses.
pub(crate) async fn run(args: Args, json: bool) -> Result<Ending> {
    let client = args.connection.client()?;
    match args.command {
        Command::List { job } => {
            let job = find(&client, &job).await?;
            let path = format!("/jobs/{job}/checkpoints?damaged=true");
            let mut checkpoints: Vec<CheckpointView> = client.get(&path).await.map_err(explain)?;
            checkpoints.sort_by_key(|checkpoint| std::cmp::Reverse(checkpoint.committed_at));
            if json {
                print_json(&checkpoints)?;
            } else if checkpoints.is_empty() {
                print("no checkpoint yet: take one with `medley checkpoints take`")?;
            } else {
                print(&table(&checkpoints, Utc::now()).plain())?;
            }
        }
        Command::Take { job, wait } => take(&client, find_only(&client, &job).await?, wait, json).await?,
        Command::Diff(args) => diff::run(&client, &args, json).await?,
        Command::Verify(args) => return verify::run(&client, &args, json).await,
    }
    Ok(Ending::Success)
}

async fn list(client: &Client, job: JobId) -> Result<Vec<CheckpointView>> {
    client.get(&format!("/jobs/{job}/checkpoints")).await.map_err(explain)
}

async fn take(client: &Client, job: JobId, wait: bool, json: bool) -> Result<()> {
    let path = format!("/jobs/{job}/checkpoints");
    let request: CheckpointRequestView = client.post(&path, &serde_json::json!({})).await.map_err(explain)?;
    if !wait {
        if json {
            return print_json(&request);
        }
        return print(&format!("a checkpoint will be taken after step {}", request.step));
    }
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        let all = list(client, job).await?;
        let due = |c: &&CheckpointView| c.stage == request.stage && c.step >= request.step;
        if let Some(taken) = all.iter().filter(due).min_by_key(|c| c.step) {
            if json {
                return print_json(taken);
            }
            return print(&format!(
                "checkpoint {} of {} at step {}",
                taken.id, taken.stage_name, taken.step
            ));
        }
        tokio::time::sleep(LOOK).await;
    }
    bail!(
        "no checkpoint at step {} within {} s: see `medley jobs show {job}`",
        request.step,
        PATIENCE.as_secs()
    )
}

fn table(checkpoints: &[CheckpointView], now: DateTime<Utc>) -> Table {
    use Align::{Left, Right};
    let mut table = Table::new(&[
        ("checkpoint", Left),
        ("stage", Left),
        ("step", Right),
        ("parts", Right),
        ("bytes", Right),
        ("committed", Left),
        ("damage", Left),
    ]);
    for checkpoint in checkpoints {
        table.row([
            checkpoint.id.to_string(),
            checkpoint.stage_name.clone(),
            checkpoint.step.to_string(),
            checkpoint.parts.len().to_string(),
            number(checkpoint.state_bytes),
            ago(checkpoint.committed_at, now),
            checkpoint.damage.clone().unwrap_or_default(),
        ]);
    }
    table
}
