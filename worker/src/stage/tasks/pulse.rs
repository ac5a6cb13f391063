//! Renews a task's lease while the task is worked on.
//!
//! A thread of its own says how far the work is, once a beat, however long a single batch takes. The renewal ends when
//! the counts stand still for too long, so that a rank that hangs, on a dead file system say, does not keep its task.

use std::io;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Time between two reports.
const BEAT: Duration = Duration::from_secs(2);
/// Work that does not move for this long is not renewed any more; longer than any one operation on the object store.
const STALLED: Duration = Duration::from_mins(15);

/// Units done, and units in all.
type Counts = (u64, u64);

/// Reports until it is dropped; nothing is said afterwards.
#[derive(Debug)]
pub(super) struct Pulse {
    counts: Arc<Mutex<Counts>>,
    ends: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Pulse {
    /// Starts to `say` the counts.
    ///
    /// # Errors
    /// When no thread can be started.
    pub(super) fn start(say: impl FnMut(u64, u64) + Send + 'static) -> io::Result<Self> {
        Self::every(BEAT, say)
    }

    fn every(beat: Duration, say: impl FnMut(u64, u64) + Send + 'static) -> io::Result<Self> {
        let counts = Arc::default();
        let (ends, end) = mpsc::channel();
        let shared = Arc::clone(&counts);
        let thread = thread::Builder::new()
            .name("pulse".into())
            .spawn(move || beats(beat, &end, &shared, say))?;
        Ok(Self {
            counts,
            ends: Some(ends),
            thread: Some(thread),
        })
    }

    /// Tells how far the work is.
    pub(super) fn tell(&self, done: u64, total: u64) {
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner) = (done, total);
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        self.ends.take();
        // The thread ends at once, or after what it is saying; if it panicked there is nothing left to say.
        self.thread.take().map(JoinHandle::join);
    }
}

fn beats(beat: Duration, end: &Receiver<()>, counts: &Mutex<Counts>, mut say: impl FnMut(u64, u64)) {
    let mut renewal = Renewal::new(Instant::now());
    while end.recv_timeout(beat) == Err(RecvTimeoutError::Timeout) {
        let (done, total) = *counts.lock().unwrap_or_else(PoisonError::into_inner);
        if renewal.is_due((done, total), Instant::now()) {
            say(done, total);
        }
    }
}

/// Whether a lease is still to be renewed: a function of how the counts move.
#[derive(Debug)]
struct Renewal {
    seen: Counts,
    moved_at: Instant,
}

impl Renewal {
    fn new(now: Instant) -> Self {
        Self {
            seen: (0, 0),
            moved_at: now,
        }
    }

    fn is_due(&mut self, counts: Counts, now: Instant) -> bool {
        if counts != self.seen {
            (self.seen, self.moved_at) = (counts, now);
        }
        now.duration_since(self.moved_at) < STALLED
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_counts_are_said_until_the_pulse_is_dropped() {
        let (tx, rx) = mpsc::channel();
        let pulse = Pulse::every(Duration::from_millis(1), move |done, total| {
            let _ = tx.send((done, total));
        });
        let pulse = pulse.unwrap();
        pulse.tell(3, 10);
        let patience = Duration::from_secs(20);
        while rx.recv_timeout(patience).unwrap() != (3, 10) {}
        drop(pulse);
        // The sender went with the thread: what is left was said before.
        assert!(rx.iter().all(|counts| counts == (3, 10)));
    }

    #[test]
    fn work_that_stands_still_is_not_renewed_until_it_moves() {
        let start = Instant::now();
        let mut renewal = Renewal::new(start);
        assert!(renewal.is_due((0, 0), start + STALLED / 2));
        assert!(!renewal.is_due((0, 0), start + STALLED));
        assert!(renewal.is_due((1, 9), start + STALLED * 2));
        assert!(renewal.is_due((1, 9), start + STALLED * 5 / 2));
        assert!(!renewal.is_due((1, 9), start + STALLED * 3));
    }
}
