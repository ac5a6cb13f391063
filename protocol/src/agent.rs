//! Between a node's agent and the coordinator, and between the agent and its ranks.
//!
//! An agent registers once per life and then beats. A beat carries what its ranks are doing ([`RankReport`]); the answer is
//! the *desired state* of the node ([`Orders`]) under a revision that only grows. An agent obeys the highest revision it has
//! seen and ignores lower ones, so a lost or late message costs nothing. Facts (metrics, checkpoint parts, task results)
//! travel in requests of their own. With its ranks the agent speaks through pipes ([`ToRank`], [`FromRank`]).

mod orders;
mod pipe;
mod report;

pub use orders::{Assignment, CheckpointWanted, Former, Member, Orders, Parting, Probe, StageInputs};
pub use pipe::{FromRank, ToRank};
pub use report::{Connecting, Doing, RankReport, RankState, StepPhase};

use crate::hardware::Hardware;
use crate::ids::{IncarnationId, NodeId};
use serde::{Deserialize, Serialize};

/// A new life of an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Register {
    /// The node's name: `[a-z0-9-]`, unique in the cluster, the same at each start.
    pub name: String,
    /// This life.
    pub incarnation: IncarnationId,
    /// Host name or address under which other nodes reach this node's ranks.
    pub host: String,
    /// How many ranks the node can run at once: one per device.
    pub devices: u32,
    /// Threads of each rank.
    pub threads: u32,
    /// Numerics fingerprint: build, kernel path, device model. A generation holds one. What its ranks compute in besides is the
    /// job's ([`Spec::precision`](crate::spec::Spec::precision)).
    pub fingerprint: String,
}

/// Answer to [`Register`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registered {
    /// The node.
    pub node: NodeId,
    /// Time between beats.
    pub beat_ms: u64,
    /// Silence after which the coordinator declares the node lost.
    pub silence_ms: u64,
}

/// A heartbeat.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Beat {
    /// The node.
    pub node: NodeId,
    /// The life that beats; an old one is refused as stale.
    pub incarnation: IncarnationId,
    /// Highest revision seen.
    pub revision: u64,
    /// Every rank process the agent has, or had and has not been told to forget.
    pub ranks: Vec<RankReport>,
    /// The agent is about to end, in so long at most: what it has is to go to other nodes, and nothing new comes to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leaves_in_ms: Option<u64>,
    /// `host:port` under which other agents try whether they reach this node.
    #[serde(default)]
    pub address: Option<String>,
    /// Of the nodes that the agent was asked to try, those that it reached at the last try.
    #[serde(default)]
    pub reached: Vec<NodeId>,
    /// What its ranks compute on.
    #[serde(default)]
    pub hardware: Hardware,
}
