//! What the core is told and what it asks for.

use crate::supervise;
use medley_protocol::agent::{Beat, Orders, Register, Registered, ToRank};
use medley_protocol::error::Code;
use medley_protocol::hardware::Gpu;
use medley_protocol::ids::{NodeId, StageId, TaskId};
use medley_protocol::metrics::{MetricsChunk, MetricsThrough};
use medley_protocol::rest::{LeaseRequest, PartHandedIn, PartRefused, TaskFinished, TaskGivenUp, TaskRenewal};
use medley_protocol::tasks::Lease;
use std::time::Duration;

/// A rank process as the core names it; never used twice in one life of the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProcessId(pub u64);

/// A request under way; never used twice in one life of the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// What happened.
#[derive(Debug)]
pub enum Input {
    /// Answer to [`Output::Register`].
    Registered(Result<Registered, Trouble>),
    /// Answer to [`Output::Beat`].
    Ordered(Result<Orders, Trouble>),
    /// A rank process said something, or ended. A process that could not be started has ended as well.
    Rank {
        /// The process.
        process: ProcessId,
        /// What it did.
        event: supervise::Event,
    },
    /// Answer to [`Output::Send`].
    Answered {
        /// The request.
        id: RequestId,
        /// The answer.
        answer: Result<Reply, Trouble>,
    },
    /// The agent is to end once its ranks have left their stages.
    Leave {
        /// Within this time, or else without that.
        grace: Duration,
    },
    /// Answer to [`Output::Probe`].
    Probed {
        /// The node.
        node: NodeId,
        /// Whether it was reached.
        reached: bool,
    },
    /// How the node's GPUs were found to be.
    Gpus(Vec<Gpu>),
    /// The agent is to stop at once.
    Stop,
    /// Time passed.
    Tick,
}

/// What is to be done, in this order. Every output that expects an answer gets exactly one, however late.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// Register with the coordinator.
    Register(Register),
    /// Beat.
    Beat {
        /// The beat.
        beat: Beat,
        /// Longest wait for the answer.
        patience: Duration,
    },
    /// Start a rank process.
    Start {
        /// How the core will speak of it.
        process: ProcessId,
        /// The device it owns, counted from 0; no other process has it. A node's GPUs have devices in turns.
        device: u32,
        /// Its first order.
        order: ToRank,
    },
    /// Give an order to a rank process.
    Tell {
        /// The process.
        process: ProcessId,
        /// The order.
        order: ToRank,
    },
    /// Kill a rank process; its end is reported as for any other.
    Kill {
        /// The process.
        process: ProcessId,
    },
    /// Send a request to the coordinator.
    Send {
        /// Names the request in its answer.
        id: RequestId,
        /// The request.
        request: Request,
    },
    /// Try to reach the agent of another node.
    Probe {
        /// The node.
        node: NodeId,
        /// Where its agent listens.
        address: String,
    },
    /// Tell people.
    Info(String),
    /// Tell people that something is not as it should be.
    Warn(String),
    /// Serving this coordinator makes no sense any more; the ranks are being killed.
    Halt {
        /// Why and what to do.
        reason: String,
    },
}

/// A request to the coordinator beside registration and beats.
#[derive(Debug, Clone, PartialEq)]
pub enum Request {
    /// How far are the metrics of a stage stored?
    MetricsThrough {
        /// The stage.
        stage: StageId,
    },
    /// Metrics of committed steps.
    Metrics {
        /// The stage.
        stage: StageId,
        /// The rows.
        chunk: MetricsChunk,
    },
    /// A part of a checkpoint.
    Part {
        /// The stage.
        stage: StageId,
        /// The part.
        body: PartHandedIn,
    },
    /// A part of a checkpoint that the store refuses, so that people learn of it.
    Refused {
        /// The stage.
        stage: StageId,
        /// Which and why.
        body: PartRefused,
    },
    /// A rank wants a task.
    Lease {
        /// The process that gets the answer.
        process: ProcessId,
        /// The stage.
        stage: StageId,
        /// On whose behalf.
        body: LeaseRequest,
    },
    /// A task is being worked on.
    Renew {
        /// The task.
        task: TaskId,
        /// Its lease.
        body: TaskRenewal,
    },
    /// A task is done.
    Finish {
        /// The task.
        task: TaskId,
        /// Its lease and result.
        body: TaskFinished,
    },
    /// A task was given up.
    Fail {
        /// The task.
        task: TaskId,
        /// Its lease and why.
        body: TaskGivenUp,
    },
}

impl Request {
    /// What it is, for people.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::MetricsThrough { stage } => format!("the question how far metrics of stage {stage} are stored"),
            Self::Metrics { stage, chunk } => format!("{} rows of metrics of stage {stage}", chunk.rows.len()),
            Self::Part { stage, body } => {
                let part = &body.part;
                format!(
                    "part {} of {} of the checkpoint of stage {stage} at step {}",
                    part.part, part.parts, part.step
                )
            }
            Self::Refused { stage, body } => {
                format!(
                    "the word that the store refuses the checkpoint of stage {stage} at step {}",
                    body.step
                )
            }
            Self::Lease { stage, body, .. } => format!("the request of rank {} of stage {stage} for a task", body.rank),
            Self::Renew { task, .. } => format!("the renewal of task {task}"),
            Self::Finish { task, .. } => format!("the result of task {task}"),
            Self::Fail { task, .. } => format!("the failure of task {task}"),
        }
    }
}

/// The coordinator's answer to a [`Request`].
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// To both requests about metrics.
    Through(MetricsThrough),
    /// To a request for a task.
    Lease(Option<Lease>),
    /// To everything else.
    Done,
}

/// Why there is no good answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// No answer at all.
    Away(String),
    /// The coordinator refused.
    Refused {
        /// Why, as machines read it.
        code: Code,
        /// Why, for people.
        detail: String,
    },
}

/// What a [`Trouble`] means for whoever asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    /// The coordinator is away: the same request may succeed later, and so may every other.
    Away,
    /// The token is refused, whatever it was used for.
    Token,
    /// The coordinator failed at this request; it may do better later.
    Stumbled,
    /// The request does not fit the present state.
    Outdated,
    /// There is no such thing.
    Unknown,
    /// The request will never be accepted.
    Wrong,
}

impl Trouble {
    pub(super) fn meaning(&self) -> Meaning {
        match self {
            Self::Away(_) => Meaning::Away,
            Self::Refused { code, .. } => match code {
                Code::Unavailable => Meaning::Away,
                Code::Internal => Meaning::Stumbled,
                Code::Unauthorized | Code::Forbidden => Meaning::Token,
                Code::Conflict | Code::Stale => Meaning::Outdated,
                Code::NotFound => Meaning::Unknown,
                Code::BadRequest | Code::Invalid | Code::IdempotencyMismatch | Code::TooLarge => Meaning::Wrong,
            },
        }
    }

    pub(super) fn detail(&self) -> &str {
        match self {
            Self::Away(detail) | Self::Refused { detail, .. } => detail,
        }
    }
}
