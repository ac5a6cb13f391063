//! How a stage that trains gets more ranks, without a break.
//!
//! When devices have been free for a while that would make a stage faster, a larger generation gets ready beside the present
//! one: its ranks load and listen while the steps go on. Once all listen it is the present one, and the ranks change over
//! between two steps. If one of them cannot, the present generation never notices; nor does it of nodes that cannot reach it,
//! for they are not let in before they have ([`reach`]). A stage that has lost ranks gets others the
//! moment that there is a device for them. In the same way a stage leaves nodes that are [drained](super::drain).

use super::Settings;
use super::decide::Pass;
use super::evidence::Evidence;
use super::findings::End;
use super::placing::{by_standing, doubled};
use super::reach;
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

/// Time after which a rank that joined does not fail for having joined.
const SOON: Duration = Duration::from_secs(2);
/// Times in a row that ranks may fail so soon by mere misfortune.
const MISFORTUNES: u32 = 3;

/// Stages that have, or had, room to grow.
pub type Room = BTreeMap<StageId, Chance>;

/// What is remembered of a stage that could grow.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Chance {
    /// Since when devices are free for it.
    since: Option<Duration>,
    /// Times in a row that it could not grow.
    failures: u32,
    /// Times in a row that a rank failed soon after it joined.
    misfortunes: u32,
    /// It does not grow before.
    not_before: Duration,
    /// The generation that it has grown to, since when, and the ranks that joined.
    joined: Option<(u64, Duration, Vec<u32>)>,
    /// Ranks that the stage had before it lost some.
    had: u32,
}

impl Chance {
    /// A stage that had so many ranks has lost some.
    pub(super) fn lost(&mut self, had: u32) {
        self.had = had.max(self.had);
    }

    /// A stage has grown to so many ranks.
    fn followed(&mut self, ranks: u32, joined: (u64, Duration, Vec<u32>)) {
        self.had = if ranks < self.had { self.had } else { 0 };
        self.since = None;
        self.joined = Some(joined);
    }

    /// It could not grow: the next try is made after a pause.
    fn failed(&mut self, now: Duration) {
        self.failures += 1;
        self.not_before = now + doubled(PAUSE, self.failures - 1);
    }

    /// A generation is over. Ranks that fail as soon as they join, again and again, had better not join for a while.
    fn is_over(&mut self, generation: u64, end: &End, now: Duration) {
        let joined = self.joined.take_if(|(number, ..)| *number == generation);
        let in_vain = joined.is_some() && !end.apart.pairs.is_empty();
        let failed = |(_, at, ranks): (u64, Duration, Vec<u32>)| {
            now.saturating_sub(at) < SOON && ranks.iter().any(|rank| end.failed.contains(rank))
        };
        let is_misfortune = joined.is_some_and(failed);
        self.misfortunes = if is_misfortune { self.misfortunes + 1 } else { 0 };
        // Those that are cut off would be cut off again, and so would those that were seen to reach the others before they joined.
        let is_cut_off = end.is_stuck && !end.failed.is_empty();
        if self.misfortunes > MISFORTUNES || is_cut_off || in_vain {
            self.failed(now);
        } else {
            self.failures = 0;
        }
    }

    /// Whether a stage of so many ranks may grow. What it has lost it gets back at once.
    fn is_ripe(&self, ranks: u32, now: Duration, settings: &Settings) -> bool {
        let patience = if ranks < self.had {
            Duration::ZERO
        } else {
            settings.grow_after
        };
        let is_free = self.since.is_some_and(|since| now.saturating_sub(since) >= patience);
        is_free && now >= self.not_before
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
            self.room.entry(stage.id).or_default().failed(self.evidence.now);
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
        let joined = stage.present().map(|present| next.beyond(present)).unwrap_or_default();
        let joined = joined.into_iter().map(|seat| seat.rank).collect();
        let joined = (number, self.evidence.now, joined);
        let chance = self.room.entry(stage.id).or_default();
        chance.followed(members.len() as u32, joined);
        stage.clone().follow(members, from).map(Some)
    }

    /// A generation is over: what it says of the ranks that joined last.
    pub(super) fn learn_from(&mut self, stage: StageId, generation: u64, end: &End) {
        let is_new = self
            .breaks_before
            .get(&stage)
            .is_none_or(|known| !known.is_of(generation));
        if let Some(chance) = self.room.get_mut(&stage).filter(|_| is_new) {
            chance.is_over(generation, end, self.evidence.now);
        } else if is_new && end.is_stuck && !end.failed.is_empty() {
            self.room.entry(stage).or_default().failed(self.evidence.now);
        }
    }

    /// Lets one stage grow that could for long enough.
    pub(super) fn grow(&mut self, mut jobs: Vec<Job>, mint: &mut dyn Mint) -> Result<Vec<Job>, InvalidTransition> {
        let mut found = self.growing(&jobs);
        let (now, settings) = (self.evidence.now, self.evidence.settings);
        self.room.retain(|stage, chance| {
            if !found.iter().any(|(id, _)| id == stage) {
                chance.since = None;
            }
            *chance != Chance::default()
        });
        for (stage, _) in &found {
            self.room.entry(*stage).or_default().since.get_or_insert(now);
        }
        let ranks = |id: StageId| jobs.iter().find_map(|job| job.stage(id)).map_or(0, |stage| stage.world);
        found.retain(|(id, _)| {
            self.room
                .get(id)
                .is_some_and(|chance| chance.is_ripe(ranks(*id), now, settings))
        });
        let joins = found
            .into_iter()
            .find(|(id, placement)| self.may_join(&jobs, *id, placement));
        let Some((id, placement)) = joins else {
            return Ok(jobs);
        };
        for job in &mut jobs {
            if let Some(i) = job.stages.iter().position(|stage| stage.id == id) {
                let ranks: u32 = placement.iter().map(|(_, ranks)| ranks).sum();
                let how = format!("grows from {} to {ranks} ranks", job.stages[i].world);
                self.prepare(job, i, &placement, ("stage-grows", &how), mint)?;
            }
        }
        Ok(jobs)
    }

    /// Whether the nodes that join a stage are seen to reach all others of it; what is not known is asked for.
    pub(super) fn may_join(&mut self, jobs: &[Job], id: StageId, placement: &Placement) -> bool {
        let stage = jobs.iter().find_map(|job| job.stage(id));
        let had = stage.and_then(Stage::present).map(Generation::ranks_by_node);
        let had = had.unwrap_or_default();
        let nodes = placement.iter().map(|(node, _)| *node);
        let (present, joins): (Vec<NodeId>, Vec<NodeId>) = nodes.partition(|node| had.contains_key(node));
        let Evidence { sight, now, .. } = self.evidence;
        self.reach.have_met(reach::pairs(&joins, &present), sight, now)
    }

    /// Stages that could grow now, and how: those of higher priority first, then the older ones. Nobody takes what a stage of
    /// the same priority waits for, if it could have it.
    fn growing(&self, jobs: &[Job]) -> Vec<(StageId, Placement)> {
        if !self.expected().is_empty() {
            return Vec::new();
        }
        let priority = |job: &&Job| job.spec.cluster.priority;
        let waiting = self.claims(jobs, |stage| self.wants_devices(stage)).into_values().max();
        let mut first: Vec<&Job> = jobs
            .iter()
            .filter(|job| !self.aside.contains_key(&job.id) && Some(priority(job)) > waiting)
            .collect();
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
            generation,
            next: None,
            former: None,
            ..
        } = &stage.state
        else {
            return None;
        };
        if !stage.kind.is_training() || self.is_held(stage) || !self.all_train(stage, generation) {
            return None;
        }
        let ranks = generation.seats.len() as u32;
        if ranks >= job.spec.cluster.max_ranks {
            return None;
        }
        let present = generation.ranks_by_node();
        let request = Request {
            min: ranks,
            avoids: self.avoided(&present),
            keeps: present.clone(),
            ..self.request(job, stage)
        };
        let nodes = self.companions(jobs, stage, generation);
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

    /// Nodes that take work and can take part in a generation that follows this one, with the stage's own devices free.
    pub(super) fn companions(&self, jobs: &[Job], stage: &Stage, generation: &Generation) -> Vec<plan::Node> {
        let first = generation.seats.first();
        let first = first.and_then(|seat| self.evidence.sight.nodes.get(&seat.node));
        let mut nodes = self.nodes(jobs, &[stage.id].into(), true);
        nodes.retain(|node| first.is_some_and(|first| node.fingerprint == first.node.fingerprint));
        nodes
    }

    /// Whether a stage has to wait before ranks try once more to join it.
    pub(super) fn rests(&self, stage: &Stage) -> bool {
        let chance = self.room.get(&stage.id);
        chance.is_some_and(|chance| self.evidence.now < chance.not_before)
    }

    /// Whether all ranks of a generation are in the midst of their steps.
    pub(super) fn all_train(&self, stage: &Stage, generation: &Generation) -> bool {
        generation.seats.iter().all(|seat| {
            let seen = self.evidence.sight.nodes.get(&seat.node);
            let report = seen.and_then(|seen| seen.ranks.get(&(stage.id, generation.number, seat.rank)));
            report.is_some_and(|report| matches!(report.state, RankState::Running { .. }))
        })
    }

    /// Another generation gets ready beside the present one.
    pub(super) fn prepare(
        &mut self,
        job: &mut Job,
        i: usize,
        placement: &Placement,
        (kind, how): (&'static str, &str),
        mint: &mut dyn Mint,
    ) -> Result<(), InvalidTransition> {
        let stage = job.stages[i].clone().prepare(self.seats(placement), mint.secret())?;
        let places = self.places(placement);
        let message = format!(
            "{} {how}: generation {} gets ready on {places}",
            stage.name, stage.generation
        );
        self.tell(job, &stage, kind, message);
        job.stages[i] = stage;
        Ok(())
    }
}
