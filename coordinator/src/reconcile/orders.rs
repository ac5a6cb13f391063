//! The desired state of every node: a pure function of the jobs.

use super::sight::Sight;
use crate::domain::inputs::inputs;
use crate::domain::stage::{Generation, Seat, State};
use crate::domain::{Job, Stage};
use medley_protocol::agent::{Assignment, Orders, Parting};
use medley_protocol::ids::{NodeId, StageId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What the nodes were last told.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Told {
    /// The orders in force. Nodes that are to run nothing may be absent.
    pub orders: BTreeMap<NodeId, Arc<Orders>>,
    /// The revision at which a node was first told of a generation.
    first_told: BTreeMap<(NodeId, StageId, u64), u64>,
}

impl Told {
    /// The nodes for which `desired` is news.
    pub fn changed(&self, desired: &BTreeMap<NodeId, Vec<Assignment>>) -> Vec<NodeId> {
        let differs = |node: &NodeId, assignments: &[Assignment]| {
            let told = self.orders.get(node).map_or(&[][..], |orders| &orders.assignments);
            told != assignments
        };
        let new = desired.iter().filter(|(node, assignments)| differs(node, assignments));
        let ended = self
            .orders
            .iter()
            .filter(|(node, orders)| !desired.contains_key(*node) && !orders.assignments.is_empty());
        let mut nodes: Vec<NodeId> = new.map(|(node, _)| *node).chain(ended.map(|(node, _)| *node)).collect();
        nodes.sort_unstable();
        nodes
    }

    /// The nodes that get new orders: those for which `desired` is news, and those of `known` that this leader never told
    /// anything, which may still obey an earlier one.
    pub fn concerned(
        &self,
        desired: &BTreeMap<NodeId, Vec<Assignment>>,
        known: impl Iterator<Item = NodeId>,
    ) -> BTreeSet<NodeId> {
        let untold = known.filter(|node| !self.orders.contains_key(node));
        self.changed(desired).into_iter().chain(untold).collect()
    }

    /// The orders of `revisions`' nodes become `desired`, under revisions that the job table has given out.
    pub fn tell(&mut self, mut desired: BTreeMap<NodeId, Vec<Assignment>>, revisions: &BTreeMap<NodeId, u64>) {
        for (node, revision) in revisions {
            let (node, revision) = (*node, *revision);
            let assignments = desired.remove(&node).unwrap_or_default();
            let listed = |stage, generation| {
                assignments
                    .iter()
                    .any(|a| (a.stage, a.generation) == (stage, generation))
            };
            self.first_told
                .retain(|(of, stage, generation), _| *of != node || listed(*stage, *generation));
            for assignment in &assignments {
                let key = (node, assignment.stage, assignment.generation);
                self.first_told.entry(key).or_insert(revision);
            }
            let orders = Orders {
                revision,
                assignments,
                probes: Vec::new(),
            };
            self.orders.insert(node, Arc::new(orders));
        }
    }

    /// The revision at which `node` was first told of a generation, if it was.
    pub fn first_told(&self, node: NodeId, stage: StageId, generation: u64) -> Option<u64> {
        self.first_told.get(&(node, stage, generation)).copied()
    }
}

/// Everything that should run, by node. Seats of a former life of a node's agent are not for the present one.
pub fn desired(jobs: &[Job], sight: &Sight, store: &str) -> BTreeMap<NodeId, Vec<Assignment>> {
    let mut desired: BTreeMap<NodeId, Vec<Assignment>> = BTreeMap::new();
    for job in jobs {
        for stage in &job.stages {
            for generation in stage.former().into_iter().chain(stage.present()).chain(stage.next()) {
                for (node, ranks) in ranks_by_node(generation, sight) {
                    let assignment = assignment(job, stage, generation, ranks, store);
                    desired.entry(node).or_default().push(assignment);
                }
            }
        }
    }
    desired
}

fn ranks_by_node(generation: &Generation, sight: &Sight) -> BTreeMap<NodeId, Vec<u32>> {
    let mut ranks: BTreeMap<NodeId, Vec<u32>> = BTreeMap::new();
    let is_present = |seat: &&Seat| {
        let seen = sight.nodes.get(&seat.node);
        seen.is_none_or(|seen| seen.node.incarnation == seat.incarnation)
    };
    for seat in generation.seats.iter().filter(is_present) {
        ranks.entry(seat.node).or_default().push(seat.rank);
    }
    ranks
}

fn assignment(job: &Job, stage: &Stage, generation: &Generation, ranks: Vec<u32>, store: &str) -> Assignment {
    let members = match &stage.state {
        State::Running {
            generation: present,
            members,
            ..
        } if present.number == generation.number => members.clone(),
        _ => Vec::new(),
    };
    let former = stage.former().filter(|former| former.number == generation.number);
    Assignment {
        parting: former
            .zip(stage.present())
            .map(|(former, next)| parting(former, next, &ranks)),
        job: job.id,
        stage: stage.id,
        stage_name: stage.name.clone(),
        kind: stage.kind,
        generation: generation.number,
        ranks,
        world: generation.seats.len() as u32,
        members,
        secret: generation.secret.clone(),
        spec: (*job.spec).clone(),
        store: store.to_owned(),
        inputs: inputs(job, stage, generation),
        checkpoint_after: stage.facts.wanted,
        without: generation.without.clone(),
        distrusts: stage.facts.doubted,
    }
}

/// How a generation ends for the ranks of a node.
fn parting(former: &Generation, next: &Generation, ranks: &[u32]) -> Parting {
    let leaving = former.beyond(next).into_iter().map(|seat| seat.rank);
    Parting {
        next: next.number,
        ranks: leaving.filter(|rank| ranks.contains(rank)).collect(),
        saves: next.seats.is_empty(),
    }
}
