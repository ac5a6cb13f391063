//! A training stage as one rank runs it.

use crate::rank::failure::Failure;
use crate::rank::process::Context;

/// Trains until all steps are committed.
///
/// # Errors
/// [`Failure`].
pub fn run(_: Context) -> Result<(), Failure> {
    Err(Failure::lasting("this build does not train"))
}
