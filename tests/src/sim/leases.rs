//! Tasks in the job table, and their leases: what the coordinator's store does of them in PostgreSQL.
//!
//! A claim is checked against the present generation. What is done under a lease counts if its token is the task's present one.

use super::table::Table;
use medley_coordinator::domain::Mint;
use medley_coordinator::domain::graph::NewTask;
use medley_coordinator::domain::job::Dataset;
use medley_coordinator::domain::stage::{Seat, Stage, Tasks};
use medley_coordinator::store::{MAX_ATTEMPTS, MAX_LEASES};
use medley_protocol::ids::{LeaseToken, StageId, TaskId};
use medley_protocol::rest::LeaseRequest;
use medley_protocol::stage::StageKind;
use medley_protocol::tasks::{Lease, ShardObject, TaskOutput, TaskWork};
use std::time::Duration;

/// Length of a lease.
const LEASE: Duration = Duration::from_secs(30);

/// A claim names a generation, a life or a seat that is not the present one.
pub(super) struct Stale;

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
    pub(super) fn tasks_of(&self, stage: StageId, now: Duration) -> Tasks {
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

    /// The task, if this token is its present one.
    fn leased(&mut self, task: TaskId, token: LeaseToken) -> Option<&mut Task> {
        let under = |task: &Task| matches!(task.state, TaskState::Leased { token: present, .. } if present == token);
        self.tasks.iter_mut().find(|other| other.id == task && under(other))
    }

    pub(super) fn add_merge(&mut self, stage: StageId) {
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

    pub(super) fn release(&mut self, stage: StageId, failed: &[u32]) {
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
}

impl Task {
    pub(super) fn new(new: NewTask) -> Self {
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
