//! What a cluster on this machine is made of, and the command lines of its processes.

use anyhow::{Context, Result, bail};
use std::fs::DirBuilder;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Where the coordinator listens if nothing is said and the port is free.
const USUAL_ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 7700);

/// Time that ranks have to leave their stages by plan when an agent is stopped.
const AGENT_LEAVES: Duration = Duration::from_secs(10);

/// The programs of a cluster.
#[derive(Debug, Clone)]
pub(crate) struct Programs {
    /// `medley-coordinator`.
    pub(crate) coordinator: PathBuf,
    /// `medley-worker`.
    pub(crate) worker: PathBuf,
}

impl Programs {
    /// The siblings of this executable.
    ///
    /// # Errors
    /// Names the one that is missing.
    pub(crate) fn beside_this_one() -> Result<Self> {
        Ok(Self {
            coordinator: program_beside("medley-coordinator")?,
            worker: program_beside("medley-worker")?,
        })
    }
}

/// How often a process that ends is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Restarts {
    /// Until it has ended quickly several times in a row.
    Some,
    /// Whenever it ends.
    Always,
}

/// The sibling of this executable with this name.
///
/// # Errors
/// Names it when it is missing.
pub(crate) fn program_beside(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().context("cannot tell where this program lies")?;
    let path = own.with_file_name(name);
    if path.is_file() {
        return Ok(path);
    }
    bail!(
        "{} is missing: build it with `cargo build --release --workspace`",
        path.display()
    )
}

/// What is started.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// The programs.
    pub(crate) programs: Programs,
    /// Absolute path of the state directory.
    pub(crate) state_dir: PathBuf,
    /// Number of nodes.
    pub(crate) nodes: u32,
    /// Devices of each node; none for those that its agent finds, GPUs before the processor.
    pub(crate) devices: Option<u32>,
    /// Threads of each rank.
    pub(crate) threads: u32,
    /// Where the coordinator listens.
    pub(crate) listen: SocketAddr,
    /// How often a process that ends is started again.
    pub(crate) restarts: Restarts,
    /// What agents and ranks log, as their RUST_LOG says; the usual if nothing is said.
    pub(crate) log: Option<String>,
}

/// The address to listen on: the one asked for; otherwise the usual one, or a free one if that is taken.
pub(crate) fn address(asked: Option<SocketAddr>) -> SocketAddr {
    let usual_is_free = || TcpListener::bind(USUAL_ADDRESS).is_ok();
    match asked {
        Some(address) => address,
        None if usual_is_free() => USUAL_ADDRESS,
        None => SocketAddr::new(USUAL_ADDRESS.ip(), 0),
    }
}

/// Makes the state directory, for its owner alone, and returns its absolute path. The user as whom root's database server runs
/// passes through.
///
/// # Errors
/// Names it.
pub(crate) fn make_state_dir(given: &Path) -> Result<PathBuf> {
    let context = || format!("cannot make the state directory {}", given.display());
    let is_root = std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0);
    let make = |path: &Path, mode| DirBuilder::new().recursive(true).mode(mode).create(path);
    make(given, if is_root { 0o711 } else { 0o700 }).with_context(context)?;
    make(&given.join("logs"), 0o700).with_context(context)?;
    given.canonicalize().with_context(context)
}

impl Settings {
    /// The folder of the logs.
    pub(crate) fn logs(&self) -> PathBuf {
        self.state_dir.join("logs")
    }

    /// The name of a node, counted from 1.
    pub(crate) fn node_name(number: u32) -> String {
        format!("node-{number}")
    }

    /// Starts the coordinator.
    pub(crate) fn coordinator(&self, listen: SocketAddr) -> Command {
        let mut command = Command::new(&self.programs.coordinator);
        command
            .arg("serve")
            .args([Path::new("--state-dir"), &self.state_dir])
            .args(["--listen", &listen.to_string()]);
        command
    }

    /// Starts the agent of a node.
    pub(crate) fn agent(&self, name: &str, url: &str) -> Command {
        let mut command = Command::new(&self.programs.worker);
        command
            .arg("agent")
            .args(["--coordinator", url, "--name", name])
            .args([Path::new("--token-file"), &self.state_dir.join("tokens/node")])
            .args([
                "--devices",
                &self
                    .devices
                    .map_or_else(|| "auto".into(), |devices| devices.to_string()),
                "--threads",
                &self.threads.to_string(),
            ])
            .args([Path::new("--log-dir"), &self.logs().join(name)])
            .args(["--grace", &AGENT_LEAVES.as_secs().to_string()])
            .envs(self.log.iter().map(|log| ("RUST_LOG", log)));
        command
    }
}
