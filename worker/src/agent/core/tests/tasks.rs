//! Tasks are leased to ranks, renewed, handed in and given back.

use super::*;

#[test]
fn a_task_is_asked_for_until_there_is_one() {
    let mut agent = Agent::registered(1);
    agent.obey(orders(1, vec![assignment(7, 4, &[2], StageKind::Capfilt)]));
    let (asked, request) = only_request(&agent.say(ProcessId(0), FromRank::LeaseWanted));
    let Request::Lease { body, .. } = request else { panic!() };
    assert_eq!((body.node, body.generation, body.rank), (id(1), 4, 2));
    let outputs = agent.answer(asked, Ok(Reply::Lease(None)));
    assert_eq!(told(&outputs), [(ProcessId(0), ToRank::Lease { lease: None })]);
    let asked_at = agent.now();
    let (asked, _) = agent.next_request();
    assert!(agent.now() >= asked_at + 475 * MS, "after a pause");
    agent.answer(asked, Err(refused(Code::Stale)));
    let (asked, _) = agent.next_request();
    let outputs = agent.answer(asked, Ok(Reply::Lease(Some(lease(1)))));
    assert_eq!(
        told(&outputs),
        [(ProcessId(0), ToRank::Lease { lease: Some(lease(1)) })]
    );
    agent.stays_silent();
}

#[test]
fn nobody_asks_for_tasks_of_a_rank_that_is_gone() {
    let mut agent = Agent::registered(1);
    agent.obey(orders(1, vec![assignment(7, 4, &[2], StageKind::Capfilt)]));
    let (asked, _) = only_request(&agent.say(ProcessId(0), FromRank::LeaseWanted));
    agent.obey(orders(2, vec![]));
    agent.answer(asked, Err(away()));
    agent.exit(ProcessId(0), "was killed by signal 9");
    agent.stays_silent();
}

/// An agent whose only rank holds `lease(1)`.
fn at_work() -> Agent {
    let mut agent = Agent::registered(1);
    agent.obey(orders(1, vec![assignment(7, 4, &[0], StageKind::Capfilt)]));
    let (asked, _) = only_request(&agent.say(ProcessId(0), FromRank::LeaseWanted));
    agent.answer(asked, Ok(Reply::Lease(Some(lease(1)))));
    agent
}

#[test]
fn progress_renews_a_lease_at_most_every_five_seconds() {
    let mut agent = at_work();
    let mut renewed_at = Vec::new();
    let began = agent.now();
    while agent.now() < began + Duration::from_secs(16) {
        let progress = FromRank::TaskProgress {
            lease: lease(1),
            done: 1,
            total: 2,
        };
        for (asked, request) in sent(&agent.say(ProcessId(0), progress)) {
            assert!(matches!(request, Request::Renew { .. }));
            renewed_at.push(agent.now().saturating_sub(began).as_secs());
            agent.answer(asked, Ok(Reply::Done));
        }
        agent.pass(250 * MS);
    }
    assert_eq!(renewed_at, [5, 10, 15]);
}

#[test]
fn a_result_is_kept_until_it_is_accepted_and_arrives_before_the_next_wish() {
    let mut agent = at_work();
    let (lease, output) = (lease(1), shard_output());
    let (asked, _) = only_request(&agent.say(
        ProcessId(0),
        FromRank::TaskDone {
            lease,
            output,
            peak_bytes: PEAK,
        },
    ));
    assert!(sent(&agent.say(ProcessId(0), FromRank::LeaseWanted)).is_empty());
    agent.answer(asked, Err(away()));
    agent.exit(ProcessId(0), "was killed by signal 9");
    let (asked, request) = agent.next_request();
    assert!(matches!(request, Request::Finish { .. }), "{request:?}");
    agent.answer(asked, Ok(Reply::Done));
    agent.stays_silent();
}

#[test]
fn a_result_that_comes_too_late_is_no_trouble() {
    let mut agent = at_work();
    let (lease, output) = (lease(1), shard_output());
    let (asked, _) = only_request(&agent.say(
        ProcessId(0),
        FromRank::TaskDone {
            lease,
            output,
            peak_bytes: PEAK,
        },
    ));
    agent.say(ProcessId(0), FromRank::LeaseWanted);
    let outputs = agent.answer(asked, Err(refused(Code::Stale)));
    assert!(
        !outputs.iter().any(|output| matches!(output, Output::Warn(_))),
        "{outputs:?}"
    );
    assert!(matches!(only_request(&outputs).1, Request::Lease { .. }));
}

#[test]
fn the_task_of_a_rank_that_dies_is_left_to_the_coordinator() {
    let mut agent = at_work();
    assert!(sent(&agent.exit(ProcessId(0), "was killed by signal 11")).is_empty());
    assert!(matches!(&states(&agent)[..], [RankState::Failed { .. }]));
    agent.stays_silent();
}

#[test]
fn a_rank_that_says_nothing_of_its_task_for_a_whole_lease_is_killed() {
    let mut agent = at_work();
    agent.pass(29_000 * MS);
    let (lease, done, total) = (lease(1), 1, 2);
    agent.say(ProcessId(0), FromRank::TaskProgress { lease, done, total });
    assert!(kills(&agent.pass(30_000 * MS)).is_empty(), "it spoke 30 s ago");
    assert_eq!(kills(&agent.pass(MS)), [ProcessId(0)]);
    assert!(kills(&agent.pass(MS)).is_empty(), "once is enough");
    let [RankState::Failed { reason, retry: true }] = &states(&agent)[..] else {
        panic!("{:?}", states(&agent))
    };
    assert!(reason.contains("nothing of its task for 30 s"), "{reason}");
}
