//! Tests over the whole of Medley, and what they share.
//!
//! [`programs`] runs the real programs.

pub mod programs;
