//! A stage: one node of a job's graph, the unit that is scheduled.

use super::InvalidTransition;
use super::course::Course;
use medley_protocol::agent::{CheckpointWanted, Former, Member};
use medley_protocol::checkpoint::Manifest;
use medley_protocol::ids::{IncarnationId, NodeId, StageId};
use medley_protocol::stage::{StageKind, StageState};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

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

/// One membership of a stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Generation {
    /// Its fencing number.
    pub number: u64,
    /// Shared by its members.
    pub secret: String,
    /// Who runs which rank, in rank order, ranks of one node together.
    pub seats: Vec<Seat>,
    /// The checkpoint that its members start from if none of them holds a later state, fixed when the generation is made.
    pub resume: Option<Manifest>,
    /// Ranks of the generation before that held the others up: their processes take no part.
    #[serde(default)]
    pub without: Vec<Former>,
}

impl Generation {
    /// Ranks on each node.
    pub fn ranks_by_node(&self) -> BTreeMap<NodeId, u32> {
        let mut ranks = BTreeMap::new();
        for seat in &self.seats {
            *ranks.entry(seat.node).or_default() += 1;
        }
        ranks
    }

    /// Its seats beyond those that the nodes have in another generation: on each node the last ones, as agents give the first
    /// to the ranks that they have.
    pub fn beyond(&self, other: &Self) -> Vec<Seat> {
        let mut has = other.ranks_by_node();
        let is_beyond = |seat: &&Seat| {
            let left = has.entry(seat.node).or_default();
            let is_beyond = *left == 0;
            *left = left.saturating_sub(1);
            is_beyond
        };
        self.seats.iter().filter(is_beyond).copied().collect()
    }
}

/// One rank's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seat {
    /// The rank.
    pub rank: u32,
    /// The node that runs it.
    pub node: NodeId,
    /// The life of that node's agent: the rank dies with it.
    pub incarnation: IncarnationId,
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

    /// Blocked → Waiting: everything it needs is done.
    pub fn unblock(self) -> Result<Self, InvalidTransition> {
        match self.state {
            State::Blocked => Ok(self.with(State::Waiting {
                reason: "waits to be placed".into(),
            })),
            _ => Err(self.invalid("waiting")),
        }
    }

    /// Waiting for another reason.
    pub fn wait(self, reason: String) -> Result<Self, InvalidTransition> {
        match self.state {
            State::Waiting { .. } => Ok(self.with(State::Waiting { reason })),
            _ => Err(self.invalid("waiting")),
        }
    }

    /// Waiting → Starting (training) or Running (tasks), as a new generation.
    pub fn place(self, seats: Vec<Seat>, secret: String) -> Result<Self, InvalidTransition> {
        if !matches!(self.state, State::Waiting { .. }) {
            return Err(self.invalid("placed"));
        }
        let generation = self.following(seats, secret);
        let (number, world) = (generation.number, generation.seats.len() as u32);
        let state = if self.kind.is_training() {
            State::Starting(generation)
        } else {
            State::Running {
                generation,
                members: Vec::new(),
                from: 0,
                next: None,
                former: None,
            }
        };
        Ok(Self {
            generation: number,
            world,
            ..self.with(state)
        })
    }

    /// Starting → Running: every member listens, and the furthest of them has committed `from` steps.
    pub fn run(mut self, members: Vec<Member>, from: u64) -> Result<Self, InvalidTransition> {
        match self.state {
            State::Starting(generation) => {
                self.state = State::Running {
                    generation,
                    members,
                    from,
                    next: None,
                    former: None,
                };
                Ok(self)
            }
            _ => Err(self.invalid("running")),
        }
    }

    /// Running: another generation gets ready beside the present one.
    pub fn prepare(mut self, seats: Vec<Seat>, secret: String) -> Result<Self, InvalidTransition> {
        let following = self.following(seats, secret);
        match &mut self.state {
            State::Running {
                next: next @ None,
                former: None,
                ..
            } if self.kind.is_training() => {
                self.generation = following.number;
                *next = Some(following);
                Ok(self)
            }
            _ => Err(self.invalid("changing")),
        }
    }

    /// Running: the generation that got ready will not follow.
    pub fn stay(mut self) -> Result<Self, InvalidTransition> {
        match &mut self.state {
            State::Running {
                next: next @ Some(_), ..
            } => {
                *next = None;
                Ok(self)
            }
            _ => Err(self.invalid("as it was")),
        }
    }

    /// Running: every member of the generation that got ready listens, and it is the present one. Ranks that have no part in it
    /// leave the one before.
    pub fn follow(self, members: Vec<Member>, from: u64) -> Result<Self, InvalidTransition> {
        match self.state {
            State::Running {
                generation: before,
                next: Some(generation),
                former: None,
                ..
            } => {
                let loses_ranks = !before.beyond(&generation).is_empty();
                Ok(Self {
                    world: generation.seats.len() as u32,
                    state: State::Running {
                        generation,
                        members,
                        from,
                        next: None,
                        former: loses_ranks.then_some(before),
                    },
                    ..self
                })
            }
            _ => Err(self.invalid("followed")),
        }
    }

    /// Running: the ranks do not change over, and the generation before is the present one again.
    pub fn take_back(mut self) -> Result<Self, InvalidTransition> {
        match &mut self.state {
            State::Running {
                generation,
                members,
                former,
                ..
            } => match former.take() {
                Some(before) => {
                    self.world = before.seats.len() as u32;
                    *generation = before;
                    // They know each other.
                    members.clear();
                    Ok(self)
                }
                None => Err(self.invalid("taken back")),
            },
            _ => Err(self.invalid("taken back")),
        }
    }

    /// Running: all ranks that had to leave have left; without any that stay the stage waits.
    pub fn part(mut self, reason: &str) -> Result<Self, InvalidTransition> {
        match &mut self.state {
            State::Running {
                generation,
                former: former @ Some(_),
                ..
            } => {
                *former = None;
                if generation.seats.is_empty() {
                    let reason = reason.to_owned();
                    return Ok(self.with(State::Waiting { reason }));
                }
                Ok(self)
            }
            _ => Err(self.invalid("parted")),
        }
    }

    /// A generation after all that were made.
    fn following(&self, seats: Vec<Seat>, secret: String) -> Generation {
        Generation {
            number: self.generation + 1,
            secret,
            seats,
            resume: self.facts.checkpoint.clone(),
            without: Vec::new(),
        }
    }

    /// Starting: the generation has no place for the processes of these ranks of an earlier one.
    #[must_use]
    pub fn leave_out(mut self, former: Vec<Former>) -> Self {
        if let State::Starting(generation) = &mut self.state {
            generation.without = former;
        }
        self
    }

    /// Running: its ranks have come to this step. Further than where the generation began is progress, even if other ranks had
    /// been there before whose memory was lost.
    #[must_use]
    pub fn reached(mut self, step: u64) -> Self {
        if matches!(self.state, State::Running { from, .. } if step > from) {
            self.setbacks.in_a_row = 0;
        }
        self
    }

    /// Starting or Running → Waiting, or Failed if that has happened too often without progress.
    pub fn set_back(self, reason: &str) -> Result<Self, InvalidTransition> {
        let Some(number) = self.present().map(|generation| generation.number) else {
            return Err(self.invalid("set back"));
        };
        let progress = self.progress();
        let in_a_row = if progress > self.setbacks.progress {
            1
        } else {
            self.setbacks.in_a_row + 1
        };
        let setbacks = Setbacks { in_a_row, progress };
        let state = if in_a_row >= MAX_SETBACKS {
            let reason = format!("{in_a_row} generations in a row ended without progress; the last because {reason}");
            State::Failed { reason }
        } else {
            let reason = format!("generation {number} is over: {reason}");
            State::Waiting { reason }
        };
        Ok(Self {
            setbacks,
            ..self.with(state)
        })
    }

    /// Starting or Running → Waiting, for what is no setback: the checkpoint to go on from is damaged, and there are only so
    /// many, or the network is cut.
    pub fn fall_back(self, reason: &str) -> Result<Self, InvalidTransition> {
        let Some(number) = self.present().map(|generation| generation.number) else {
            return Err(self.invalid("set back"));
        };
        let reason = format!("generation {number} is over: {reason}");
        Ok(self.with(State::Waiting { reason }))
    }

    /// Waiting, Starting or Running → Done. Waiting too: facts may complete a stage after its generation is over.
    pub fn finish(self) -> Result<Self, InvalidTransition> {
        match self.state {
            State::Waiting { .. } | State::Starting(_) | State::Running { .. } => Ok(self.with(State::Done)),
            _ => Err(self.invalid("done")),
        }
    }

    /// Any state that is not final → Failed.
    pub fn fail(self, reason: String) -> Result<Self, InvalidTransition> {
        if self.state.label().is_final() {
            return Err(self.invalid("failed"));
        }
        Ok(self.with(State::Failed { reason }))
    }

    /// Any state that is not final → Cancelled.
    pub fn cancel(self) -> Result<Self, InvalidTransition> {
        if self.state.label().is_final() {
            return Err(self.invalid("cancelled"));
        }
        Ok(self.with(State::Cancelled))
    }

    fn with(self, state: State) -> Self {
        Self { state, ..self }
    }

    fn invalid(&self, to: &'static str) -> InvalidTransition {
        InvalidTransition {
            what: format!("stage {}", self.name),
            from: self.state.label().name(),
            to,
        }
    }
}

#[cfg(test)]
mod tests;
