//! A cluster that is killed with everything in it, in the middle of a run, and started again.

use medley_protocol::ids::JobId;
use medley_protocol::rest::JobDetail;
use medley_protocol::stage::StageState;
use medley_tests::bits::{CHECKPOINT_EVERY, Computed, Outcome, STEPS, corpus, document};
use medley_tests::programs::{Running, Scratch};

/// Waits until the second checkpoint of a run is whole; returns the step of the newest.
async fn in_its_middle(running: &mut Running, job: JobId) -> u64 {
    let look = async |running: &Running| {
        let job: JobDetail = running.client()?.get(&format!("/jobs/{job}")).await.ok()?;
        let stage = &job.stages[1];
        let checkpoints = running.checkpoints(job.job.id).await;
        let newest = checkpoints.first().map_or(0, |checkpoint| checkpoint.step);
        (newest >= 2 * CHECKPOINT_EVERY).then_some((stage.state, newest))
    };
    let (state, newest) = running.until("a run is in its middle", look).await;
    assert!(
        state == StageState::Running && newest < STEPS / 2,
        "the run is {state:?} with a checkpoint at step {newest}: it has to be longer to be killed in its middle"
    );
    newest
}

/// Kills everything and checks that it was everything.
fn kill_everything(running: Running) {
    let killed = running.kill();
    let count = |name: &str| killed.iter().filter(|process| process.name.starts_with(name)).count();
    assert_eq!(count("medley-coord"), 1, "{killed:?}");
    assert_eq!(
        count("medley-worker"),
        2 + 4,
        "two agents with two ranks each: {killed:?}"
    );
    assert!(count("postgres") > 1, "the server and its backends: {killed:?}");
    assert_eq!(killed.iter().filter(|process| process.name == "medley").count(), 1);
}

/// The steps from which ranks have trained, as they say.
fn first_steps(logs: &str) -> Vec<u64> {
    let says = logs.split("trains from step ").skip(1);
    says.filter_map(|rest| rest.split_whitespace().next()?.parse().ok())
        .collect()
}

#[tokio::test]
async fn a_cluster_that_is_killed_entirely_goes_on_to_the_same_bits() {
    let scratch = Scratch::new();
    let data = scratch.path("data");
    corpus(&data);
    let document = document(&data);

    let undisturbed = Computed::undisturbed(&scratch.path("undisturbed"), &document);

    let state_dir = scratch.path("killed");
    let mut running = Running::up(&state_dir, 2, 2).await;
    let job = running.submit(&document).await;
    let newest = in_its_middle(&mut running, job).await;
    kill_everything(running);
    let mut running = Running::up(&state_dir, 2, 2).await;
    let resumed = Outcome::of(&mut running, job).await;

    let stage = &resumed.job.stages[1];
    assert_eq!(
        (stage.generation, stage.world),
        (2, 4),
        "all ranks are back: {:?}",
        resumed.events
    );
    let mut starts = first_steps(&resumed.rank_logs);
    starts.sort_unstable();
    assert_eq!(starts.len(), 8, "four ranks, twice: {starts:?}");
    assert!(
        starts[..4] == [0; 4] && starts[4] >= newest,
        "ranks began at steps {starts:?}, where the checkpoint of step {newest} was whole"
    );
    resumed.is_that_of(&undisturbed);
}
