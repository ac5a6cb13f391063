//! A stage: one node of a job's graph, the unit that is scheduled.
//!
//! Here is what a stage is and what is known of it; a [`Generation`] is one membership of it, and its `transitions` are all
//! that may become of it.

mod generation;
mod transitions;

pub use generation::{Generation, Seat};

use super::course::Course;
use medley_protocol::agent::{CheckpointWanted, Member};
use medley_protocol::checkpoint::Manifest;
use medley_protocol::ids::StageId;
use medley_protocol::stage::{StageKind, StageState};

/// A stage gives up after so many generations in a row that ended without progress.
pub const MAX_SETBACKS: u32 = 8;

/// A stage.
#[derive(Debug, Clone, PartialEq)]
pub struct Stage {
    /// Identity.
    pub id: StageId,
    /// Name within the job, such as `pretrain-0`.
    pub name: String,
    /// What it does.
    pub kind: StageKind,
    /// Bootstrap round it belongs to: the dataset version it reads.
    pub round: u32,
    /// Stages that must be done before.
    pub needs: Vec<StageId>,
    /// State.
    pub state: State,
    /// Number of the last generation that was made, which may not have come about; 0 before the first.
    pub generation: u64,
    /// Ranks of the last generation that came about.
    pub world: u32,
    /// Generations that ended without progress.
    pub setbacks: Setbacks,
    /// The last generation before its job was retried, 0 if it never was: that ranks up to it have failed is forgiven.
    pub forgiven: u64,
    /// Steps of a training stage, once known.
    pub course: Option<Course>,
    /// What ranks have handed in. Facts only grow, but for what is found damaged or doubtful; so nothing here guards a
    /// transition.
    pub facts: Facts,
}

/// What a stage is doing.
#[derive(Debug, Clone, PartialEq)]
pub enum State {
    /// Stages it needs are not done.
    Blocked,
    /// Could run.
    Waiting {
        /// Why it does not yet, in words.
        reason: String,
    },
    /// The ranks of a generation start.
    Starting(Generation),
    /// The ranks of a generation work.
    Running {
        /// The generation.
        generation: Generation,
        /// Everyone with its address, in rank order; empty for stages of tasks.
        members: Vec<Member>,
        /// The committed steps that it goes on from, at least; 0 for stages of tasks.
        from: u64,
        /// Another generation that gets ready to follow.
        next: Option<Generation>,
        /// The generation before, as long as ranks of it leave that have no part in this one.
        former: Option<Generation>,
    },
    /// Finished with its outputs recorded.
    Done,
    /// Failed for good.
    Failed {
        /// Why, in words.
        reason: String,
    },
    /// Cancelled with its job.
    Cancelled,
}

impl State {
    /// The state without what it owns.
    pub const fn label(&self) -> StageState {
        match self {
            Self::Blocked => StageState::Blocked,
            Self::Waiting { .. } => StageState::Waiting,
            Self::Starting(_) => StageState::Starting,
            Self::Running { .. } => StageState::Running,
            Self::Done => StageState::Done,
            Self::Failed { .. } => StageState::Failed,
            Self::Cancelled => StageState::Cancelled,
        }
    }
}

/// Generations in a row that ended without progress.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Setbacks {
    /// How many.
    pub in_a_row: u32,
    /// [`Stage::progress`] when the last one ended.
    pub progress: u64,
}

/// What ranks have handed in, and found.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Facts {
    /// The last committed checkpoint that is not known to be damaged.
    pub checkpoint: Option<Manifest>,
    /// Steps whose metrics are stored.
    pub metrics_through: u64,
    /// A requested checkpoint that was not taken yet.
    pub wanted: Option<CheckpointWanted>,
    /// Its tasks.
    pub tasks: Tasks,
    /// The last generation whose states are doubtful, as are those of all before it; 0 if there is none.
    pub doubted: u64,
}

/// Tasks of a stage by what became of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tasks {
    /// Not finished, leased or not.
    pub unfinished: u64,
    /// Finished.
    pub done: u64,
    /// Whether the merge exists.
    pub has_merge: bool,
    /// Why a task failed for good, if one did.
    pub failed: Option<String>,
}

impl Stage {
    /// The present generation.
    pub fn present(&self) -> Option<&Generation> {
        match &self.state {
            State::Starting(generation) | State::Running { generation, .. } => Some(generation),
            _ => None,
        }
    }

    /// The generation that gets ready to follow the present one.
    pub fn next(&self) -> Option<&Generation> {
        match &self.state {
            State::Running { next, .. } => next.as_ref(),
            _ => None,
        }
    }

    /// The generation that ranks leave, for the present one or for good.
    pub fn former(&self) -> Option<&Generation> {
        match &self.state {
            State::Running { former, .. } => former.as_ref(),
            _ => None,
        }
    }

    /// Steps of the last checkpoint; 0 before the first.
    pub fn checkpoint_step(&self) -> u64 {
        self.facts.checkpoint.as_ref().map_or(0, |manifest| manifest.step)
    }

    /// Steps that are known to be committed, or finished tasks.
    pub fn progress(&self) -> u64 {
        if self.kind.is_training() {
            // Ranks go on from memory: a step counts once its metrics are stored, long before a checkpoint has it.
            self.checkpoint_step().max(self.facts.metrics_through)
        } else {
            self.facts.tasks.done
        }
    }

    /// Whether the checkpoint of the last step is committed.
    pub fn has_last_checkpoint(&self) -> bool {
        let last = self.facts.checkpoint.as_ref().map(|manifest| manifest.step);
        self.course.is_some_and(|course| last == Some(course.total_steps))
    }

    /// Whether the stage ends with a merge of its tasks.
    pub fn merges(&self) -> bool {
        matches!(self.kind, StageKind::Index | StageKind::Capfilt)
    }
}

#[cfg(test)]
mod tests;
