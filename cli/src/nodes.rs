//! `medley nodes`: the cluster.

use crate::Ending;
use crate::connect::{Connection, explain};
use crate::console::{Align, Table, ago, print, print_json};
use anyhow::Result;
use chrono::{DateTime, Utc};
use medley_protocol::rest::NodeView;

/// Arguments of `medley nodes`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    connection: Connection,
}

/// Runs the command.
///
/// # Errors
/// When the coordinator does not answer or refuses.
pub(crate) async fn run(args: Args, json: bool) -> Result<Ending> {
    let nodes: Vec<NodeView> = args.connection.client()?.get("/nodes").await.map_err(explain)?;
    if json {
        print_json(&nodes)?;
    } else if nodes.is_empty() {
        print("no node has registered: start one with `medley-worker agent`, or a cluster with `medley up`")?;
    } else {
        print(&table(&nodes, Utc::now()).plain())?;
    }
    Ok(Ending::Success)
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
            if node.alive { "alive" } else { "lost" }.into(),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::moment;
    use medley_protocol::ids::NodeId;

    #[test]
    fn a_lost_node_is_named_as_such() {
        let node = NodeView {
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
        };
        let text = table(&[node], moment(65)).plain();
        assert!(text.lines().nth(1).unwrap().starts_with("node-1  lost"), "{text}");
        assert!(text.contains("1m 05s ago"));
    }
}
