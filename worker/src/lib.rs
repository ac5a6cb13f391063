//! What runs on a node: the [`agent`] that talks to the coordinator, and the ranks that compute.
//!
//! A rank is a process of its own ([`supervise`] starts it and listens to it).

pub mod agent;
pub mod checkpoint;
pub mod collective;
pub mod objects;
pub mod rank;
pub mod stage;
pub mod supervise;
