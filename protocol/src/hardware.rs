//! What a node computes on, as its agent finds and reads it.

use serde::{Deserialize, Serialize};

/// What the ranks of a node compute on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hardware {
    /// Memory of the machine, for all that runs on it, where its system says.
    #[serde(default)]
    pub memory_bytes: Option<u64>,
    /// Its GPUs, over which its devices are dealt in turns. None: ranks compute on the processor.
    #[serde(default)]
    pub gpus: Vec<Gpu>,
}

/// A GPU that ranks of a node compute on. What its driver does not tell is none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gpu {
    /// Identity, such as `GPU-4f7c…`, the same wherever the GPU is plugged in.
    pub uuid: String,
    /// Its model.
    pub name: String,
    /// All of its memory.
    pub memory_bytes: u64,
    /// Memory that programs have, not only ranks.
    #[serde(default)]
    pub used_bytes: Option<u64>,
    /// Share of the last second or so in which it computed, in percent.
    #[serde(default)]
    pub utilisation_percent: Option<u32>,
    /// Temperature of the chip in degrees Celsius.
    #[serde(default)]
    pub celsius: Option<u32>,
    /// Errors of its memory that could not be corrected, since its driver was loaded.
    #[serde(default)]
    pub uncorrected_errors: Option<u64>,
    /// Number of the last critical error (an Xid of NVIDIA's driver) since the agent began.
    #[serde(default)]
    pub last_xid: Option<u64>,
}
