//! Jobs and stages as everybody sees them: kinds and states.

use serde::{Deserialize, Serialize};
use std::fmt;

/// What a stage does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StageKind {
    /// Finds readable samples of all sets, makes the first dataset version and the vocabulary.
    Index,
    /// Pre-trains a fresh model (ITC + ITM + LM).
    Pretrain,
    /// Fine-tunes the captioner (LM) on the human set.
    Captioner,
    /// Fine-tunes the filter (ITC + ITM) on the human set.
    Filter,
    /// Captions and scores the web set; makes the next dataset version.
    Capfilt,
    /// Evaluates a pre-trained model on the held-out set.
    Evaluate,
}

impl StageKind {
    /// Whether ranks work in lock-step on one model, rather than on leased tasks.
    pub const fn is_training(self) -> bool {
        matches!(self, Self::Pretrain | Self::Captioner | Self::Filter)
    }

    /// Whether ranks run a model.
    pub const fn computes(self) -> bool {
        !matches!(self, Self::Index)
    }

    /// The name used in URLs, logs and storage.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Index => "index",
            Self::Pretrain => "pretrain",
            Self::Captioner => "captioner",
            Self::Filter => "filter",
            Self::Capfilt => "capfilt",
            Self::Evaluate => "evaluate",
        }
    }
}

impl fmt::Display for StageKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// State of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum JobState {
    /// No stage has started.
    Queued,
    /// Some stage has started, but now none runs and one waits to be placed. Told, never stored.
    Waiting,
    /// Some stage has started.
    Running,
    /// Every stage is done.
    Succeeded,
    /// A stage failed for good.
    Failed,
    /// Cancelled by a user.
    Cancelled,
}

impl JobState {
    /// The name used in URLs, logs and storage.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Waiting => "waiting",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether the job will never change again.
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }
}

/// State of a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StageState {
    /// Stages it needs are not done.
    Blocked,
    /// Could run; waits for ranks.
    Waiting,
    /// Placed: the ranks of the present generation start and connect.
    Starting,
    /// The ranks of the present generation work.
    Running,
    /// Finished with its outputs recorded.
    Done,
    /// Failed for good.
    Failed,
    /// Cancelled with its job.
    Cancelled,
}

impl StageState {
    /// The name used in URLs, logs and storage.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Blocked => "blocked",
            Self::Waiting => "waiting",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether the stage will never change again.
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Done | Self::Failed | Self::Cancelled)
    }
}
