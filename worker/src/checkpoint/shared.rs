//! A state that other threads read while the next step is computed.
//!
//! Between two commits the state does not change. So in the memory of the process a checkpoint's part is copied, and ranks that
//! join are fed, from the state itself while the rank goes on; only the next change waits until nobody reads it any more.
//!
//! A step on a GPU may be shorter than copying a part to the process takes. There the device first makes a snapshot of the part
//! in its own memory, within a few milliseconds and without anybody waiting; that is copied while steps go on. Its memory is kept
//! for the next one. If the device has not so much left, the state itself is copied as above.

use super::placed::Placed;
use medley_model::device::{Buffer, DeviceError, Fetcher, Mark};
use medley_model::state::{Resident, Snapshot, State};
use std::convert::Infallible;
use std::ops::{Deref, Range};
use std::sync::mpsc::{self, Receiver, Sender, SyncSender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What a snapshot leaves of a device's memory, for lanes that are larger than those before.
const LEFT_BYTES: usize = 1 << 30;

/// A state, and who reads it.
#[derive(Debug)]
pub struct Shared {
    state: Arc<Placed>,
    /// One for each view that was given out; it ends with the view's last clone.
    views: Vec<Receiver<Infallible>>,
    /// Reads what lies on a device.
    fetching: Arc<Mutex<Fetcher>>,
    room: Room,
}

/// The device's memory for snapshots.
#[derive(Debug)]
struct Room {
    returned: Receiver<Buffer>,
    back: Sender<Buffer>,
    /// What there is of it, wherever it is at present.
    numbers: usize,
    /// Whether it was said that there is none.
    told: bool,
}

impl From<State> for Shared {
    fn from(state: State) -> Self {
        Self::of(state.into(), Fetcher::Cpu)
    }
}

impl Deref for Shared {
    type Target = Placed;
    fn deref(&self) -> &Placed {
        &self.state
    }
}

impl Shared {
    /// A state wherever it lies.
    ///
    /// # Errors
    /// [`DeviceError`] if its device has not what it takes to read it.
    pub fn new(state: Placed) -> Result<Self, DeviceError> {
        let fetcher = state.device().fetcher()?;
        Ok(Self::of(state, fetcher))
    }

    fn of(state: Placed, fetcher: Fetcher) -> Self {
        let (back, returned) = mpsc::channel();
        Self {
            state: Arc::new(state),
            views: Vec::new(),
            fetching: Arc::new(Mutex::new(fetcher)),
            room: Room {
                returned,
                back,
                numbers: 0,
                told: false,
            },
        }
    }

    /// The state as it is now, for another thread. It is to be held for as long as a copy takes, or a send that has a
    /// deadline: the next change waits for it.
    ///
    /// # Errors
    /// [`DeviceError`] with what has failed before.
    pub fn view(&mut self) -> Result<View, DeviceError> {
        let mark = Arc::new(self.state.device().mark()?);
        let (held, ended) = mpsc::sync_channel(0);
        self.views.push(ended);
        Ok(View {
            state: Arc::clone(&self.state),
            mark,
            fetching: Arc::clone(&self.fetching),
            _held: held,
        })
    }

    /// The canonical bytes of `range` as they are now, to be copied by another thread. If the state lies in the process's memory, or
    /// its device has no room for a snapshot, the next change waits for the end of it.
    ///
    /// # Errors
    /// [`DeviceError`] with what has failed before.
    pub fn still(&mut self, range: Range<usize>) -> Result<Still, DeviceError> {
        let Placed::There(state) = &*self.state else {
            return self.view().map(Still::View);
        };
        let Some(room) = self.room.take(state, range.len()) else {
            return self.view().map(Still::View);
        };
        Ok(Still::Snapshot(Taken {
            snapshot: Some(state.snapshot(range, room)?),
            fetching: Arc::clone(&self.fetching),
            back: self.room.back.clone(),
        }))
    }

    /// Whether a view of it is held: then the next change waits.
    pub fn is_viewed(&mut self) -> bool {
        self.views
            .retain(|view| matches!(view.try_recv(), Err(mpsc::TryRecvError::Empty)));
        !self.views.is_empty()
    }

    /// The state, to be changed: waits until all views have ended.
    pub fn change(&mut self) -> &mut Placed {
        for view in self.views.drain(..) {
            // Nothing is ever sent: this returns when the view has ended.
            let _ = view.recv();
        }
        Arc::get_mut(&mut self.state).expect("nobody else holds the state")
    }
}

impl Room {
    /// Room for a snapshot of so many bytes, if there is some: one is in use at a time.
    fn take(&mut self, state: &Resident, num_bytes: usize) -> Option<Buffer> {
        let needed = Resident::room_for(num_bytes);
        let found = self.returned.try_recv().ok();
        if found.is_none() && self.numbers > 0 {
            // The part before is still being copied.
            return None;
        }
        let found = found.filter(|room| room.len() >= needed);
        let room = found.or_else(|| state.device().spare_buffer(needed, LEFT_BYTES));
        self.numbers = room.as_ref().map_or(0, Buffer::len);
        if room.is_none() && !self.told {
            self.told = true;
            tracing::warn!(
                "the device has no room for snapshots of {} MiB: a step waits while a checkpoint's part is copied from it",
                num_bytes >> 20
            );
        }
        room
    }
}

/// A state that does not change as long as this lives. Cheap to clone.
#[derive(Debug, Clone)]
pub struct View {
    // Fields are dropped in this order: who waits for the end of `_held` finds `state` free.
    state: Arc<Placed>,
    mark: Arc<Mark>,
    fetching: Arc<Mutex<Fetcher>>,
    _held: SyncSender<Infallible>,
}

impl Deref for View {
    type Target = Placed;
    fn deref(&self) -> &Placed {
        &self.state
    }
}

impl View {
    /// Calls `f` with the canonical bytes of `range`, in order.
    ///
    /// # Errors
    /// [`DeviceError`]: what `f` was given is worthless then.
    pub fn for_bytes(&self, range: Range<usize>, f: impl FnMut(&[u8])) -> Result<(), DeviceError> {
        match &*self.state {
            Placed::Here(state) => {
                state.for_bytes(range, f);
                Ok(())
            }
            Placed::There(state) => state.for_bytes((&mut locked(&self.fetching), &self.mark), range, f),
        }
    }

    /// A copy of some of the canonical bytes.
    ///
    /// # Errors
    /// [`DeviceError`].
    pub fn copy_bytes(&self, range: Range<usize>) -> Result<Vec<u8>, DeviceError> {
        let mut bytes = Vec::with_capacity(range.len());
        self.for_bytes(range, |slice| bytes.extend_from_slice(slice))?;
        Ok(bytes)
    }

    /// The canonical bytes of `range`, if they lie in one place in the memory of the process.
    pub fn together(&self, range: Range<usize>) -> Option<&[u8]> {
        match &*self.state {
            Placed::Here(state) => state.together(range),
            Placed::There(_) => None,
        }
    }
}

/// Canonical bytes that do not change as long as this lives.
#[derive(Debug)]
pub enum Still {
    /// The state itself, which does not change meanwhile.
    View(View),
    /// A copy on its device.
    Snapshot(Taken),
}

/// A snapshot, whose memory goes back to the state.
#[derive(Debug)]
pub struct Taken {
    /// Only gone when this is dropped.
    snapshot: Option<Snapshot>,
    fetching: Arc<Mutex<Fetcher>>,
    back: Sender<Buffer>,
}

impl From<View> for Still {
    fn from(view: View) -> Self {
        Self::View(view)
    }
}

impl Still {
    /// Steps that were committed.
    pub fn step(&self) -> u64 {
        match self {
            Self::View(view) => view.step(),
            Self::Snapshot(taken) => taken.snapshot.as_ref().map_or(0, Snapshot::step),
        }
    }

    /// Size of the canonical bytes of the whole state.
    pub fn num_bytes(&self) -> usize {
        match self {
            Self::View(view) => view.num_bytes(),
            Self::Snapshot(taken) => taken.snapshot.as_ref().map_or(0, Snapshot::num_bytes),
        }
    }

    /// Calls `f` with the canonical bytes of `range`, in order.
    ///
    /// # Errors
    /// [`DeviceError`]: what `f` was given is worthless then.
    pub fn for_bytes(&self, range: Range<usize>, f: impl FnMut(&[u8])) -> Result<(), DeviceError> {
        match self {
            Self::View(view) => view.for_bytes(range, f),
            Self::Snapshot(Taken {
                snapshot: Some(snapshot),
                fetching,
                ..
            }) => snapshot.for_bytes(&mut locked(fetching), range, f),
            Self::Snapshot(_) => Ok(()),
        }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        if let Some(snapshot) = self.snapshot.take() {
            // The state may be gone.
            let _ = self.back.send(snapshot.into_room());
        }
    }
}

fn locked(fetching: &Mutex<Fetcher>) -> MutexGuard<'_, Fetcher> {
    // What a fetch that panicked has left on its way is waited for by the next one's wait, which comes behind it in the stream.
    fetching.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{blip, commit};
    use super::*;
    use medley_model::device::Device;
    use std::thread;

    fn here() -> Shared {
        State::zeros(&blip()).into()
    }

    fn there(state: &State) -> Shared {
        Shared::new(Resident::of(state, &Device::Cpu).into()).unwrap()
    }

    #[test]
    fn a_change_waits_for_every_clone_of_every_view() {
        for mut shared in [here(), there(&State::zeros(&blip()))] {
            let (first, second) = (shared.view().unwrap(), shared.view().unwrap());
            let clone = first.clone();
            drop(first);
            let (go, wait) = mpsc::channel::<()>();
            thread::scope(|scope| {
                let reader = scope.spawn(move || {
                    wait.recv().unwrap();
                    // Were the change not to wait, it would be seen here, or would have failed.
                    (clone.step(), second.step())
                });
                let writer = scope.spawn(|| commit(shared.change(), 1));
                assert!(!writer.is_finished());
                go.send(()).unwrap();
                assert_eq!(reader.join().unwrap(), (0, 0));
                writer.join().unwrap();
            });
            assert_eq!(shared.step(), 1);
        }
    }

    #[test]
    fn a_state_that_nobody_reads_changes_at_once() {
        let mut shared = here();
        drop(shared.view());
        commit(shared.change(), 1);
        assert_eq!(shared.view().unwrap().step(), 1);
    }

    #[test]
    fn a_snapshot_stays_as_it_was_and_its_room_serves_the_next_one() {
        let state = State::fresh(&blip(), 1);
        let mut shared = there(&state);
        let all = state.num_bytes();
        for range in [0..all, 3..all - 5, 20..1003, all - 9..all] {
            let before = shared.view().unwrap().copy_bytes(range.clone()).unwrap();
            let still = shared.still(range.clone()).unwrap();
            let step = shared.step();
            commit(shared.change(), 7);
            let mut bytes = Vec::new();
            still
                .for_bytes(range.clone(), |slice| bytes.extend_from_slice(slice))
                .unwrap();
            assert!(matches!(still, Still::Snapshot(_)), "{range:?}");
            assert!(still.step() == step && bytes == before, "{range:?}");
            let after = shared.view().unwrap().copy_bytes(range.clone()).unwrap();
            assert_eq!(
                after == before,
                range.start > 100_000,
                "{range:?}: only the last identities stay"
            );
        }
        assert_eq!(
            shared.room.numbers,
            Resident::room_for(all),
            "the first room was large enough"
        );
    }

    #[test]
    fn while_a_snapshot_is_read_the_next_one_is_a_view() {
        let mut shared = there(&State::fresh(&blip(), 1));
        let first = shared.still(0..100).unwrap();
        assert!(matches!(shared.still(0..100).unwrap(), Still::View(_)));
        drop(first);
        assert!(matches!(shared.still(0..100).unwrap(), Still::Snapshot(_)));
    }
}
