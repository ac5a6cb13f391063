//! Numbers that go wrong: losses that are not finite, bits that flip in memory, nodes that round differently.

use medley_protocol::checkpoint::TensorHash;
use medley_protocol::doubt::COMPARED_WITHIN;
use medley_protocol::ids::JobId;
use medley_protocol::rest::JobDetail;
use medley_protocol::stage::{JobState, StageState};
use medley_tests::bits::{Computed, Outcome, corpus, document};
use medley_tests::programs::{Agent, Running, Scratch, Site, flip, program, until};
use serde_json::{Value, json};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Steps of a training in whose memory a bit flips: it must not be over before that is seen to be so.
const LENGTH: u64 = 1000;
/// Steps that it has committed before, at least.
const BEFORE: u64 = 150;
/// Steps between two of its checkpoints.
const EVERY: u64 = 50;
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

/// A training that takes some time. Of its parameters some never change: positions that no text is long enough for, without
/// weight decay.
fn with_constants(data: &Path) -> Value {
    let mut document = document(data);
    document["pretrain"]["length"]["count"] = json!(LENGTH);
    document["pretrain"]["weight_decay"] = json!(0.0);
    document["checkpoint"]["every_steps"] = json!(EVERY);
    document
}

/// A bit of the state in the memory of a rank, by bytes of it that never change.
struct Bit {
    constant: Vec<u8>,
    place: (isize, u8),
}

impl Bit {
    /// In the middle of the first weight of the first position, which every text uses: it changes by a hundredth.
    const SMALL: (&str, usize, u8) = ("position_embeddings.weight", 2, 1);
    /// Of the exponent of the first weight of a normalisation: what was about 1 is not finite any more, or nearly so.
    const LARGE: (&str, usize, u8) = ("LayerNorm.weight", 3, 0x40);

    /// Finds one in the states of an early and a late checkpoint, with the late one's tensors. The bytes of the last position
    /// never change.
    fn find((earlier, later): (&[u8], &[u8]), tensors: &[TensorHash], which: (&str, usize, u8)) -> Self {
        let tensor = |name: &str| {
            let name = format!("text_encoder.embeddings.{name}");
            let mut named = tensors.iter().filter(|tensor| tensor.section == "params");
            let tensor = named.find(|tensor| tensor.name == name).expect("texts are embedded");
            tensor.offset_bytes as usize..(tensor.offset_bytes + tensor.size_bytes) as usize
        };
        let constant = tensor(Self::SMALL.0).end - PIECE..tensor(Self::SMALL.0).end;
        assert_eq!(earlier[constant.clone()], later[constant.clone()], "no text is so long");
        let (name, byte, bits) = which;
        let word = tensor(name).start..tensor(name).start + 4;
        assert_ne!(earlier[word.clone()], later[word.clone()], "it is trained");
        Self {
            place: ((word.start + byte) as isize - constant.start as isize, bits),
            constant: later[constant].to_vec(),
        }
    }

    /// Flips it, and those of its copies, in the memory of a process.
    fn flip(&self, process: u32) {
        let places = flip(process, &self.constant, self.place);
        assert!(places > 0, "its state holds the bytes");
    }
}

/// What a training leaves that nothing disturbs, and two bits of its state.
async fn undisturbed(state_dir: &Path, document: &Value) -> (Computed, [Bit; 2]) {
    let mut running = Running::up(state_dir, 1, 1).await;
    let job = running.submit(document).await;
    let computed = Outcome::of(&mut running, job).await.computed;
    let checkpoints = running.checkpoints(job).await;
    let earlier = running.state(checkpoints.last().expect("it has checkpoints")).await;
    let tensors = running.tensors(&checkpoints[0]).await;
    let bits = [Bit::SMALL, Bit::LARGE].map(|which| Bit::find((&earlier, &computed.state), &tensors, which));
    (computed, bits)
}

/// Waits until the stage has committed so many steps, and all ranks run.
async fn trains(running: &mut Running, job: JobId, ranks: usize, steps: u64) {
    let look = async |running: &Running| {
        let job: JobDetail = running.client()?.get(&format!("/jobs/{job}")).await.ok()?;
        (job.stages[1].done >= steps && running.ranks().len() == ranks).then_some(())
    };
    running.until("the job trains", look).await;
}

/// Whose state differed, as the one event says that ended the generation; it has gone back to a checkpoint that is proven, or to
/// the stage's start.
fn whose(outcome: &Outcome) -> &str {
    let [over] = outcome.story("generation-over")[..] else {
        panic!("one generation is over: {:?}", outcome.events)
    };
    let said = over.split_once("is over: the state before step ");
    let told = said.and_then(|(_, rest)| {
        let (step, rest) = rest.split_once(" is not the same everywhere: ")?;
        let (whose, rest) = rest.split_once("; steps ")?;
        let (from, rest) = rest.split_once(" to ")?;
        let (to, rest) = rest.split_once(' ')?;
        let [step, from, to] = [step, from, to].map(|number| number.parse::<u64>().ok());
        (rest == "are computed again").then_some((step?, whose, from?, to?))
    });
    let (step, whose, from, to) = told.unwrap_or_else(|| panic!("{over}"));
    assert_eq!(to + 1, step, "{over}");
    let is_proven = from.is_multiple_of(EVERY) && (from == 0 || from + COMPARED_WITHIN < step);
    assert!(is_proven, "{over}");
    let running = outcome.story("stage-running");
    let goes_back = format!("it goes on from step {from}");
    assert!(running.len() > 1 && running[1].ends_with(&goes_back), "{running:?}");
    whose
}

#[tokio::test]
async fn a_training_in_whose_weights_a_bit_flips_ends_with_the_bytes_of_an_undisturbed_one() {
    let scratch = Scratch::new();
    let data = scratch.path("data");
    corpus(&data);
    let document = with_constants(&data);
    let (undisturbed, [small, large]) = undisturbed(&scratch.path("undisturbed"), &document).await;
    for (devices, bit) in [(2_u32, small), (1, large)] {
        let ranks = 2 * devices;
        let mut running = Running::up(&scratch.path(format!("of-{ranks}")), 2, devices).await;
        let job = running.submit(&document).await;
        trains(&mut running, job, ranks as usize, BEFORE).await;
        bit.flip(running.ranks()[1].pid);
        let outcome = Outcome::of(&mut running, job).await;
        let whose = whose(&outcome);
        if ranks == 2 {
            assert_eq!(whose, "none has a majority");
        } else {
            let one = whose
                .strip_prefix("that of rank ")
                .and_then(|rest| rest.split_once(" on node-"));
            let is_named = one.is_some_and(|(rank, rest)| {
                rank.parse::<u32>().is_ok_and(|rank| rank < ranks) && rest.ends_with(" is not the majority's")
            });
            assert!(is_named, "{whose}");
        }
        assert_eq!(outcome.job.stages[1].world, ranks, "{:?}", outcome.events);
        outcome.is_that_of(&undisturbed);
    }
}

/// The worker as another build whose numbers may be others: its file has a byte more.
fn another_build(site: &Site) -> PathBuf {
    let mut bytes = fs::read(program("medley-worker")).expect("it was built");
    bytes.push(0);
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
