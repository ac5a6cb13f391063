//! Placing what waits: from jobs to the planner's terms and back.

use super::Settings;
use super::apart::{leaving, worth};
use super::breaks::Break;
use super::decide::Pass;
use super::evidence::Evidence;
use super::findings::End;
use super::needs::needs;
use super::sight::Seen;
use super::waiting::{devices_by_priority, with_what_is_kept};
use crate::domain::stage::{Generation, Seat, State};
use crate::domain::{Event, InvalidTransition, Job, Mint, Stage, job};
use crate::plan::{self, Means, Placement, Plan, Request};
use medley_protocol::ids::{NodeId, StageId};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Longest pause that doubles each time, in units of the shortest.
const MAX_PAUSE: u32 = 16;

/// Time that a stage is held back after a generation that ended: none after the first, or if a node was lost; more each time
/// for a stage that fails again and again without progress.
pub(super) fn pause(in_a_row: u32, end: &End, settings: &Settings) -> Duration {
    if end.lost_node || in_a_row <= 1 {
        return Duration::ZERO;
    }
    doubled(settings.pause, in_a_row - 2)
}

/// A pause, doubled so many times.
pub(super) fn doubled(shortest: Duration, times: u32) -> Duration {
    shortest * 1_u32.checked_shl(times).unwrap_or(MAX_PAUSE).min(MAX_PAUSE)
}

impl Pass<'_> {
    /// Places stages that wait or whose generation broke, or notes why they wait.
    pub(super) fn place(&mut self, mut jobs: Vec<Job>, mint: &mut dyn Mint) -> Result<Vec<Job>, InvalidTransition> {
        let stages = jobs.iter().flat_map(|job| &job.stages);
        let mut open: BTreeSet<StageId> = stages
            .filter(|stage| self.may_be_placed(stage))
            .map(|stage| stage.id)
            .collect();
        if open.is_empty() {
            return Ok(jobs);
        }
        let expected = self.expected().join(", ");
        if expected.is_empty() {
            self.expectant.clear();
        } else {
            let waiting = open.extract_if(.., |id| !self.needs_nobody(&jobs, *id)).collect();
            jobs = self.await_nodes(jobs, &waiting, &expected)?;
        }
        let (mut plan, mut stuck) = self.plan(&jobs, open);
        let claims = self.claims(&jobs, |stage| plan.waits.contains_key(&stage.id));
        let highest_waiting = claims.values().copied().max();
        let devices = devices_by_priority(&jobs);
        for job in &mut jobs {
            for i in 0..job.stages.len() {
                let id = job.stages[i].id;
                if let Some(placement) = plan.placements.remove(&id) {
                    self.start(job, i, &placement, mint)?;
                } else if let Some(reason) = plan.waits.remove(&id) {
                    let reason = self.with_what_is_apart(reason, &job.stages[i]);
                    let lower = claims
                        .get(&id)
                        .map(|priority| devices.range(..*priority).map(|(_, count)| count).sum());
                    self.wait(job, i, with_what_is_kept(reason, lower.unwrap_or(0)))?;
                } else if let Some(reason) = stuck.remove(&id) {
                    let reason = self.with_what_is_apart(reason, &job.stages[i]);
                    let outbid = highest_waiting > Some(job.spec.cluster.priority);
                    self.hold(job, i, &reason, outbid)?;
                }
            }
        }
        Ok(jobs)
    }

    /// A plan for the `open` stages, with the broken ones among them that cannot be placed, and why.
    ///
    /// The devices of a broken generation are free for all if it can be replaced. If not, it keeps them.
    fn plan(&self, jobs: &[Job], mut open: BTreeSet<StageId>) -> (Plan, BTreeMap<StageId, String>) {
        let mut by_age: Vec<&Job> = jobs.iter().collect();
        // Stages of a job are in order already.
        by_age.sort_by_key(|job| (job.submitted_at, job.id));
        let mut stuck = BTreeMap::new();
        loop {
            let stages = by_age
                .iter()
                .flat_map(|job| job.stages.iter().map(move |stage| (*job, stage)));
            let asking: Vec<(&Job, &Stage)> = stages.filter(|(_, stage)| open.contains(&stage.id)).collect();
            let replaces = asking.iter().any(|(_, stage)| stage.generation > 0);
            let nodes = self.nodes(jobs, &open, replaces);
            let request = |(job, stage): &(&Job, &Stage)| self.after_loss(self.request(job, stage), job, &nodes);
            let plan = plan::plan(&nodes, &asking.iter().map(request).collect::<Vec<Request>>());
            let unplaced = plan.waits.iter().filter(|(id, _)| self.breaks.contains_key(id));
            let unplaced: BTreeMap<StageId, String> = unplaced.map(|(id, reason)| (*id, reason.clone())).collect();
            if unplaced.is_empty() {
                return (plan, stuck);
            }
            open.retain(|id| !unplaced.contains_key(id));
            stuck.extend(unplaced);
        }
    }

    pub(super) fn request(&self, job: &Job, stage: &Stage) -> Request {
        let cluster = job.spec.cluster;
        let lanes = job.spec.lanes.count;
        let (min, max) = if stage.kind.is_training() {
            (cluster.min_ranks, cluster.max_ranks.min(lanes))
        } else {
            let unfinished = u32::try_from(stage.facts.tasks.unfinished).unwrap_or(u32::MAX);
            (1, unfinished.max(1))
        };
        let mut keeps = BTreeMap::new();
        for rank in self.breaks.get(&stage.id).iter().flat_map(|broken| &broken.survivors) {
            *keeps.entry(rank.node).or_default() += 1;
        }
        Request {
            stage: stage.id,
            priority: cluster.priority,
            min,
            max,
            lanes: stage.kind.is_training().then_some(lanes),
            avoids: if stage.kind.is_training() {
                self.avoided(&keeps)
            } else {
                BTreeSet::new()
            },
            keeps,
            needs: needs(&job.spec, stage.kind),
        }
    }

    /// Nodes that do not reach others which are worth more to a stage whose state is held by so many ranks of each node.
    pub(super) fn avoided(&self, keeps: &BTreeMap<NodeId, u32>) -> BTreeSet<NodeId> {
        let apart = self.reach.apart();
        let concerned: BTreeSet<NodeId> = apart.iter().flat_map(|(one, other)| [*one, *other]).collect();
        let mut nodes: Vec<(&str, NodeId, u64)> = Vec::new();
        for seen in concerned.iter().filter_map(|node| self.evidence.sight.nodes.get(node)) {
            let id = seen.node.id;
            let silent = self.evidence.now.saturating_sub(seen.heard_at);
            let devices = if silent > self.evidence.settings.silence {
                0
            } else {
                seen.node.devices
            };
            nodes.push((
                &seen.node.name,
                id,
                worth(keeps.get(&id).copied().unwrap_or(0), devices),
            ));
        }
        nodes.sort_unstable();
        let nodes: Vec<(NodeId, u64)> = nodes.into_iter().map(|(_, id, worth)| (id, worth)).collect();
        leaving(&nodes, apart)
    }

    /// Names of the nodes that may be heard any moment for the first time.
    ///
    /// A stage keeps the ranks it is placed with. Where everything starts anew, nodes come one after the other; whoever
    /// took the first of them at once would leave the others idle.
    pub(super) fn expected(&self) -> Vec<&str> {
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

    /// Whether a stage can go on whoever else may be heard.
    fn needs_nobody(&self, jobs: &[Job], id: StageId) -> bool {
        let nodes = self.nodes(jobs, &[id].into(), true);
        let mut jobs = jobs.iter();
        jobs.any(|job| job.stage(id).is_some_and(|stage| self.can_go_on(job, stage, &nodes)))
    }

    fn may_be_placed(&self, stage: &Stage) -> bool {
        self.wants_devices(stage) && !self.is_held(stage) && !self.unsettled.contains(&stage.id)
    }

    /// Whether a stage waits for devices, or for others than it has.
    pub(super) fn wants_devices(&self, stage: &Stage) -> bool {
        // A stage of tasks that only waits for its merge to be made has no work yet.
        let has_work = stage.kind.is_training() || stage.facts.tasks.unfinished > 0;
        let waits = matches!(stage.state, State::Waiting { .. }) && has_work;
        waits || self.breaks.contains_key(&stage.id)
    }

    pub(super) fn is_held(&self, stage: &Stage) -> bool {
        self.held.get(&stage.id).is_some_and(|until| *until > self.evidence.now)
    }

    /// Nodes that take new work, with their free devices: also those that `open` stages have. A replacement is placed only
    /// where a beat was heard just now.
    pub(super) fn nodes(&self, jobs: &[Job], open: &BTreeSet<StageId>, replaces: bool) -> Vec<plan::Node> {
        let settings = self.evidence.settings;
        let patience = if replaces { settings.fresh } else { settings.silence };
        let stages = jobs.iter().flat_map(|job| &job.stages);
        let busy = busy(stages.filter(|stage| !open.contains(&stage.id)));
        let sight = self.evidence.sight;
        let is_heard = |seen: &&Seen| seen.has_beaten && self.evidence.now.saturating_sub(seen.heard_at) <= patience;
        let takes_work =
            |seen: &&Seen| !sight.withheld.contains_key(&seen.node.id) && !self.doubted.contains(&seen.node.id);
        let alive = sight.nodes.values().filter(is_heard).filter(takes_work);
        let mut nodes: Vec<(&str, plan::Node)> = alive
            .map(|seen| {
                let used = busy.get(&seen.node.id).copied().unwrap_or(0);
                let node = plan::Node {
                    id: seen.node.id,
                    fingerprint: seen.node.fingerprint.clone(),
                    devices: seen.node.devices,
                    free: seen.node.devices.saturating_sub(used),
                    means: Means::of(&seen.hardware, seen.node.devices),
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
        let mut stage = job.stages[i].clone();
        let broken = self.breaks.remove(&stage.id);
        if let Some(broken) = &broken {
            stage = self.set_back(job, &stage.reached(broken.step()), &broken.end)?;
            self.room.entry(stage.id).or_default().lost(broken.world);
        }
        let survivors = broken.iter().flat_map(|broken| &broken.survivors);
        let placement = by_standing(placement, survivors.map(|rank| rank.node));
        let left_out = broken.as_ref().map(Break::left_out);
        let stage = stage.place(self.seats(&placement), mint.secret())?;
        let stage = stage.leave_out(left_out.unwrap_or_default());
        let message = self.placed_message(&stage, &placement, broken.as_ref());
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

    pub(super) fn seats(&self, placement: &Placement) -> Vec<Seat> {
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

    fn placed_message(&self, stage: &Stage, placement: &Placement, broken: Option<&Break>) -> String {
        let ranks: u32 = placement.iter().map(|(_, ranks)| ranks).sum();
        let from = match (
            broken.map(|broken| (broken.kept_by(placement), broken.step())),
            stage.checkpoint_step(),
        ) {
            (Some((kept @ 1.., step)), _) => {
                // What nodes said last may be some steps old: the ranks say more once they listen.
                format!(", and goes on from memory at step {step} or later with {kept} of its ranks")
            }
            (_, 0) => String::new(),
            (_, step) => format!(", from step {step}"),
        };
        let ranks = if ranks == 1 {
            "1 rank".to_owned()
        } else {
            format!("{ranks} ranks")
        };
        format!(
            "{}: generation {} has {ranks} on {}{from}",
            stage.name,
            stage.generation,
            self.places(placement),
        )
    }

    /// A placement, for people.
    pub(super) fn places(&self, placement: &Placement) -> String {
        let place = |(node, ranks): &(NodeId, u32)| match self.evidence.sight.nodes.get(node) {
            Some(seen) => format!("{} × {ranks}", seen.node.name),
            None => format!("{node} × {ranks}"),
        };
        placement.iter().map(place).collect::<Vec<String>>().join(", ")
    }
}

/// Nodes in rank order: those that had ranks already come first, in the order that they had.
///
/// So the lowest rank is on the node of longest standing, whose agent has the metrics that nobody stored yet.
pub(super) fn by_standing(placement: &Placement, had: impl Iterator<Item = NodeId>) -> Placement {
    let mut placement = placement.clone();
    let had: Vec<NodeId> = had.collect();
    let standing = |node: NodeId| had.iter().position(|known| *known == node);
    placement.sort_by_key(|(node, _)| standing(*node).unwrap_or(usize::MAX));
    placement
}

/// Devices that stages use, by node. A rank has one, in however many generations it takes part.
pub fn busy<'a>(stages: impl Iterator<Item = &'a Stage>) -> BTreeMap<NodeId, u32> {
    let mut busy = BTreeMap::new();
    for stage in stages {
        let mut used: BTreeMap<NodeId, u32> = BTreeMap::new();
        let generations = stage.present().into_iter().chain(stage.next()).chain(stage.former());
        for (node, ranks) in generations.flat_map(Generation::ranks_by_node) {
            let most = used.entry(node).or_default();
            *most = ranks.max(*most);
        }
        for (node, ranks) in used {
            *busy.entry(node).or_default() += ranks;
        }
    }
    busy
}

/// Forgets what concerns stages that are not active any more.
pub(super) fn prune<T>(by_stage: &mut BTreeMap<StageId, T>, jobs: &[Job]) {
    let active: BTreeSet<StageId> = jobs.iter().flat_map(|job| &job.stages).map(|stage| stage.id).collect();
    by_stage.retain(|stage, _| active.contains(stage));
}
