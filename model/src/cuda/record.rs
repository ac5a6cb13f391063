//! Steps that are recorded once and then asked for as a whole.
//!
//! Each kernel costs the host some microseconds, each product three times as many; a step of hundreds that a small batch is done with
//! sooner is the host's time. Recorded, it costs one call. A record keeps kernels with their arguments: what differs from one time to
//! the next must lie on the device, and all that a step reads and writes must stay in place. Three rules see to that.
//!
//! - Kernels, products and copies within the device are recorded. Whatever else is asked for (memory, copies from the host or to it,
//!   marks, waits) is done at once and ends the record, and the rest of the step is left out: there is no record then, nothing of the
//!   step was done, and it can be done as it is asked.
//! - While a step is recorded, its thread alone asks the device for anything: what another one asks for could be lost.
//! - Nothing is given back while a record lives: what is freed meanwhile is when the last one goes.

use super::Cuda;
use super::account::Work;
use super::device::locked;
use super::driver::Graph;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// What becomes of what a device is asked for.
#[derive(Default)]
pub(super) struct Recorder {
    /// It is recorded.
    records: AtomicBool,
    /// It is left out: the record of this step was ended.
    leaves_out: AtomicBool,
    is_off: AtomicBool,
    held: Mutex<Held>,
}

/// What must stay in place.
#[derive(Default)]
struct Held {
    /// Records that live.
    records: usize,
    /// Memory that was freed since the first of them.
    freed: Vec<u64>,
}

impl Recorder {
    /// Whether this address stays until no record lives any more.
    pub(super) fn holds(&self, address: u64) -> bool {
        let mut held = locked(&self.held);
        let holds = held.records > 0;
        if holds {
            held.freed.push(address);
        }
        holds
    }
}

/// A step that was recorded.
pub(crate) struct Recorded {
    // Dropped in this order.
    graph: Graph,
    holding: Holding,
}

/// Keeps in place what is freed.
struct Holding(Arc<Cuda>);

impl Holding {
    fn new(cuda: &Arc<Cuda>) -> Self {
        locked(&cuda.recorder.held).records += 1;
        Self(Arc::clone(cuda))
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        let mut held = locked(&self.0.recorder.held);
        held.records -= 1;
        let freed = if held.records == 0 {
            std::mem::take(&mut held.freed)
        } else {
            Vec::new()
        };
        drop(held);
        freed.into_iter().for_each(|address| self.0.free(address));
    }
}

/// A record that is being made.
struct Recording<'a>(&'a Cuda);

impl Recording<'_> {
    /// What was recorded, if nothing has ended it.
    fn end(self) -> Option<Graph> {
        let records = self.0.recorder.records.swap(false, Ordering::Relaxed);
        records.then(|| self.0.recordable().end_record().ok()).flatten()
    }
}

impl Drop for Recording<'_> {
    fn drop(&mut self) {
        self.0.interrupt();
        if self.0.recorder.leaves_out.swap(false, Ordering::Relaxed) {
            // Whoever has ended the record on another thread could not: it is over now, if it was not before.
            let _ = self.0.recordable().end_record();
        }
    }
}

impl Cuda {
    /// Records what `step` asks for instead of doing it. None if that cannot be recorded, or is not to be: nothing of it was done.
    pub(crate) fn record(self: &Arc<Self>, step: impl FnOnce()) -> Option<Recorded> {
        if self.leaves_out() || self.recorder.is_off.load(Ordering::Relaxed) || self.is_profiled() {
            return None;
        }
        let holding = Holding::new(self);
        // What is wrong with the device shows when the step is done as it is asked.
        self.stream().begin_record().ok()?;
        self.recorder.records.store(true, Ordering::Relaxed);
        let recording = Recording(self);
        step();
        let graph = recording.end()?;
        Some(Recorded { graph, holding })
    }

    /// Whether nothing is to be recorded from now on: for whoever compares or wants to see each kernel.
    pub fn record_nothing(&self, nothing: bool) {
        self.recorder.is_off.store(nothing, Ordering::Relaxed);
    }

    /// Ends a record that is being made; returns whether there is one.
    pub(super) fn interrupt(&self) -> bool {
        let recorder = &self.recorder;
        let records = recorder.records.swap(false, Ordering::Relaxed);
        if records {
            recorder.leaves_out.store(true, Ordering::Relaxed);
            // Of what was recorded nothing is wanted.
            let _ = self.recordable().end_record();
        }
        records
    }

    /// Whether operations do nothing: one has failed, or the record of a step was ended.
    pub(super) fn leaves_out(&self) -> bool {
        self.has_failed() || self.recorder.leaves_out.load(Ordering::Relaxed)
    }
}

impl Recorded {
    /// Does the step once more.
    pub(crate) fn again(&self) {
        let cuda = &self.holding.0;
        if !cuda.leaves_out() {
            let run = || cuda.account.of(Work::Records, || cuda.stream().run(&self.graph));
            cuda.note(cuda.noting(|| "recorded step".into(), run));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_freed_stays_in_place_while_a_record_lives() {
        let recorder = Recorder::default();
        assert!(!recorder.holds(1), "there is no record yet");
        locked(&recorder.held).records = 1;
        assert!(recorder.holds(2) && recorder.holds(3));
        assert_eq!(locked(&recorder.held).freed, [2, 3]);
    }
}
