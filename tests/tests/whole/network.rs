//! What a network can do to a training: every job must have the bytes of one that nothing disturbed.
//!
//! Two nodes and the coordinator are machines of their own behind a router that loses what a test says. Only root can have
//! such machines, so these tests run when they are asked for: `scripts/check.sh machines`.

use medley_tests::programs::{
    Api, BEFORE, Coordinator, ENDLESS, Machine, Network, Site, Training, Under, committed, has_committed,
};
use std::time::{Duration, Instant};

/// Steps of one side alone: time enough for the coordinator to let the other one in again, if it were to be so wrong.
const ALONE: u64 = 500;
/// Longest time without a step after two nodes were cut off from each other.
const MOST_PAUSE: Duration = Duration::from_secs(20);

/// A job on two nodes.
struct Cluster {
    network: Network,
    home: Machine,
    nodes: [Machine; 2],
    coordinator: Coordinator,
    training: Training,
    site: Site,
}

impl Cluster {
    async fn start(mut network: Network, home: Machine, steps: u64, devices: u32) -> Self {
        let nodes = [network.machine(), network.machine()];
        let site = Site::new();
        let coordinator = site.coordinator("home", &format!("{}:0", home.address), None).await;
        let [a, b] = &nodes;
        let under = Under {
            machines: [Some(a), Some(b)],
            devices,
            ..Under::one(&coordinator)
        };
        let training = Training::start(&site, &under, steps).await;
        Self {
            network,
            home,
            nodes,
            coordinator,
            training,
            site,
        }
    }

    fn api(&self) -> Api {
        self.coordinator.api()
    }

    /// Waits until a generation broke for a reason with these words.
    async fn broke(&self, words: &str) {
        self.api().event(self.training.job, "generation-over", words).await;
    }

    /// Waits until the first node goes on without the second, which it cannot reach.
    async fn one_side_goes_on(&self) {
        let cut_at = Instant::now();
        self.broke("nodes node-a and node-b cannot reach each other").await;
        let placed = "2 ranks on node-a × 2, and goes on from memory";
        self.api().event(self.training.job, "stage-placed", placed).await;
        self.first_goes_on(5).await;
        let paused = cut_at.elapsed();
        eprintln!("steps again {:.1} s after the cut", paused.as_secs_f64());
        assert!(paused < MOST_PAUSE, "steps again only after {paused:?}");
    }

    /// Waits until the first node has committed so many steps more.
    async fn first_goes_on(&self, steps: u64) {
        let first = &self.training.agents[0];
        has_committed(first, committed(first) + steps).await;
    }

    /// The first node goes on without the second for long, which is not let in again.
    async fn stays_one_sided(&self, why: &str) {
        self.first_goes_on(ALONE).await;
        self.training.is_undisturbed(&self.site, &self.api()).await;
        let grows = self.api().story(self.training.job, "stage-grows").await;
        assert_eq!(grows, [""; 0], "{why}");
    }

    /// Both nodes take part again.
    async fn is_whole_and_undisturbed(&self) {
        self.training.all_go_on(20).await;
        self.training.is_undisturbed(&self.site, &self.api()).await;
    }
}

/// Runs a test at home, as the only process of its network.
fn on_machines(steps: u64, test: impl AsyncFnOnce(Cluster)) {
    on_machines_of(1, steps, test);
}

/// Runs a test at home, with so many ranks on each node.
fn on_machines_of(devices: u32, steps: u64, test: impl AsyncFnOnce(Cluster)) {
    let Some(mut network) = Network::new() else { return };
    let home = network.machine();
    home.enter();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a test may have a runtime");
    runtime.block_on(async { test(Cluster::start(network, home, steps, devices).await).await });
}

#[test]
#[ignore = "needs root: scripts/check.sh machines"]
fn a_cut_between_two_nodes_costs_time_and_no_bits() {
    on_machines(ENDLESS, async |cluster| {
        let [a, b] = &cluster.nodes;
        cluster.network.cut(a, b);
        cluster.broke("does not reach another").await;
        cluster.network.join(a, b);
        cluster.is_whole_and_undisturbed().await;
    });
}

#[test]
#[ignore = "needs root: scripts/check.sh machines"]
fn a_loss_in_one_direction_between_two_nodes_costs_time_and_no_bits() {
    on_machines(ENDLESS, async |cluster| {
        let [a, b] = &cluster.nodes;
        cluster.network.lose(a, b);
        cluster.broke("does not reach another").await;
        cluster.network.heal(a, b);
        cluster.is_whole_and_undisturbed().await;
    });
}

#[test]
#[ignore = "needs root: scripts/check.sh machines"]
fn a_cut_that_never_heals_leaves_the_job_to_one_side() {
    on_machines_of(2, ENDLESS, async |cluster| {
        let [a, b] = &cluster.nodes;
        cluster.network.cut(a, b);
        cluster.one_side_goes_on().await;
        cluster.stays_one_sided("the cut is still there").await;
    });
}

#[test]
#[ignore = "needs root: scripts/check.sh machines"]
fn a_loss_in_one_direction_that_never_ends_leaves_the_job_to_one_side() {
    on_machines_of(2, ENDLESS, async |cluster| {
        let [a, b] = &cluster.nodes;
        cluster.network.lose(a, b);
        cluster.one_side_goes_on().await;
        cluster.stays_one_sided("the loss is still there").await;
    });
}

#[test]
#[ignore = "needs root: scripts/check.sh machines"]
fn a_node_that_was_cut_off_returns_by_itself_when_the_cut_heals() {
    on_machines_of(2, ENDLESS, async |cluster| {
        let [a, b] = &cluster.nodes;
        cluster.network.cut(a, b);
        cluster.one_side_goes_on().await;
        cluster.first_goes_on(100).await;
        cluster.network.join(a, b);
        cluster
            .api()
            .event(cluster.training.job, "stage-grows", "node-b × 2")
            .await;
        cluster.is_whole_and_undisturbed().await;
        let breaks = cluster.api().breaks(cluster.training.job).await;
        assert_eq!(breaks.len(), 2, "the cut, and that it lasts: {breaks:?}");
    });
}

#[test]
#[ignore = "needs root: scripts/check.sh machines"]
fn a_node_that_cannot_reach_the_coordinator_leaves_and_returns() {
    on_machines(ENDLESS, async |cluster| {
        let (home, node) = (&cluster.home, &cluster.nodes[1]);
        cluster.network.cut(home, node);
        cluster.broke("node node-b has been silent").await;
        cluster
            .api()
            .event(cluster.training.job, "stage-placed", "from memory")
            .await;
        cluster.network.join(home, node);
        cluster.api().event(cluster.training.job, "stage-grows", "node-b").await;
        cluster.is_whole_and_undisturbed().await;
    });
}

#[test]
#[ignore = "needs root: scripts/check.sh machines"]
fn a_node_whose_words_are_lost_on_the_way_to_the_coordinator_leaves_and_returns() {
    on_machines(ENDLESS, async |cluster| {
        let (home, node) = (&cluster.home, &cluster.nodes[0]);
        cluster.network.lose(node, home);
        cluster.broke("node node-a has been silent").await;
        cluster.network.heal(node, home);
        cluster.api().event(cluster.training.job, "stage-grows", "node-a").await;
        cluster.is_whole_and_undisturbed().await;
    });
}

#[test]
#[ignore = "needs root: scripts/check.sh machines"]
fn a_coordinator_that_reaches_nobody_stops_nobody() {
    on_machines(ENDLESS, async |cluster| {
        for node in &cluster.nodes {
            cluster.network.cut(&cluster.home, node);
        }
        cluster.training.all_go_on(100).await;
        for node in &cluster.nodes {
            cluster.network.join(&cluster.home, node);
        }
        cluster.is_whole_and_undisturbed().await;
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
        cluster
            .training
            .succeeds_undisturbed(&cluster.site, &cluster.api())
            .await;
        assert_eq!(cluster.api().breaks(cluster.training.job).await, [""; 0]);
    });
}
