use super::*;
use crate::fake::{self, Coordinator};
use medley_data::order::{Order, place};
use medley_protocol::ledger::{LaneSamples, LedgerEntry};
use medley_protocol::stage::{StageKind, StageState};

/// A job with one stage that has committed so many steps; an epoch has three, and one pair is left over.
fn job(steps: u64) -> (JobDetail, Vec<LedgerEntry>) {
    let mut job = fake::job("shapes");
    let mut stage = fake::stage("pretrain-0", StageKind::Pretrain, StageState::Running);
    stage.done = steps;
    job.stages = vec![stage];
    job.spec.ledger = true;
    let (lanes, batch) = (u64::from(job.spec.lanes.count), u64::from(job.spec.lanes.batch));
    let (pairs, seed) = (3 * lanes * batch + 1, stage_seed(job.spec.seed, "pretrain-0"));
    let lane = |step, lane| {
        let (epoch, position) = place(step, 3, lanes, batch, lane, 0);
        let order = Order::new(seed, epoch, pairs);
        LaneSamples {
            epoch,
            position,
            samples: (position..position + batch)
                .map(|position| order.at(position))
                .collect(),
            replaced: Vec::new(),
        }
    };
    let entry = |step| LedgerEntry {
        step,
        pairs,
        lanes: (0..lanes).map(|l| lane(step, l)).collect(),
    };
    (job, (0..steps).map(entry).collect())
}

async fn report(job: &JobDetail, entries: Vec<LedgerEntry>) -> Report {
    let coordinator = Coordinator::start().await;
    coordinator.put_job(job);
    coordinator.put_ledger(entries);
    read(&coordinator.client(), job, &job.stages[0], &[]).await.unwrap()
}

#[tokio::test]
async fn a_ledger_of_several_pages_is_whole() {
    let (job, entries) = job(2500);
    let report = report(&job, entries).await;
    assert!(report.is_whole(), "{:?}", report.faults);
    assert_eq!((report.steps, report.read), (2500, 2500 * job.spec.global_batch()));
    let page = page(&report);
    assert!(
        page.contains("every position once") && page.contains("of which 1 are left over"),
        "{page}"
    );
}

#[tokio::test]
async fn one_broken_record_is_named() {
    let (job, mut entries) = job(7);
    entries[4].lanes[1].samples[0] ^= 1;
    let report = report(&job, entries).await;
    assert!(!report.is_whole());
    let page = page(&report);
    assert!(page.contains("wrong: step 4, lane 1: sample"), "{page}");
}

#[tokio::test]
async fn a_stage_without_entries_has_lost_them_all() {
    let (job, _) = job(7);
    assert_eq!(report(&job, Vec::new()).await.faults, ["no entry: step 0 to 6"]);
}

#[tokio::test]
async fn a_step_that_was_told_otherwise_is_wrong() {
    let (job, entries) = job(3);
    let coordinator = Coordinator::start().await;
    coordinator.put_ledger(entries);
    let event = EventView {
        id: 1,
        at: fake::moment(1),
        job: Some(job.job.id),
        stage: Some(job.stages[0].id),
        node: None,
        kind: "ledger-differs".into(),
        message: "step 2 differs".into(),
    };
    let report = read(&coordinator.client(), &job, &job.stages[0], &[event])
        .await
        .unwrap();
    assert_eq!(report.faults, ["step 2 differs"]);
}

#[test]
fn a_stage_is_named_or_all_that_have_begun() {
    let (mut job, _) = job(3);
    let mut waiting = fake::stage("pretrain-1", StageKind::Pretrain, StageState::Waiting);
    waiting.started_at = None;
    job.stages.push(waiting);
    let names = |name| stages(&job, name).map(|found| found.iter().map(|stage| stage.name.clone()).collect::<Vec<_>>());
    assert_eq!(names(None).unwrap(), ["pretrain-0"]);
    assert_eq!(names(Some("pretrain-1")).unwrap(), ["pretrain-1"]);
    assert!(
        names(Some("index-0"))
            .unwrap_err()
            .to_string()
            .contains("pretrain-0, pretrain-1")
    );
}
