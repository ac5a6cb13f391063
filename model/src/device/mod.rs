//! Where a model computes: memory and kernels of the processor, or of a GPU.
//!
//! A [`Span`] is a piece of memory wherever it lies, a [`Buffer`] owns one, and a [`Pool`] hands buffers out. [`Device`] has one
//! method for each kernel and sends it to the functions of [`crate::ops`] or, with the feature `cuda`, to the kernels of
//! `crate::cuda`. Above this room nobody knows where numbers lie; what has to see them asks for a copy with [`Device::to_vec`].
//!
//! Kernels of a GPU return nothing: the first error stays with the device until [`Device::check`] asks for it.

mod ahead;
mod asked;
mod fetching;
mod kernels;
mod memory;
mod parameters;
mod pool;
mod repeated;
mod texts;

pub use ahead::{Ahead, Sent};
pub use asked::Asked;
pub use fetching::{Fetcher, Mark};
pub(crate) use kernels::Factor;
pub use kernels::Temperature;
pub use memory::{Buffer, Span, SpanMut};
pub use parameters::{OwnParameters, Parameters};
pub use pool::Pool;
pub(crate) use repeated::Repeated;
pub use texts::{Growth, Texts};

#[cfg(feature = "cuda")]
use crate::cuda::{self, Cuda};
#[cfg(feature = "cuda")]
use std::sync::Arc;

/// Where a model computes.
#[derive(Clone, Default)]
pub enum Device {
    /// The processor, on the threads of the present pool.
    #[default]
    Cpu,
    /// A GPU, and the format of its activations.
    #[cfg(feature = "cuda")]
    Cuda(Arc<Cuda>, cuda::Format),
}

/// What a buffer is for, which decides its format on a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// Parameters, gradients of parameters, statistics, features, losses: single precision.
    Exact,
    /// Activations and their gradients: what the device was opened for.
    Activation,
}

/// A device failed: what it computed since the last check is worthless.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the device failed: {0}")]
pub struct DeviceError(String);

/// There is no such device.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoDevice {
    /// Not the name of a device.
    #[error(
        "`{0}` names no device: write cpu, cuda:N for the GPU with number N, or cuda:N:bf16 to compute in bf16 there"
    )]
    Unknown(String),
    /// A GPU is asked of a program that was built without.
    #[error("{0} asks for a GPU, and this program was built without: build it with `make gpu-bin`")]
    NotBuilt(String),
    /// The GPU, or what it takes, is not there.
    #[error("{0}: {1}")]
    Absent(String, String),
}

/// `cpu`; or the GPU with number N, which is opened: `cuda:N` to compute in single precision, `cuda:N:bf16` to store activations
/// and multiply in bf16.
impl std::str::FromStr for Device {
    type Err = NoDevice;

    fn from_str(name: &str) -> Result<Self, NoDevice> {
        if name == "cpu" {
            return Ok(Self::Cpu);
        }
        let (number, rounded) = gpu(name)?;
        Self::gpu(name, number, rounded)
    }
}

/// Number of the GPU that is meant, and whether it computes in bf16.
fn gpu(name: &str) -> Result<(usize, bool), NoDevice> {
    let words: Vec<&str> = name.split(':').collect();
    let (number, rounded) = match words[..] {
        ["cuda", number] => (number.parse(), false),
        ["cuda", number, "bf16"] => (number.parse(), true),
        _ => return Err(NoDevice::Unknown(name.to_owned())),
    };
    let number = number.map_err(|_| NoDevice::Unknown(name.to_owned()))?;
    Ok((number, rounded))
}

/// What the bits of a GPU's results depend on besides the program: its model, the libraries, and its format. Nothing for the
/// processor. The GPU is not opened.
///
/// # Errors
/// [`NoDevice`].
pub fn gpu_numerics(name: &str) -> Result<Option<String>, NoDevice> {
    if name == "cpu" {
        return Ok(None);
    }
    let (number, rounded) = gpu(name)?;
    let format = if rounded { "bf16" } else { "fp32" };
    let numerics = numerics(name, Some(number))?;
    Ok(Some(format!("{numerics} {format}")))
}

/// The same of the GPU with this UUID, but for the format, where all is there to compute on it.
///
/// # Errors
/// [`NoDevice`].
pub fn gpu_numerics_of(uuid: &str) -> Result<String, NoDevice> {
    numerics(uuid, None)
}

/// Of the GPU with this number, or with its name for a UUID.
#[cfg(feature = "cuda")]
fn numerics(name: &str, number: Option<usize>) -> Result<String, NoDevice> {
    let absent = |why: String| NoDevice::Absent(name.to_owned(), why);
    let listed = cuda::devices().map_err(|error| absent(error.to_string()))?;
    let count = listed.len();
    let mut listed = listed.into_iter().enumerate();
    let gpu = listed.find(|(i, gpu)| number.map_or(gpu.uuid == name, |number| number == *i));
    let (_, gpu) = gpu.ok_or_else(|| {
        absent(format!(
            "it is not among the {count} GPUs that the driver sees, see CUDA_VISIBLE_DEVICES"
        ))
    })?;
    cuda::numerics(&gpu).map_err(|error| absent(error.to_string()))
}

#[cfg(not(feature = "cuda"))]
fn numerics(name: &str, _number: Option<usize>) -> Result<String, NoDevice> {
    Err(NoDevice::NotBuilt(name.to_owned()))
}

impl Device {
    #[cfg(feature = "cuda")]
    fn gpu(name: &str, number: usize, rounded: bool) -> Result<Self, NoDevice> {
        let format = if rounded { cuda::Format::Bf16 } else { cuda::Format::F32 };
        let opened = Cuda::open(number).map(|cuda| Self::Cuda(cuda, format));
        opened.map_err(|error| NoDevice::Absent(name.to_owned(), error.to_string()))
    }

    #[cfg(not(feature = "cuda"))]
    fn gpu(name: &str, _number: usize, _rounded: bool) -> Result<Self, NoDevice> {
        Err(NoDevice::NotBuilt(name.to_owned()))
    }

    /// A buffer of `len` zeros, outside of any pool: nothing writes the gaps between entries, and norms read them.
    pub fn buffer(&self, len: usize) -> Buffer {
        match self {
            Self::Cpu => Buffer::host(crate::flat::Flat::zeros(len)),
            #[cfg(feature = "cuda")]
            Self::Cuda(cuda, _) => {
                let mut memory = cuda.memory(len);
                cuda.fill(memory.slice_mut(), 0.0);
                Buffer::cuda(memory, len)
            }
        }
    }

    /// A buffer for `len` activations with unspecified contents, outside of any pool.
    pub(crate) fn activation(&self, len: usize) -> Buffer {
        match self {
            Self::Cpu => self.buffer(len),
            #[cfg(feature = "cuda")]
            Self::Cuda(cuda, format) => Buffer::cuda(cuda.memory_of(len, *format), len),
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
            Self::Cuda(..) => self.upload(&values),
        }
    }

    /// Copies `from` to this device. `from` may change once this returns.
    pub fn write(&self, from: &[f32], to: SpanMut) {
        match self {
            Self::Cpu => to.host().copy_from_slice(from),
            #[cfg(feature = "cuda")]
            Self::Cuda(cuda, _) => cuda.upload(from, to.cuda()),
        }
    }

    /// Copies the bytes of numbers to this device. They may change once this returns.
    pub(crate) fn write_bytes(&self, from: &[u8], to: SpanMut) {
        assert_eq!(from.len(), 4 * to.len(), "a copy has the length of its source");
        match self {
            Self::Cpu => bytemuck::cast_slice_mut(to.host()).copy_from_slice(from),
            #[cfg(feature = "cuda")]
            Self::Cuda(cuda, _) => cuda.upload_bytes(from, to.cuda()),
        }
    }

    /// Copies from this device, after all that was asked of it before.
    pub fn read(&self, from: Span, to: &mut [f32]) {
        match self {
            Self::Cpu => to.copy_from_slice(from.host()),
            #[cfg(feature = "cuda")]
            Self::Cuda(cuda, _) => cuda.download(from.cuda(), to),
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
            Self::Cuda(cuda, _) => Ok(cuda.check()?),
        }
    }

    /// Whether the device is known to have failed: nothing is awaited.
    ///
    /// # Errors
    /// [`DeviceError`] with the first fault since the last check.
    pub fn noticed(&self) -> Result<(), DeviceError> {
        match self {
            Self::Cpu => Ok(()),
            #[cfg(feature = "cuda")]
            Self::Cuda(cuda, _) if !cuda.has_failed() => Ok(()),
            #[cfg(feature = "cuda")]
            Self::Cuda(..) => self.check(),
        }
    }

    /// Whether matrix products read parameters rounded to bf16.
    pub fn rounds(&self) -> bool {
        match self {
            Self::Cpu => false,
            #[cfg(feature = "cuda")]
            Self::Cuda(_, format) => *format == cuda::Format::Bf16,
        }
    }

    /// Whether this is a GPU, which wants many rows at once.
    pub fn is_gpu(&self) -> bool {
        !matches!(self, Self::Cpu)
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
            Self::Cuda(..) => 2,
        }
    }
}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Cpu => "Cpu",
            #[cfg(feature = "cuda")]
            Self::Cuda(..) => "Cuda",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_is_none_is_refused_with_what_may_be_written() {
        for name in ["", "gpu", "cuda", "cuda:", "cuda:x", "cuda:0:fp8", "cuda:0:bf16:1"] {
            let error = name.parse::<Device>().unwrap_err();
            assert_eq!(error, NoDevice::Unknown(name.to_owned()));
            assert!(error.to_string().contains("cuda:N:bf16"), "{error}");
            assert_eq!(gpu_numerics(name), Err(error));
        }
        assert!(matches!("cpu".parse(), Ok(Device::Cpu)));
        assert_eq!(gpu_numerics("cpu"), Ok(None));
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn a_program_without_kernels_for_gpus_says_how_to_get_them() {
        for error in [
            "cuda:0".parse::<Device>().unwrap_err(),
            gpu_numerics("cuda:0").unwrap_err(),
        ] {
            assert!(error.to_string().contains("make gpu-bin"), "{error}");
        }
    }
}
