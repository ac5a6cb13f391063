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

    /// Median time of its last steps, or what is expected of them in a generation that has made few; none if nothing is known.
    pub fn usual_step(&self) -> Option<Duration> {
        self.usual_step_ms.map(Duration::from_millis)
    }

    /// Whether it has made enough steps in this generation to know how long it computes.
    pub fn is_settled(&self) -> bool {
        self.lane_us.is_some()
    }

    /// Whether it waits for other ranks.
    pub fn waits(&self) -> bool {
        matches!(self.phase, StepPhase::Exchanging | StepPhase::Agreeing)
    }

    /// Whether it has waited for other ranks much longer than a step takes.
    pub fn misses_somebody(&self) -> bool {
        self.usual_step().is_some_and(|usual| self.has_waited_beyond(usual))
    }

    /// Whether it has waited for other ranks much longer than a step of this time.
    pub fn has_waited_beyond(&self, usual: Duration) -> bool {
        self.waits() && self.lasts() >= (usual * STEPS).max(MISSED)
    }
}
