//! What agents hand in and ask for on behalf of their ranks: parts of checkpoints, and leases of tasks.

use crate::checkpoint::CheckpointPart;
use crate::ids::{IncarnationId, LeaseToken, NodeId};
use crate::tasks::{Lease, TaskOutput};
use serde::{Deserialize, Serialize};

/// A checkpoint part handed in by an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartHandedIn {
    /// The generation that wrote it. A fact about a committed step: never refused as stale.
    pub generation: u64,
    /// The part.
    pub part: CheckpointPart,
    /// Most memory that the process of the rank has had resident.
    pub peak_bytes: Option<u64>,
}

/// The store refuses a checkpoint part of a rank, which goes on and tries again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartRefused {
    /// The node.
    pub node: NodeId,
    /// Committed step of the checkpoint.
    pub step: u64,
    /// Why, for people.
    pub reason: String,
}

/// An agent asks for a task on behalf of a rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseRequest {
    /// The node.
    pub node: NodeId,
    /// Its life.
    pub incarnation: IncarnationId,
    /// The stage's generation the rank was started for.
    pub generation: u64,
    /// The rank.
    pub rank: u32,
}

/// Answer to [`LeaseRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseAnswer {
    /// The task; none if nothing is to be done at present.
    pub lease: Option<Lease>,
}

/// Keeps a lease alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskRenewal {
    /// The lease's token.
    pub token: LeaseToken,
}

/// A task's result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskFinished {
    /// The lease's token.
    pub token: LeaseToken,
    /// The result.
    pub output: TaskOutput,
    /// Most memory that the process of the rank has had resident.
    pub peak_bytes: Option<u64>,
}

/// A task given up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskGivenUp {
    /// The lease's token.
    pub token: LeaseToken,
    /// Why, for people.
    pub reason: String,
    /// Whether another try may help.
    pub retry: bool,
}
