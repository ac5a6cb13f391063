//! Small arrays on their way home, while the device goes on.
//!
//! A copy into ordinary memory makes the host wait for all that was asked of the device before, and what is asked next comes too
//! late. So an array is copied into a pinned chamber, with an event behind the copy; who needs the values waits for that event
//! alone, when the device has got more to do meanwhile. Chambers and events are used again.

use super::Cuda;
use super::device::locked;
use super::driver::{Event, Pinned};
use super::error::CudaError;
use super::format::Format;
use super::memory::Slice;
use std::sync::Arc;

/// Bytes of the smallest chamber.
const SMALLEST: usize = 4 << 10;

/// Pinned memory for an answer, and a mark behind its copy.
pub(super) struct Chamber {
    pinned: Pinned,
    there: Event,
}

/// Values that the device was asked for.
pub struct Answer {
    cuda: Arc<Cuda>,
    len: usize,
    /// None if the device has failed.
    chamber: Option<Chamber>,
}

impl Chamber {
    fn new(bytes: usize) -> Result<Self, CudaError> {
        Ok(Self {
            pinned: Pinned::new(bytes.next_power_of_two().max(SMALLEST))?,
            there: Event::new()?,
        })
    }
}

impl Cuda {
    /// Asks for values as they are behind all that was asked for so far. Nothing is awaited, and their memory may be used for
    /// what is asked for next.
    pub fn ask(self: &Arc<Self>, from: Slice<'_>) -> Answer {
        let chamber = match from.format() {
            Format::F32 => self.copy_home(from),
            Format::Bf16 => self.copy_home(self.converted(from, Format::F32).slice(from.len(), Format::F32)),
        };
        Answer {
            cuda: Arc::clone(self),
            len: from.len(),
            chamber,
        }
    }

    fn copy_home(&self, from: Slice<'_>) -> Option<Chamber> {
        if self.has_failed() || from.is_empty() {
            return None;
        }
        let stream = self.stream();
        let copied = self.chamber(from.bytes()).and_then(|mut chamber| {
            stream.to_pinned(from.address(), &mut chamber.pinned, from.bytes())?;
            chamber.there.record(stream)?;
            Ok(chamber)
        });
        copied.map_err(|error| self.note(Err(error))).ok()
    }

    /// A chamber of at least so many bytes: the smallest that is free.
    fn chamber(&self, bytes: usize) -> Result<Chamber, CudaError> {
        let mut free = locked(&self.chambers);
        let fitting = free
            .iter()
            .enumerate()
            .filter(|(_, chamber)| chamber.pinned.bytes().len() >= bytes);
        let smallest = fitting
            .min_by_key(|(_, chamber)| chamber.pinned.bytes().len())
            .map(|(at, _)| at);
        smallest.map_or_else(|| Chamber::new(bytes), |at| Ok(free.swap_remove(at)))
    }
}

impl Answer {
    /// The values, once they are there. They are not numbers if the device has failed.
    pub fn wait(mut self) -> Vec<f32> {
        let Some(chamber) = self.chamber.take() else {
            return vec![f32::NAN; self.len];
        };
        let values = if self.cuda.await_mark(&chamber.there) {
            let bytes = &chamber.pinned.bytes()[..self.len * size_of::<f32>()];
            bytemuck::cast_slice(bytes).to_vec()
        } else {
            vec![f32::NAN; self.len]
        };
        locked(&self.cuda.chambers).push(chamber);
        values
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        // Nobody wanted it. The chamber's next copy comes behind this one.
        if let Some(chamber) = self.chamber.take() {
            locked(&self.cuda.chambers).push(chamber);
        }
    }
}
