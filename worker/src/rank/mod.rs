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

/// Numerics fingerprint of ranks of this build on this machine: equal ones compute equal bits.
///
/// Kernels follow one path on every x86-64 CPU with AVX2 and FMA, so those count as one.
pub fn fingerprint() -> String {
    #[cfg(target_arch = "x86_64")]
    let path = if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
        "fma"
    } else {
        "plain"
    };
    #[cfg(not(target_arch = "x86_64"))]
    let path = "plain";
    format!("{} cpu {} {path}", env!("CARGO_PKG_VERSION"), std::env::consts::ARCH)
}
