//! Reading a device's memory while it goes on computing.

use super::{Buffer, Device, DeviceError, Span};
#[cfg(feature = "cuda")]
use crate::cuda;

/// A moment: the end of what a device was asked to do until then.
#[derive(Debug)]
pub enum Mark {
    /// The processor has always done what it was asked.
    Cpu,
    /// In a GPU's stream.
    #[cfg(feature = "cuda")]
    Cuda(cuda::Mark),
}

/// Copies memory of a device to the process, beside all else that the device does.
#[derive(Debug)]
pub enum Fetcher {
    /// Nothing is to be copied: the process reads where the memory lies.
    Cpu,
    /// In a stream of its own.
    #[cfg(feature = "cuda")]
    Cuda(cuda::Fetcher),
}

impl Fetcher {
    /// Calls `f` with the bytes of `from` as they are behind `mark`, in order and piece by piece. Nobody may change them meanwhile.
    ///
    /// # Errors
    /// [`DeviceError`]: what `f` was given is worthless then.
    pub fn fetch(&mut self, mark: &Mark, from: Span, f: &mut dyn FnMut(&[u8])) -> Result<(), DeviceError> {
        match (self, mark) {
            #[cfg(feature = "cuda")]
            (Self::Cuda(fetcher), Mark::Cuda(mark)) => Ok(fetcher.fetch(mark, from.cuda(), f)?),
            _ => {
                f(bytemuck::cast_slice(from.host()));
                Ok(())
            }
        }
    }
}

impl Device {
    /// Marks the end of what was asked so far. Nothing is awaited.
    ///
    /// # Errors
    /// [`DeviceError`] with what has failed before.
    pub fn mark(&self) -> Result<Mark, DeviceError> {
        match self {
            Self::Cpu => Ok(Mark::Cpu),
            #[cfg(feature = "cuda")]
            Self::Cuda(cuda, _) => Ok(Mark::Cuda(cuda.mark()?)),
        }
    }

    /// What copies this device's memory to the process beside all else.
    ///
    /// # Errors
    /// [`DeviceError`] if there is no more pinned memory, or no stream.
    pub fn fetcher(&self) -> Result<Fetcher, DeviceError> {
        match self {
            Self::Cpu => Ok(Fetcher::Cpu),
            #[cfg(feature = "cuda")]
            Self::Cuda(cuda, _) => Ok(Fetcher::Cuda(cuda.fetcher()?)),
        }
    }

    /// A buffer with unspecified contents, if the device has so much and `besides` bytes more. What it has not is no fault.
    pub fn spare_buffer(&self, len: usize, besides: usize) -> Option<Buffer> {
        match self {
            Self::Cpu => {
                let _ = besides;
                Some(self.buffer(len))
            }
            #[cfg(feature = "cuda")]
            Self::Cuda(cuda, _) => cuda.spare_memory(len, besides).map(|memory| Buffer::cuda(memory, len)),
        }
    }
}

#[cfg(feature = "cuda")]
impl From<cuda::CudaError> for DeviceError {
    fn from(error: cuda::CudaError) -> Self {
        Self(error.to_string())
    }
}
