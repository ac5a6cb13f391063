//! A corpus whose truth is known: rendered scenes of coloured shapes, described in varied English.
//!
//! A *human* set with right texts, a *web* set in which a known share of texts is wrong in the ways alternative texts on the web
//! are, and a held-out *test* set of pairwise different scenes. The truth lies beside the shards, for scoring only; nothing
//! that trains reads it.

mod corpus;
mod draw;
mod scene;

pub use corpus::{Noise, SynthSpec, Truth, generate, read_truth};
pub use draw::draw;
pub use scene::{Attribute, Scene, parse};
