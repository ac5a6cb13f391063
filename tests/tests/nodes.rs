//! Nodes that stand still, and nodes that operators take out of service.

use blake3::Hash;
use medley_protocol::ids::JobId;
use medley_tests::programs::{Coordinator, Service, Site, Training, Under, call, committed, has_committed};

/// Steps of the training: enough that it is still in its middle when a node is back.
const STEPS: u64 = 4000;

/// A training on two nodes, each with a rank.
struct Cluster {
    coordinator: Coordinator,
    agents: [Service; 2],
    job: JobId,
    undisturbed: Hash,
    _site: Site,
}

impl Cluster {
    async fn start() -> Self {
        let site = Site::new();
        let coordinator = site.coordinator("one", "127.0.0.1:0", None).await;
        let Training {
            agents,
            job,
            undisturbed,
        } = Training::start(&site, &Under::one(&coordinator), STEPS).await;
        Self {
            coordinator,
            agents,
            job,
            undisturbed,
            _site: site,
        }
    }

    /// What `medley nodes` says when it is called with these words.
    fn nodes(&self, words: &[&str]) -> String {
        let (url, token) = (self.coordinator.url(), self.coordinator.admin_token_file());
        let connection = ["nodes", "--url", &url, "--token-file", &token];
        call("medley", &[&connection[..], words].concat()).output
    }
}

#[tokio::test]
async fn an_agent_that_stood_still_drops_its_ranks_and_joins_again() {
    let cluster = Cluster::start().await;
    let (api, job, [stays, stands]) = (cluster.coordinator.api(), cluster.job, &cluster.agents);
    stands.tell("-STOP");
    api.event(job, "generation-over", "node node-b has been silent").await;
    let alone = "generation 2 has 1 rank on node-a";
    api.event(job, "stage-placed", alone).await;
    has_committed(stays, committed(stays) + 20).await;
    stands.tell("-CONT");
    api.event(job, "stage-grows", "node-b").await;
    stands.says("goes on from memory").await;
    assert_eq!(api.trained(job).await, cluster.undisturbed);
}

#[tokio::test]
async fn a_training_leaves_a_node_that_is_drained_and_comes_back_when_it_serves() {
    let cluster = Cluster::start().await;
    let (api, job) = (cluster.coordinator.api(), cluster.job);
    let said = cluster.nodes(&["drain", "node-b", "--wait"]);
    assert_eq!(said.trim(), "node node-b is drained, with 0 of 1 devices busy");
    api.event(job, "stage-placed", "on node-a × 1, and goes on from memory")
        .await;
    let [stays, _] = &cluster.agents;
    has_committed(stays, committed(stays) + 20).await;
    assert!(cluster.nodes(&[]).contains("drained"));
    cluster.nodes(&["uncordon", "node-b"]);
    api.event(job, "stage-grows", "node-b").await;
    assert_eq!(api.trained(job).await, cluster.undisturbed);
    let breaks = api.breaks(job).await;
    assert!(
        matches!(&breaks[..], [only] if only.ends_with("node node-b is drained")),
        "{breaks:?}"
    );
}
