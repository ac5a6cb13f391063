//! What a rank is doing, told by one thread to another: the one that computes notes it, the one that pulses reads it.

use medley_protocol::agent::{Doing, StepPhase};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Steps whose times make the usual one.
const STEPS: usize = 15;
/// Steps before there is a usual one.
const FEWEST: usize = 5;

/// What a rank is doing. Cheap to clone; all clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Activity(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    now: Option<(Doing, Instant)>,
    /// When the last step was committed.
    committed: Option<Instant>,
    /// Times of the last steps.
    steps: VecDeque<Duration>,
}

impl Activity {
    /// A part of a step begins, in which this collective of the generation is the present one or the next.
    pub fn enter(&self, step: u64, phase: StepPhase, collective: u64) {
        let doing = Doing {
            step,
            phase,
            collective,
            for_ms: 0,
            usual_step_ms: None,
        };
        self.inner().now = Some((doing, Instant::now()));
    }

    /// A step was committed.
    pub fn committed(&self) {
        let mut inner = self.inner();
        let now = Instant::now();
        if let Some(before) = inner.committed.replace(now) {
            inner.steps.push_back(now - before);
            if inner.steps.len() > STEPS {
                inner.steps.pop_front();
            }
        }
    }

    /// The rank does not train at present. Among other ranks a step will take another time.
    pub fn rest(&self) {
        *self.inner() = Inner::default();
    }

    /// What is done now; none if the rank does not train.
    pub fn look(&self) -> Option<Doing> {
        let inner = self.inner();
        let (doing, since) = inner.now?;
        let mut steps: Vec<Duration> = inner.steps.iter().copied().collect();
        steps.sort_unstable();
        let usual = steps.get(steps.len() / 2).filter(|_| steps.len() >= FEWEST);
        Some(Doing {
            for_ms: since.elapsed().as_millis() as u64,
            usual_step_ms: usual.map(|usual| usual.as_millis() as u64),
            ..doing
        })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Every change above is complete before anything that could panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_thread_notes_another_one_reads() {
        let activity = Activity::default();
        assert_eq!(activity.look(), None);
        let noted = activity.clone();
        std::thread::spawn(move || noted.enter(7, StepPhase::Exchanging, 3))
            .join()
            .unwrap();
        let doing = activity.look().unwrap();
        assert_eq!(
            (doing.step, doing.phase, doing.collective, doing.usual_step_ms),
            (7, StepPhase::Exchanging, 3, None)
        );
        activity.rest();
        assert_eq!(activity.look(), None);
    }

    #[test]
    fn after_some_steps_there_is_a_usual_time() {
        let activity = Activity::default();
        activity.enter(0, StepPhase::Computing, 0);
        for _ in 0..FEWEST {
            activity.committed();
        }
        assert_eq!(
            activity.look().unwrap().usual_step_ms,
            None,
            "four steps lie between five commits"
        );
        activity.committed();
        assert!(activity.look().unwrap().usual_step_ms.is_some());
        activity.rest();
        activity.enter(0, StepPhase::Computing, 0);
        assert_eq!(
            activity.look().unwrap().usual_step_ms,
            None,
            "another generation has another speed"
        );
    }
}
