//! Arrays that are sent ahead of their use, while the device computes.
//!
//! A sender has a stream and pinned chambers of its own: what it copies waits for nothing that the device computes, and what the
//! device computes waits for what it reads alone. Places on the device are used again in turn: what is sent to one comes behind what the device
//! read there last. So nothing is allocated from array to array.

use super::Cuda;
use super::device::locked;
use super::driver::Event;
use super::error::CudaError;
use super::format::Format;
use super::memory::{Memory, Slice};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

/// Sends arrays to a device.
pub struct Sender {
    to: Arc<Cuda>,
    aside: Arc<Cuda>,
    free: Arc<Mutex<VecDeque<Place>>>,
}

/// Memory for an array, and marks of its last journey.
struct Place {
    memory: Memory,
    /// In the sender's stream: the array is there.
    arrived: Event,
    /// In the stream of the device: nothing asked so far reads it any more.
    read: Event,
    aside: Arc<Cuda>,
}

/// An array that was sent to a device. When it is dropped, its place is used again as soon as the device has read it.
pub struct Sent {
    to: Arc<Cuda>,
    len: usize,
    /// Where it is; nowhere if sending failed.
    place: Option<Place>,
    failure: Option<CudaError>,
    free: Arc<Mutex<VecDeque<Place>>>,
}

impl Sender {
    /// What sends arrays to this device.
    ///
    /// # Errors
    /// What the driver says.
    pub fn new(to: &Arc<Cuda>) -> Result<Self, CudaError> {
        Ok(Self {
            aside: to.beside()?,
            to: Arc::clone(to),
            free: Arc::default(),
        })
    }

    /// Sends values, which may be changed at return; waits for a place that is free. An error is told to the device when it is to read them.
    pub fn send(&mut self, values: &[f32]) -> Sent {
        let (place, failure) = match self.copy(values) {
            Ok(place) => (Some(place), None),
            Err(error) => (None, Some(error)),
        };
        Sent {
            to: Arc::clone(&self.to),
            len: values.len(),
            place,
            failure,
            free: Arc::clone(&self.free),
        }
    }

    fn copy(&self, values: &[f32]) -> Result<Place, CudaError> {
        let mut place = self.place(values.len())?;
        self.aside.stream().wait(&place.read)?;
        self.aside
            .upload(values, place.memory.slice_mut().range(0..values.len()));
        if self.aside.has_failed() {
            // It may go well the next time.
            self.aside.check()?;
        }
        place.arrived.record(self.aside.stream())?;
        Ok(place)
    }

    /// A place for `len` values: the one that has been free for longest, if it is large enough.
    fn place(&self, len: usize) -> Result<Place, CudaError> {
        let used = locked(&self.free).pop_front().filter(|place| place.memory.len() >= len);
        used.map_or_else(|| Place::new(&self.aside, len), Ok)
    }
}

impl Place {
    fn new(aside: &Arc<Cuda>, len: usize) -> Result<Self, CudaError> {
        // Events are made in the context that is current.
        aside.stream();
        Ok(Self {
            arrived: Event::new()?,
            read: Event::new()?,
            memory: aside.memory_of(len, Format::F32),
            aside: Arc::clone(aside),
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // The memory is freed next, in the sender's stream: behind what reads it in the device's. Nobody is left to hear of an error.
        let _ = self.aside.stream().wait(&self.read);
    }
}

impl Sent {
    /// Number of values.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The values, for what is asked next of the device that they were sent to: it comes behind their arrival.
    pub fn slice(&self) -> Slice<'_> {
        let Some(place) = &self.place else {
            self.to.note(self.failure.clone().map_or(Ok(()), Err));
            return Slice::nowhere(self.len);
        };
        self.to.note(self.to.stream().wait(&place.arrived));
        place.memory.slice().range(0..self.len)
    }
}

impl Drop for Sent {
    fn drop(&mut self) {
        if let Some(place) = self.place.take()
            && place.read.record(self.to.stream()).is_ok()
        {
            locked(&self.free).push_back(place);
        }
    }
}
