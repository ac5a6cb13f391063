//! The real programs: clusters of real processes with a real database, and what becomes of them.
//!
//! [`Running`] is a `medley` command that runs a cluster in a state directory of its own. It speaks to the test over REST as
//! to any user ([`Api`]), and dies whenever the test says so, with every process that it has started ([`tree`]). Every wait
//! has a deadline and ends early, with the ends of the logs, when the command does.
//!
//! A [`Site`] is for faults between the parts: coordinators and agents are started one by one, with a [`Proxy`] or a whole
//! [`Network`] between them.

mod api;
mod call;
mod database;
mod find;
mod machine;
mod memory;
mod proxy;
mod running;
mod s3;
mod service;
mod site;
mod training;
pub mod tree;

pub use api::Api;
pub use call::{Said, call};
pub use database::Database;
pub use find::{Scratch, program};
pub use machine::{Machine, Network};
pub use memory::flip;
pub use proxy::{Proxy, Target, Way};
pub use running::Running;
pub use s3::S3;
pub use service::Service;
pub use site::{Agent, Coordinator, Site, committed, has_committed, steps, until};
pub use training::{BEFORE, ENDLESS, Training, Under};
