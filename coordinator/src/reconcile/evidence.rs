//! Whether a generation can go on: the verdict on its seats, from what the nodes say and do not say.

use super::Settings;
use super::orders::Told;
use super::sight::{Seen, Sight};
use crate::domain::stage::{Generation, Seat};
use crate::domain::{InvalidTransition, Stage};
use medley_protocol::agent::RankState;
use medley_protocol::checkpoint::Damage;
use medley_protocol::ids::NodeId;
use medley_protocol::stage::StageState;
use std::time::Duration;

/// What is to become of a generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on.
    Sound,
    /// Ranks lost a peer, and nothing yet says which or why.
    Unexplained,
    /// It is over; another one may do better.
    Over(End),
    /// The stage cannot succeed.
    Hopeless {
        /// Why, in words.
        reason: String,
    },
}

/// How a generation ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct End {
    /// Why, in words.
    pub reason: String,
    /// Whether nodes were lost, rather than ranks alone.
    pub lost_node: bool,
    /// Ranks that failed by themselves.
    pub failed: Vec<u32>,
    /// Checkpoints that ranks could not load, each once.
    pub damaged: Vec<Found>,
}

impl End {
    /// The stage once its generation has ended so.
    pub(super) fn set_back(&self, stage: Stage) -> Result<Stage, InvalidTransition> {
        if self.damaged.is_empty() {
            stage.set_back(&self.reason)
        } else {
            stage.fall_back(&self.reason)
        }
    }
}

/// A checkpoint that a rank found damaged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// What is wrong with it.
    pub damage: Damage,
    /// Where that was found.
    pub node: NodeId,
    /// By whom and what, in words.
    pub text: String,
}

/// A rank that holds the state of its stage in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Survivor {
    /// Where it runs.
    pub node: NodeId,
    /// Steps committed by its state.
    pub committed: u64,
}

/// One finding against a generation.
struct Finding {
    rank: u32,
    node: NodeId,
    text: String,
    /// Whether starting again may help.
    retry: bool,
    what: What,
    damage: Option<Damage>,
}

/// What a finding is about.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    /// The node is lost: the cause of what the others say.
    Node,
    /// The rank itself failed.
    Rank,
    /// The rank blames others, since then.
    Peers(Duration),
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
        let findings = self.findings(stage, generation);
        if let Some(lasting) = findings.iter().find(|finding| !finding.retry) {
            let reason = lasting.text.clone();
            return Verdict::Hopeless { reason };
        }
        if let Some(reason) = self.late_failure(stage) {
            return Verdict::Hopeless { reason };
        }
        if findings.is_empty() {
            Verdict::Sound
        } else if findings.len() < generation.seats.len() && self.may_be_explained(&findings) {
            Verdict::Unexplained
        } else {
            Verdict::Over(end(findings))
        }
    }

    /// Why a generation that gets ready cannot follow, if it cannot. What a rank of it cannot do is no fault of the stage.
    pub fn objection(&self, stage: &Stage, next: &Generation) -> Option<String> {
        let findings = self.findings(stage, next);
        (!findings.is_empty()).then(|| end(findings).reason)
    }

    fn findings(&self, stage: &Stage, generation: &Generation) -> Vec<Finding> {
        let seats = generation.seats.iter();
        seats.filter_map(|seat| self.finding(stage, generation, seat)).collect()
    }

    /// Whether ranks only blame others so far, and not for long.
    ///
    /// Ranks notice a lost peer long before its node's silence proves it lost. Whoever placed the stage at once would give
    /// the next generation a seat on a dead node.
    fn may_be_explained(&self, findings: &[Finding]) -> bool {
        let blaming = |finding: &Finding| match finding.what {
            What::Peers(since) => Some(since),
            What::Node | What::Rank => None,
        };
        let since: Option<Vec<Duration>> = findings.iter().map(blaming).collect();
        let first = since.and_then(|since| since.into_iter().min());
        first.is_some_and(|first| self.now.saturating_sub(first) < self.settings.settle)
    }

    /// The ranks of a training stage's generation that are known to hold a state, by rank.
    pub fn survivors(&self, stage: &Stage, generation: &Generation) -> Vec<Survivor> {
        let survivor = |seat: &Seat| {
            let seen = self.seen(seat).ok()?;
            let committed = match seen.ranks.get(&(stage.id, generation.number, seat.rank))?.state {
                RankState::Running { committed }
                | RankState::Broken { committed, .. }
                | RankState::Finished { committed } => committed,
                RankState::Listening { committed, .. } => committed?,
                RankState::Starting | RankState::Failed { .. } | RankState::Damaged { .. } => return None,
            };
            let node = seat.node;
            Some(Survivor { node, committed })
        };
        generation.seats.iter().filter_map(survivor).collect()
    }

    /// Whether a node of the generation has yet to speak to this coordinator, for the first time since it leads.
    pub fn awaits_a_word(&self, generation: &Generation) -> bool {
        let mut seats = generation.seats.iter();
        seats.any(|seat| self.seen(seat).is_ok_and(|seen| !seen.has_beaten))
    }

    /// A lasting failure that a rank reported of a generation that was over already.
    pub fn late_failure(&self, stage: &Stage) -> Option<String> {
        let last = stage.present().map_or(stage.generation, |generation| generation.number);
        let reports = self.sight.nodes.values().flat_map(|seen| &seen.ranks);
        let mut failures = reports.filter_map(|((of, generation, rank), report)| match &report.state {
            RankState::Failed { reason, retry: false } if *of == stage.id && *generation <= last => {
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

    /// The node of a seat, unless it is lost: then why, in words.
    fn seen(&self, seat: &Seat) -> Result<&Seen, String> {
        let Some(seen) = self.sight.nodes.get(&seat.node) else {
            return Err(format!("node {} is not known any more", seat.node));
        };
        let name = &seen.node.name;
        if seen.node.incarnation != seat.incarnation {
            return Err(format!("the agent of node {name} started anew"));
        }
        let silent = self.now.saturating_sub(seen.heard_at);
        if silent > self.settings.silence {
            return Err(format!("node {name} has been silent for {:.1} s", silent.as_secs_f64()));
        }
        Ok(seen)
    }

    fn finding(&self, stage: &Stage, generation: &Generation, seat: &Seat) -> Option<Finding> {
        let finding = |text, retry, what| Finding {
            rank: seat.rank,
            node: seat.node,
            text,
            retry,
            what,
            damage: None,
        };
        let seen = match self.seen(seat) {
            Ok(seen) => seen,
            Err(text) => return Some(finding(text, true, What::Node)),
        };
        let (text, retry, what) = self.rank_finding(stage, generation, seat, seen)?;
        let text = format!("rank {} on {} {text}", seat.rank, seen.node.name);
        let report = seen.ranks.get(&(stage.id, generation.number, seat.rank));
        let damage = report.and_then(|report| match &report.state {
            RankState::Damaged { damage } => Some(damage.clone()),
            _ => None,
        });
        Some(Finding {
            damage,
            ..finding(text, retry, what)
        })
    }

    fn rank_finding(
        &self,
        stage: &Stage,
        generation: &Generation,
        seat: &Seat,
        seen: &Seen,
    ) -> Option<(String, bool, What)> {
        let Some(report) = seen.ranks.get(&(stage.id, generation.number, seat.rank)) else {
            // Only a node that has seen the order can be expected to speak of the rank.
            let told = self.told.first_told(seat.node, stage.id, generation.number)?;
            let has_seen = seen.has_beaten && seen.revision >= told;
            return has_seen.then(|| ("is gone: its agent no longer reports it".into(), true, What::Rank));
        };
        let lasted = self.now.saturating_sub(report.since);
        let late = |limit: Duration, text: String| (lasted > limit).then_some((text, true, What::Rank));
        let seconds = lasted.as_secs();
        match &report.state {
            RankState::Failed { reason, retry } => Some((format!("failed: {reason}"), *retry, What::Rank)),
            RankState::Damaged { damage } => Some((format!("cannot go on: {damage}"), true, What::Rank)),
            RankState::Broken { reason, .. } => Some((format!("broke off: {reason}"), true, What::Peers(report.since))),
            RankState::Starting => late(self.settings.start_limit, format!("has been starting for {seconds} s")),
            RankState::Running { committed } if stage.kind.is_training() => late(
                self.settings.step_limit,
                format!("has been at step {committed} for {seconds} s"),
            ),
            RankState::Listening { .. } if stage.state.label() == StageState::Running => {
                let unconnected = self.unchanged_for(stage, generation)?;
                (unconnected > self.settings.connect_limit).then(|| {
                    let text = format!("has not connected with the others for {} s", unconnected.as_secs());
                    (text, true, What::Rank)
                })
            }
            _ => None,
        }
    }

    /// How long no seat has said anything new: its members were published after that.
    fn unchanged_for(&self, stage: &Stage, generation: &Generation) -> Option<Duration> {
        let since = |seat: &Seat| {
            let ranks = &self.sight.nodes.get(&seat.node)?.ranks;
            Some(ranks.get(&(stage.id, generation.number, seat.rank))?.since)
        };
        let last = generation.seats.iter().filter_map(since).max()?;
        Some(self.now.saturating_sub(last))
    }
}

/// What the findings say together.
fn end(mut findings: Vec<Finding>) -> End {
    let failed = findings.iter().filter(|finding| finding.what == What::Rank);
    let failed = failed.map(|finding| finding.rank).collect();
    let lost_node = findings.iter().any(|finding| finding.what == What::Node);
    let mut damaged: Vec<Found> = findings.iter().filter_map(found).collect();
    damaged.sort_by_key(|found| found.damage.checkpoint);
    damaged.dedup_by_key(|found| found.damage.checkpoint);
    // Causes come before what follows from them.
    findings.sort_by_key(|finding| finding.what);
    // Ranks of a lost node say the same.
    findings.dedup_by(|one, other| one.text == other.text);
    let more = findings.len().saturating_sub(MAX_LISTED);
    let listed = findings.into_iter().take(MAX_LISTED).map(|finding| finding.text);
    let mut reason = listed.collect::<Vec<String>>().join("; ");
    if more > 0 {
        reason = format!("{reason}; and {more} more");
    }
    End {
        reason,
        lost_node,
        failed,
        damaged,
    }
}

fn found(finding: &Finding) -> Option<Found> {
    Some(Found {
        damage: finding.damage.clone()?,
        node: finding.node,
        text: finding.text.clone(),
    })
}
