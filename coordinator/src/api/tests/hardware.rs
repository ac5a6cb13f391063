//! What nodes say of their GPUs, and what follows from it.

use super::cluster::Cluster;
use crate::tokens::Role;
use medley_protocol::agent::Beat;
use medley_protocol::hardware::{Gpu, Hardware};
use medley_protocol::rest::{DryRun, JobDetail, NodeView};
use medley_protocol::stage::{StageKind, StageState};
use serde_json::{Value, json};

fn gpu(uuid: &str) -> Gpu {
    Gpu {
        uuid: uuid.into(),
        name: "NVIDIA H200".into(),
        memory_bytes: 141 << 30,
        used_bytes: Some(20 << 30),
        utilisation_percent: Some(97),
        celsius: Some(61),
        uncorrected_errors: Some(0),
        last_xid: None,
    }
}

#[tokio::test]
async fn gpus_are_shown_as_their_agent_last_said_and_not_once_it_is_silent() {
    let mut cluster = Cluster::with_nodes(&[2, 1]).await;
    let mut hardware = Hardware {
        memory_bytes: Some(64 << 30),
        gpus: vec![gpu("GPU-a"), gpu("GPU-b")],
    };
    cluster.nodes[0].hardware = hardware.clone();
    cluster.round().await;
    hardware.gpus[1].last_xid = Some(79);
    cluster.nodes[0].hardware = hardware.clone();
    cluster.round().await;
    let nodes: Vec<NodeView> = cluster.api.get("/nodes").await.read();
    assert_eq!(
        (&nodes[0].hardware, &nodes[1].hardware),
        (&hardware, &Hardware::default())
    );
    cluster.nodes[0].is_alive = false;
    for _ in 0..12 {
        cluster.round().await;
    }
    let nodes: Vec<NodeView> = cluster.api.get("/nodes").await.read();
    assert_eq!((nodes[0].alive, &nodes[0].hardware), (false, &Hardware::default()));
}

#[tokio::test]
async fn gpus_that_cannot_be_are_refused() {
    let cluster = Cluster::with_nodes(&[1]).await;
    let named = |name: &str| Gpu {
        name: name.into(),
        ..gpu("GPU-a")
    };
    let busy = Gpu {
        utilisation_percent: Some(101),
        ..gpu("GPU-a")
    };
    for gpus in [
        vec![gpu("GPU-a"), gpu("GPU-a")],
        vec![gpu("")],
        vec![named("two\nlines")],
        vec![named(&"x".repeat(101))],
        vec![busy],
        (0..65).map(|number| gpu(&number.to_string())).collect(),
    ] {
        let beat = Beat {
            hardware: Hardware {
                memory_bytes: None,
                gpus,
            },
            ..cluster.nodes[0].beat_body()
        };
        let answer = cluster.api.post(Role::Node, "/agent/beat", &beat).await;
        assert_eq!(answer.refusal(), (422, "invalid"));
        assert_eq!(answer.body["problems"][0]["path"], "hardware.gpus");
    }
}

#[tokio::test]
async fn a_job_in_bf16_waits_for_gpus_and_begins_when_there_are_some() {
    let mut cluster = Cluster::with_nodes(&[2]).await;
    let mut document: Value = cluster.document("pretrain");
    document["pretrain"] = json!({"precision": "bf16"});
    let dry: DryRun = cluster
        .api
        .post(Role::Submitter, "/jobs/dry-run", &document)
        .await
        .read();
    assert!(dry.reason.starts_with("waits for devices with bf16"), "{}", dry.reason);
    assert_eq!(
        (dry.memory[0].stage, dry.memory[0].host_bytes),
        (StageKind::Pretrain, None)
    );
    let job = cluster.submit(&document).await;
    let waits = |detail: &JobDetail| detail.stages[1].reason.starts_with("waits for devices with bf16");
    let detail = cluster.until(job, waits).await;
    assert_eq!(detail.stages[0].state, StageState::Done, "an index computes nothing");
    assert_eq!(detail.memory, dry.memory);
    cluster.nodes[0].hardware.gpus = vec![gpu("GPU-a")];
    let detail = cluster.finish(job).await;
    assert!(detail.stages.iter().all(|stage| stage.state == StageState::Done));
}

#[tokio::test]
async fn a_job_that_fits_nowhere_waits_and_says_what_to_lower() {
    let mut cluster = Cluster::with_nodes(&[2]).await;
    cluster.nodes[0].hardware.memory_bytes = Some(1 << 30);
    let mut document: Value = cluster.document("pretrain");
    document["preset"] = json!("vit-b");
    document["lanes"] = json!({"count": 2, "batch": 8});
    document["cluster"] = json!({"max_ranks": 2});
    let job = cluster.submit(&document).await;
    let waits = |detail: &JobDetail| detail.stages[1].reason.contains("more memory");
    let detail = cluster.until(job, waits).await;
    let reason = &detail.stages[1].reason;
    assert!(
        reason.contains("the largest machine has 1.0 GiB") && reason.contains("lanes.batch"),
        "{reason}"
    );
}
