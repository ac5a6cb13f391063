//! Stages that get more ranks while they train.

use super::*;

/// Two ranks on one node that train, and another node of two devices that was just heard for the first time.
fn joined() -> World {
    let mut world = World::new(&[2]);
    world.training_job();
    world.rounds(4);
    assert_eq!(world.num_ranks(), 2);
    world.join(2, 2, 2);
    world.round();
    world
}

fn next(world: &World) -> Option<u64> {
    world.stage().next().map(|next| next.number)
}

#[test]
fn a_stage_grows_when_devices_were_free_for_a_while_and_all_new_ranks_listen() {
    let mut world = joined();
    world.rounds(3);
    assert_eq!(next(&world), None, "for 1.5 s alone");
    let present = world.stage().present().cloned();
    world.round();
    assert_eq!((world.stage().present().cloned(), next(&world)), (present, Some(2)));
    let listed = |world: &World| -> Vec<(u64, usize, usize)> {
        let orders = &world.memory.told.orders[&node(1)];
        let of = |a: &medley_protocol::agent::Assignment| (a.generation, a.ranks.len(), a.members.len());
        orders.assignments.iter().map(of).collect()
    };
    assert_eq!(listed(&world), [(1, 2, 2), (2, 2, 0)]);
    world.round();
    assert_eq!(listed(&world), [(2, 2, 4)]);
    assert_eq!((world.num_ranks(), world.stage().world, next(&world)), (4, 4, None));
    assert_eq!(world.seats(), [node(1), node(1), node(2), node(2)]);
    assert_eq!(world.stage().state.label(), StageState::Running);
    assert!(world.story("stage-grows")[0].contains("grows from 2 to 4 ranks"));
    assert!(world.story("generation-over").is_empty());
    world.rounds(10);
    assert_eq!(world.story("stage-grows").len(), 1);
}

#[test]
fn nobody_grows_if_no_step_would_be_faster() {
    let mut world = World::new(&[4]);
    world.training_job();
    world.rounds(4);
    world.join(2, 3, 2);
    world.rounds(20);
    assert!(
        world.story("stage-grows").is_empty(),
        "7 ranks take 2 lanes of time for 8, as 4 do"
    );
    world.join(3, 1, 3);
    world.rounds(20);
    assert_eq!(world.num_ranks(), 8);
}

#[test]
fn a_rank_that_cannot_join_disturbs_nobody_and_is_tried_again_after_a_pause() {
    let mut world = joined();
    let failed = RankState::Failed {
        reason: "there is no such folder".into(),
        retry: false,
    };
    for number in 2..9 {
        world.odd.insert((world.stage().id, number, 3), failed.clone());
    }
    world.rounds(5);
    assert_eq!((next(&world), world.num_ranks()), (None, 2));
    assert!(world.story("stage-stays")[0].contains("there is no such folder"));
    world.rounds(59);
    assert_eq!(world.story("stage-grows").len(), 1, "30 s are not over");
    world.rounds(10);
    assert_eq!(world.story("stage-grows").len(), 2);
    world.rounds(100);
    assert_eq!(world.story("stage-grows").len(), 2, "the second pause is longer");
    assert_eq!(world.stage().present().map(|generation| generation.number), Some(1));
    assert_eq!(world.jobs[0].state.label(), JobState::Running);
}

#[test]
fn a_break_while_the_next_generation_gets_ready_makes_a_third() {
    let mut world = joined();
    world.rounds(4);
    assert_eq!(next(&world), Some(2));
    let id = (world.stage().id, 1, 0);
    let failed = RankState::Failed {
        reason: "it broke".into(),
        retry: true,
    };
    world.odd.insert(id, failed);
    world.round();
    let present = world.stage().present().map(|generation| generation.number);
    assert_eq!((present, next(&world), world.num_ranks()), (Some(3), None, 1));
    assert!(world.story("generation-over")[0].contains("generation 1 is over"));
}

#[test]
fn a_node_that_stands_still_when_it_joins_is_lost_as_soon_as_its_silence_is_long_and_not_taken_for_cut_off() {
    let mut world = joined();
    world.rounds(5);
    assert_eq!((world.stage().generation, world.num_ranks()), (2, 4));
    world.alive.remove(&node(2));
    for rank in [0, 1] {
        world.lacks.insert((world.stage().id, 2, rank), vec![2, 3]);
    }
    world.rounds(3);
    assert_eq!(world.num_ranks(), 4, "1.5 s may pass without a beat");
    world.round();
    assert_eq!((world.stage().generation, world.seats()), (3, vec![node(1); 2]));
    let over = world.story("generation-over")[0];
    assert!(
        over.contains("node n2 has been silent for 2.0 s, and its peers miss it"),
        "{over}"
    );
}

#[test]
fn a_stage_that_waits_comes_before_an_equal_that_could_grow() {
    let mut world = joined();
    world.training_job_of(json!({"min_ranks": 3}));
    world.rounds(10);
    assert!(
        world.story("stage-grows").is_empty(),
        "two devices are kept for the one that needs three"
    );
    world.join(3, 1, 3);
    world.rounds(10);
    let later = &world.jobs[1].stages[1];
    assert_eq!(later.present().map(|generation| generation.seats.len()), Some(3));
    assert_eq!(world.num_ranks(), 2);
}

#[test]
fn a_stage_of_higher_priority_grows_although_others_wait() {
    let mut world = World::new(&[2]);
    world.training_job_of(json!({"priority": 1}));
    world.rounds(4);
    world.training_job_of(json!({"min_ranks": 4}));
    world.join(2, 2, 2);
    world.rounds(10);
    assert_eq!(world.num_ranks(), 4);
}
