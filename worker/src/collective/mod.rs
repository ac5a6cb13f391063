//! Summing gradients over lanes, the same bits however many ranks there are.
//!
//! Pure: the [`tree`] fixes the order of addition, [`deal`] says who runs which lanes, [`route`] who sends what to
//! whom, [`rounds`] puts that in steps which all go through together. Around them: [`reduce`] carries routes out on
//! [`gradients`], and [`tcp`] transports them; between GPUs [`underway`] carries out rounds, while the last lane goes on, and
//! [`nccl`] transports them, as a [`group`] of devices, which states go through too.

pub mod deal;
pub mod gradients;
pub mod group;
pub mod nccl;
pub mod reduce;
pub mod rounds;
pub mod route;
pub mod tcp;
pub mod tree;
pub mod underway;
