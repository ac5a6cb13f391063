//! A cluster that is killed with everything in it, in the middle of a run, and started again.

use medley_data::synth::{SynthSpec, generate};
use medley_protocol::ids::JobId;
use medley_protocol::metrics::StepMetrics;
use medley_protocol::rest::{EventView, JobDetail};
use medley_protocol::stage::{JobState, StageState};
use medley_tests::programs::{Running, Scratch};
use serde_json::{Value, json};
use std::path::Path;

/// Steps of the run: enough that it is still in its middle some checkpoints after its begin.
const STEPS: u64 = 300;
const CHECKPOINT_EVERY: u64 = 20;

fn corpus(dir: &Path) {
    let spec = SynthSpec {
        seed: 11,
        human: 96,
        web: 0,
        test: 0,
        shard: 24,
        other: 0.0,
        half_true: 0.0,
        boilerplate: 0.0,
    };
    generate(&spec, dir, &mut |_, _| {}).expect("a corpus can be drawn");
}

fn document(data: &Path) -> Value {
    json!({
        "name": "bits",
        "kind": "pretrain",
        "preset": "nano",
        "data": { "root": data, "web": "", "test": "" },
        "pretrain": { "length": { "by": "steps", "count": STEPS }, "warmup_steps": 10 },
        "checkpoint": { "every_steps": CHECKPOINT_EVERY },
    })
}

/// All that a run leaves.
struct Outcome {
    job: JobDetail,
    rank_logs: String,
    events: Vec<EventView>,
    metrics: Vec<StepMetrics>,
    state: Vec<u8>,
}

impl Outcome {
    async fn of(running: &mut Running, job: JobId) -> Self {
        let detail = running.finished(job).await;
        assert_eq!(detail.job.state, JobState::Succeeded, "{}", detail.job.reason);
        let last = running.checkpoints(job).await.swap_remove(0);
        assert_eq!((last.step, last.stage), (STEPS, detail.stages[1].id));
        Self {
            events: running.events(job).await,
            metrics: running.metrics(job, detail.stages[1].id).await,
            state: running.state(&last).await,
            job: detail,
            rank_logs: running.rank_logs(),
        }
    }

    fn story(&self, kind: &str) -> Vec<&str> {
        let of_kind = self.events.iter().filter(|event| event.kind == kind);
        of_kind.map(|event| event.message.as_str()).collect()
    }
}

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

fn first_difference(a: &[u8], b: &[u8]) -> Option<usize> {
    (0..a.len().max(b.len())).find(|i| a.get(*i) != b.get(*i))
}

#[tokio::test]
async fn a_cluster_that_is_killed_entirely_goes_on_to_the_same_bits() {
    let scratch = Scratch::new();
    let data = scratch.path("data");
    corpus(&data);
    let document = document(&data);

    let undisturbed = {
        // One rank: how many there are makes no difference either.
        let mut running = Running::up(&scratch.path("undisturbed"), 1, 1).await;
        let job = running.submit(&document).await;
        Outcome::of(&mut running, job).await
    };
    assert!(undisturbed.story("generation-over").is_empty());

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

    let steps: Vec<u64> = resumed.metrics.iter().map(|row| row.step).collect();
    assert!(steps.iter().copied().eq(0..STEPS), "each step exactly once: {steps:?}");
    let differs = resumed.metrics.iter().zip(&undisturbed.metrics).find(|(a, b)| a != b);
    assert_eq!(differs, None);
    assert_eq!(
        first_difference(&resumed.state, &undisturbed.state),
        None,
        "first byte that differs"
    );
}
