//! A coordinator and its nodes on this machine, as child processes.
//!
//! Processes are children with a process group of their own that die with this one ([`process`]); those that end
//! unexpectedly are started again ([`mod@keep`], [`backoff`]). A [`lock`] makes it one cluster per state directory. Everything
//! that lasts lies in the state directory: the next start goes on with the same jobs.

mod backoff;
mod keep;
mod lock;
mod logs;
mod process;
mod settings;
#[cfg(test)]
mod tests;

pub(crate) use process::{end_with_parent, send};
pub(crate) use settings::{Programs, Restarts, Settings, address, make_state_dir, program_beside};

use crate::connect::line_of;
use crate::console::Screen;
use anyhow::{Result, anyhow, bail};
use keep::{Member, keep};
use lock::Lock;
use medley_protocol::client::Client;
use process::{Output, Process};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

/// Longest wait for the coordinator to listen; its first start makes a database.
const READY_PATIENCE: Duration = Duration::from_mins(1);
/// What the coordinator prints when it serves, before its URL.
const READY_LINE: &str = "listening on ";
/// Time that an agent has to leave by plan, and then to stop its ranks.
const AGENT_GRACE: Duration = Duration::from_secs(15);
/// Time that the coordinator has to close its database.
const COORDINATOR_GRACE: Duration = Duration::from_secs(20);

/// A running cluster. Dropping it kills its processes; [`Cluster::stop`] stops them in order.
pub(crate) struct Cluster {
    url: String,
    state_dir: PathBuf,
    failures: mpsc::Receiver<String>,
    agents: Kept,
    coordinator: Kept,
    _lock: Lock,
}

/// Kept processes that are stopped together.
struct Kept {
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
    failures: mpsc::Sender<String>,
    screen: Screen,
}

impl Kept {
    fn new(failures: &mpsc::Sender<String>, screen: &Screen) -> Self {
        Self {
            stop: watch::Sender::new(false),
            tasks: Vec::new(),
            failures: failures.clone(),
            screen: screen.clone(),
        }
    }

    fn keep(&mut self, member: Member, process: Process) {
        let (stop, screen, failures) = (self.stop.subscribe(), self.screen.clone(), self.failures.clone());
        self.tasks.push(tokio::spawn(async move {
            if let Err(reason) = keep(member, process, stop, screen).await {
                // Only the first reason is waited for.
                let _ = failures.try_send(reason);
            }
        }));
    }

    /// Each task ends by its member's own deadlines.
    async fn stop(&mut self) {
        self.stop.send_replace(true);
        for task in self.tasks.drain(..) {
            // A task that panicked has dropped, and so killed, its process.
            let _ = task.await;
        }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Cluster {
    /// Starts the coordinator, waits until it serves, and starts the agents.
    ///
    /// # Errors
    /// When a cluster runs there already, or a program cannot be started; with the end of its log when the coordinator does
    /// not come up.
    pub(crate) async fn start(settings: &Settings, screen: &Screen) -> Result<Self> {
        let lock = Lock::take(&settings.state_dir)?;
        let (failure_sender, failures) = mpsc::channel(1);
        let (mut coordinator, mut agents) = (Kept::new(&failure_sender, screen), Kept::new(&failure_sender, screen));
        let (process, address) = start_coordinator(settings).await?;
        let url = format!("http://{address}");
        // From now on at the address it got, which the agents know.
        coordinator.keep(coordinator_member(settings, address), process);
        for number in 1..=settings.nodes {
            let name = Settings::node_name(number);
            std::fs::create_dir_all(settings.logs().join(&name))?;
            let member = agent_member(settings, &name, &url);
            let process = member.start(Output::Log)?;
            agents.keep(member, process);
        }
        Ok(Self {
            url,
            state_dir: settings.state_dir.clone(),
            failures,
            agents,
            coordinator,
            _lock: lock,
        })
    }

    /// The coordinator's URL.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// A client with the admin token.
    ///
    /// # Errors
    /// When the token cannot be read.
    pub(crate) fn client(&self) -> Result<Client> {
        Ok(Client::new(&self.url, &self.admin_token()?))
    }

    /// How the dashboard is opened. On the owner's terminal it takes a click: the admin token is in the address's fragment, which
    /// browsers do not send. What is written elsewhere may be kept and read by others, so there it is only said where the token is.
    ///
    /// # Errors
    /// When the token cannot be read.
    pub(crate) fn dashboard(&self, on_terminal: bool) -> Result<String> {
        if on_terminal {
            return Ok(format!("{}/#token={}", self.url, self.admin_token()?));
        }
        let file = self.admin_token_file();
        Ok(format!("{}, with the token in {}", self.url, file.display()))
    }

    /// The file with the admin token.
    pub(crate) fn admin_token_file(&self) -> PathBuf {
        self.state_dir.join("tokens/admin")
    }

    fn admin_token(&self) -> Result<String> {
        line_of(&self.admin_token_file())
    }

    /// Waits until a process cannot be kept alive; says why. May be called again after being cancelled.
    pub(crate) async fn failure(&mut self) -> String {
        self.failures.recv().await.unwrap_or_default()
    }

    /// Stops the agents, then the coordinator.
    pub(crate) async fn stop(mut self) {
        self.agents.stop().await;
        self.coordinator.stop().await;
    }
}

fn coordinator_member(settings: &Settings, listen: SocketAddr) -> Member {
    let settings = settings.clone();
    Member {
        name: "coordinator".into(),
        log: logs::path(&settings.logs(), "coordinator"),
        grace: COORDINATOR_GRACE,
        restarts: settings.restarts,
        command: Box::new(move || settings.coordinator(listen)),
    }
}

fn agent_member(settings: &Settings, name: &str, url: &str) -> Member {
    let (settings, name, url) = (settings.clone(), name.to_owned(), url.to_owned());
    Member {
        log: logs::path(&settings.logs(), &name),
        name: name.clone(),
        grace: AGENT_GRACE,
        restarts: settings.restarts,
        command: Box::new(move || settings.agent(&name, &url)),
    }
}

/// Starts the coordinator and waits until it serves.
async fn start_coordinator(settings: &Settings) -> Result<(Process, SocketAddr)> {
    let member = coordinator_member(settings, settings.listen);
    let mut process = member.start(Output::Lines)?;
    let ready = tokio::time::timeout(READY_PATIENCE, ready_line(&mut process)).await;
    match ready {
        Ok(Ok(address)) => Ok((process, address)),
        Ok(Err(how)) => bail!("the coordinator {how} before it served; {}", member.end_of_log()),
        Err(_) => bail!(
            "the coordinator does not serve within {} s; {}",
            READY_PATIENCE.as_secs(),
            member.end_of_log()
        ),
    }
}

/// The address in the ready line, or how the process ended without one.
async fn ready_line(process: &mut Process) -> Result<SocketAddr, String> {
    while let Some(line) = process.line().await {
        if let Some(url) = line.strip_prefix(READY_LINE) {
            return address_of(url).map_err(|error| format!("says {error}"));
        }
    }
    Err(process.ended().await)
}

fn address_of(url: &str) -> Result<SocketAddr> {
    let address = url.trim().trim_end_matches('/').strip_prefix("http://");
    address
        .and_then(|address| address.parse().ok())
        .ok_or_else(|| anyhow!("that it listens on {url:?}, which is not http://ADDRESS:PORT"))
}
