//! Samples: where they lie, which can be read, in what order they come, and what a model sees of them.
//!
//! [`shards`] reads webdataset tar files; [`index`] lists what is readable in them; [`dataset`] puts shards and
//! overlays together to an immutable dataset version; [`order`] is the keyed permutation that training reads it in;
//! [`decode`], [`augment`] and [`text`] turn bytes into pixels and tokens; [`loader`] makes the batch of any lane of any
//! step; [`synth`] draws a corpus whose truth is known; [`metrics`] scores retrieval and captions, and [`evaluation`] keeps what
//! the figures are computed from.
//!
//! Nothing here knows of networks or processes, and every result is a function of its inputs.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod augment;
pub mod dataset;
pub mod decode;
pub mod evaluation;
pub mod index;
pub mod loader;
pub mod metrics;
pub mod order;
pub mod random;
pub mod shards;
pub mod synth;
pub mod text;
