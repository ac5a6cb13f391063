//! What a user says of a disturbed training.

use super::faults::Kind;
use anyhow::{Result, bail};
use std::path::PathBuf;

const MORE: &str = "\
Three trainings run on a cluster of this machine: a short one that measures the speed, one during which processes are killed
and stopped, and the same once more without any fault. The command succeeds if both end with the same bytes, and prints for each
kind of fault how long it took until a member noticed and until the next step was committed.

A training that no fault struck is an error, and kinds of faults that did not strike are named. The same seed draws the same
faults. Nothing else should run on the machine while figures are taken.";

/// Arguments of `medley chaos`.
#[derive(Debug, clap::Args)]
#[command(after_help = MORE)]
pub(crate) struct Args {
    /// Length of the disturbed training, about.
    #[arg(long, default_value_t = 5.0, value_parser = minutes, conflicts_with = "count")]
    pub(super) minutes: f64,
    /// Ends the faults after so many of each kind, struck one by one when the training has all its ranks; it is made long enough.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(super) count: Option<u32>,
    /// Draws the faults.
    #[arg(long, default_value_t = 1)]
    pub(super) seed: u64,
    /// Mean time between two faults in seconds, or from the end of one to the next if they are counted.
    #[arg(long, default_value_t = 15.0, value_parser = seconds)]
    pub(super) every: f64,
    /// Kinds of faults.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Kind::ALL)]
    pub(super) faults: Vec<Kind>,
    /// Number of nodes.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(super) nodes: u32,
    /// Devices of each node: ranks it runs at once.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=16))]
    pub(super) devices: u32,
    /// Lanes of a step, at least as many as there are ranks [default: one for each device].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(super) lanes: Option<u32>,
    /// Preset of the model.
    #[arg(long, default_value = "nano")]
    pub(super) preset: String,
    /// Where everything is kept; removed before it begins.
    #[arg(long, default_value = ".medley-chaos")]
    pub(super) state_dir: PathBuf,
}

impl Args {
    /// Ranks that run at once.
    pub(super) fn ranks(&self) -> u32 {
        self.nodes * self.devices
    }

    /// Lanes of a step.
    pub(super) fn lanes(&self) -> u32 {
        self.lanes.unwrap_or_else(|| self.ranks())
    }

    /// Refuses fewer lanes than ranks.
    pub(super) fn check_lanes(&self) -> Result<()> {
        let (lanes, ranks) = (self.lanes(), self.ranks());
        if lanes < ranks {
            bail!(
                "--lanes {lanes}: {} nodes of {} devices run {ranks} ranks, and each needs a lane",
                self.nodes,
                self.devices
            );
        }
        Ok(())
    }
}

fn minutes(text: &str) -> Result<f64, String> {
    within(text, 0.1, 24.0 * 60.0)
}

fn seconds(text: &str) -> Result<f64, String> {
    within(text, 0.5, 3600.0)
}

fn within(text: &str, low: f64, high: f64) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (low..=high).contains(&value) {
        Ok(value)
    } else {
        Err(format!("must lie between {low} and {high}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn every_rank_has_a_lane() {
        let args = |lanes: &[&str]| Cli::parse_from([&["chaos", "--devices", "2"], lanes].concat()).args;
        assert_eq!(args(&[]).lanes(), 4);
        assert!(args(&["--lanes", "4"]).check_lanes().is_ok());
        let error = args(&["--lanes", "3"]).check_lanes().unwrap_err().to_string();
        assert!(error.contains("--lanes 3") && error.contains("4 ranks"), "{error}");
    }
}
