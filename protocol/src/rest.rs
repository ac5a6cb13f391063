//! Bodies of the REST API under `/api/v1`.
//!
//! | method and path | body → answer | role |
//! |---|---|---|
//! | `POST /jobs` (`Idempotency-Key`) | job document → [`JobDetail`] | submitter |
//! | `POST /jobs/dry-run` | job document → [`DryRun`] | submitter |
//! | `GET /jobs?limit&cursor` | → [`Page`] of [`JobView`] | viewer |
//! | `GET /jobs/{job}` | → [`JobDetail`] | viewer |
//! | `POST /jobs/{job}/cancel` | → [`JobView`] | submitter |
//! | `GET /jobs/{job}/metrics?stage&from_step&limit` | → [`MetricsPage`] | viewer |
//! | `GET /jobs/{job}/ledger?stage&from_step&limit` | → [`LedgerPage`] | viewer |
//! | `GET /jobs/{job}/checkpoints` | `?damaged` → list of [`CheckpointView`] | viewer |
//! | `POST /checkpoints/{checkpoint}/damage` | [`DamageFound`] | operator |
//! | `POST /jobs/{job}/checkpoints` | → [`CheckpointRequestView`] | operator |
//! | `GET /jobs/{job}/datasets` | → list of [`DatasetView`] | viewer |
//! | `GET /jobs/{job}/events?after&limit` | → list of [`EventView`] | viewer |
//! | `GET /nodes` | → list of [`NodeView`] | viewer |
//! | `POST /nodes/{name}/duty` | [`DutyChange`] → [`NodeView`] | operator |
//! | `GET /objects/{key}` | → bytes | viewer |
//! | `POST /agent/register` | [`Register`](crate::agent::Register) → [`Registered`](crate::agent::Registered) | node |
//! | `POST /agent/beat` | [`Beat`](crate::agent::Beat) → [`Orders`](crate::agent::Orders) | node |
//! | `GET /stages/{stage}/metrics/through` | → [`MetricsThrough`](crate::metrics::MetricsThrough) | node |
//! | `POST /stages/{stage}/metrics` | [`MetricsChunk`](crate::metrics::MetricsChunk) → [`MetricsThrough`](crate::metrics::MetricsThrough) | node |
//! | `POST /stages/{stage}/checkpoints/parts` | [`PartHandedIn`] → 204 | node |
//! | `POST /stages/{stage}/checkpoints/refused` | [`PartRefused`] → 204 | node |
//! | `POST /stages/{stage}/tasks/lease` | [`LeaseRequest`] → [`LeaseAnswer`] | node |
//! | `POST /tasks/{task}/renew` | [`TaskRenewal`] → 204 | node |
//! | `POST /tasks/{task}/finish` | [`TaskFinished`] → 204 | node |
//! | `POST /tasks/{task}/fail` | [`TaskGivenUp`] → 204 | node |

use crate::checkpoint::{CheckpointPart, ObjectRef};
use crate::estimate::Estimate;
use crate::hardware::Hardware;
use crate::ids::{CheckpointId, CheckpointRequestId, DatasetId, IncarnationId, JobId, LeaseToken, NodeId, StageId};
use crate::ledger::LedgerEntry;
use crate::metrics::StepMetrics;
use crate::spec::{Kind, Spec};
use crate::stage::{JobState, StageKind, StageState};
use crate::staircase::Stair;
use crate::tasks::{Counts, Evaluation, Lease};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// One page of a list, newest first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Page<T> {
    /// The rows.
    pub items: Vec<T>,
    /// Give this as `cursor` to get the next page; none on the last.
    pub next: Option<String>,
}

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

/// A node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeView {
    /// Identity.
    pub id: NodeId,
    /// Its name.
    pub name: String,
    /// Host under which its ranks are reached.
    pub host: String,
    /// Whether its agent beats.
    pub alive: bool,
    /// Ranks it can run at once.
    pub devices: u32,
    /// Devices in use.
    pub busy: u32,
    /// Threads of each rank.
    pub threads: u32,
    /// Numerics fingerprint.
    pub fingerprint: String,
    /// Ranks on it that others wait for in every step.
    #[serde(default)]
    pub stragglers: Vec<Straggler>,
    /// When its agent last registered.
    pub registered_at: DateTime<Utc>,
    /// Whether it takes work.
    #[serde(default)]
    pub duty: Duty,
    /// What its ranks compute on, as its agent last said; empty while it does not beat.
    #[serde(default)]
    pub hardware: Hardware,
}

/// Whether a node takes work. It stays so when its agent starts again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Duty {
    /// It does.
    #[default]
    Serving,
    /// It keeps what it has and takes nothing new.
    Cordoned,
    /// It takes nothing new, and what it has goes to other nodes. Once it has nothing left it is drained.
    Draining,
}

impl Duty {
    /// Its name, as on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::Cordoned => "cordoned",
            Self::Draining => "draining",
        }
    }
}

/// Another duty for a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DutyChange {
    /// From now on.
    pub duty: Duty,
    /// A node that is drained gives up by then what nobody else can take. Without it, it waits until somebody can.
    #[serde(default)]
    pub deadline_s: Option<u32>,
}

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
    pub output: crate::tasks::TaskOutput,
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
