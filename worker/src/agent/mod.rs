//! The agent of a node.

/// Arguments of `medley-worker agent`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the agent until it is told to stop.
///
/// # Errors
/// Always, until the agent is written.
pub fn run(_: Args) -> anyhow::Result<()> {
    anyhow::bail!("this build has no agent")
}
