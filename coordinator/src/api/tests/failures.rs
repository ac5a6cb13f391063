//! Nodes that fall silent, agents that start anew, ranks that fail.

use super::cluster::Cluster;
use super::node::Node;
use crate::tokens::Role;
use medley_protocol::agent::RankState;
use medley_protocol::rest::JobDetail;
use medley_protocol::stage::{JobState, StageState};

fn trains(detail: &JobDetail, steps: u64) -> bool {
    detail.stages[1].state == StageState::Running && detail.stages[1].done >= steps
}

#[tokio::test]
async fn a_silent_node_ends_the_generation_and_the_next_resumes_from_the_last_checkpoint() {
    let mut cluster = Cluster::with_nodes(&[2, 2]).await;
    let job = cluster.submit(&cluster.document("pretrain")).await;
    cluster.until(job, |detail| trains(detail, 5)).await;
    cluster.nodes[1].is_alive = false;
    // The survivor's ranks would wait for their peers.
    for state in cluster.nodes[0].ranks.values_mut() {
        *state = RankState::Listening {
            address: "x".into(),
            committed: None,
        };
    }
    let detail = cluster.until(job, |detail| detail.stages[1].generation == 2).await;
    assert_eq!(detail.stages[1].world, 2);
    cluster.nodes[0].beat().await;
    let assignment = cluster.nodes[0].orders.assignments[0].clone();
    assert_eq!(assignment.generation, 2);
    assert!(assignment.inputs.resume.is_some_and(|manifest| manifest.step >= 5));
    let detail = cluster.finish(job).await;
    assert_eq!(detail.job.state, JobState::Succeeded, "{}", detail.job.reason);
    let events = cluster.events(job).await;
    let over = events.iter().find(|event| event.kind == "generation-over").unwrap();
    assert!(over.message.contains("node n1 has been silent for"), "{}", over.message);
    assert!(events.iter().any(|event| event.kind == "node-lost"));
}

#[tokio::test]
async fn an_agent_that_started_anew_gets_no_orders_of_its_former_life() {
    let mut cluster = Cluster::with_nodes(&[1, 1]).await;
    let job = cluster.submit(&cluster.document("pretrain")).await;
    cluster.until(job, |detail| trains(detail, 5)).await;
    let mut anew = Node::register(cluster.api.clone(), "n1", 1).await;
    anew.beat().await;
    assert_eq!(anew.orders.assignments, []);
    let old = cluster.nodes[1].beat_body();
    assert_eq!(
        cluster.api.post(Role::Node, "/agent/beat", &old).await.refusal(),
        (409, "stale")
    );
    cluster.nodes[1] = anew;
    let detail = cluster.finish(job).await;
    assert_eq!(detail.job.state, JobState::Succeeded);
    assert_eq!((detail.stages[1].generation, detail.stages[1].done), (2, 20));
}

#[tokio::test]
async fn a_rank_that_fails_is_tried_again_and_one_that_cannot_succeed_fails_the_job() {
    let mut cluster = Cluster::with_nodes(&[2]).await;
    let job = cluster.submit(&cluster.document("pretrain")).await;
    cluster.until(job, |detail| trains(detail, 5)).await;
    let failed = |reason: &str, retry| RankState::Failed {
        reason: reason.into(),
        retry,
    };
    *cluster.nodes[0].ranks.values_mut().next().unwrap() = failed("lost rank 1: reset", true);
    cluster
        .until(job, |detail| detail.stages[1].generation == 2 && trains(detail, 5))
        .await;
    *cluster.nodes[0].ranks.values_mut().next().unwrap() = failed("the loss is not finite", false);
    let detail = cluster.finish(job).await;
    assert_eq!(detail.job.state, JobState::Failed);
    assert!(
        detail.job.reason.contains("pretrain-0") && detail.job.reason.contains("not finite"),
        "{}",
        detail.job.reason
    );
    assert_eq!(detail.stages[2].state, StageState::Cancelled);
    cluster.round().await;
    cluster.nodes[0].beat().await;
    assert_eq!(cluster.nodes[0].orders.assignments, []);
}

#[tokio::test]
async fn a_rank_that_its_agent_no_longer_reports_is_lost() {
    let mut cluster = Cluster::with_nodes(&[2]).await;
    let job = cluster.submit(&cluster.document("pretrain")).await;
    cluster.until(job, |detail| trains(detail, 5)).await;
    cluster.nodes[0].ranks.pop_first();
    cluster.until(job, |detail| detail.stages[1].generation == 2).await;
    let events = cluster.events(job).await;
    assert!(
        events
            .iter()
            .any(|event| event.message.contains("no longer reports it")),
        "{events:#?}"
    );
}

#[tokio::test]
async fn a_task_is_given_up_after_three_attempts() {
    let mut cluster = Cluster::with_nodes(&[1]).await;
    let job = cluster.submit(&cluster.document("pretrain")).await;
    cluster.round().await;
    cluster.nodes[0].beat().await;
    let stage = cluster.job(job).await.stages[0].id;
    for _ in 0..3 {
        let lease = cluster.nodes[0].lease(stage, 1, 0).await.unwrap();
        let given_up = medley_protocol::rest::TaskGivenUp {
            token: lease.token,
            reason: "the disk is away".into(),
            retry: true,
        };
        let path = format!("/tasks/{}/fail", lease.task);
        assert!(cluster.api.post(Role::Node, &path, &given_up).await.status.is_success());
        assert_eq!(
            cluster.api.post(Role::Node, &path, &given_up).await.refusal(),
            (409, "stale")
        );
    }
    let detail = cluster.finish(job).await;
    assert_eq!(detail.job.state, JobState::Failed);
    assert!(
        detail
            .job
            .reason
            .contains("indexing human/000000.tar: the disk is away"),
        "{}",
        detail.job.reason
    );
}

#[tokio::test]
async fn leased_tasks_of_a_lost_node_are_done_by_another() {
    let mut cluster = Cluster::with_nodes(&[1, 1]).await;
    let job = cluster.submit(&cluster.document("pretrain")).await;
    cluster.round().await;
    let stage = cluster.job(job).await.stages[0].id;
    cluster.nodes[1].beat().await;
    let rank = cluster.nodes[1].orders.assignments[0].ranks[0];
    assert!(cluster.nodes[1].lease(stage, 1, rank).await.is_some());
    cluster.nodes[1].is_alive = false;
    let detail = cluster.finish(job).await;
    assert_eq!(detail.job.state, JobState::Succeeded, "{}", detail.job.reason);
    assert_eq!(detail.stages[0].generation, 2);
}

#[tokio::test]
async fn a_cancelled_job_vanishes_from_the_orders() {
    let mut cluster = Cluster::with_nodes(&[2]).await;
    let job = cluster.submit(&cluster.document("pretrain")).await;
    cluster.until(job, |detail| trains(detail, 5)).await;
    let path = format!("/jobs/{job}/cancel");
    let cancelled = cluster.api.call(Role::Submitter, "POST", &path, None, None).await;
    assert_eq!(cancelled.body["state"], "cancelled");
    cluster.round().await;
    cluster.nodes[0].beat().await;
    assert_eq!(cluster.nodes[0].orders.assignments, []);
    let again = cluster.api.call(Role::Submitter, "POST", &path, None, None).await;
    assert_eq!((again.status.as_u16(), &again.body), (200, &cancelled.body));
    let cancellations = cluster.events(job).await.into_iter();
    assert_eq!(cancellations.filter(|event| event.kind == "job-cancelled").count(), 1);
    let done = cluster.submit(&cluster.document("pretrain")).await;
    cluster.finish(done).await;
    let path = format!("/jobs/{done}/cancel");
    let too_late = cluster.api.call(Role::Submitter, "POST", &path, None, None).await;
    assert_eq!(too_late.refusal(), (409, "conflict"));
}

#[tokio::test]
async fn another_coordinator_takes_over_without_disturbing_a_generation() {
    let mut cluster = Cluster::with_nodes(&[2, 2]).await;
    let job = cluster.submit(&cluster.document("pretrain")).await;
    cluster.until(job, |detail| trains(detail, 5)).await;
    let before = cluster.nodes[0].orders.clone();
    cluster.replace_coordinator().await;
    let early = cluster
        .api
        .post(Role::Node, "/agent/beat", &cluster.nodes[0].beat_body())
        .await;
    assert_eq!(early.refusal(), (503, "unavailable"), "it does not lead yet");
    cluster.decide().await;
    cluster.round().await;
    cluster.nodes[0].beat().await;
    assert!(cluster.nodes[0].orders.revision > before.revision);
    assert_eq!(cluster.nodes[0].orders.assignments, before.assignments);
    let detail = cluster.finish(job).await;
    assert_eq!(
        (detail.job.state, detail.stages[1].generation),
        (JobState::Succeeded, 1)
    );
}
