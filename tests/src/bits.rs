//! A short training whose every bit is known: what an undisturbed run leaves, a disturbed one must leave too.

use crate::programs::{Running, call};
use medley_data::synth::{SynthSpec, generate};
use medley_protocol::checkpoint::Manifest;
use medley_protocol::ids::JobId;
use medley_protocol::metrics::StepMetrics;
use medley_protocol::rest::{EventView, JobDetail};
use medley_protocol::stage::JobState;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

/// Steps of the run: enough that it is still in its middle some checkpoints after its begin.
pub const STEPS: u64 = 300;
/// Steps between two checkpoints.
pub const CHECKPOINT_EVERY: u64 = 20;
/// How many checkpoints are kept.
pub const KEPT: usize = 3;

/// Draws the corpus of the run.
///
/// # Panics
/// When it cannot be written.
pub fn corpus(dir: &Path) {
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

/// The job.
pub fn document(data: &Path) -> Value {
    json!({
        "name": "bits",
        "kind": "pretrain",
        "preset": "nano",
        "data": { "root": data, "web": "", "test": "" },
        "pretrain": { "length": { "by": "steps", "count": STEPS }, "warmup_steps": 10 },
        "checkpoint": { "every_steps": CHECKPOINT_EVERY, "keep": KEPT },
    })
}

/// All that a run has computed.
#[derive(Debug)]
pub struct Computed {
    /// Metrics of every step.
    pub metrics: Vec<StepMetrics>,
    /// Its last state.
    pub state: Vec<u8>,
}

impl Computed {
    /// What a run computes that nothing disturbs: one rank, without a cluster.
    ///
    /// # Panics
    /// When it does not succeed.
    pub fn undisturbed(folder: &Path, document: &Value) -> Self {
        fs::create_dir_all(folder).expect("a test may make folders");
        let spec = folder.join("spec.json");
        let read = |name: &str| fs::read(folder.join(name));
        fs::write(&spec, document.to_string()).expect("a test may write");
        // How many ranks there are makes no difference.
        let arguments = ["train".as_ref(), spec.as_os_str(), "--out".as_ref(), folder.as_os_str()];
        call("medley-worker", &arguments);
        let lines = String::from_utf8(read("metrics.jsonl").expect("it has metrics")).expect("metrics are text");
        let row = |line| serde_json::from_str(line).expect("metrics are JSON");
        let manifest: Manifest = serde_json::from_slice(&read("checkpoint.json").expect("it has a checkpoint"))
            .expect("a manifest can be read");
        let parts = manifest.parts.iter().map(|part| format!("store/{}", part.object.key));
        Self {
            metrics: lines.lines().map(row).collect(),
            state: parts.flat_map(|part| read(&part).expect("it has its parts")).collect(),
        }
    }
}

/// All that a run on a cluster leaves.
#[derive(Debug)]
pub struct Outcome {
    /// The job.
    pub job: JobDetail,
    /// What its ranks have logged.
    pub rank_logs: String,
    /// What happened to it.
    pub events: Vec<EventView>,
    /// What it has computed.
    pub computed: Computed,
}

impl Outcome {
    /// Waits until the job is over.
    ///
    /// # Panics
    /// When it does not succeed.
    pub async fn of(running: &mut Running, job: JobId) -> Self {
        let detail = running.finished(job).await;
        assert_eq!(detail.job.state, JobState::Succeeded, "{}", detail.job.reason);
        let last = running.checkpoints(job).await.swap_remove(0);
        assert_eq!(
            (Some(last.step), last.stage),
            (detail.stages[1].total, detail.stages[1].id)
        );
        Self {
            events: running.events(job).await,
            computed: Computed {
                metrics: running.metrics(job, detail.stages[1].id).await,
                state: running.state(&last).await,
            },
            job: detail,
            rank_logs: running.rank_logs(),
        }
    }

    /// Everything that was computed is what the other run has computed, and every step counts once.
    ///
    /// # Panics
    /// When it is not.
    pub fn is_that_of(&self, other: &Computed) {
        let own = &self.computed;
        let steps: Vec<u64> = own.metrics.iter().map(|row| row.step).collect();
        let all = self.job.stages[1].total.unwrap_or(0);
        assert!(steps.iter().copied().eq(0..all), "each step exactly once: {steps:?}");
        assert_eq!(own.metrics.len(), other.metrics.len());
        let differs = own.metrics.iter().zip(&other.metrics).find(|(a, b)| a != b);
        assert_eq!(differs, None);
        let first = first_difference(&own.state, &other.state);
        assert_eq!(first, None, "first byte that differs");
    }

    /// The messages of the events of a kind.
    pub fn story(&self, kind: &str) -> Vec<&str> {
        let of_kind = self.events.iter().filter(|event| event.kind == kind);
        of_kind.map(|event| event.message.as_str()).collect()
    }
}

fn first_difference(a: &[u8], b: &[u8]) -> Option<usize> {
    (0..a.len().max(b.len())).find(|i| a.get(*i) != b.get(*i))
}
