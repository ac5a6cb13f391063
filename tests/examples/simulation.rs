//! Plays seeded fault schedules against the pure cores together; see `medley_tests::sim`.
//!
//! `cargo run --release -p medley-tests --example simulation -- 0..10000` plays these seeds and says what they went through;
//! `-- 17` plays one. A seed that breaks a rule is printed with its trace, and the exit code is 1.

use anyhow::{Context, Result};
use medley_tests::sim::{Violation, campaign, undisturbed};
use std::ops::Range;
use std::process::ExitCode;

/// Traces that are printed; of further violations only the seeds are.
const MAX_TRACES: usize = 3;

fn main() -> Result<ExitCode> {
    let seeds = seeds(&std::env::args().nth(1).unwrap_or_else(|| "0..10000".into()))?;
    let reference = match undisturbed(0) {
        Ok(outcome) => outcome.record,
        Err(violation) => {
            println!("without faults: {violation}");
            return Ok(ExitCode::FAILURE);
        }
    };
    let campaign = campaign(seeds, &reference, |violation| {
        eprintln!("seed {} breaks a rule", violation.seed);
    });
    campaign.violations.iter().take(MAX_TRACES).for_each(print);
    println!("{}", campaign.coverage);
    println!(
        "{} seeds in {:.1} s: {:.1} a second, {:.0} h of the clusters' time",
        campaign.seeds,
        campaign.took.as_secs_f64(),
        campaign.pace(),
        campaign.lived.as_secs_f64() / 3600.0
    );
    if campaign.violations.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    let seeds: Vec<u64> = campaign.violations.iter().map(|violation| violation.seed).collect();
    println!("{} seeds break a rule: {seeds:?}", seeds.len());
    Ok(ExitCode::FAILURE)
}

fn print(violation: &Violation) {
    println!("{violation}");
    println!(
        "play it alone: cargo run --release -p medley-tests --example simulation -- {}\n",
        violation.seed
    );
}

/// `from..to`, or one seed.
fn seeds(text: &str) -> Result<Range<u64>> {
    let read = |text: &str| {
        text.trim()
            .parse::<u64>()
            .with_context(|| format!("{text:?} is no seed: write 17 or 0..10000"))
    };
    match text.split_once("..") {
        Some((from, to)) => Ok(read(from)?..read(to)?),
        None => read(text).map(|seed| seed..seed + 1),
    }
}
