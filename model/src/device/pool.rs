//! Activations: buffers that are used again.

use super::memory::{Buffer, Store};
use super::{Asked, Device, DeviceError, Use};
use crate::flat;
#[cfg(feature = "cuda")]
use crate::{cuda, flat::LINE};
#[cfg(feature = "cuda")]
use std::collections::HashMap;

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
    by_class: HashMap<(cuda::Format, usize), Vec<cuda::Memory>>,
    live_bytes: usize,
    peak_bytes: usize,
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
    pub fn take(&mut self, len: usize, purpose: Use) -> Buffer {
        match &self.device {
            Device::Cpu => {
                let _ = purpose;
                Buffer::host(self.host.take(len))
            }
            #[cfg(feature = "cuda")]
            Device::Cuda(cuda, format) => {
                let format = if purpose == Use::Exact {
                    cuda::Format::F32
                } else {
                    *format
                };
                let class = flat::size_class(len.div_ceil(LINE)) * LINE;
                self.cuda.live_bytes += class * format.size();
                self.cuda.peak_bytes = self.cuda.peak_bytes.max(self.cuda.live_bytes);
                let free = self.cuda.by_class.get_mut(&(format, class)).and_then(Vec::pop);
                Buffer::cuda(free.unwrap_or_else(|| cuda.memory_of(class, format)), len)
            }
        }
    }

    /// Gives a buffer back.
    pub fn give(&mut self, buffer: Buffer) {
        match buffer.store {
            Store::Host(flat) => self.host.give(flat),
            #[cfg(feature = "cuda")]
            Store::Cuda(memory) => {
                let (format, class) = (memory.slice().format(), memory.len());
                self.cuda.live_bytes = self.cuda.live_bytes.saturating_sub(class * format.size());
                // Where memory had run out there is none to be used again.
                if memory.is_there() {
                    self.cuda.by_class.entry((format, class)).or_default().push(memory);
                }
            }
        }
    }

    /// Gives a buffer back for what it holds, which comes to the memory of the process.
    pub fn spend(&mut self, buffer: Buffer) -> Asked {
        let asked = self.device.ask(buffer.span());
        self.give(buffer);
        asked
    }

    /// Most bytes that were in use at once.
    pub fn peak_bytes(&self) -> usize {
        match &self.device {
            Device::Cpu => self.host.peak_bytes(),
            #[cfg(feature = "cuda")]
            Device::Cuda(..) => self.cuda.peak_bytes,
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
