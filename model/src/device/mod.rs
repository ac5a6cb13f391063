//! Where a model computes: memory and kernels of the processor, or of a GPU.
//!
//! A [`Span`] is a piece of memory wherever it lies, a [`Buffer`] owns one, and a [`Pool`] hands buffers out. [`Device`] has one
//! method for each kernel and sends it to the functions of [`crate::ops`] or, with the feature `cuda`, to the kernels of
//! `crate::cuda`. Above this room nobody knows where numbers lie; what has to see them asks for a copy with [`Device::to_vec`].
//!
//! Kernels of a GPU return nothing: the first error stays with the device until [`Device::check`] asks for it.

mod kernels;
mod memory;
mod pool;

pub use kernels::Temperature;
pub(crate) use kernels::{Attention, Columns, Factor, Start};
pub use memory::{Buffer, Span, SpanMut};
pub use pool::Pool;

#[cfg(feature = "cuda")]
use crate::cuda::Cuda;
#[cfg(feature = "cuda")]
use std::sync::Arc;

/// Where a model computes.
#[derive(Clone, Default)]
pub enum Device {
    /// The processor, on the threads of the present pool.
    #[default]
    Cpu,
    /// A GPU.
    #[cfg(feature = "cuda")]
    Cuda(Arc<Cuda>),
}

/// A device failed: what it computed since the last check is worthless.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the device failed: {0}")]
pub struct DeviceError(String);

/// There is no such device.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoDevice {
    /// Not the name of a device.
    #[error("`{0}` names no device: write cpu, or cuda:N for the GPU with number N")]
    Unknown(String),
    /// A GPU is asked of a program that was built without.
    #[error("{0} asks for a GPU, and this program was built without: build it with `make gpu-bin`")]
    NotBuilt(String),
    /// The GPU, or what it takes, is not there.
    #[error("{0}: {1}")]
    Absent(String, String),
}

/// `cpu`, or `cuda:N` for the GPU with number N, which is opened.
impl std::str::FromStr for Device {
    type Err = NoDevice;

    fn from_str(name: &str) -> Result<Self, NoDevice> {
        if name == "cpu" {
            return Ok(Self::Cpu);
        }
        let number = name.strip_prefix("cuda:").and_then(|number| number.parse().ok());
        let number = number.ok_or_else(|| NoDevice::Unknown(name.to_owned()))?;
        Self::gpu(name, number)
    }
}

impl Device {
    #[cfg(feature = "cuda")]
    fn gpu(name: &str, number: usize) -> Result<Self, NoDevice> {
        let opened = Cuda::open(number).map(Self::Cuda);
        opened.map_err(|error| NoDevice::Absent(name.to_owned(), error.to_string()))
    }

    #[cfg(not(feature = "cuda"))]
    fn gpu(name: &str, _number: usize) -> Result<Self, NoDevice> {
        Err(NoDevice::NotBuilt(name.to_owned()))
    }

    /// A buffer of `len` elements with unspecified contents, outside of any pool.
    pub fn buffer(&self, len: usize) -> Buffer {
        match self {
            Self::Cpu => Buffer::host(crate::flat::Flat::zeros(len)),
            #[cfg(feature = "cuda")]
            Self::Cuda(cuda) => Buffer::cuda(cuda.memory(len), len),
        }
    }

    /// A copy of `values` on this device.
    pub fn upload(&self, values: &[f32]) -> Buffer {
        let mut buffer = self.buffer(values.len());
        self.write(values, buffer.span_mut());
        buffer
    }

    /// A buffer on this device that takes these values over: a copy only where they lie elsewhere.
    pub fn hold(&self, values: crate::flat::Flat) -> Buffer {
        match self {
            Self::Cpu => Buffer::host(values),
            #[cfg(feature = "cuda")]
            Self::Cuda(_) => self.upload(&values),
        }
    }

    /// Copies `from` to this device. `from` may change once this returns.
    pub fn write(&self, from: &[f32], to: SpanMut) {
        match self {
            Self::Cpu => to.host().copy_from_slice(from),
            #[cfg(feature = "cuda")]
            Self::Cuda(cuda) => cuda.upload(from, to.cuda()),
        }
    }

    /// Copies from this device, after all that was asked of it before.
    pub fn read(&self, from: Span, to: &mut [f32]) {
        match self {
            Self::Cpu => to.copy_from_slice(from.host()),
            #[cfg(feature = "cuda")]
            Self::Cuda(cuda) => cuda.download(from.cuda(), to),
        }
    }

    /// A copy in the memory of the process, after all that was asked of the device before.
    pub fn to_vec(&self, from: Span) -> Vec<f32> {
        let mut copy = vec![0.0; from.len()];
        self.read(from, &mut copy);
        copy
    }

    /// Waits for all that was asked of the device.
    ///
    /// # Errors
    /// [`DeviceError`] with the first fault since the last check.
    pub fn check(&self) -> Result<(), DeviceError> {
        match self {
            Self::Cpu => Ok(()),
            #[cfg(feature = "cuda")]
            Self::Cuda(cuda) => cuda.check().map_err(|error| DeviceError(error.to_string())),
        }
    }

    /// Whether weights are worth turning for products with few rows (see [`crate::tape::Turned`]).
    pub fn turns_weights(&self) -> bool {
        matches!(self, Self::Cpu)
    }

    /// Elements that attention keeps of each query and head for its backward pass.
    pub(crate) fn kept_by_attention(&self) -> usize {
        match self {
            Self::Cpu => 0,
            #[cfg(feature = "cuda")]
            Self::Cuda(_) => 2,
        }
    }
}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Cpu => "Cpu",
            #[cfg(feature = "cuda")]
            Self::Cuda(_) => "Cuda",
        })
    }
}
