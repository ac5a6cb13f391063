//! Which checkpoints are kept, and what becomes of the objects of the others.

use super::cluster::Cluster;
use super::damage::{damage, steps};
use medley_protocol::ids::JobId;
use medley_protocol::stage::JobState;
use serde_json::json;
use std::collections::BTreeSet;
use std::time::Duration;

/// A job that keeps checkpoints so; they are taken every five steps up to 20.
async fn submit(cluster: &Cluster, checkpoint: serde_json::Value) -> JobId {
    let mut document = cluster.document("pretrain");
    document["checkpoint"] = checkpoint;
    cluster.submit(&document).await
}

/// All that may go.
async fn sweep(cluster: &Cluster) -> BTreeSet<String> {
    let mut gone = BTreeSet::new();
    while let Some(ripe) = cluster.store.ripe_objects(Duration::ZERO).await.unwrap() {
        let keys = ripe.keys.clone();
        assert!(ripe.settle(&keys).await.unwrap() > 0);
        gone.extend(keys);
    }
    gone
}

fn keys(steps: &[u64]) -> BTreeSet<String> {
    let of_rank = |step: u64, rank| ["part", "tensors"].map(|kind| format!("objects/{step}-{kind}-{rank}-of-2"));
    let of_step = |step: &u64| [0, 1].map(|rank| of_rank(*step, rank)).concat();
    steps.iter().flat_map(of_step).collect()
}

#[tokio::test]
async fn the_last_the_best_and_those_at_multiples_are_kept() {
    let mut cluster = Cluster::with_nodes(&[2]).await;
    let multiples = submit(&cluster, json!({"every_steps": 5, "keep": 1, "keep_every_steps": 10})).await;
    assert_eq!(cluster.finish(multiples).await.job.state, JobState::Succeeded);
    assert_eq!(steps(&cluster, multiples, "").await, [20, 10]);
    // The played loss grows with the step.
    let best = submit(&cluster, json!({"every_steps": 5, "keep": 1, "keep_best": 2})).await;
    assert_eq!(cluster.finish(best).await.job.state, JobState::Succeeded);
    assert_eq!(steps(&cluster, best, "").await, [20, 10, 5]);
}

#[tokio::test]
async fn objects_of_dropped_checkpoints_go_once_and_those_of_kept_ones_stay() {
    let mut cluster = Cluster::with_nodes(&[2]).await;
    let job = submit(&cluster, json!({"every_steps": 5, "keep": 2})).await;
    cluster.finish(job).await;
    assert_eq!(steps(&cluster, job, "").await, [20, 15]);
    let in_grace = cluster.store.ripe_objects(Duration::from_hours(1)).await.unwrap();
    assert!(in_grace.is_none(), "{in_grace:?}");
    let ripe = cluster.store.ripe_objects(Duration::ZERO).await.unwrap().unwrap();
    ripe.settle(&[]).await.unwrap();
    assert_eq!(
        sweep(&cluster).await,
        keys(&[5, 10]),
        "the store did not delete them at first"
    );
    assert_eq!(sweep(&cluster).await, BTreeSet::new());
}

#[tokio::test]
async fn an_object_stays_while_its_step_may_be_trained_again_and_when_it_was() {
    let mut cluster = Cluster::with_nodes(&[2]).await;
    let job = submit(&cluster, json!({"every_steps": 5, "keep": 1})).await;
    cluster.until(job, |detail| detail.stages[1].done >= 10).await;
    assert_eq!(
        steps(&cluster, job, "").await,
        [10, 5],
        "the oldest is the first that will be proven"
    );
    damage(&mut cluster, job).await;
    cluster.until(job, |detail| detail.stages[1].generation == 3).await;
    assert_eq!(
        sweep(&cluster).await,
        BTreeSet::new(),
        "ranks may find it in place any moment"
    );
    cluster.finish(job).await;
    assert_eq!(steps(&cluster, job, "").await, [20]);
    assert_eq!(sweep(&cluster).await, keys(&[5, 10, 15]));
}

#[tokio::test]
async fn a_key_that_another_checkpoint_names_too_is_not_deleted() {
    let mut cluster = Cluster::with_nodes(&[2]).await;
    let few = submit(&cluster, json!({"every_steps": 5, "keep": 1})).await;
    cluster.finish(few).await;
    // Played stages name their objects alike.
    let all = submit(&cluster, json!({"every_steps": 5, "keep": 4})).await;
    cluster.finish(all).await;
    assert_eq!(steps(&cluster, all, "").await, [20, 15, 10, 5]);
    assert_eq!(sweep(&cluster).await, BTreeSet::new());
}
