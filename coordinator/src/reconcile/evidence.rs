//! Whether a generation can go on: the verdict on its seats, from what the nodes say and do not say.

use super::Settings;
use super::orders::Told;
use super::sight::{Seen, Sight};
use crate::domain::Stage;
use crate::domain::stage::{Generation, Seat};
use medley_protocol::agent::RankState;
use std::time::Duration;

/// What is to become of a generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on.
    Sound,
    /// It is over; another one may do better.
    Over {
        /// Why, in words.
        reason: String,
        /// Whether nodes were lost, rather than ranks failed: then leased tasks are not to blame.
        blameless: bool,
    },
    /// The stage cannot succeed.
    Hopeless {
        /// Why, in words.
        reason: String,
    },
}

/// One finding against a generation.
struct Finding {
    text: String,
    /// Whether starting again may help.
    retry: bool,
    /// Whether the node is lost, not just the rank.
    node: bool,
}

/// Most findings that a reason lists.
const MAX_LISTED: usize = 3;

/// What the reader of a verdict needs to know.
pub struct Evidence<'a> {
    /// What nodes say.
    pub sight: &'a Sight,
    /// What they were told.
    pub told: &'a Told,
    /// Limits.
    pub settings: &'a Settings,
    /// The present.
    pub now: Duration,
}

impl Evidence<'_> {
    /// The verdict on the present generation of `stage`.
    pub fn judge(&self, stage: &Stage, generation: &Generation) -> Verdict {
        let mut findings: Vec<Finding> = Vec::new();
        for seat in &generation.seats {
            if let Some(finding) = self.finding(stage, generation, seat) {
                // Ranks of a lost node say the same.
                if findings.iter().all(|known| known.text != finding.text) {
                    findings.push(finding);
                }
            }
        }
        if findings.is_empty() {
            return Verdict::Sound;
        }
        if let Some(hopeless) = findings.iter().find(|finding| !finding.retry) {
            let reason = hopeless.text.clone();
            return Verdict::Hopeless { reason };
        }
        let blameless = findings.iter().any(|finding| finding.node);
        // A lost node is the cause of what its peers say.
        findings.sort_by_key(|finding| !finding.node);
        let more = findings.len().saturating_sub(MAX_LISTED);
        let listed: Vec<String> = findings
            .into_iter()
            .take(MAX_LISTED)
            .map(|finding| finding.text)
            .collect();
        let mut reason = listed.join("; ");
        if more > 0 {
            reason = format!("{reason}; and {more} more");
        }
        Verdict::Over { reason, blameless }
    }

    /// A lasting failure that a rank of the last generation reported when it was over already.
    pub fn late_failure(&self, stage: &Stage) -> Option<String> {
        let reports = self.sight.nodes.values().flat_map(|seen| &seen.ranks);
        let mut failures = reports.filter_map(|((of, generation, rank), report)| match &report.state {
            RankState::Failed { reason, retry: false } if (*of, *generation) == (stage.id, stage.generation) => {
                Some(format!("rank {rank}: {reason}"))
            }
            _ => None,
        });
        failures.next()
    }

    /// Since when all seats have reported that they are finished, if they have.
    pub fn finished_since(&self, stage: &Stage, generation: &Generation) -> Option<Duration> {
        let mut since = Duration::ZERO;
        for seat in &generation.seats {
            let report = self
                .sight
                .nodes
                .get(&seat.node)?
                .ranks
                .get(&(stage.id, generation.number, seat.rank))?;
            if !matches!(report.state, RankState::Finished { .. }) {
                return None;
            }
            since = since.max(report.since);
        }
        Some(since)
    }

    fn finding(&self, stage: &Stage, generation: &Generation, seat: &Seat) -> Option<Finding> {
        let lost = |text: String| Finding {
            text,
            retry: true,
            node: true,
        };
        let Some(seen) = self.sight.nodes.get(&seat.node) else {
            return Some(lost(format!("node {} is not known any more", seat.node)));
        };
        let name = &seen.node.name;
        if seen.node.incarnation != seat.incarnation {
            return Some(lost(format!("the agent of node {name} started anew")));
        }
        let silent = self.now.saturating_sub(seen.heard_at);
        if silent > self.settings.silence {
            return Some(lost(format!(
                "node {name} has been silent for {:.1} s",
                silent.as_secs_f64()
            )));
        }
        let (text, retry) = self.rank_finding(stage, generation, seat, seen)?;
        Some(Finding {
            text: format!("rank {} on {name} {text}", seat.rank),
            retry,
            node: false,
        })
    }

    fn rank_finding(&self, stage: &Stage, generation: &Generation, seat: &Seat, seen: &Seen) -> Option<(String, bool)> {
        let Some(report) = seen.ranks.get(&(stage.id, generation.number, seat.rank)) else {
            // Only a node that has seen the order can be expected to speak of the rank.
            let told = self.told.first_told(seat.node, stage.id, generation.number)?;
            let has_seen = seen.has_beaten && seen.revision >= told;
            return has_seen.then(|| ("is gone: its agent no longer reports it".into(), true));
        };
        let lasted = self.now.saturating_sub(report.since);
        let over = |limit: Duration| lasted > limit;
        match &report.state {
            RankState::Failed { reason, retry } => Some((format!("failed: {reason}"), *retry)),
            RankState::Starting if over(self.settings.start_limit) => {
                Some((format!("has been starting for {} s", lasted.as_secs()), true))
            }
            RankState::Running { committed } if stage.kind.is_training() && over(self.settings.step_limit) => {
                Some((format!("has been at step {committed} for {} s", lasted.as_secs()), true))
            }
            _ => None,
        }
    }
}
