//! `medley up`: a cluster on this machine until Ctrl-C.

use crate::Ending;
use crate::cluster::{Cluster, Programs, Restarts, Settings, address, make_state_dir};
use crate::connect::DEFAULT_STATE_DIR;
use crate::console::{Screen, print, print_json};
use crate::signals::Signals;
use anyhow::{Result, anyhow, bail};
use medley_protocol::client::Client;
use medley_protocol::rest::NodeView;
use serde_json::json;
use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Longest wait for the nodes before a warning.
const NODES_PATIENCE: Duration = Duration::from_secs(30);
const NODES_LOOK: Duration = Duration::from_millis(200);

const MORE: &str = "\
Everything that lasts lies in the state directory: jobs and metrics (a private PostgreSQL), checkpoints and datasets,
tokens, logs. Started again there, unfinished jobs go on from their last checkpoint by themselves. Processes that die
are started again. Further nodes on other machines: `medley-worker agent --help`.";

/// Arguments of `medley up`.
#[derive(Debug, clap::Args)]
#[command(after_help = MORE)]
pub(crate) struct Args {
    /// Where everything that lasts is kept.
    #[arg(long, env = "MEDLEY_STATE_DIR", default_value = DEFAULT_STATE_DIR)]
    state_dir: PathBuf,
    /// Number of nodes.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(0..=64))]
    nodes: u32,
    /// Devices of each node: ranks that it runs at once on the processor; or `auto`, with --nodes 1: the GPUs of this machine.
    #[arg(long, value_name = "N|auto", default_value = "2")]
    devices: Devices,
    /// Threads of each rank.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    threads: u32,
    /// Address of the coordinator [default: 127.0.0.1:7700, or a free port if that is taken].
    #[arg(long, env = "MEDLEY_LISTEN")]
    listen: Option<SocketAddr>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Devices {
    Auto,
    Processor(u32),
}

impl std::str::FromStr for Devices {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            _ if text == "auto" => Ok(Self::Auto),
            Ok(devices @ 1..=16) => Ok(Self::Processor(devices)),
            _ => Err("use auto, or a number from 1 to 16".into()),
        }
    }
}

impl Devices {
    /// As agents are told: none for what they find.
    fn on_each_of(self, nodes: u32) -> Result<Option<u32>> {
        match self {
            Self::Processor(devices) => Ok(Some(devices)),
            Self::Auto if nodes <= 1 => Ok(None),
            Self::Auto => bail!("--devices auto: {nodes} nodes would take the same GPUs; add --nodes 1"),
        }
    }
}

/// Runs the command.
///
/// # Errors
/// When the cluster does not start, or a process of it cannot be kept alive.
pub(crate) async fn run(args: Args, json: bool) -> Result<Ending> {
    let mut signals = Signals::listen()?;
    let screen = Screen::stderr();
    let settings = Settings {
        programs: Programs::beside_this_one()?,
        state_dir: make_state_dir(&args.state_dir)?,
        nodes: args.nodes,
        devices: args.devices.on_each_of(args.nodes)?,
        threads: args.threads,
        listen: address(args.listen),
        restarts: Restarts::Some,
        log: None,
    };
    screen.line(&format!("starting a cluster in {}", settings.state_dir.display()));
    let started = tokio::select! {
        started = Cluster::start(&settings, &screen) => started?,
        () = signals.next() => return Ok(Ending::Interrupted),
    };
    let result = serve(started, &settings, &args.state_dir, &screen, &mut signals, json).await;
    result.map(|()| Ending::Success)
}

async fn serve(
    mut cluster: Cluster,
    settings: &Settings,
    given: &Path,
    screen: &Screen,
    signals: &mut Signals,
    json: bool,
) -> Result<()> {
    announce(&cluster, settings, given, json)?;
    let client = cluster.client()?;
    let failure = tokio::select! {
        failure = async {
            await_nodes(&client, settings, screen).await;
            cluster.failure().await
        } => Some(failure),
        () = signals.next() => None,
    };
    screen.line("stopping: agents first, then the coordinator");
    stop(cluster, screen, signals).await;
    failure.map_or(Ok(()), |why| Err(anyhow!(why)))
}

/// Stops in order; a second signal kills what is left.
pub(crate) async fn stop(cluster: Cluster, screen: &Screen, signals: &mut Signals) {
    tokio::select! {
        () = cluster.stop() => screen.line("stopped"),
        () = signals.next() => screen.line("killed"),
    }
}

fn announce(cluster: &Cluster, settings: &Settings, given: &Path, json: bool) -> Result<()> {
    let logs = settings.logs();
    if json {
        return print_json(&json!({
            "url": cluster.url(),
            "token_file": cluster.admin_token_file(),
            "state_dir": settings.state_dir,
            "logs": logs,
            "nodes": settings.nodes,
            "devices": settings.devices,
        }));
    }
    let flag = if given == Path::new(DEFAULT_STATE_DIR) {
        String::new()
    } else {
        format!(" --state-dir {}", given.display())
    };
    let dashboard = cluster.dashboard(std::io::stdout().is_terminal())?;
    print(&format!(
        "\n  dashboard   {dashboard}\n  logs        {}\n  submit      medley submit SPEC.toml --watch{flag}\n  \
         jobs        medley jobs{flag}\n  stop        Ctrl-C\n",
        logs.display()
    ))
}

/// Waits until all nodes have registered; says so either way.
pub(crate) async fn await_nodes(client: &Client, settings: &Settings, screen: &Screen) {
    let deadline = Instant::now() + NODES_PATIENCE;
    loop {
        let nodes: Vec<NodeView> = client.get("/nodes").await.unwrap_or_default();
        let alive: Vec<&NodeView> = nodes.iter().filter(|node| node.alive).collect();
        let devices: u32 = alive.iter().map(|node| node.devices).sum();
        if alive.len() >= settings.nodes as usize {
            screen.line(&format!("{} nodes with {devices} devices are ready", alive.len()));
            return;
        }
        if Instant::now() > deadline {
            screen.line(&format!(
                "only {} of {} nodes have registered; see the logs in {}",
                alive.len(),
                settings.nodes,
                settings.logs().display()
            ));
            return;
        }
        tokio::time::sleep(NODES_LOOK).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_node_takes_the_gpus_of_a_machine() {
        let told = |text: &str, nodes| text.parse::<Devices>().unwrap().on_each_of(nodes);
        assert_eq!((told("auto", 1).unwrap(), told("3", 2).unwrap()), (None, Some(3)));
        assert!(told("auto", 2).unwrap_err().to_string().contains("--nodes 1"));
        for wrong in ["0", "17", "all"] {
            assert!(wrong.parse::<Devices>().unwrap_err().contains("1 to 16"), "{wrong}");
        }
    }
}
