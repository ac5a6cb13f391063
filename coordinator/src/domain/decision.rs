//! What a decision asks of the job table, to be carried out in one transaction.

use super::course::Course;
use super::{Event, Job};
use medley_protocol::checkpoint::Damage;
use medley_protocol::doubt::Doubt;
use medley_protocol::ids::{JobId, StageId};
use std::collections::BTreeSet;

/// What is to be done to rows beside those of jobs and stages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Make the epochs of a training stage.
    OpenEpochs {
        /// The stage.
        stage: StageId,
        /// Its course.
        course: Course,
    },
    /// All its steps are committed: every epoch is done.
    CloseEpochs {
        /// The stage.
        stage: StageId,
    },
    /// All shards are done: make the task that merges them. Harmless when repeated.
    AddMerge {
        /// The stage.
        stage: StageId,
    },
    /// Take leases back from ranks of a generation that is over.
    ReleaseTasks {
        /// The stage.
        stage: StageId,
        /// Ranks that failed: their attempts count, those of the others do not.
        failed: Vec<u32>,
    },
    /// A checkpoint cannot be loaded: no generation starts from it any more. Harmless when repeated.
    MarkDamaged {
        /// What is wrong with it.
        damage: Damage,
        /// What is said of it, the first time.
        event: Event,
    },
    /// The states of a generation's ranks differ: what it and those before it have handed in, and what is not proven of that, is
    /// given up. Harmless when repeated.
    Doubt {
        /// The stage.
        stage: StageId,
        /// The last generation that was made.
        generation: u64,
        /// What is doubtful.
        doubt: Doubt,
        /// What is said if a checkpoint is given up.
        event: Event,
    },
}

impl Effect {
    /// The stage that it concerns.
    pub fn stage(&self) -> Option<StageId> {
        match self {
            Self::OpenEpochs { stage, .. }
            | Self::CloseEpochs { stage }
            | Self::AddMerge { stage }
            | Self::ReleaseTasks { stage, .. }
            | Self::Doubt { stage, .. } => Some(*stage),
            Self::MarkDamaged { event, .. } => event.stage,
        }
    }
}

/// What was decided.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Decision {
    /// All jobs, as they should be.
    pub jobs: Vec<Job>,
    /// Those that changed.
    pub changed: BTreeSet<JobId>,
    /// What happened, in order.
    pub events: Vec<Event>,
    /// What else is to be done.
    pub effects: Vec<Effect>,
}

impl Decision {
    /// Whether nothing is to be written.
    pub fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.events.is_empty() && self.effects.is_empty()
    }
}
