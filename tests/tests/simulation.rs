//! Seeded fault schedules against the pure cores together; see `medley_tests::sim`.
//!
//! `MEDLEY_SIM_SEEDS=100..10000` plays other seeds than those of every day.

use medley_tests::sim::{Coverage, disturbed, undisturbed};
use std::ops::Range;

/// Seeds of every day.
const SEEDS: Range<u64> = 0..100;

fn seeds() -> Range<u64> {
    let Ok(text) = std::env::var("MEDLEY_SIM_SEEDS") else {
        return SEEDS;
    };
    let range = text
        .split_once("..")
        .and_then(|(from, to)| Some(from.trim().parse().ok()?..to.trim().parse().ok()?));
    range.expect("MEDLEY_SIM_SEEDS is written as from..to")
}

#[test]
fn whatever_fails_a_bootstrap_job_succeeds_with_the_undisturbed_result() {
    let reference = undisturbed(0).unwrap_or_else(|violation| panic!("without faults: {violation}"));
    let mut coverage = Coverage::default();
    let mut failed = Vec::new();
    for seed in seeds() {
        match disturbed(seed, &reference.record) {
            Ok(outcome) => coverage.add(&outcome.coverage),
            Err(violation) => {
                if failed.is_empty() {
                    eprintln!("{violation}");
                }
                failed.push(seed);
            }
        }
    }
    eprintln!("{coverage}");
    assert!(
        failed.is_empty(),
        "seeds {failed:?} break a rule; MEDLEY_SIM_SEEDS=seed..seed+1 plays one alone"
    );
    if seeds() == SEEDS {
        for what in [
            "node-lost",
            "node-back",
            "generation-over",
            "refused-claim",
            "late-call",
        ] {
            assert!(
                coverage.of(what) > 0,
                "no seed has met {what}: the faults are too tame\n{coverage}"
            );
        }
    }
}

#[test]
fn without_faults_every_cluster_computes_the_same() {
    let reference = undisturbed(0).unwrap_or_else(|violation| panic!("{violation}"));
    for seed in 1..5 {
        let outcome = undisturbed(seed).unwrap_or_else(|violation| panic!("{violation}"));
        assert_eq!(outcome.record, reference.record);
        assert_eq!(outcome.coverage.of("generation-over"), 0);
    }
}

#[test]
fn a_seed_gives_the_same_run_every_time() {
    let reference = undisturbed(0).unwrap_or_else(|violation| panic!("{violation}")).record;
    let run = || disturbed(7, &reference).unwrap_or_else(|violation| panic!("{violation}"));
    let (one, other) = (run(), run());
    assert_eq!(
        (one.took, one.coverage.to_string()),
        (other.took, other.coverage.to_string())
    );
}
