//! What an agent says of one of its ranks.

use crate::checkpoint::Damage;
use crate::doubt::Doubt;
use crate::ids::StageId;
use serde::{Deserialize, Serialize};

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
    /// Tries again and again to read samples of its lanes: their shard is missing, or cannot be read.
    Reading,
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
