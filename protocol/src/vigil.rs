//! When a rank is missed and when its process stands still.
//!
//! A coordinator judges by this, and agents say it as soon as it is so, not at their next beat: whoever has to be found
//! within a second cannot wait for the beat, and for the decision after it.

use crate::agent::{Doing, StepPhase};
use std::time::Duration;

/// Usual steps after which a wait is too long.
pub const STEPS: u32 = 3;
/// Shortest wait that says that somebody is missed.
pub const MISSED: Duration = Duration::from_millis(500);
/// Silence of a process, while it is missed, after which it stands still.
pub const QUIET: Duration = Duration::from_millis(750);

impl Doing {
    /// For how long it has been in this part of the step.
    pub fn lasts(&self) -> Duration {
        Duration::from_millis(self.for_ms)
    }

    /// Median time of its last steps; none before there are some.
    pub fn usual_step(&self) -> Option<Duration> {
        self.usual_step_ms.map(Duration::from_millis)
    }

    /// Whether it waits for other ranks.
    pub fn waits(&self) -> bool {
        matches!(self.phase, StepPhase::Exchanging | StepPhase::Agreeing)
    }

    /// Whether it has waited for other ranks much longer than a step takes.
    pub fn misses_somebody(&self) -> bool {
        let limit = self.usual_step().map(|usual| (usual * STEPS).max(MISSED));
        self.waits() && limit.is_some_and(|limit| self.lasts() >= limit)
    }
}
