//! Tests over the whole of Medley.
//!
//! [`sim`] plays a cluster in virtual time: the pure cores of coordinator, agent and rank, with faults between them.

pub mod sim;
