//! Tests over the whole of Medley, and what they share.
//!
//! [`programs`] runs the real programs, [`bits`] is a training whose bits are compared; [`sim`] plays a cluster in virtual time: the pure cores of coordinator, agent and
//! rank, with faults between them.

pub mod bits;
pub mod programs;
pub mod sim;
