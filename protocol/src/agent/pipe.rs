//! Between an agent and one of its ranks: JSON lines on the rank's standard input and output.
//!
//! The agent turns the orders of its node into what it says here, and what it hears into reports and facts.

use super::{Assignment, CheckpointWanted, Connecting, Doing, Member, RankState};
use crate::checkpoint::CheckpointPart;
use crate::ledger::LedgerEntry;
use crate::metrics::StepMetrics;
use crate::tasks::{Lease, TaskOutput};
use serde::{Deserialize, Serialize};

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
