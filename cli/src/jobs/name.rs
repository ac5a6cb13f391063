//! How people name a job.

use super::pages;
use anyhow::{Result, bail};
use medley_protocol::client::Client;
use medley_protocol::ids::JobId;
use medley_protocol::rest::JobView;
use std::convert::Infallible;
use std::str::FromStr;

/// Jobs that are searched for a name.
const SEARCHED: usize = 1000;
/// Shortest part of an id.
const MIN_PART: usize = 4;

/// A job's id, the beginning or end of it, its name, or `latest`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct JobName(String);

impl FromStr for JobName {
    type Err = Infallible;
    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(text.to_owned()))
    }
}

/// The job of that name.
///
/// # Errors
/// When there is none, or an id's part fits several.
pub(crate) async fn find(client: &Client, name: &JobName) -> Result<JobId> {
    if let Ok(id) = name.0.parse() {
        return Ok(id);
    }
    let limit = if name.0 == "latest" { 1 } else { SEARCHED };
    choose(&pages(client, limit).await?, &name.0)
}

/// `jobs` are newest first.
fn choose(jobs: &[JobView], name: &str) -> Result<JobId> {
    let latest = jobs.first().filter(|_| name == "latest");
    if let Some(job) = latest.or_else(|| jobs.iter().find(|job| job.name == name)) {
        return Ok(job.id);
    }
    let fits = |job: &&JobView| {
        let id = job.id.to_string();
        name.len() >= MIN_PART && (id.starts_with(name) || id.ends_with(name))
    };
    let fitting: Vec<JobId> = jobs.iter().filter(fits).map(|job| job.id).collect();
    match fitting[..] {
        [only] => Ok(only),
        [] if name == "latest" => bail!("there are no jobs: submit one with `medley submit SPEC.toml`"),
        [] => bail!("no job is called {name:?}, and no id begins or ends so: see `medley jobs`"),
        _ => bail!(
            "{name:?} fits {} jobs: give more of the id, see `medley jobs`",
            fitting.len()
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake;

    fn jobs() -> Vec<JobView> {
        ["b", "a", "a"].map(|name| fake::job(name).job).into()
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
