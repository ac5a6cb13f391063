//! Between a node's agent and the coordinator, and between the agent and its ranks.
//!
//! An agent registers once per life and then beats. A beat carries what its ranks are doing; the answer is the
//! *desired state* of the node under a revision that only grows. An agent obeys the highest revision it has seen and
//! ignores lower ones, so a lost or late message costs nothing. Facts (metrics, checkpoint parts, task results) travel
//! in requests of their own.

use crate::checkpoint::{CheckpointPart, Damage, Manifest, ObjectRef};
use crate::doubt::Doubt;
use crate::hardware::Hardware;
use crate::ids::{CheckpointRequestId, IncarnationId, JobId, NodeId, StageId};
use crate::ledger::LedgerEntry;
use crate::metrics::StepMetrics;
use crate::spec::Spec;
use crate::stage::StageKind;
use crate::tasks::{Lease, TaskOutput};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

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
    /// job's ([`Spec::precision`]).
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

/// One rank as its agent sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RankReport {
    /// The stage it works for.
    pub stage: StageId,
    /// The generation it was started for.
    pub generation: u64,
    /// Its number in that generation.
    pub rank: u32,
    /// What it is doing.
    pub state: RankState,
    /// Where in a step it is, while it trains.
    #[serde(default)]
    pub doing: Option<Doing>,
    /// For how long its process has said nothing, which it should do several times a second; none before it has begun to.
    #[serde(default)]
    pub quiet_ms: Option<u64>,
    /// How far it is with its connections, while it makes them.
    #[serde(default)]
    pub connecting: Option<Connecting>,
}

/// How far a rank is with the connections of its generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connecting {
    /// The generation.
    pub generation: u64,
    /// Ranks with which there is no connection yet.
    pub lacks: Vec<u32>,
    /// Time since the last connection was made, or since the first was tried.
    pub for_ms: u64,
}

/// Where in a step a rank is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Doing {
    /// The step, counted from 0.
    pub step: u64,
    /// The part of the step.
    pub phase: StepPhase,
    /// The collective of the generation that it takes part in, or will next, counted from 1.
    #[serde(default)]
    pub collective: u64,
    /// For how long.
    pub for_ms: u64,
    /// Median time of its last steps; none before there are some.
    pub usual_step_ms: Option<u64>,
    /// Median over its last steps of the time that it computes itself, per lane; none before there are some.
    #[serde(default)]
    pub lane_us: Option<u64>,
}

/// A part of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StepPhase {
    /// Computes its lanes, or commits.
    Computing,
    /// Exchanges gradients, features and losses with the other ranks.
    Exchanging,
    /// Is prepared, and waits until everyone is.
    Agreeing,
    /// Copies its part of a checkpoint, or waits until an earlier part is written.
    Saving,
}

/// State of a rank process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum RankState {
    /// Started; loading data and weights.
    Starting,
    /// Listens for its peers under this address (training stages only).
    Listening {
        /// `host:port`.
        address: String,
        /// Steps committed by the state that it holds in memory; none if it holds none.
        committed: Option<u64>,
    },
    /// Trains, or works on leased tasks.
    Running {
        /// Number of committed steps; 0 for tasks.
        committed: u64,
    },
    /// Its generation broke. It holds its state in memory and waits for the next generation (training stages only).
    Broken {
        /// Number of committed steps.
        committed: u64,
        /// Why, for people.
        reason: String,
    },
    /// All steps are committed and the last checkpoint's part was handed in. A rank that trains waits to be stopped, or for
    /// another generation if the last checkpoint did not become whole.
    Finished {
        /// Number of committed steps.
        committed: u64,
    },
    /// Has left its generation by plan, between two steps, and has no part in the next one. All that it wrote was handed in.
    Left {
        /// Number of committed steps.
        committed: u64,
    },
    /// Gave up, or its process ended.
    Failed {
        /// Why, for people.
        reason: String,
        /// Whether starting again may help: false for errors of the spec or data.
        retry: bool,
    },
    /// Gave up: the checkpoint that the stage was to go on from is damaged. Starting again from an earlier one helps.
    Damaged {
        /// What is wrong with which object.
        damage: Damage,
    },
    /// Gave up: the states of its generation's ranks differ. What any of them holds is not to be used again.
    Doubtful {
        /// What differs, and what is proven.
        doubt: Doubt,
    },
}

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

/// A node that another one is to try to reach.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// The node.
    pub node: NodeId,
    /// `host:port` on which its agent listens.
    pub address: String,
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

/// From an agent to one of its ranks, a JSON line on the rank's standard input. The end of that pipe ends the rank.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "to", rename_all = "kebab-case")]
pub enum ToRank {
    /// The first message.
    Start {
        /// The assignment; `members` is empty.
        assignment: Box<Assignment>,
        /// This rank's number.
        rank: u32,
        /// Address to listen on for peers: a host without port.
        host: String,
        /// Threads to compute with.
        threads: u32,
        /// Name of the device to compute on: `cpu`, or `cuda:N` with the format.
        device: String,
    },
    /// Another generation of the same stage, in which the rank takes part with what it holds in memory: it says that it
    /// listens, and connects once it knows the members. A later one of these replaces an earlier one.
    Regroup {
        /// The assignment; `members` is empty.
        assignment: Box<Assignment>,
        /// The rank's number in it.
        rank: u32,
        /// Whether the generation before is over. Otherwise it goes on until all its members know the next one's, and ends
        /// between two steps.
        at_once: bool,
    },
    /// Another generation follows, in which the rank has no part: it leaves together with the others, between two steps.
    Leave {
        /// The generation that follows.
        next: u64,
        /// Whether all leave, and a checkpoint with them.
        saves: bool,
    },
    /// Everyone listens: connect and begin.
    Connect {
        /// The generation.
        generation: u64,
        /// All members, in rank order.
        members: Vec<Member>,
    },
    /// Take a checkpoint.
    CheckpointAfter {
        /// The request.
        wanted: CheckpointWanted,
    },
    /// Answer to [`FromRank::LeaseWanted`]; none if there is nothing to do at present.
    Lease {
        /// The leased task.
        lease: Option<Lease>,
    },
    /// Stop now; nothing needs to be saved.
    Stop,
}

/// From a rank to its agent, a JSON line on the rank's standard output.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "from", rename_all = "kebab-case")]
pub enum FromRank {
    /// Its state in a generation changed.
    State {
        /// The generation.
        generation: u64,
        /// The new state.
        state: RankState,
    },
    /// The rank's process runs: said again and again by a thread that does not compute, so its absence means that the process
    /// stands still.
    Pulse {
        /// Where in a step it is, while it trains.
        doing: Option<Doing>,
        /// How far it is with its connections, while it makes them.
        #[serde(default)]
        connecting: Option<Connecting>,
    },
    /// A step was committed.
    Committed {
        /// Its metrics.
        metrics: StepMetrics,
        /// What it has read, where a ledger is kept.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ledger: Option<LedgerEntry>,
    },
    /// A part of a checkpoint was written and verified.
    Part {
        /// The part.
        part: CheckpointPart,
        /// Most memory that the rank's process has had resident so far, where its system says.
        peak_bytes: Option<u64>,
    },
    /// A part of a checkpoint cannot be written: the store refuses it. The rank goes on, and tries it again.
    PartRefused {
        /// Committed step of the checkpoint.
        step: u64,
        /// Why, for people.
        reason: String,
    },
    /// The rank has nothing to do and asks for a task.
    LeaseWanted,
    /// A task is done.
    TaskDone {
        /// The lease.
        lease: Lease,
        /// Its result.
        output: TaskOutput,
        /// Most memory that the rank's process has had resident so far, where its system says.
        peak_bytes: Option<u64>,
    },
    /// A task cannot be done.
    TaskFailed {
        /// The lease.
        lease: Lease,
        /// Why, for people.
        reason: String,
        /// Whether another try may help.
        retry: bool,
    },
    /// Progress within a task, for people.
    TaskProgress {
        /// The lease, which is renewed.
        lease: Lease,
        /// Units done.
        done: u64,
        /// Units in all.
        total: u64,
    },
}
