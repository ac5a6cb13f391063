//! Whether a generation can go on: the verdict on its seats, from what the nodes say and do not say.

use super::Settings;
use super::findings::{End, Finding, What, end};
use super::orders::Told;
use super::sight::{Report, Seen, Sight};
use super::standstill::{self, Cause, Look};
use crate::domain::Stage;
use crate::domain::stage::{Generation, Seat};
use medley_protocol::agent::RankState;
use medley_protocol::ids::{NodeId, StageId};
use medley_protocol::stage::StageState;
use std::collections::{BTreeMap, BTreeSet};
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

/// A rank that holds the state of its stage in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Survivor {
    /// Its number.
    pub rank: u32,
    /// Where it runs.
    pub node: NodeId,
    /// Steps committed by its state.
    pub committed: u64,
}

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
        // Whatever else is said: what follows from a doubtful state says nothing.
        if let Some(end) = self.doubt(stage, generation.number) {
            return Verdict::Over(end);
        }
        let findings = self.findings(stage, generation);
        if let Some(lasting) = findings.iter().find(|finding| !finding.retry) {
            let reason = lasting.text.clone();
            return Verdict::Hopeless { reason };
        }
        if let Some(reason) = self.late_failure(stage) {
            return Verdict::Hopeless { reason };
        }
        if findings.is_empty() {
            let apart = self.apart(stage, generation);
            apart.map_or(Verdict::Sound, Verdict::Over)
        } else if self.may_be_explained(generation, &findings) {
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
        let within = |silence: Duration| -> Vec<Finding> {
            let seats = generation.seats.iter();
            let finding = |seat| self.finding(stage, generation, seat, silence);
            seats.filter_map(finding).collect()
        };
        let findings = within(self.settings.silence);
        let looks = self.looks(stage, generation);
        let are_missed = findings.iter().any(|finding| finding.blames().is_some()) || standstill::is_waited_for(&looks);
        if are_missed {
            let findings = within(self.settings.doubt);
            if !findings.is_empty() {
                return findings;
            }
        }
        if !findings.is_empty() {
            return findings;
        }
        let lacked = self.lacked(stage, generation);
        if !lacked.is_empty() {
            let mut findings = within(self.settings.fresh);
            findings.retain(|finding| lacked.contains(&finding.seat.node));
            if !findings.is_empty() {
                return findings;
            }
        }
        if looks.len() < generation.seats.len() {
            return Vec::new();
        }
        let cause = standstill::cause(&looks);
        cause.map_or_else(Vec::new, |cause| self.held_up(stage, generation, cause))
    }

    /// The nodes that a rank has waited for so long to connect with that one of them which is silent as well must be lost, such as
    /// one that stood still when it was about to join.
    fn lacked(&self, stage: &Stage, generation: &Generation) -> BTreeSet<NodeId> {
        let limit = self.settings.fresh.as_millis();
        let reports = generation
            .seats
            .iter()
            .filter_map(|seat| self.report(stage, generation, seat));
        let connecting = reports.filter_map(|report| report.connecting.as_ref());
        let long = connecting.filter(|connecting| u128::from(connecting.for_ms) >= limit);
        let ranks = long.flat_map(|connecting| &connecting.lacks);
        let seats = ranks.filter_map(|rank| generation.seats.get(*rank as usize));
        seats.map(|seat| seat.node).collect()
    }

    /// Whether ranks only blame others so far, and the cause may be heard any moment.
    ///
    /// Ranks notice a lost peer before its agent has said that it ended, and before its node's silence proves it lost. Whoever
    /// placed the stage at once would give the next generation a seat on a dead node. There is nothing to wait for once
    /// every agent has spoken after that; one that does not is in doubt soon.
    fn may_be_explained(&self, generation: &Generation, findings: &[Finding]) -> bool {
        let since: Option<Vec<Duration>> = findings.iter().map(Finding::blames).collect();
        let Some(first) = since.and_then(|since| since.into_iter().min()) else {
            return false;
        };
        let is_mute = |seat: &&Seat| findings.iter().all(|finding| finding.seat != **seat);
        let mut others = generation.seats.iter().filter(is_mute);
        others.any(|seat| {
            let heard_at = self
                .sight
                .nodes
                .get(&seat.node)
                .map_or(Duration::ZERO, |seen| seen.heard_at);
            heard_at < first + self.settings.settle
        })
    }

    /// Where in a step the ranks of a training generation are that say so.
    fn looks(&self, stage: &Stage, generation: &Generation) -> Vec<Look> {
        let look = |seat: &Seat| {
            let report = self.report(stage, generation, seat)?;
            let is_running = matches!(report.state, RankState::Running { .. });
            Some(Look {
                rank: seat.rank,
                doing: report.doing.filter(|_| is_running)?,
                quiet: report.quiet,
            })
        };
        generation.seats.iter().filter_map(look).collect()
    }

    pub(super) fn report(&self, stage: &Stage, generation: &Generation, seat: &Seat) -> Option<&Report> {
        let ranks = &self.sight.nodes.get(&seat.node)?.ranks;
        ranks.get(&(stage.id, generation.number, seat.rank))
    }

    /// What a cause of a standstill says against a generation. Ranks that cannot reach each other try it once more on fresh
    /// connections; then the smallest node leaves, but not the lowest rank's.
    fn held_up(&self, stage: &Stage, generation: &Generation, cause: Cause) -> Vec<Finding> {
        let finding = |seat: &Seat, text: &str, what| {
            let name = self
                .sight
                .nodes
                .get(&seat.node)
                .map_or("?", |seen| seen.node.name.as_str());
            Finding {
                seat: *seat,
                text: format!("rank {} on {name} {text}", seat.rank),
                retry: true,
                what,
                damage: None,
            }
        };
        let text = match cause {
            Cause::Rank { rank, text } => {
                let held_up_by = generation.seats.iter().filter(|seat| seat.rank == rank);
                return held_up_by.map(|seat| finding(seat, &text, What::Rank)).collect();
            }
            Cause::Cut { text } => text,
        };
        let first = generation.seats.first();
        let is_second = stage.setbacks.in_a_row > 0 && stage.setbacks.progress == stage.progress();
        let smallest = first.and_then(|first| {
            let mut ranks: BTreeMap<NodeId, usize> = BTreeMap::new();
            generation
                .seats
                .iter()
                .for_each(|seat| *ranks.entry(seat.node).or_default() += 1);
            ranks.remove(&first.node);
            ranks.into_iter().min_by_key(|(_, ranks)| *ranks).map(|(node, _)| node)
        });
        let leaves = generation
            .seats
            .iter()
            .filter(|seat| is_second && Some(seat.node) == smallest);
        let leaves = leaves.map(|seat| finding(seat, "leaves: it could not reach the others, twice", What::Rank));
        let cut = first.map(|seat| finding(seat, &text, What::Stuck));
        cut.into_iter().chain(leaves).collect()
    }

    /// The ranks of a training stage's generation that are known to hold a state, by rank.
    pub fn survivors(&self, stage: &Stage, generation: &Generation) -> Vec<Survivor> {
        let survivor = |seat: &Seat| {
            let seen = self.seen(seat, self.settings.silence).ok()?;
            let committed = match seen.ranks.get(&(stage.id, generation.number, seat.rank))?.state {
                RankState::Running { committed }
                | RankState::Broken { committed, .. }
                | RankState::Finished { committed } => committed,
                RankState::Listening { committed, .. } => committed?,
                RankState::Starting
                | RankState::Left { .. }
                | RankState::Failed { .. }
                | RankState::Damaged { .. }
                | RankState::Doubtful { .. } => return None,
            };
            let (rank, node) = (seat.rank, seat.node);
            Some(Survivor { rank, node, committed })
        };
        generation.seats.iter().filter_map(survivor).collect()
    }

    /// Whether a node of the generation has yet to speak to this coordinator, for the first time since it leads.
    pub fn awaits_a_word(&self, generation: &Generation) -> bool {
        let mut seats = generation.seats.iter();
        seats.any(|seat| {
            self.seen(seat, self.settings.silence)
                .is_ok_and(|seen| !seen.has_beaten)
        })
    }

    /// A lasting failure that a rank reported of a generation that was over already, and is not forgiven.
    pub fn late_failure(&self, stage: &Stage) -> Option<String> {
        let last = stage.present().map_or(stage.generation, |generation| generation.number);
        let counts =
            |of: &StageId, generation: &u64| *of == stage.id && (stage.forgiven + 1..=last).contains(generation);
        let reports = self.sight.nodes.values().flat_map(|seen| &seen.ranks);
        let mut failures = reports.filter_map(|((of, generation, rank), report)| match &report.state {
            RankState::Failed { reason, retry: false } if counts(of, generation) => {
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

    /// The node of a seat, unless it is lost, by a silence longer than `silence` or otherwise: then why, in words, and whether
    /// it is silent.
    pub(super) fn seen(&self, seat: &Seat, silence: Duration) -> Result<&Seen, (String, bool)> {
        let Some(seen) = self.sight.nodes.get(&seat.node) else {
            return Err((format!("node {} is not known any more", seat.node), false));
        };
        let name = &seen.node.name;
        if seen.node.incarnation != seat.incarnation {
            return Err((format!("the agent of node {name} started anew"), false));
        }
        let silent = self.now.saturating_sub(seen.heard_at);
        if silent > silence {
            let missed = if silent > self.settings.silence {
                ""
            } else {
                ", and its peers miss it"
            };
            let text = format!("node {name} has been silent for {:.1} s{missed}", silent.as_secs_f64());
            return Err((text, true));
        }
        Ok(seen)
    }

    fn finding(&self, stage: &Stage, generation: &Generation, seat: &Seat, silence: Duration) -> Option<Finding> {
        let finding = |text, retry, what| Finding {
            seat: *seat,
            text,
            retry,
            what,
            damage: None,
        };
        // Whoever has lost others is not the one that they have lost.
        let report = self.report(stage, generation, seat);
        let has_spoken = report.is_some_and(|report| matches!(report.state, RankState::Broken { .. }));
        let silence = if has_spoken { self.settings.silence } else { silence };
        let seen = match self.seen(seat, silence) {
            Ok(seen) => seen,
            Err((text, is_silent)) => return Some(finding(text, true, What::Node { is_silent })),
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
        let late = |limit: Duration, text: String, what| (lasted > limit).then_some((text, true, what));
        let seconds = lasted.as_secs();
        match &report.state {
            RankState::Failed { reason, retry } => Some((format!("failed: {reason}"), *retry, What::Rank)),
            RankState::Damaged { damage } => Some((format!("cannot go on: {damage}"), true, What::Rank)),
            RankState::Doubtful { doubt } => Some((format!("cannot go on: {doubt}"), true, What::Rank)),
            RankState::Broken { reason, .. } => Some((format!("broke off: {reason}"), true, What::Peers(report.since))),
            RankState::Starting => {
                let text = format!("has been starting for {seconds} s");
                late(self.settings.start_limit, text, What::Rank)
            }
            RankState::Running { committed } if stage.kind.is_training() => late(
                self.settings.step_limit,
                format!("has been at step {committed} for {seconds} s"),
                What::Stuck,
            ),
            // Only then can all be unchanged for so long: there are many seats to look at.
            RankState::Listening { .. }
                if stage.state.label() == StageState::Running && lasted > self.settings.connect_limit =>
            {
                let unconnected = self.unchanged_for(stage, generation)?;
                (unconnected > self.settings.connect_limit).then(|| {
                    let text = format!("has not connected with the others for {} s", unconnected.as_secs());
                    (text, true, What::Stuck)
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
