//! What the API does not take, and what it takes twice.

use super::cluster::Cluster;
use super::node::{chunk, metrics, own};
use crate::tokens::Role;
use medley_protocol::checkpoint::CheckpointPart;
use medley_protocol::ids::{JobId, StageId, TaskId};
use medley_protocol::ledger::{LaneSamples, LedgerEntry};
use medley_protocol::metrics::MetricsChunk;
use medley_protocol::rest::{DryRun, EventView, JobDetail, JobView, LedgerPage, Page, PartHandedIn};
use serde_json::json;

#[tokio::test]
async fn a_submission_is_idempotent_by_its_key() {
    let cluster = Cluster::start().await;
    let document = cluster.document("pretrain");
    let submit = async |document: &serde_json::Value, key| {
        cluster
            .api
            .call(Role::Submitter, "POST", "/jobs", Some(document), Some(key))
            .await
    };
    let first = submit(&document, "k").await;
    assert_eq!(first.status.as_u16(), 201);
    let again = submit(&document, "k").await;
    assert_eq!(again.status.as_u16(), 200);
    assert_eq!(first.read::<JobDetail>().job.id, again.read::<JobDetail>().job.id);
    let mut other = document.clone();
    other["name"] = json!("another");
    assert_eq!(submit(&other, "k").await.refusal(), (422, "idempotency-mismatch"));
    assert_eq!(submit(&other, "").await.refusal(), (422, "invalid"));
    let page: Page<JobView> = cluster.api.get("/jobs").await.read();
    assert_eq!(page.items.len(), 1);
}

#[tokio::test]
async fn missing_data_is_named_field_by_field() {
    let cluster = Cluster::start().await;
    std::fs::remove_dir_all(cluster.data_root().join("web")).unwrap();
    std::fs::remove_file(cluster.data_root().join("test/000000.tar")).unwrap();
    let mut document = cluster.document("bootstrap");
    document["vocab"] = json!({"file": "/nowhere/vocab.txt"});
    document["start"] = json!({"captioner": ["/nowhere/blip-caption"]});
    let answer = cluster.api.post(Role::Submitter, "/jobs", &document).await;
    assert_eq!(answer.refusal(), (422, "invalid"));
    let problems = answer.body["problems"].as_array().unwrap();
    let paths: Vec<&str> = problems
        .iter()
        .map(|problem| problem["path"].as_str().unwrap())
        .collect();
    assert_eq!(paths, ["data.web", "data.test", "vocab.file", "start.captioner"]);

    let unknown = json!({"name": "j", "kind": "pretrain", "preset": "nano", "data": {"root": "/d"}, "lane": 3});
    let answer = cluster.api.post(Role::Submitter, "/jobs", &unknown).await;
    assert_eq!(answer.body["problems"][0]["path"], "lane");
}

#[tokio::test]
async fn roles_are_needed_as_the_table_says() {
    let cluster = Cluster::start().await;
    let job = cluster.submit(&cluster.document("pretrain")).await;
    let refused = [
        (Role::Viewer, "POST", "/jobs".to_owned()),
        (Role::Node, "GET", "/jobs".to_owned()),
        (Role::Viewer, "POST", format!("/jobs/{job}/cancel")),
        (Role::Submitter, "POST", format!("/jobs/{job}/checkpoints")),
        (Role::Operator, "POST", "/agent/beat".to_owned()),
        (
            Role::Operator,
            "POST",
            format!("/stages/{}/metrics", StageId::generate()),
        ),
    ];
    for (role, method, path) in refused {
        let answer = cluster.api.call(role, method, &path, Some(&json!({})), None).await;
        assert_eq!(answer.refusal(), (403, "forbidden"), "{role} {method} {path}");
    }
}

#[tokio::test]
async fn unknown_things_and_odd_parameters_are_refused() {
    let cluster = Cluster::start().await;
    let job = JobId::generate();
    for part in ["", "/checkpoints", "/datasets", "/events"] {
        assert_eq!(
            cluster.api.get(&format!("/jobs/{job}{part}")).await.refusal(),
            (404, "not-found"),
            "{part}"
        );
    }
    assert_eq!(cluster.api.get("/jobs/x").await.refusal(), (400, "bad-request"));
    for query in ["limit=0", "limit=1001", "cursor=x"] {
        assert_eq!(
            cluster.api.get(&format!("/jobs?{query}")).await.refusal(),
            (422, "invalid"),
            "{query}"
        );
    }
    assert_eq!(cluster.api.get("/jobs?limits=1").await.refusal(), (400, "bad-request"));
    let path = format!("/tasks/{}/renew", TaskId::generate());
    let renewal = json!({"token": TaskId::generate()});
    assert_eq!(
        cluster.api.post(Role::Node, &path, &renewal).await.refusal(),
        (409, "stale")
    );
}

#[tokio::test]
async fn metrics_are_stored_once_and_without_gaps() {
    let cluster = Cluster::start().await;
    let job = cluster.submit(&cluster.document("pretrain")).await;
    let stage = cluster.stage(job, "pretrain-0").await.id;
    let path = format!("/stages/{stage}/metrics");
    let post = async |from: u64, to: u64| {
        let rows = (from..to).map(metrics).collect();
        cluster.api.post(Role::Node, &path, &chunk(1, rows)).await
    };
    assert_eq!(post(0, 3).await.body["next_step"], 3);
    assert_eq!(post(1, 5).await.body["next_step"], 5);
    assert_eq!(post(0, 2).await.body["next_step"], 5);
    let gap = post(6, 7).await;
    assert_eq!(gap.refusal(), (409, "conflict"));
    assert!(gap.body["detail"].as_str().unwrap().contains("step 5"), "{}", gap.body);
    let odd = chunk(1, vec![metrics(5), metrics(7)]);
    assert_eq!(
        cluster.api.post(Role::Node, &path, &odd).await.refusal(),
        (422, "invalid")
    );
}

#[tokio::test]
async fn a_dry_run_makes_no_job_and_refuses_what_a_submission_does() {
    let cluster = Cluster::start().await;
    let document = cluster.document("pretrain");
    let answer = cluster.api.post(Role::Submitter, "/jobs/dry-run", &document).await;
    let answer: DryRun = answer.read();
    assert!(
        answer.present.is_none() && answer.reason.contains("none is alive"),
        "{answer:?}"
    );
    assert_eq!(answer.stairs.last().map(|stair| stair.ranks), Some(answer.lanes));
    let jobs: Page<JobView> = cluster.api.get("/jobs").await.read();
    assert_eq!(jobs.items, []);
    let wrong = cluster
        .api
        .post(Role::Submitter, "/jobs/dry-run", &json!({"name": "j"}))
        .await;
    assert_eq!(wrong.refusal(), (422, "invalid"));
    let viewer = cluster.api.post(Role::Viewer, "/jobs/dry-run", &document).await;
    assert_eq!(viewer.refusal(), (403, "forbidden"));
}

#[tokio::test]
async fn the_ledger_is_stored_with_the_metrics_and_a_step_that_is_told_otherwise_is_named() {
    let cluster = Cluster::start().await;
    let job = cluster.submit(&cluster.document("pretrain")).await;
    let stage = cluster.stage(job, "pretrain-0").await.id;
    let path = format!("/stages/{stage}/metrics");
    let entry = |step: u64, sample: u64| LedgerEntry {
        step,
        pairs: 100,
        lanes: vec![LaneSamples {
            epoch: 0,
            position: step,
            samples: vec![sample],
            replaced: Vec::new(),
        }],
    };
    let post = async |steps: [u64; 2], ledger: Vec<LedgerEntry>| {
        let chunk = MetricsChunk {
            generation: 1,
            rows: steps.map(metrics).to_vec(),
            ledger,
        };
        cluster.api.post(Role::Node, &path, &chunk).await
    };
    assert_eq!(post([0, 1], vec![entry(0, 7), entry(1, 8)]).await.body["next_step"], 2);
    // Step 1 again, as it was, and then as it was not.
    assert_eq!(post([1, 2], vec![entry(1, 8), entry(2, 9)]).await.body["next_step"], 3);
    let differs = async || {
        let events: Vec<EventView> = cluster.api.get(&format!("/jobs/{job}/events")).await.read();
        let named = events.into_iter().filter(|event| event.kind == "ledger-differs");
        named.map(|event| event.message).collect::<Vec<String>>()
    };
    assert_eq!(differs().await, Vec::<String>::new());
    post([1, 2], vec![entry(1, 80), entry(2, 9)]).await;
    let named = differs().await;
    assert!(named.len() == 1 && named[0].contains("step 1 "), "{named:?}");
    let missing = post([3, 4], vec![entry(3, 1)]).await;
    assert_eq!(missing.refusal(), (422, "invalid"));
    let page: LedgerPage = cluster
        .api
        .get(&format!("/jobs/{job}/ledger?stage={stage}&from_step=1"))
        .await
        .read();
    assert_eq!((page.entries, page.next_step), (vec![entry(1, 8), entry(2, 9)], 3));
}

#[tokio::test]
async fn parts_are_facts_of_any_generation_and_make_one_checkpoint() {
    let cluster = Cluster::start().await;
    let job = cluster.submit(&cluster.document("pretrain")).await;
    let stage = cluster.stage(job, "pretrain-0").await.id;
    let path = format!("/stages/{stage}/checkpoints/parts");
    let hand_in = async |part: u32, offset_bytes: u64, key: &str| {
        let part = CheckpointPart {
            step: 5,
            part,
            parts: 2,
            offset_bytes,
            state_bytes: 20,
            object: own(stage, key, 10),
            tensors: None,
        };
        let handed = PartHandedIn {
            generation: 77,
            part,
            peak_bytes: None,
        };
        cluster.api.post(Role::Node, &path, &handed).await.status.as_u16()
    };
    assert_eq!(hand_in(2, 0, "a").await, 422);
    assert_eq!(hand_in(0, 15, "a").await, 422);
    assert_eq!(hand_in(0, 0, "../a").await, 422);
    assert_eq!(hand_in(1, 10, "b").await, 204);
    assert_eq!(hand_in(0, 0, "a").await, 204);
    assert_eq!(hand_in(0, 0, "a").await, 204);
    let checkpoints = cluster.api.get(&format!("/jobs/{job}/checkpoints")).await;
    assert_eq!(checkpoints.body.as_array().unwrap().len(), 1);
    assert_eq!(
        checkpoints.body[0]["parts"][0]["object"]["key"],
        own(stage, "a", 10).key
    );
}
