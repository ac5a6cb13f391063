//! A `medley` command that runs a cluster.

use super::{Api, program, tree};
use medley_protocol::checkpoint::TensorHash;
use medley_protocol::client::Client;
use medley_protocol::ids::{JobId, StageId};
use medley_protocol::metrics::StepMetrics;
use medley_protocol::rest::{CheckpointView, EventView, JobDetail, NodeView};
use serde::de::DeserializeOwned;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

/// Longest wait for anything that a test waits for.
const PATIENCE: Duration = Duration::from_mins(2);
/// Time between looks over REST.
const LOOK: Duration = Duration::from_millis(25);
/// How much of each log a failed test shows, in bytes.
const SHOWN: usize = 3000;

/// A running command with its cluster. Dropping it kills all processes.
#[derive(Debug)]
pub struct Running {
    child: Child,
    state_dir: PathBuf,
}

impl Running {
    /// Starts `medley` with these arguments and a state directory; its output goes to the folder of the logs.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(arguments: &[&str], state_dir: &Path) -> Self {
        Self::start_in(arguments, state_dir, &[])
    }

    fn start_in(arguments: &[&str], state_dir: &Path, environment: &[(String, String)]) -> Self {
        for needed in ["medley-coordinator", "medley-worker"] {
            program(needed);
        }
        let logs = state_dir.join("logs");
        fs::create_dir_all(&logs).expect("a test may make folders");
        // What an earlier life has left must not be taken for this one's.
        let _ = fs::remove_file(url_file(state_dir));
        let log = File::options().create(true).append(true).open(logs.join("medley.log"));
        let log = log.expect("a log can be opened");
        let child = Command::new(program("medley"))
            .args(arguments)
            .args(["--listen", "127.0.0.1:0", "--state-dir"])
            .arg(state_dir)
            .env_remove("DATABASE_URL")
            // What nothing needs is deleted at once: a test that needs it finds out.
            .env("MEDLEY_OBJECT_GRACE_S", "0")
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdout(log.try_clone().expect("a log can be shared"))
            .stderr(log)
            .spawn()
            .expect("medley can be started");
        Self {
            child,
            state_dir: state_dir.to_owned(),
        }
    }

    /// Starts `medley up` and waits until all nodes are heard.
    pub async fn up(state_dir: &Path, nodes: usize, devices: u32) -> Self {
        Self::up_in(state_dir, nodes, devices, &[]).await
    }

    /// The same, with more in the environment of its processes.
    pub async fn up_in(state_dir: &Path, nodes: usize, devices: u32, environment: &[(String, String)]) -> Self {
        let (count, devices) = (nodes.to_string(), devices.to_string());
        let arguments = ["up", "--nodes", &count, "--devices", &devices];
        let mut running = Self::start_in(&arguments, state_dir, environment);
        let all = async |running: &Self| {
            let found: Vec<NodeView> = running.client()?.get("/nodes").await.ok()?;
            (found.iter().filter(|node| node.alive).count() == nodes).then_some(())
        };
        running.until("all nodes are heard", all).await;
        running
    }

    /// Looks until there is something to be seen.
    ///
    /// # Panics
    /// When that takes too long, or the command ends before.
    pub async fn until<T>(&mut self, what: &str, look: impl AsyncFn(&Self) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(seen) = look(self).await {
                return seen;
            }
            if let Ok(Some(status)) = self.child.try_wait() {
                panic!("medley ended with {status} before this came true: {what}");
            }
            assert!(Instant::now() < deadline, "not within {} s: {what}", PATIENCE.as_secs());
            tokio::time::sleep(LOOK).await;
        }
    }

    /// A client with the admin token, once the coordinator serves.
    pub fn client(&self) -> Option<Client> {
        self.client_of("admin")
    }

    /// A client with the token of this name, once the coordinator serves.
    pub fn client_of(&self, token: &str) -> Option<Client> {
        let line = |path: PathBuf| fs::read_to_string(path).ok().filter(|text| text.ends_with('\n'));
        let (url, token) = (
            line(url_file(&self.state_dir))?,
            line(self.state_dir.join("tokens").join(token))?,
        );
        Some(Client::new(url.trim(), token.trim()))
    }

    fn api(&self) -> Api {
        Api(self.client().expect("the coordinator serves"))
    }

    /// The answer to a GET.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> T {
        self.api().get(path).await
    }

    /// Submits a job.
    pub async fn submit(&self, document: &serde_json::Value) -> JobId {
        self.api().submit(document).await
    }

    /// Waits until a job is over.
    pub async fn finished(&mut self, job: JobId) -> JobDetail {
        let is_over = async |running: &Self| {
            let job: JobDetail = running.client()?.get(&format!("/jobs/{job}")).await.ok()?;
            job.job.state.is_final().then_some(job)
        };
        self.until("the job is over", is_over).await
    }

    /// The checkpoints of a job, newest first.
    pub async fn checkpoints(&self, job: JobId) -> Vec<CheckpointView> {
        self.api().checkpoints(job).await
    }

    /// What happened to a job.
    pub async fn events(&self, job: JobId) -> Vec<EventView> {
        self.api().events(job).await
    }

    /// All metrics of a stage.
    pub async fn metrics(&self, job: JobId, stage: StageId) -> Vec<StepMetrics> {
        self.api().metrics(job, stage).await
    }

    /// The tensors of the state that a checkpoint holds.
    pub async fn tensors(&self, checkpoint: &CheckpointView) -> Vec<TensorHash> {
        self.api().tensors(checkpoint).await
    }

    /// The whole state that a checkpoint holds.
    pub async fn state(&self, checkpoint: &CheckpointView) -> Vec<u8> {
        self.api().state(checkpoint).await
    }

    /// What ranks have logged, in all lives of the cluster.
    pub fn rank_logs(&self) -> String {
        let folders = entries(&self.state_dir.join("logs")).filter(|path| path.is_dir());
        let logs = folders.flat_map(|folder| entries(&folder).collect::<Vec<_>>());
        logs.map(|log| fs::read_to_string(log).unwrap_or_default()).collect()
    }

    /// The processes of the ranks: workers that a worker has started.
    pub fn ranks(&self) -> Vec<tree::Process> {
        let family = tree::family(self.child.id());
        let is_worker = |process: &&tree::Process| process.name.starts_with("medley-worker");
        let workers: Vec<u32> = family.iter().filter(is_worker).map(|worker| worker.pid).collect();
        let of_worker = |process: &tree::Process| is_worker(&process) && workers.contains(&process.parent);
        family.into_iter().filter(of_worker).collect()
    }

    /// Kills the command and every process below it. Returns them.
    pub fn kill(mut self) -> Vec<tree::Process> {
        self.end()
    }

    /// Asks the command to stop, as Ctrl-C does, and waits for its end.
    pub async fn interrupt(mut self) -> ExitStatus {
        tree::tell(self.child.id(), "-INT");
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Ok(Some(status)) = self.child.try_wait() {
                return status;
            }
            assert!(Instant::now() < deadline, "medley does not stop");
            tokio::time::sleep(LOOK).await;
        }
    }

    fn end(&mut self) -> Vec<tree::Process> {
        if !matches!(self.child.try_wait(), Ok(None)) {
            return Vec::new();
        }
        let killed = tree::kill(self.child.id());
        // It is dead already.
        let _ = self.child.wait();
        killed
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
        if std::thread::panicking() {
            show_logs(&self.state_dir.join("logs"));
        }
    }
}

fn url_file(state_dir: &Path) -> PathBuf {
    state_dir.join("coordinator.url")
}

fn entries(dir: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
}

fn show_logs(dir: &Path) {
    for path in entries(dir) {
        let bytes = fs::read(&path).unwrap_or_default();
        let end = String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(SHOWN)..]).into_owned();
        if !end.is_empty() {
            eprintln!("--- the end of {}\n{end}", path.display());
        }
    }
}
