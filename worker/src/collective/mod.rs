//! Summing gradients over lanes, the same bits however many ranks there are.
//!
//! Pure: the [`tree`] fixes the order of addition, [`deal`] says who runs which lanes, [`route`] who sends what to
//! whom.

pub mod deal;
pub mod route;
pub mod tree;
