//! What a trained model says: captions, features and match probabilities.

mod caption;
pub mod nucleus;
pub mod score;

pub use caption::{Caption, CaptionRequest};
