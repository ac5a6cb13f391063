//! What can go wrong with a device.

use cudarc::cublaslt::result::CublasError;
use cudarc::driver::DriverError;

/// What went wrong with a device, or why there is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CudaError {
    /// The driver's library is not there.
    #[error("the CUDA driver (libcuda.so.1) is not on this machine: install NVIDIA's driver, version 580 or newer")]
    NoDriver,
    /// The library of matrix products is not there.
    #[error("libcublasLt.so.13 is not found: install cuBLAS of CUDA 13 and name its folder in LD_LIBRARY_PATH")]
    NoCublas,
    /// The driver is older than the libraries.
    #[error("the CUDA driver is for CUDA {}.{}, and 13.0 is needed: install NVIDIA's driver, version 580 or newer", .0.0, .0.1)]
    OldDriver((u32, u32)),
    /// The device cannot run the kernels.
    #[error("{name} has compute capability {}.{}, and 8.0 is needed (Ampere, of 2020, or newer)", .compute.0, .compute.1)]
    OldDevice {
        /// Its name.
        name: String,
        /// Its compute capability, major and minor.
        compute: (u32, u32),
    },
    /// The library of matrix products is of another CUDA.
    #[error(
        "the libcublasLt.so that is found has version {0}: install cuBLAS of CUDA 13 and name its folder first in LD_LIBRARY_PATH"
    )]
    OtherCublas(String),
    /// The library of exchanges between GPUs is not there, or cannot be used.
    #[error(
        "libnccl.so.2 cannot be used ({why}): install NCCL for CUDA 13 (the package libnccl2, or nvidia-nccl-cu13 of Python) \
         and name its folder in LD_LIBRARY_PATH"
    )]
    NoNccl {
        /// What the loader says, or what is wrong with the library.
        why: String,
    },
    /// The driver sees no such device.
    #[error("there is no CUDA device {ordinal}: the driver sees {count}, see CUDA_VISIBLE_DEVICES")]
    NoDevice {
        /// The device asked for.
        ordinal: usize,
        /// Devices there are.
        count: usize,
    },
    /// A call of the driver failed, or an operation before it.
    #[error("the CUDA device fails to {what}: {code}")]
    Driver {
        /// What was tried.
        what: &'static str,
        /// The driver's name for the error, and its explanation.
        code: String,
    },
    /// A matrix product failed.
    #[error("cuBLASLt fails to {what}: {code}")]
    Cublas {
        /// What was tried.
        what: String,
        /// The library's name for the error.
        code: String,
    },
    /// An exchange between GPUs failed.
    #[error("NCCL fails to {what}: {code}")]
    Nccl {
        /// What was tried.
        what: &'static str,
        /// The library's explanation.
        code: String,
        /// Whether the library says that a peer has failed, or the way to it.
        is_remote: bool,
    },
    /// Device memory ran out.
    #[error(
        "the CUDA device has no {bytes} bytes left: lower lanes.batch (and raise lanes.count), or set recompute = true in the \
         stage's section"
    )]
    OutOfMemory {
        /// Bytes asked for.
        bytes: usize,
    },
}

impl CudaError {
    /// Whether it may be another rank's fault alone.
    pub const fn is_remote(&self) -> bool {
        matches!(self, Self::Nccl { is_remote: true, .. })
    }

    pub(super) fn driver(what: &'static str, error: DriverError) -> Self {
        Self::Driver {
            what,
            code: format!("{error:?}"),
        }
    }

    pub(super) fn cublas(what: impl Into<String>, error: CublasError) -> Self {
        Self::Cublas {
            what: what.into(),
            code: format!("{:?}", error.0),
        }
    }
}
