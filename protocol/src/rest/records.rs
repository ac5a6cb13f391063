//! What a job leaves to be read, while it runs and afterwards: metrics and the ledger of its steps, events, checkpoints and
//! dataset versions.

use crate::checkpoint::{CheckpointPart, ObjectRef};
use crate::ids::{CheckpointId, CheckpointRequestId, DatasetId, JobId, NodeId, StageId};
use crate::ledger::LedgerEntry;
use crate::metrics::StepMetrics;
use crate::tasks::Counts;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// Metrics of one stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MetricsPage {
    /// The stage.
    pub stage: StageId,
    /// Rows by step; consecutive from the one asked for.
    pub rows: Vec<StepMetrics>,
    /// Ask from here for more.
    pub next_step: u64,
}

/// What steps of one stage have read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerPage {
    /// The stage.
    pub stage: StageId,
    /// Entries by step, from the one asked for.
    pub entries: Vec<LedgerEntry>,
    /// Ask from here for more.
    pub next_step: u64,
}

/// An event: one line of what happened and why.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EventView {
    /// Grows by time.
    pub id: i64,
    /// When.
    pub at: DateTime<Utc>,
    /// The job.
    pub job: Option<JobId>,
    /// The stage.
    pub stage: Option<StageId>,
    /// The node.
    pub node: Option<NodeId>,
    /// What happened, as machines read it.
    pub kind: String,
    /// What happened and why, in words.
    pub message: String,
}

/// A committed checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CheckpointView {
    /// Identity.
    pub id: CheckpointId,
    /// The stage that wrote it.
    pub stage: StageId,
    /// That stage's name.
    pub stage_name: String,
    /// Committed steps.
    pub step: u64,
    /// Size of the state in bytes.
    pub state_bytes: u64,
    /// Its parts.
    pub parts: Vec<CheckpointPart>,
    /// When it was committed.
    pub committed_at: DateTime<Utc>,
    /// What is wrong with it, if it was found damaged: nothing starts from it any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub damage: Option<String>,
}

/// Somebody read an object of a checkpoint, and it is not what was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DamageFound {
    /// Key of the object.
    pub object: String,
    /// What is wrong, for people.
    pub cause: String,
}

/// An accepted checkpoint request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointRequestView {
    /// The request.
    pub id: CheckpointRequestId,
    /// The stage that will take it.
    pub stage: StageId,
    /// Due after this many committed steps.
    pub step: u64,
}

/// A dataset version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DatasetView {
    /// Identity.
    pub id: DatasetId,
    /// The version it was made from.
    pub parent: Option<DatasetId>,
    /// The stage that made it.
    pub stage: StageId,
    /// Number in its job, from 0.
    pub version: u32,
    /// Its manifest.
    pub object: ObjectRef,
    /// Its vocabulary.
    pub vocab: ObjectRef,
    /// Pairs by source; broken samples by reason.
    pub counts: Counts,
    /// When it was made.
    pub created_at: DateTime<Utc>,
}
