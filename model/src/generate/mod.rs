//! What a trained model says: captions, features and match probabilities.
//!
//! A [`Reader`] holds the model. It grows captions with the decoder; how tokens are chosen is pure: [`nucleus`] for greedy and
//! sampled captions, [`beam`] for beam search.

pub mod beam;
mod caption;
mod decoder;
#[cfg(test)]
mod descent;
pub mod nucleus;
mod reader;
pub mod score;

pub use caption::{Caption, CaptionRequest, Search};
pub use reader::Reader;
