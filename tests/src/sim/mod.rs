//! A seeded simulation of a cluster: the pure cores together, in virtual time, with faults.
//!
//! The decisions are the product's own: [`decide`](medley_coordinator::reconcile::decide) with its orders and its
//! handle for heartbeats, the agent's [`core`](medley_worker::agent::core), a rank's
//! [`membership`](medley_worker::rank::membership) and the deal of lanes. Everything around them is played: the job table
//! is in memory (`table`, with its `leases`), the network (`network`) delays, repeats and drops, processes are small actors
//! that follow the pipe protocol (`trainee`, `clerk`), and instead of a model they train a number that remembers every sample
//! of every step (`toy`).
//!
//! A seed fixes the cluster, all delays and the faults (`faults`, and what they do: `strike`), so a run can be repeated
//! exactly. A run without faults gives the [`Record`] that every other run has to reproduce; `witness` watches the rules that
//! hold at every moment, `ending` those that hold at the end. `world` puts it all together, one happening after the other;
//! [`campaign`] plays many seeds.

mod agenda;
mod campaign;
mod clerk;
mod coordinator;
mod dice;
mod ending;
mod faults;
mod leases;
mod network;
mod node;
mod objects;
mod perform;
mod process;
mod record;
mod strike;
mod table;
mod toy;
mod trainee;
mod witness;
mod world;

pub use campaign::{Campaign, campaign};
pub use record::{Coverage, Record};

use std::fmt;
use std::time::Duration;

/// A run that went well.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// What was computed.
    pub record: Record,
    /// What the run went through.
    pub coverage: Coverage,
    /// Virtual time until the job had succeeded.
    pub took: Duration,
}

/// A rule that was broken.
#[derive(Debug, Clone)]
pub struct Violation {
    /// The seed of the run.
    pub seed: u64,
    /// Which rule, and how.
    pub what: String,
    /// What happened last, oldest first.
    pub trace: Vec<String>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}: {}\nwhat happened last:", self.seed, self.what)?;
        self.trace.iter().try_for_each(|line| writeln!(f, "  {line}"))
    }
}

impl std::error::Error for Violation {}

/// Runs a bootstrap job on the cluster of `seed` without faults: what every other run has to reproduce.
///
/// # Errors
/// [`Violation`].
pub fn undisturbed(seed: u64) -> Result<Outcome, Violation> {
    world::run(seed, None)
}

/// Runs the same job with the faults of `seed`, and compares all that is computed with `reference`.
///
/// # Errors
/// [`Violation`]: its trace tells the end of the run.
pub fn disturbed(seed: u64, reference: &Record) -> Result<Outcome, Violation> {
    world::run(seed, Some(reference))
}
