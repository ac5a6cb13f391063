//! Seeded fault schedules against the pure cores together; see `medley_tests::sim`.
//!
//! The example `simulation` plays other seeds than those of every day, and as many as one likes.

use medley_tests::sim::{campaign, disturbed, undisturbed};

/// Seeds of every day.
const SEEDS: std::ops::Range<u64> = 0..100;

#[test]
fn whatever_fails_a_bootstrap_job_succeeds_with_the_undisturbed_result() {
    let reference = undisturbed(0).unwrap_or_else(|violation| panic!("without faults: {violation}"));
    let campaign = campaign(SEEDS, &reference.record, |_| ());
    let coverage = &campaign.coverage;
    if let Some(violation) = campaign.violations.first() {
        let seeds: Vec<u64> = campaign.violations.iter().map(|violation| violation.seed).collect();
        panic!("{violation}\nseeds {seeds:?} break a rule");
    }
    for what in [
        "node-lost",
        "node-back",
        "generation-over",
        "refused-claim",
        "late-call",
        "step redone",
        "generation grown",
        "generation shrunk",
        "fault: coordinator killed",
        "agent has left",
        "node-left",
        "stage-shrinks",
        "stage-moves",
        "stage-pauses",
        "nodes-apart",
        "nodes-together",
        "spinning rank named",
        "bit flipped in a state",
        "states doubted",
    ] {
        assert!(
            coverage.of(what) > 0,
            "no seed has met {what}: the faults are too tame\n{coverage}"
        );
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
