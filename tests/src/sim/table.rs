//! The job table in memory: what the coordinator's store does in PostgreSQL, statement by statement.
//!
//! It outlives coordinators. A decision is applied whole; facts are taken whatever the generation; claims of leases are
//! checked against the present generation.

use medley_coordinator::domain::decision::{Decision, Effect};
use medley_coordinator::domain::graph::{NewTask, Shards, new_job};
use medley_coordinator::domain::job::Dataset;
use medley_coordinator::domain::node::KnownNode;
use medley_coordinator::domain::stage::{Seat, Stage, State, Tasks};
use medley_coordinator::domain::{CountingMint, Job, Mint};
use medley_coordinator::store::{MAX_ATTEMPTS, MAX_LEASES};
use medley_protocol::agent::{CheckpointWanted, Register};
use medley_protocol::checkpoint::{CheckpointPart, Manifest};
use medley_protocol::ids::{CheckpointId, LeaseToken, NodeId, StageId, TaskId};
use medley_protocol::metrics::{MetricsChunk, StepMetrics};
use medley_protocol::rest::LeaseRequest;
use medley_protocol::spec::Spec;
use medley_protocol::stage::{StageKind, StageState};
use medley_protocol::tasks::{Lease, ShardObject, TaskOutput, TaskWork};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Length of a lease.
const LEASE: Duration = Duration::from_secs(30);

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

/// A claim names a generation, a life or a seat that is not the present one.
pub(super) struct Stale;

struct Known {
    node: KnownNode,
    revision: u64,
}

pub(super) struct Task {
    id: TaskId,
    pub(super) stage: StageId,
    pub(super) work: TaskWork,
    pub(super) state: TaskState,
    attempts: i32,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum TaskState {
    Open,
    Leased {
        token: LeaseToken,
        until: Duration,
        rank: u32,
    },
    Done(TaskOutput),
    Failed(String),
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

    fn tasks_of(&self, stage: StageId, now: Duration) -> Tasks {
        let mut tasks = Tasks::default();
        for task in self.tasks.iter().filter(|task| task.stage == stage) {
            tasks.has_merge |= task.is_merge();
            match &task.state {
                TaskState::Done(_) => tasks.done += 1,
                TaskState::Failed(reason) => tasks.failed = Some(reason.clone()),
                TaskState::Open => tasks.unfinished += 1,
                TaskState::Leased { until, .. } => {
                    tasks.unfinished += 1;
                    if task.attempts >= MAX_LEASES && *until < now {
                        tasks.failed = Some(format!("{:?} was tried too often", task.work));
                    }
                }
            }
        }
        tasks
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

    fn add_merge(&mut self, stage: StageId) {
        let of_stage = || self.tasks.iter().filter(|task| task.stage == stage);
        if of_stage().any(Task::is_merge) {
            return;
        }
        let shards: Vec<ShardObject> = of_stage().filter_map(Task::result).collect();
        let kind = self.job.stage(stage).map(|stage| stage.kind);
        let work = match kind {
            Some(StageKind::Index) => TaskWork::IndexMerge { shards },
            _ => TaskWork::CapfiltMerge { overlays: shards },
        };
        let id = TaskId::from_uuid(self.mint.uuid());
        let position = u32::MAX;
        self.tasks.push(Task::new(NewTask {
            id,
            stage,
            position,
            work,
        }));
    }

    fn release(&mut self, stage: StageId, failed: &[u32]) {
        for task in self.tasks.iter_mut().filter(|task| task.stage == stage) {
            let TaskState::Leased { rank, .. } = task.state else {
                continue;
            };
            let attempts = task.attempts - i32::from(!failed.contains(&rank));
            if attempts < MAX_LEASES {
                task.state = TaskState::Open;
                task.attempts = attempts;
            }
        }
    }

    /// Leases the next open task, if there is one and the claim is not stale.
    pub(super) fn claim(&mut self, stage: StageId, by: &LeaseRequest, now: Duration) -> Result<Option<Lease>, Stale> {
        let seat = Seat {
            rank: by.rank,
            node: by.node,
            incarnation: by.incarnation,
        };
        let present = self.job.stage(stage).and_then(Stage::present);
        if !present.is_some_and(|present| present.number == by.generation && present.seats.contains(&seat)) {
            return Err(Stale);
        }
        let token = LeaseToken::from_uuid(self.mint.uuid());
        let open = self
            .tasks
            .iter_mut()
            .find(|task| task.stage == stage && task.is_open(now));
        Ok(open.map(|task| {
            task.attempts += 1;
            let until = now + LEASE;
            let rank = by.rank;
            task.state = TaskState::Leased { token, until, rank };
            Lease {
                task: task.id,
                token,
                lease_ms: LEASE.as_millis() as u64,
                work: task.work.clone(),
            }
        }))
    }

    /// The task, if this token is its present one.
    fn leased(&mut self, task: TaskId, token: LeaseToken) -> Option<&mut Task> {
        let under = |task: &Task| matches!(task.state, TaskState::Leased { token: present, .. } if present == token);
        self.tasks.iter_mut().find(|other| other.id == task && under(other))
    }

    pub(super) fn renew(&mut self, task: TaskId, token: LeaseToken, now: Duration) -> bool {
        let until = now + LEASE;
        let Some(task) = self.leased(task, token) else {
            return false;
        };
        if let TaskState::Leased { until: lease_until, .. } = &mut task.state {
            *lease_until = until;
        }
        true
    }

    pub(super) fn give_up(&mut self, task: TaskId, token: LeaseToken, reason: &str, retry: bool) -> bool {
        let Some(task) = self.leased(task, token) else {
            return false;
        };
        let again = retry && task.attempts < MAX_ATTEMPTS;
        task.state = if again {
            TaskState::Open
        } else {
            TaskState::Failed(reason.to_owned())
        };
        true
    }

    pub(super) fn finish(&mut self, task: TaskId, token: LeaseToken, output: &TaskOutput) -> bool {
        let Some(task) = self.leased(task, token) else {
            return false;
        };
        task.state = TaskState::Done(output.clone());
        let stage = task.stage;
        if let TaskOutput::Dataset { dataset, vocab, counts } = output {
            let made_by = self.job.stage(stage);
            let version = made_by.map_or(0, |stage| stage.round + u32::from(stage.kind == StageKind::Capfilt));
            self.job.datasets.push(Dataset {
                version,
                object: dataset.clone(),
                vocab: vocab.clone(),
                counts: counts.clone(),
            });
        }
        true
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
        let request = medley_protocol::ids::CheckpointRequestId::from_uuid(self.mint.uuid());
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

impl Task {
    fn new(new: NewTask) -> Self {
        Self {
            id: new.id,
            stage: new.stage,
            work: new.work,
            state: TaskState::Open,
            attempts: 0,
        }
    }

    fn is_merge(&self) -> bool {
        matches!(self.work, TaskWork::IndexMerge { .. } | TaskWork::CapfiltMerge { .. })
    }

    fn is_open(&self, now: Duration) -> bool {
        let free = match self.state {
            TaskState::Open => true,
            TaskState::Leased { until, .. } => until < now,
            _ => false,
        };
        free && self.attempts < MAX_LEASES
    }

    /// The shard with what was made of it.
    fn result(&self) -> Option<ShardObject> {
        let (TaskWork::IndexShard { shard } | TaskWork::CapfiltShard { shard }) = &self.work else {
            return None;
        };
        match &self.state {
            TaskState::Done(TaskOutput::Shard { object, .. }) => Some(ShardObject {
                shard: shard.clone(),
                object: object.clone(),
            }),
            _ => None,
        }
    }
}
