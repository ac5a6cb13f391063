//! The three objectives of pre-training (BLIP, section 3.2), each in a file of its own.

pub mod itc;
pub mod itm;
pub mod lm;
