//! What waits, why, and what it holds back.
//!
//! A stage that waits for devices which others have keeps those of its priority and of lower ones from growing, and those of
//! lower ones from holding what is of no use to them now. One that the nodes alive could not serve with all of their devices
//! holds back nobody: whatever others left free, it would still wait.

use super::apart::names;
use super::decide::Pass;
use super::placing::busy;
use crate::domain::stage::State;
use crate::domain::{Event, InvalidTransition, Job, Stage};
use crate::plan;
use medley_protocol::ids::StageId;
use std::collections::{BTreeMap, BTreeSet};

impl Pass<'_> {
    /// The stages among those that wait for devices which others have, and their priorities.
    ///
    /// What broke is among them in any case: for a while it has a claim to what it has lost.
    pub(super) fn claims(&self, jobs: &[Job], waits: impl Fn(&Stage) -> bool) -> BTreeMap<StageId, i32> {
        let nodes = self.nodes(jobs, &BTreeSet::new(), false);
        let is_claim = |job: &Job, stage: &Stage| {
            waits(stage)
                && (self.breaks.contains_key(&stage.id) || plan::could_place(&nodes, &self.request(job, stage)))
        };
        let stages = jobs
            .iter()
            .flat_map(|job| job.stages.iter().map(move |stage| (job, stage)));
        stages
            .filter(|(job, stage)| is_claim(job, stage))
            .map(|(job, stage)| (stage.id, job.spec.cluster.priority))
            .collect()
    }

    /// Why a stage waits, with the nodes that do not reach each other, if there are any.
    pub(super) fn with_what_is_apart(&self, reason: String, stage: &Stage) -> String {
        let apart = self.reach.apart();
        if apart.is_empty() || !stage.kind.is_training() {
            return reason;
        }
        format!(
            "{reason}; {} cannot reach each other",
            names(apart, self.evidence.sight)
        )
    }

    /// Lets stages wait for nodes, and makes it known once.
    pub(super) fn await_nodes(
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
                if matches!(job.stages[i].state, State::Waiting { .. }) {
                    self.wait(job, i, reason)?;
                }
            }
        }
        Ok(jobs)
    }

    /// A stage waits for this reason.
    pub(super) fn wait(&mut self, job: &mut Job, i: usize, reason: String) -> Result<(), InvalidTransition> {
        let stage = &job.stages[i];
        if matches!(&stage.state, State::Waiting { reason: known } if *known == reason) {
            return Ok(());
        }
        job.stages[i] = stage.clone().wait(reason)?;
        self.decision.changed.insert(job.id);
        Ok(())
    }
}

/// Devices that the stages of jobs have, by priority.
pub(super) fn devices_by_priority(jobs: &[Job]) -> BTreeMap<i32, u32> {
    let mut devices = BTreeMap::new();
    for job in jobs {
        *devices.entry(job.spec.cluster.priority).or_default() += busy(job.stages.iter()).values().sum::<u32>();
    }
    devices
}

/// Why a stage waits for devices that others have, with how many of them are of lower priority.
pub(super) fn with_what_is_kept(reason: String, lower: u32) -> String {
    match lower {
        0 => reason,
        1 => format!("{reason}; a stage of lower priority has a device, and keeps it until it ends: {RULE}"),
        _ => format!("{reason}; stages of lower priority have {lower} devices, and keep them until they end: {RULE}"),
    }
}

/// What a priority is worth.
const RULE: &str = "priority decides who is placed next, and takes nothing from what runs";
