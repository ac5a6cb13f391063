//! The desired state of a node: what should run on it, and what each stage that does works on.

use crate::checkpoint::{Manifest, ObjectRef};
use crate::ids::{CheckpointRequestId, JobId, NodeId, StageId};
use crate::spec::Spec;
use crate::stage::StageKind;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The desired state of one node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Orders {
    /// Grows with every change; minted in the transaction that decides.
    pub revision: u64,
    /// Everything that should run on the node. What is not listed is to be stopped. A training stage is listed twice while
    /// the generation that is to follow the present one gets ready, and while ranks leave the one before.
    pub assignments: Vec<Assignment>,
    /// Nodes that the agent is to try to reach, again and again until they are not listed any more. Unlike assignments they
    /// are those of the last answer, whatever its revision.
    #[serde(default)]
    pub probes: Vec<Probe>,
}

impl Orders {
    /// Devices that the node is to use: a rank has one, in however many generations of its stage it takes part.
    pub fn busy(&self) -> u32 {
        let mut by_stage: BTreeMap<StageId, usize> = BTreeMap::new();
        for listed in &self.assignments {
            let ranks = by_stage.entry(listed.stage).or_default();
            *ranks = listed.ranks.len().max(*ranks);
        }
        by_stage.into_values().sum::<usize>() as u32
    }
}

/// A node that another one is to try to reach.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// The node.
    pub node: NodeId,
    /// `host:port` on which its agent listens.
    pub address: String,
}

/// The part of a stage's generation that one node runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Assignment {
    /// The job.
    pub job: JobId,
    /// The stage.
    pub stage: StageId,
    /// Its name within the job, such as `pretrain-0`.
    pub stage_name: String,
    /// Its kind.
    pub kind: StageKind,
    /// Fencing number of the membership.
    pub generation: u64,
    /// The ranks this node runs.
    pub ranks: Vec<u32>,
    /// Ranks of an earlier generation whose processes take no part in this one.
    #[serde(default)]
    pub without: Vec<Former>,
    /// What was made in this generation of the stage, or an earlier one, is not trusted: no process of theirs takes part.
    #[serde(default)]
    pub distrusts: u64,
    /// How this generation ends, if another one follows in which some of its ranks have no part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parting: Option<Parting>,
    /// Ranks of the whole generation.
    pub world: u32,
    /// All members in rank order once every one listens; empty until then, and always for stages of tasks.
    pub members: Vec<Member>,
    /// Shared by the members of this generation; their connections begin with it.
    pub secret: String,
    /// The spec of the job.
    pub spec: Spec,
    /// URL of the object store, such as `file:///var/lib/medley/store`.
    pub store: String,
    /// What the stage starts from.
    pub inputs: StageInputs,
    /// Requested checkpoint, to be taken after the first committed step at or above this.
    pub checkpoint_after: Option<CheckpointWanted>,
}

/// A rank of an earlier generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Former {
    /// The generation.
    pub generation: u64,
    /// The rank.
    pub rank: u32,
}

/// The end of a generation by plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parting {
    /// The generation that follows between two steps.
    pub next: u64,
    /// Ranks of this node that have no part in it.
    pub ranks: Vec<u32>,
    /// Whether nobody has: then they leave a checkpoint.
    pub saves: bool,
}

/// A member of a generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its rank: members are listed in this order, ranks of one node together.
    pub rank: u32,
    /// The node it runs on.
    pub node: NodeId,
    /// `host:port` it listens on.
    pub address: String,
}

/// A requested checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointWanted {
    /// The request.
    pub request: CheckpointRequestId,
    /// Number of committed steps at which it is due.
    pub step: u64,
}

/// What a stage starts from; which fields are set depends on its kind.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageInputs {
    /// Dataset version read (all kinds but `index`).
    pub dataset: Option<ObjectRef>,
    /// Vocabulary (all kinds but `index`).
    pub vocab: Option<ObjectRef>,
    /// Checkpoint whose weights a fine-tuning stage starts from, or that `evaluate` evaluates.
    pub start: Option<Manifest>,
    /// The captioner (`capfilt`).
    pub captioner: Option<Manifest>,
    /// The filter (`capfilt`).
    pub filter: Option<Manifest>,
    /// The stage's own last good checkpoint, to go on from (training stages).
    pub resume: Option<Manifest>,
}
