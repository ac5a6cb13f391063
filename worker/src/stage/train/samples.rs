//! Batches read ahead by a thread of their own, so that decoding overlaps with computing; on a GPU, by another one, their pixels are
//! sent ahead too.

use crate::rank::failure::Failure;
use medley_data::loader::{Batch, Fault, Loader};
use medley_model::blip::LaneBatch;
use medley_model::device::{Ahead, Device, Sent, Span};
use std::ops::Deref;
use std::sync::mpsc::{self, Receiver, SyncSender};
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
    Read(Receiver<Result<Batch, Fault>>),
    Sent(Receiver<Result<Loaded, Failure>>),
}

impl Batches {
    /// The next one; nothing if a thread ended.
    fn next(&self) -> Option<Result<Loaded, Failure>> {
        match self {
            Self::Read(batches) => {
                let batch = batches.recv().ok()?;
                Some(batch.map(|batch| Loaded { batch, sent: None }).map_err(Failure::from))
            }
            Self::Sent(batches) => batches.recv().ok(),
        }
    }
}

impl Samples {
    /// Reads nothing yet. Pixels are sent to the device.
    pub(super) fn new(loader: Loader, total_steps: u64, device: &Device) -> Self {
        Self {
            lanes: Vec::new(),
            total_steps,
            device: (!matches!(device, Device::Cpu)).then(|| device.clone()),
            reader: Some(Reader::Idle(Box::new(loader))),
        }
    }

    /// The next batch.
    ///
    /// # Errors
    /// [`Failure`] when a shard cannot be read: passing, unless it is missing or another.
    pub(super) fn next(&mut self) -> Result<Loaded, Failure> {
        let reading = match &self.reader {
            Some(Reader::Reading(reading)) => reading.batches.next(),
            _ => None,
        };
        reading.ok_or_else(|| Failure::passing("the thread that reads samples ended"))?
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

/// The same batches, whose pixels a thread sends to the device as soon as they are read.
fn send_ahead(
    batches: Receiver<Result<Batch, Fault>>,
    device: Device,
) -> Result<Receiver<Result<Loaded, Failure>>, Failure> {
    let (to, sent) = mpsc::sync_channel(SENT_AHEAD);
    thread::Builder::new()
        .name("pixels".into())
        .spawn(move || send_all(&batches, &device, &to))?;
    Ok(sent)
}

fn send_all(batches: &Receiver<Result<Batch, Fault>>, device: &Device, to: &SyncSender<Result<Loaded, Failure>>) {
    let mut ahead = match Ahead::to(device) {
        Ok(ahead) => ahead,
        Err(error) => {
            // Whoever would have received it has given up.
            let _ = to.send(Err(error.into()));
            return;
        }
    };
    for batch in batches {
        let loaded = batch.map_err(Failure::from).map(|batch| Loaded {
            sent: Some(ahead.send(&batch.pixels)),
            batch,
        });
        if to.send(loaded).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(number: u64) -> Batch {
        Batch {
            epoch: 0,
            position: number,
            pixels: vec![number as f32; 12],
            texts: vec![vec![1, number as u32, 2]],
            identities: vec![number + 1],
            samples: vec![number],
            replaced: Vec::new(),
        }
    }

    /// The processor plays the device: what is sent to it is a copy.
    fn sent(batches: Vec<Result<Batch, Fault>>) -> Receiver<Result<Loaded, Failure>> {
        let (to, read) = mpsc::sync_channel(batches.len());
        for batch in batches {
            to.send(batch).unwrap();
        }
        send_ahead(read, Device::Cpu).unwrap()
    }

    #[test]
    fn batches_keep_their_order_and_their_pixels_when_they_are_sent() {
        let received: Vec<Loaded> = sent((0..5).map(|i| Ok(batch(i))).collect())
            .into_iter()
            .map(Result::unwrap)
            .collect();
        assert_eq!(received.len(), 5);
        for (number, loaded) in received.iter().enumerate() {
            let own = loaded.own();
            assert!(loaded.sent.is_some() && own.pixels.host().as_ptr() != loaded.pixels.as_ptr());
            assert_eq!(own.pixels.host(), batch(number as u64).pixels);
            assert_eq!((own.texts, own.identities), (&loaded.texts[..], &loaded.identities[..]));
        }
    }

    #[test]
    fn a_batch_that_is_kept_or_changed_is_no_longer_what_was_sent() {
        let sent = sent(vec![Ok(batch(3)), Ok(batch(4))]);
        let kept = sent.recv().unwrap().unwrap().kept();
        assert_eq!(kept.own().pixels.host().as_ptr(), kept.pixels.as_ptr());
        let mut guested = sent.recv().unwrap().unwrap();
        guested.change().pixels.extend([7.0; 12]);
        assert_eq!(guested.own().pixels.host(), [[4.0; 12], [7.0; 12]].concat());
    }

    #[test]
    fn a_fault_is_told_in_its_place() {
        let fault = || Fault::Undecodable {
            path: "a.tar".into(),
            tries: 2,
        };
        let sent = sent(vec![Ok(batch(0)), Err(fault())]);
        assert!(sent.recv().unwrap().is_ok());
        assert_eq!(sent.recv().unwrap().err(), Some(fault().into()));
        assert!(sent.recv().is_err());
    }
}
