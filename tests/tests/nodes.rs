//! Nodes that stand still, nodes that operators take out of service, and nodes whose agents are told to end.

use blake3::Hash;
use medley_protocol::ids::JobId;
use medley_tests::programs::{
    Agent, Api, Coordinator, Service, Site, Training, Under, call, committed, has_committed, steps,
};
use std::time::{Duration, Instant};

/// Steps of a training that nodes come back to: enough that it is still in its middle then.
const STEPS: u64 = 4000;
/// Time for an agent to end that does not wait for its ranks.
const AT_ONCE: Duration = Duration::from_secs(15);

/// A training on two nodes, each with a rank.
struct Cluster {
    coordinator: Coordinator,
    agents: [Service; 2],
    job: JobId,
    undisturbed: Hash,
    steps: u64,
    site: Site,
}

impl Cluster {
    async fn start(steps: u64) -> Self {
        let site = Site::new();
        let coordinator = site.coordinator("one", "127.0.0.1:0", None).await;
        let Training {
            agents,
            job,
            undisturbed,
        } = Training::start(&site, &Under::one(&coordinator), steps).await;
        Self {
            coordinator,
            agents,
            job,
            undisturbed,
            steps,
            site,
        }
    }

    fn api(&self) -> Api {
        self.coordinator.api()
    }

    /// What `medley nodes` says when it is called with these words.
    fn nodes(&self, words: &[&str]) -> String {
        let (url, token) = (self.coordinator.url(), self.coordinator.admin_token_file());
        let connection = ["nodes", "--url", &url, "--token-file", &token];
        call("medley", &[&connection[..], words].concat()).output
    }

    /// Starts a node's agent again; its log goes on.
    fn start_again(&mut self, node: usize) {
        self.agents[node] = self.site.agent(&Agent {
            name: ["node-a", "node-b"][node],
            coordinators: &self.coordinator.url(),
            token_of: &self.coordinator,
            devices: 1,
            machine: None,
        });
    }

    /// Waits for the end of the training: its bytes are right, no generation broke, and no rank has computed anything twice.
    async fn ends_undisturbed(&self) {
        assert_eq!(self.api().trained(self.job).await, self.undisturbed);
        assert_eq!(self.api().breaks(self.job).await, [""; 0]);
        let mut all = Vec::new();
        for agent in &self.agents {
            assert!(!agent.log().contains("the generation is over"), "a rank lost its peers");
            let own = steps(agent);
            assert!(own.is_sorted_by(|one, next| one < next), "no step twice: {own:?}");
            all.extend(own);
        }
        all.sort_unstable();
        all.dedup();
        assert!(all.into_iter().eq(0..self.steps), "every step");
    }
}

#[tokio::test]
async fn an_agent_that_stood_still_drops_its_ranks_and_joins_again() {
    let cluster = Cluster::start(STEPS).await;
    let (api, job, [stays, stands]) = (cluster.api(), cluster.job, &cluster.agents);
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
    let cluster = Cluster::start(STEPS).await;
    let (api, job) = (cluster.api(), cluster.job);
    let said = cluster.nodes(&["drain", "node-b", "--wait"]);
    assert_eq!(said.trim(), "node node-b is drained, with 0 of 1 devices busy");
    let shrinks = "shrinks from 2 to 1 ranks, because node node-b is drained";
    api.event(job, "stage-shrinks", shrinks).await;
    let [stays, _] = &cluster.agents;
    has_committed(stays, committed(stays) + 20).await;
    assert!(cluster.nodes(&[]).contains("drained"));
    cluster.nodes(&["uncordon", "node-b"]);
    api.event(job, "stage-grows", "node-b").await;
    cluster.ends_undisturbed().await;
}

#[tokio::test]
async fn a_node_that_is_told_to_end_leaves_between_two_steps_and_joins_again() {
    let mut cluster = Cluster::start(STEPS).await;
    let (api, job) = (cluster.api(), cluster.job);
    cluster.agents[1].tell("-TERM");
    let ended = cluster.agents[1].ended().await;
    assert!(ended.success(), "{ended}");
    let left = "have left, because the agent of node node-b ends";
    api.event(job, "stage-left", left).await;
    cluster.start_again(1);
    api.event(job, "stage-grows", "node-b").await;
    cluster.ends_undisturbed().await;
}

#[tokio::test]
async fn a_training_moves_to_another_node_from_memory_when_its_own_is_told_to_end() {
    let site = Site::new();
    let coordinator = site.coordinator("one", "127.0.0.1:0", None).await;
    let agent = |name| {
        site.agent(&Agent {
            name,
            coordinators: &coordinator.url(),
            token_of: &coordinator,
            devices: 2,
            machine: None,
        })
    };
    let training = site.training(STEPS / 2, Some(2));
    let undisturbed = site.undisturbed(&training);
    let mut first = agent("node-a");
    let api = coordinator.api();
    api.nodes_heard(1).await;
    let job = api.submit(&training).await;
    has_committed(&first, 20).await;
    let second = agent("node-b");
    api.nodes_heard(2).await;
    first.tell("-TERM");
    let ended = first.ended().await;
    assert!(ended.success(), "{ended}");
    // One rank stays until another one was fed.
    api.event(job, "stage-moves", "on node-a × 1, node-b × 1").await;
    api.event(job, "stage-moves", "on node-b × 2").await;
    assert_eq!(api.trained(job).await, undisturbed);
    assert_eq!(api.breaks(job).await, [""; 0]);
    for agent in [&first, &second] {
        assert!(!agent.log().contains("the generation is over"), "a rank lost its peers");
    }
    assert!(!second.log().contains("trains from step"), "its ranks were fed");
}

#[tokio::test]
async fn a_training_whose_nodes_all_end_pauses_at_a_step_and_goes_on_from_it() {
    let mut cluster = Cluster::start(1000).await;
    cluster.agents.iter().for_each(|agent| agent.tell("-TERM"));
    for agent in &mut cluster.agents {
        let ended = agent.ended().await;
        assert!(ended.success(), "{ended}");
    }
    let step = cluster.agents.iter().map(committed).max().unwrap_or(0);
    assert!(
        step < cluster.steps,
        "the training was over too soon: it has to be longer"
    );
    let paused = format!("paused at step {step}: the agent of node ");
    cluster.api().event(cluster.job, "stage-paused", &paused).await;
    (0..2).for_each(|node| cluster.start_again(node));
    cluster.agents[0].says(&format!("trains from step {step}")).await;
    cluster.ends_undisturbed().await;
}

#[tokio::test]
async fn an_agent_that_is_told_to_end_twice_does_not_wait_for_a_coordinator_that_is_away() {
    let mut cluster = Cluster::start(1000).await;
    let coordinator = &cluster.coordinator.service;
    coordinator.tell("-STOP");
    let [stays, ends] = &mut cluster.agents;
    ends.tell("-TERM");
    has_committed(ends, committed(ends) + 20).await;
    ends.tell("-TERM");
    let told_at = Instant::now();
    let ended = ends.ended().await;
    assert!(ended.success(), "{ended}");
    assert!(told_at.elapsed() < AT_ONCE, "it took {:?}", told_at.elapsed());
    coordinator.tell("-CONT");
    has_committed(stays, committed(stays) + 20).await;
    assert_eq!(cluster.api().trained(cluster.job).await, cluster.undisturbed);
}
