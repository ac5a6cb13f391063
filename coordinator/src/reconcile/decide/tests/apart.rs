//! Nodes that do not reach each other, although all reach the coordinator.

use super::*;
use medley_protocol::agent::StepPhase::Exchanging;

/// Three ranks of a training on two nodes whose ranks all wait, because their nodes were cut off from each other.
fn cut() -> World {
    let mut world = World::new(&[2, 1]);
    world.training_job();
    world.rounds(4);
    stall(&mut world);
    world
}

/// The nodes are cut off from each other in the midst of a step, and all ranks wait for each other.
fn stall(world: &mut World) {
    world.cut(1, 2);
    for rank in 0..world.num_ranks() as u32 {
        world.look_at(rank, Exchanging, 2500, 50);
    }
    world.round();
    assert_eq!(
        world.stage().generation,
        2,
        "it is tried once more on fresh connections"
    );
}

fn over(world: &World) -> &str {
    world.story("generation-over").last().copied().unwrap_or_default()
}

#[test]
fn the_larger_side_goes_on_from_memory_and_the_event_names_the_nodes() {
    let mut world = cut();
    world.rounds(6);
    assert_eq!(world.stage().generation, 2, "3 s are not over");
    world.rounds(2);
    assert_eq!((world.stage().generation, world.seats()), (3, vec![node(1); 2]));
    assert!(
        over(&world)
            .contains("over: nodes n1 and n2 cannot reach each other: their ranks have no connection after 3.0 s"),
        "{}",
        over(&world)
    );
    let placed = world.story("stage-placed");
    assert!(
        placed
            .last()
            .unwrap()
            .ends_with("goes on from memory at step 1 or later with 2 of its ranks"),
        "{placed:?}"
    );
}

#[test]
fn a_rank_that_says_it_has_committed_more_steps_than_there_are_numbers_ends_no_coordinator() {
    let mut world = cut();
    let listening = RankState::Listening {
        address: "a:0".into(),
        committed: Some(u64::MAX),
    };
    world.odd.insert(world.present(0), listening);
    world.rounds(8);
    assert_eq!((world.stage().generation, world.seats()), (3, vec![node(1); 2]));
}

#[test]
fn a_node_that_was_cut_off_is_not_let_in_before_it_is_reached_again() {
    let mut world = cut();
    world.rounds(500);
    assert_eq!((world.stage().generation, world.num_ranks()), (3, 2));
    assert_eq!(world.story("stage-grows"), [""; 0], "each try would cost a pause");
    assert_eq!(
        world.story("nodes-apart"),
        ["nodes n1 and n2 cannot reach each other: no training has ranks on both"]
    );
    world.cuts.clear();
    world.rounds(2);
    assert_eq!(world.num_ranks(), 3, "the moment that it is");
    assert_eq!(
        world.story("nodes-together"),
        ["nodes n1 and n2 reach each other again"]
    );
    world.rounds(20);
    assert_eq!(world.story("generation-over").len(), 2);
    assert_eq!(world.jobs[0].state.label(), JobState::Running);
}

#[test]
fn a_new_node_that_does_not_reach_the_others_costs_them_nothing() {
    let mut world = World::new(&[2]);
    world.training_job();
    world.rounds(4);
    world.join(2, 2, 2);
    world.cut(1, 2);
    world.rounds(100);
    assert_eq!((world.stage().generation, world.num_ranks()), (1, 2));
    assert_eq!(world.story("nodes-apart").len(), 1);
    world.join(3, 1, 3);
    world.rounds(10);
    assert_eq!(world.seats(), [node(1), node(1), node(3)], "it keeps nobody else out");
    world.cuts.clear();
    world.rounds(10);
    assert_eq!(world.num_ranks(), 4, "a fifth would make no step faster");
}

#[test]
fn of_three_nodes_the_one_leaves_that_does_not_reach_another_and_who_reaches_both_stays() {
    let mut world = World::new(&[1, 1, 2]);
    world.training_job();
    world.rounds(4);
    stall(&mut world);
    world.rounds(8);
    assert_eq!(world.seats(), [node(1), node(3), node(3)]);
}

#[test]
fn a_connection_that_only_one_side_believes_in_is_none() {
    let mut world = World::running();
    let (stage, generation, _) = world.present(0);
    // Those of the first node have made all theirs, and train.
    for rank in [2, 3] {
        world.lacks.insert((stage, generation, rank), vec![0, 1]);
        world.odd.insert(
            (stage, generation, rank),
            RankState::Listening {
                address: "a:1".into(),
                committed: Some(1),
            },
        );
    }
    world.reconnect();
    world.rounds(6);
    assert_eq!(world.stage().generation, 1, "3 s are not over");
    world.round();
    assert_eq!((world.stage().generation, world.seats()), (2, vec![node(1); 2]));
}

#[test]
fn a_machine_that_is_too_slow_to_connect_its_own_ranks_is_not_cut_off() {
    let mut world = cut();
    let (stage, generation, _) = world.present(0);
    world.lacks.insert((stage, generation, 0), vec![1, 2]);
    world.lacks.insert((stage, generation, 1), vec![0, 2]);
    world.rounds(40);
    assert_eq!((world.stage().generation, world.num_ranks()), (2, 3));
}

#[test]
fn if_no_side_is_enough_the_ranks_hold_the_state_and_go_on_when_they_reach_each_other() {
    let mut world = World::running_of(json!({"min_ranks": 3}));
    stall(&mut world);
    world.rounds(60);
    assert_eq!((world.stage().generation, world.num_ranks()), (2, 4));
    let said = world.story("stage-waits");
    let [said] = said[..] else { panic!("{said:?}") };
    for words in [
        "hold step 1 in memory",
        "waits for 3 free devices",
        "nodes n1 and n2 cannot reach each other",
    ] {
        assert!(said.contains(words), "{said}");
    }
    world.cuts.clear();
    world.looks.clear();
    world.rounds(4);
    assert!(world.stage().generation <= 3 && world.num_ranks() == 4);
    assert_eq!(world.stage().state.label(), StageState::Running);
    assert_eq!(world.stage().next(), None);
}

#[test]
fn a_job_that_a_cut_leaves_too_few_ranks_waits_for_as_long_as_it_lasts() {
    let mut world = World::running_of(json!({"min_ranks": 3}));
    stall(&mut world);
    world.rounds(4000);
    let State::Waiting { reason } = &world.stage().state else {
        panic!("{:?}", world.stage().state)
    };
    assert_eq!(
        reason,
        "waits for 3 free devices: 2 of 4 are free for it, the others work for other stages or do not reach these; nodes n1 \
         and n2 cannot reach each other"
    );
    assert_eq!(world.stage().setbacks.in_a_row, 1, "the first standstill alone");
    world.cuts.clear();
    world.rounds(5);
    assert_eq!(
        (world.stage().state.label(), world.num_ranks()),
        (StageState::Running, 4)
    );
}

#[test]
fn a_join_that_does_not_connect_although_the_agents_do_is_tried_less_and_less_often() {
    let mut world = World::new(&[2]);
    world.training_job();
    world.rounds(4);
    world.join(2, 1, 2);
    // Whatever joins does not connect.
    for number in (2..20).step_by(2) {
        for rank in 0..2 {
            world.lacks.insert((world.stage().id, number, rank), vec![2]);
        }
        world.lacks.insert((world.stage().id, number, 2), vec![0, 1]);
    }
    world.rounds(240);
    let tries = world.story("stage-grows").len();
    assert!((2..=3).contains(&tries), "{tries} tries in two minutes");
    assert_eq!(world.jobs[0].state.label(), JobState::Running);
    assert_eq!(world.num_ranks(), 2);
}
