//! A rank: the process that owns one device and runs a set of lanes, or works on leased tasks.
//!
//! [`process`] is its life, [`pipes`] how it hears and speaks, [`failure`] its last words; [`calls`] are the generations that a
//! training rank is called to, [`beginning`] is what one goes on from, [`membership`] decides when a step may be committed;
//! [`activity`] is where in a step the rank is, [`memory`] what it costs. The work itself is in [`stage`](crate::stage).

pub mod activity;
pub mod beginning;
pub mod calls;
pub mod failure;
pub mod membership;
pub mod memory;
pub mod pipes;
pub mod process;

use failure::Failure;
use medley_model::device::gpu_numerics;
use std::fs::File;
use std::hash::Hasher as _;
use std::io::{self, Read as _};
use twox_hash::XxHash3_64;

/// Names the device of ranks without a cluster: `cpu`, `cuda:N` or `cuda:N:bf16`. The processor is meant where it is not set.
pub const DEVICE: &str = "MEDLEY_DEVICE";

/// The device that [`DEVICE`] names.
pub fn device_name() -> String {
    std::env::var(DEVICE).unwrap_or_else(|_| "cpu".into())
}

/// Numerics fingerprint of a rank of this program on this device of this machine: equal ones compute equal bits.
///
/// Kernels follow one path on every x86-64 CPU with AVX2 and FMA, so those count as one. GPUs count by model, libraries and format.
///
/// # Errors
/// When there is no such device, or the program's file cannot be read.
pub fn fingerprint(device: &str) -> Result<String, Failure> {
    Ok(node_fingerprint(gpu_numerics(device)?.as_deref())?)
}

/// What of the fingerprint a node knows by itself: all but the format that GPUs compute in, which is the job's.
///
/// # Errors
/// When the program's file cannot be read.
pub fn node_fingerprint(gpu: Option<&str>) -> io::Result<String> {
    let device = gpu.map_or_else(processor, str::to_owned);
    Ok(format!("{}+{} {device}", env!("CARGO_PKG_VERSION"), build()?))
}

/// Tells this program from others of its version: a hash of its file, also if another one has taken its place.
fn build() -> io::Result<String> {
    let mut file = File::open("/proc/self/exe")?;
    let mut hasher = XxHash3_64::new();
    let mut piece = vec![0; 1 << 18];
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(format!("{:012x}", hasher.finish() >> 16)),
            bytes => hasher.write(&piece[..bytes]),
        }
    }
}

fn processor() -> String {
    #[cfg(target_arch = "x86_64")]
    let path = if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
        "fma"
    } else {
        "plain"
    };
    #[cfg(not(target_arch = "x86_64"))]
    let path = "plain";
    format!("cpu {} {path}", std::env::consts::ARCH)
}
