//! Checkpoints that are found damaged, on the real job table.

use super::cluster::Cluster;
use crate::tokens::Role;
use medley_protocol::agent::RankState;
use medley_protocol::checkpoint::{Damage, Manifest};
use medley_protocol::ids::JobId;
use medley_protocol::rest::{CheckpointView, DamageFound, PartHandedIn, PartRefused};
use medley_protocol::stage::JobState;

pub(super) async fn steps(cluster: &Cluster, job: JobId, query: &str) -> Vec<u64> {
    let all: Vec<CheckpointView> = cluster.api.get(&format!("/jobs/{job}/checkpoints{query}")).await.read();
    all.iter().map(|checkpoint| checkpoint.step).collect()
}

/// What the present generation starts from.
fn resume(cluster: &Cluster) -> Option<Manifest> {
    let assignment = cluster.nodes[0].orders.assignments.first()?;
    assignment.inputs.resume.clone()
}

/// All ranks die, and those of the next generation cannot load its checkpoint.
pub(super) async fn damage(cluster: &mut Cluster, job: JobId) -> Manifest {
    let generation = cluster.job(job).await.stages[1].generation;
    for state in cluster.nodes[0].ranks.values_mut() {
        let reason = "it was killed".into();
        *state = RankState::Failed { reason, retry: true };
    }
    let next = |detail: &medley_protocol::rest::JobDetail| detail.stages[1].generation == generation + 1;
    cluster.until(job, next).await;
    cluster.nodes[0].beat().await;
    let manifest = resume(cluster).unwrap();
    for state in cluster.nodes[0].ranks.values_mut() {
        let damage = Damage {
            checkpoint: manifest.id,
            step: manifest.step,
            object: Some(manifest.parts[0].object.key.clone()),
            cause: "part 0 is missing".into(),
        };
        *state = RankState::Damaged { damage };
    }
    manifest
}

#[tokio::test]
async fn a_stage_falls_back_checkpoint_by_checkpoint_and_its_steps_are_committed_again() {
    let mut cluster = Cluster::with_nodes(&[2]).await;
    let job = cluster.submit(&cluster.document("pretrain")).await;
    cluster.until(job, |detail| detail.stages[1].done >= 10).await;
    assert_eq!(steps(&cluster, job, "").await, [10, 5]);
    let last = damage(&mut cluster, job).await;
    assert_eq!(last.step, 10);
    cluster.until(job, |detail| detail.stages[1].generation == 3).await;
    cluster.nodes[0].beat().await;
    assert_eq!(resume(&cluster).unwrap().step, 5);
    assert_eq!(steps(&cluster, job, "").await, [5]);
    assert_eq!(steps(&cluster, job, "?damaged=true").await, [10, 5]);

    // A part that the damaged one's generation handed in, once more and late, does not bring it back.
    let path = format!("/stages/{}/checkpoints/parts", last.stage);
    for part in last.parts.clone() {
        let handed = PartHandedIn {
            generation: 1,
            part,
            peak_bytes: None,
        };
        assert!(cluster.api.post(Role::Node, &path, &handed).await.status.is_success());
    }
    assert_eq!(steps(&cluster, job, "").await, [5]);

    let detail = cluster.finish(job).await;
    assert_eq!(detail.job.state, JobState::Succeeded, "{}", detail.job.reason);
    assert_eq!(detail.stages[1].generation, 3);
    assert_eq!(steps(&cluster, job, "").await, [20, 15]);
    let events = cluster.events(job).await;
    let said: Vec<&str> = events
        .iter()
        .filter(|event| event.kind == "checkpoint-damaged")
        .map(|event| event.message.as_str())
        .collect();
    let [said] = said[..] else { panic!("{said:?}") };
    assert!(
        said.contains("on n0 cannot go on") && said.contains(&last.parts[0].object.key),
        "{said}"
    );
    let committed = events
        .iter()
        .filter(|event| event.message.contains("at step 10 is whole"));
    assert_eq!(committed.count(), 2, "the step was trained again");
}

#[tokio::test]
async fn a_stage_without_any_good_checkpoint_starts_from_its_beginning() {
    let mut cluster = Cluster::with_nodes(&[2]).await;
    let job = cluster.submit(&cluster.document("pretrain")).await;
    cluster.until(job, |detail| detail.stages[1].done >= 10).await;
    damage(&mut cluster, job).await;
    cluster.until(job, |detail| detail.stages[1].generation == 3).await;
    cluster.nodes[0].beat().await;
    assert_eq!(damage(&mut cluster, job).await.step, 5);
    cluster.until(job, |detail| detail.stages[1].generation == 5).await;
    cluster.nodes[0].beat().await;
    assert_eq!(resume(&cluster), None);
    assert_eq!(cluster.finish(job).await.job.state, JobState::Succeeded);
}

#[tokio::test]
async fn a_part_that_the_store_refuses_is_made_known_once_for_each_node_and_step() {
    let mut cluster = Cluster::with_nodes(&[2]).await;
    let job = cluster.submit(&cluster.document("pretrain")).await;
    cluster.until(job, |detail| detail.stages[1].done >= 5).await;
    let stage = cluster.job(job).await.stages[1].id;
    let path = format!("/stages/{stage}/checkpoints/refused");
    for step in [10, 10, 15] {
        let refused = PartRefused {
            node: cluster.nodes[0].id,
            step,
            reason: "no space left on device".into(),
        };
        assert!(cluster.api.post(Role::Node, &path, &refused).await.status.is_success());
    }
    let events = cluster.events(job).await;
    let said = events.iter().filter(|event| event.kind == "checkpoint-not-written");
    let said: Vec<&str> = said.map(|event| event.message.as_str()).collect();
    let [first, second] = said[..] else { panic!("{said:?}") };
    assert!(
        first.contains("at step 10 cannot be written on n0") && first.contains("no space left"),
        "{first}"
    );
    assert!(second.contains("at step 15"), "{second}");
}

#[tokio::test]
async fn an_operator_gives_up_a_checkpoint_that_was_found_damaged() {
    let mut cluster = Cluster::with_nodes(&[2]).await;
    let job = cluster.submit(&cluster.document("pretrain")).await;
    cluster.finish(job).await;
    let all: Vec<CheckpointView> = cluster.api.get(&format!("/jobs/{job}/checkpoints")).await.read();
    let path = format!("/checkpoints/{}/damage", all[1].id);
    let mut found = DamageFound {
        object: "objects/of-another".into(),
        cause: "part 0 is missing".into(),
    };
    let refusal = cluster.api.post(Role::Operator, &path, &found).await;
    assert_eq!(refusal.refusal(), (422, "invalid"));
    found.object.clone_from(&all[1].parts[0].object.key);
    assert_eq!(
        cluster.api.post(Role::Submitter, &path, &found).await.refusal(),
        (403, "forbidden")
    );
    for _ in 0..2 {
        assert!(
            cluster
                .api
                .post(Role::Operator, &path, &found)
                .await
                .status
                .is_success()
        );
    }
    assert_eq!(steps(&cluster, job, "").await, [20]);
    let events = cluster.events(job).await;
    let said = events.iter().filter(|event| event.kind == "checkpoint-damaged");
    assert_eq!(said.count(), 1);
}
