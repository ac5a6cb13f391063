//! `medley ledger`: which samples a job's steps have read, and whether that is exactly what they should have.

mod check;
mod names;

use crate::Ending;
use crate::connect::{Connection, explain};
use crate::console::{number, print, print_json};
use crate::jobs::{self, JobName, find};
use anyhow::{Result, anyhow, bail};
use check::{Check, Facts, Report, Substitute};
use medley_data::order::stage_seed;
use medley_protocol::client::Client;
use medley_protocol::rest::{EventView, JobDetail, LedgerPage, StageView};
use serde_json::json;
use std::fmt::Write;

/// Samples that the entries of one request name, about.
const PAGE_SAMPLES: u64 = 200_000;
/// Most entries of one request.
const MAX_ENTRIES: u64 = 1000;
/// Replacements that are shown one by one; `--json` has all.
const SHOWN: usize = 20;

/// Arguments of `medley ledger`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The job: its id, the beginning or end of it, its name, or `latest`.
    #[arg(default_value = "latest")]
    job: JobName,
    /// Only this stage, such as pretrain-0 [default: every training stage that has begun].
    #[arg(long)]
    stage: Option<String>,
    #[command(flatten)]
    connection: Connection,
}

/// Runs the command.
///
/// # Errors
/// When the coordinator does not answer, or the job keeps no ledger.
pub(crate) async fn run(args: Args, json: bool) -> Result<Ending> {
    let client = args.connection.client()?;
    let job = find(&client, &args.job).await?;
    let job = jobs::detail(&client, job).await?;
    if !job.spec.ledger {
        bail!(
            "job {} keeps no ledger: submit it with --ledger, or with ledger = true in its spec",
            job.job.id
        );
    }
    let events = jobs::events(&client, job.job.id, 0).await?;
    let mut reports = Vec::new();
    for stage in stages(&job, args.stage.as_deref())? {
        reports.push(read(&client, &job, stage, &events).await?);
    }
    let whole = reports.iter().all(Report::is_whole);
    if json {
        print_json(&json!({ "job": job.job.id, "whole": whole, "stages": reports }))?;
    } else {
        print(&reports.iter().map(page).collect::<String>())?;
    }
    Ok(if whole { Ending::Success } else { Ending::NotWhole })
}

fn stages<'a>(job: &'a JobDetail, name: Option<&str>) -> Result<Vec<&'a StageView>> {
    let training = job.stages.iter().filter(|stage| stage.kind.is_training());
    let Some(name) = name else {
        return Ok(training.filter(|stage| stage.started_at.is_some()).collect());
    };
    let known: Vec<&str> = training.clone().map(|stage| stage.name.as_str()).collect();
    let named = training.filter(|stage| stage.name == name).collect::<Vec<_>>();
    if named.is_empty() {
        bail!("--stage {name}: no such training stage; there are {}", known.join(", "));
    }
    Ok(named)
}

async fn read(client: &Client, job: &JobDetail, stage: &StageView, events: &[EventView]) -> Result<Report> {
    let mut check = Check::new(Facts {
        stage: stage.name.clone(),
        seed: stage_seed(job.spec.seed, &stage.name),
        lanes: job.spec.lanes.count,
        batch: job.spec.lanes.batch,
        steps: stage.done,
    });
    let limit = (PAGE_SAMPLES / job.spec.global_batch()).clamp(1, MAX_ENTRIES);
    while check.next() < stage.done {
        let path = format!(
            "/jobs/{}/ledger?stage={}&from_step={}&limit={limit}",
            job.job.id,
            stage.id,
            check.next()
        );
        let page: LedgerPage = client.get(&path).await.map_err(explain)?;
        // Steps that were committed since are not expected.
        let known = page.entries.iter().filter(|entry| entry.step < stage.done);
        if known.clone().next().is_none() {
            break;
        }
        known.for_each(|entry| check.entry(entry));
    }
    let mut report = check.finish();
    let differing = events
        .iter()
        .filter(|event| event.kind == "ledger-differs" && event.stage == Some(stage.id));
    differing.for_each(|event| report.fault(event.message.clone()));
    let named = names::fill(client, job, stage, &mut report.replaced).await;
    named.map_err(|error| anyhow!("the names of replaced samples: {error:#}"))?;
    Ok(report)
}

fn page(report: &Report) -> String {
    let Report {
        stage,
        steps,
        pairs,
        steps_per_epoch,
        unread,
        read,
        replaced,
        faults,
        more_faults,
    } = report;
    let mut page = format!(
        "{stage}: {} samples in {} steps; {} in an epoch of {} steps, of which {} are left over",
        number(*read),
        number(*steps),
        number(*pairs),
        number(*steps_per_epoch),
        unread.end - unread.start
    );
    if faults.is_empty() {
        page.push_str("\n  every position once, and the order's own sample at each\n");
    } else {
        page.push('\n');
    }
    for substitute in replaced.iter().take(SHOWN) {
        let _ = writeln!(page, "  {}", line(substitute));
    }
    if replaced.len() > SHOWN {
        let _ = writeln!(page, "  and {} more were replaced", replaced.len() - SHOWN);
    }
    for fault in faults {
        let _ = writeln!(page, "  wrong: {fault}");
    }
    if *more_faults > 0 {
        let _ = writeln!(page, "  and {more_faults} more are wrong");
    }
    page
}

fn line(substitute: &Substitute) -> String {
    let Substitute {
        step,
        epoch,
        position,
        sample,
        by,
        tries,
        names,
    } = substitute;
    let name = |i: usize, number: u64| {
        names
            .as_ref()
            .map_or_else(|| format!("sample {number}"), |names| names[i].clone())
    };
    format!(
        "replaced in step {step}, at position {position} of epoch {epoch}: {} no longer decodes; read was {} (draw {tries})",
        name(0, *sample),
        name(1, *by)
    )
}

#[cfg(test)]
mod tests;
