//! Summing gradients over lanes, the same bits however many ranks there are.
//!
//! Pure: the [`tree`] fixes the order of addition, [`deal`] says who runs which lanes, [`route`] who sends what to
//! whom. Around them: [`reduce`] carries routes out, [`tcp`] transports.

pub mod deal;
pub mod reduce;
pub mod route;
pub mod tcp;
pub mod tree;
