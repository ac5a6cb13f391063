//! Activations: buffers that are used again.

use super::memory::{Buffer, Store};
use super::{Device, DeviceError};
use crate::flat;
#[cfg(feature = "cuda")]
use crate::{cuda, flat::LINE};
#[cfg(feature = "cuda")]
use std::collections::BTreeMap;

/// Buffers of a device that are free at present. The default one is the processor's.
#[derive(Default)]
pub struct Pool {
    device: Device,
    host: flat::Pool,
    #[cfg(feature = "cuda")]
    cuda: Free,
}

/// A GPU's free memory by size class.
#[cfg(feature = "cuda")]
#[derive(Default)]
struct Free {
    by_class: BTreeMap<usize, Vec<cuda::Memory>>,
    live: usize,
    peak: usize,
}

impl Pool {
    /// A pool of this device.
    pub fn on(device: Device) -> Self {
        Self {
            device,
            ..Self::default()
        }
    }

    /// Whose buffers these are.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// A buffer of `len` elements with unspecified contents.
    pub fn take(&mut self, len: usize) -> Buffer {
        match &self.device {
            Device::Cpu => Buffer::host(self.host.take(len)),
            #[cfg(feature = "cuda")]
            Device::Cuda(cuda) => {
                let class = flat::size_class(len.div_ceil(LINE)) * LINE;
                self.cuda.live += class;
                self.cuda.peak = self.cuda.peak.max(self.cuda.live);
                let free = self.cuda.by_class.get_mut(&class).and_then(Vec::pop);
                Buffer::cuda(free.unwrap_or_else(|| cuda.memory(class)), len)
            }
        }
    }

    /// Gives a buffer back.
    pub fn give(&mut self, buffer: Buffer) {
        match buffer.store {
            Store::Host(flat) => self.host.give(flat),
            #[cfg(feature = "cuda")]
            Store::Cuda(memory) => {
                self.cuda.live = self.cuda.live.saturating_sub(memory.len());
                self.cuda.by_class.entry(memory.len()).or_default().push(memory);
            }
        }
    }

    /// Most bytes that were in use at once.
    pub fn peak_bytes(&self) -> usize {
        match &self.device {
            Device::Cpu => self.host.peak_bytes(),
            #[cfg(feature = "cuda")]
            Device::Cuda(_) => self.cuda.peak * size_of::<f32>(),
        }
    }

    /// See [`Device::check`].
    ///
    /// # Errors
    /// [`DeviceError`] with the first fault since the last check.
    pub fn check(&self) -> Result<(), DeviceError> {
        self.device.check()
    }
}
