//! Placing what waits: from jobs to the planner's terms and back.

use super::Settings;
use super::decide::Pass;
use super::evidence::Evidence;
use super::sight::Seen;
use crate::domain::stage::{Seat, State};
use crate::domain::{Event, InvalidTransition, Job, Mint, Stage, job};
use crate::plan::{self, Placement, Request};
use medley_protocol::ids::{NodeId, StageId};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Longest pause before a stage is placed again, in units of the shortest.
const MAX_PAUSE: u32 = 16;

/// Time that a stage is held back after a generation that failed.
///
/// Ranks notice a lost peer long before its node's silence proves it lost. The pause lets the evidence come in, so that
/// the next generation has no seat on a dead node; and it slows down a stage that fails again and again.
pub(super) fn pause(in_a_row: u32, blameless: bool, settings: &Settings) -> Duration {
    if blameless {
        return Duration::ZERO;
    }
    let factor = 1_u32.checked_shl(in_a_row.saturating_sub(2)).unwrap_or(MAX_PAUSE);
    settings.settle * factor.min(MAX_PAUSE)
}

impl Pass<'_> {
    /// Places waiting stages, or notes why they wait.
    pub(super) fn place(&mut self, mut jobs: Vec<Job>, mint: &mut dyn Mint) -> Result<Vec<Job>, InvalidTransition> {
        let mut waiting: Vec<(&Job, &Stage)> = Vec::new();
        for job in &jobs {
            let stages = job.stages.iter().filter(|stage| self.may_be_placed(stage));
            waiting.extend(stages.map(|stage| (job, stage)));
        }
        if waiting.is_empty() {
            return Ok(jobs);
        }
        let expected = self.expected();
        if !expected.is_empty() {
            let ids: BTreeSet<StageId> = waiting.iter().map(|(_, stage)| stage.id).collect();
            return self.await_nodes(jobs, &ids, &expected.join(", "));
        }
        self.expectant.clear();
        // Stages of a job are in order already.
        waiting.sort_by_key(|(job, _)| (job.submitted_at, job.id));
        let replaces = waiting.iter().any(|(_, stage)| stage.generation > 0);
        let requests: Vec<Request> = waiting.iter().map(|(job, stage)| request(job, stage)).collect();
        let mut plan = plan::plan(&self.nodes(&jobs, replaces), &requests);
        for job in &mut jobs {
            for i in 0..job.stages.len() {
                let id = job.stages[i].id;
                if let Some(placement) = plan.placements.remove(&id) {
                    self.start(job, i, &placement, mint)?;
                } else if let Some(reason) = plan.waits.remove(&id) {
                    self.wait(job, i, reason)?;
                }
            }
        }
        Ok(jobs)
    }

    /// Names of the nodes that may be heard any moment for the first time.
    ///
    /// A stage keeps the ranks it is placed with. Where everything starts anew, nodes come one after the other; whoever
    /// took the first of them at once would leave the others idle.
    fn expected(&self) -> Vec<&str> {
        let Evidence {
            sight, settings, now, ..
        } = self.evidence;
        let is_awaited =
            |seen: &&Seen| !seen.has_beaten && now.saturating_sub(seen.awaited_since) < settings.first_beat_grace;
        let mut names: Vec<&str> = sight
            .nodes
            .values()
            .filter(is_awaited)
            .map(|seen| seen.node.name.as_str())
            .collect();
        names.sort_unstable();
        names
    }

    /// Lets stages wait for nodes, and makes it known once.
    fn await_nodes(
        &mut self,
        mut jobs: Vec<Job>,
        stages: &BTreeSet<StageId>,
        nodes: &str,
    ) -> Result<Vec<Job>, InvalidTransition> {
        let most = self.evidence.settings.first_beat_grace.as_secs_f64();
        for job in &mut jobs {
            for i in 0..job.stages.len() {
                let id = job.stages[i].id;
                if !stages.contains(&id) || !self.expectant.insert(id) {
                    continue;
                }
                let reason = format!("waits to hear from {nodes}, for at most {most:.0} s");
                let message = format!("{} {reason}", job.stages[i].name);
                let event = Event::of_stage(job.id, &job.stages[i], "stage-waits", message);
                self.decision.events.push(event);
                self.wait(job, i, reason)?;
            }
        }
        Ok(jobs)
    }

    fn may_be_placed(&self, stage: &Stage) -> bool {
        let held = self.held.get(&stage.id).is_some_and(|until| *until > self.evidence.now);
        // A stage of tasks that only waits for its merge to be made has no work yet.
        let has_work = stage.kind.is_training() || stage.facts.tasks.unfinished > 0;
        matches!(stage.state, State::Waiting { .. }) && has_work && !held
    }

    /// Nodes with their free devices. A replacement is placed only where a beat was heard just now.
    fn nodes(&self, jobs: &[Job], replaces: bool) -> Vec<plan::Node> {
        let settings = self.evidence.settings;
        let patience = if replaces { settings.fresh } else { settings.silence };
        let busy = busy(jobs);
        let seen = self.evidence.sight.nodes.values();
        let alive = seen.filter(|seen| seen.has_beaten && self.evidence.now.saturating_sub(seen.heard_at) <= patience);
        let mut nodes: Vec<(&str, plan::Node)> = alive
            .map(|seen| {
                let used = busy.get(&seen.node.id).copied().unwrap_or(0);
                let node = plan::Node {
                    id: seen.node.id,
                    fingerprint: seen.node.fingerprint.clone(),
                    devices: seen.node.devices,
                    free: seen.node.devices.saturating_sub(used),
                };
                (seen.node.name.as_str(), node)
            })
            .collect();
        nodes.sort_by(|a, b| a.0.cmp(b.0));
        nodes.into_iter().map(|(_, node)| node).collect()
    }

    fn start(
        &mut self,
        job: &mut Job,
        i: usize,
        placement: &Placement,
        mint: &mut dyn Mint,
    ) -> Result<(), InvalidTransition> {
        let stage = job.stages[i].clone().place(self.seats(placement), mint.secret())?;
        let message = self.placed_message(&stage, placement);
        self.decision
            .events
            .push(Event::of_stage(job.id, &stage, "stage-placed", message));
        self.decision.changed.insert(job.id);
        self.held.remove(&stage.id);
        job.stages[i] = stage;
        if job.state == job::State::Queued {
            self.decision
                .events
                .push(Event::of_job(job, "job-started", "the job has started"));
            *job = job.clone().start()?;
        }
        Ok(())
    }

    fn seats(&self, placement: &Placement) -> Vec<Seat> {
        let nodes = placement
            .iter()
            .flat_map(|(node, ranks)| (0..*ranks).map(move |_| *node));
        let incarnation = |node: &NodeId| self.evidence.sight.nodes.get(node).map(|seen| seen.node.incarnation);
        let taken = nodes.filter_map(|node| incarnation(&node).map(|incarnation| (node, incarnation)));
        let seat = |(rank, (node, incarnation))| Seat {
            rank,
            node,
            incarnation,
        };
        (0..).zip(taken).map(seat).collect()
    }

    fn placed_message(&self, stage: &Stage, placement: &Placement) -> String {
        let name = |node: &NodeId| {
            let seen = self.evidence.sight.nodes.get(node);
            seen.map_or_else(|| node.to_string(), |seen| seen.node.name.clone())
        };
        let on: Vec<String> = placement
            .iter()
            .map(|(node, ranks)| format!("{} × {ranks}", name(node)))
            .collect();
        let ranks: u32 = placement.iter().map(|(_, ranks)| ranks).sum();
        let from = stage
            .facts
            .checkpoint
            .as_ref()
            .map(|manifest| format!(", from step {}", manifest.step));
        let ranks = if ranks == 1 {
            "1 rank".to_owned()
        } else {
            format!("{ranks} ranks")
        };
        format!(
            "{}: generation {} has {ranks} on {}{}",
            stage.name,
            stage.generation,
            on.join(", "),
            from.unwrap_or_default()
        )
    }

    fn wait(&mut self, job: &mut Job, i: usize, reason: String) -> Result<(), InvalidTransition> {
        let stage = &job.stages[i];
        if matches!(&stage.state, State::Waiting { reason: known } if *known == reason) {
            return Ok(());
        }
        job.stages[i] = stage.clone().wait(reason)?;
        self.decision.changed.insert(job.id);
        Ok(())
    }
}

/// Devices in use, by node.
pub fn busy(jobs: &[Job]) -> BTreeMap<NodeId, u32> {
    let mut busy = BTreeMap::new();
    let generations = jobs.iter().flat_map(|job| &job.stages).filter_map(Stage::present);
    for seat in generations.flat_map(|generation| &generation.seats) {
        *busy.entry(seat.node).or_default() += 1;
    }
    busy
}

fn request(job: &Job, stage: &Stage) -> Request {
    let cluster = job.spec.cluster;
    let lanes = job.spec.lanes.count;
    let (min, max) = if stage.kind.is_training() {
        (cluster.min_ranks, cluster.max_ranks.min(lanes))
    } else {
        (
            1,
            u32::try_from(stage.facts.tasks.unfinished).unwrap_or(u32::MAX).max(1),
        )
    };
    Request {
        stage: stage.id,
        priority: cluster.priority,
        min,
        max,
        lanes: stage.kind.is_training().then_some(lanes),
    }
}

/// Forgets pauses of stages that are not active any more.
pub(super) fn prune(held: &mut BTreeMap<StageId, Duration>, jobs: &[Job]) {
    let active: BTreeSet<StageId> = jobs.iter().flat_map(|job| &job.stages).map(|stage| stage.id).collect();
    held.retain(|stage, _| active.contains(stage));
}
