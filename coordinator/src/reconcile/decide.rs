//! What becomes of every job now: the pure decision core.
//!
//! [`decide`] takes the active jobs, what the nodes say and the time, and gives the jobs as they should be, with the
//! events that say why and the [`Effect`]s that the job table carries out in the same transaction. It is a function of
//! its arguments alone (ids and secrets come from a [`Mint`]), so a simulation can run it.
//!
//! One pass: notice nodes that fell silent or came back; move every stage as far as the facts allow; fail or finish
//! jobs; take what is on nodes that are drained away from them; place what waits; let grow what can.

use super::Settings;
use super::breaks::Breaks;
use super::evidence::{Evidence, Verdict};
use super::findings::End;
use super::growth::Room;
use super::orders::Told;
use super::placing;
use super::reach::Reach;
use super::sight::Sight;
use super::stragglers::Watch;
use crate::domain::course::Course;
use crate::domain::decision::{Decision, Effect};
use crate::domain::stage::{Generation, Seat, State};
use crate::domain::{Event, InvalidTransition, Job, Mint, Stage};
use medley_protocol::agent::{Member, RankState};
use medley_protocol::ids::{JobId, NodeId, StageId};
use medley_protocol::stage::{StageKind, StageState};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// What the leader remembers between two decisions, in memory alone.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Memory {
    /// What the nodes were last told.
    pub told: Told,
    /// Nodes whose silence was made known.
    pub silent: BTreeSet<NodeId>,
    /// Stages that are not placed again before a time.
    pub held: BTreeMap<StageId, Duration>,
    /// Jobs of which the job table did not take what was decided, each until it is tried again.
    pub aside: BTreeMap<JobId, Duration>,
    /// Stages of which was made known that they wait for nodes to be heard.
    pub expectant: BTreeSet<StageId>,
    /// Generations that broke and wait to be placed anew.
    pub breaks: Breaks,
    /// Stages that have room to grow.
    pub room: Room,
    /// Ranks that hold their generations up.
    pub stragglers: Watch,
    /// Which nodes reach each other.
    pub reach: Reach,
}

/// The decision function.
///
/// # Errors
/// [`InvalidTransition`] if a job is in a state that no transition leads to; nothing should then be changed.
pub fn decide(
    mut memory: Memory,
    sight: &Sight,
    jobs: Vec<Job>,
    now: Duration,
    settings: &Settings,
    mint: &mut dyn Mint,
) -> Result<(Memory, Decision), InvalidTransition> {
    let mut decision = Decision::default();
    notice_nodes(&mut memory, sight, now, settings, &mut decision.events);
    decision.events.extend(memory.reach.look(sight, now, settings));
    let told = memory.told.clone();
    memory.aside.retain(|_, until| *until > now);
    let evidence = Evidence {
        sight,
        told: &told,
        settings,
        now,
    };
    let mut pass = Pass {
        evidence,
        held: &mut memory.held,
        aside: &memory.aside,
        expectant: &mut memory.expectant,
        room: &mut memory.room,
        reach: &mut memory.reach,
        doubted: BTreeSet::new(),
        unsettled: BTreeSet::new(),
        breaks: Breaks::default(),
        breaks_before: std::mem::take(&mut memory.breaks),
        decision: &mut decision,
    };
    let jobs = jobs
        .into_iter()
        .map(|job| {
            if pass.aside.contains_key(&job.id) {
                Ok(pass.set_aside(job))
            } else {
                pass.advance(job)
            }
        })
        .collect::<Result<_, _>>()?;
    let jobs = pass.drain(jobs, mint)?;
    let jobs = pass.place(jobs, mint)?;
    pass.decision.jobs = pass.grow(jobs, mint)?;
    memory.breaks = pass.breaks;
    placing::prune(&mut memory.held, &decision.jobs);
    placing::prune(&mut memory.room, &decision.jobs);
    decision.events.extend(memory.stragglers.look(&decision.jobs, sight));
    let is_written = |event: &Event| event.job.is_none_or(|job| !memory.aside.contains_key(&job));
    decision.events.retain(is_written);
    Ok((memory, decision))
}

fn notice_nodes(memory: &mut Memory, sight: &Sight, now: Duration, settings: &Settings, events: &mut Vec<Event>) {
    for (id, seen) in sight.nodes.iter().filter(|(_, seen)| seen.has_beaten) {
        let silent = now.saturating_sub(seen.heard_at);
        let name = &seen.node.name;
        if silent > settings.silence {
            if memory.silent.insert(*id) {
                events.push(if seen.leaves {
                    Event::of_node(*id, "node-left", format!("node {name} has left: its agent has ended"))
                } else {
                    let message = format!("node {name} is lost: silent for {:.1} s", silent.as_secs_f64());
                    Event::of_node(*id, "node-lost", message)
                });
            }
        } else if memory.silent.remove(id) {
            events.push(Event::of_node(*id, "node-back", format!("node {name} is heard again")));
        }
    }
}

/// One pass over the jobs.
pub(super) struct Pass<'a> {
    pub(super) evidence: Evidence<'a>,
    pub(super) held: &'a mut BTreeMap<StageId, Duration>,
    /// Jobs that stay as they are.
    pub(super) aside: &'a BTreeMap<JobId, Duration>,
    pub(super) expectant: &'a mut BTreeSet<StageId>,
    pub(super) room: &'a mut Room,
    pub(super) reach: &'a mut Reach,
    /// Nodes that generations have lost by their silence: nothing is placed on them.
    pub(super) doubted: BTreeSet<NodeId>,
    /// Stages that stay as they are in this pass: their job is set aside, or the job table has to give up something before
    /// anything else becomes of them.
    pub(super) unsettled: BTreeSet<StageId>,
    /// Generations that are broken now, and those that were at the last decision.
    pub(super) breaks: Breaks,
    pub(super) breaks_before: Breaks,
    pub(super) decision: &'a mut Decision,
}

impl Pass<'_> {
    /// A job stays as it is. It keeps its devices and its orders, so nothing that is decided of others depends on what would
    /// have become of it.
    fn set_aside(&mut self, job: Job) -> Job {
        for stage in &job.stages {
            self.unsettled.insert(stage.id);
            self.breaks.extend(self.breaks_before.remove_entry(&stage.id));
        }
        job
    }

    /// Moves the stages of a job as far as the facts allow.
    fn advance(&mut self, mut job: Job) -> Result<Job, InvalidTransition> {
        for i in 0..job.stages.len() {
            let stage = &job.stages[i];
            let next = match &stage.state {
                State::Blocked if job.needs_are_done(stage) => Some(self.unblock(&job, stage)?),
                State::Waiting { .. } => self.reconsider(&job, stage)?,
                State::Starting(generation) | State::Running { generation, .. } => {
                    self.supervise(&job, stage, generation)?
                }
                _ => None,
            };
            if let Some(next) = next {
                self.decision.changed.insert(job.id);
                job.stages[i] = next;
            }
        }
        self.conclude(job)
    }

    /// A stage that failed fails its job; a job whose stages are all done succeeds.
    fn conclude(&mut self, job: Job) -> Result<Job, InvalidTransition> {
        let failure = job.stages.iter().find_map(|stage| match &stage.state {
            State::Failed { reason } => Some(format!("{}: {reason}", stage.name)),
            _ => None,
        });
        let (job, kind, message) = if let Some(reason) = failure {
            let message = format!("the job failed: {reason}");
            (job.fail(reason)?, "job-failed", message)
        } else if job.stages.iter().all(|stage| stage.state.label() == StageState::Done) {
            (job.succeed()?, "job-succeeded", "every stage is done".to_owned())
        } else {
            return Ok(job);
        };
        self.decision.changed.insert(job.id);
        self.decision.events.push(Event::of_job(&job, kind, message));
        Ok(job)
    }

    fn unblock(&mut self, job: &Job, stage: &Stage) -> Result<Stage, InvalidTransition> {
        let mut stage = stage.clone();
        if !stage.kind.is_training() {
            return stage.unblock();
        }
        let course = match job.dataset(stage.round) {
            Some(dataset) => Course::new(stage.kind, &job.spec, &dataset.counts),
            None => Err(format!("dataset version {} was not recorded", stage.round)),
        };
        match course {
            Ok(course) => {
                let effect = Effect::OpenEpochs {
                    stage: stage.id,
                    course,
                };
                self.decision.effects.push(effect);
                stage.course = Some(course);
                stage.unblock()
            }
            Err(reason) => self.fail(job, stage, reason),
        }
    }

    /// A waiting stage may be complete, or hopeless, by facts that came late.
    fn reconsider(&mut self, job: &Job, stage: &Stage) -> Result<Option<Stage>, InvalidTransition> {
        if let Some(next) = self.settle_tasks(job, stage)? {
            return Ok(Some(next));
        }
        let doubt = self.evidence.doubt(stage, stage.generation);
        if doubt.is_some_and(|end| self.mark_doubtful(job, stage, stage.generation, &end)) {
            return Ok(None);
        }
        if stage.has_last_checkpoint() {
            return self.finish(job, stage).map(Some);
        }
        match self.evidence.late_failure(stage) {
            Some(reason) => self.fail(job, stage.clone(), reason).map(Some),
            None => Ok(None),
        }
    }

    fn supervise(
        &mut self,
        job: &Job,
        stage: &Stage,
        generation: &Generation,
    ) -> Result<Option<Stage>, InvalidTransition> {
        if let Some(next) = self.settle_tasks(job, stage)? {
            return Ok(Some(next));
        }
        match self.evidence.judge(stage, generation) {
            Verdict::Hopeless { reason } => self.fail(job, stage.clone(), reason).map(Some),
            Verdict::Over(end) if self.mark_doubtful(job, stage, generation.number, &end) => Ok(None),
            Verdict::Unexplained | Verdict::Over(_) if stage.has_last_checkpoint() => self.finish(job, stage).map(Some),
            Verdict::Over(end) if self.mark_damaged(job, stage, &end) => Ok(None),
            Verdict::Over(end) => {
                self.doubted.extend(&end.silent);
                let apart = self
                    .reach
                    .learn(&end.apart.pairs, self.evidence.sight, self.evidence.now);
                self.decision.events.extend(apart);
                self.learn_from(stage.id, generation.number, &end);
                self.end(job, stage, generation, end)
            }
            Verdict::Sound if stage.kind.is_training() => self.train(job, stage, generation),
            Verdict::Sound | Verdict::Unexplained => Ok(None),
        }
    }

    /// A sound training stage: change over if ranks leave, connect it once everyone listens, finish it once everyone is finished.
    fn train(&mut self, job: &Job, stage: &Stage, generation: &Generation) -> Result<Option<Stage>, InvalidTransition> {
        if let Some(former) = stage.former() {
            return self.change_over(job, stage, generation, former);
        }
        if let Some(since) = self.evidence.finished_since(stage, generation) {
            let waited = self.evidence.now.saturating_sub(since);
            let total = stage.course.map_or(0, |course| course.total_steps);
            let has_metrics = stage.facts.metrics_through >= total || waited > self.evidence.settings.facts_grace;
            if stage.has_last_checkpoint() && has_metrics {
                return self.finish(job, stage).map(Some);
            }
            if !stage.has_last_checkpoint() && waited > self.evidence.settings.last_checkpoint_limit {
                let reason = format!(
                    "its last checkpoint is not whole {} s after its last step",
                    waited.as_secs()
                );
                let end = End {
                    reason,
                    ..End::default()
                };
                return self.end(job, stage, generation, end);
            }
            return Ok(None);
        }
        if let Some(next) = stage.next() {
            return self.follow(job, stage, next);
        }
        if !matches!(stage.state, State::Starting(_)) {
            return Ok(None);
        }
        let Some((members, committed)) = self.listening(stage, generation) else {
            return Ok(None);
        };
        let resumed = generation.resume.as_ref().map_or(0, |manifest| manifest.step);
        let from = committed.max(resumed);
        let message = format!(
            "{}: every rank of generation {} listens ({} in all); it goes on from step {from}",
            stage.name,
            generation.number,
            members.len()
        );
        self.decision
            .events
            .push(Event::of_stage(job.id, stage, "stage-running", message));
        stage.clone().run(members, from).map(Some)
    }

    /// The members with their addresses and the most steps that one of them has committed, once all listen.
    pub(super) fn listening(&self, stage: &Stage, generation: &Generation) -> Option<(Vec<Member>, u64)> {
        let member = |seat: &Seat| {
            let seen = self.evidence.sight.nodes.get(&seat.node)?;
            match &seen.ranks.get(&(stage.id, generation.number, seat.rank))?.state {
                RankState::Listening { address, committed } => {
                    let member = Member {
                        rank: seat.rank,
                        node: seat.node,
                        address: address.clone(),
                    };
                    Some((member, committed.unwrap_or(0)))
                }
                _ => None,
            }
        };
        let members: Option<Vec<(Member, u64)>> = generation.seats.iter().map(member).collect();
        let (members, committed): (Vec<Member>, Vec<u64>) = members?.into_iter().unzip();
        Some((members, committed.into_iter().max().unwrap_or(0)))
    }

    /// What the tasks of a stage decide: nothing for training stages.
    fn settle_tasks(&mut self, job: &Job, stage: &Stage) -> Result<Option<Stage>, InvalidTransition> {
        if stage.kind.is_training() {
            return Ok(None);
        }
        let tasks = &stage.facts.tasks;
        if let Some(reason) = &tasks.failed {
            return self.fail(job, stage.clone(), reason.clone()).map(Some);
        }
        if tasks.unfinished > 0 {
            return Ok(None);
        }
        if stage.merges() && !tasks.has_merge {
            self.decision.effects.push(Effect::AddMerge { stage: stage.id });
            return Ok(None);
        }
        self.finish(job, stage).map(Some)
    }

    fn finish(&mut self, job: &Job, stage: &Stage) -> Result<Stage, InvalidTransition> {
        let done = match (stage.kind, stage.course) {
            (_, Some(course)) => format!("{} steps", course.total_steps),
            (StageKind::Evaluate, None) => "the evaluation".to_owned(),
            (_, None) => format!("{} tasks", stage.facts.tasks.done),
        };
        if stage.kind.is_training() {
            self.decision.effects.push(Effect::CloseEpochs { stage: stage.id });
        }
        let message = format!("{} is done: {done}", stage.name);
        self.decision
            .events
            .push(Event::of_stage(job.id, stage, "stage-done", message));
        self.held.remove(&stage.id);
        stage.clone().finish()
    }

    pub(super) fn fail(&mut self, job: &Job, stage: Stage, reason: String) -> Result<Stage, InvalidTransition> {
        let message = format!("{} failed: {reason}", stage.name);
        self.decision
            .events
            .push(Event::of_stage(job.id, &stage, "stage-failed", message));
        self.held.remove(&stage.id);
        stage.fail(reason)
    }
}

#[cfg(test)]
mod tests;
