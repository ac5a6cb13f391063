//! Nodes that fall silent, come back, or are awaited.

use super::*;

#[test]
fn a_node_is_lost_only_after_the_whole_silence() {
    let mut world = World::running();
    world.alive.remove(&node(2));
    world.rounds(10);
    assert_eq!(world.stage().generation, 1, "silent for exactly 5 s");
    world.round();
    assert_eq!(world.stage().generation, 2);
    let seats = &world.stage().present().unwrap().seats;
    assert!(seats.iter().all(|seat| seat.node == node(1)));
    assert!(world.story("generation-over")[0].contains("node n2 has been silent for 5.5 s"));
    assert_eq!(world.story("node-lost").len(), 1);
}

#[test]
fn after_a_full_stop_a_stage_waits_for_the_nodes_that_were_there_before() {
    let mut world = World::running();
    world.stop_everything();
    world.join(1, 2, 11);
    world.rounds(3);
    assert_eq!(world.stage().generation, 1, "n2 may have ranks that hold the state");
    let said = "pretrain-0 waits to hear from n2, for at most 5 s";
    assert_eq!(world.story("stage-waits"), [said], "it is said once");
    world.join(2, 2, 12);
    world.round();
    assert_eq!((world.stage().generation, world.num_ranks()), (2, 4));
}

#[test]
fn a_node_that_is_gone_for_good_delays_placing_once_and_no_longer_than_the_grace() {
    let mut world = World::running();
    world.stop_everything();
    world.join(1, 2, 11);
    world.rounds(9);
    assert_eq!(world.stage().generation, 1, "4.5 s are not 5 s");
    world.round();
    assert_eq!((world.stage().generation, world.num_ranks()), (2, 2));
    world.fail_rank(0, "it broke", true);
    world.rounds(10);
    assert_eq!((world.stage().generation, world.num_ranks()), (4, 2));
    assert_eq!(world.story("stage-waits").len(), 1);
}

#[test]
fn an_agent_that_registers_anew_is_waited_for_until_it_beats_by_those_who_need_it() {
    let mut world = World::running_of(json!({"min_ranks": 3}));
    world.join(1, 2, 11);
    world.decide();
    assert_eq!(world.stage().generation, 1);
    world.round();
    assert_eq!((world.stage().generation, world.num_ranks()), (2, 4));
    let mut world = World::running();
    world.join(1, 2, 11);
    world.decide();
    assert_eq!((world.stage().generation, world.seats()), (2, vec![node(2); 2]));
}
