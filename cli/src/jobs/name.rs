//! How people name a job.

use super::pages;
use crate::console::{ago, wire_name};
use anyhow::{Context as _, Result, anyhow, bail};
use chrono::{DateTime, Utc};
use medley_protocol::client::Client;
use medley_protocol::ids::JobId;
use medley_protocol::rest::JobView;
use std::convert::Infallible;
use std::fmt::Write as _;
use std::str::FromStr;

/// Jobs that are searched for a name.
const SEARCHED: usize = 1000;
/// Shortest part of an id.
const MIN_PART: usize = 4;
/// Jobs that are listed where a name fits several.
const LISTED: usize = 10;

/// A job's id, the beginning or end of it, its name, or `latest`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct JobName(String);

impl FromStr for JobName {
    type Err = Infallible;
    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(text.to_owned()))
    }
}

/// The job of that name; the newest if there are several.
///
/// # Errors
/// When there is none, or an id's part fits several.
pub(crate) async fn find(client: &Client, name: &JobName) -> Result<JobId> {
    Ok(find_all(client, name).await?[0])
}

/// All jobs of that name, newest first; never empty.
///
/// # Errors
/// As for [`find`].
pub(crate) async fn find_all(client: &Client, name: &JobName) -> Result<Vec<JobId>> {
    if let Ok(id) = name.0.parse() {
        return Ok(vec![id]);
    }
    let jobs = listed(client, name).await?;
    Ok(fitting(&jobs, &name.0)?.iter().map(|job| job.id).collect())
}

/// The job of that name, for something that changes it: not one of several. Those that are over do not count beside one that
/// is not, which alone can be meant.
///
/// # Errors
/// As for [`find`], and when several jobs have the name.
pub(crate) async fn find_only(client: &Client, name: &JobName) -> Result<JobId> {
    if let Ok(id) = name.0.parse() {
        return Ok(id);
    }
    only(&listed(client, name).await?, &name.0, Utc::now())
}

async fn listed(client: &Client, name: &JobName) -> Result<Vec<JobView>> {
    pages(client, if name.0 == "latest" { 1 } else { SEARCHED }).await
}

/// `jobs` are newest first.
fn fitting<'a>(jobs: &'a [JobView], name: &str) -> Result<Vec<&'a JobView>> {
    if name == "latest" {
        let latest = jobs.first();
        let latest = latest.context("there are no jobs: submit one with `medley submit SPEC.toml`")?;
        return Ok(vec![latest]);
    }
    let named: Vec<&JobView> = jobs.iter().filter(|job| job.name == name).collect();
    if !named.is_empty() {
        return Ok(named);
    }
    let fits = |job: &&JobView| {
        let id = job.id.to_string();
        name.len() >= MIN_PART && (id.starts_with(name) || id.ends_with(name))
    };
    let fitting: Vec<&JobView> = jobs.iter().filter(fits).collect();
    match fitting.len() {
        0 => bail!("no job is called {name:?}, and no id begins or ends so: see `medley jobs`"),
        1 => Ok(fitting),
        _ => Err(ambiguous(name, &fitting, Utc::now())),
    }
}

fn only(jobs: &[JobView], name: &str, now: DateTime<Utc>) -> Result<JobId> {
    let fitting = fitting(jobs, name)?;
    let open: Vec<&JobView> = fitting.iter().copied().filter(|job| !job.state.is_final()).collect();
    match (&open[..], &fitting[..]) {
        ([job], _) | ([], [job]) => Ok(job.id),
        _ => Err(ambiguous(name, &fitting, now)),
    }
}

fn ambiguous(name: &str, jobs: &[&JobView], now: DateTime<Utc>) -> anyhow::Error {
    let mut text = format!("{name:?} fits {} jobs: give an id, or the end of one", jobs.len());
    for job in jobs.iter().take(LISTED) {
        let (state, submitted) = (wire_name(&job.state), ago(job.submitted_at, now));
        let _ = write!(text, "\n  {}  {} ({state}, submitted {submitted})", job.id, job.name);
    }
    if jobs.len() > LISTED {
        let _ = write!(text, "\n  and {} more: see `medley jobs`", jobs.len() - LISTED);
    }
    anyhow!(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake;
    use medley_protocol::stage::JobState;

    fn jobs() -> Vec<JobView> {
        ["b", "a", "a"].map(|name| fake::job(name).job).into()
    }

    fn choose(jobs: &[JobView], name: &str) -> Result<JobId> {
        Ok(fitting(jobs, name)?[0].id)
    }

    #[test]
    fn latest_is_the_first_and_a_name_means_its_newest_job() {
        let jobs = jobs();
        assert_eq!(choose(&jobs, "latest").unwrap(), jobs[0].id);
        assert_eq!(choose(&jobs, "a").unwrap(), jobs[1].id);
    }

    #[test]
    fn the_end_of_an_id_is_enough_and_its_common_beginning_is_not() {
        let jobs = jobs();
        let id = jobs[2].id.to_string();
        assert_eq!(choose(&jobs, &id[id.len() - 8..]).unwrap(), jobs[2].id);
        let error = choose(&jobs, &id[..6]).unwrap_err().to_string();
        assert!(error.contains("3 jobs"), "{error}");
    }

    #[test]
    fn a_name_of_several_jobs_is_refused_where_one_is_changed() {
        let mut jobs = jobs();
        let now = fake::moment(60);
        assert_eq!(only(&jobs, "b", now).unwrap(), jobs[0].id);
        jobs[1].state = JobState::Running;
        let error = only(&jobs, "a", now).unwrap_err().to_string();
        assert!(error.starts_with("\"a\" fits 2 jobs"), "{error}");
        for (job, state) in [(&jobs[1], "running"), (&jobs[2], "queued")] {
            let line = format!("\n  {}  a ({state}, submitted 1m 00s ago)", job.id);
            assert!(error.contains(&line), "{error}");
        }
        // Of those, only one can be meant.
        jobs[1].state = JobState::Cancelled;
        assert_eq!(only(&jobs, "a", now).unwrap(), jobs[2].id);
        jobs[2].state = JobState::Succeeded;
        assert!(only(&jobs, "a", now).is_err());
    }

    #[test]
    fn many_jobs_of_a_name_are_not_all_listed() {
        let jobs: Vec<JobView> = (0..12).map(|_| fake::job("a").job).collect();
        let error = only(&jobs, "a", fake::moment(60)).unwrap_err().to_string();
        assert_eq!(error.lines().count(), 12, "{error}");
        assert!(error.ends_with("and 2 more: see `medley jobs`"), "{error}");
    }

    #[test]
    fn an_unknown_name_says_where_to_look() {
        assert!(
            choose(&jobs(), "nothing")
                .unwrap_err()
                .to_string()
                .contains("medley jobs")
        );
        assert!(choose(&[], "latest").unwrap_err().to_string().contains("medley submit"));
    }
}
