//! Batches read ahead by a thread of their own, so that decoding overlaps with computing.

use crate::rank::failure::Failure;
use medley_data::loader::{Batch, Fault, Loader};
use std::io;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread::{self, JoinHandle};

/// Batches read ahead: the next lane's, while this one is computed.
const AHEAD: usize = 1;

/// The batches of a rank's lanes, in the order of (step, lane).
pub(super) struct Samples {
    lanes: Vec<u32>,
    total_steps: u64,
    reading: Option<Reading>,
}

struct Reading {
    batches: Receiver<Result<Batch, Fault>>,
    thread: JoinHandle<Loader>,
}

impl Samples {
    /// Reads for `lanes`, from `step` to the last.
    ///
    /// # Errors
    /// When no thread can be started.
    pub(super) fn start(loader: Loader, lanes: Vec<u32>, step: u64, total_steps: u64) -> io::Result<Self> {
        let mut samples = Self {
            lanes,
            total_steps,
            reading: None,
        };
        samples.read_from(loader, step)?;
        Ok(samples)
    }

    /// The next batch.
    ///
    /// # Errors
    /// [`Failure`] when a shard cannot be read: passing, unless it is missing or another.
    pub(super) fn next(&mut self) -> Result<Batch, Failure> {
        let ended = || Failure::passing("the thread that reads samples ended");
        let reading = self.reading.as_ref().ok_or_else(ended)?;
        Ok(reading.batches.recv().map_err(|_| ended())??)
    }

    /// Begins again with the first lane of a step.
    ///
    /// # Errors
    /// [`Failure`] when reading cannot go on.
    pub(super) fn rewind(&mut self, step: u64) -> Result<(), Failure> {
        if let Some(Reading { batches, thread }) = self.reading.take() {
            // The thread ends at its next attempt to hand over a batch.
            drop(batches);
            let loader = thread
                .join()
                .map_err(|_| Failure::passing("the thread that reads samples failed"))?;
            self.read_from(loader, step)?;
        }
        Ok(())
    }

    fn read_from(&mut self, loader: Loader, step: u64) -> io::Result<()> {
        let (to, batches) = mpsc::sync_channel(AHEAD);
        let (lanes, end) = (self.lanes.clone(), self.total_steps);
        let thread = thread::Builder::new()
            .name("samples".into())
            .spawn(move || read_all(loader, &lanes, step..end, &to))?;
        self.reading = Some(Reading { batches, thread });
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
