//! Tests over the whole of Medley, and what they share.
//!
//! [`programs`] runs the real programs; [`sim`] plays a cluster in virtual time: the pure cores of coordinator, agent and
//! rank, with faults between them.

pub mod programs;
pub mod sim;
