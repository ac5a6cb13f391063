//! Metrics of the mathematics: one row per committed step, the same on every rank.

use crate::ledger::LedgerEntry;
use serde::{Deserialize, Serialize};

/// What a committed training step reports. A function of the step alone: a redone step reports the same bits.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct StepMetrics {
    /// The committed step, counted from 0.
    pub step: u64,
    /// Epoch of that step.
    pub epoch: u64,
    /// Image-text contrastive loss, mean over lanes; 0 where the objective has none.
    pub itc: f64,
    /// Image-text matching loss, mean over lanes; 0 where the objective has none.
    pub itm: f64,
    /// Language-modelling loss, mean over lanes; 0 where the objective has none.
    pub lm: f64,
    /// Learning rate used.
    pub lr: f64,
    /// Weight of the momentum targets used.
    pub alpha: f64,
    /// Temperature after the step.
    pub temperature: f64,
    /// Euclidean norm of the mean gradient.
    pub grad_norm: f64,
}

impl StepMetrics {
    /// Sum of the losses, weighted 1:1:1 as in the paper.
    pub fn loss(&self) -> f64 {
        self.itc + self.itm + self.lm
    }
}

/// Consecutive rows of one stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MetricsChunk {
    /// The generation in which they were computed, or one that has gone on from them.
    #[serde(default)]
    pub generation: u64,
    /// Rows with consecutive steps.
    pub rows: Vec<StepMetrics>,
    /// What these steps have read, where a ledger is kept.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ledger: Vec<LedgerEntry>,
}

/// How far a stage's metrics are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetricsThrough {
    /// Number of steps stored: the next row wanted has this step.
    pub next_step: u64,
}
