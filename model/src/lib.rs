//! BLIP: the model, its training step and its generation, on flat buffers and a small tape.
//!
//! From leaf to root: [`flat`] memory and the [`layout`] that names what lies in it; counter-based [`random`] numbers;
//! the kernels of [`ops`], and the [`device`] they run on; the [`tape`] that records them and runs them in reverse; the towers ([`vision`], [`text`])
//! and the three objectives ([`loss`]) written forward only; [`blip`], one lane of a training step; [`state`], what a
//! step commits; [`generate`], captions and scores; and [`replay`], a step on the tensors of another implementation.
//!
//! Nothing here knows of networks, processes or ranks. A lane's result is a function of the weights, the batch and the
//! keys of its random streams, to the last bit, whatever the number of threads.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod blip;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod device;
pub mod flat;
pub mod generate;
pub mod init;
pub mod layout;
pub mod loss;
pub mod ops;
pub mod params;
pub mod positions;
pub mod random;
pub mod replay;
pub mod schedule;
pub mod state;
pub mod tape;
pub mod text;
pub mod vision;
pub mod weights;
