//! The ledger: which samples a committed step has read, lane by lane, as the lanes themselves saw them.
//!
//! An entry rides with the losses in the step's collective, so that every rank has it, and with the metrics to the job table:
//! it is stored in the transaction that stores the step's metrics, and like them survives whoever is lost.

use serde::{Deserialize, Serialize};

/// Most samples of a step that a ledger is kept for: an entry has to fit in one request.
pub const MAX_STEP_SAMPLES: u64 = 1 << 17;

/// The samples of one committed step. A function of the step alone: a redone step has the same entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerEntry {
    /// The step, counted from 0.
    pub step: u64,
    /// Samples that the stage draws from.
    pub pairs: u64,
    /// Its lanes, in order.
    pub lanes: Vec<LaneSamples>,
}

impl LedgerEntry {
    /// Samples of the step.
    pub fn len(&self) -> usize {
        self.lanes.iter().map(|lane| lane.samples.len()).sum()
    }

    /// Whether it names no sample.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What one lane has read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneSamples {
    /// The epoch.
    pub epoch: u64,
    /// Position in the epoch of its first sample; the others follow.
    pub position: u64,
    /// Numbers of the samples, in order.
    pub samples: Vec<u64>,
    /// Those that stand in for others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub replaced: Vec<Replaced>,
}

/// A sample that stands in for one whose bytes no longer decode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replaced {
    /// The position in the epoch.
    pub position: u64,
    /// Number of the draw that was taken, from 1.
    pub tries: u64,
}
