//! Jobs that nothing disturbs.

use super::cluster::Cluster;
use super::node::{Node, PEAK_BYTES};
use crate::tokens::Role;
use medley_protocol::rest::{CheckpointView, DatasetView, JobView, MetricsPage, NodeView, Page};
use medley_protocol::stage::{JobState, StageState};
use serde_json::json;

#[tokio::test]
async fn a_pretrain_job_runs_from_index_to_evaluation() {
    let mut cluster = Cluster::with_nodes(&[2, 2]).await;
    let job = cluster.submit(&cluster.document("pretrain")).await;
    let detail = cluster.finish(job).await;
    assert_eq!(detail.job.state, JobState::Succeeded, "{}", detail.job.reason);
    let names: Vec<&str> = detail.stages.iter().map(|stage| stage.name.as_str()).collect();
    assert_eq!(names, ["index-0", "pretrain-0", "evaluate-0"]);
    assert!(
        detail
            .stages
            .iter()
            .all(|stage| stage.state == StageState::Done && Some(stage.done) == stage.total)
    );

    let pretrain = &detail.stages[1];
    assert_eq!((pretrain.done, pretrain.generation), (20, 1));
    // Ranks and the largest one's memory are known when the stage is over.
    assert_eq!((pretrain.world, pretrain.peak_rank_bytes), (4, Some(PEAK_BYTES + 3)));
    assert!(detail.stages[0].peak_rank_bytes >= Some(PEAK_BYTES));
    // 160 pairs in steps of 16.
    let epochs: Vec<_> = pretrain
        .epochs
        .iter()
        .map(|e| (e.first_step, e.steps, e.done, e.mean_lm))
        .collect();
    assert_eq!(epochs, [(0, 10, true, Some(4.5)), (10, 10, true, Some(14.5))]);
    assert_eq!(detail.stages[2].evaluation.as_ref().unwrap().pairs, 10);
    assert!(detail.stages[2].details.is_some());

    let path = format!("/jobs/{job}/metrics?stage={}&from_step=17&limit=2", pretrain.id);
    let page: MetricsPage = cluster.api.get(&path).await.read();
    assert_eq!((page.rows[0].step, page.next_step), (17, 19));
    let checkpoints: Vec<CheckpointView> = cluster.api.get(&format!("/jobs/{job}/checkpoints")).await.read();
    let steps: Vec<u64> = checkpoints.iter().map(|checkpoint| checkpoint.step).collect();
    assert_eq!(steps, [20, 15], "checkpoint.keep is 2");
    assert_eq!(checkpoints[0].parts.len(), 4);
}

#[tokio::test]
async fn a_bootstrap_job_hands_every_stage_what_it_needs() {
    let mut cluster = Cluster::with_nodes(&[2, 2]).await;
    let job = cluster.submit(&cluster.document("bootstrap")).await;
    let detail = cluster.finish(job).await;
    assert_eq!(detail.job.state, JobState::Succeeded, "{}", detail.job.reason);
    assert_eq!(detail.stages.len(), 8);
    let datasets: Vec<DatasetView> = cluster.api.get(&format!("/jobs/{job}/datasets")).await.read();
    assert_eq!(datasets.len(), 2);
    assert_eq!(datasets[1].parent, Some(datasets[0].id));
    let nodes: Vec<NodeView> = cluster.api.get("/nodes").await.read();
    assert!(nodes.iter().all(|node| node.alive && node.busy == 0), "{nodes:?}");
}

#[tokio::test]
async fn what_a_dataset_version_lacks_is_told_in_events() {
    let mut cluster = Cluster::with_nodes(&[2]).await;
    let counts = [
        ("broken.broken-image", 3),
        ("broken.web", 3),
        ("pairs.web", 0),
        ("dropped.web", 240),
        ("pairs.synthetic", 200),
        ("dropped.synthetic", 40),
    ];
    cluster.nodes[0].counts = counts.map(|(name, count)| (name.to_owned(), count)).into();
    let mut document = cluster.document("bootstrap");
    document["capfilt"] = json!({"threshold": 0.625});
    let job = cluster.submit(&document).await;
    let detail = cluster.finish(job).await;
    assert_eq!(detail.job.state, JobState::Succeeded, "{}", detail.job.reason);
    let events = cluster.events(job).await;
    let told = |kind: &str| -> Vec<&str> {
        let told = events.iter().filter(|event| event.kind == kind);
        told.map(|event| event.message.as_str()).collect()
    };
    assert_eq!(
        told("samples-left-out"),
        ["3 broken samples are left out: broken-image 3; by set: web 3"]
    );
    let [kept] = told("capfilt-kept-little")[..] else {
        panic!("{events:#?}");
    };
    let figures = "keeps 0 of 240 web texts and 200 of 240 synthetic texts at capfilt.threshold 0.625";
    assert!(kept.contains(figures), "{kept}");
}

#[tokio::test]
async fn stages_that_wait_together_share_the_devices() {
    let mut cluster = Cluster::with_nodes(&[3, 2]).await;
    // One device is for `evaluate-0`.
    let job = cluster.submit(&cluster.document("bootstrap")).await;
    let both = |name: &str, stages: &[medley_protocol::rest::StageView]| {
        stages
            .iter()
            .any(|stage| stage.name == name && stage.state == StageState::Running && stage.world == 2)
    };
    let reached = cluster
        .until(job, |d| both("captioner-0", &d.stages) && both("filter-0", &d.stages))
        .await;
    assert_eq!(reached.job.state, JobState::Running);
}

#[tokio::test]
async fn jobs_are_listed_newest_first_in_pages() {
    let cluster = Cluster::start().await;
    let mut submitted = Vec::new();
    for _ in 0..3 {
        submitted.push(cluster.submit(&cluster.document("pretrain")).await);
    }
    submitted.reverse();
    let first: Page<JobView> = cluster.api.get("/jobs?limit=2").await.read();
    let next = first.next.unwrap();
    let second: Page<JobView> = cluster.api.get(&format!("/jobs?limit=2&cursor={next}")).await.read();
    let listed: Vec<_> = first.items.iter().chain(&second.items).map(|job| job.id).collect();
    assert_eq!(listed, submitted);
    assert_eq!(second.next, None);
}

#[tokio::test]
async fn a_job_without_nodes_says_what_it_waits_for() {
    let mut cluster = Cluster::start().await;
    let job = cluster.submit(&cluster.document("pretrain")).await;
    cluster.round().await;
    let detail = cluster.job(job).await;
    assert_eq!(detail.job.state, JobState::Queued);
    assert!(detail.job.reason.contains("start agents"), "{}", detail.job.reason);
    let page: Page<JobView> = cluster.api.get("/jobs").await.read();
    assert_eq!(page.items[0].reason, detail.job.reason);
}

#[tokio::test]
async fn a_requested_checkpoint_is_carried_in_the_orders_until_it_is_taken() {
    let mut cluster = Cluster::with_nodes(&[1]).await;
    let job = cluster.submit(&cluster.document("pretrain")).await;
    let path = format!("/jobs/{job}/checkpoints");
    let too_early = cluster.api.call(Role::Operator, "POST", &path, None, None).await;
    assert_eq!(too_early.refusal(), (409, "conflict"));
    let runs = |state| state == StageState::Running;
    cluster.until(job, |detail| runs(detail.stages[1].state)).await;
    let view: medley_protocol::rest::CheckpointRequestView =
        cluster.api.call(Role::Operator, "POST", &path, None, None).await.read();
    assert_eq!(view.step, 1);
    cluster.decide().await;
    cluster.nodes[0].beat().await;
    let wanted = cluster.nodes[0].orders.assignments[0].checkpoint_after;
    assert_eq!(wanted.map(|wanted| wanted.request), Some(view.id));
    cluster.until(job, |detail| detail.stages[1].done >= 5).await;
    cluster.decide().await;
    cluster.nodes[0].beat().await;
    assert_eq!(cluster.nodes[0].orders.assignments[0].checkpoint_after, None);
}

#[tokio::test]
async fn a_job_that_has_begun_and_of_which_nothing_runs_is_told_as_waiting() {
    let mut cluster = Cluster::with_nodes(&[2]).await;
    let mut document = cluster.document("pretrain");
    document["cluster"] = json!({"min_ranks": 4});
    let job = cluster.submit(&document).await;
    let detail = cluster.until(job, |detail| detail.job.state == JobState::Waiting).await;
    assert_eq!(detail.stages[0].state, StageState::Done);
    assert!(
        detail.job.reason.starts_with("pretrain-0: waits for 4 free devices"),
        "{}",
        detail.job.reason
    );
    let page: Page<JobView> = cluster.api.get("/jobs").await.read();
    assert_eq!(page.items[0].state, JobState::Waiting);
    assert_eq!(cluster.store.count_jobs().await.unwrap(), [("waiting".to_owned(), 1)]);
    let node = Node::register(cluster.api.clone(), "n1", 2).await;
    cluster.nodes.push(node);
    let detail = cluster.until(job, |detail| detail.job.state != JobState::Waiting).await;
    assert_eq!(detail.job.state, JobState::Running);
    assert_eq!(cluster.finish(job).await.job.state, JobState::Succeeded);
}
