//! The job specification: what a user submits, completed and checked.
//!
//! A submitted document is laid over the document of its preset, so that every value can be set and every default is
//! written in one place ([`preset`]). The completed [`Spec`] is what Postgres stores: a job never depends on presets
//! that change later. [`Spec::from_document`] refuses unknown, missing and contradictory fields, all of them at once,
//! each with its path and what to do; what follows from another problem is not one of them.

mod data;
mod document;
mod fields;
mod follow;
mod model;
mod names;
mod preset;
mod read;
mod start;
mod train;
mod validate;

pub use data::{
    CapfiltSpec, CheckpointSpec, ClusterSpec, Collective, DataSpec, EvaluateSpec, LaneSpec, OnLoss, Specials, VocabSpec,
};
pub use document::{Problem, Problems};
pub use model::{InitSpec, MAX_GPU_HEAD, ModelSpec, TemperatureSpec, TextSpec, VisionSpec};
pub use preset::{PRESETS, Preset};
pub use start::StartSpec;
pub use train::{AugmentSpec, Behaviour, Decay, Length, Negatives, Precision, SameImage, TrainSpec};

use serde::{Deserialize, Serialize};

/// What a job does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Pre-train on the human and web sets as they are.
    Pretrain,
    /// Pre-train, bootstrap the web set with CapFilt (`rounds` times), pre-train again, evaluate.
    Bootstrap,
}

impl Kind {
    /// The name used in URLs, logs and storage.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pretrain => "pretrain",
            Self::Bootstrap => "bootstrap",
        }
    }
}

/// A completed job specification: every value is explicit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// A name for people.
    pub name: String,
    /// What the job does.
    pub kind: Kind,
    /// The preset whose values were taken where the document was silent.
    pub preset: Preset,
    /// Seed of all randomness: weights, order, dropout, augmentation, negatives and sampling.
    pub seed: u64,
    /// CapFilt rounds of a bootstrap job (the paper does one).
    pub rounds: u32,
    /// Where the samples lie.
    pub data: DataSpec,
    /// The vocabulary.
    pub vocab: VocabSpec,
    /// The lanes of a step.
    pub lanes: LaneSpec,
    /// What the job asks of the cluster.
    pub cluster: ClusterSpec,
    /// Architecture and initialisation.
    pub model: ModelSpec,
    /// Weights from elsewhere.
    #[serde(default)]
    pub start: StartSpec,
    /// Pre-training (all rounds).
    pub pretrain: TrainSpec,
    /// Fine-tuning of the captioner (LM).
    pub captioner: TrainSpec,
    /// Fine-tuning of the filter (ITC and ITM).
    pub filter: TrainSpec,
    /// Captioning and filtering of the web set.
    pub capfilt: CapfiltSpec,
    /// Held-out evaluation.
    pub evaluate: EvaluateSpec,
    /// When checkpoints are taken.
    pub checkpoint: CheckpointSpec,
    /// Whether it is written down which samples every step has read. Costs about ten bytes of the job table per sample.
    #[serde(default)]
    pub ledger: bool,
}

impl Spec {
    /// Completes a submitted document with its preset and checks it.
    ///
    /// # Errors
    /// [`Problems`]: every unknown, missing, ill-typed or contradictory field found, with its path and what to do.
    pub fn from_document(document: &serde_json::Value) -> Result<Self, Problems> {
        document::complete(document)
    }

    /// The checks that need no file system, on an already completed spec.
    ///
    /// # Errors
    /// [`Problems`] as for [`Spec::from_document`].
    pub fn validate(&self) -> Result<(), Problems> {
        validate::validate(self)
    }

    /// Longest text of one of this spec's stages, in tokens.
    pub fn max_tokens(&self, stage: &TrainSpec) -> usize {
        self.model.text.max_tokens.unwrap_or(stage.max_tokens) as usize
    }

    /// What GPUs compute in, in every stage of the job.
    pub fn precision(&self) -> Precision {
        self.pretrain.precision.unwrap_or_default()
    }

    /// Samples of one training step: lanes × batch per lane.
    pub fn global_batch(&self) -> u64 {
        u64::from(self.lanes.count) * u64::from(self.lanes.batch)
    }
}
