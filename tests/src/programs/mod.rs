//! The real programs: clusters of real processes with a real database, and what becomes of them.
//!
//! [`Running`] is a `medley` command that runs a cluster in a state directory of its own. It speaks to the test over REST as
//! to any user, and dies whenever the test says so, with every process that it has started ([`tree`]). Every wait has a
//! deadline and ends early, with the ends of the logs, when the command does.

mod call;
mod find;
mod running;
pub mod tree;

pub use call::{Said, call};
pub use find::{Scratch, program};
pub use running::Running;
