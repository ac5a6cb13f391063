//! Registration, beats, and the coordinator's refusals.

use super::*;

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
fn stopping_kills_the_ranks_and_waits_for_facts() {
    let mut agent = Agent::registered(1);
    agent.obey(orders(1, vec![assignment(7, 2, &[1], StageKind::Pretrain)]));
    let (asked, _) = only_request(&agent.say(
        ProcessId(0),
        FromRank::Part {
            part: part(10, 1),
            peak_bytes: PEAK,
        },
    ));
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
fn an_agent_that_leaves_says_so_and_ends_once_nothing_is_listed_for_it() {
    let mut agent = Agent::registered(1);
    agent.obey(orders(1, vec![assignment(7, 2, &[1], StageKind::Pretrain)]));
    agent.say(ProcessId(0), reached(2, RankState::Running { committed: 3 }));
    assert_eq!(agent.beat().leaves_in_ms, None);
    agent.step(Input::Leave { grace: 5000 * MS });
    let said = agent.beat().leaves_in_ms;
    assert!(said.is_some_and(|ms| (1..=5000).contains(&ms)), "{said:?}");
    assert!(!agent.state().stops(), "the rank goes on");
    agent.obey(orders(2, Vec::new()));
    assert!(!agent.state().stops(), "its process has not ended");
    agent.exit(ProcessId(0), "was killed by signal 9");
    assert!(agent.state().stops() && agent.state().is_done());
}

#[test]
fn an_agent_without_work_tells_the_coordinator_before_it_leaves_and_does_not_wait_for_one_that_is_away() {
    let mut agent = Agent::registered(1);
    agent.obey(orders(1, Vec::new()));
    agent.step(Input::Leave { grace: 5000 * MS });
    assert!(!agent.state().stops());
    let outputs = (0..4).flat_map(|_| agent.pass(25 * MS)).collect::<Vec<Output>>();
    let says_so = |output: &Output| matches!(output, Output::Beat { beat, .. } if beat.leaves_in_ms.is_some());
    assert!(outputs.iter().any(says_so), "{outputs:?}");
    assert!(!agent.state().stops());
    agent.obey(orders(1, Vec::new()));
    assert!(agent.state().stops());

    let mut agent = Agent::registered(1);
    agent.answer_beat(Err(away()));
    agent.step(Input::Leave { grace: 5000 * MS });
    assert!(agent.state().stops());
}

#[test]
fn an_agent_that_leaves_kills_its_ranks_when_its_time_is_over() {
    let mut agent = Agent::registered(1);
    agent.obey(orders(1, vec![assignment(7, 2, &[1], StageKind::Pretrain)]));
    agent.step(Input::Leave { grace: 5000 * MS });
    assert_eq!(kills(&agent.pass(4999 * MS)), []);
    assert_eq!(kills(&agent.pass(MS)), [ProcessId(0)]);
    agent.exit(ProcessId(0), "was killed by signal 9");
    assert!(agent.state().stops() && agent.state().is_done());
}
