//! Values that a device was asked for.

use super::{Device, Span};
#[cfg(feature = "cuda")]
use crate::cuda;

/// Values on their way from a device to the memory of the process.
pub struct Asked {
    values: Values,
}

enum Values {
    Here(Vec<f32>),
    #[cfg(feature = "cuda")]
    Cuda(cuda::Answer),
}

impl Device {
    /// Asks for values as they are behind all that was asked of the device before. Nothing is awaited: a GPU goes on meanwhile.
    pub fn ask(&self, from: Span) -> Asked {
        let values = match self {
            Self::Cpu => Values::Here(from.host().to_vec()),
            #[cfg(feature = "cuda")]
            Self::Cuda(cuda, _) => Values::Cuda(cuda.ask(from.cuda())),
        };
        Asked { values }
    }
}

impl Asked {
    /// The values, once they are there. If the device has failed they are not numbers.
    pub fn wait(self) -> Vec<f32> {
        match self.values {
            Values::Here(values) => values,
            #[cfg(feature = "cuda")]
            Values::Cuda(answer) => answer.wait(),
        }
    }
}

impl std::fmt::Debug for Asked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Asked")
    }
}
