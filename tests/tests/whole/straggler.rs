//! A rank that is slowed down is named, and no longer when it is let go.

use medley_data::synth::{SynthSpec, generate};
use medley_protocol::ids::JobId;
use medley_protocol::rest::{JobDetail, NodeView, Straggler};
use medley_tests::programs::{Running, Scratch, call};
use serde_json::json;
use std::path::Path;
use std::process::{Child, Command};

fn corpus(dir: &Path) {
    let spec = SynthSpec {
        seed: 5,
        human: 128,
        web: 0,
        test: 0,
        shard: 64,
        other: 0.0,
        half_true: 0.0,
        boilerplate: 0.0,
    };
    generate(&spec, dir, &mut |_, _| {}).expect("a corpus can be drawn");
}

/// Lets a process run for a short while and stand still for a longer one, in turns, until it is dropped.
struct Brake {
    shell: Child,
    process: u32,
}

impl Brake {
    fn on(process: u32) -> Self {
        let script = format!("while kill -STOP {process}; do sleep 0.06; kill -CONT {process}; sleep 0.01; done");
        let shell = Command::new("sh")
            .args(["-c", &script])
            .spawn()
            .expect("there is a shell");
        Self { shell, process }
    }
}

impl Drop for Brake {
    fn drop(&mut self) {
        let _ = self.shell.kill();
        let _ = self.shell.wait();
        medley_tests::programs::tree::tell(self.process, "-CONT");
    }
}

async fn stragglers(running: &Running, job: JobId) -> Option<Vec<Straggler>> {
    let job: JobDetail = running.client()?.get(&format!("/jobs/{job}")).await.ok()?;
    Some(job.stages[1].stragglers.clone())
}

#[tokio::test]
async fn a_rank_that_is_slowed_down_is_named_until_it_is_let_go() {
    let scratch = Scratch::new();
    let (data, state_dir) = (scratch.path("data"), scratch.path("state"));
    corpus(&data);
    let mut running = Running::up(&state_dir, 2, 1).await;
    let job = running
        .submit(&json!({
            "name": "slow",
            "kind": "pretrain",
            "preset": "nano",
            "data": { "root": data, "web": "", "test": "" },
            "cluster": { "min_ranks": 2, "max_ranks": 2 },
            // Long enough to be cancelled in its middle.
            "pretrain": { "length": { "by": "steps", "count": 20_000 }, "warmup_steps": 10 },
            "lanes": { "count": 2, "batch": 16 },
        }))
        .await;
    let trains = async |running: &Running| {
        let job: JobDetail = running.client()?.get(&format!("/jobs/{job}")).await.ok()?;
        (job.stages[1].done > 30).then_some(())
    };
    running.until("the job trains", trains).await;
    assert_eq!(stragglers(&running, job).await, Some(Vec::new()), "nobody is slow");

    let slow = running.ranks().swap_remove(0);
    let brake = Brake::on(slow.pid);
    let named = async |running: &Running| stragglers(running, job).await?.pop();
    let straggler = running.until("the slow rank is named", named).await;
    assert!(straggler.lane_ms > 1.5 * straggler.usual_lane_ms, "{straggler:?}");
    let nodes: Vec<NodeView> = running.get("/nodes").await;
    for node in nodes {
        let own: Vec<u32> = node.stragglers.iter().map(|straggler| straggler.rank).collect();
        let expected = if node.id == straggler.node {
            vec![straggler.rank]
        } else {
            Vec::new()
        };
        assert_eq!(own, expected, "{node:?}");
    }
    let arguments = ["jobs", "show", "latest", "--state-dir"].map(AsRef::as_ref);
    // The options of the connection belong to `jobs`.
    let arguments = [
        arguments[0],
        arguments[3],
        state_dir.as_os_str(),
        arguments[1],
        arguments[2],
    ];
    let shown = call("medley", &arguments).output;
    let line = format!("straggler: rank {} on {}", straggler.rank, straggler.node_name);
    assert!(shown.contains(&line), "{shown}");

    drop(brake);
    let cleared = async |running: &Running| stragglers(running, job).await?.is_empty().then_some(());
    running.until("the rank keeps up again", cleared).await;
    let told = running
        .events(job)
        .await
        .into_iter()
        .filter(|event| event.kind == "straggler");
    let told: Vec<String> = told.map(|event| event.message).collect();
    assert!(
        told.len() == 1 && told[0].contains(&format!("rank {} on ", straggler.rank)),
        "{told:?}"
    );
}
