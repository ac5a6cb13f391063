//! Reads the batches of a rank's lanes ahead of the computation.

use crate::rank::failure::Failure;
use medley_data::loader::{Batch, Fault, Loader};
use std::io;
use std::ops::Range;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

/// Batches that wait to be computed with.
const AHEAD: usize = 2;

type Loaded = (u64, u32, Result<Batch, Fault>);

/// Batches in the order of steps and lanes, and once more out of order for a step that is redone.
#[derive(Debug)]
pub(super) struct Batches {
    loader: Arc<Mutex<Loader>>,
    ahead: Receiver<Loaded>,
}

impl Batches {
    /// Starts to read the given lanes of the given steps.
    pub(super) fn start(loader: Loader, steps: Range<u64>, lanes: Vec<u32>) -> io::Result<Self> {
        let loader = Arc::new(Mutex::new(loader));
        let (loaded, ahead) = mpsc::sync_channel(AHEAD);
        let reading = Arc::clone(&loader);
        thread::Builder::new()
            .name("loader".into())
            .spawn(move || read_ahead(&reading, steps, &lanes, &loaded))?;
        Ok(Self { loader, ahead })
    }

    /// The batch of a lane; `again` for a step that was computed before.
    pub(super) fn get(&self, step: u64, lane: u32, again: bool) -> Result<Batch, Failure> {
        let loaded = if again { read(&self.loader, step, lane) } else { self.take(step, lane)? };
        let batch = loaded.map_err(fault)?;
        for (position, attempt) in &batch.replaced {
            tracing::warn!(step, lane, position, attempt, "a sample does not decode and was replaced");
        }
        Ok(batch)
    }

    fn take(&self, step: u64, lane: u32) -> Result<Result<Batch, Fault>, Failure> {
        // Reads are retried a bounded number of times, so this wait ends.
        match self.ahead.recv() {
            Ok((at, of, batch)) if (at, of) == (step, lane) => Ok(batch),
            Ok((at, of, _)) => Err(Failure::passing(format!(
                "the loader read lane {of} of step {at} instead of lane {lane} of step {step}"
            ))),
            Err(_) => Err(Failure::passing("the loader ended")),
        }
    }
}

fn read_ahead(loader: &Mutex<Loader>, steps: Range<u64>, lanes: &[u32], loaded: &SyncSender<Loaded>) {
    for step in steps {
        for &lane in lanes {
            if loaded.send((step, lane, read(loader, step, lane))).is_err() {
                return;
            }
        }
    }
}

fn read(loader: &Mutex<Loader>, step: u64, lane: u32) -> Result<Batch, Fault> {
    // A loader caches; a panic leaves nothing half-changed that matters.
    loader.lock().unwrap_or_else(PoisonError::into_inner).batch(step, lane)
}

/// A shard that is gone or changed stays so until someone puts it back.
fn fault(fault: Fault) -> Failure {
    match fault {
        Fault::Read { .. } => Failure::passing(fault.to_string()),
        Fault::Changed { .. } | Fault::Undecodable { .. } => Failure::lasting(fault.to_string()),
    }
}
