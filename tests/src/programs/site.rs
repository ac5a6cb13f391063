//! A cluster that is put together part by part, where a test decides what lies between the parts.

use super::{Api, Machine, Scratch, Service, call, program};
use blake3::Hash;
use medley_data::synth::{SynthSpec, generate};
use medley_protocol::client::Client;
use medley_protocol::ids::JobId;
use medley_protocol::rest::{CheckpointRequestView, CheckpointView, EventView, JobDetail, NodeView};
use medley_protocol::stage::JobState;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Longest wait for anything that a test waits for.
const PATIENCE: Duration = Duration::from_mins(3);
/// Time between looks.
const LOOK: Duration = Duration::from_millis(50);
/// What agents log, and with them their ranks: each committed step.
const LOG: &str = "info,medley_worker::stage::train=debug";
/// Lanes of every step: ranks of two nodes, or of three, all have some.
const LANES: u32 = 4;

/// Looks until there is something to be seen.
///
/// # Panics
/// When that takes too long.
pub async fn until<T>(what: &str, look: impl AsyncFn() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(seen) = look().await {
            return seen;
        }
        assert!(Instant::now() < deadline, "not within {} s: {what}", PATIENCE.as_secs());
        tokio::time::sleep(LOOK).await;
    }
}

/// The files of a cluster: a corpus, an object store, logs.
#[derive(Debug)]
pub struct Site {
    scratch: Scratch,
}

/// A coordinator. Dropping it kills it.
#[derive(Debug)]
pub struct Coordinator {
    /// Its process.
    pub service: Service,
    state_dir: PathBuf,
}

/// How an agent is started.
#[derive(Debug)]
pub struct Agent<'a> {
    /// Name of its node.
    pub name: &'a str,
    /// Where coordinators are, with commas between them.
    pub coordinators: &'a str,
    /// The coordinator whose token for nodes it has.
    pub token_of: &'a Coordinator,
    /// Ranks that it runs at once.
    pub devices: u32,
    /// The machine it runs on, if not this one.
    pub machine: Option<&'a Machine>,
}

impl Site {
    /// A small corpus and an empty store.
    ///
    /// # Panics
    /// When they cannot be made.
    pub fn new() -> Self {
        let scratch = Scratch::new();
        let corpus = SynthSpec {
            seed: 17,
            human: 96,
            web: 0,
            test: 0,
            shard: 48,
            other: 0.0,
            half_true: 0.0,
            boilerplate: 0.0,
        };
        generate(&corpus, &scratch.path("data"), &mut |_, _| {}).expect("a corpus can be drawn");
        fs::create_dir(scratch.path("logs")).expect("the folder is our own");
        Self { scratch }
    }

    /// A path among its files.
    pub fn path(&self, name: &str) -> PathBuf {
        self.scratch.path(name)
    }

    /// A pre-training of so many steps, with dropout and queues, on exactly so many ranks or as many as there are. How long it is
    /// makes no difference to its single steps: they learn as those of a shorter one do.
    pub fn training(&self, steps: u64, ranks: Option<u32>) -> Value {
        json!({
            "name": "bits", "kind": "pretrain", "preset": "nano",
            "data": { "root": self.path("data"), "web": "", "test": "" },
            "lanes": { "count": LANES, "batch": 4 },
            "model": { "text": { "dropout": 0.1 }, "vision": { "drop_path": 0.1 } },
            "pretrain": { "length": { "by": "steps", "count": steps }, "warmup_steps": 5,
                          "decay": { "by": "epoch", "factor": 0.99 } },
            "checkpoint": { "every_steps": 0 },
            "cluster": { "min_ranks": ranks.unwrap_or(1), "max_ranks": ranks.unwrap_or(LANES) },
        })
    }

    /// The final state of a training that nothing disturbs: one rank, without a cluster.
    pub fn undisturbed(&self, training: &Value) -> Hash {
        let (spec, out) = (self.path("undisturbed.json"), self.path("undisturbed"));
        fs::write(&spec, training.to_string()).expect("the folder is our own");
        let arguments = ["train".as_ref(), spec.as_os_str(), "--out".as_ref(), out.as_os_str()];
        let said = call("medley-worker", &arguments).output;
        let digest = said.split_whitespace().last().and_then(|word| word.parse().ok());
        digest.unwrap_or_else(|| panic!("no digest in what the training said: {said}"))
    }

    /// The state of a longer training after so many steps, if nothing disturbs it.
    pub fn undisturbed_after(&self, steps: u64, training: &Value) -> Hash {
        let mut short = training.clone();
        short["pretrain"]["length"]["count"] = json!(steps);
        self.undisturbed(&short)
    }

    /// Starts a coordinator and waits until it serves. Without a database it has one of its own.
    pub async fn coordinator(&self, name: &str, listen: &str, database_url: Option<&str>) -> Coordinator {
        let state_dir = self.path(name);
        let _ = fs::remove_file(state_dir.join("coordinator.url"));
        let mut command = Command::new(program("medley-coordinator"));
        command
            .args(["serve", "--listen", listen, "--store"])
            .arg(format!("file://{}", self.path("store").display()))
            .arg("--state-dir")
            .arg(&state_dir)
            .env_remove("DATABASE_URL");
        if let Some(url) = database_url {
            command.env("DATABASE_URL", url);
        }
        let coordinator = Coordinator {
            service: Service::start(command, self.path("logs").join(name)),
            state_dir,
        };
        until("the coordinator serves", async || coordinator.line("coordinator.url")).await;
        coordinator
    }

    /// Starts an agent.
    pub fn agent(&self, agent: &Agent<'_>) -> Service {
        self.agent_of(&program("medley-worker"), agent)
    }

    /// Starts an agent of this build of the worker.
    pub fn agent_of(&self, worker: &Path, agent: &Agent<'_>) -> Service {
        let mut command = match agent.machine {
            Some(machine) => machine.command(worker),
            None => Command::new(worker),
        };
        command
            .args(["agent", "--name", agent.name, "--coordinator", agent.coordinators])
            .args(["--devices", &agent.devices.to_string(), "--token-file"])
            .arg(agent.token_of.state_dir.join("tokens/node"))
            .args(["--host", agent.machine.map_or("127.0.0.1", |machine| &machine.address)])
            .env("RUST_LOG", LOG);
        Service::start(command, self.path("logs").join(agent.name))
    }
}

impl Default for Site {
    fn default() -> Self {
        Self::new()
    }
}

impl Coordinator {
    /// Where it serves.
    ///
    /// # Panics
    /// When it does not.
    pub fn url(&self) -> String {
        self.line("coordinator.url").expect("the coordinator serves")
    }

    /// The file with the administrator's token.
    pub fn admin_token_file(&self) -> String {
        self.state_dir.join("tokens/admin").display().to_string()
    }

    /// Its API, for an administrator.
    ///
    /// # Panics
    /// When it does not serve.
    pub fn api(&self) -> Api {
        let token = self.line("tokens/admin").expect("the coordinator has made a token");
        Api(Client::new(&self.url(), &token))
    }

    fn line(&self, file: &str) -> Option<String> {
        let text = fs::read_to_string(self.state_dir.join(file)).ok()?;
        text.strip_suffix('\n').map(str::to_owned)
    }
}

impl Api {
    /// Waits until so many nodes are heard.
    pub async fn nodes_heard(&self, count: usize) {
        until("the nodes are heard", async || {
            let nodes: Vec<NodeView> = self.0.get("/nodes").await.ok()?;
            (nodes.iter().filter(|node| node.alive).count() == count).then_some(())
        })
        .await;
    }

    /// Waits for an event of a job, of this kind and with these words.
    pub async fn event(&self, job: JobId, kind: &str, words: &str) -> EventView {
        let path = format!("/jobs/{job}/events?after=0&limit=1000");
        until(&format!("an event {kind} says {words:?}"), async || {
            let events: Vec<EventView> = self.0.get(&path).await.ok()?;
            let mut fitting = events.into_iter().filter(|event| event.kind == kind);
            fitting.find(|event| event.message.contains(words))
        })
        .await
    }

    /// Ends a training that goes on, once all that it has committed by now is in a checkpoint; gives the step and the state of
    /// that. Each step before is in the metrics exactly once.
    pub async fn stopped(&self, job: JobId) -> (u64, Hash) {
        let path = format!("/jobs/{job}/checkpoints");
        let asked: CheckpointRequestView = until("a checkpoint may be asked for", async || {
            self.0.post(&path, &json!({})).await.ok()
        })
        .await;
        let taken = until("the checkpoint is whole", async || {
            let mut all: Vec<CheckpointView> = self.0.get(&path).await.ok()?;
            all.retain(|checkpoint| checkpoint.stage == asked.stage && checkpoint.step >= asked.step);
            all.pop()
        })
        .await;
        until("the metrics hold each of its steps once", async || {
            let rows = self.metrics(job, taken.stage).await;
            let count = rows.len() as u64;
            let each = rows.iter().map(|row| row.step).eq(0..count);
            (each && count >= taken.step).then_some(())
        })
        .await;
        let state = blake3::hash(&self.state(&taken).await);
        self.cancelled(job).await;
        (taken.step, state)
    }

    /// Cancels a job, which nothing else has ended.
    async fn cancelled(&self, job: JobId) {
        let path = format!("/jobs/{job}");
        let told = self.0.tell(&format!("{path}/cancel"), &json!({})).await;
        told.unwrap_or_else(|error| panic!("{job} cannot be cancelled: {error}"));
        let state = until("the job is over", async || {
            let detail: JobDetail = self.0.get(&path).await.ok()?;
            detail.job.state.is_final().then_some(detail.job.state)
        });
        assert_eq!(state.await, JobState::Cancelled);
    }

    /// Waits until a training has succeeded, and gives its final state, each of whose steps is in the metrics exactly once.
    pub async fn trained(&self, job: JobId) -> Hash {
        let detail: JobDetail = until("the job is over", async || {
            let detail: JobDetail = self.0.get(&format!("/jobs/{job}")).await.ok()?;
            detail.job.state.is_final().then_some(detail)
        })
        .await;
        let events = self.events(job).await;
        assert_eq!(
            detail.job.state,
            JobState::Succeeded,
            "{} {events:?}",
            detail.job.reason
        );
        let last = self.checkpoints(job).await.swap_remove(0);
        let rows = self.metrics(job, last.stage).await;
        let steps: Vec<u64> = rows.iter().map(|row| row.step).collect();
        assert!(steps.iter().copied().eq(0..last.step), "each step once: {steps:?}");
        blake3::hash(&self.state(&last).await)
    }

    /// Generations of a job that broke, with the reasons.
    pub async fn breaks(&self, job: JobId) -> Vec<String> {
        self.story(job, "generation-over").await
    }

    /// The messages of a job's events of a kind.
    pub async fn story(&self, job: JobId, kind: &str) -> Vec<String> {
        let events = self.events(job).await.into_iter();
        let of_kind = events.filter(|event| event.kind == kind);
        of_kind.map(|event| event.message).collect()
    }
}

/// The steps that ranks of an agent have committed, in order, as its log says.
pub fn steps(agent: &Service) -> Vec<u64> {
    let log = agent.log();
    let said = log.split(" committed step=").skip(1);
    said.filter_map(|rest| rest.split_whitespace().next()?.parse().ok())
        .collect()
}

/// How many steps ranks of an agent have committed, the last one included.
pub fn committed(agent: &Service) -> u64 {
    steps(agent).into_iter().max().map_or(0, |step| step + 1)
}

/// Waits until ranks of an agent have committed so many steps.
pub async fn has_committed(agent: &Service, steps: u64) {
    let what = format!("{steps} steps are committed");
    until(&what, async || (committed(agent) >= steps).then_some(())).await;
}
