//! Which rank processes run, what they are told, and how they end.

use super::*;
use medley_protocol::agent::{Connecting, Probe, StepPhase};

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
fn a_new_generation_of_a_stage_of_tasks_starts_only_after_the_old_one_has_ended() {
    let mut agent = Agent::registered(2);
    let first = starts(&agent.obey(orders(1, vec![assignment(7, 1, &[0, 1], StageKind::Capfilt)])));
    let outputs = agent.obey(orders(2, vec![assignment(7, 2, &[0, 1], StageKind::Capfilt)]));
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
fn survivors_of_a_training_stage_take_the_seats_of_its_next_generation_in_order() {
    let mut agent = Agent::registered(3);
    agent.obey(orders(1, vec![assignment(7, 1, &[3, 4, 5], StageKind::Pretrain)]));
    agent.exit(ProcessId(1), "was killed by signal 9");
    let outputs = agent.obey(orders(2, vec![assignment(7, 2, &[0, 1, 2], StageKind::Pretrain)]));
    let calls = [(ProcessId(0), 2, 0, true), (ProcessId(2), 2, 1, true)];
    assert_eq!(calls_of(&outputs), calls);
    assert_eq!(kills(&outputs), []);
    let started: Vec<(u64, u32)> = starts(&outputs).iter().map(|(_, of, rank, _)| (*of, *rank)).collect();
    assert_eq!(started, [(2, 2)]);
    let seats: Vec<(u64, u32)> = agent
        .reports()
        .iter()
        .map(|report| (report.generation, report.rank))
        .collect();
    assert_eq!(seats, [(2, 0), (2, 1), (2, 2)]);
    assert!(states(&agent).iter().all(|state| *state == RankState::Starting));
}

#[test]
fn a_smaller_generation_keeps_the_lowest_of_its_ranks() {
    let mut agent = Agent::registered(3);
    agent.obey(orders(1, vec![assignment(7, 1, &[0, 1, 2], StageKind::Pretrain)]));
    let outputs = agent.obey(orders(2, vec![assignment(7, 2, &[4], StageKind::Pretrain)]));
    assert_eq!(calls_of(&outputs), [(ProcessId(0), 2, 4, true)]);
    assert_eq!(kills(&outputs), [ProcessId(1), ProcessId(2)]);
}

#[test]
fn a_generation_gets_ready_beside_the_one_that_works() {
    let mut agent = Agent::registered(2);
    let mut present = assignment(7, 1, &[0], StageKind::Pretrain);
    present.members = members(1);
    agent.obey(orders(1, vec![present.clone()]));
    agent.say(ProcessId(0), running(3));
    let mut next = assignment(7, 2, &[0, 1], StageKind::Pretrain);
    let outputs = agent.obey(orders(2, vec![present, next.clone()]));
    assert_eq!(calls_of(&outputs), [(ProcessId(0), 2, 0, false)]);
    assert_eq!(starts(&outputs), [(ProcessId(1), 2, 1, 1)]);
    agent.say(ProcessId(0), listening(2));
    agent.say(ProcessId(1), listening(2));
    agent.say(ProcessId(0), committed(3));
    assert_eq!(states(&agent)[0], RankState::Running { committed: 4 });
    assert!(matches!(
        &states(&agent)[1..],
        [RankState::Listening { .. }, RankState::Listening { .. }]
    ));
    next.members = members(2);
    let outputs = agent.obey(orders(3, vec![next]));
    assert_eq!((kills(&outputs).len(), told(&outputs).len()), (0, 2));
    agent.say(ProcessId(0), reached(2, RankState::Running { committed: 5 }));
    agent.say(ProcessId(0), committed(5));
    assert_eq!(states(&agent)[0], RankState::Running { committed: 6 });
}

#[test]
fn ranks_that_leave_are_told_once_and_not_missed_when_they_have_ended() {
    let mut agent = Agent::registered(2);
    let mut present = assignment(7, 1, &[0, 1], StageKind::Pretrain);
    present.members = members(2);
    agent.obey(orders(1, vec![present.clone()]));
    for id in [0, 1] {
        agent.say(ProcessId(id), running(3));
    }
    let mut next = assignment(7, 2, &[0], StageKind::Pretrain);
    let outputs = agent.obey(orders(2, vec![present.clone(), next.clone()]));
    assert_eq!(calls_of(&outputs), [(ProcessId(0), 2, 0, false)]);
    next.members = members(1);
    present.members.clear();
    present.parting = Some(Parting {
        next: 2,
        ranks: vec![1],
        saves: false,
    });
    let outputs = agent.obey(orders(3, vec![present, next.clone()]));
    let leave = ToRank::Leave { next: 2, saves: false };
    assert!(told(&outputs).contains(&(ProcessId(1), leave)), "{outputs:?}");
    assert_eq!((told(&outputs).len(), kills(&outputs).len()), (2, 0));
    assert!(told(&agent.pass(100 * MS)).is_empty());
    let left = RankState::Left { committed: 4 };
    agent.say(ProcessId(1), reached(1, left.clone()));
    agent.exit(ProcessId(1), "ended");
    assert!(starts(&agent.pass(100 * MS)).is_empty());
    assert_eq!(states(&agent)[1], left);
    agent.obey(orders(4, vec![next]));
    assert_eq!(agent.reports().len(), 1);
}

#[test]
fn a_generation_that_never_came_about_is_replaced_by_a_later_one() {
    let mut agent = Agent::registered(2);
    let present = assignment(7, 1, &[0], StageKind::Pretrain);
    agent.obey(orders(1, vec![present.clone()]));
    let next = |generation| assignment(7, generation, &[0, 1], StageKind::Pretrain);
    agent.obey(orders(2, vec![present, next(2)]));
    let outputs = agent.obey(orders(3, vec![next(3)]));
    let calls = [(ProcessId(0), 3, 0, true), (ProcessId(1), 3, 1, true)];
    assert_eq!(calls_of(&outputs), calls);
}

#[test]
fn a_process_that_stands_still_is_killed_and_one_that_pulses_is_not() {
    let mut agent = Agent::registered(2);
    agent.obey(orders(1, vec![assignment(7, 1, &[0, 1], StageKind::Pretrain)]));
    agent.say(ProcessId(0), pulse(None));
    let mut killed = Vec::new();
    for _ in 0..30 {
        killed.extend(kills(&agent.pass(100 * MS)));
        agent.say(ProcessId(1), pulse(None));
    }
    assert_eq!(killed, [ProcessId(0)]);
    let [RankState::Failed { reason, retry: true }, RankState::Starting] = &states(&agent)[..] else {
        panic!("{:?}", states(&agent))
    };
    assert!(reason.contains("stands still"), "{reason}");
}

#[test]
fn a_rank_that_pulses_and_does_not_answer_its_call_is_killed() {
    let mut agent = Agent::registered(2);
    agent.obey(orders(1, vec![assignment(7, 1, &[0, 1], StageKind::Pretrain)]));
    let doing = Some(Doing {
        step: 9,
        phase: medley_protocol::agent::StepPhase::Computing,
        collective: 2,
        for_ms: 4000,
        lane_us: None,
        usual_step_ms: Some(1000),
    });
    let all_pulse = |agent: &mut Agent| {
        for rank in 0..2 {
            agent.say(ProcessId(rank), pulse(doing));
        }
    };
    all_pulse(&mut agent);
    assert_eq!(agent.reports()[1].doing, doing);
    agent.obey(orders(2, vec![assignment(7, 2, &[0, 1], StageKind::Pretrain)]));
    agent.say(ProcessId(0), listening(2));
    let mut killed = Vec::new();
    for _ in 0..29 {
        killed.extend(kills(&agent.pass(100 * MS)));
        all_pulse(&mut agent);
    }
    assert_eq!(killed, [], "three of its steps are not over");
    killed.extend(kills(&agent.pass(200 * MS)));
    assert_eq!(killed, [ProcessId(1)]);
}

#[test]
fn a_rank_that_connects_is_reported_in_the_generation_it_connects_in() {
    let mut agent = Agent::registered(1);
    let present = assignment(7, 1, &[0], StageKind::Pretrain);
    agent.obey(orders(1, vec![present.clone()]));
    agent.obey(orders(2, vec![present, assignment(7, 2, &[0], StageKind::Pretrain)]));
    let connecting = Connecting {
        generation: 2,
        lacks: vec![1],
        for_ms: 300,
    };
    let pulse = FromRank::Pulse {
        doing: None,
        connecting: Some(connecting.clone()),
    };
    agent.say(ProcessId(0), running(0));
    agent.say(ProcessId(0), pulse.clone());
    let reported: Vec<_> = agent.reports().into_iter().map(|report| report.connecting).collect();
    assert_eq!(reported, [None, Some(connecting)]);
    agent.exit(ProcessId(0), "was ended by signal 9");
    assert!(agent.reports().iter().all(|report| report.connecting.is_none()));
}

#[test]
fn an_agent_says_where_it_is_reached_and_whom_it_reaches_of_those_it_is_asked_for() {
    let mut agent = Agent::registered(1);
    let asked = Orders {
        probes: vec![Probe {
            node: id(2),
            address: "b:9".into(),
        }],
        ..orders(0, Vec::new())
    };
    let outputs = agent.obey(asked);
    let try_it = Output::Probe {
        node: id(2),
        address: "b:9".into(),
    };
    assert!(outputs.contains(&try_it), "although the revision is old: {outputs:?}");
    let outputs = agent.step(Input::Probed {
        node: id(2),
        reached: true,
    });
    let beat = outputs
        .into_iter()
        .chain(agent.pass(50 * MS))
        .find_map(|output| match output {
            Output::Beat { beat, .. } => Some(beat),
            _ => None,
        });
    assert_eq!(beat.map(|beat| beat.reached), Some(vec![id(2)]), "that is news");
    assert_eq!(agent.beat().reached, [], "nobody asks any more");
}

#[test]
fn an_agent_that_stood_still_itself_blames_nobody() {
    let mut agent = Agent::registered(1);
    agent.obey(orders(1, vec![assignment(7, 1, &[0], StageKind::Pretrain)]));
    agent.say(ProcessId(0), pulse(None));
    assert_eq!(kills(&agent.pass(60_000 * MS)), []);
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
    let connect = ToRank::Connect {
        generation: 1,
        members: members(2),
    };
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
        agent.say(ProcessId(0), reached(1, last.clone()));
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
    agent.say(ProcessId(0), committed(4));
    assert_eq!(states(&agent), [RankState::Running { committed: 5 }]);
}

#[test]
fn a_rank_that_listens_is_reported_before_the_next_beat_is_due() {
    let mut agent = Agent::registered(1);
    agent.obey(orders(1, vec![assignment(7, 1, &[0], StageKind::Pretrain)]));
    agent.pass(100 * MS);
    let outputs = agent.say(ProcessId(0), listening(1));
    assert!(
        outputs.iter().any(|output| matches!(output, Output::Beat { .. })),
        "{outputs:?}"
    );
}

#[test]
fn a_process_that_holds_the_others_up_gets_no_seat_and_is_killed() {
    let mut agent = Agent::registered(3);
    agent.obey(orders(1, vec![assignment(7, 1, &[0, 1, 2], StageKind::Pretrain)]));
    let mut next = assignment(7, 2, &[0, 1], StageKind::Pretrain);
    next.without = vec![medley_protocol::agent::Former { generation: 1, rank: 0 }];
    let outputs = agent.obey(orders(2, vec![next]));
    let calls = [(ProcessId(1), 2, 0, true), (ProcessId(2), 2, 1, true)];
    assert_eq!(calls_of(&outputs), calls);
    assert_eq!(kills(&outputs), [ProcessId(0)]);
}

#[test]
fn processes_of_a_generation_that_is_not_trusted_get_no_seat_in_any_later_one() {
    let mut agent = Agent::registered(2);
    agent.obey(orders(1, vec![assignment(7, 1, &[0, 1], StageKind::Pretrain)]));
    // It has not heard of the one between.
    let mut later = assignment(7, 3, &[0, 1], StageKind::Pretrain);
    later.distrusts = 1;
    let outputs = agent.obey(orders(3, vec![later]));
    assert!(calls_of(&outputs).is_empty(), "{outputs:?}");
    assert_eq!(kills(&outputs), [ProcessId(0), ProcessId(1)]);
}

#[test]
fn an_agent_tells_at_once_and_once_that_a_rank_misses_another_or_is_quiet() {
    let mut agent = Agent::registered(1);
    agent.obey(orders(1, vec![assignment(7, 1, &[0], StageKind::Pretrain)]));
    agent.say(ProcessId(0), running(0));
    agent.beat();
    let has_news = |agent: &Agent| agent.state().ranks.has_news();
    // The next beat comes at once when the one under way is answered.
    let tell = |agent: &mut Agent| {
        agent.pass(50 * MS);
        let outputs = agent.answer_beat(Ok(orders(0, Vec::new())));
        assert!(outputs.iter().any(|output| matches!(output, Output::Beat { .. })));
    };
    let waits = |for_ms| {
        pulse(Some(Doing {
            step: 3,
            phase: StepPhase::Exchanging,
            collective: 7,
            for_ms,
            usual_step_ms: Some(100),
            lane_us: None,
        }))
    };
    agent.say(ProcessId(0), waits(499));
    assert!(!has_news(&agent));
    agent.say(ProcessId(0), waits(500));
    assert!(has_news(&agent));
    tell(&mut agent);
    agent.say(ProcessId(0), waits(600));
    assert!(!has_news(&agent), "it is known by now");
    // The beat that is under way is not answered, so no other takes the news along. A longer time without a look would be the agent's
    // own.
    agent.pass(375 * MS);
    agent.pass(374 * MS);
    assert!(!has_news(&agent));
    agent.pass(MS);
    assert!(has_news(&agent));
    tell(&mut agent);
    agent.pass(100 * MS);
    assert!(!has_news(&agent), "it is known by now");
}

#[test]
fn a_beat_says_for_how_long_a_process_has_said_nothing() {
    let mut agent = Agent::registered(1);
    agent.obey(orders(1, vec![assignment(7, 1, &[0], StageKind::Pretrain)]));
    assert_eq!(agent.reports()[0].quiet_ms, None, "it has yet to begin");
    agent.say(ProcessId(0), pulse(None));
    agent.pass(300 * MS);
    assert_eq!(agent.reports()[0].quiet_ms, Some(300));
}
