//! What submitters and agents may send by mistake or on purpose, and what it must not do to others.

use super::cluster::{Answer, Cluster};
use super::node::output;
use crate::tokens::Role;
use medley_protocol::agent::{RankState, Register};
use medley_protocol::checkpoint::ObjectRef;
use medley_protocol::doubt::Doubt;
use medley_protocol::ids::{IncarnationId, JobId};
use medley_protocol::rest::{PartRefused, TaskFinished, TaskGivenUp};
use medley_protocol::stage::{JobState, StageState};
use medley_protocol::tasks::{Counts, Lease, TaskOutput};
use medley_protocol::text::is_plain;
use serde_json::{Value, json};

/// A job whose ranks train on two devices.
async fn training() -> (Cluster, JobId) {
    let mut cluster = Cluster::with_nodes(&[2]).await;
    let job = cluster.submit(&cluster.document("pretrain")).await;
    cluster
        .until(job, |detail| {
            detail.stages[1].state == StageState::Running && detail.stages[1].done >= 5
        })
        .await;
    (cluster, job)
}

/// The field that a refusal names.
fn field(answer: &Answer) -> &str {
    assert_eq!(answer.refusal(), (422, "invalid"), "{}", answer.body);
    answer.body["problems"][0]["path"].as_str().unwrap()
}

#[tokio::test]
async fn a_reason_with_control_characters_and_without_end_is_stored_as_one_line() {
    let (mut cluster, job) = Box::pin(training()).await;
    let reason = format!("its tensors (a\0b\n{} …)", "\u{1b}]0;OWNED\u{7}".repeat(100_000));
    let failed = RankState::Failed { reason, retry: false };
    *cluster.nodes[0].ranks.values_mut().next().unwrap() = failed;
    let detail = cluster.finish(job).await;
    assert_eq!(detail.job.state, JobState::Failed);
    let reason = &detail.job.reason;
    assert!(reason.contains(r"its tensors (a\0b\n\u{1b}]0;OWNED\u{7}"), "{reason}");
    assert!(is_plain(reason) && reason.len() < 5000, "{}", reason.len());
    for event in cluster.events(job).await {
        assert!(is_plain(&event.message), "{event:?}");
    }
}

#[tokio::test]
async fn a_beat_with_impossible_numbers_is_refused_with_its_field_and_ends_no_coordinator() {
    let (mut cluster, job) = Box::pin(training()).await;
    let doubt = Doubt {
        step: 5,
        proven: u64::MAX,
        minority: Vec::new(),
    };
    let address = "a\0:1".to_owned();
    let committed = u64::MAX;
    for (state, path) in [
        (RankState::Doubtful { doubt }, "doubt.proven"),
        (RankState::Running { committed }, "committed"),
        (
            RankState::Listening {
                address,
                committed: None,
            },
            "address",
        ),
    ] {
        let mut beat = cluster.nodes[0].beat_body();
        beat.ranks[1].state = state;
        let answer = cluster.api.post(Role::Node, "/agent/beat", &beat).await;
        assert_eq!(field(&answer), format!("ranks[1].state.{path}"));
        cluster.decide().await;
    }
    let detail = cluster.finish(job).await;
    assert_eq!(
        (detail.job.state, detail.stages[1].generation),
        (JobState::Succeeded, 1)
    );
}

#[tokio::test]
async fn nodes_with_control_characters_are_refused_with_the_field() {
    let cluster = Cluster::start().await;
    let register = Register {
        name: "n0".into(),
        incarnation: IncarnationId::generate(),
        host: "127.0.0.1".into(),
        devices: 1,
        threads: 1,
        fingerprint: "a".into(),
    };
    for (name, text) in [
        ("name", "n\0"),
        ("host", "h\0"),
        ("host", "h\u{1b}"),
        ("fingerprint", "f\0"),
    ] {
        let mut body = serde_json::to_value(&register).unwrap();
        body[name] = json!(text);
        let answer = cluster.api.post(Role::Node, "/agent/register", &body).await;
        assert_eq!(field(&answer), name);
    }
    let duty = json!({"duty": "cordoned"});
    let answer = cluster.api.post(Role::Operator, "/nodes/a%00b/duty", &duty).await;
    assert_eq!(field(&answer), "name");
}

#[tokio::test]
async fn a_spec_with_control_characters_is_refused_with_the_field_and_so_is_its_dry_run() {
    let cluster = Cluster::start().await;
    for (section, name) in [
        ("pretrain", "prompt"),
        ("captioner", "prompt"),
        ("vocab", "file"),
        ("data", "root"),
    ] {
        let mut document = cluster.document("bootstrap");
        let root = cluster.data_root().display();
        document[section][name] = json!(format!("{root}\0"));
        for path in ["/jobs", "/jobs/dry-run"] {
            let answer = cluster.api.post(Role::Submitter, path, &document).await;
            assert_eq!(field(&answer), format!("{section}.{name}"), "{path}");
        }
    }
    std::fs::write(cluster.data_root().join("web/\u{1b}[31m.tar"), b"").unwrap();
    let answer = cluster
        .api
        .post(Role::Submitter, "/jobs", &cluster.document("bootstrap"))
        .await;
    assert_eq!(field(&answer), "data.web");
    assert!(is_plain(answer.body["detail"].as_str().unwrap()), "{}", answer.body);
}

/// A task of the index of a new job.
async fn leased() -> (Cluster, JobId, Lease) {
    let mut cluster = Cluster::with_nodes(&[1]).await;
    let job = cluster.submit(&cluster.document("pretrain")).await;
    cluster.round().await;
    cluster.nodes[0].beat().await;
    let stage = cluster.stage(job, "index-0").await.id;
    let lease = cluster.nodes[0].lease(stage, 1, 0).await.unwrap();
    (cluster, job, lease)
}

#[tokio::test]
async fn a_task_that_fails_with_control_characters_fails_with_its_reason() {
    let (mut cluster, job, lease) = Box::pin(leased()).await;
    let given_up = TaskGivenUp {
        token: lease.token,
        reason: "member a\0b has no end".into(),
        retry: false,
    };
    let path = format!("/tasks/{}/fail", lease.task);
    assert_eq!(
        cluster.api.post(Role::Node, &path, &given_up).await.status.as_u16(),
        204
    );
    let detail = cluster.finish(job).await;
    assert!(
        detail.job.reason.contains(r"member a\0b has no end"),
        "{}",
        detail.job.reason
    );
}

#[tokio::test]
async fn a_result_that_cannot_be_stored_or_lies_where_objects_are_deleted_is_refused() {
    let (cluster, _, lease) = Box::pin(leased()).await;
    let own = |output: &TaskOutput| match output {
        TaskOutput::Shard { object, .. } => object.clone(),
        other => panic!("{other:?}"),
    };
    let object = own(&output(&lease.work));
    let in_checkpoints = ObjectRef {
        key: format!("checkpoints/{}", object.key),
        ..object.clone()
    };
    let counts = |name: &str, count| Counts::from([(name.to_owned(), count)]);
    for (object, counts, path) in [
        (in_checkpoints, Counts::new(), "output.object.key"),
        (object.clone(), counts("a\0", 1), "output.counts"),
        (object.clone(), counts("pairs", u64::MAX), "output.counts"),
    ] {
        let finished = TaskFinished {
            token: lease.token,
            output: TaskOutput::Shard { object, counts },
            peak_bytes: None,
        };
        let answer = cluster
            .api
            .post(Role::Node, &format!("/tasks/{}/finish", lease.task), &finished)
            .await;
        assert_eq!(field(&answer), path);
    }
}

#[tokio::test]
async fn a_part_that_is_refused_with_control_characters_is_made_known() {
    let (cluster, job) = Box::pin(training()).await;
    let stage = cluster.stage(job, "pretrain-0").await.id;
    let refused = PartRefused {
        node: cluster.nodes[0].id,
        step: 10,
        reason: "no\0space".into(),
    };
    let path = format!("/stages/{stage}/checkpoints/refused");
    assert_eq!(cluster.api.post(Role::Node, &path, &refused).await.status.as_u16(), 204);
    let events = cluster.events(job).await;
    let said = events
        .iter()
        .find(|event| event.kind == "checkpoint-not-written")
        .unwrap();
    assert!(said.message.ends_with(r"tries again: no\0space"), "{}", said.message);
}

#[tokio::test]
async fn a_job_that_cannot_be_written_waits_and_the_others_go_on() {
    let mut cluster = Cluster::with_nodes(&[2]).await;
    change(
        &cluster,
        "ADD CONSTRAINT odd_stays CHECK (name <> 'odd' OR state = 'queued')",
    )
    .await;
    let mut document: Value = cluster.document("pretrain");
    document["name"] = json!("odd");
    let odd = cluster.submit(&document).await;
    let sound = cluster.submit(&cluster.document("pretrain")).await;
    assert_eq!(cluster.finish(sound).await.job.state, JobState::Succeeded);
    assert_eq!(cluster.job(odd).await.job.state, JobState::Queued);
    change(&cluster, "DROP CONSTRAINT odd_stays").await;
    assert_eq!(cluster.finish(odd).await.job.state, JobState::Succeeded);
}

#[tokio::test]
async fn a_job_that_cannot_be_written_keeps_its_ranks_and_ends_once_it_can() {
    let (mut cluster, job) = Box::pin(training()).await;
    change(&cluster, "ADD CONSTRAINT nothing_ends CHECK (state <> 'succeeded')").await;
    for _ in 0..60 {
        cluster.round().await;
    }
    let detail = cluster.job(job).await;
    assert_eq!(detail.job.state, JobState::Running);
    let [.., evaluate] = &detail.stages[..] else { panic!() };
    assert_eq!((evaluate.state, evaluate.done), (StageState::Running, 1));
    let assignments = &cluster.nodes[0].orders.assignments;
    assert!(assignments.iter().any(|assignment| assignment.stage == evaluate.id));
    change(&cluster, "DROP CONSTRAINT nothing_ends").await;
    let detail = cluster.finish(job).await;
    assert_eq!(detail.job.state, JobState::Succeeded);
    assert!(detail.stages.iter().all(|stage| stage.generation == 1));
}

/// Changes the table of jobs.
async fn change(cluster: &Cluster, how: &str) {
    let change = sqlx::AssertSqlSafe(format!("ALTER TABLE jobs {how}"));
    sqlx::query(change).execute(&cluster.pool).await.unwrap();
}
