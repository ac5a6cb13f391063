//! Leased tasks as one rank works on them.

use crate::rank::failure::Failure;
use crate::rank::process::Context;

/// Asks for tasks and does them until the agent ends the rank.
///
/// # Errors
/// [`Failure`] when the stage's inputs cannot be read.
pub fn run(_: &Context) -> Result<(), Failure> {
    Err(Failure::lasting("this build has no tasks"))
}
