//! What a trained model says: captions, features and match probabilities.
//!
//! [`caption`](Caption) grows captions with the decoder; how tokens are chosen is pure: [`nucleus`] for greedy and sampled captions,
//! [`beam`] for beam search.

pub mod beam;
mod caption;
mod decoder;
pub mod nucleus;
pub mod score;

pub use caption::{Caption, CaptionRequest, Search};
