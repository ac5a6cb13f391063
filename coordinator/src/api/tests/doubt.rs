//! States that differ between ranks, on the real job table.

use super::cluster::Cluster;
use super::damage::steps;
use super::node::{chunk, metrics};
use crate::tokens::Role;
use medley_protocol::agent::RankState;
use medley_protocol::checkpoint::Manifest;
use medley_protocol::doubt::Doubt;
use medley_protocol::ids::{JobId, StageId};
use medley_protocol::rest::{CheckpointView, PartHandedIn};
use medley_protocol::stage::JobState;

/// Ranks that have committed 15 steps find that their states differ; 5 steps are proven. Returns what they have handed in, and
/// their job and stage.
async fn doubted() -> (Cluster, Vec<Manifest>, (JobId, StageId)) {
    let mut cluster = Cluster::with_nodes(&[2]).await;
    let job = cluster.submit(&cluster.document("pretrain")).await;
    let detail = cluster.until(job, |detail| detail.stages[1].done >= 15).await;
    assert_eq!(steps(&cluster, job, "").await, [15, 10, 5]);
    let all: Vec<CheckpointView> = cluster.api.get(&format!("/jobs/{job}/checkpoints")).await.read();
    let manifest = |view: CheckpointView| Manifest {
        id: view.id,
        stage: view.stage,
        step: view.step,
        state_bytes: view.state_bytes,
        parts: view.parts,
    };
    for ((_, _, rank), state) in &mut cluster.nodes[0].ranks {
        *state = if *rank == 0 {
            let doubt = Doubt::new(15, 5, vec![1]);
            RankState::Doubtful { doubt }
        } else {
            let reason = "lost rank 0: its connection ended".into();
            RankState::Broken { committed: 15, reason }
        };
    }
    cluster.until(job, |detail| detail.stages[1].generation == 2).await;
    cluster.nodes[0].beat().await;
    let stage = detail.stages[1].id;
    (cluster, all.into_iter().map(manifest).collect(), (job, stage))
}

#[tokio::test]
async fn all_that_is_not_proven_is_given_up_and_computed_again() {
    let (mut cluster, _, (job, stage)) = Box::pin(doubted()).await;
    let assignment = cluster.nodes[0].orders.assignments[0].clone();
    assert_eq!((assignment.generation, assignment.distrusts), (2, 1));
    assert_eq!(assignment.inputs.resume.map(|manifest| manifest.step), Some(5));
    assert_eq!(steps(&cluster, job, "").await, [5]);
    let shown: Vec<CheckpointView> = cluster
        .api
        .get(&format!("/jobs/{job}/checkpoints?damaged=true"))
        .await
        .read();
    let why = |view: &CheckpointView| Some((view.step, view.damage.clone()?));
    let given_up: Vec<(u64, String)> = shown.iter().filter_map(why).collect();
    let [(15, last), (10, _)] = &given_up[..] else {
        panic!("{shown:?}")
    };
    assert_eq!(
        last,
        "the checkpoint at step 15 is doubtful: the state before step 15 is not the same everywhere"
    );
    let rows = cluster.store.list_metrics(stage, 0, 100).await.unwrap();
    assert_eq!(rows.iter().map(|row| row.step).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
    let detail = cluster.job(job).await;
    let done = detail.stages[1].epochs.iter().filter(|epoch| epoch.done);
    assert!(
        done.map(|epoch| epoch.first_step + epoch.steps)
            .all(|through| through <= 5)
    );
    let events = cluster.events(job).await;
    let said = |kind: &str| -> Vec<&str> {
        let of_kind = events.iter().filter(|event| event.kind == kind);
        of_kind.map(|event| event.message.as_str()).collect()
    };
    let [told] = said("checkpoint-damaged")[..] else {
        panic!("{events:?}")
    };
    assert!(
        told.contains("checkpoints after step 5 are not used any more"),
        "{told}"
    );
    let [over] = said("generation-over")[..] else {
        panic!("{events:?}")
    };
    let told = "that of rank 1 on n0 is not the majority's; steps 5 to 14 are computed again";
    assert!(over.ends_with(told), "{over}");

    assert_eq!(cluster.finish(job).await.job.state, JobState::Succeeded);
    assert_eq!(steps(&cluster, job, "").await[0], 20);
    let rows = cluster.store.list_metrics(stage, 0, 100).await.unwrap();
    assert!(rows.iter().map(|row| row.step).eq(0..20), "each step once: {rows:?}");
}

#[tokio::test]
async fn what_a_closed_generation_hands_in_late_is_old_news() {
    let (mut cluster, manifests, (job, stage)) = Box::pin(doubted()).await;
    let path = format!("/stages/{stage}/metrics");
    let post = async |cluster: &Cluster, generation, rows: std::ops::Range<u64>| {
        let rows = rows.map(metrics).collect();
        cluster.api.post(Role::Node, &path, &chunk(generation, rows)).await
    };
    assert_eq!(post(&cluster, 1, 5..12).await.refusal(), (409, "conflict"));
    assert_eq!(
        post(&cluster, 1, 3..12).await.body["next_step"],
        5,
        "what is proven is taken"
    );
    assert_eq!(post(&cluster, 2, 5..7).await.body["next_step"], 7);
    let path = format!("/stages/{stage}/checkpoints/parts");
    for part in manifests.iter().flat_map(|manifest| &manifest.parts) {
        let handed = PartHandedIn {
            generation: 1,
            part: part.clone(),
            peak_bytes: None,
        };
        assert!(cluster.api.post(Role::Node, &path, &handed).await.status.is_success());
    }
    assert_eq!(steps(&cluster, job, "").await, [5]);
    cluster.until(job, |detail| detail.stages[1].done >= 10).await;
    assert_eq!(steps(&cluster, job, "").await[0], 10, "it was trained again");
}
