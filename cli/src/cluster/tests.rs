//! Clusters of shell scripts.

use super::*;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

const COORDINATOR: &str = r#"
while [ $# -gt 0 ]; do case $1 in --state-dir) dir=$2;; --listen) listen=$2;; esac; shift; done
mkdir -p "$dir/tokens"; echo admin-token > "$dir/tokens/admin"; echo node-token > "$dir/tokens/node"
echo "asked for $listen" >&2
trap 'echo "coordinator stopped" >> "$dir/order"; exit 0' TERM
echo "listening on http://127.0.0.1:4711"
while :; do sleep 0.05; done"#;

const AGENT: &str = r#"
while [ $# -gt 0 ]; do case $1 in --token-file) token=$2;; --name) name=$2;; esac; shift; done
dir=$(dirname "$(dirname "$token")")
trap 'echo "$name stopped" >> "$dir/order"; exit 0' TERM
echo $$ > "$dir/$name.pid"; mv "$dir/$name.pid" "$dir/$name.running"
while :; do sleep 0.05; done"#;

fn script(dir: &Path, name: &str, body: &str) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn settings(dir: &Path, coordinator: &str, agent: &str) -> Settings {
    Settings {
        programs: Programs {
            coordinator: script(dir, "coordinator", coordinator),
            worker: script(dir, "worker", agent),
        },
        state_dir: make_state_dir(&dir.join("state")).unwrap(),
        nodes: 2,
        devices: Some(2),
        threads: 1,
        listen: "127.0.0.1:0".parse().unwrap(),
        restarts: Restarts::Some,
        log: None,
    }
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), future).await.unwrap()
}

/// The pid that an agent wrote, once it has.
async fn pid_of(settings: &Settings, node: &str) -> String {
    let path = settings.state_dir.join(format!("{node}.running"));
    soon(async {
        loop {
            if let Ok(pid) = std::fs::read_to_string(&path) {
                std::fs::remove_file(&path).unwrap();
                return pid.trim().to_owned();
            }
            tokio::task::yield_now().await;
        }
    })
    .await
}

#[tokio::test]
async fn a_cluster_starts_with_its_url_and_stops_agents_before_the_coordinator() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(dir.path(), COORDINATOR, AGENT);
    let (screen, _lines) = Screen::captured();
    let cluster = soon(Cluster::start(&settings, &screen)).await.unwrap();
    assert_eq!(cluster.url(), "http://127.0.0.1:4711");
    assert_eq!(cluster.dashboard().unwrap(), "http://127.0.0.1:4711/#token=admin-token");
    pid_of(&settings, "node-1").await;
    pid_of(&settings, "node-2").await;
    soon(cluster.stop()).await;
    let order = std::fs::read_to_string(settings.state_dir.join("order")).unwrap();
    assert_eq!(order.lines().count(), 3, "{order}");
    assert_eq!(order.lines().last(), Some("coordinator stopped"));
}

#[tokio::test]
async fn an_agent_that_dies_is_started_again_with_a_message() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(dir.path(), COORDINATOR, AGENT);
    let (screen, mut lines) = Screen::captured();
    let cluster = soon(Cluster::start(&settings, &screen)).await.unwrap();
    let first = pid_of(&settings, "node-2").await;
    send(first.parse().unwrap(), libc::SIGKILL);
    let message = soon(lines.recv()).await.unwrap();
    assert!(
        message.starts_with("node-2 was killed by signal 9; starting it again"),
        "{message}"
    );
    assert_ne!(pid_of(&settings, "node-2").await, first);
    soon(cluster.stop()).await;
}

#[tokio::test]
async fn a_coordinator_that_does_not_come_up_is_reported_with_the_end_of_its_log() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(dir.path(), "echo 'the port is taken' >&2; exit 4", AGENT);
    let (screen, _lines) = Screen::captured();
    let error = soon(Cluster::start(&settings, &screen))
        .await
        .err()
        .unwrap()
        .to_string();
    assert!(
        error.contains("exit code 4") && error.contains("the port is taken"),
        "{error}"
    );
}

#[tokio::test]
async fn a_second_cluster_on_the_same_state_directory_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(dir.path(), COORDINATOR, AGENT);
    let (screen, _lines) = Screen::captured();
    let first = soon(Cluster::start(&settings, &screen)).await.unwrap();
    let refusal = soon(Cluster::start(&settings, &screen))
        .await
        .err()
        .unwrap()
        .to_string();
    assert!(refusal.contains("already"), "{refusal}");
    soon(first.stop()).await;
}
