//! Nodes that are drained, by an operator or because their agents are about to end: what they have goes to other nodes.
//!
//! A training leaves such a node by plan, and no step is computed twice: another generation gets ready beside the present one,
//! and the ranks change over, or leave, between two steps ([`parting`](super::parting)). Those that stay go on among
//! themselves if they are enough. If not, others join them; where none stays, one does so a little longer and feeds those that
//! take over. A training that nobody can take over from memory pauses: all its ranks leave with a checkpoint, and it is
//! placed anew, if only later. Unless the agent ends anyway, it does so only if there is room for it elsewhere: else it keeps
//! the node, until there is or until the deadline of the drain.
//!
//! A stage of tasks gives its leases back at once.

use super::decide::Pass;
use super::findings::End;
use super::placing::by_standing;
use crate::domain::stage::{Generation, State};
use crate::domain::{InvalidTransition, Job, Mint, Stage};
use crate::plan::{self, Means, Placement, Request};
use medley_protocol::ids::NodeId;
use std::collections::{BTreeMap, BTreeSet};

/// Nodes that a stage is to leave.
pub(super) struct Leaving {
    nodes: BTreeSet<NodeId>,
    /// Why, in words.
    pub(super) reason: String,
    /// Whether the time to leave one of them is over.
    is_due: bool,
    /// Whether the agent of one of them is about to end.
    ends: bool,
}

/// What becomes of a stage that is to leave nodes.
enum Farewell {
    /// It stays for now.
    Stays,
    /// What gets ready does not follow; the present generation may stay.
    CallsOff,
    /// It changes over to another generation.
    Changes(Placement),
    /// All its ranks leave, with a checkpoint.
    Pauses,
    /// The ranks that leave have no more time.
    Parts,
    /// Its generation ends at once.
    Ends,
}

impl Pass<'_> {
    /// Takes stages away from nodes that are drained.
    pub(super) fn drain(&mut self, mut jobs: Vec<Job>, mint: &mut dyn Mint) -> Result<Vec<Job>, InvalidTransition> {
        let stages = |job: &Job| 0..job.stages.len();
        let all: Vec<(usize, usize)> = (0..jobs.len())
            .flat_map(|j| stages(&jobs[j]).map(move |i| (j, i)))
            .collect();
        for (j, i) in all {
            let (job, stage) = (&jobs[j], &jobs[j].stages[i]);
            let is_free = !self.breaks.contains_key(&stage.id) && !self.unsettled.contains(&stage.id);
            let Some(generation) = stage.present().filter(|_| is_free) else {
                continue;
            };
            let generations = stage.former().into_iter().chain([generation]).chain(stage.next());
            let Some(leaving) = self.leaving(generations) else {
                continue;
            };
            match self.farewell(&jobs, job, stage, &leaving) {
                Farewell::Stays => {}
                Farewell::CallsOff => self.call_off(&mut jobs[j], i, &leaving.reason)?,
                Farewell::Changes(placement) => self.change(&mut jobs[j], i, &placement, &leaving, mint)?,
                Farewell::Pauses => self.pause(&mut jobs[j], i, &leaving, mint)?,
                Farewell::Parts => {
                    let next = self.let_go(job, stage, &leaving.reason)?;
                    jobs[j].stages[i] = next;
                }
                Farewell::Ends => {
                    if let Some(next) = self.end(job, stage, generation, leaving.end())? {
                        jobs[j].stages[i] = next;
                    }
                }
            }
        }
        Ok(jobs)
    }

    /// The nodes that are drained among those of some generations, if there are any.
    pub(super) fn leaving<'a>(&self, generations: impl Iterator<Item = &'a Generation>) -> Option<Leaving> {
        let sight = self.evidence.sight;
        let drained = |node: &NodeId| sight.withheld.get(node).filter(|withheld| withheld.drains);
        let seats = generations.flat_map(|generation| &generation.seats);
        let nodes: BTreeSet<NodeId> = seats
            .map(|seat| seat.node)
            .filter(|node| drained(node).is_some())
            .collect();
        let why = |node: &NodeId| {
            let name = &sight.nodes.get(node)?.node.name;
            Some(if drained(node)?.leaves {
                format!("the agent of node {name} ends")
            } else {
                format!("node {name} is drained")
            })
        };
        let reason = nodes.iter().filter_map(why).collect::<Vec<String>>().join(" and ");
        let is_due = nodes.iter().filter_map(drained).any(|withheld| withheld.is_due);
        let ends = nodes.iter().filter_map(drained).any(|withheld| withheld.leaves);
        (!nodes.is_empty()).then_some(Leaving {
            nodes,
            reason,
            is_due,
            ends,
        })
    }

    fn farewell(&mut self, jobs: &[Job], job: &Job, stage: &Stage, leaving: &Leaving) -> Farewell {
        let State::Running {
            generation,
            next,
            former,
            ..
        } = &stage.state
        else {
            // Its ranks start: no step is lost.
            return if leaving.is_due || self.can_move(jobs, job, stage) {
                Farewell::Ends
            } else {
                Farewell::Stays
            };
        };
        let avoids = |next: &Generation| next.seats.iter().all(|seat| !leaving.nodes.contains(&seat.node));
        match (former, next) {
            (None, Some(_)) if avoids(generation) => return Farewell::CallsOff,
            (Some(_), _) if leaving.is_due && avoids(generation) => return Farewell::Parts,
            _ if leaving.is_due || !stage.kind.is_training() => return Farewell::Ends,
            (Some(_), _) => return Farewell::Stays,
            (None, Some(next)) if avoids(next) => return Farewell::Stays,
            (None, _) if !self.all_train(stage, generation) => return Farewell::Stays,
            (None, _) => {}
        }
        match self.refuge(jobs, job, stage, generation, leaving) {
            Some(refuge) if next.as_ref().is_some_and(|next| gets_ready(next, &refuge)) => Farewell::Stays,
            Some(refuge) if !has_joiners(generation, &refuge) => Farewell::Changes(refuge),
            Some(refuge) if !self.rests(stage) => {
                // It is known soon whether those that join reach the others.
                if self.may_join(jobs, stage.id, &refuge) {
                    Farewell::Changes(refuge)
                } else {
                    Farewell::Stays
                }
            }
            _ if leaving.ends => Farewell::Pauses,
            None if self.can_move(jobs, job, stage) => Farewell::Pauses,
            _ => Farewell::Stays,
        }
    }

    /// Whether a stage can be placed on nodes that take work.
    fn can_move(&self, jobs: &[Job], job: &Job, stage: &Stage) -> bool {
        let nodes = self.nodes(jobs, &[stage.id].into(), true);
        let plan = plan::plan(&nodes, &[self.request(job, stage)]);
        plan.placements.contains_key(&stage.id)
    }

    /// Where a training goes on from memory: with the ranks that stay, if they are enough, or else with others that these
    /// feed. If none stays, one of those that leave stays a little longer.
    fn refuge(
        &self,
        jobs: &[Job],
        job: &Job,
        stage: &Stage,
        generation: &Generation,
        leaving: &Leaving,
    ) -> Option<Placement> {
        let (goes, stays): (BTreeMap<NodeId, u32>, BTreeMap<NodeId, u32>) = generation
            .ranks_by_node()
            .into_iter()
            .partition(|(node, _)| leaving.nodes.contains(node));
        let standing = || generation.seats.iter().map(|seat| seat.node);
        let request = self.request(job, stage);
        let means = |node: &NodeId| {
            let seen = self.evidence.sight.nodes.get(node);
            seen.map_or_else(Means::default, |seen| Means::of(&seen.hardware, seen.node.devices))
        };
        // They get the lanes of those that leave.
        let staying: Vec<(Means, u32)> = stays.iter().map(|(node, ranks)| (means(node), *ranks)).collect();
        if !stays.is_empty() && stays.values().sum::<u32>() >= request.min && request.needs.fit(&staying) {
            return Some(by_standing(&stays.into_iter().collect(), standing()));
        }
        let last = goes.into_keys().take(1).map(|node| (node, 1));
        let feeders: BTreeMap<NodeId, u32> = if stays.is_empty() { last.collect() } else { stays };
        let mut nodes = self.companions(jobs, stage, generation);
        for (node, ranks) in &feeders {
            if nodes.iter().all(|other| other.id != *node) {
                let seen = self.evidence.sight.nodes.get(node)?;
                nodes.push(plan::Node {
                    id: *node,
                    fingerprint: seen.node.fingerprint.clone(),
                    devices: *ranks,
                    free: *ranks,
                    means: means(node),
                });
            }
        }
        let request = Request {
            avoids: self.avoided(&feeders),
            keeps: feeders.clone(),
            ..request
        };
        let placement = plan::plan(&nodes, &[request]).placements.remove(&stage.id)?;
        let is_fed = placement.iter().any(|(node, _)| feeders.contains_key(node));
        let moves = placement.iter().any(|(node, _)| !leaving.nodes.contains(node));
        (is_fed && moves).then(|| by_standing(&placement, standing()))
    }

    fn change(
        &mut self,
        job: &mut Job,
        i: usize,
        placement: &Placement,
        leaving: &Leaving,
        mint: &mut dyn Mint,
    ) -> Result<(), InvalidTransition> {
        self.call_off(job, i, &leaving.reason)?;
        let (before, after) = (
            job.stages[i].world,
            placement.iter().map(|(_, ranks)| ranks).sum::<u32>(),
        );
        let because = &leaving.reason;
        let (kind, how) = if after < before {
            self.room.entry(job.stages[i].id).or_default().lost(before);
            let how = format!("shrinks from {before} to {after} ranks, because {because}");
            ("stage-shrinks", how)
        } else {
            ("stage-moves", format!("moves, because {because}"))
        };
        self.prepare(job, i, placement, (kind, &how), mint)
    }

    /// Nobody takes over: the ranks leave for a generation without any.
    fn pause(
        &mut self,
        job: &mut Job,
        i: usize,
        leaving: &Leaving,
        mint: &mut dyn Mint,
    ) -> Result<(), InvalidTransition> {
        self.call_off(job, i, &leaving.reason)?;
        let stage = job.stages[i].clone().prepare(Vec::new(), mint.secret())?;
        let stage = stage.follow(Vec::new(), 0)?;
        let message = format!(
            "{} pauses, because {}: its ranks leave with a checkpoint",
            stage.name, leaving.reason
        );
        self.tell(job, &stage, "stage-pauses", message);
        job.stages[i] = stage;
        Ok(())
    }

    /// A generation that gets ready on a node that is to be left does not follow.
    fn call_off(&mut self, job: &mut Job, i: usize, because: &str) -> Result<(), InvalidTransition> {
        let stage = &job.stages[i];
        let Some(number) = stage.next().map(|next| next.number) else {
            return Ok(());
        };
        let message = format!(
            "{} stays as it is: generation {number} does not follow: {because}",
            stage.name
        );
        let stage = stage.clone().stay()?;
        self.tell(job, &stage, "stage-stays", message);
        job.stages[i] = stage;
        Ok(())
    }
}

/// Whether a generation is the one of a placement.
fn gets_ready(generation: &Generation, placement: &Placement) -> bool {
    let ranks = generation.ranks_by_node();
    ranks.len() == placement.len() && placement.iter().all(|(node, wanted)| ranks.get(node) == Some(wanted))
}

/// Whether nodes get more ranks than they have.
fn has_joiners(generation: &Generation, placement: &Placement) -> bool {
    let had = generation.ranks_by_node();
    placement.iter().any(|(node, ranks)| had.get(node) < Some(ranks))
}

impl Leaving {
    fn end(&self) -> End {
        End {
            reason: self.reason.clone(),
            // Not the fault of the ranks: the next generation need not wait.
            lost_node: true,
            is_drain: true,
            ..End::default()
        }
    }
}
