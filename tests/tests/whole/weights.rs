//! Weights that a user brings along: a job that starts from them goes on where they were left, or says what is wrong.

use medley_data::synth::{SynthSpec, generate};
use medley_protocol::ids::JobId;
use medley_protocol::metrics::StepMetrics;
use medley_protocol::rest::JobDetail;
use medley_protocol::stage::{JobState, StageState};
use medley_tests::programs::{Running, Scratch, call};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// Steps of the pre-training whose weights are taken: enough to be told from fresh ones.
const PRETRAINED: u64 = 150;
/// Longest time from a submission to the end of a job that cannot start.
const PATIENCE: Duration = Duration::from_secs(40);

fn corpus(dir: &Path) {
    let spec = SynthSpec {
        seed: 13,
        human: 48,
        web: 16,
        test: 8,
        shard: 24,
        other: 0.2,
        half_true: 0.0,
        boilerplate: 0.0,
    };
    generate(&spec, dir, &mut |_, _| {}).expect("a corpus can be drawn");
}

fn document(data: &Path, pretrain_steps: u64) -> Value {
    let short = |steps: u64| json!({ "length": { "by": "steps", "count": steps }, "warmup_steps": 1 });
    json!({
        "name": "brought", "kind": "bootstrap", "preset": "nano", "data": { "root": data },
        "pretrain": short(pretrain_steps), "captioner": short(4), "filter": short(4),
    })
}

/// The same with weights in place of the first pre-training.
fn with_weights(data: &Path, weights: &str) -> Value {
    let mut document = document(data, 2);
    document["start"] = json!({ "pretrained": [weights] });
    document
}

/// Trains without a cluster; the metrics of a stage.
fn train(spec: &str, out: &str, stage: &str) -> Vec<StepMetrics> {
    call("medley-worker", &["train", spec, "--out", out, "--stage", stage]);
    let file = match stage {
        "pretrain" => format!("{out}/metrics.jsonl"),
        stage => format!("{out}/{stage}-metrics.jsonl"),
    };
    let lines = fs::read_to_string(file).expect("the training has written its metrics");
    let row = |line| serde_json::from_str(line).expect("metrics are JSON");
    lines.lines().map(row).collect()
}

async fn metrics_of(running: &Running, job: &JobDetail, name: &str) -> Vec<StepMetrics> {
    let stage = job.stages.iter().find(|stage| stage.name == name);
    let stage = stage.unwrap_or_else(|| panic!("there is no {name} in {:?}", job.stages));
    running.metrics(job.job.id, stage.id).await
}

/// The end of a job that cannot start from its weights: nothing is tried twice, and each stage that fails names `parts`.
async fn refused(running: &mut Running, job: JobId, parts: &[&str]) {
    let began = Instant::now();
    let detail = running.finished(job).await;
    assert!(began.elapsed() < PATIENCE, "it took {:?}", began.elapsed());
    assert_eq!(detail.job.state, JobState::Failed);
    let again = detail.stages.iter().find(|stage| stage.generation > 1);
    assert!(again.is_none(), "{again:?} was tried again");
    let events = running.events(job).await;
    let again = events.iter().find(|event| event.message.contains("attempt 2"));
    assert!(again.is_none(), "{again:?}");
    let failed = detail.stages.iter().filter(|stage| stage.state == StageState::Failed);
    let failed: Vec<_> = failed.collect();
    assert!(!failed.is_empty(), "{:?}", detail.stages);
    for stage in failed {
        let names_all = |reason: &str| parts.iter().all(|part| reason.contains(part));
        assert!(names_all(&stage.reason), "{parts:?} in {}", stage.reason);
        assert!(names_all(&detail.job.reason), "{parts:?} in {}", detail.job.reason);
    }
}

#[tokio::test]
async fn a_job_goes_on_from_weights_that_were_exported_and_refuses_those_that_do_not_fit() {
    let scratch = Scratch::new();
    let path = |name: &str| scratch.path(name).display().to_string();
    let data = scratch.path("data");
    corpus(&data);
    let (spec, out, exported) = (path("spec.json"), path("out"), path("exported"));
    fs::write(&spec, document(&data, PRETRAINED).to_string()).expect("a test may write");
    let pretraining = train(&spec, &out, "pretrain");
    let (captioning, filtering) = (train(&spec, &out, "captioner"), train(&spec, &out, "filter"));
    let export = [
        "weights",
        "export",
        "--checkpoint",
        &out,
        "--spec",
        &spec,
        "--to",
        "pth",
    ];
    call("medley-worker", &[&export[..], &["--out", &exported]].concat());
    let file = only_file(Path::new(&exported));

    let mut running = Running::up(&scratch.path("state"), 1, 2).await;
    let job = running.submit(&with_weights(&data, &file)).await;
    let job = running.finished(job).await;
    assert_eq!(job.job.state, JobState::Succeeded, "{}", job.job.reason);
    assert!(!job.stages.iter().any(|stage| stage.name == "pretrain-0"));

    // The same numbers as from the checkpoint itself, and not those of fresh weights.
    let captioner = metrics_of(&running, &job, "captioner-0").await;
    assert_eq!(captioner, captioning);
    assert!(
        captioner[0].lm < 0.75 * pretraining[0].lm,
        "{} after {}",
        captioner[0].lm,
        pretraining[0].lm
    );
    // A file has an update of the momentum encoders pending; matching does not look at them.
    let filter = metrics_of(&running, &job, "filter-0").await;
    assert_eq!(filter[0].itm, filtering[0].itm);
    let report = running.rank_logs();
    let taken = report
        .lines()
        .find(|line| line.contains(&file) && line.contains("tensors taken"));
    assert!(taken.is_some(), "no report of the tensors taken in {report}");
    assert!(report.contains("momentum encoder: taken"), "{report}");

    let mut narrow = with_weights(&data, &file);
    narrow["model"] = json!({ "text": { "ffn": 64 } });
    let job = running.submit(&narrow).await;
    refused(&mut running, job, &[&file, "intermediate.dense"]).await;

    // It is there when the job is submitted, and not when the stage begins.
    let moved = path("moved.pth");
    fs::copy(&file, &moved).expect("a test may copy");
    let job = running.submit(&with_weights(&data, &moved)).await;
    fs::remove_file(&moved).expect("a test may remove its file");
    refused(&mut running, job, &[&moved]).await;

    let client = running.client().expect("the coordinator serves");
    let error = client.submit(&with_weights(&data, &moved), "missing").await;
    let error = error.expect_err("the file is not there").to_string();
    assert!(error.contains("start.pretrained") && error.contains(&moved), "{error}");
}

fn only_file(folder: &Path) -> String {
    let files = fs::read_dir(folder).expect("the export has a folder").flatten();
    let weights = files
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|e| e == "pth"));
    weights.expect("there is a .pth").display().to_string()
}
