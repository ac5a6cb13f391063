//! Arrays that are sent to a device ahead of their use.

use super::{Device, DeviceError, Span};
#[cfg(feature = "cuda")]
use crate::cuda;

/// Sends arrays to a device, while that computes. On the processor, what is sent is a copy.
pub struct Ahead {
    way: Way,
}

enum Way {
    Copy,
    #[cfg(feature = "cuda")]
    Cuda(cuda::Sender),
}

/// An array that was sent to a device.
pub struct Sent {
    values: Values,
}

enum Values {
    Copy(Vec<f32>),
    #[cfg(feature = "cuda")]
    Cuda(cuda::Sent),
}

impl Ahead {
    /// What sends to this device.
    ///
    /// # Errors
    /// [`DeviceError`] if the device has no room for that.
    pub fn to(device: &Device) -> Result<Self, DeviceError> {
        let way = match device {
            Device::Cpu => Way::Copy,
            #[cfg(feature = "cuda")]
            Device::Cuda(cuda, _) => {
                Way::Cuda(cuda::Sender::new(cuda).map_err(|error| DeviceError(error.to_string()))?)
            }
        };
        Ok(Self { way })
    }

    /// Sends values, which may be changed at return. What the device computes waits for them only where it reads them; they go behind
    /// what it still reads of the same place, so that whoever sends may wait in between. A fault on the way is the device's, once it
    /// is to read them.
    pub fn send(&mut self, values: &[f32]) -> Sent {
        let values = match &mut self.way {
            Way::Copy => Values::Copy(values.to_vec()),
            #[cfg(feature = "cuda")]
            Way::Cuda(sender) => Values::Cuda(sender.send(values)),
        };
        Sent { values }
    }
}

impl Sent {
    /// The values, for what is asked of the device next.
    pub fn span(&self) -> Span<'_> {
        match &self.values {
            Values::Copy(values) => values.into(),
            #[cfg(feature = "cuda")]
            Values::Cuda(sent) => Span::Cuda(sent.slice()),
        }
    }
}

impl std::fmt::Debug for Sent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let len = match &self.values {
            Values::Copy(values) => values.len(),
            #[cfg(feature = "cuda")]
            Values::Cuda(sent) => sent.len(),
        };
        write!(f, "Sent({len} elements)")
    }
}
