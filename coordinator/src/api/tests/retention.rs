//! Which checkpoints are kept, and what becomes of the objects of the others.

use super::cluster::{Answer, Cluster};
use super::damage::{damage, steps};
use super::node::{object, own};
use crate::tokens::Role;
use medley_protocol::checkpoint::{CheckpointPart, folder};
use medley_protocol::ids::{JobId, StageId};
use medley_protocol::rest::{CheckpointView, PartHandedIn};
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

/// The pre-training of a job.
async fn stage(cluster: &Cluster, job: JobId) -> StageId {
    cluster.stage(job, "pretrain-0").await.id
}

fn keys(stage: StageId, steps: &[u64]) -> BTreeSet<String> {
    let folder = folder(stage);
    let of_rank = |step: u64, rank| ["part", "tensors"].map(|kind| format!("{folder}{step}-{kind}-{rank}-of-2"));
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
        keys(stage(&cluster, job).await, &[5, 10]),
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
    assert_eq!(sweep(&cluster).await, keys(stage(&cluster, job).await, &[5, 10, 15]));
}

#[tokio::test]
async fn a_key_that_a_kept_checkpoint_names_too_is_not_deleted() {
    let mut cluster = Cluster::with_nodes(&[2]).await;
    let job = submit(&cluster, json!({"every_steps": 5, "keep": 2})).await;
    cluster.finish(job).await;
    sweep(&cluster).await;
    let kept: Vec<CheckpointView> = cluster.api.get(&format!("/jobs/{job}/checkpoints")).await.read();
    // An earlier checkpoint of an object that a later one has: it is dropped as soon as it is whole.
    let part = CheckpointPart {
        step: 1,
        parts: 1,
        state_bytes: kept[0].parts[0].object.size_bytes,
        ..kept[0].parts[0].clone()
    };
    assert_eq!(hand_in(&cluster, kept[0].stage, part).await.status.as_u16(), 204);
    assert_eq!(steps(&cluster, job, "").await, [20, 15]);
    assert_eq!(sweep(&cluster).await, BTreeSet::new());
}

#[tokio::test]
async fn what_is_not_in_a_stages_own_folder_is_neither_taken_as_a_part_nor_deleted() {
    let mut cluster = Cluster::with_nodes(&[2]).await;
    let job = submit(&cluster, json!({"every_steps": 5, "keep": 2})).await;
    cluster.finish(job).await;
    sweep(&cluster).await;
    let stage = stage(&cluster, job).await;
    let foreign = [object("version-0", 10), own(StageId::generate(), "1-part-0-of-1", 10)];
    for object in foreign {
        let part = CheckpointPart {
            step: 1,
            part: 0,
            parts: 1,
            offset_bytes: 0,
            state_bytes: 10,
            object: object.clone(),
            tensors: None,
        };
        let refusal = hand_in(&cluster, stage, part).await;
        assert_eq!(refusal.refusal(), (422, "invalid"));
        assert_eq!(refusal.body["problems"][0]["path"], "part.object.key");
        // As one that got in all the same, and was given up.
        sqlx::query("INSERT INTO doomed_objects (stage, step, key) VALUES ($1, 1, $2)")
            .bind(stage.as_uuid())
            .bind(&object.key)
            .execute(&cluster.pool)
            .await
            .unwrap();
    }
    assert_eq!(sweep(&cluster).await, BTreeSet::new());
}

async fn hand_in(cluster: &Cluster, stage: StageId, part: CheckpointPart) -> Answer {
    let handed = PartHandedIn {
        generation: 1,
        part,
        peak_bytes: None,
    };
    let path = format!("/stages/{stage}/checkpoints/parts");
    cluster.api.post(Role::Node, &path, &handed).await
}
