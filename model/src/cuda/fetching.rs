//! Device memory on its way to the process while the device goes on computing.
//!
//! A copy in the stream that computes would come behind all that was asked of it by then. So what is read meanwhile is copied in
//! a stream of its own, behind a [`Mark`] in the other one, through two pinned chambers in turn: one is filled while the other
//! is read.

use super::Cuda;
use super::driver::{Event, Pinned, Stream};
use super::error::CudaError;
use super::memory::{Memory, Slice};
use std::fmt::{Debug, Formatter, Result as FmtResult};
use std::sync::Arc;

/// Bytes of a chamber.
const CHAMBER: usize = 8 << 20;

/// A moment: the end of what a device was asked to do until then.
pub struct Mark(Event);

/// Copies device memory to the process, in a stream of its own.
pub struct Fetcher {
    // Dropped in this order: the device goes last.
    chambers: [Chamber; 2],
    stream: Stream,
    cuda: Arc<Cuda>,
}

struct Chamber {
    pinned: Pinned,
    filled: Event,
}

impl Chamber {
    fn new() -> Result<Self, CudaError> {
        Ok(Self {
            pinned: Pinned::new(CHAMBER)?,
            filled: Event::slept_for()?,
        })
    }
}

impl Cuda {
    /// Marks the end of what was asked so far. Nothing is awaited.
    ///
    /// # Errors
    /// What the driver says, or what has failed before: nothing good lies behind it.
    pub fn mark(&self) -> Result<Mark, CudaError> {
        let stream = self.stream();
        if let Some(error) = self.failure() {
            return Err(error);
        }
        let end = Event::new()?;
        end.record(stream)?;
        Ok(Mark(end))
    }

    /// What copies this device's memory to the process beside all else.
    ///
    /// # Errors
    /// What the driver says.
    pub fn fetcher(self: &Arc<Self>) -> Result<Fetcher, CudaError> {
        self.enter()?;
        Ok(Fetcher {
            chambers: [Chamber::new()?, Chamber::new()?],
            stream: Stream::new()?,
            cuda: Arc::clone(self),
        })
    }

    /// Memory of single precision with unspecified contents, if the device has so much and this many bytes besides. What it has
    /// not is no fault.
    pub fn spare_memory(self: &Arc<Self>, len: usize, besides: usize) -> Option<Memory> {
        let bytes = len * size_of::<f32>();
        if self.has_failed() || self.describe().free_bytes < bytes + besides {
            return None;
        }
        let address = self.stream().allocate(bytes).ok()?;
        Some(Memory::at(self, address, len))
    }
}

impl Fetcher {
    /// Calls `f` with the bytes of `from` as they are behind `mark`, in order and piece by piece. Until it returns they must not be
    /// written on the device.
    ///
    /// # Errors
    /// What the driver says, or what the device has failed at: what `f` was given is worthless then.
    pub fn fetch(&mut self, mark: &Mark, from: Slice<'_>, f: &mut dyn FnMut(&[u8])) -> Result<(), CudaError> {
        self.cuda.enter()?;
        self.stream.wait(&mark.0)?;
        let copied = self.copy(from.address(), from.bytes(), f);
        if copied.is_err() {
            // Nothing is on its way any more when the memory is used for something else.
            let _ = self.stream.synchronize();
        }
        copied?;
        self.cuda.failure().map_or(Ok(()), Err)
    }

    fn copy(&mut self, from: u64, bytes: usize, f: &mut dyn FnMut(&[u8])) -> Result<(), CudaError> {
        let pieces = bytes.div_ceil(CHAMBER);
        let len = |piece: usize| (bytes - piece * CHAMBER).min(CHAMBER);
        let begin = |chambers: &mut [Chamber; 2], piece: usize| {
            let chamber = &mut chambers[piece % 2];
            let from = from + (piece * CHAMBER) as u64;
            self.stream.to_pinned(from, &mut chamber.pinned, len(piece))?;
            chamber.filled.record(&self.stream)
        };
        if pieces > 0 {
            begin(&mut self.chambers, 0)?;
        }
        for piece in 0..pieces {
            if piece + 1 < pieces {
                begin(&mut self.chambers, piece + 1)?;
            }
            let chamber = &self.chambers[piece % 2];
            chamber.filled.wait()?;
            f(&chamber.pinned.bytes()[..len(piece)]);
        }
        Ok(())
    }
}

impl Drop for Fetcher {
    fn drop(&mut self) {
        // Nobody is left to hear of an error.
        let _ = self.cuda.enter();
        let _ = self.stream.synchronize();
    }
}

impl Debug for Mark {
    fn fmt(&self, f: &mut Formatter<'_>) -> FmtResult {
        f.write_str("Mark")
    }
}

impl Debug for Fetcher {
    fn fmt(&self, f: &mut Formatter<'_>) -> FmtResult {
        f.write_str("Fetcher")
    }
}
