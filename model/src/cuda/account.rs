//! What the host does for a device, by kind: how often, and for how long.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A kind of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Launching kernels.
    Kernels,
    /// Asking for recorded steps.
    Records,
    /// Asking for matrix products.
    Products,
    /// Choosing algorithms for products of new shapes.
    Plans,
    /// Finding tables of indices on the device, or bringing them there.
    Tables,
    /// Copying host arrays into pinned memory, those of new tables among them.
    Sending,
    /// Allocating and freeing, for new tables too.
    Memory,
    /// Waiting for the device.
    Waiting,
}

/// All kinds of work.
const ALL: [Work; 8] = [
    Work::Kernels,
    Work::Records,
    Work::Products,
    Work::Plans,
    Work::Tables,
    Work::Sending,
    Work::Memory,
    Work::Waiting,
];

/// Work of a kind so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spent {
    /// Its kind.
    pub work: Work,
    /// How often it was done.
    pub times: u64,
    /// How long it took the host.
    pub time: Duration,
}

/// An account of work.
#[derive(Debug, Default)]
pub(super) struct Account {
    times: [AtomicU64; ALL.len()],
    nanos: [AtomicU64; ALL.len()],
}

impl Account {
    /// Runs `f`, which is work of this kind.
    pub(super) fn of<R>(&self, work: Work, f: impl FnOnce() -> R) -> R {
        let began = Instant::now();
        let result = f();
        self.times[work as usize].fetch_add(1, Ordering::Relaxed);
        self.nanos[work as usize].fetch_add(began.elapsed().as_nanos() as u64, Ordering::Relaxed);
        result
    }

    /// Time that this kind took so far.
    pub(super) fn time_of(&self, work: Work) -> Duration {
        Duration::from_nanos(self.nanos[work as usize].load(Ordering::Relaxed))
    }

    /// All so far, a kind each.
    pub(super) fn spent(&self) -> Vec<Spent> {
        let spent = |work: Work| Spent {
            work,
            times: self.times[work as usize].load(Ordering::Relaxed),
            time: self.time_of(work),
        };
        ALL.into_iter().map(spent).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_counted_by_its_kind() {
        let account = Account::default();
        assert_eq!(account.of(Work::Tables, || 7), 7);
        account.of(Work::Tables, || std::thread::sleep(Duration::from_millis(2)));
        account.of(Work::Waiting, || ());
        let spent = account.spent();
        for (index, spent) in spent.iter().enumerate() {
            assert_eq!(spent.work as usize, index);
            let expected = match spent.work {
                Work::Tables => 2,
                Work::Waiting => 1,
                _ => 0,
            };
            assert_eq!(spent.times, expected, "{:?}", spent.work);
        }
        assert!(spent[Work::Tables as usize].time >= Duration::from_millis(2));
    }
}
