//! When steps were committed and generations broke, as ranks have logged it.

use anyhow::{Context, Result};
use chrono::{DateTime, Utc};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::Path;

/// What a rank logs of a committed step, before its number.
const COMMITTED: &str = " committed step=";
/// What a rank logs when its generation is over.
const BROKEN: &str = " the generation is over: ";

/// What happened, in order of time.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Timeline {
    /// When a step was first committed by a rank.
    commits: Vec<DateTime<Utc>>,
    /// When a rank noticed that its generation was over.
    breaks: Vec<DateTime<Utc>>,
}

impl Timeline {
    /// Reads the logs of all ranks.
    ///
    /// # Errors
    /// When a log cannot be read.
    pub(super) fn read(logs: &Path) -> Result<Self> {
        let mut lines = Vec::new();
        for node in fs::read_dir(logs)?
            .filter_map(Result::ok)
            .filter(|entry| entry.path().is_dir())
        {
            for log in fs::read_dir(node.path())?.filter_map(Result::ok) {
                let path = log.path();
                let file = File::open(&path).with_context(|| format!("cannot read {}", path.display()))?;
                lines.extend(
                    BufReader::new(file)
                        .lines()
                        .map_while(Result::ok)
                        .filter(|line| is_ours(line)),
                );
            }
        }
        Ok(Self::of(lines.iter().map(String::as_str)))
    }

    /// Steps are numbered anew in each job: one that comes again later than its successors belongs to another.
    fn of<'a>(lines: impl Iterator<Item = &'a str>) -> Self {
        let mut timeline = Self::default();
        let mut commits: Vec<(DateTime<Utc>, u64)> = Vec::new();
        for line in lines {
            let Some(at) = time(line) else { continue };
            match line.split_once(COMMITTED) {
                Some((_, step)) => commits.extend(step.trim().parse().ok().map(|step| (at, step))),
                None => timeline.breaks.push(at),
            }
        }
        commits.sort_unstable();
        timeline.breaks.sort_unstable();
        let mut last: BTreeMap<u64, DateTime<Utc>> = BTreeMap::new();
        let mut highest = 0;
        for (at, step) in commits {
            if step == 0 && highest > 1 {
                last.clear();
                highest = 0;
            }
            if last.insert(step, at).is_none() {
                timeline.commits.push(at);
            }
            highest = highest.max(step);
        }
        timeline
    }

    /// What happened from `from` on.
    pub(super) fn since(&self, from: DateTime<Utc>) -> Self {
        let after = |all: &[DateTime<Utc>]| all.iter().copied().filter(|at| *at >= from).collect();
        Self {
            commits: after(&self.commits),
            breaks: after(&self.breaks),
        }
    }

    /// Steps per second, from the first commit to the last.
    pub(super) fn speed(&self) -> Option<f64> {
        let (first, last) = (self.commits.first()?, self.commits.last()?);
        let seconds = seconds(*first, *last);
        (seconds > 0.0).then(|| (self.commits.len() - 1) as f64 / seconds)
    }

    /// When the last step was committed; now if there was none.
    pub(super) fn end(&self) -> DateTime<Utc> {
        self.commits.last().copied().unwrap_or_else(Utc::now)
    }

    /// Median time between two commits in seconds.
    pub(super) fn median_step(&self) -> Option<f64> {
        let mut gaps: Vec<f64> = self.commits.windows(2).map(|pair| seconds(pair[0], pair[1])).collect();
        gaps.sort_by(f64::total_cmp);
        gaps.get(gaps.len() / 2).copied()
    }

    /// Seconds from `at` until a rank noticed that its generation was over, if one did before `until`.
    pub(super) fn noticed(&self, at: DateTime<Utc>, until: DateTime<Utc>) -> Option<f64> {
        let broke = self.breaks.iter().find(|broke| (at..until).contains(broke))?;
        Some(seconds(at, *broke))
    }

    /// Longest time in seconds without a commit from `at` on: what a fault at `at` may have held up. What lasts beyond the next
    /// one, at `until`, is that one's, but for the time before it.
    pub(super) fn pause(&self, at: DateTime<Utc>, until: DateTime<Utc>) -> Option<f64> {
        let first = self.commits.partition_point(|commit| *commit < at);
        let last = self.commits.partition_point(|commit| *commit < until);
        if first >= last {
            // The next fault came before the next step.
            return self.commits.get(first).map(|next| seconds(at, *next));
        }
        let within = self.commits[first..last].iter().copied();
        let marks: Vec<_> = [at].into_iter().chain(within).chain([until]).collect();
        marks.windows(2).map(|pair| seconds(pair[0], pair[1])).reduce(f64::max)
    }
}

fn is_ours(line: &str) -> bool {
    line.contains(COMMITTED) || line.contains(BROKEN)
}

fn time(line: &str) -> Option<DateTime<Utc>> {
    let word = line.split_whitespace().next()?;
    DateTime::parse_from_rfc3339(word).ok().map(|at| at.to_utc())
}

fn seconds(from: DateTime<Utc>, to: DateTime<Utc>) -> f64 {
    (to - from).as_seconds_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: f64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + chrono::TimeDelta::milliseconds((second * 1e3) as i64)
    }

    fn line(second: f64, what: &str) -> String {
        format!(
            "{} DEBUG medley_worker::stage::train::trainer:{what}",
            at(second).to_rfc3339()
        )
    }

    fn timeline() -> Timeline {
        let commit = |second: f64, step: u64| line(second, &format!("{COMMITTED}{step}"));
        let lines = [
            commit(1.0, 0),
            commit(1.01, 0),
            commit(2.0, 1),
            line(2.75, &format!("{BROKEN}lost rank 1")),
            commit(5.0, 2),
            commit(6.0, 3),
            commit(5.02, 2),
        ];
        Timeline::of(lines.iter().map(String::as_str))
    }

    #[test]
    fn a_step_counts_once_when_the_first_rank_commits_it() {
        assert_eq!(timeline().commits, [at(1.0), at(2.0), at(5.0), at(6.0)]);
        assert_eq!(timeline().speed(), Some(3.0 / 5.0));
        assert_eq!(timeline().median_step(), Some(1.0));
    }

    #[test]
    fn a_pause_lasts_from_the_fault_to_the_next_commit() {
        let timeline = timeline();
        assert_eq!(timeline.pause(at(2.5), at(5.5)), Some(2.5));
        assert_eq!(timeline.noticed(at(2.5), at(5.5)), Some(0.25));
        assert_eq!(timeline.noticed(at(3.0), at(5.5)), None);
        // One that is noticed late: steps go on for a while.
        assert_eq!(timeline.pause(at(1.5), at(5.5)), Some(3.0));
        // What the next fault has held up is not this one's.
        assert_eq!(timeline.pause(at(1.5), at(2.5)), Some(0.5));
        assert_eq!(
            timeline.pause(at(2.5), at(3.0)),
            Some(2.5),
            "it came before there was a step"
        );
    }

    #[test]
    fn a_job_that_begins_anew_is_another_one() {
        let commit = |second: f64, step: u64| line(second, &format!("{COMMITTED}{step}"));
        let lines = [
            commit(1.0, 0),
            commit(2.0, 1),
            commit(3.0, 2),
            commit(9.0, 0),
            commit(10.0, 1),
        ];
        let timeline = Timeline::of(lines.iter().map(String::as_str));
        assert_eq!(timeline.commits.len(), 5);
        assert_eq!(timeline.since(at(8.0)).commits, [at(9.0), at(10.0)]);
    }
}
