//! A job as people see it: in a list, with its stages, or before it is submitted.

use crate::checkpoint::ObjectRef;
use crate::estimate::Estimate;
use crate::ids::{JobId, NodeId, StageId};
use crate::spec::{Kind, Spec};
use crate::stage::{JobState, StageKind, StageState};
use crate::staircase::Stair;
use crate::tasks::Evaluation;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// A job in a list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobView {
    /// Identity.
    pub id: JobId,
    /// Name given by the user.
    pub name: String,
    /// Kind.
    pub kind: Kind,
    /// State.
    pub state: JobState,
    /// Why it failed, or waits, in words; empty otherwise.
    pub reason: String,
    /// When it was submitted.
    pub submitted_at: DateTime<Utc>,
    /// When it reached a final state.
    pub finished_at: Option<DateTime<Utc>>,
}

impl JobView {
    /// No stage of a job that is not over runs, and one waits for this reason.
    pub fn waits(&mut self, reason: String) {
        self.reason = reason;
        if self.state == JobState::Running {
            self.state = JobState::Waiting;
        }
    }
}

/// A job with its stages.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobDetail {
    /// The job.
    #[serde(flatten)]
    pub job: JobView,
    /// The completed spec.
    pub spec: Spec,
    /// Stages in topological order.
    pub stages: Vec<StageView>,
    /// Memory that each kind of stage that trains is foreseen to take, on as many ranks as it may have.
    #[serde(default)]
    pub memory: Vec<Estimate>,
}

/// A stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StageView {
    /// Identity.
    pub id: StageId,
    /// Name within the job, such as `pretrain-0`.
    pub name: String,
    /// Kind.
    pub kind: StageKind,
    /// State.
    pub state: StageState,
    /// Why it failed, or waits, in words; empty otherwise.
    pub reason: String,
    /// Stages that must be done before.
    pub needs: Vec<StageId>,
    /// Present generation.
    pub generation: u64,
    /// Ranks of the present generation; of the last one once the stage has ended.
    pub world: u32,
    /// Most memory in bytes that one of its ranks has had resident; none before a rank has handed something in.
    pub peak_rank_bytes: Option<u64>,
    /// Committed steps, or finished tasks.
    pub done: u64,
    /// Steps, or tasks, in all; none while not known.
    pub total: Option<u64>,
    /// Epochs of a training stage, in order.
    pub epochs: Vec<EpochView>,
    /// Figures of an evaluation.
    pub evaluation: Option<Evaluation>,
    /// Everything the evaluation's figures were computed from.
    pub details: Option<ObjectRef>,
    /// Ranks that it waits for in every step.
    #[serde(default)]
    pub stragglers: Vec<Straggler>,
    /// When it first started.
    pub started_at: Option<DateTime<Utc>>,
    /// When it reached a final state.
    pub finished_at: Option<DateTime<Utc>>,
}

/// A rank that has needed much longer for a lane than the others of its generation, for many steps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Straggler {
    /// The stage.
    pub stage: StageId,
    /// The generation.
    pub generation: u64,
    /// The rank.
    pub rank: u32,
    /// Where it runs.
    pub node: NodeId,
    /// That node's name.
    pub node_name: String,
    /// Time that it computes for a lane.
    pub lane_ms: f64,
    /// The middle of its generation.
    pub usual_lane_ms: f64,
}

/// An epoch of a training stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EpochView {
    /// Number, from 0.
    pub epoch: u64,
    /// First step.
    pub first_step: u64,
    /// Number of steps.
    pub steps: u64,
    /// Whether all its steps are committed.
    pub done: bool,
    /// Mean of the losses over its stored steps.
    pub mean_itc: Option<f64>,
    /// Mean of the losses over its stored steps.
    pub mean_itm: Option<f64>,
    /// Mean of the losses over its stored steps.
    pub mean_lm: Option<f64>,
}

/// What a job would get of the present cluster if its training were to begin now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DryRun {
    /// Lanes of the spec.
    pub lanes: u32,
    /// Devices of the nodes alive.
    pub devices: u32,
    /// Those that no stage has.
    pub free: u32,
    /// The ranks it would get; empty if it would wait.
    pub placement: Vec<Placed>,
    /// Why it would wait, in words; empty otherwise.
    pub reason: String,
    /// How fast these ranks are.
    pub present: Option<Stair>,
    /// The next number of ranks that is faster.
    pub next: Option<Stair>,
    /// Why free devices would stay idle, in words.
    pub idle: Option<String>,
    /// All useful numbers of ranks.
    pub stairs: Vec<Stair>,
    /// Memory that each stage that trains is foreseen to take: on the ranks it would get, or on as many as it may have.
    #[serde(default)]
    pub memory: Vec<Estimate>,
}

/// Ranks on a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placed {
    /// The node.
    pub node: NodeId,
    /// Its name.
    pub node_name: String,
    /// How many.
    pub ranks: u32,
}
