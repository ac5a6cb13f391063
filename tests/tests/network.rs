//! What a network can do to a training: every job must end with the bytes of one that nothing disturbed.
//!
//! Two nodes and the coordinator are machines of their own behind a router that loses what a test says. Only root can have
//! such machines, so these tests run when they are asked for: `scripts/check.sh machines`.

use blake3::Hash;
use medley_protocol::ids::JobId;
use medley_tests::programs::{
    Api, BEFORE, Coordinator, Machine, Network, Service, Site, Training, Under, has_committed,
};

/// Steps of a training: enough that it is still in its middle when the network has been away for long.
const STEPS: u64 = 3000;

/// A job on a rank of each of two nodes.
struct Cluster {
    network: Network,
    home: Machine,
    nodes: [Machine; 2],
    agents: [Service; 2],
    coordinator: Coordinator,
    job: JobId,
    undisturbed: Hash,
    _site: Site,
}

impl Cluster {
    async fn start(mut network: Network, home: Machine, steps: u64) -> Self {
        let nodes = [network.machine(), network.machine()];
        let site = Site::new();
        let coordinator = site.coordinator("home", &format!("{}:0", home.address), None).await;
        let [a, b] = &nodes;
        let under = Under {
            machines: [Some(a), Some(b)],
            ..Under::one(&coordinator)
        };
        let Training {
            agents,
            job,
            undisturbed,
        } = Training::start(&site, &under, steps).await;
        Self {
            network,
            home,
            nodes,
            agents,
            coordinator,
            job,
            undisturbed,
            _site: site,
        }
    }

    fn api(&self) -> Api {
        self.coordinator.api()
    }

    async fn both_commit(&self, steps: u64) {
        for agent in &self.agents {
            has_committed(agent, steps).await;
        }
    }

    /// Waits until a generation broke for a reason with these words.
    async fn broke(&self, words: &str) {
        self.api().event(self.job, "generation-over", words).await;
    }

    async fn ends_with_the_same_bytes(&self) {
        assert_eq!(self.api().trained(self.job).await, self.undisturbed);
    }
}

/// Runs a test at home, as the only process of its network.
fn on_machines(steps: u64, test: impl AsyncFnOnce(Cluster)) {
    let Some(mut network) = Network::new() else { return };
    let home = network.machine();
    home.enter();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a test may have a runtime");
    runtime.block_on(async { test(Cluster::start(network, home, steps).await).await });
}

#[test]
#[ignore = "needs root: scripts/check.sh machines"]
fn a_cut_between_two_nodes_costs_time_and_no_bits() {
    on_machines(STEPS, async |cluster| {
        let [a, b] = &cluster.nodes;
        cluster.network.cut(a, b);
        cluster.broke("does not reach another").await;
        cluster.network.join(a, b);
        cluster.ends_with_the_same_bytes().await;
    });
}

#[test]
#[ignore = "needs root: scripts/check.sh machines"]
fn a_loss_in_one_direction_between_two_nodes_costs_time_and_no_bits() {
    on_machines(STEPS, async |cluster| {
        let [a, b] = &cluster.nodes;
        cluster.network.lose(a, b);
        cluster.broke("does not reach another").await;
        cluster.network.heal(a, b);
        cluster.ends_with_the_same_bytes().await;
    });
}

#[test]
#[ignore = "needs root: scripts/check.sh machines"]
fn a_node_that_cannot_reach_the_coordinator_leaves_and_returns() {
    on_machines(STEPS, async |cluster| {
        let (home, node) = (&cluster.home, &cluster.nodes[1]);
        cluster.network.cut(home, node);
        cluster.broke("node node-b has been silent").await;
        cluster.api().event(cluster.job, "stage-placed", "from memory").await;
        cluster.network.join(home, node);
        cluster.api().event(cluster.job, "stage-grows", "node-b").await;
        cluster.ends_with_the_same_bytes().await;
    });
}

#[test]
#[ignore = "needs root: scripts/check.sh machines"]
fn a_node_whose_words_are_lost_on_the_way_to_the_coordinator_leaves_and_returns() {
    on_machines(STEPS, async |cluster| {
        let (home, node) = (&cluster.home, &cluster.nodes[0]);
        cluster.network.lose(node, home);
        cluster.broke("node node-a has been silent").await;
        cluster.network.heal(node, home);
        cluster.api().event(cluster.job, "stage-grows", "node-a").await;
        cluster.ends_with_the_same_bytes().await;
    });
}

#[test]
#[ignore = "needs root: scripts/check.sh machines"]
fn a_coordinator_that_reaches_nobody_stops_nobody() {
    on_machines(STEPS, async |cluster| {
        for node in &cluster.nodes {
            cluster.network.cut(&cluster.home, node);
        }
        cluster.both_commit(BEFORE + 100).await;
        for node in &cluster.nodes {
            cluster.network.join(&cluster.home, node);
        }
        cluster.ends_with_the_same_bytes().await;
    });
}

#[test]
#[ignore = "needs root: scripts/check.sh machines"]
fn a_long_and_narrow_way_is_slow_and_no_reason_to_give_up() {
    on_machines(BEFORE + 15, async |cluster| {
        let slow = |node| cluster.network.slow(node, "50ms", "5mbit");
        if !(slow(&cluster.nodes[0]) && slow(&cluster.nodes[1])) {
            return;
        }
        cluster.ends_with_the_same_bytes().await;
        assert_eq!(cluster.api().breaks(cluster.job).await, [""; 0]);
    });
}
