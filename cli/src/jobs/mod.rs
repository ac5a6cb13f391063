//! `medley jobs`: list, show, follow, cancel and retry jobs.

mod metrics;
mod name;
mod show;

pub(crate) use name::{JobName, find, find_all, find_only};

use crate::Ending;
use crate::connect::{Connection, explain};
use crate::console::{Align, Screen, Table, ago, clock, print, print_json, stdout_width, wire_name};
use crate::submit::follow;
use anyhow::{Result, bail};
use chrono::{DateTime, Utc};
use medley_protocol::client::Client;
use medley_protocol::rest::{EventView, JobDetail, JobView, Page};
use serde_json::json;
use std::fmt::Write as _;

/// Columns of a screen on which ids are shortened, to leave room for reasons.
const NARROW: usize = 140;
/// Characters of an id's end that tell jobs apart: those that are random.
const SHORT_ID: usize = 12;
/// Jobs that are listed if nothing is said.
const LISTED: u32 = 20;
/// Events of one request.
const MAX_EVENTS: usize = 500;

/// Arguments of `medley jobs`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// Most jobs listed, without a subcommand [default: 20].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: Option<u32>,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List jobs, newest first (also without a subcommand).
    List {
        /// Most jobs listed.
        #[arg(long, default_value_t = LISTED, value_parser = clap::value_parser!(u32).range(1..=10_000))]
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
        /// The job: its id, the beginning or end of it, its name if no other job that is not over has it, or `latest`.
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
    let command = match (args.command, args.limit) {
        (None, limit) => Command::List {
            limit: limit.unwrap_or(LISTED),
        },
        (Some(command), None) => command,
        (Some(_), Some(limit)) => bail!("--limit {limit}: give it after the subcommand, if that has a limit"),
    };
    match command {
        Command::List { limit } => list(&client, limit, json).await?,
        Command::Show { job } => {
            let id = find(&client, &job).await?;
            show::run(&client, id, json).await?;
        }
        Command::Cancel { job } => {
            let id = find_only(&client, &job).await?;
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
    let limit = limit as usize;
    // One more tells whether there are more.
    let mut jobs = pages(client, limit + 1).await?;
    let are_more = jobs.len() > limit;
    jobs.truncate(limit);
    if json {
        return print_json(&jobs);
    }
    if jobs.is_empty() {
        return print("no jobs: submit one with `medley submit SPEC.toml`");
    }
    let mut page = listing(&jobs, Utc::now(), stdout_width());
    if are_more {
        let _ = writeln!(
            page,
            "there are older jobs: `medley jobs --limit {}` lists more",
            limit * 5
        );
    }
    print(&page)
}

/// The jobs as a table; on a narrow screen with the ends of their ids, which are enough to name them.
fn listing(jobs: &[JobView], now: DateTime<Utc>, width: Option<usize>) -> String {
    let is_narrow = width.is_some_and(|width| width < NARROW);
    table(jobs, now, is_narrow).within(width)
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

fn table(jobs: &[JobView], now: DateTime<Utc>, short_ids: bool) -> Table {
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
        let mut id = job.id.to_string();
        if short_ids {
            id.drain(..id.len() - SHORT_ID);
        }
        table.row([
            id,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake;

    #[test]
    fn a_narrow_screen_shows_the_ends_of_ids_and_as_much_of_a_reason_as_fits() {
        let mut job = fake::job("shapes").job;
        job.reason = "stage pretrain-0 failed: ".repeat(9);
        let jobs = [job];
        let (id, now) = (jobs[0].id.to_string(), fake::moment(60));
        let narrow = listing(&jobs, now, Some(80));
        let row = narrow.lines().nth(1).unwrap();
        assert!(row.starts_with(&id[24..]) && row.ends_with('…'), "{narrow}");
        assert_eq!(row.chars().count(), 80);
        let piped = listing(&jobs, now, None);
        assert!(
            piped.contains(&id) && piped.contains(jobs[0].reason.trim_end()),
            "{piped}"
        );
    }
}
