//! Jobs that failed and are retried.

use super::cluster::Cluster;
use super::damage::steps;
use crate::tokens::Role;
use medley_protocol::agent::RankState;
use medley_protocol::ids::{JobId, LeaseToken, TaskId};
use medley_protocol::rest::{JobView, TaskGivenUp};
use medley_protocol::stage::{JobState, StageState};
use serde_json::json;
use std::time::Duration;

async fn retry(cluster: &Cluster, job: JobId) -> JobView {
    let path = format!("/jobs/{job}/retry");
    cluster.api.post(Role::Submitter, &path, &json!({})).await.read()
}

async fn retries(cluster: &Cluster, job: JobId) -> Vec<String> {
    let events = cluster.events(job).await.into_iter();
    let retries = events.filter(|event| event.kind == "job-retried");
    retries.map(|event| event.message).collect()
}

/// A job that failed in the midst of its training, at step 10 or later.
async fn failed(cluster: &mut Cluster) -> JobId {
    let mut document = cluster.document("pretrain");
    document["checkpoint"] = json!({"every_steps": 5, "keep": 1});
    let job = cluster.submit(&document).await;
    let trains = |done: u64, state| state == StageState::Running && done >= 10;
    cluster
        .until(job, |detail| trains(detail.stages[1].done, detail.stages[1].state))
        .await;
    let reason = "a shard is away".into();
    *cluster.nodes[0].ranks.values_mut().next().unwrap() = RankState::Failed { reason, retry: false };
    let detail = cluster.finish(job).await;
    assert_eq!(detail.job.state, JobState::Failed, "{}", detail.job.reason);
    job
}

#[tokio::test]
async fn a_failed_training_goes_on_from_its_last_checkpoint() {
    let mut cluster = Cluster::with_nodes(&[2]).await;
    let job = failed(&mut cluster).await;
    let kept = steps(&cluster, job, "").await;
    while let Some(ripe) = cluster.store.ripe_objects(Duration::ZERO).await.unwrap() {
        let keys = ripe.keys.clone();
        ripe.settle(&keys).await.unwrap();
    }
    assert_eq!(steps(&cluster, job, "").await, kept);
    let view = retry(&cluster, job).await;
    assert_eq!(
        (view.state, view.reason.as_str(), view.finished_at),
        (JobState::Running, "", None)
    );
    let states: Vec<StageState> = cluster.job(job).await.stages.iter().map(|stage| stage.state).collect();
    assert_eq!(states, [StageState::Done, StageState::Blocked, StageState::Blocked]);
    // The agent still says that the rank has failed.
    let detail = cluster.until(job, |detail| detail.stages[1].generation == 2).await;
    assert_eq!(detail.job.state, JobState::Running);
    cluster.nodes[0].beat().await;
    let resume = cluster.nodes[0].orders.assignments[0].inputs.resume.clone();
    assert_eq!(resume.map(|manifest| manifest.step), kept.first().copied());
    let detail = cluster.finish(job).await;
    assert_eq!(detail.job.state, JobState::Succeeded, "{}", detail.job.reason);
    assert_eq!((detail.stages[0].generation, detail.stages[1].done), (1, 20));
    assert_eq!(retries(&cluster, job).await, ["retried by submitter"]);
}

#[tokio::test]
async fn only_what_failed_is_retried_and_that_once() {
    let mut cluster = Cluster::with_nodes(&[2]).await;
    let job = failed(&mut cluster).await;
    let path = format!("/jobs/{job}/retry");
    assert_eq!(
        cluster.api.post(Role::Viewer, &path, &json!({})).await.status.as_u16(),
        403
    );
    assert_eq!(retry(&cluster, job).await.state, JobState::Running);
    assert_eq!(retry(&cluster, job).await.state, JobState::Running);
    assert_eq!(retries(&cluster, job).await.len(), 1);
    cluster.finish(job).await;
    let refused = cluster.api.post(Role::Submitter, &path, &json!({})).await;
    assert_eq!(refused.refusal(), (409, "conflict"));
    let other = cluster.submit(&cluster.document("pretrain")).await;
    let of = |what: &str| format!("/jobs/{other}/{what}");
    let cancelled = cluster.api.post(Role::Submitter, &of("cancel"), &json!({})).await;
    assert!(cancelled.status.is_success());
    let refused = cluster.api.post(Role::Submitter, &of("retry"), &json!({})).await;
    assert_eq!(refused.refusal(), (409, "conflict"));
    assert!(
        refused.body["detail"]
            .as_str()
            .unwrap()
            .contains("only a job that failed"),
        "{}",
        refused.body
    );
}

/// A task cannot be done at all.
async fn give_up(cluster: &Cluster, task: TaskId, token: LeaseToken) {
    let given_up = TaskGivenUp {
        token,
        reason: "there is no such shard".into(),
        retry: false,
    };
    let path = format!("/tasks/{task}/fail");
    assert!(cluster.api.post(Role::Node, &path, &given_up).await.status.is_success());
}

#[tokio::test]
async fn a_task_that_failed_is_tried_anew() {
    let mut cluster = Cluster::with_nodes(&[1]).await;
    let job = cluster.submit(&cluster.document("pretrain")).await;
    cluster.round().await;
    cluster.nodes[0].beat().await;
    let stage = cluster.job(job).await.stages[0].id;
    let lease = cluster.nodes[0].lease(stage, 1, 0).await.unwrap();
    give_up(&cluster, lease.task, lease.token).await;
    assert_eq!(cluster.finish(job).await.job.state, JobState::Failed);
    retry(&cluster, job).await;
    let detail = cluster.finish(job).await;
    assert_eq!(detail.job.state, JobState::Succeeded, "{}", detail.job.reason);
    assert_eq!(detail.stages[0].generation, 2);
}

#[tokio::test]
async fn shards_are_indexed_again_if_their_indexes_could_not_be_merged() {
    let mut cluster = Cluster::with_nodes(&[1]).await;
    let job = cluster.submit(&cluster.document("pretrain")).await;
    let indexed = |done: u64, total: Option<u64>| done > 0 && Some(done + 1) == total;
    let detail = cluster
        .until(job, |detail| indexed(detail.stages[0].done, detail.stages[0].total))
        .await;
    cluster.decide().await;
    let merge = cluster.nodes[0].lease(detail.stages[0].id, 1, 0).await.unwrap();
    give_up(&cluster, merge.task, merge.token).await;
    assert_eq!(cluster.finish(job).await.job.state, JobState::Failed);
    retry(&cluster, job).await;
    let index = cluster.stage(job, "index-0").await;
    assert_eq!((index.done, index.total), (0, detail.stages[0].total));
    let detail = cluster.finish(job).await;
    assert_eq!(detail.job.state, JobState::Succeeded, "{}", detail.job.reason);
}
