//! The rules one by one; [`model`] tries them in any order.

mod model;
mod world;

use super::*;
use crate::supervise::Event;
use medley_protocol::agent::{CheckpointWanted, FromRank, Member, RankState, ToRank};
use medley_protocol::error::Code;
use medley_protocol::ids::CheckpointRequestId;
use medley_protocol::metrics::MetricsThrough;
use medley_protocol::stage::StageKind;
use world::{Agent, assignment, id, lease, orders, part, row, shard_output};

const MS: Duration = Duration::from_millis(1);

fn running(committed: u64) -> FromRank {
    let state = RankState::Running { committed };
    FromRank::State { state }
}

fn refused(code: Code) -> Trouble {
    let detail = "because".into();
    Trouble::Refused { code, detail }
}

fn away() -> Trouble {
    Trouble::Away("no answer".into())
}

fn members(world: u32) -> Vec<Member> {
    let member = |rank| Member {
        rank,
        node: id(1),
        address: format!("h:{rank}"),
    };
    (0..world).map(member).collect()
}

/// The ranks started by these outputs, as (process, generation, rank, device).
fn starts(outputs: &[Output]) -> Vec<(ProcessId, u64, u32, u32)> {
    let start = |output: &Output| match output {
        Output::Start {
            process,
            device,
            order: ToRank::Start { assignment, rank, .. },
        } => Some((*process, assignment.generation, *rank, *device)),
        _ => None,
    };
    outputs.iter().filter_map(start).collect()
}

fn kills(outputs: &[Output]) -> Vec<ProcessId> {
    let kill = |output: &Output| match output {
        Output::Kill { process } => Some(*process),
        _ => None,
    };
    outputs.iter().filter_map(kill).collect()
}

fn told(outputs: &[Output]) -> Vec<(ProcessId, ToRank)> {
    let tell = |output: &Output| match output {
        Output::Tell { process, order } => Some((*process, order.clone())),
        _ => None,
    };
    outputs.iter().filter_map(tell).collect()
}

fn sent(outputs: &[Output]) -> Vec<(RequestId, Request)> {
    let send = |output: &Output| match output {
        Output::Send { id, request } => Some((*id, request.clone())),
        _ => None,
    };
    outputs.iter().filter_map(send).collect()
}

fn only_request(outputs: &[Output]) -> (RequestId, Request) {
    let mut requests = sent(outputs);
    assert_eq!(requests.len(), 1, "{outputs:?}");
    requests.remove(0)
}

fn halted(outputs: &[Output]) -> Option<&str> {
    outputs.iter().find_map(|output| match output {
        Output::Halt { reason } => Some(reason.as_str()),
        _ => None,
    })
}

fn states(agent: &Agent) -> Vec<RankState> {
    agent.reports().into_iter().map(|report| report.state).collect()
}

#[test]
fn orders_start_ranks_on_devices_of_their_own() {
    let mut agent = Agent::registered(2);
    let outputs = agent.obey(orders(1, vec![assignment(7, 1, &[0, 1], StageKind::Pretrain)]));
    let devices: Vec<(u32, u32)> = starts(&outputs)
        .iter()
        .map(|(_, _, rank, device)| (*rank, *device))
        .collect();
    assert_eq!(devices, [(0, 0), (1, 1)]);
    assert_eq!(states(&agent), [RankState::Starting, RankState::Starting]);
}

#[test]
fn a_lower_or_equal_revision_changes_nothing() {
    let mut agent = Agent::registered(2);
    agent.obey(orders(5, vec![assignment(7, 3, &[0], StageKind::Pretrain)]));
    for revision in [1, 4, 5] {
        let outputs = agent.obey(orders(revision, vec![assignment(8, 1, &[0], StageKind::Pretrain)]));
        assert!(starts(&outputs).is_empty() && kills(&outputs).is_empty(), "{outputs:?}");
    }
    assert_eq!(agent.beat().revision, 5);
}

#[test]
fn a_new_generation_starts_only_after_the_old_one_has_ended() {
    let mut agent = Agent::registered(2);
    let first = starts(&agent.obey(orders(1, vec![assignment(7, 1, &[0, 1], StageKind::Pretrain)])));
    let outputs = agent.obey(orders(2, vec![assignment(7, 2, &[0, 1], StageKind::Pretrain)]));
    assert_eq!(kills(&outputs), [first[0].0, first[1].0]);
    assert!(starts(&outputs).is_empty());
    assert!(
        agent.reports().iter().all(|report| report.generation == 2),
        "the new ranks are reported at once"
    );
    assert!(starts(&agent.exit(first[0].0, "was killed by signal 9")).is_empty());
    let started = starts(&agent.exit(first[1].0, "was killed by signal 9"));
    assert_eq!(
        started
            .iter()
            .map(|(_, generation, ..)| *generation)
            .collect::<Vec<_>>(),
        [2, 2]
    );
    assert_eq!(states(&agent), [RankState::Starting, RankState::Starting]);
}

#[test]
fn another_stage_waits_for_the_device_it_takes_over() {
    let mut agent = Agent::registered(1);
    let first = starts(&agent.obey(orders(1, vec![assignment(7, 1, &[0], StageKind::Pretrain)])));
    let outputs = agent.obey(orders(2, vec![assignment(8, 1, &[0], StageKind::Index)]));
    assert_eq!((kills(&outputs).len(), starts(&outputs).len()), (1, 0));
    assert_eq!(starts(&agent.exit(first[0].0, "was killed by signal 9")).len(), 1);
}

#[test]
fn what_is_not_listed_is_killed_once_and_no_longer_reported() {
    let mut agent = Agent::registered(1);
    let first = starts(&agent.obey(orders(1, vec![assignment(7, 1, &[0], StageKind::Pretrain)])));
    assert_eq!(kills(&agent.obey(orders(2, vec![]))), [first[0].0]);
    assert!(kills(&agent.obey(orders(3, vec![]))).is_empty());
    assert!(agent.reports().is_empty());
    agent.exit(first[0].0, "was killed by signal 9");
    assert!(agent.reports().is_empty());
}

#[test]
fn ranks_are_told_their_peers_and_then_a_wanted_checkpoint_each_once() {
    let mut agent = Agent::registered(2);
    let mut listed = assignment(7, 1, &[0, 1], StageKind::Pretrain);
    let request: CheckpointRequestId = id(3);
    let wanted = CheckpointWanted { request, step: 10 };
    listed.checkpoint_after = Some(wanted);
    let outputs = agent.obey(orders(1, vec![listed.clone()]));
    assert!(
        told(&outputs).is_empty(),
        "the checkpoint waits until the rank has its peers"
    );
    listed.members = members(2);
    let outputs = agent.obey(orders(2, vec![listed.clone()]));
    let connect = ToRank::Connect { members: members(2) };
    let checkpoint = ToRank::CheckpointAfter { wanted };
    let (a, b) = (ProcessId(0), ProcessId(1));
    let both = [
        (a, connect.clone()),
        (a, checkpoint.clone()),
        (b, connect),
        (b, checkpoint),
    ];
    assert_eq!(told(&outputs), both);
    listed.checkpoint_after = None;
    assert!(told(&agent.obey(orders(3, vec![listed.clone()]))).is_empty());
    listed.checkpoint_after = Some(wanted);
    assert!(told(&agent.obey(orders(4, vec![listed]))).is_empty());
}

#[test]
fn a_rank_that_ends_without_a_last_word_has_failed_and_may_be_tried_again() {
    let mut agent = Agent::registered(1);
    agent.obey(orders(1, vec![assignment(7, 1, &[0], StageKind::Pretrain)]));
    agent.say(ProcessId(0), running(4));
    let outputs = agent.exit(ProcessId(0), "was killed by signal 9");
    assert!(starts(&outputs).is_empty(), "only a new generation starts it again");
    let [RankState::Failed { reason, retry: true }] = &states(&agent)[..] else {
        panic!()
    };
    assert!(reason.contains("signal 9"), "{reason}");
}

#[test]
fn last_words_outlive_the_process() {
    let failed = RankState::Failed {
        reason: "no such shard".into(),
        retry: false,
    };
    for last in [failed, RankState::Finished { committed: 9 }] {
        let mut agent = Agent::registered(1);
        agent.obey(orders(1, vec![assignment(7, 1, &[0], StageKind::Pretrain)]));
        agent.say(ProcessId(0), FromRank::State { state: last.clone() });
        agent.exit(ProcessId(0), "ended with exit code 1");
        assert_eq!(states(&agent), [last]);
    }
}

#[test]
fn a_rank_that_babbles_is_reported_as_failed() {
    let mut agent = Agent::registered(1);
    agent.obey(orders(1, vec![assignment(7, 1, &[0], StageKind::Pretrain)]));
    agent.event(ProcessId(0), Event::Babbled("hello".into()));
    agent.exit(ProcessId(0), "was killed by signal 9");
    let [RankState::Failed { reason, retry: true }] = &states(&agent)[..] else {
        panic!()
    };
    assert!(reason.contains("hello"), "{reason}");
}

#[test]
fn committed_steps_show_in_the_next_beat() {
    let mut agent = Agent::registered(1);
    agent.obey(orders(1, vec![assignment(7, 1, &[0], StageKind::Pretrain)]));
    agent.say(ProcessId(0), running(4));
    agent.say(ProcessId(0), FromRank::Committed { metrics: row(4) });
    assert_eq!(states(&agent), [RankState::Running { committed: 5 }]);
}

#[test]
fn a_rank_that_listens_is_reported_before_the_next_beat_is_due() {
    let mut agent = Agent::registered(1);
    agent.obey(orders(1, vec![assignment(7, 1, &[0], StageKind::Pretrain)]));
    agent.pass(100 * MS);
    let address = "h:1".into();
    let outputs = agent.say(
        ProcessId(0),
        FromRank::State {
            state: RankState::Listening { address },
        },
    );
    assert!(
        outputs.iter().any(|output| matches!(output, Output::Beat { .. })),
        "{outputs:?}"
    );
}

#[test]
fn ranks_go_on_while_the_coordinator_is_away() {
    let mut agent = Agent::registered(1);
    agent.obey(orders(1, vec![assignment(7, 1, &[0], StageKind::Pretrain)]));
    let mut warnings = 0;
    for _ in 0..50 {
        let outputs = agent.answer_beat(Err(away()));
        assert!(kills(&outputs).is_empty() && halted(&outputs).is_none());
        warnings += outputs
            .iter()
            .filter(|output| matches!(output, Output::Warn(_)))
            .count();
    }
    assert_eq!(warnings, 1, "people are told once");
}

#[test]
fn another_agent_of_the_same_name_ends_this_one() {
    let mut agent = Agent::registered(1);
    agent.obey(orders(1, vec![assignment(7, 1, &[0], StageKind::Pretrain)]));
    let outputs = agent.answer_beat(Err(refused(Code::Stale)));
    assert_eq!(kills(&outputs), [ProcessId(0)]);
    assert!(
        halted(&outputs).is_some_and(|reason| reason.contains("--name")),
        "{outputs:?}"
    );
    assert!(!agent.state().is_done());
    agent.exit(ProcessId(0), "was killed by signal 9");
    assert!(agent.state().is_done());
}

#[test]
fn a_refused_token_ends_the_agent_with_the_flag_to_look_at() {
    for code in [Code::Unauthorized, Code::Forbidden] {
        let mut agent = Agent::new(1);
        agent.step(Input::Tick);
        let outputs = agent.step(Input::Registered(Err(refused(code))));
        assert!(
            halted(&outputs).is_some_and(|reason| reason.contains("--token-file")),
            "{outputs:?}"
        );
    }
}

#[test]
fn a_node_that_is_not_known_registers_again_and_keeps_its_ranks() {
    let mut agent = Agent::registered(1);
    agent.obey(orders(1, vec![assignment(7, 1, &[0], StageKind::Pretrain)]));
    let mut outputs = agent.answer_beat(Err(refused(Code::NotFound)));
    while !outputs.iter().any(|output| matches!(output, Output::Register(_))) {
        assert!(kills(&outputs).is_empty());
        outputs = agent.pass(50 * MS);
    }
    agent.step(Input::Registered(Ok(world::registered(1))));
    assert_eq!(agent.reports().len(), 1);
}

#[test]
fn another_coordinator_at_the_same_place_begins_anew() {
    let mut agent = Agent::registered(1);
    agent.obey(orders(90, vec![assignment(7, 1, &[0], StageKind::Pretrain)]));
    let mut outputs = agent.answer_beat(Err(refused(Code::NotFound)));
    while !outputs.iter().any(|output| matches!(output, Output::Register(_))) {
        outputs = agent.pass(50 * MS);
    }
    let outputs = agent.step(Input::Registered(Ok(world::registered(2))));
    assert_eq!(kills(&outputs), [ProcessId(0)]);
    agent.exit(ProcessId(0), "was killed by signal 9");
    let outputs = agent.obey(orders(1, vec![assignment(8, 1, &[0], StageKind::Pretrain)]));
    assert_eq!(starts(&outputs).len(), 1, "its revisions count from the beginning");
}

#[test]
fn a_part_is_sent_until_it_is_accepted() {
    let mut agent = Agent::registered(1);
    agent.obey(orders(1, vec![assignment(7, 2, &[1], StageKind::Pretrain)]));
    let (mut asked, mut request) = only_request(&agent.say(ProcessId(0), FromRank::Part { part: part(10, 1) }));
    for trouble in [
        away(),
        refused(Code::Unavailable),
        refused(Code::Internal),
        refused(Code::Conflict),
    ] {
        agent.answer(asked, Err(trouble));
        (asked, request) = agent.next_request();
    }
    let Request::Part { body, .. } = request else { panic!() };
    assert_eq!((body.generation, body.part), (2, part(10, 1)));
    agent.answer(asked, Ok(Reply::Done));
    agent.stays_silent();
}

#[test]
fn a_part_that_will_never_be_accepted_is_dropped_with_a_warning() {
    let mut agent = Agent::registered(1);
    agent.obey(orders(1, vec![assignment(7, 2, &[1], StageKind::Pretrain)]));
    let (asked, _) = only_request(&agent.say(ProcessId(0), FromRank::Part { part: part(10, 1) }));
    let outputs = agent.answer(asked, Err(refused(Code::Invalid)));
    assert!(
        outputs
            .iter()
            .any(|output| matches!(output, Output::Warn(text) if text.contains("because")))
    );
    agent.stays_silent();
}

#[test]
fn metrics_follow_what_is_stored_and_parts_follow_metrics() {
    let mut agent = Agent::registered(1);
    agent.obey(orders(1, vec![assignment(7, 1, &[0], StageKind::Pretrain)]));
    let (asked, request) = only_request(&agent.say(ProcessId(0), FromRank::Committed { metrics: row(0) }));
    assert!(matches!(request, Request::MetricsThrough { .. }));
    for step in 1..1200 {
        agent.say(ProcessId(0), FromRank::Committed { metrics: row(step) });
    }
    let outputs = agent.say(ProcessId(0), FromRank::Part { part: part(1100, 0) });
    assert!(sent(&outputs).is_empty(), "the rows below step 1100 come first");
    let outputs = agent.answer(asked, Ok(Reply::Through(MetricsThrough { next_step: 100 })));
    let (asked, request) = only_request(&outputs);
    assert_eq!(world::steps(&request), (100, 600));
    agent.answer(asked, Ok(Reply::Through(MetricsThrough { next_step: 600 })));
    let sent_at = agent.now();
    let (asked, request) = agent.next_request();
    assert_eq!(world::steps(&request), (600, 1100));
    assert!(agent.now() - sent_at >= 475 * MS, "at most a chunk every 500 ms");
    let outputs = agent.answer(asked, Ok(Reply::Through(MetricsThrough { next_step: 1100 })));
    assert!(matches!(only_request(&outputs).1, Request::Part { .. }));
}

#[test]
fn only_the_agent_of_the_lowest_rank_reports_metrics() {
    let mut agent = Agent::registered(1);
    agent.obey(orders(1, vec![assignment(7, 1, &[1], StageKind::Pretrain)]));
    for step in 0..3 {
        agent.say(ProcessId(0), FromRank::Committed { metrics: row(step) });
    }
    agent.stays_silent();
    let outputs = agent.obey(orders(2, vec![assignment(7, 2, &[0], StageKind::Pretrain)]));
    let (asked, _) = only_request(&outputs);
    let outputs = agent.answer(asked, Ok(Reply::Through(MetricsThrough { next_step: 1 })));
    assert_eq!(
        world::steps(&only_request(&outputs).1),
        (1, 3),
        "it leads now and has the rows of before"
    );
}

#[test]
fn refused_metrics_are_asked_for_again() {
    let mut agent = Agent::registered(1);
    agent.obey(orders(1, vec![assignment(7, 1, &[0], StageKind::Pretrain)]));
    let (asked, _) = only_request(&agent.say(ProcessId(0), FromRank::Committed { metrics: row(5) }));
    let outputs = agent.answer(asked, Ok(Reply::Through(MetricsThrough { next_step: 5 })));
    agent.answer(only_request(&outputs).0, Err(refused(Code::Conflict)));
    assert!(matches!(agent.next_request().1, Request::MetricsThrough { .. }));
}

#[test]
fn rows_that_nobody_has_do_not_keep_a_checkpoint_from_being_committed() {
    let mut agent = Agent::registered(1);
    agent.obey(orders(1, vec![assignment(7, 1, &[0], StageKind::Pretrain)]));
    let (asked, _) = only_request(&agent.say(ProcessId(0), FromRank::Committed { metrics: row(5) }));
    agent.say(ProcessId(0), FromRank::Part { part: part(6, 0) });
    let outputs = agent.answer(asked, Ok(Reply::Through(MetricsThrough { next_step: 3 })));
    assert!(
        outputs
            .iter()
            .any(|output| matches!(output, Output::Warn(text) if text.contains("from step 3 to 5")))
    );
    assert!(matches!(only_request(&outputs).1, Request::Part { .. }));
}

#[test]
fn redone_steps_report_no_row_twice() {
    let mut agent = Agent::registered(1);
    agent.obey(orders(1, vec![assignment(7, 1, &[0], StageKind::Pretrain)]));
    let (asked, _) = only_request(&agent.say(ProcessId(0), FromRank::Committed { metrics: row(0) }));
    for step in [1, 2, 3, 1, 2, 3, 4] {
        agent.say(ProcessId(0), FromRank::Committed { metrics: row(step) });
    }
    let outputs = agent.answer(asked, Ok(Reply::Through(MetricsThrough { next_step: 0 })));
    assert_eq!(world::steps(&only_request(&outputs).1), (0, 5));
}

#[test]
fn the_last_rows_of_a_stage_that_left_still_arrive() {
    let mut agent = Agent::registered(1);
    agent.obey(orders(1, vec![assignment(7, 1, &[0], StageKind::Pretrain)]));
    let (asked, _) = only_request(&agent.say(ProcessId(0), FromRank::Committed { metrics: row(0) }));
    agent.obey(orders(2, vec![]));
    let outputs = agent.answer(asked, Ok(Reply::Through(MetricsThrough { next_step: 0 })));
    let (asked, request) = only_request(&outputs);
    assert_eq!(world::steps(&request), (0, 1));
    agent.answer(asked, Ok(Reply::Through(MetricsThrough { next_step: 1 })));
    agent.stays_silent();
}

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
    assert!(agent.now() - asked_at >= 475 * MS, "after a pause");
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
            renewed_at.push((agent.now() - began).as_secs());
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
    let (asked, _) = only_request(&agent.say(ProcessId(0), FromRank::TaskDone { lease, output }));
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
    let (asked, _) = only_request(&agent.say(ProcessId(0), FromRank::TaskDone { lease, output }));
    agent.say(ProcessId(0), FromRank::LeaseWanted);
    let outputs = agent.answer(asked, Err(refused(Code::Stale)));
    assert!(
        !outputs.iter().any(|output| matches!(output, Output::Warn(_))),
        "{outputs:?}"
    );
    assert!(matches!(only_request(&outputs).1, Request::Lease { .. }));
}

#[test]
fn the_task_of_a_rank_that_dies_is_given_back() {
    let mut agent = at_work();
    let (_, request) = only_request(&agent.exit(ProcessId(0), "was killed by signal 11"));
    let Request::Fail { task, body } = request else {
        panic!()
    };
    assert_eq!((task, body.token, body.retry), (lease(1).task, lease(1).token, true));
    assert!(body.reason.contains("signal 11"), "{}", body.reason);
}

#[test]
fn stopping_kills_the_ranks_and_waits_for_facts() {
    let mut agent = Agent::registered(1);
    agent.obey(orders(1, vec![assignment(7, 2, &[1], StageKind::Pretrain)]));
    let (asked, _) = only_request(&agent.say(ProcessId(0), FromRank::Part { part: part(10, 1) }));
    assert_eq!(kills(&agent.step(Input::Stop)), [ProcessId(0)]);
    agent.exit(ProcessId(0), "was killed by signal 9");
    assert!(!agent.state().is_done());
    agent.answer(asked, Ok(Reply::Done));
    assert!(agent.state().is_done());
    let late = agent.step(Input::Ordered(Ok(orders(
        2,
        vec![assignment(7, 3, &[1], StageKind::Pretrain)],
    ))));
    assert!(starts(&late).is_empty());
}

#[test]
fn one_request_at_a_time_tries_whether_the_coordinator_is_back() {
    let mut agent = Agent::registered(4);
    let stages: Vec<_> = (1..5)
        .map(|stage| assignment(stage, 1, &[1], StageKind::Pretrain))
        .collect();
    let started = starts(&agent.obey(orders(1, stages)));
    let mut asked = Vec::new();
    for (process, ..) in started {
        asked.push(only_request(&agent.say(process, FromRank::Part { part: part(1, 1) })).0);
    }
    for id in asked {
        agent.answer(id, Err(away()));
    }
    let mut tried = Vec::new();
    for _ in 0..4 {
        let (id, request) = agent.next_request();
        assert!(sent(&agent.pass(50 * MS)).is_empty());
        let Request::Part { stage, .. } = request else { panic!() };
        tried.push(stage);
        agent.answer(id, Err(away()));
    }
    tried.sort_unstable();
    tried.dedup();
    assert_eq!(tried.len(), 4, "each in its turn");
}
