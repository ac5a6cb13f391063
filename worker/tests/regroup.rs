//! Ranks that outlive their generation: the test is their agent and their coordinator.
//!
//! Whatever happens to the members, a training ends with the bytes of an undisturbed one, no rank commits a step twice, and who
//! holds a state keeps it.

#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "regroup/cluster.rs"]
mod cluster;
#[path = "regroup/link.rs"]
mod link;

use cluster::Cluster;
use link::Way;
use medley_worker::checkpoint::placed::APART;
use std::process::Command;
use std::time::Duration;

const STEPS: u64 = 120;

fn undisturbed(dir: &std::path::Path) -> String {
    let mut cluster = Cluster::new(&dir.join("undisturbed"), STEPS);
    cluster.regroup(&[], 1, true);
    cluster.finish()
}

#[test]
fn survivors_of_killed_ranks_go_on_from_memory_and_end_with_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let expected = undisturbed(dir.path());
    let mut cluster = Cluster::new(&dir.path().join("killed"), STEPS);
    let ranks = cluster.regroup(&[], 4, true);
    cluster.run_until(10);
    // The lowest rank leads; then one that does not.
    for (killed, left) in [(ranks[0], &ranks[1..]), (ranks[2], &[ranks[1], ranks[3]])] {
        let before = cluster.committed();
        cluster.kill(killed);
        cluster.await_broken(left);
        cluster.regroup(left, 0, true);
        cluster.run_until(before + 10);
    }
    // A new one takes a seat: it is fed by the others.
    let now = cluster.committed();
    cluster.kill(ranks[3]);
    cluster.await_broken(&ranks[1..2]);
    let grown = cluster.regroup(&[ranks[1]], 4, true);
    cluster.run_until(now + 10);
    // The one that fed it is lost; those who were fed go on.
    cluster.kill(grown[0]);
    cluster.await_broken(&grown[1..]);
    cluster.regroup(&grown[1..], 0, true);
    assert_eq!(cluster.finish(), expected);
    assert_eq!(cluster.loaded_from_store(), 0, "nobody went back to a checkpoint");
}

#[test]
fn a_stage_grows_and_shrinks_between_two_steps() {
    let dir = tempfile::tempdir().unwrap();
    let expected = undisturbed(dir.path());
    let mut cluster = Cluster::new(&dir.path().join("grown"), STEPS);
    let first = cluster.regroup(&[], 1, true);
    cluster.run_until(10);
    let more = cluster.regroup(&first, 2, false);
    cluster.run_until(cluster.committed() + 10);
    let most = cluster.regroup(&more, 5, false);
    cluster.run_until(cluster.committed() + 10);
    assert_eq!(cluster.broken(), 0, "a planned change breaks nothing");
    // The first ones leave; the others know the whole state.
    cluster.regroup(&most[3..], 0, false);
    cluster.leave(&most[..3], false);
    assert_eq!(cluster.broken(), 0, "nobody is missed who has left");
    assert_eq!(cluster.finish(), expected);
    assert_eq!(cluster.loaded_from_store(), 0);
}

#[test]
fn all_ranks_leave_at_one_step_with_a_checkpoint_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::new(&dir.path().join("left"), STEPS);
    let ranks = cluster.regroup(&[], 3, true);
    cluster.run_until(10);
    cluster.leave(&ranks, true);
    let steps: Vec<Option<u64>> = ranks.iter().map(|rank| cluster.committed_by(*rank)).collect();
    assert!(
        steps[0] < Some(STEPS) && steps.iter().all(|step| *step == steps[0]),
        "{steps:?}"
    );
    assert_eq!(cluster.broken(), 0);
    assert_eq!(
        cluster.whole_checkpoints(),
        steps.into_iter().take(1).flatten().collect::<Vec<u64>>()
    );
}

#[test]
fn a_rank_that_hangs_is_left_behind_and_comes_back_with_an_old_memory() {
    let dir = tempfile::tempdir().unwrap();
    let expected = undisturbed(dir.path());
    let mut cluster = Cluster::new(&dir.path().join("hung"), STEPS);
    let ranks = cluster.regroup(&[], 3, true);
    cluster.run_until(10);
    let signal = |name: &str, pid: u32| {
        // The shell's own: the program of that name is not on every machine.
        let kill = ["-c", "kill \"$@\"", "kill", name, &pid.to_string()];
        let sent = Command::new("sh").args(kill).status();
        assert!(sent.unwrap().success());
    };
    let hung = cluster.pid(ranks[1]);
    signal("-STOP", hung);
    // Nobody notices by itself for long: the next generation calls the others off.
    cluster.regroup(&[ranks[0], ranks[2]], 0, true);
    cluster.run_until(cluster.committed() + 20);
    signal("-CONT", hung);
    cluster.regroup(&ranks, 0, true);
    cluster.run_until(cluster.committed() + 10);
    assert_eq!(cluster.finish(), expected);
    assert_eq!(cluster.loaded_from_store(), 0);
}

#[test]
fn a_last_checkpoint_that_never_became_whole_is_written_again() {
    let dir = tempfile::tempdir().unwrap();
    let expected = undisturbed(dir.path());
    let mut cluster = Cluster::new(&dir.path().join("last"), STEPS);
    let ranks = cluster.regroup(&[], 3, true);
    cluster.await_finished(&ranks);
    cluster.forget_parts();
    cluster.kill(ranks[1]);
    cluster.regroup(&[ranks[0], ranks[2]], 0, true);
    assert_eq!(cluster.finish(), expected);
}

#[test]
fn a_survivor_that_was_prepared_commits_what_others_have_committed_from_its_own_memory() {
    let dir = tempfile::tempdir().unwrap();
    let expected = undisturbed(dir.path());
    let mut cluster = Cluster::new(&dir.path().join("prepared"), STEPS);
    // The lowest rank says to all that step 10 may be committed, and one of them never hears it.
    let deaf = Way {
        loses: Some(r#""say":"go","step":10,"#.into()),
        ..Way::default()
    };
    cluster.between(2, 0, deaf);
    let ranks = cluster.regroup(&[], 3, true);
    cluster.await_committed(ranks[1], 11);
    assert_eq!(cluster.committed_by(ranks[2]), Some(10), "it never heard that it may");
    cluster.kill(ranks[0]);
    cluster.await_broken(&ranks[1..]);
    cluster.regroup(&ranks[1..], 0, true);
    assert_eq!(cluster.finish(), expected);
    assert_eq!(cluster.jumps(), 0, "nobody was fed");
    assert_eq!(cluster.loaded_from_store(), 0);
}

#[test]
fn a_long_and_narrow_way_between_ranks_is_slow_and_no_reason_to_give_up() {
    let dir = tempfile::tempdir().unwrap();
    let state = |name: &str, slow: bool| {
        let mut cluster = Cluster::new(&dir.path().join(name), 8);
        if slow {
            let way = Way {
                delay: Duration::from_millis(50),
                bytes_per_second: Some(5_000_000 / 8),
                loses: None,
            };
            cluster.between(1, 0, way);
        }
        cluster.regroup(&[], 2, true);
        let state = cluster.finish();
        assert_eq!(cluster.broken(), 0);
        state
    };
    assert_eq!(state("slow", true), state("fast", false));
}

/// Memories that survive, ranks that are fed, steps that are committed late: all of it once more with states as GPUs have them.
#[test]
fn states_on_devices_are_kept_and_handed_over_as_well() {
    if std::env::var(APART).is_ok() {
        return;
    }
    let mut again = Command::new(std::env::current_exe().unwrap());
    again.env(APART, "1").args(["--exact", "--test-threads", "1"]);
    again.args([
        "survivors_of_killed_ranks_go_on_from_memory_and_end_with_the_same_bytes",
        "a_stage_grows_and_shrinks_between_two_steps",
    ]);
    let output = again.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("2 passed"), "{said}");
}
