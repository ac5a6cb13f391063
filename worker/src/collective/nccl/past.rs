//! What has become of NCCL so far, as a process remembers it from generation to generation.
//!
//! Two things are told apart. What a rank's own NCCL or device has done wrong is *its* fault: it will most likely do so again until its
//! process is a new one. What came from elsewhere, such as a peer that failed or an exchange that did not end, is held
//! against nobody; but such failures are counted, so that what nobody can be blamed for is not tried for ever.

use serde::{Deserialize, Serialize};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Why NCCL failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// For people.
    pub why: String,
    /// Whether this rank's own NCCL or device is to blame, whatever peers did.
    pub is_own: bool,
}

impl Fault {
    /// Of this rank's own.
    pub fn own(why: impl Into<String>) -> Self {
        let why = why.into();
        Self { why, is_own: true }
    }

    /// Possibly another one's.
    pub fn of_anyone(why: impl Into<String>) -> Self {
        let why = why.into();
        Self { why, is_own: false }
    }
}

/// What a process tells its peers of its past.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Past {
    /// What its own NCCL or device failed at first.
    pub fault: Option<String>,
    /// Generations in a row that failed because NCCL did, anywhere, before a step was committed over it.
    pub failures: u32,
    /// Where and why the last of them failed.
    pub last: String,
}

/// The past of a process, as it grows.
#[derive(Debug, Clone, Default)]
pub struct Record(Arc<Mutex<Past>>);

impl Record {
    /// All of it so far.
    pub fn past(&self) -> Past {
        self.lock().clone()
    }

    /// NCCL failed in this generation; `last` says on which rank, and why.
    pub fn failed(&self, last: impl Into<String>) {
        let mut past = self.lock();
        past.failures += 1;
        past.last = last.into();
    }

    /// The process's own NCCL or device was to blame.
    pub fn blame(&self, why: String) {
        self.lock().fault.get_or_insert(why);
    }

    /// Counts as many failures as the peer that has counted most: not every rank sees why a generation ends.
    pub fn learn<'a>(&self, peers: impl Iterator<Item = &'a Past>) {
        let mut past = self.lock();
        for peer in peers {
            if peer.failures > past.failures {
                past.failures = peer.failures;
                past.last.clone_from(&peer.last);
            }
        }
    }

    /// A step was committed over NCCL.
    pub fn committed(&self) {
        self.lock().failures = 0;
    }

    fn lock(&self) -> MutexGuard<'_, Past> {
        // No code panics while it holds the lock in a half-changed state.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_counted_as_by_the_peer_that_saw_most_until_a_step_is_committed() {
        let (one, other) = (Record::default(), Record::default());
        one.failed("rank 1: no network");
        one.failed("rank 0: no memory");
        other.failed("rank 2: late");
        other.learn([one.past(), Past::default()].iter());
        let past = other.past();
        assert_eq!((past.failures, past.last.as_str()), (2, "rank 0: no memory"));
        one.learn([Past::default()].iter());
        assert_eq!(one.past().failures, 2, "nobody forgets for a peer that is new");
        other.committed();
        assert_eq!(other.past().failures, 0);
    }

    #[test]
    fn the_first_fault_of_a_process_is_remembered_whatever_is_committed_later() {
        let record = Record::default();
        record.blame("no memory".into());
        record.blame("no network".into());
        record.committed();
        assert_eq!(record.past().fault.as_deref(), Some("no memory"));
    }
}
