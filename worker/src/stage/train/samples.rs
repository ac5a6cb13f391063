//! Batches read ahead by a thread of their own, so that decoding overlaps with computing; on a GPU, by another one, their pixels are
//! sent ahead too. A shard that cannot be read is tried again for a while, and meanwhile the rank says that it waits for samples.

use crate::rank::activity::Activity;
use crate::rank::failure::Failure;
use crate::stage::patience::{fault_may_pass, patiently};
use medley_data::loader::{Batch, Fault, Loader};
use medley_model::blip::LaneBatch;
use medley_model::device::{Ahead, Device, Sent, Span};
use std::ops::Deref;
use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};
use std::thread::{self, JoinHandle};

/// Batches read ahead: the next lane's, while this one is computed.
const AHEAD: usize = 1;

/// Batches sent ahead besides the one that waits to be handed over, while this one is computed.
const SENT_AHEAD: usize = 0;

/// A lane's batch, its pixels perhaps on the device already.
pub(super) struct Loaded {
    batch: Batch,
    sent: Option<Sent>,
}

impl Deref for Loaded {
    type Target = Batch;
    fn deref(&self) -> &Batch {
        &self.batch
    }
}

impl Loaded {
    /// As a lane takes it, without guests.
    pub(super) fn own(&self) -> LaneBatch<'_> {
        LaneBatch {
            pixels: self.sent.as_ref().map_or(Span::Host(&self.batch.pixels), Sent::span),
            texts: &self.batch.texts,
            identities: &self.batch.identities,
            guests: &[],
        }
    }

    /// The same batch, for later: its place on the device is free for others.
    pub(super) fn kept(self) -> Self {
        Self { sent: None, ..self }
    }

    /// The batch, to be changed: what was sent of it is no longer it.
    pub(super) fn change(&mut self) -> &mut Batch {
        self.sent = None;
        &mut self.batch
    }
}

/// The batches of a rank's lanes, in the order of (step, lane).
pub(super) struct Samples {
    lanes: Vec<u32>,
    total_steps: u64,
    /// Where pixels are sent, if that is not the processor.
    device: Option<Device>,
    activity: Activity,
    reader: Option<Reader>,
}

enum Reader {
    /// Nothing is to be read yet.
    Idle(Box<Loader>),
    Reading(Reading),
}

struct Reading {
    batches: Batches,
    thread: JoinHandle<Loader>,
}

enum Batches {
    Read(Receiver<Word<Batch, Fault>>),
    Sent(Receiver<Word<Loaded, Failure>>),
}

/// What a thread says that reads or sends.
enum Word<T, E> {
    /// It waits for a shard that cannot be read.
    Waits,
    /// The next one, or why there is none.
    Next(Result<T, E>),
}

impl Batches {
    /// The next word; nothing if a thread ended.
    fn next(&self) -> Option<Word<Loaded, Failure>> {
        match self {
            Self::Read(batches) => Some(match batches.recv().ok()? {
                Word::Waits => Word::Waits,
                Word::Next(batch) => Word::Next(batch.map(|batch| Loaded { batch, sent: None }).map_err(Failure::from)),
            }),
            Self::Sent(batches) => batches.recv().ok(),
        }
    }
}

/// Says that a thread waits, if somebody listens just now; whether anybody ever will.
fn waits<T, E>(to: &SyncSender<Word<T, E>>) -> bool {
    !matches!(to.try_send(Word::Waits), Err(TrySendError::Disconnected(_)))
}

impl Samples {
    /// Reads nothing yet. Pixels are sent to the device; when samples are waited for, the activity says so.
    pub(super) fn new(loader: Loader, total_steps: u64, device: &Device, activity: Activity) -> Self {
        Self {
            lanes: Vec::new(),
            total_steps,
            device: (!matches!(device, Device::Cpu)).then(|| device.clone()),
            activity,
            reader: Some(Reader::Idle(Box::new(loader))),
        }
    }

    /// The next batch.
    ///
    /// # Errors
    /// [`Failure`] when a shard cannot be read for a while: passing, unless it is another one.
    pub(super) fn next(&mut self) -> Result<Loaded, Failure> {
        loop {
            let word = match &self.reader {
                Some(Reader::Reading(reading)) => reading.batches.next(),
                _ => None,
            };
            match word {
                Some(Word::Waits) => self.activity.waits_for_samples(true),
                Some(Word::Next(next)) => {
                    self.activity.waits_for_samples(false);
                    return next;
                }
                None => return Err(Failure::passing("the thread that reads samples ended")),
            }
        }
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
            // The threads of a rank on a GPU have little else to do.
            Reader::Idle(loader) if self.device.is_some() => loader.on_threads(rayon::current_num_threads())?,
            Reader::Idle(loader) => *loader,
            Reader::Reading(Reading { batches, thread }) => {
                // Each thread ends at its next attempt to hand over a batch.
                drop(batches);
                thread.join().map_err(|_| failed())?
            }
        };
        let (to, read) = mpsc::sync_channel(AHEAD);
        let (lanes, end) = (self.lanes.clone(), self.total_steps);
        let thread = thread::Builder::new()
            .name("samples".into())
            .spawn(move || read_all(loader, &lanes, step..end, &to))?;
        let batches = match &self.device {
            None => Batches::Read(read),
            Some(device) => Batches::Sent(send_ahead(read, device.clone())?),
        };
        self.reader = Some(Reader::Reading(Reading { batches, thread }));
        Ok(())
    }
}

fn read_all(
    mut loader: Loader,
    lanes: &[u32],
    steps: std::ops::Range<u64>,
    to: &SyncSender<Word<Batch, Fault>>,
) -> Loader {
    for step in steps {
        for lane in lanes {
            let batch = patiently(|| loader.batch(step, *lane), fault_may_pass, || waits(to));
            let broken = batch.is_err();
            if to.send(Word::Next(batch)).is_err() || broken {
                return loader;
            }
        }
    }
    loader
}

/// The same batches, whose pixels a thread sends to the device as soon as they are read.
fn send_ahead(
    batches: Receiver<Word<Batch, Fault>>,
    device: Device,
) -> Result<Receiver<Word<Loaded, Failure>>, Failure> {
    let (to, sent) = mpsc::sync_channel(SENT_AHEAD);
    thread::Builder::new()
        .name("pixels".into())
        .spawn(move || send_all(&batches, &device, &to))?;
    Ok(sent)
}

fn send_all(batches: &Receiver<Word<Batch, Fault>>, device: &Device, to: &SyncSender<Word<Loaded, Failure>>) {
    let mut ahead = match Ahead::to(device) {
        Ok(ahead) => ahead,
        Err(error) => {
            // Whoever would have received it has given up.
            let _ = to.send(Word::Next(Err(error.into())));
            return;
        }
    };
    for word in batches {
        let is_wanted = match word {
            Word::Waits => waits(to),
            Word::Next(batch) => {
                let loaded = batch.map_err(Failure::from).map(|batch| Loaded {
                    sent: Some(ahead.send(&batch.pixels)),
                    batch,
                });
                to.send(Word::Next(loaded)).is_ok()
            }
        };
        if !is_wanted {
            return;
        }
    }
}

#[cfg(test)]
mod tests;
