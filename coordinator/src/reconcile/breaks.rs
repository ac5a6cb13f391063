//! Generations that broke: how they end, and when the stage is placed anew.
//!
//! The end of a generation and the placing of the next are one decision. Nothing is listed in between that would let a node
//! kill ranks which hold the state of the stage in memory. A stage that cannot be placed at once keeps its broken
//! generation for a while, if its ranks hold more than its last checkpoint has.
//!
//! A stage does not wait for what it has lost. Those that hold the state go on among themselves, if they are enough; others
//! are added later, as to any stage that could be faster ([`growth`](super::growth)).

use super::decide::Pass;
use super::evidence::Survivor;
use super::findings::End;
use super::placing;
use crate::domain::decision::Effect;
use crate::domain::stage::{Generation, MAX_SETBACKS, State};
use crate::domain::{Event, InvalidTransition, Job, Stage};
use crate::plan::{self, Placement, Request};
use medley_protocol::agent::Former;
use medley_protocol::ids::StageId;
use medley_protocol::spec::OnLoss;
use std::collections::BTreeMap;
use std::slice;
use std::time::Duration;

/// Broken generations of training stages whose ranks wait for the next.
pub type Breaks = BTreeMap<StageId, Break>;

/// A generation that is over and was not yet replaced.
#[derive(Debug, Clone, PartialEq)]
pub struct Break {
    generation: u64,
    /// Ranks that it had.
    pub(super) world: u32,
    /// Since when that is known.
    since: Duration,
    /// How it ended.
    pub(super) end: End,
    /// Ranks that hold the state of the stage.
    pub(super) survivors: Vec<Survivor>,
    /// Whether it was made known what it waits for.
    told: bool,
}

impl Break {
    /// Whether it is this generation that broke.
    pub(super) fn is_of(&self, generation: u64) -> bool {
        self.generation == generation
    }

    /// Steps committed by the furthest survivor.
    pub(super) fn step(&self) -> u64 {
        self.survivors.iter().map(|rank| rank.committed).max().unwrap_or(0)
    }

    /// The ranks that have no part in what follows.
    pub(super) fn left_out(&self) -> Vec<Former> {
        let generation = self.generation;
        let former = |rank: &u32| Former {
            generation,
            rank: *rank,
        };
        self.end.failed.iter().map(former).collect()
    }

    /// How many of the survivors a placement keeps.
    pub(super) fn kept_by(&self, placement: &Placement) -> u32 {
        let on = |node| self.survivors.iter().filter(|rank| rank.node == node).count() as u32;
        placement.iter().map(|(node, ranks)| on(*node).min(*ranks)).sum()
    }
}

impl Pass<'_> {
    /// What a stage asks for, if its generation broke: as many ranks as it had for as long as its spec says, and then only those
    /// that hold its state, if they are enough.
    pub(super) fn after_loss(&self, request: Request, job: &Job, nodes: &[plan::Node]) -> Request {
        let Some(broken) = self.breaks.get(&request.stage) else {
            return request;
        };
        if self.still_waits(broken, job) {
            let min = broken.world.clamp(request.min, request.max);
            return Request { min, ..request };
        }
        among_survivors(&request, broken, nodes).unwrap_or(request)
    }

    /// Whether a stage whose generation broke can go on with those of its ranks that hold its state.
    pub(super) fn can_go_on(&self, job: &Job, stage: &Stage, nodes: &[plan::Node]) -> bool {
        let broken = self.breaks.get(&stage.id);
        broken.is_some_and(|broken| {
            !self.still_waits(broken, job) && among_survivors(&self.request(job, stage), broken, nodes).is_some()
        })
    }

    /// Whether a stage would rather wait than go on with fewer ranks.
    fn still_waits(&self, broken: &Break, job: &Job) -> bool {
        let patience = match job.spec.cluster.on_loss {
            OnLoss::GoOn => return false,
            // What was drained does not come back.
            OnLoss::Wait(_) if broken.end.is_drain => return false,
            OnLoss::Wait(seconds) => Duration::from_secs(seconds.into()),
        };
        self.evidence.now.saturating_sub(broken.since) < patience
    }

    /// Marks the checkpoints that ranks of a generation could not load. True if the stage's last is among them: what is the
    /// last one then is known after that.
    pub(super) fn mark_damaged(&mut self, job: &Job, stage: &Stage, end: &End) -> bool {
        for found in &end.damaged {
            let message = format!("{}: {}; that checkpoint is not used any more", stage.name, found.text);
            let event = Event {
                node: Some(found.node),
                ..Event::of_stage(job.id, stage, "checkpoint-damaged", message)
            };
            let damage = found.damage.clone();
            self.decision.effects.push(Effect::MarkDamaged { damage, event });
        }
        let last = stage.facts.checkpoint.as_ref().map(|manifest| manifest.id);
        end.damaged.iter().any(|found| Some(found.damage.checkpoint) == last)
    }

    /// A generation is over: its stage is set back, unless ranks of it are worth to be kept until it is placed anew.
    pub(super) fn end(
        &mut self,
        job: &Job,
        stage: &Stage,
        generation: &Generation,
        end: End,
    ) -> Result<Option<Stage>, InvalidTransition> {
        let (now, settings) = (self.evidence.now, self.evidence.settings);
        let before = self.breaks_before.remove(&stage.id);
        let before = before.filter(|known| known.generation == generation.number);
        let is_new = before.is_none();
        let mut survivors = self.evidence.survivors(stage, generation);
        let is_lost = |rank: &Survivor| end.failed.contains(&rank.rank) || end.apart.leaving.contains(&rank.node);
        survivors.retain(|rank| !end.is_doubtful && !is_lost(rank));
        let broken = Break {
            generation: generation.number,
            world: generation.seats.len() as u32,
            since: before.as_ref().map_or(now, |known| known.since),
            told: before.is_some_and(|known| known.told),
            survivors,
            end,
        };
        let stage = &stage.clone().reached(broken.step());
        let next = broken.end.set_back(stage.clone())?;
        // What fails again and again may do better with new processes.
        let is_tired = next.setbacks.in_a_row > MAX_SETBACKS / 2;
        let may_be_worth_it = broken.step() > stage.checkpoint_step() || self.evidence.awaits_a_word(generation);
        let is_kept = stage.kind.is_training() && may_be_worth_it && !is_tired && !broken.end.is_doubtful;
        if !is_kept || now.saturating_sub(broken.since) > settings.hold {
            return self.set_back(job, stage, &broken.end).map(Some);
        }
        if is_new {
            let pause = placing::pause(next.setbacks.in_a_row, &broken.end, settings);
            self.held.insert(stage.id, now + pause);
        }
        self.breaks.insert(stage.id, broken);
        Ok(None)
    }

    /// Ends the present generation of a stage: it waits, or has failed too often.
    pub(super) fn set_back(&mut self, job: &Job, stage: &Stage, end: &End) -> Result<Stage, InvalidTransition> {
        let reason = &end.reason;
        let number = stage.present().map_or(0, |generation| generation.number);
        let message = format!("{}: generation {number} is over: {reason}", stage.name);
        let over = Event::of_stage(job.id, stage, "generation-over", message);
        self.decision.events.push(over);
        if !stage.kind.is_training() {
            let (stage, failed) = (stage.id, end.failed.clone());
            self.decision.effects.push(Effect::ReleaseTasks { stage, failed });
        }
        let next = end.set_back(stage.clone())?;
        if let State::Failed { reason } = &next.state {
            let message = format!("{} failed: {reason}", next.name);
            let failed = Event::of_stage(job.id, &next, "stage-failed", message);
            self.decision.events.push(failed);
        }
        let pause = placing::pause(next.setbacks.in_a_row, end, self.evidence.settings);
        self.held.insert(stage.id, self.evidence.now + pause);
        self.decision.changed.insert(job.id);
        Ok(next)
    }

    /// A broken generation cannot be replaced now: it is kept, and that is made known once. It makes room for a stage of
    /// higher priority that waits.
    pub(super) fn hold(
        &mut self,
        job: &mut Job,
        i: usize,
        reason: &str,
        outbid: bool,
    ) -> Result<(), InvalidTransition> {
        let stage = &job.stages[i];
        let Some(broken) = self.breaks.get_mut(&stage.id) else {
            return Ok(());
        };
        if outbid {
            let end = broken.end.clone();
            self.breaks.remove(&stage.id);
            job.stages[i] = self.set_back(job, &job.stages[i].clone(), &end)?;
        } else if !std::mem::replace(&mut broken.told, true) {
            let message = format!(
                "{}: generation {} broke ({}); its ranks hold step {} in memory, for at most {} s, and the stage {reason}",
                stage.name,
                broken.generation,
                broken.end.reason,
                broken.step(),
                self.evidence.settings.hold.as_secs()
            );
            let event = Event::of_stage(job.id, stage, "stage-waits", message);
            self.decision.events.push(event);
        }
        Ok(())
    }
}

/// A request for no more ranks than hold the state, if they are enough and all of them fit with the lanes of those that were
/// lost.
fn among_survivors(request: &Request, broken: &Break, nodes: &[plan::Node]) -> Option<Request> {
    let kept = broken.kept_by(&free(nodes));
    let request = Request {
        max: kept.min(request.max),
        ..request.clone()
    };
    let is_enough = kept >= request.min && !plan::plan(nodes, slice::from_ref(&request)).placements.is_empty();
    is_enough.then_some(request)
}

/// Free devices, as if all were placed on.
fn free(nodes: &[plan::Node]) -> Placement {
    nodes.iter().map(|node| (node.id, node.free)).collect()
}
