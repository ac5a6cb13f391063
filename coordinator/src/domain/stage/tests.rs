use super::*;
use medley_protocol::ids::{CheckpointId, IncarnationId, NodeId};
use uuid::Uuid;

fn stage(kind: StageKind) -> Stage {
    Stage {
        id: StageId::from_uuid(Uuid::from_u128(1)),
        name: format!("{kind}-0"),
        kind,
        round: 0,
        needs: Vec::new(),
        state: State::Blocked,
        generation: 0,
        world: 0,
        setbacks: Setbacks::default(),
        forgiven: 0,
        course: None,
        facts: Facts::default(),
    }
}

fn placed(stage: Stage) -> Stage {
    stage.place(Vec::new(), "s".into()).unwrap()
}

fn checkpoint(step: u64) -> Manifest {
    Manifest {
        id: CheckpointId::from_uuid(Uuid::from_u128(9)),
        stage: StageId::from_uuid(Uuid::from_u128(1)),
        step,
        state_bytes: 1,
        parts: Vec::new(),
    }
}

#[test]
fn generations_grow_and_keep_the_checkpoint_they_resume_from() {
    let mut stage = placed(stage(StageKind::Pretrain).unblock().unwrap());
    assert_eq!(stage.present().unwrap().number, 1);
    assert_eq!(stage.state.label(), StageState::Starting);
    stage.facts.checkpoint = Some(checkpoint(5));
    assert_eq!(stage.present().unwrap().resume, None);
    let stage = placed(stage.set_back("a node is lost").unwrap());
    let generation = stage.present().unwrap();
    assert_eq!(
        (generation.number, generation.resume.as_ref().map(|m| m.step)),
        (2, Some(5))
    );
}

#[test]
fn stages_of_tasks_run_as_soon_as_they_are_placed() {
    let stage = placed(stage(StageKind::Index).unblock().unwrap());
    assert_eq!(stage.state.label(), StageState::Running);
}

#[test]
fn eight_setbacks_without_progress_are_enough() {
    let mut stage = stage(StageKind::Pretrain).unblock().unwrap();
    for _ in 1..MAX_SETBACKS {
        stage = placed(stage).set_back("it died").unwrap();
    }
    let stage = placed(stage).set_back("it died again").unwrap();
    let State::Failed { reason } = stage.state else {
        panic!("{:?}", stage.state)
    };
    assert!(
        reason.contains("8 generations") && reason.contains("it died again"),
        "{reason}"
    );
}

#[test]
fn stored_metrics_are_progress_without_a_checkpoint() {
    let mut stage = stage(StageKind::Pretrain).unblock().unwrap();
    for step in 1..=3 * u64::from(MAX_SETBACKS) {
        stage.facts.metrics_through = step;
        stage = placed(stage).set_back("it died").unwrap();
        assert_eq!(stage.setbacks.in_a_row, 1);
    }
}

#[test]
fn a_new_checkpoint_starts_the_count_again() {
    let mut stage = stage(StageKind::Pretrain).unblock().unwrap();
    for step in 1..=3 * u64::from(MAX_SETBACKS) {
        stage.facts.checkpoint = Some(checkpoint(step));
        stage = placed(stage).set_back("it died").unwrap();
        assert_eq!(stage.setbacks.in_a_row, 1);
    }
}

#[test]
fn a_generation_gets_ready_beside_the_present_one_and_follows_or_does_not() {
    let stage = placed(stage(StageKind::Pretrain).unblock().unwrap());
    assert!(
        stage.clone().prepare(Vec::new(), "s".into()).is_err(),
        "it still starts"
    );
    let numbers = |stage: &Stage| {
        let number = |generation: &Generation| generation.number;
        (stage.present().map(number), stage.next().map(number))
    };
    let stage = stage
        .run(Vec::new(), 0)
        .unwrap()
        .prepare(Vec::new(), "t".into())
        .unwrap();
    assert_eq!(numbers(&stage), (Some(1), Some(2)));
    assert!(stage.clone().prepare(Vec::new(), "u".into()).is_err());
    assert_eq!(numbers(&stage.clone().follow(Vec::new(), 9).unwrap()), (Some(2), None));
    let stage = stage.stay().unwrap();
    assert_eq!(numbers(&stage), (Some(1), None));
    assert!(stage.clone().stay().is_err() && stage.clone().follow(Vec::new(), 9).is_err());
    let stage = stage.prepare(Vec::new(), "v".into()).unwrap();
    assert_eq!(numbers(&stage), (Some(1), Some(3)), "no number is given twice");
    let stage = placed(stage.set_back("it died").unwrap());
    assert_eq!(numbers(&stage), (Some(4), None));
}

#[test]
fn the_generation_before_is_kept_until_its_ranks_have_left_or_are_back() {
    let seats = |count: u32| -> Vec<Seat> {
        let seat = |rank| Seat {
            rank,
            node: NodeId::from_uuid(Uuid::from_u128(u128::from(rank / 2))),
            incarnation: IncarnationId::from_uuid(Uuid::from_u128(7)),
        };
        (0..count).map(seat).collect()
    };
    let numbers = |stage: &Stage| {
        let number = |generation: &Generation| generation.number;
        (stage.present().map(number), stage.former().map(number), stage.world)
    };
    let changed = |ranks: u32| {
        let stage = stage(StageKind::Pretrain).unblock().unwrap();
        let stage = stage.place(seats(3), "s".into()).unwrap().run(Vec::new(), 0).unwrap();
        let stage = stage.prepare(seats(ranks), "t".into()).unwrap();
        stage.follow(Vec::new(), 9).unwrap()
    };
    assert_eq!(numbers(&changed(4)), (Some(2), None, 4), "nobody leaves");
    let fewer = changed(1);
    assert_eq!(numbers(&fewer), (Some(2), Some(1), 1));
    assert!(fewer.clone().prepare(seats(2), "u".into()).is_err());
    assert_eq!(numbers(&fewer.clone().take_back().unwrap()), (Some(1), None, 3));
    assert_eq!(numbers(&fewer.part("x").unwrap()), (Some(2), None, 1));
    let none = changed(0).part("enough").unwrap();
    let reason = "enough".into();
    assert_eq!(none.state, State::Waiting { reason });
    assert!(none.clone().part("x").is_err() && none.take_back().is_err());
}

#[test]
fn on_each_node_the_last_seats_are_beyond_those_of_another_generation() {
    let generation = |nodes: &[u128]| {
        let seat = |(rank, node): (u32, &u128)| Seat {
            rank,
            node: NodeId::from_uuid(Uuid::from_u128(*node)),
            incarnation: IncarnationId::from_uuid(Uuid::from_u128(7)),
        };
        Generation {
            number: 1,
            secret: String::new(),
            seats: (0..).zip(nodes).map(seat).collect(),
            resume: None,
            without: Vec::new(),
        }
    };
    let (one, other) = (generation(&[1, 1, 2, 2]), generation(&[3, 2]));
    let ranks = |seats: Vec<Seat>| -> Vec<u32> { seats.iter().map(|seat| seat.rank).collect() };
    assert_eq!(ranks(one.beyond(&other)), [0, 1, 3]);
    assert_eq!(ranks(other.beyond(&one)), [0]);
}

#[test]
fn what_failed_or_was_cancelled_is_blocked_again_when_its_job_is_retried_and_begins_to_count_anew() {
    let mut stage = stage(StageKind::Pretrain).unblock().unwrap();
    for _ in 0..MAX_SETBACKS {
        stage = placed(stage).set_back("it died").unwrap();
    }
    let retried = stage.clone().retry().unwrap();
    assert_eq!(
        (&retried.state, retried.setbacks),
        (&State::Blocked, Setbacks::default())
    );
    assert_eq!(
        (retried.generation, retried.forgiven),
        (8, 8),
        "no number is given twice"
    );
    let again = placed(retried.unblock().unwrap()).set_back("it died").unwrap();
    assert_eq!((again.state.label(), again.setbacks.in_a_row), (StageState::Waiting, 1));
    let cancelled = again.cancel().unwrap().retry().unwrap();
    assert_eq!((cancelled.state, cancelled.forgiven), (State::Blocked, 9));
    let refused = placed(stage.retry().unwrap().unblock().unwrap()).retry();
    assert_eq!(
        refused.unwrap_err().to_string(),
        "stage pretrain-0 is starting and cannot become retried"
    );
}

#[test]
fn a_final_state_is_final() {
    let done = placed(stage(StageKind::Index).unblock().unwrap()).finish().unwrap();
    assert!(done.clone().cancel().is_err());
    assert!(done.clone().fail("x".into()).is_err());
    assert!(done.clone().set_back("x").is_err());
    assert!(done.clone().retry().is_err());
    let refusal = done.place(Vec::new(), String::new()).unwrap_err();
    assert_eq!(refusal.to_string(), "stage index-0 is done and cannot become placed");
}
