//! Batches read ahead by a thread of their own, so that decoding overlaps with computing.

use crate::rank::failure::Failure;
use medley_data::loader::{Batch, Fault, Loader};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread::{self, JoinHandle};

/// Batches read ahead: the next lane's, while this one is computed.
const AHEAD: usize = 1;

/// The batches of a rank's lanes, in the order of (step, lane).
pub(super) struct Samples {
    lanes: Vec<u32>,
    total_steps: u64,
    reader: Option<Reader>,
}

enum Reader {
    /// Nothing is to be read yet.
    Idle(Box<Loader>),
    Reading(Reading),
}

struct Reading {
    batches: Receiver<Result<Batch, Fault>>,
    thread: JoinHandle<Loader>,
}

impl Samples {
    /// Reads nothing yet.
    pub(super) fn new(loader: Loader, total_steps: u64) -> Self {
        Self {
            lanes: Vec::new(),
            total_steps,
            reader: Some(Reader::Idle(Box::new(loader))),
        }
    }

    /// The next batch.
    ///
    /// # Errors
    /// [`Failure`] when a shard cannot be read: passing, unless it is missing or another.
    pub(super) fn next(&mut self) -> Result<Batch, Failure> {
        let ended = || Failure::passing("the thread that reads samples ended");
        let Some(Reader::Reading(reading)) = &self.reader else {
            return Err(ended());
        };
        Ok(reading.batches.recv().map_err(|_| ended())??)
    }

    /// Reads for `lanes`, from `step` to the last; whatever was read ahead is dropped.
    ///
    /// # Errors
    /// [`Failure`] when reading cannot go on.
    pub(super) fn begin(&mut self, lanes: Vec<u32>, step: u64) -> Result<(), Failure> {
        self.lanes = lanes;
        self.rewind(step)
    }

    /// Begins again with the first lane of a step.
    ///
    /// # Errors
    /// [`Failure`] when reading cannot go on.
    pub(super) fn rewind(&mut self, step: u64) -> Result<(), Failure> {
        let failed = || Failure::passing("the thread that reads samples failed");
        let loader = match self.reader.take().ok_or_else(failed)? {
            Reader::Idle(loader) => *loader,
            Reader::Reading(Reading { batches, thread }) => {
                // The thread ends at its next attempt to hand over a batch.
                drop(batches);
                thread.join().map_err(|_| failed())?
            }
        };
        let (to, batches) = mpsc::sync_channel(AHEAD);
        let (lanes, end) = (self.lanes.clone(), self.total_steps);
        let thread = thread::Builder::new()
            .name("samples".into())
            .spawn(move || read_all(loader, &lanes, step..end, &to))?;
        self.reader = Some(Reader::Reading(Reading { batches, thread }));
        Ok(())
    }
}

fn read_all(
    mut loader: Loader,
    lanes: &[u32],
    steps: std::ops::Range<u64>,
    to: &SyncSender<Result<Batch, Fault>>,
) -> Loader {
    for step in steps {
        for lane in lanes {
            let batch = loader.batch(step, *lane);
            let broken = batch.is_err();
            if to.send(batch).is_err() || broken {
                return loader;
            }
        }
    }
    loader
}
