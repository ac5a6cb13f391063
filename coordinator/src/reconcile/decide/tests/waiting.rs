//! What waits, why, and whom it holds back.

use super::*;
use medley_protocol::spec::Precision;
use std::sync::Arc;

fn ranks(world: &World, job: usize) -> usize {
    let present = world.jobs[job].stages[1].present();
    present.map_or(0, |generation| generation.seats.len())
}

fn reason(world: &World, job: usize) -> &str {
    match &world.jobs[job].stages[1].state {
        State::Waiting { reason } => reason,
        other => panic!("it does not wait: {other:?}"),
    }
}

/// Two ranks on one node that train, another job that no node can serve, and then two devices more.
fn beside(hopeless: impl Fn(&mut World)) -> World {
    let mut world = World::new(&[2]);
    world.training_job();
    world.rounds(4);
    hopeless(&mut world);
    world.join(2, 2, 2);
    world.rounds(10);
    world
}

#[test]
fn a_stage_that_needs_more_devices_than_there_are_keeps_nobody_small() {
    let mut world = beside(|world| world.training_job_of(json!({"min_ranks": 8, "priority": 3})));
    assert_eq!((ranks(&world, 0), ranks(&world, 1)), (4, 0));
    let why = reason(&world, 1);
    assert!(why.contains("the nodes alive have 4 in all"), "{why}");
    assert!(!why.contains("lower priority"), "that is not what it waits for: {why}");
    world.join(3, 4, 3);
    world.rounds(10);
    assert_eq!(ranks(&world, 0), 4, "now the other could be served, and comes first");
    let why = reason(&world, 1);
    assert!(
        why.contains("stages of lower priority have 4 devices, and keep them until they end"),
        "{why}"
    );
}

#[test]
fn a_stage_in_bf16_keeps_nobody_small_where_no_gpu_is() {
    let world = beside(|world| {
        world.training_job();
        let job = world.jobs.last_mut().unwrap();
        Arc::make_mut(&mut job.spec).pretrain.precision = Some(Precision::Bf16);
    });
    assert_eq!((ranks(&world, 0), ranks(&world, 1)), (4, 0));
    assert!(reason(&world, 1).contains("bf16"), "{}", reason(&world, 1));
}

#[test]
fn a_stage_that_needs_more_memory_than_there_is_keeps_nobody_small() {
    let mut world = World::new(&[2]);
    world.hardware.memory_bytes = Some(64 << 30);
    world.training_job();
    world.rounds(4);
    world.training_job();
    let job = world.jobs.last_mut().unwrap();
    Arc::make_mut(&mut job.spec).pretrain.image_size = 1 << 14;
    world.join(2, 2, 2);
    world.rounds(10);
    assert_eq!((ranks(&world, 0), ranks(&world, 1)), (4, 0));
    assert!(reason(&world, 1).contains("more memory"), "{}", reason(&world, 1));
}

#[test]
fn what_runs_keeps_its_devices_from_a_higher_priority_and_the_reason_says_so() {
    let mut world = World::running();
    world.training_job_of(json!({"priority": 10}));
    world.training_job();
    world.rounds(10);
    assert_eq!((ranks(&world, 0), ranks(&world, 1), ranks(&world, 2)), (4, 0, 0));
    let why = reason(&world, 1);
    assert!(
        why.contains("stages of lower priority have 4 devices") && why.contains("takes nothing from what runs"),
        "{why}"
    );
    assert!(!reason(&world, 2).contains("priority"), "{}", reason(&world, 2));
    world.jobs[0] = world.jobs[0].clone().cancel().unwrap();
    world.rounds(4);
    // What is over comes last.
    assert_eq!((ranks(&world, 0), ranks(&world, 1)), (4, 0), "it is placed next");
}

#[test]
fn a_held_generation_is_not_given_up_for_what_could_not_be_served_anyway() {
    let mut world = World::running_of(json!({"min_ranks": 4}));
    world.alive.remove(&node(2));
    for rank in [0, 1] {
        world.break_rank(rank, 9);
    }
    world.rounds(20);
    assert_eq!((ranks(&world, 0), world.story("generation-over").len()), (4, 0));
    world.training_job_of(json!({"min_ranks": 8, "priority": 1}));
    world.rounds(4);
    assert_eq!((ranks(&world, 0), world.story("generation-over").len()), (4, 0));
    world.training_job_of(json!({"min_ranks": 2, "priority": 1}));
    world.rounds(2);
    assert_eq!((ranks(&world, 0), ranks(&world, 2)), (0, 2));
}
