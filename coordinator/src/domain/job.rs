//! A job: the aggregate that is loaded, decided on and written as one.

use super::{InvalidTransition, Stage};
use chrono::{DateTime, Utc};
use medley_protocol::checkpoint::ObjectRef;
use medley_protocol::ids::{JobId, StageId};
use medley_protocol::spec::Spec;
use medley_protocol::stage::{JobState, StageState};
use medley_protocol::tasks::Counts;
use std::sync::Arc;

/// A job with its stages.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// Identity.
    pub id: JobId,
    /// Version of the row it was loaded from: it is written only over this one.
    pub version: i64,
    /// The completed spec.
    pub spec: Arc<Spec>,
    /// When it was submitted: older jobs come first.
    pub submitted_at: DateTime<Utc>,
    /// State.
    pub state: State,
    /// Stages in topological order.
    pub stages: Vec<Stage>,
    /// Dataset versions by number.
    pub datasets: Vec<Dataset>,
}

/// What a job is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// No stage has started.
    Queued,
    /// Some stage has started.
    Running,
    /// Every stage is done.
    Succeeded,
    /// A stage failed for good.
    Failed {
        /// Why, in words.
        reason: String,
    },
    /// Cancelled by a user.
    Cancelled,
}

impl State {
    /// The state without what it owns.
    pub const fn label(&self) -> JobState {
        match self {
            Self::Queued => JobState::Queued,
            Self::Running => JobState::Running,
            Self::Succeeded => JobState::Succeeded,
            Self::Failed { .. } => JobState::Failed,
            Self::Cancelled => JobState::Cancelled,
        }
    }
}

/// A dataset version, as stages read it.
#[derive(Debug, Clone, PartialEq)]
pub struct Dataset {
    /// Number in the job.
    pub version: u32,
    /// Its manifest.
    pub object: ObjectRef,
    /// Its vocabulary.
    pub vocab: ObjectRef,
    /// Pairs by source.
    pub counts: Counts,
}

impl Job {
    /// The stage of this id.
    pub fn stage(&self, id: StageId) -> Option<&Stage> {
        self.stages.iter().find(|stage| stage.id == id)
    }

    /// The dataset version of this number.
    pub fn dataset(&self, version: u32) -> Option<&Dataset> {
        self.datasets.iter().find(|dataset| dataset.version == version)
    }

    /// Whether everything that `stage` needs is done.
    pub fn needs_are_done(&self, stage: &Stage) -> bool {
        stage.needs.iter().all(|need| {
            let needed = self.stage(*need);
            needed.is_some_and(|needed| needed.state.label() == StageState::Done)
        })
    }

    /// Queued → Running: a stage starts.
    pub fn start(self) -> Result<Self, InvalidTransition> {
        match self.state {
            State::Queued => Ok(self.with(State::Running)),
            _ => Err(self.invalid(JobState::Running)),
        }
    }

    /// Running → Succeeded: every stage is done.
    pub fn succeed(self) -> Result<Self, InvalidTransition> {
        let all_done = self.stages.iter().all(|stage| stage.state.label() == StageState::Done);
        match self.state {
            State::Running if all_done => Ok(self.with(State::Succeeded)),
            _ => Err(self.invalid(JobState::Succeeded)),
        }
    }

    /// Queued or Running → Failed; its other stages are cancelled.
    pub fn fail(self, reason: String) -> Result<Self, InvalidTransition> {
        if self.state.label().is_final() {
            return Err(self.invalid(JobState::Failed));
        }
        Ok(self.cancel_stages()?.with(State::Failed { reason }))
    }

    /// Queued or Running → Cancelled, with its stages.
    pub fn cancel(self) -> Result<Self, InvalidTransition> {
        if self.state.label().is_final() {
            return Err(self.invalid(JobState::Cancelled));
        }
        Ok(self.cancel_stages()?.with(State::Cancelled))
    }

    /// Failed → Running, or Queued if no stage had started: the job goes on where it failed. Stages that are done stay so; the
    /// others are blocked again, those that failed until the next decision finds that all they need is done.
    pub fn retry(mut self) -> Result<Self, InvalidTransition> {
        if !matches!(self.state, State::Failed { .. }) {
            return Err(self.invalid(JobState::Running));
        }
        let has_started = self.stages.iter().any(|stage| stage.generation > 0);
        let retry = |stage: Stage| match stage.state.label() {
            StageState::Done => Ok(stage),
            _ => stage.retry(),
        };
        self.stages = self.stages.into_iter().map(retry).collect::<Result<_, _>>()?;
        Ok(self.with(if has_started { State::Running } else { State::Queued }))
    }

    fn cancel_stages(mut self) -> Result<Self, InvalidTransition> {
        let cancel = |stage: Stage| {
            if stage.state.label().is_final() {
                Ok(stage)
            } else {
                stage.cancel()
            }
        };
        self.stages = self.stages.into_iter().map(cancel).collect::<Result<_, _>>()?;
        Ok(self)
    }

    fn with(self, state: State) -> Self {
        Self { state, ..self }
    }

    fn invalid(&self, to: JobState) -> InvalidTransition {
        InvalidTransition {
            what: format!("job {}", self.id),
            from: self.state.label().name(),
            to: to.name(),
        }
    }
}
