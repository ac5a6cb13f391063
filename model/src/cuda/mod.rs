//! The operations of [`ops`](crate::ops) on a CUDA device.
//!
//! [`Cuda`] owns a device, a stream and everything in it (a second stream is another [`Cuda`] [`beside`](Cuda::beside) it). Its
//! operations compute the formulas of `ops` on [`Slice`]s of device [`Memory`], one after the other in the order of the calls,
//! and return before they are done. They may be called from any thread, but by one at a time: what several threads call at
//! once has no order. They return nothing: the first error sticks, later operations do nothing, and [`Cuda::check`] tells. Host
//! arrays that an operation needs (indices, places, sequences) go through pinned memory into scratch, so that they may be
//! reused at once.
//!
//! The same inputs give the same bits, always: sums run over a fixed partition in a fixed order, no number is added atomically, and
//! the algorithm of a matrix product is a function of its shape. The bits differ from the CPU's, whose order of additions is
//! another one; dropout masks do not.
//!
//! Activations and their gradients may be stored in half the bytes ([`Format`]); parameters, statistics and losses are of single
//! precision, and so is all arithmetic.
//!
//! Everything is loaded at run time: a program with this module starts on a machine without CUDA, where [`Cuda::open`] says
//! what is missing. Unsafe code is in the rooms `driver`, `blas` and [`nccl`] alone.

mod account;
mod answers;
mod attention;
mod blas;
mod decode;
mod device;
mod digest;
mod driver;
mod elementwise;
mod embedding;
mod error;
mod fetching;
mod flash;
mod format;
mod gemm;
mod launch;
mod loss;
mod memory;
pub mod nccl;
mod norm;
mod optim;
mod plans;
mod profile;
mod record;
mod sample;
mod sending;
mod staging;
mod sums;
mod tables;

pub use account::{Spent, Work};
pub use answers::Answer;
pub use blas::version as blas_version;
pub use device::Cuda;
pub use driver::{Description, Listed, devices, driver_version, numerics};
pub use error::CudaError;
pub use fetching::{Fetcher, Mark};
pub use format::Format;
pub use gemm::Factor;
pub use memory::{Memory, Slice, SliceMut};
pub(crate) use record::Recorded;
pub(crate) use sample::Texts;
pub use sending::{Sender, Sent};
pub use sums::Totals;
