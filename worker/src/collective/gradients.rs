//! Buffers for gradients, and where they lie: in the memory of the process, or on the device that computes them.

use medley_model::device::{Buffer, Device, Span};

/// Gradients of one length that are free at present. Nothing else is kept here, so what lies between a gradient's entries, which
/// no lane writes and norms read, stays as it began: zero.
#[derive(Debug)]
pub struct Gradients {
    len: usize,
    device: Device,
    /// On the device, where that is not the processor.
    there: Vec<Buffer>,
    /// In the memory of the process.
    here: Vec<Buffer>,
}

impl Gradients {
    /// Gradients of `len` elements in the memory of the process.
    pub fn new(len: usize) -> Self {
        Self {
            len,
            device: Device::Cpu,
            there: Vec::new(),
            here: Vec::new(),
        }
    }

    /// From now on gradients are summed on this device.
    pub fn lie_on(&mut self, device: Device) {
        self.device = device;
        self.there.clear();
    }

    /// Where gradients are summed.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// A buffer for a gradient where they are summed; what it holds is not specified, except that gaps are zero.
    pub fn take(&mut self) -> Buffer {
        let free = match self.device {
            Device::Cpu => &mut self.here,
            #[cfg(feature = "cuda")]
            Device::Cuda(..) => &mut self.there,
        };
        free.pop().unwrap_or_else(|| self.device.buffer(self.len))
    }

    /// Gives a buffer back.
    pub fn give(&mut self, buffer: Buffer) {
        match buffer.span() {
            Span::Host(_) => self.here.push(buffer),
            #[cfg(feature = "cuda")]
            Span::Cuda(_) => self.there.push(buffer),
        }
    }

    /// Brings a sum to this device, where the state is committed: a copy only if it lies elsewhere, which is in the memory of the
    /// process.
    pub fn bring(&mut self, sum: Buffer, to: &Device) -> Buffer {
        let is_there = match to {
            Device::Cpu => true,
            #[cfg(feature = "cuda")]
            Device::Cuda(..) => matches!(sum.span(), Span::Cuda(_)),
        };
        if is_there {
            return sum;
        }
        let mut there = self.there.pop().unwrap_or_else(|| to.buffer(self.len));
        to.write(sum.span().host(), there.span_mut());
        self.give(sum);
        there
    }
}
