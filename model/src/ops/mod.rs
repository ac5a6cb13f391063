//! Kernels: plain functions over slices, with no knowledge of shapes beyond rows and columns.
//!
//! The bits of every result are a function of its inputs alone:
//! - no sum depends on the number of threads: a row is summed in 16 partial sums and one final order ([`sum`]); sums over
//!   rows run over blocks of 64 rows, added in block order ([`blocks`]);
//! - matrix products go through [`gemm`], whose order of additions per element is fixed;
//! - exponentials, logarithms and error functions are our own or the `libm` crate's ([`math`]).
//!
//! Operations that stand one after the other are made in one pass over memory where that keeps the order of additions; each
//! such kernel has the bits of the plain ones, which a test compares on any number of threads.
//!
//! Compilers never reorder floating-point operations, so vector width does not matter.

pub mod attention;
pub mod blocks;
pub mod cross_entropy;
pub mod decode;
pub mod digest;
pub mod dropout;
pub mod elementwise;
pub mod embedding;
pub mod gemm;
pub mod math;
pub mod meter;
pub mod norm;
pub mod optim;
pub mod patches;
pub mod sum;
#[cfg(test)]
mod tests;
pub mod transpose;

/// Keeps freed memory with the process: returning large blocks to the kernel and faulting them in again costs more
/// than most kernels here. Call once, at the start of `main`.
#[expect(unsafe_code, reason = "mallopt is a C function without preconditions")]
pub fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: mallopt takes two integers and touches only the allocator's own settings.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 30);
        libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
    }
}
