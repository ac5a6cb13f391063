//! `medley jobs`: list, show, follow, cancel and retry jobs.

mod metrics;
mod name;
mod show;

pub(crate) use name::{JobName, find};

use crate::Ending;
use crate::connect::{Connection, explain};
use crate::console::{Align, Screen, Table, ago, clock, print, print_json, wire_name};
use crate::submit::follow;
use anyhow::Result;
use chrono::{DateTime, Utc};
use medley_protocol::client::Client;
use medley_protocol::rest::{EventView, JobDetail, JobView, Page};
use serde_json::json;

/// Events of one request.
const MAX_EVENTS: usize = 500;

/// Arguments of `medley jobs`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List jobs, newest first (also without a subcommand).
    List {
        /// Most jobs listed.
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        limit: u32,
    },
    /// Show a job with its stages, datasets and figures.
    Show {
        /// The job: its id, the beginning or end of it, its name, or `latest`.
        #[arg(default_value = "latest")]
        job: JobName,
    },
    /// Cancel a job.
    Cancel {
        /// The job: its id, the beginning or end of it, its name, or `latest`.
        job: JobName,
    },
    /// Let a job that failed go on where it failed: once what it failed for is put right.
    Retry {
        /// The job: its id, the beginning or end of it, its name, or `latest`.
        job: JobName,
    },
    /// Follow a job to its end; the exit code is 0 only if it succeeded.
    Watch {
        /// The job: its id, the beginning or end of it, its name, or `latest`.
        #[arg(default_value = "latest")]
        job: JobName,
    },
    /// Show losses, learning rate and gradient norm by step.
    Metrics(metrics::Args),
    /// Show what happened to a job, and why.
    Events {
        /// The job: its id, the beginning or end of it, its name, or `latest`.
        #[arg(default_value = "latest")]
        job: JobName,
        /// Only events after this one.
        #[arg(long, default_value_t = 0)]
        after: i64,
    },
}

/// Runs the command.
///
/// # Errors
/// When the coordinator does not answer or refuses, or the job is not known.
pub(crate) async fn run(args: Args, json: bool) -> Result<Ending> {
    let client = args.connection.client()?;
    match args.command.unwrap_or(Command::List { limit: 20 }) {
        Command::List { limit } => list(&client, limit, json).await?,
        Command::Show { job } => {
            let id = find(&client, &job).await?;
            show::run(&client, id, json).await?;
        }
        Command::Cancel { job } => {
            let id = find(&client, &job).await?;
            let cancelled: JobView = client
                .post(&format!("/jobs/{id}/cancel"), &json!({}))
                .await
                .map_err(explain)?;
            if json {
                print_json(&cancelled)?;
            } else {
                print(&format!(
                    "job {} ({}) is {}",
                    id,
                    cancelled.name,
                    wire_name(&cancelled.state)
                ))?;
            }
        }
        Command::Retry { job } => retry(&client, &job, &args.connection, json).await?,
        Command::Watch { job } => {
            let id = find(&client, &job).await?;
            return follow(&client, id, &Screen::stderr(), json, &args.connection).await;
        }
        Command::Metrics(metrics) => metrics::run(&client, &metrics, json).await?,
        Command::Events { job, after } => {
            let id = find(&client, &job).await?;
            let events = events(&client, id, after).await?;
            if json {
                print_json(&events)?;
            } else {
                print(&events.iter().map(event_line).collect::<String>())?;
            }
        }
    }
    Ok(Ending::Success)
}

async fn retry(client: &Client, job: &JobName, connection: &Connection, json: bool) -> Result<()> {
    let id = find(client, job).await?;
    let path = format!("/jobs/{id}/retry");
    let retried: JobView = client.post(&path, &json!({})).await.map_err(explain)?;
    if json {
        return print_json(&retried);
    }
    let (state, flags) = (wire_name(&retried.state), connection.flags());
    print(&format!(
        "job {id} ({}) is {state}; follow it with: medley jobs watch {id}{flags}",
        retried.name
    ))
}

async fn list(client: &Client, limit: u32, json: bool) -> Result<()> {
    let jobs = pages(client, limit as usize).await?;
    if json {
        return print_json(&jobs);
    }
    if jobs.is_empty() {
        return print("no jobs: submit one with `medley submit SPEC.toml`");
    }
    print(&table(&jobs, Utc::now()).plain())
}

/// The newest jobs, at most `limit`.
///
/// # Errors
/// When the coordinator does not answer or refuses.
pub(crate) async fn pages(client: &Client, limit: usize) -> Result<Vec<JobView>> {
    let mut jobs: Vec<JobView> = Vec::new();
    let mut cursor = String::new();
    while jobs.len() < limit {
        let path = format!("/jobs?limit={}{cursor}", (limit - jobs.len()).min(100));
        let page: Page<JobView> = client.get(&path).await.map_err(explain)?;
        let more = page.next.filter(|_| !page.items.is_empty());
        jobs.extend(page.items);
        match more {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    jobs.truncate(limit);
    Ok(jobs)
}

fn table(jobs: &[JobView], now: DateTime<Utc>) -> Table {
    use Align::Left;
    let mut table = Table::new(&[
        ("job", Left),
        ("name", Left),
        ("kind", Left),
        ("state", Left),
        ("submitted", Left),
        ("reason", Left),
    ]);
    for job in jobs {
        table.row([
            job.id.to_string(),
            job.name.clone(),
            wire_name(&job.kind),
            wire_name(&job.state),
            ago(job.submitted_at, now),
            job.reason.clone(),
        ]);
    }
    table
}

/// What happened to a job after an event.
///
/// # Errors
/// When the coordinator does not answer or refuses.
pub(crate) async fn events(
    client: &Client,
    job: medley_protocol::ids::JobId,
    mut after: i64,
) -> Result<Vec<EventView>> {
    let mut all = Vec::new();
    loop {
        let path = format!("/jobs/{job}/events?after={after}&limit={MAX_EVENTS}");
        let page: Vec<EventView> = client.get(&path).await.map_err(explain)?;
        let Some(last) = page.iter().map(|event| event.id).max().filter(|last| *last > after) else {
            return Ok(all);
        };
        after = last;
        let whole = page.len() >= MAX_EVENTS;
        all.extend(page);
        if !whole {
            return Ok(all);
        }
    }
}

fn event_line(event: &EventView) -> String {
    format!("{}  {}\n", clock(event.at), event.message)
}

/// A job with its stages.
///
/// # Errors
/// When the coordinator does not answer or refuses.
pub(crate) async fn detail(client: &Client, job: medley_protocol::ids::JobId) -> Result<JobDetail> {
    client.get(&format!("/jobs/{job}")).await.map_err(explain)
}
