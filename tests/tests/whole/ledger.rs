//! The ledger of a training whose ranks are killed, with an image that no longer decodes.

use medley_data::synth::{SynthSpec, generate};
use medley_protocol::ids::{JobId, StageId};
use medley_protocol::ledger::LedgerEntry;
use medley_protocol::metrics::{MetricsChunk, MetricsThrough};
use medley_protocol::rest::{DatasetView, JobDetail, LedgerPage};
use medley_protocol::stage::{JobState, StageState};
use medley_tests::programs::{Running, Scratch, call, program, tree};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::Command;

/// Pairs: an epoch leaves some of them unread.
const PAIRS: u64 = 75;
const STEPS: u64 = 240;

fn corpus(dir: &Path) {
    let spec = SynthSpec {
        seed: 3,
        human: PAIRS as u32,
        web: 0,
        test: 0,
        shard: 25,
        other: 0.0,
        half_true: 0.0,
        boilerplate: 0.0,
    };
    generate(&spec, dir, &mut |_, _| {}).expect("a corpus can be drawn");
}

fn document(data: &Path) -> Value {
    json!({
        "name": "ledger",
        "kind": "pretrain",
        "preset": "nano",
        "ledger": true,
        "data": { "root": data, "web": "", "test": "" },
        // One device indexes the shards but cannot train.
        "cluster": { "min_ranks": 2 },
        "pretrain": { "length": { "by": "steps", "count": STEPS }, "warmup_steps": 10 },
        "checkpoint": { "every_steps": 40 },
    })
}

/// Spoils the first image of a shard without a change of the file's size.
fn spoil_an_image(shard: &Path) {
    let mut bytes = fs::read(shard).expect("the shard is there");
    let jpeg = bytes.windows(3).position(|three| three == [0xff, 0xd8, 0xff]);
    let at = jpeg.expect("the shard holds an image");
    bytes[at..at + 64].fill(0);
    fs::write(shard, bytes).expect("the shard can be written");
}

/// Waits until the stage that trains has committed so many steps.
async fn trained(running: &mut Running, job: JobId, steps: u64) -> u64 {
    let look = async |running: &Running| {
        let job: JobDetail = running.client()?.get(&format!("/jobs/{job}")).await.ok()?;
        (job.stages[1].done >= steps).then_some(job.stages[1].done)
    };
    running.until("steps are committed", look).await
}

/// Kills one rank, and in the end both.
async fn train_with_losses(running: &mut Running, job: JobId) {
    for (steps, killed) in [(STEPS / 8, 1), (STEPS / 3, 2)] {
        let done = trained(running, job, steps).await;
        assert!(
            done < STEPS * 2 / 3,
            "at step {done} it is too late to kill ranks: make the run longer"
        );
        // One that was killed may have no successor yet.
        let both = async |running: &Running| Some(running.ranks()).filter(|ranks| ranks.len() == 2);
        let ranks = running.until("both ranks run", both).await;
        ranks[..killed].iter().for_each(|rank| tree::tell(rank.pid, "-KILL"));
    }
}

#[tokio::test]
async fn every_sample_is_in_the_ledger_once_whatever_is_killed() {
    let scratch = Scratch::new();
    let (data, state_dir) = (scratch.path("data"), scratch.path("state"));
    corpus(&data);

    let mut running = Running::up(&state_dir, 1, 1).await;
    let job = running.submit(&document(&data)).await;
    let indexed = async |running: &Running| {
        let datasets: Vec<DatasetView> = running.client()?.get(&format!("/jobs/{job}/datasets")).await.ok()?;
        (!datasets.is_empty()).then_some(())
    };
    running.until("the shards are indexed", indexed).await;
    drop(running);
    spoil_an_image(&data.join("human/shard-000000.tar"));

    let mut running = Running::up(&state_dir, 2, 1).await;
    train_with_losses(&mut running, job).await;
    let detail = running.finished(job).await;
    assert_eq!(detail.job.state, JobState::Succeeded, "{}", detail.job.reason);
    let stage = &detail.stages[1];
    assert!(stage.state == StageState::Done && stage.generation > 2, "{stage:?}");

    let arguments = ["ledger", "latest", "--json", "--state-dir"].map(AsRef::as_ref);
    let said = call("medley", &[&arguments[..], &[state_dir.as_os_str()]].concat());
    let found: Value = serde_json::from_str(&said.output).expect("it is JSON");
    let (found, batch) = (&found["stages"][0], detail.spec.global_batch());
    assert_eq!(found["faults"], json!([]));
    assert_eq!(found["read"], STEPS * batch);
    assert_eq!(found["unread"], json!({ "start": PAIRS / batch * batch, "end": PAIRS }));
    let replaced = found["replaced"].as_array().expect("it is a list");
    assert!(!replaced.is_empty());
    for replaced in replaced {
        assert_eq!(replaced["names"][0], "human/shard-000000.tar 000000", "{replaced}");
    }

    // A record of a step that says otherwise ends the command with 1, and is named.
    let rows = vec![running.metrics(job, stage.id).await[9]];
    let mut entry = page(&running, job, stage.id, 9).await;
    entry.lanes[1].samples[0] += 1;
    let (path, ledger) = (format!("/stages/{}/metrics", stage.id), vec![entry]);
    let node = running.client_of("node").expect("the coordinator serves");
    let chunk = MetricsChunk {
        generation: 1,
        rows,
        ledger,
    };
    let told: MetricsThrough = node.post(&path, &chunk).await.expect("facts are never refused");
    assert_eq!(told.next_step, STEPS);
    let broken = Command::new(program("medley"))
        .args(["ledger", "latest", "--stage", "pretrain-0", "--state-dir"])
        .arg(&state_dir)
        .output()
        .expect("medley can be called");
    let text = String::from_utf8_lossy(&broken.stdout).into_owned();
    assert_eq!(broken.status.code(), Some(1), "{text}");
    assert!(
        text.contains("wrong: step 9 was reported again with other samples"),
        "{text}"
    );
}

async fn page(running: &Running, job: JobId, stage: StageId, step: u64) -> LedgerEntry {
    let path = format!("/jobs/{job}/ledger?stage={stage}&from_step={step}&limit=1");
    let mut page: LedgerPage = running.get(&path).await;
    page.entries.swap_remove(0)
}
