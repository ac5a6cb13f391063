//! Parts of checkpoints and metrics arrive.

use super::world::row;
use super::*;
use medley_protocol::agent::Assignment;
use medley_protocol::ledger::{LaneSamples, LedgerEntry};
use medley_protocol::metrics::StepMetrics;

#[test]
fn a_part_is_sent_until_it_is_accepted() {
    let mut agent = Agent::registered(1);
    agent.obey(orders(1, vec![assignment(7, 2, &[1], StageKind::Pretrain)]));
    let (mut asked, mut request) = only_request(&agent.say(
        ProcessId(0),
        FromRank::Part {
            part: part(10, 1),
            peak_bytes: PEAK,
        },
    ));
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
    let (asked, _) = only_request(&agent.say(
        ProcessId(0),
        FromRank::Part {
            part: part(10, 1),
            peak_bytes: PEAK,
        },
    ));
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
    let (asked, request) = only_request(&agent.say(ProcessId(0), committed(0)));
    assert!(matches!(request, Request::MetricsThrough { .. }));
    for step in 1..1200 {
        agent.say(ProcessId(0), committed(step));
    }
    let outputs = agent.say(
        ProcessId(0),
        FromRank::Part {
            part: part(1100, 0),
            peak_bytes: PEAK,
        },
    );
    assert!(sent(&outputs).is_empty(), "the rows below step 1100 come first");
    let outputs = agent.answer(asked, Ok(Reply::Through(MetricsThrough { next_step: 100 })));
    let (asked, request) = only_request(&outputs);
    assert_eq!(world::steps(&request), (100, 600));
    agent.answer(asked, Ok(Reply::Through(MetricsThrough { next_step: 600 })));
    let sent_at = agent.now();
    let (asked, request) = agent.next_request();
    assert_eq!(world::steps(&request), (600, 1100));
    assert!(agent.now() >= sent_at + 475 * MS, "at most a chunk every 500 ms");
    let outputs = agent.answer(asked, Ok(Reply::Through(MetricsThrough { next_step: 1100 })));
    assert!(matches!(only_request(&outputs).1, Request::Part { .. }));
}

#[test]
fn only_the_agent_of_the_lowest_rank_reports_metrics() {
    let mut agent = Agent::registered(1);
    agent.obey(orders(1, vec![assignment(7, 1, &[1], StageKind::Pretrain)]));
    for step in 0..3 {
        agent.say(ProcessId(0), committed(step));
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
    let (asked, _) = only_request(&agent.say(ProcessId(0), committed(5)));
    let outputs = agent.answer(asked, Ok(Reply::Through(MetricsThrough { next_step: 5 })));
    agent.answer(only_request(&outputs).0, Err(refused(Code::Conflict)));
    assert!(matches!(agent.next_request().1, Request::MetricsThrough { .. }));
}

#[test]
fn rows_that_nobody_has_do_not_keep_a_checkpoint_from_being_committed() {
    let mut agent = Agent::registered(1);
    agent.obey(orders(1, vec![assignment(7, 1, &[0], StageKind::Pretrain)]));
    let (asked, _) = only_request(&agent.say(ProcessId(0), committed(5)));
    agent.say(
        ProcessId(0),
        FromRank::Part {
            part: part(6, 0),
            peak_bytes: PEAK,
        },
    );
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
    let (asked, _) = only_request(&agent.say(ProcessId(0), committed(0)));
    for step in [1, 2, 3, 1, 2, 3, 4] {
        agent.say(ProcessId(0), committed(step));
    }
    let outputs = agent.answer(asked, Ok(Reply::Through(MetricsThrough { next_step: 0 })));
    assert_eq!(world::steps(&only_request(&outputs).1), (0, 5));
}

#[test]
fn the_last_rows_of_a_stage_that_left_still_arrive() {
    let mut agent = Agent::registered(1);
    agent.obey(orders(1, vec![assignment(7, 1, &[0], StageKind::Pretrain)]));
    let (asked, _) = only_request(&agent.say(ProcessId(0), committed(0)));
    agent.obey(orders(2, vec![]));
    let outputs = agent.answer(asked, Ok(Reply::Through(MetricsThrough { next_step: 0 })));
    let (asked, request) = only_request(&outputs);
    assert_eq!(world::steps(&request), (0, 1));
    agent.answer(asked, Ok(Reply::Through(MetricsThrough { next_step: 1 })));
    agent.stays_silent();
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
        asked.push(
            only_request(&agent.say(
                process,
                FromRank::Part {
                    part: part(1, 1),
                    peak_bytes: PEAK,
                },
            ))
            .0,
        );
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

/// A committed step with what it has read.
fn with_ledger(step: u64, samples: Vec<u64>) -> FromRank {
    let lane = LaneSamples {
        epoch: 0,
        position: 0,
        samples,
        replaced: Vec::new(),
    };
    let ledger = LedgerEntry {
        step,
        pairs: 100,
        lanes: vec![lane],
    };
    FromRank::Committed {
        metrics: row(step),
        ledger: Some(ledger),
    }
}

#[test]
fn a_step_that_two_ranks_have_read_differently_is_told() {
    let mut agent = Agent::registered(2);
    agent.obey(orders(1, vec![assignment(7, 1, &[0, 1], StageKind::Pretrain)]));
    let warnings = |outputs: Vec<Output>| {
        let warn = |output: &Output| matches!(output, Output::Warn(text) if text.contains("other samples in step 3"));
        outputs.iter().filter(|output| warn(output)).count()
    };
    assert_eq!(warnings(agent.say(ProcessId(0), with_ledger(3, vec![1, 2]))), 0);
    assert_eq!(warnings(agent.say(ProcessId(1), with_ledger(3, vec![1, 2]))), 0);
    assert_eq!(warnings(agent.say(ProcessId(1), with_ledger(3, vec![1, 3]))), 1);
}

#[test]
fn the_ledger_travels_with_its_rows_in_requests_that_are_not_too_large() {
    let mut agent = Agent::registered(1);
    agent.obey(orders(1, vec![assignment(7, 1, &[0], StageKind::Pretrain)]));
    let (mut asked, _) = only_request(&agent.say(ProcessId(0), with_ledger(0, vec![0; 40_000])));
    for step in 1..4 {
        agent.say(
            ProcessId(0),
            with_ledger(step, vec![step; if step < 3 { 20_000 } else { 100_000 }]),
        );
    }
    let mut requests = Vec::new();
    let mut next_step = 0;
    while next_step < 4 {
        let outputs = agent.answer(asked, Ok(Reply::Through(MetricsThrough { next_step })));
        let (id, request) = if sent(&outputs).is_empty() {
            agent.next_request()
        } else {
            only_request(&outputs)
        };
        let Request::Metrics { chunk, .. } = request else {
            panic!("{request:?}")
        };
        let steps: Vec<u64> = chunk.rows.iter().map(|row| row.step).collect();
        assert!(chunk.ledger.iter().map(|entry| entry.step).eq(steps.iter().copied()));
        next_step = steps[steps.len() - 1] + 1;
        asked = id;
        requests.push(steps);
    }
    assert_eq!(requests, [vec![0, 1], vec![2], vec![3]]);
}

/// A rank says that it goes on from the state after so many steps.
fn begins(generation: u64, step: u64) -> FromRank {
    FromRank::State {
        generation,
        state: RankState::Running { committed: step },
    }
}

#[test]
fn rows_of_steps_that_are_computed_again_are_reported_as_they_are_then() {
    let mut agent = Agent::registered(1);
    agent.obey(orders(1, vec![assignment(7, 1, &[0], StageKind::Pretrain)]));
    agent.say(ProcessId(0), begins(1, 0));
    let (asked, _) = only_request(&agent.say(ProcessId(0), committed(0)));
    for step in 1..10 {
        agent.say(ProcessId(0), committed(step));
    }
    // All that was committed is stored, and then found to be doubtful from step 4 on.
    let (asked, _) = only_request(&agent.answer(asked, Ok(Reply::Through(MetricsThrough { next_step: 0 }))));
    let again = Assignment {
        distrusts: 1,
        ..assignment(7, 2, &[0], StageKind::Pretrain)
    };
    agent.obey(orders(2, vec![again]));
    agent.exit(ProcessId(0), "was ended by signal 9");
    agent.say(ProcessId(1), begins(2, 4));
    // This answer is of the time before and says nothing of what is stored now: that is asked.
    let late = agent.answer(asked, Ok(Reply::Through(MetricsThrough { next_step: 10 })));
    let (asked, request) = only_request(&late);
    let redone = StepMetrics { itc: -1.0, ..row(4) };
    let again = FromRank::Committed {
        metrics: redone,
        ledger: None,
    };
    agent.say(ProcessId(1), again);
    assert!(matches!(request, Request::MetricsThrough { .. }), "{request:?}");
    let outputs = agent.answer(asked, Ok(Reply::Through(MetricsThrough { next_step: 3 })));
    let (_, request) = only_request(&outputs);
    let Request::Metrics { chunk, .. } = request else {
        panic!("{request:?}")
    };
    assert_eq!((chunk.generation, chunk.rows), (2, vec![row(3), redone]));
}
