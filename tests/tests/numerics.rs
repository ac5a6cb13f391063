//! Numbers that go wrong: losses that are not finite, bits that flip in memory, nodes that round differently.

use medley_protocol::ids::JobId;
use medley_protocol::rest::JobDetail;
use medley_protocol::stage::{JobState, StageState};
use medley_tests::bits::{Outcome, corpus, document};
use medley_tests::programs::{Agent, Running, Scratch, Site, flip, program, until};
use serde_json::{Value, json};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Steps between two checkpoints: more than it takes to compare all of a state.
const EVERY: u64 = 100;
/// Bytes by which a piece of a state is recognised.
const PIECE: usize = 256;

#[tokio::test]
async fn a_loss_that_is_not_finite_fails_its_job_with_step_and_term_and_disturbs_no_other() {
    let site = Site::new();
    let coordinator = site.coordinator("one", "127.0.0.1:0", None).await;
    let agents = ["node-a", "node-b"].map(|name| {
        site.agent(&Agent {
            name,
            coordinators: &coordinator.url(),
            token_of: &coordinator,
            devices: 1,
            machine: None,
        })
    });
    let sound = site.training(400, Some(1));
    let undisturbed = site.undisturbed(&sound);
    let mut diverges = site.training(400, Some(1));
    diverges["checkpoint"] = json!({ "every_steps": 1, "keep": 3 });
    // All weights grow to nine times what they were in each step.
    for (name, value) in [("peak_lr", 10.0), ("warmup_lr", 10.0), ("weight_decay", 1.0)] {
        diverges["pretrain"][name] = json!(value);
    }
    let api = coordinator.api();
    api.nodes_heard(2).await;
    let (sound, diverges) = (api.submit(&sound).await, api.submit(&diverges).await);
    let failed = until("the job fails", async || {
        let job: JobDetail = api.get(&format!("/jobs/{diverges}")).await;
        job.job.state.is_final().then_some(job)
    })
    .await;
    let (reason, stage) = (&failed.job.reason, &failed.stages[1]);
    assert_eq!((failed.job.state, stage.state), (JobState::Failed, StageState::Failed));
    let (before, after) = reason.split_once(" of step ").unwrap_or((reason, ""));
    let (step, after) = after.split_once(' ').unwrap_or_default();
    let terms = ["ITC", "ITM", "LM", "gradient"];
    let names_term = terms
        .iter()
        .any(|term| before.ends_with(&format!(" failed: the {term}")));
    assert!(
        before.contains("rank 0 on node-") && names_term && after.starts_with("is not finite, twice"),
        "{reason}"
    );
    let step: u64 = step.parse().expect("a step is a number");
    let rows = until("the metrics of all steps before are stored", async || {
        let rows = api.metrics(diverges, stage.id).await;
        (rows.len() as u64 >= step).then_some(rows)
    })
    .await;
    let are_finite = rows
        .iter()
        .all(|row| (row.itc + row.itm + row.lm + row.grad_norm).is_finite());
    assert!(rows.len() as u64 == step && step > 1 && are_finite, "{rows:?}");
    let retries = agents.iter().filter(|agent| agent.log().contains("computed once more"));
    assert_eq!(retries.count(), 1, "it was computed once more before it was given up");
    let checkpoints = api.checkpoints(diverges).await;
    let newest = checkpoints.first().map(|checkpoint| checkpoint.step);
    assert!(newest <= Some(step), "{newest:?} of a step that was never committed");
    assert_eq!(
        api.breaks(diverges).await,
        [""; 0],
        "nothing is tried again that fails for good"
    );
    assert_eq!(api.trained(sound).await, undisturbed);
    assert_eq!(api.breaks(sound).await, [""; 0]);
}

/// A training of which some parameters never change: positions that no text is long enough for, without weight decay.
fn with_constants(data: &Path) -> Value {
    let mut document = document(data);
    document["pretrain"]["weight_decay"] = json!(0.0);
    document["checkpoint"]["every_steps"] = json!(EVERY);
    document
}

/// A piece of the state that is the same after each step.
fn constant(earlier: &[u8], later: &[u8]) -> Vec<u8> {
    let pieces = earlier.windows(PIECE).zip(later.windows(PIECE)).step_by(4);
    let is_number = |piece: &[u8]| piece.chunks(4).all(|word| word != [0; 4]);
    let mut constants = pieces.filter(|(one, other)| one == other && is_number(one));
    let (piece, _) = constants.next().expect("some parameters never change");
    piece.to_vec()
}

/// What a training leaves that nothing disturbs, and a constant piece of its state.
async fn undisturbed(state_dir: &Path, document: &Value) -> (Outcome, Vec<u8>) {
    let mut running = Running::up(state_dir, 1, 1).await;
    let job = running.submit(document).await;
    let outcome = Outcome::of(&mut running, job).await;
    let earlier = running.checkpoints(job).await.pop().expect("it has checkpoints");
    let piece = constant(&running.state(&earlier).await, &outcome.state);
    (outcome, piece)
}

/// Waits until the stage has committed so many steps, and all ranks run.
async fn trains(running: &mut Running, job: JobId, ranks: usize, steps: u64) {
    let look = async |running: &Running| {
        let job: JobDetail = running.client()?.get(&format!("/jobs/{job}")).await.ok()?;
        (job.stages[1].done >= steps && running.ranks().len() == ranks).then_some(())
    };
    running.until("the job trains", look).await;
}

#[tokio::test]
async fn a_rank_in_whose_memory_a_bit_flips_is_named_and_replaced_from_its_peers() {
    let scratch = Scratch::new();
    let data = scratch.path("data");
    corpus(&data);
    let document = with_constants(&data);
    let (undisturbed, piece) = undisturbed(&scratch.path("undisturbed"), &document).await;

    let mut running = Running::up(&scratch.path("flipped"), 2, 2).await;
    let job = running.submit(&document).await;
    trains(&mut running, job, 4, 20).await;
    assert!(flip(running.ranks()[1].pid, &piece) > 0, "its state holds the piece");
    let outcome = Outcome::of(&mut running, job).await;
    let [over] = outcome.story("generation-over")[..] else {
        panic!("one generation is over: {:?}", outcome.events)
    };
    let named = over
        .split_once("that of rank ")
        .and_then(|(_, rest)| rest.split_once(' '));
    let (rank, rest) = named.expect("the rank that differs is named");
    assert!(rest.starts_with("is not the majority's"), "{over}");
    assert!(over.contains(&format!("is over: rank {rank} on node-")), "{over}");
    let placed = outcome.story("stage-placed");
    let again = placed.last().expect("the stage is placed");
    assert!(again.contains("with 3 of its ranks"), "{placed:?}");
    assert_eq!(outcome.job.stages[1].world, 4, "it is back: {:?}", outcome.events);
    outcome.is_that_of(&undisturbed);
}

#[tokio::test]
async fn two_ranks_that_differ_are_both_distrusted_and_the_stage_goes_back_to_its_checkpoint() {
    let scratch = Scratch::new();
    let data = scratch.path("data");
    corpus(&data);
    let document = with_constants(&data);
    let (undisturbed, piece) = undisturbed(&scratch.path("undisturbed"), &document).await;

    let mut running = Running::up(&scratch.path("flipped"), 2, 1).await;
    let job = running.submit(&document).await;
    trains(&mut running, job, 2, EVERY + 5).await;
    assert!(flip(running.ranks()[1].pid, &piece) > 0, "its state holds the piece");
    let outcome = Outcome::of(&mut running, job).await;
    let [over] = outcome.story("generation-over")[..] else {
        panic!("one generation is over: {:?}", outcome.events)
    };
    assert!(over.contains("none has a majority"), "{over}");
    // Neither kept its memory: the newest checkpoint it is, whose step depends on how soon the bit flipped.
    let running = outcome.story("stage-running");
    let [_, back, ..] = running[..] else {
        panic!("it runs again: {running:?}")
    };
    let step = back
        .split_once("it goes on from step ")
        .map(|(_, step)| step.parse::<u64>());
    let is_checkpoint = |step: u64| step >= EVERY && step.is_multiple_of(EVERY);
    assert!(matches!(step, Some(Ok(step)) if is_checkpoint(step)), "{running:?}");
    outcome.is_that_of(&undisturbed);
}

/// The worker as another build whose numbers may be others: it says so in its fingerprint.
fn another_build(site: &Site) -> PathBuf {
    let (from, to) = (b"cpu ", b"CPU ");
    let mut bytes = fs::read(program("medley-worker")).expect("it was built");
    let all = bytes
        .windows(from.len())
        .enumerate()
        .filter(|(_, window)| window == from);
    let places: Vec<usize> = all.map(|(at, _)| at).collect();
    assert!(!places.is_empty(), "the fingerprint names the kind of device");
    places
        .iter()
        .for_each(|at| bytes[*at..at + to.len()].copy_from_slice(to));
    let path = site.path("another-worker");
    fs::write(&path, bytes).expect("a test may write");
    fs::set_permissions(&path, Permissions::from_mode(0o755)).expect("the file is our own");
    path
}

#[tokio::test]
async fn nodes_that_may_round_differently_never_train_together() {
    let site = Site::new();
    let coordinator = site.coordinator("one", "127.0.0.1:0", None).await;
    let url = coordinator.url();
    let node = |name| Agent {
        name,
        coordinators: &url,
        token_of: &coordinator,
        devices: 1,
        machine: None,
    };
    let (here, other) = (
        site.agent(&node("node-a")),
        site.agent_of(&another_build(&site), &node("node-b")),
    );
    let training = site.training(200, Some(2));
    let undisturbed = site.undisturbed(&training);
    let api = coordinator.api();
    api.nodes_heard(2).await;
    let job = api.submit(&training).await;
    let waits =
        "waits for 2 free devices of one numerics fingerprint: the nodes alive have 2 in all and at most 1 of one";
    until("the job says why it waits", async || {
        let job: JobDetail = api.get(&format!("/jobs/{job}")).await;
        job.stages[1].reason.contains(waits).then_some(())
    })
    .await;
    let third = site.agent(&node("node-c"));
    assert_eq!(api.trained(job).await, undisturbed);
    let is_member = |agent: &medley_tests::programs::Service| agent.log().contains("committed step=");
    assert!(is_member(&here) && is_member(&third) && !is_member(&other));
}
