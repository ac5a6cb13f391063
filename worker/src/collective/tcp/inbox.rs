//! What has arrived and not been asked for yet, and who is gone.
//!
//! Frames are looked up by sender and tag, so it does not matter in which order a peer's phases overlap with ours.

use super::fence::{self, Fence};
use super::frame::{Kind, Tag};
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Longest time that a wait goes on after its generation was called off.
const LOOK: Duration = Duration::from_millis(50);

/// A peer that will not deliver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    /// The peer.
    pub rank: u32,
    /// How it was noticed.
    pub why: String,
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "lost rank {}: {}", self.rank, self.why)
    }
}

impl std::error::Error for Lost {}

/// Shared by the threads that read and the one that computes.
#[derive(Debug)]
pub struct Inbox {
    held: Mutex<Held>,
    changed: Condvar,
    /// Most payload bytes of one peer that may wait here.
    capacity_bytes: usize,
    /// This rank and its generation.
    own: (u32, u64),
    fence: Fence,
}

#[derive(Debug, Default)]
struct Held {
    frames: BTreeMap<(u32, Tag), Vec<u8>>,
    waiting_bytes: BTreeMap<u32, usize>,
    control: VecDeque<(u32, Vec<u8>)>,
    /// Peers that said goodbye.
    left: Vec<u32>,
    lost: Option<Lost>,
}

impl Inbox {
    /// An empty inbox of a rank in a generation that lets `capacity_bytes` of each peer wait: what one step can need.
    pub fn new(capacity_bytes: usize, own: (u32, u64), fence: Fence) -> Self {
        Self {
            held: Mutex::default(),
            changed: Condvar::new(),
            capacity_bytes,
            own,
            fence,
        }
    }

    /// Takes in a frame of `from`; false if the peer broke the rules and is lost.
    pub fn put(&self, from: u32, tag: Tag, payload: Vec<u8>) -> bool {
        let mut held = self.lock();
        let waiting = held.waiting_bytes.entry(from).or_default();
        *waiting += payload.len();
        if *waiting > self.capacity_bytes {
            drop(held);
            self.lose(from, "it sends more than a step can need");
            return false;
        }
        match tag.kind {
            Kind::Ping => {}
            Kind::Bye => held.left.push(from),
            Kind::Control => held.control.push_back((from, payload)),
            Kind::Hello | Kind::Refused | Kind::Partial | Kind::Share | Kind::State | Kind::Taken | Kind::Road => {
                if held.frames.insert((from, tag), payload).is_some() {
                    drop(held);
                    self.lose(from, "it sent the same frame twice");
                    return false;
                }
            }
        }
        drop(held);
        self.changed.notify_all();
        true
    }

    /// Records the end of a connection; the first one counts. After a goodbye it is no loss.
    pub fn lose(&self, rank: u32, why: impl Into<String>) {
        let mut held = self.lock();
        if !held.left.contains(&rank) && held.lost.is_none() {
            let why = why.into();
            held.lost = Some(Lost { rank, why });
        }
        drop(held);
        self.changed.notify_all();
    }

    /// Waits for a frame.
    ///
    /// # Errors
    /// [`Lost`] as soon as any peer is lost, when `from` left, or after `patience`.
    pub fn take(&self, from: u32, tag: Tag, patience: Duration) -> Result<Vec<u8>, Lost> {
        let missing = || {
            Err(Lost {
                rank: from,
                why: format!("it did not deliver its part of a step within {} s", patience.as_secs()),
            })
        };
        self.wait(patience, missing, |held| {
            if let Some(payload) = held.frames.remove(&(from, tag)) {
                held.release(from, payload.len());
                return Some(Ok(payload));
            }
            self.trouble(held).map(Err).or_else(|| {
                let why = "it left before the step was over".into();
                held.left.contains(&from).then_some(Err(Lost { rank: from, why }))
            })
        })
    }

    /// Waits at most `patience` for a frame of this tag, whoever sends it; none if none came.
    ///
    /// # Errors
    /// [`Lost`] as soon as any peer is lost and no such frame waits.
    pub fn take_any(&self, tag: Tag, patience: Duration) -> Result<Option<(u32, Vec<u8>)>, Lost> {
        let nothing = || Ok(None);
        self.wait(patience, nothing, |held| {
            let found = held.frames.extract_if(.., |(_, waiting), _| *waiting == tag).next();
            if let Some(((from, _), payload)) = found {
                held.release(from, payload.len());
                return Some(Ok(Some((from, payload))));
            }
            self.trouble(held).map(Err)
        })
    }

    /// Waits at most `patience` for a control message; none if none came.
    ///
    /// # Errors
    /// [`Lost`] as soon as any peer is lost and no message waits.
    pub fn take_control(&self, patience: Duration) -> Result<Option<(u32, Vec<u8>)>, Lost> {
        let nothing = || Ok(None);
        self.wait(patience, nothing, |held| {
            if let Some((from, payload)) = held.control.pop_front() {
                held.release(from, payload.len());
                return Some(Ok(Some((from, payload))));
            }
            self.trouble(held).map(Err)
        })
    }

    /// Waits for `patience`, for something else than a frame.
    ///
    /// # Errors
    /// [`Lost`] as soon as any peer is lost.
    pub fn watch(&self, patience: Duration) -> Result<(), Lost> {
        self.wait(patience, || Ok(()), |held| self.trouble(held).map(Err))
    }

    /// Why nothing more can be waited for.
    fn trouble(&self, held: &Held) -> Option<Lost> {
        let (rank, generation) = self.own;
        let called_off = || Lost {
            rank,
            why: fence::REASON.into(),
        };
        let lost = held.lost.clone();
        lost.or_else(|| self.fence.is_past(generation).then(called_off))
    }

    /// Waits until so many peers have left, or one is lost, or `patience` ends.
    pub fn wait_for_goodbyes(&self, peers: usize, patience: Duration) {
        self.wait(
            patience,
            || (),
            |held| (held.left.len() >= peers || held.lost.is_some()).then_some(()),
        );
    }

    fn wait<T>(&self, patience: Duration, late: impl FnOnce() -> T, mut poll: impl FnMut(&mut Held) -> Option<T>) -> T {
        let deadline = Instant::now() + patience;
        let mut held = self.lock();
        loop {
            if let Some(found) = poll(&mut held) {
                return found;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return late();
            }
            let woken = self.changed.wait_timeout(held, left.min(LOOK));
            held = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        // No code panics while it holds the lock in a half-changed state.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    fn release(&mut self, from: u32, bytes: usize) {
        if let Some(waiting) = self.waiting_bytes.get_mut(&from) {
            *waiting = waiting.saturating_sub(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    fn inbox(capacity_bytes: usize) -> Inbox {
        Inbox::new(capacity_bytes, (0, 7), Fence::default())
    }

    fn tag(slice: u32) -> Tag {
        Tag {
            slice,
            ..Tag::plain(Kind::Partial)
        }
    }

    #[test]
    fn frames_are_found_by_sender_and_tag_in_any_order() {
        let inbox = inbox(100);
        inbox.put(1, tag(7), vec![1]);
        inbox.put(2, tag(7), vec![2]);
        inbox.put(1, tag(6), vec![3]);
        assert_eq!(inbox.take(1, tag(6), LONG).unwrap(), [3]);
        assert_eq!(inbox.take(2, tag(7), LONG).unwrap(), [2]);
        assert_eq!(inbox.take(1, tag(7), LONG).unwrap(), [1]);
    }

    #[test]
    fn a_frame_can_be_taken_whoever_has_sent_it() {
        let inbox = inbox(100);
        assert_eq!(inbox.take_any(tag(7), Duration::ZERO), Ok(None));
        inbox.put(3, tag(6), vec![1]);
        inbox.put(2, tag(7), vec![2]);
        assert_eq!(inbox.take_any(tag(7), LONG), Ok(Some((2, vec![2]))));
        inbox.lose(1, "reset");
        assert_eq!(inbox.take_any(tag(6), LONG), Ok(Some((3, vec![1]))));
        assert_eq!(inbox.take_any(tag(6), LONG).unwrap_err().rank, 1);
    }

    #[test]
    fn a_lost_peer_wakes_whoever_waits_for_another() {
        let inbox = inbox(100);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| inbox.take(1, tag(0), LONG));
            inbox.lose(2, "reset");
            let lost = waiting.join().unwrap().unwrap_err();
            assert_eq!(lost.to_string(), "lost rank 2: reset");
        });
    }

    #[test]
    fn a_generation_that_was_called_off_ends_every_wait() {
        let inbox = inbox(100);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| inbox.take(1, tag(0), LONG));
            inbox.fence.raise(8);
            assert!(waiting.join().unwrap().unwrap_err().why.contains("another generation"));
        });
    }

    #[test]
    fn who_waits_for_something_else_hears_of_a_lost_peer() {
        let inbox = inbox(100);
        assert_eq!(inbox.watch(Duration::ZERO), Ok(()));
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| inbox.watch(LONG));
            inbox.lose(2, "reset");
            assert_eq!(waiting.join().unwrap().unwrap_err().rank, 2);
        });
    }

    #[test]
    fn a_peer_that_said_goodbye_is_not_lost_but_delivers_no_more() {
        let inbox = inbox(100);
        inbox.put(1, Tag::plain(Kind::Bye), Vec::new());
        inbox.lose(1, "end of stream");
        assert_eq!(inbox.take_control(Duration::ZERO).unwrap(), None);
        assert!(inbox.take(1, tag(0), LONG).unwrap_err().why.contains("left"));
    }

    #[test]
    fn a_peer_that_sends_without_end_is_lost() {
        let inbox = inbox(10);
        assert!(inbox.put(1, tag(0), vec![0; 6]));
        assert!(!inbox.put(1, tag(1), vec![0; 6]));
        assert!(inbox.take(2, tag(0), LONG).unwrap_err().why.contains("more than"));
    }

    #[test]
    fn a_wait_has_an_end() {
        let inbox = inbox(10);
        let lost = inbox.take(3, tag(0), Duration::from_millis(1)).unwrap_err();
        assert_eq!(lost.rank, 3);
    }
}
