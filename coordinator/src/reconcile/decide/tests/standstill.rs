//! Generations that make no step although nobody has lost anybody.

use super::*;
use medley_protocol::agent::StepPhase::{self, Agreeing, Computing, Exchanging};

fn all_look(world: &mut World, phases: [StepPhase; 4], for_ms: u64) {
    (0..)
        .zip(phases)
        .for_each(|(rank, phase)| world.look_at(rank, phase, for_ms, 50));
}

#[test]
fn a_rank_that_computes_for_ever_is_named_and_left_out() {
    let mut world = World::running();
    all_look(&mut world, [Exchanging, Computing, Exchanging, Exchanging], 1900);
    world.round();
    assert_eq!(world.stage().generation, 1);
    all_look(&mut world, [Exchanging, Computing, Exchanging, Exchanging], 2000);
    world.round();
    assert_eq!(
        (world.stage().generation, world.seats()),
        (2, vec![node(1), node(2), node(2)])
    );
    let over = world.story("generation-over")[0];
    for part in ["rank 1 on n1 hangs", "computing step 8 for 2.0 s", "collective 3"] {
        assert!(over.contains(part), "{over}");
    }
    let orders = &world.memory.told.orders[&node(1)].assignments[0];
    let without: Vec<(u64, u32)> = orders
        .without
        .iter()
        .map(|former| (former.generation, former.rank))
        .collect();
    assert_eq!((without, orders.ranks.len()), (vec![(1, 1)], 1));
}

#[test]
fn a_process_that_stands_still_is_left_out_once_its_peers_miss_it() {
    let mut world = World::running();
    all_look(&mut world, [Exchanging; 4], 600);
    world.round();
    assert_eq!(world.stage().generation, 1);
    world.look_at(2, Exchanging, 10, 800);
    world.round();
    assert_eq!((world.stage().generation, world.num_ranks()), (2, 3));
    assert!(world.story("generation-over")[0].contains("rank 2 on n2 stands still"));
}

#[test]
fn a_node_that_is_missed_by_its_peers_is_lost_after_half_a_second() {
    let mut world = World::running();
    all_look(&mut world, [Exchanging; 4], 600);
    world.alive.remove(&node(2));
    world.round();
    assert_eq!(world.stage().generation, 1);
    world.round();
    assert_eq!((world.stage().generation, world.seats()), (2, vec![node(1); 2]));
    assert!(world.story("generation-over")[0].contains("node n2 has been silent for 1.0 s, and its peers miss it"));
}

#[test]
fn ranks_that_all_wait_connect_anew_and_if_that_does_not_help_the_smaller_side_leaves() {
    let mut world = World::new(&[2, 1]);
    world.training_job();
    world.rounds(4);
    let wait = |world: &mut World| (0..3).for_each(|rank| world.look_at(rank, Agreeing, 2500, 50));
    wait(&mut world);
    world.round();
    assert_eq!((world.stage().generation, world.num_ranks()), (2, 3));
    assert!(world.story("generation-over")[0].contains("does not reach another"));
    world.rounds(2);
    wait(&mut world);
    while world.stage().generation == 2 {
        world.round();
    }
    assert_eq!((world.stage().generation, world.seats()), (3, vec![node(1); 2]));
    assert!(world.story("generation-over")[1].contains("rank 2 on n2 leaves"));
    world.rounds(40);
    assert_eq!(world.num_ranks(), 2, "it would be cut off again");
    world.rounds(40);
    assert_eq!(world.num_ranks(), 3);
}

#[test]
fn ranks_that_fail_as_soon_as_they_join_again_and_again_make_growth_pause() {
    let mut world = World::running();
    let mut grown = Vec::new();
    for committed in 1..=5 {
        world.fail_rank(3, "it broke", true);
        world.jobs[0].stages[1].facts.metrics_through = committed;
        let mut rounds = 0;
        world.round();
        while world.num_ranks() < 4 {
            world.round();
            rounds += 1;
        }
        grown.push(rounds);
    }
    assert!(
        grown[..4].iter().all(|rounds| *rounds < 6),
        "it may be misfortune: {grown:?}"
    );
    assert!((60..70).contains(&grown[4]), "30 s are over: {grown:?}");
}
