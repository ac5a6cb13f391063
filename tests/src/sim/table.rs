//! The job table in memory: what the coordinator's store does in PostgreSQL, statement by statement.
//!
//! It outlives coordinators. A decision is applied whole; facts are taken whatever the generation. Its tasks are in `leases`.

use super::leases::Task;
use medley_coordinator::domain::decision::{Decision, Effect};
use medley_coordinator::domain::graph::{Shards, new_job};
use medley_coordinator::domain::node::KnownNode;
use medley_coordinator::domain::stage::{Stage, State};
use medley_coordinator::domain::{CountingMint, Job, Mint};
use medley_protocol::agent::{CheckpointWanted, Register};
use medley_protocol::checkpoint::{CheckpointPart, Manifest};
use medley_protocol::ids::{CheckpointId, CheckpointRequestId, NodeId, StageId};
use medley_protocol::metrics::{MetricsChunk, StepMetrics};
use medley_protocol::spec::Spec;
use medley_protocol::stage::StageState;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

pub(super) struct Table {
    pub(super) mint: CountingMint,
    pub(super) job: Job,
    pub(super) tasks: Vec<Task>,
    nodes: BTreeMap<String, Known>,
    /// By stage, step and number of parts.
    parts: BTreeMap<(StageId, u64, u32), BTreeMap<u32, CheckpointPart>>,
    pub(super) checkpoints: BTreeMap<(StageId, u64), Manifest>,
    pub(super) metrics: BTreeMap<(StageId, u64), StepMetrics>,
    /// By stage and generation: of how many steps at most it, and those before it, may hand something in.
    doubts: BTreeMap<(StageId, u64), u64>,
}

struct Known {
    node: KnownNode,
    revision: u64,
}

impl Table {
    /// A table with one job.
    pub(super) fn new(spec: Spec, shards: &Shards) -> Self {
        let mut mint = CountingMint::default();
        let (job, tasks) = new_job(spec, shards, chrono::DateTime::UNIX_EPOCH, &mut mint);
        Self {
            mint,
            job,
            tasks: tasks.into_iter().map(Task::new).collect(),
            nodes: BTreeMap::new(),
            parts: BTreeMap::new(),
            checkpoints: BTreeMap::new(),
            metrics: BTreeMap::new(),
            doubts: BTreeMap::new(),
        }
    }

    /// How a stage is called.
    pub(super) fn stage_name(&self, stage: StageId) -> String {
        self.job
            .stage(stage)
            .map_or_else(String::new, |stage| stage.name.clone())
    }

    pub(super) fn register(&mut self, register: &Register) -> KnownNode {
        let known = self.nodes.entry(register.name.clone()).or_insert_with(|| Known {
            node: KnownNode {
                id: NodeId::from_uuid(self.mint.uuid()),
                name: register.name.clone(),
                incarnation: register.incarnation,
                devices: register.devices,
                fingerprint: register.fingerprint.clone(),
            },
            revision: 0,
        });
        known.node.incarnation = register.incarnation;
        known.node.clone()
    }

    /// The number of a node in the world.
    pub(super) fn number_of(&self, node: NodeId) -> Option<usize> {
        let (name, _) = self.nodes.iter().find(|(_, known)| known.node.id == node)?;
        name.strip_prefix('n')?.parse().ok()
    }

    pub(super) fn known_nodes(&self) -> Vec<KnownNode> {
        self.nodes.values().map(|known| known.node.clone()).collect()
    }

    /// Jobs that are not in a final state, with what is known of their tasks.
    pub(super) fn active_jobs(&self, now: Duration) -> Vec<Job> {
        if self.job.state.label().is_final() {
            return Vec::new();
        }
        let mut job = self.job.clone();
        for stage in &mut job.stages {
            stage.facts.tasks = self.tasks_of(stage.id, now);
        }
        vec![job]
    }

    /// Writes a decision and gives out the revisions of the orders that follow from it.
    pub(super) fn save(&mut self, decision: &Decision, concerned: &BTreeSet<NodeId>) -> BTreeMap<NodeId, u64> {
        if let Some(decided) = decision.jobs.iter().find(|job| decision.changed.contains(&job.id)) {
            self.job.version += 1;
            self.job.state = decided.state.clone();
            for (stage, decided) in self.job.stages.iter_mut().zip(&decided.stages) {
                stage.state = decided.state.clone();
                stage.generation = decided.generation;
                stage.world = decided.world;
                stage.setbacks = decided.setbacks;
                stage.course = decided.course;
            }
        }
        for effect in &decision.effects {
            match effect {
                // Objects do not rot here, and ranks say no such thing.
                Effect::OpenEpochs { .. } | Effect::CloseEpochs { .. } | Effect::MarkDamaged { .. } => {}
                Effect::Doubt {
                    stage,
                    generation,
                    doubt,
                    ..
                } => self.doubt(*stage, *generation, doubt.proven),
                Effect::AddMerge { stage } => self.add_merge(*stage),
                Effect::ReleaseTasks { stage, failed } => self.release(*stage, failed),
            }
        }
        let mut revisions = BTreeMap::new();
        for known in self
            .nodes
            .values_mut()
            .filter(|known| concerned.contains(&known.node.id))
        {
            known.revision += 1;
            revisions.insert(known.node.id, known.revision);
        }
        revisions
    }

    fn doubt(&mut self, id: StageId, generation: u64, proven: u64) {
        if self.doubts.insert((id, generation), proven).is_some() {
            return;
        }
        self.parts.retain(|(stage, step, _), _| *stage != id || *step <= proven);
        self.checkpoints
            .retain(|(stage, step), _| *stage != id || *step <= proven);
        self.metrics.retain(|(stage, step), _| *stage != id || *step < proven);
        let last = self.checkpoints.range((id, 0)..=(id, proven)).next_back();
        let last = last.map(|(_, manifest)| manifest.clone());
        if let Some(Stage { facts, .. }) = self.stage_mut(id) {
            facts.checkpoint = last;
            facts.metrics_through = facts.metrics_through.min(proven);
            facts.doubted = generation;
        }
    }

    /// Of how many steps at most a generation may hand something in.
    fn limit(&self, stage: StageId, generation: u64) -> u64 {
        let later = self.doubts.range((stage, generation)..=(stage, u64::MAX));
        later.map(|(_, proven)| *proven).min().unwrap_or(u64::MAX)
    }

    /// Takes in a part. True if it makes its checkpoint whole.
    pub(super) fn add_part(&mut self, stage: StageId, generation: u64, part: &CheckpointPart) -> bool {
        if part.step > self.limit(stage, generation) {
            return false;
        }
        let key = (stage, part.step, part.parts);
        let parts = self.parts.entry(key).or_default();
        parts.entry(part.part).or_insert_with(|| part.clone());
        let is_whole = parts.len() == part.parts as usize;
        if !is_whole || self.checkpoints.contains_key(&(stage, part.step)) {
            return false;
        }
        let manifest = Manifest {
            id: CheckpointId::from_uuid(self.mint.uuid()),
            stage,
            step: part.step,
            state_bytes: part.state_bytes,
            parts: parts.values().cloned().collect(),
        };
        self.checkpoints.insert((stage, part.step), manifest.clone());
        if let Some(Stage { facts, .. }) = self.stage_mut(stage) {
            facts.wanted = facts.wanted.filter(|wanted| wanted.step > part.step);
            let is_newest = facts.checkpoint.as_ref().is_none_or(|last| last.step < part.step);
            facts.checkpoint = if is_newest {
                Some(manifest)
            } else {
                facts.checkpoint.take()
            };
        }
        true
    }

    pub(super) fn metrics_through(&self, stage: StageId) -> u64 {
        self.job.stage(stage).map_or(0, |stage| stage.facts.metrics_through)
    }

    /// Stores what is new of consecutive rows; none if they would leave a gap.
    pub(super) fn add_metrics(&mut self, stage: StageId, chunk: &MetricsChunk) -> Option<u64> {
        let through = self.metrics_through(stage);
        let limit = self.limit(stage, chunk.generation);
        let rows: Vec<StepMetrics> = chunk.rows.iter().filter(|row| row.step < limit).copied().collect();
        if rows.is_empty() {
            return None;
        }
        let Some(first) = rows.iter().find(|row| row.step >= through) else {
            return Some(through);
        };
        let went_on_from = match self.job.stage(stage).map(|stage| &stage.state) {
            Some(State::Running { from, .. }) => *from,
            _ => 0,
        };
        if first.step > through && first.step > went_on_from {
            return None;
        }
        let first = first.step;
        for row in rows.iter().filter(|row| row.step >= first) {
            self.metrics.insert((stage, row.step), *row);
        }
        let next = rows.last().map_or(through, |row| row.step + 1);
        if let Some(stage) = self.stage_mut(stage) {
            stage.facts.metrics_through = next;
        }
        Some(next)
    }

    /// Asks a training stage that runs for a checkpoint.
    pub(super) fn want_checkpoint(&mut self) {
        let request = CheckpointRequestId::from_uuid(self.mint.uuid());
        let runs = |stage: &&mut Stage| stage.kind.is_training() && stage.state.label() == StageState::Running;
        if let Some(stage) = self.job.stages.iter_mut().find(runs) {
            let step = stage.facts.metrics_through + 1;
            stage.facts.wanted.get_or_insert(CheckpointWanted { request, step });
        }
    }

    fn stage_mut(&mut self, id: StageId) -> Option<&mut Stage> {
        self.job.stages.iter_mut().find(|stage| stage.id == id)
    }
}
