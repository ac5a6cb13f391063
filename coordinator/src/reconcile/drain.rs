//! Nodes that are drained: what they have goes to other nodes.
//!
//! A generation with a rank on such a node ends once its stage can be placed without it, and the next one follows in the
//! same decision: a training goes on from the memory of all its ranks that stay, and a stage of tasks gives its leases
//! back. A training that cannot do without the node keeps it until it can, or until the deadline of the drain.

use super::decide::Pass;
use super::findings::End;
use crate::domain::stage::Generation;
use crate::domain::{InvalidTransition, Job, Stage};
use crate::plan;

impl Pass<'_> {
    /// Ends generations on nodes that are drained.
    pub(super) fn drain(&mut self, mut jobs: Vec<Job>) -> Result<Vec<Job>, InvalidTransition> {
        let stages = |job: &Job| 0..job.stages.len();
        let all: Vec<(usize, usize)> = (0..jobs.len())
            .flat_map(|j| stages(&jobs[j]).map(move |i| (j, i)))
            .collect();
        for (j, i) in all {
            let (job, stage) = (&jobs[j], &jobs[j].stages[i]);
            let Some(generation) = stage.present().filter(|_| !self.breaks.contains_key(&stage.id)) else {
                continue;
            };
            let Some(end) = self.drained(&jobs, job, stage, generation) else {
                continue;
            };
            if let Some(next) = self.end(job, stage, generation, end)? {
                jobs[j].stages[i] = next;
            }
        }
        Ok(jobs)
    }

    /// The end of a generation that has ranks on nodes which are drained, if it is time.
    fn drained(&self, jobs: &[Job], job: &Job, stage: &Stage, generation: &Generation) -> Option<End> {
        let sight = self.evidence.sight;
        let seats = generation.seats.iter();
        let leaving = seats.filter_map(|seat| Some((seat.node, sight.withheld.get(&seat.node)?)));
        let mut leaving: Vec<_> = leaving.filter(|(_, withheld)| withheld.drains).collect();
        leaving.dedup_by_key(|(node, _)| *node);
        let is_due = leaving.iter().any(|(_, withheld)| withheld.is_due);
        if leaving.is_empty() || !(is_due || self.can_move(jobs, job, stage)) {
            return None;
        }
        let name = |(node, _): &(_, _)| sight.nodes.get(node).map(|seen| seen.node.name.as_str());
        let names: Vec<&str> = leaving.iter().filter_map(name).collect();
        let reason = match names.as_slice() {
            [name] => format!("node {name} is drained"),
            names => format!("nodes {} are drained", names.join(", ")),
        };
        Some(End {
            reason,
            // Not the fault of the ranks: the next generation need not wait.
            lost_node: true,
            is_drain: true,
            ..End::default()
        })
    }

    /// Whether a stage can be placed on nodes that take work. Tasks can wait.
    fn can_move(&self, jobs: &[Job], job: &Job, stage: &Stage) -> bool {
        let nodes = self.nodes(jobs, &[stage.id].into(), true);
        let plan = plan::plan(&nodes, &[self.request(job, stage)]);
        !stage.kind.is_training() || plan.placements.contains_key(&stage.id)
    }
}
