//! How a stage that trains gets more ranks, without a break.
//!
//! When devices have been free for a while that would make a stage faster, a larger generation gets ready beside the present
//! one: its ranks load and listen while the steps go on. Once all listen it is the present one, and the ranks change over
//! between two steps. If one of them cannot, the present generation never notices. Nothing shrinks by plan.

use super::Settings;
use super::decide::Pass;
use super::placing::{by_standing, doubled, ranks_by_node};
use crate::domain::stage::{Generation, State};
use crate::domain::{Event, InvalidTransition, Job, Mint, Stage};
use crate::plan::{self, Placement, Request};
use medley_protocol::agent::RankState;
use medley_protocol::ids::{NodeId, StageId};
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

/// Pause after a generation that got ready could not follow, doubled each time.
const PAUSE: Duration = Duration::from_secs(30);

/// Stages that have, or had, room to grow.
pub type Room = BTreeMap<StageId, Chance>;

/// What is remembered of a stage that could grow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Chance {
    /// Since when devices are free for it.
    since: Option<Duration>,
    /// Generations in a row that could not follow.
    failures: u32,
}

impl Chance {
    fn pause(self) -> Duration {
        doubled(PAUSE, self.failures.saturating_sub(1))
    }

    fn is_ripe(self, now: Duration, settings: &Settings) -> bool {
        self.since
            .is_some_and(|since| now.saturating_sub(since) >= settings.grow_after)
    }
}

impl Pass<'_> {
    /// A generation gets ready beside one that trains: it follows once all its ranks listen, or not at all.
    pub(super) fn follow(
        &mut self,
        job: &Job,
        stage: &Stage,
        next: &Generation,
    ) -> Result<Option<Stage>, InvalidTransition> {
        let (name, number) = (&stage.name, next.number);
        if let Some(reason) = self.evidence.objection(stage, next) {
            let message = format!("{name} stays as it is: generation {number} cannot follow: {reason}");
            let stays = Event::of_stage(job.id, stage, "stage-stays", message);
            self.decision.events.push(stays);
            let chance = self.room.entry(stage.id).or_default();
            chance.failures += 1;
            self.held.insert(stage.id, self.evidence.now + chance.pause());
            return stage.clone().stay().map(Some);
        }
        let Some((members, from)) = self.listening(stage, next) else {
            return Ok(None);
        };
        let message = format!(
            "{name}: every rank of generation {number} listens ({} in all); it follows between two steps",
            members.len()
        );
        let running = Event::of_stage(job.id, stage, "stage-running", message);
        self.decision.events.push(running);
        self.room.remove(&stage.id);
        stage.clone().grow(members, from).map(Some)
    }

    /// Lets one stage grow that could for long enough.
    pub(super) fn grow(&mut self, mut jobs: Vec<Job>, mint: &mut dyn Mint) -> Result<Vec<Job>, InvalidTransition> {
        let mut found = self.growing(&jobs);
        let (now, settings) = (self.evidence.now, self.evidence.settings);
        self.room.retain(|stage, chance| {
            if !found.iter().any(|(id, _)| id == stage) {
                chance.since = None;
            }
            chance.since.is_some() || chance.failures > 0
        });
        for (stage, _) in &found {
            self.room.entry(*stage).or_default().since.get_or_insert(now);
        }
        found.retain(|(stage, _)| self.room.get(stage).is_some_and(|chance| chance.is_ripe(now, settings)));
        let Some((id, placement)) = found.into_iter().next() else {
            return Ok(jobs);
        };
        for job in &mut jobs {
            if let Some(i) = job.stages.iter().position(|stage| stage.id == id) {
                self.prepare(job, i, &placement, mint)?;
            }
        }
        Ok(jobs)
    }

    /// Stages that could grow now, and how: those of higher priority first, then the older ones. Nobody takes what a stage of
    /// the same priority waits for.
    fn growing(&self, jobs: &[Job]) -> Vec<(StageId, Placement)> {
        if !self.expected().is_empty() {
            return Vec::new();
        }
        let priority = |job: &&Job| job.spec.cluster.priority;
        let waits = |job: &&Job| job.stages.iter().any(|stage| self.wants_devices(stage));
        let waiting = jobs.iter().filter(waits).map(|job| priority(&job)).max();
        let mut first: Vec<&Job> = jobs.iter().filter(|job| Some(priority(job)) > waiting).collect();
        first.sort_by_key(|job| (Reverse(priority(job)), job.submitted_at, job.id));
        let stages = first
            .into_iter()
            .flat_map(|job| job.stages.iter().map(move |stage| (job, stage)));
        let larger = |(job, stage): (&Job, &Stage)| Some((stage.id, self.larger(jobs, job, stage)?));
        stages.filter_map(larger).collect()
    }

    /// A placement that keeps all ranks of a stage and adds some that make it faster, if all is well with it.
    fn larger(&self, jobs: &[Job], job: &Job, stage: &Stage) -> Option<Placement> {
        let State::Running {
            generation, next: None, ..
        } = &stage.state
        else {
            return None;
        };
        if !stage.kind.is_training() || self.is_held(stage) || !self.all_train(stage, generation) {
            return None;
        }
        let ranks = generation.seats.len() as u32;
        let present = ranks_by_node(generation);
        let request = Request {
            min: ranks,
            keeps: present.clone(),
            ..self.request(job, stage)
        };
        if request.max <= ranks {
            return None;
        }
        let first = generation.seats.first()?.node;
        let fingerprint = &self.evidence.sight.nodes.get(&first)?.node.fingerprint;
        let mut nodes = self.nodes(jobs, &[stage.id].into(), true);
        nodes.retain(|node| node.fingerprint == *fingerprint);
        let placement = plan::plan(&nodes, &[request]).placements.remove(&stage.id)?;
        let on = |node: &NodeId| {
            placement
                .iter()
                .find(|(id, _)| id == node)
                .map_or(0, |(_, ranks)| *ranks)
        };
        let keeps_all = present.iter().all(|(node, ranks)| on(node) >= *ranks);
        let grows = placement.iter().map(|(_, ranks)| ranks).sum::<u32>() > ranks;
        // Nodes stay in their order: the lowest rank does not move.
        let had = generation.seats.iter().map(|seat| seat.node);
        (keeps_all && grows).then(|| by_standing(&placement, had))
    }

    /// Whether all ranks of a generation are in the midst of their steps.
    fn all_train(&self, stage: &Stage, generation: &Generation) -> bool {
        generation.seats.iter().all(|seat| {
            let seen = self.evidence.sight.nodes.get(&seat.node);
            let report = seen.and_then(|seen| seen.ranks.get(&(stage.id, generation.number, seat.rank)));
            report.is_some_and(|report| matches!(report.state, RankState::Running { .. }))
        })
    }

    fn prepare(
        &mut self,
        job: &mut Job,
        i: usize,
        placement: &Placement,
        mint: &mut dyn Mint,
    ) -> Result<(), InvalidTransition> {
        let stage = job.stages[i].clone().prepare(self.seats(placement), mint.secret())?;
        let ranks: u32 = placement.iter().map(|(_, ranks)| ranks).sum();
        let message = format!(
            "{} grows from {} to {ranks} ranks: generation {} gets ready on {}",
            stage.name,
            stage.world,
            stage.generation,
            self.places(placement)
        );
        let grows = Event::of_stage(job.id, &stage, "stage-grows", message);
        self.decision.events.push(grows);
        self.decision.changed.insert(job.id);
        job.stages[i] = stage;
        Ok(())
    }
}
