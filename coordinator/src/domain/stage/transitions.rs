//! What may become of a stage.
//!
//! A stage that waits is placed as a generation. Where that trains, another one may get ready beside it and follow it between
//! two steps; for a while ranks leave the one before. A generation that ends otherwise sets the stage back to waiting, but not
//! for ever. What is done stays so; what failed or was cancelled does, unless its job is retried.

use super::{Generation, MAX_SETBACKS, Seat, Setbacks, Stage, State};
use crate::domain::InvalidTransition;
use medley_protocol::agent::{Former, Member};

impl Stage {
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

    /// Failed or Cancelled → Blocked: its job is retried. Setbacks count anew, and what ranks of the generations up to now say of
    /// failing counts no more.
    pub fn retry(self) -> Result<Self, InvalidTransition> {
        match self.state {
            State::Failed { .. } | State::Cancelled => Ok(Self {
                setbacks: Setbacks::default(),
                forgiven: self.generation,
                ..self.with(State::Blocked)
            }),
            _ => Err(self.invalid("retried")),
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
