//! `medley nodes`: the cluster, and which of its nodes take work.

use crate::Ending;
use crate::connect::{Connection, explain};
use crate::console::{Align, Table, ago, bytes, print, print_json};
use anyhow::{Result, bail};
use chrono::{DateTime, Utc};
use medley_protocol::client::Client;
use medley_protocol::rest::{Duty, DutyChange, NodeView};
use std::time::{Duration, Instant};

/// Time between looks with `--wait`.
const LOOK: Duration = Duration::from_millis(250);
/// Longest wait beyond the deadline of a drain, or without one.
const PATIENCE: Duration = Duration::from_mins(10);

/// Arguments of `medley nodes`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List the nodes (also without a subcommand).
    List,
    /// Let a node keep what it has and take nothing new.
    Cordon {
        /// Name of the node.
        node: String,
    },
    /// Let a node take work again.
    Uncordon {
        /// Name of the node.
        node: String,
    },
    /// Let other nodes take what a node has, and nothing new come to it.
    Drain {
        /// Name of the node.
        node: String,
        /// Give up within so many seconds even what no other node can take; otherwise it waits until one can.
        #[arg(long, value_name = "SECONDS")]
        deadline: Option<u32>,
        /// Wait until the node has nothing left.
        #[arg(long)]
        wait: bool,
    },
}

/// Runs the command.
///
/// # Errors
/// When the coordinator does not answer or refuses, or a node that is waited for is not drained in time.
pub(crate) async fn run(args: Args, json: bool) -> Result<Ending> {
    let client = args.connection.client()?;
    let change = |duty, deadline_s| DutyChange { duty, deadline_s };
    match args.command.unwrap_or(Command::List) {
        Command::List => list(&client, json).await?,
        Command::Cordon { node } => tell(&assign(&client, &node, change(Duty::Cordoned, None)).await?, json)?,
        Command::Uncordon { node } => tell(&assign(&client, &node, change(Duty::Serving, None)).await?, json)?,
        Command::Drain { node, deadline, wait } => {
            let mut view = assign(&client, &node, change(Duty::Draining, deadline)).await?;
            if wait {
                view = drained(&client, view, deadline).await?;
            }
            tell(&view, json)?;
        }
    }
    Ok(Ending::Success)
}

async fn list(client: &Client, json: bool) -> Result<()> {
    let nodes: Vec<NodeView> = client.get("/nodes").await.map_err(explain)?;
    if json {
        print_json(&nodes)
    } else if nodes.is_empty() {
        print("no node has registered: start one with `medley-worker agent`, or a cluster with `medley up`")
    } else {
        let mut page = table(&nodes, Utc::now()).plain();
        if let Some(gpus) = gpus(&nodes) {
            page.push('\n');
            page.push_str(&gpus.plain());
        }
        print(&page)
    }
}

async fn assign(client: &Client, node: &str, change: DutyChange) -> Result<NodeView> {
    client
        .post(&format!("/nodes/{node}/duty"), &change)
        .await
        .map_err(explain)
}

/// Waits until a node that is drained has nothing left.
async fn drained(client: &Client, mut view: NodeView, deadline: Option<u32>) -> Result<NodeView> {
    let patience = Duration::from_secs(deadline.map_or(0, u64::from)) + PATIENCE;
    let end = Instant::now() + patience;
    while view.busy > 0 {
        if Instant::now() > end {
            bail!(
                "node {} still has {} ranks after {} s: no other node can take them; see `medley jobs`",
                view.name,
                view.busy,
                patience.as_secs()
            );
        }
        tokio::time::sleep(LOOK).await;
        let nodes: Vec<NodeView> = client.get("/nodes").await.map_err(explain)?;
        view = nodes.into_iter().find(|node| node.id == view.id).unwrap_or(view);
        if view.duty != Duty::Draining {
            bail!(
                "node {} is not drained any more: somebody else has made it {}",
                view.name,
                state(&view)
            );
        }
    }
    Ok(view)
}

fn tell(node: &NodeView, json: bool) -> Result<()> {
    if json {
        return print_json(node);
    }
    print(&format!(
        "node {} is {}, with {} of {} devices busy",
        node.name,
        state(node),
        node.busy,
        node.devices
    ))
}

/// What a node is there for, in a word.
fn state(node: &NodeView) -> &'static str {
    match node.duty {
        _ if !node.alive => "lost",
        Duty::Serving => "alive",
        Duty::Cordoned => "cordoned",
        Duty::Draining if node.busy > 0 => "draining",
        Duty::Draining => "drained",
    }
}

fn table(nodes: &[NodeView], now: DateTime<Utc>) -> Table {
    use Align::{Left, Right};
    let mut table = Table::new(&[
        ("name", Left),
        ("state", Left),
        ("host", Left),
        ("busy", Right),
        ("devices", Right),
        ("threads", Right),
        ("registered", Left),
        ("fingerprint", Left),
    ]);
    for node in nodes {
        table.row([
            node.name.clone(),
            state(node).into(),
            node.host.clone(),
            node.busy.to_string(),
            node.devices.to_string(),
            node.threads.to_string(),
            ago(node.registered_at, now),
            node.fingerprint.clone(),
        ]);
    }
    table
}

/// The GPUs of all nodes, if there are any.
fn gpus(nodes: &[NodeView]) -> Option<Table> {
    use Align::{Left, Right};
    let mut table = Table::new(&[
        ("node", Left),
        ("gpu", Right),
        ("model", Left),
        ("memory", Right),
        ("used", Right),
        ("busy", Right),
        ("°C", Right),
        ("ecc errors", Right),
        ("last xid", Right),
        ("uuid", Left),
    ]);
    let mut any = false;
    for node in nodes {
        for (number, gpu) in node.hardware.gpus.iter().enumerate() {
            any = true;
            table.row([
                node.name.clone(),
                number.to_string(),
                gpu.name.clone(),
                bytes(gpu.memory_bytes),
                told(gpu.used_bytes.map(bytes)),
                told(gpu.utilisation_percent.map(|share| format!("{share} %"))),
                told(gpu.celsius),
                told(gpu.uncorrected_errors),
                told(gpu.last_xid),
                gpu.uuid.clone(),
            ]);
        }
    }
    any.then_some(table)
}

/// What a driver tells, or a dash.
fn told(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "–".into(), |value| value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::moment;
    use medley_protocol::hardware::{Gpu, Hardware};
    use medley_protocol::ids::NodeId;

    fn node() -> NodeView {
        NodeView {
            id: NodeId::generate(),
            name: "node-1".into(),
            host: "127.0.0.1".into(),
            alive: false,
            devices: 2,
            busy: 0,
            threads: 1,
            fingerprint: "x86-64-v3".into(),
            stragglers: Vec::new(),
            registered_at: moment(0),
            duty: Duty::Serving,
            hardware: Hardware::default(),
        }
    }

    #[test]
    fn a_lost_node_is_named_as_such() {
        let text = table(&[node()], moment(65)).plain();
        assert!(text.lines().nth(1).unwrap().starts_with("node-1  lost"), "{text}");
        assert!(text.contains("1m 05s ago"));
    }

    #[test]
    fn gpus_are_listed_with_what_their_drivers_tell() {
        assert!(gpus(&[node()]).is_none());
        let mut with_gpus = node();
        with_gpus.hardware.gpus = vec![
            Gpu {
                uuid: "GPU-1".into(),
                name: "NVIDIA H200".into(),
                memory_bytes: 141 << 30,
                used_bytes: Some(20 << 30),
                utilisation_percent: Some(97),
                celsius: Some(61),
                uncorrected_errors: Some(0),
                last_xid: Some(79),
            },
            Gpu {
                uuid: "GPU-2".into(),
                name: "NVIDIA H200".into(),
                memory_bytes: 141 << 30,
                ..Gpu::default()
            },
        ];
        let text = gpus(&[node(), with_gpus]).unwrap().plain();
        let cells: Vec<Vec<&str>> = text
            .lines()
            .skip(1)
            .map(|line| line.split_whitespace().collect())
            .collect();
        let first = [
            "node-1", "0", "NVIDIA", "H200", "141", "GiB", "20", "GiB", "97", "%", "61", "0", "79", "GPU-1",
        ];
        assert_eq!(cells[0], first, "{text}");
        assert_eq!(cells[1][6..], ["–", "–", "–", "–", "–", "GPU-2"], "{text}");
    }

    #[test]
    fn a_node_is_drained_once_it_has_nothing_left() {
        let draining = NodeView {
            alive: true,
            busy: 1,
            duty: Duty::Draining,
            ..node()
        };
        assert_eq!(state(&draining), "draining");
        assert_eq!(state(&NodeView { busy: 0, ..draining }), "drained");
    }
}
