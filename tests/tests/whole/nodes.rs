//! Nodes that stand still, nodes that operators take out of service, and nodes whose agents are told to end.

use medley_tests::programs::{
    Agent, Api, Coordinator, ENDLESS, Site, Training, Under, call, committed, has_committed, steps, until,
};
use std::time::{Duration, Instant};

/// Time for an agent to end that does not wait for its ranks.
const AT_ONCE: Duration = Duration::from_secs(15);

/// A training on two nodes, each with a rank.
struct Cluster {
    coordinator: Coordinator,
    training: Training,
    site: Site,
}

impl Cluster {
    async fn start() -> Self {
        let site = Site::new();
        let coordinator = site.coordinator("one", "127.0.0.1:0", None).await;
        let training = Training::start(&site, &Under::one(&coordinator), ENDLESS).await;
        Self {
            coordinator,
            training,
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
        self.training.agents[node] = self.site.agent(&Agent {
            name: ["node-a", "node-b"][node],
            coordinators: &self.coordinator.url(),
            token_of: &self.coordinator,
            devices: 1,
            machine: None,
        });
    }

    /// Ends the training once both nodes take part: no generation broke, no rank has computed anything twice, and its bytes are
    /// right.
    async fn ends_undisturbed(&self) {
        self.training.all_go_on(20).await;
        let mut all = Vec::new();
        for agent in &self.training.agents {
            assert!(!agent.log().contains("the generation is over"), "a rank lost its peers");
            let own = steps(agent);
            assert!(own.is_sorted_by(|one, next| one < next), "no step twice: {own:?}");
            all.extend(own);
        }
        all.sort_unstable();
        all.dedup();
        assert!(all.iter().copied().eq(0..all.len() as u64), "every step: {all:?}");
        self.training.is_undisturbed(&self.site, &self.api()).await;
        assert_eq!(self.api().breaks(self.training.job).await, [""; 0]);
    }
}

#[tokio::test]
async fn an_agent_that_stood_still_drops_its_ranks_and_joins_again() {
    let cluster = Cluster::start().await;
    let (api, training) = (cluster.api(), &cluster.training);
    let (job, [stays, stands]) = (training.job, &training.agents);
    stands.tell("-STOP");
    api.event(job, "generation-over", "node node-b has been silent").await;
    let alone = "generation 2 has 1 rank on node-a";
    api.event(job, "stage-placed", alone).await;
    has_committed(stays, committed(stays) + 20).await;
    stands.tell("-CONT");
    api.event(job, "stage-grows", "node-b").await;
    stands.says("goes on from memory").await;
    training.all_go_on(20).await;
    training.is_undisturbed(&cluster.site, &api).await;
}

#[tokio::test]
async fn a_training_leaves_a_node_that_is_drained_and_comes_back_when_it_serves() {
    let cluster = Cluster::start().await;
    let (api, job) = (cluster.api(), cluster.training.job);
    let said = cluster.nodes(&["drain", "node-b", "--wait"]);
    assert_eq!(said.trim(), "node node-b is drained, with 0 of 1 devices busy");
    let shrinks = "shrinks from 2 to 1 ranks, because node node-b is drained";
    api.event(job, "stage-shrinks", shrinks).await;
    let [stays, _] = &cluster.training.agents;
    has_committed(stays, committed(stays) + 20).await;
    assert!(cluster.nodes(&[]).contains("drained"));
    cluster.nodes(&["uncordon", "node-b"]);
    api.event(job, "stage-grows", "node-b").await;
    cluster.ends_undisturbed().await;
}

#[tokio::test]
async fn a_node_that_is_told_to_end_leaves_between_two_steps_and_joins_again() {
    let mut cluster = Cluster::start().await;
    let (api, job) = (cluster.api(), cluster.training.job);
    cluster.training.agents[1].tell("-TERM");
    let ended = cluster.training.agents[1].ended().await;
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
    let training = site.training(ENDLESS, Some(2));
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
    has_committed(&second, committed(&first) + 20).await;
    for agent in [&first, &second] {
        assert!(!agent.log().contains("the generation is over"), "a rank lost its peers");
    }
    let (steps, state) = api.stopped(job).await;
    assert_eq!(state, site.undisturbed_after(steps, &training));
    assert_eq!(api.breaks(job).await, [""; 0]);
    assert!(!second.log().contains("trains from step"), "its ranks were fed");
}

#[tokio::test]
async fn a_training_whose_nodes_all_end_pauses_at_a_step_and_goes_on_from_it() {
    let mut cluster = Cluster::start().await;
    let agents = &mut cluster.training.agents;
    agents.iter().for_each(|agent| agent.tell("-TERM"));
    for agent in &mut *agents {
        let ended = agent.ended().await;
        assert!(ended.success(), "{ended}");
    }
    let step = agents.iter().map(committed).max().unwrap_or(0);
    let paused = format!("paused at step {step}: the agent of node ");
    cluster.api().event(cluster.training.job, "stage-paused", &paused).await;
    (0..2).for_each(|node| cluster.start_again(node));
    // Whichever is back first takes the stage up, and the other one joins.
    let loaded = format!("trains from step {step}");
    until("the checkpoint is loaded", async || {
        let mut agents = cluster.training.agents.iter();
        agents.any(|agent| agent.log().contains(&loaded)).then_some(())
    })
    .await;
    cluster.ends_undisturbed().await;
}

#[tokio::test]
async fn an_agent_that_is_told_to_end_twice_does_not_wait_for_a_coordinator_that_is_away() {
    let mut cluster = Cluster::start().await;
    let coordinator = &cluster.coordinator.service;
    coordinator.tell("-STOP");
    let [stays, ends] = &mut cluster.training.agents;
    ends.tell("-TERM");
    has_committed(ends, committed(ends) + 20).await;
    ends.tell("-TERM");
    let told_at = Instant::now();
    let ended = ends.ended().await;
    assert!(ended.success(), "{ended}");
    assert!(told_at.elapsed() < AT_ONCE, "it took {:?}", told_at.elapsed());
    coordinator.tell("-CONT");
    has_committed(stays, committed(stays) + 20).await;
    cluster.training.is_undisturbed(&cluster.site, &cluster.api()).await;
}
