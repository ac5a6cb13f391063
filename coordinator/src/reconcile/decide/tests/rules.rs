//! How stages end, well or not.

use super::*;
use crate::domain::decision::Effect;

#[test]
fn a_stage_that_never_gets_anywhere_fails_in_the_end() {
    let mut world = World::running();
    for _ in 0..400 {
        if world.stage().present().is_some() {
            world.fail_rank(0, "out of memory", true);
        }
        world.round();
    }
    assert_eq!(world.jobs[0].state.label(), JobState::Failed);
    assert_eq!(world.stage().generation, 8);
    assert!(world.story("stage-failed")[0].contains("8 generations in a row"));
}

#[test]
fn a_stage_whose_last_checkpoint_is_whole_is_done_even_if_its_ranks_are_lost() {
    let mut world = World::running();
    world.commit_checkpoint(20);
    world.alive.clear();
    world.rounds(12);
    assert_eq!(world.stage().state.label(), StageState::Done);
    assert_eq!(world.jobs[0].state.label(), JobState::Succeeded);
}

#[test]
fn finished_ranks_wait_a_moment_for_their_last_metrics() {
    let mut world = World::running();
    world.commit_checkpoint(20);
    let seats = world.stage().present().unwrap().seats.clone();
    for seat in seats {
        let id = (world.stage().id, 1, seat.rank);
        world.odd.insert(id, RankState::Finished { committed: 20 });
    }
    world.rounds(2);
    assert_eq!(world.stage().state.label(), StageState::Running);
    world.jobs[0].stages[1].facts.metrics_through = 20;
    world.round();
    assert_eq!(world.stage().state.label(), StageState::Done);
}

#[test]
fn a_job_that_is_set_aside_keeps_what_it_has_and_the_others_go_on() {
    let mut world = World::running();
    let (before, orders) = (world.jobs[0].clone(), world.memory.told.orders[&node(1)].clone());
    let until = world.now + Duration::from_secs(10);
    world.memory.aside.insert(before.id, until);
    world.fail_rank(0, "it was killed", true);
    world.join(3, 1, 3);
    world.training_job();
    let events = world.events.len();
    while world.now + Duration::from_secs(1) < until {
        world.round();
    }
    assert_eq!(world.jobs[0], before);
    assert!(world.events[events..].iter().all(|event| event.job != Some(before.id)));
    assert_eq!(
        world.memory.told.orders[&node(1)],
        orders,
        "its ranks are not disturbed"
    );
    let other = world.jobs[1].stages[1].present().unwrap();
    assert!(
        other.seats.iter().all(|seat| seat.node == node(3)),
        "it has its devices"
    );
    world.rounds(4);
    assert!(world.stage().generation > 1, "it is tried again");
}

#[test]
fn a_decision_repeated_decides_nothing_more() {
    let mut world = World::running();
    let (before, events) = (world.jobs.clone(), world.events.len());
    world.decide();
    assert_eq!((world.jobs, world.events.len()), (before, events));
}

#[test]
fn steps_whose_metrics_are_stored_are_progress_and_keep_a_stage_going() {
    let mut world = World::running();
    for through in 1..=3 * u64::from(MAX_SETBACKS) {
        world.jobs[0].stages[1].facts.metrics_through = through.min(19);
        let generation = world.stage().generation;
        world.fail_rank(0, "it was killed", true);
        world.round();
        if through < 19 {
            assert_eq!(
                world.stage().generation,
                generation + 1,
                "at once, after {through} steps"
            );
        }
        world.rounds(2);
    }
    assert!(world.story("stage-failed").is_empty());
}

#[test]
fn steps_that_are_made_again_after_all_memory_was_lost_are_progress_too() {
    let mut world = World::running();
    world.jobs[0].stages[1].facts.metrics_through = 15;
    for step in 1..=2 * u64::from(MAX_SETBACKS) {
        for rank in 1..4 {
            world
                .odd
                .insert(world.present(rank), RankState::Running { committed: 1 + step });
        }
        world.fail_rank(0, "it was killed", true);
        world.rounds(8);
        assert_eq!(world.num_ranks(), 4, "at step {step}");
    }
    assert!(world.story("stage-failed").is_empty());
}

#[test]
fn what_ranks_failed_of_is_forgiven_when_their_job_is_retried() {
    let mut world = World::running();
    world.fail_rank(0, "a shard is away", false);
    world.round();
    assert_eq!(world.jobs[0].state.label(), JobState::Failed);
    world.jobs[0] = world.jobs[0].clone().retry().unwrap();
    // The last that was heard of the rank is that it failed.
    world.decide();
    assert_eq!(world.jobs[0].state.label(), JobState::Running);
    world.rounds(4);
    assert_eq!((world.stage().generation, world.num_ranks()), (2, 4));
    world.fail_rank(1, "it is away again", false);
    world.round();
    assert_eq!(world.jobs[0].state.label(), JobState::Failed);
}

#[test]
fn attempts_at_tasks_count_for_the_ranks_that_failed() {
    let mut world = World::new(&[2, 2]);
    world.training_job();
    let index = &mut world.jobs[0].stages[0];
    index.state = State::Waiting { reason: String::new() };
    index.facts.tasks.unfinished = 4;
    world.jobs[0].stages[1].state = State::Blocked;
    world.rounds(2);
    let index = world.jobs[0].stages[0].clone();
    let failed = RankState::Failed {
        reason: "it broke".into(),
        retry: true,
    };
    world.odd.insert((index.id, 1, 2), failed);
    world.round();
    let released = Effect::ReleaseTasks {
        stage: index.id,
        failed: vec![2],
    };
    assert!(world.effects.contains(&released), "{:?}", world.effects);
    world.alive.remove(&node(1));
    world.rounds(12);
    let blameless = Effect::ReleaseTasks {
        stage: index.id,
        failed: Vec::new(),
    };
    assert_eq!(world.effects.last(), Some(&blameless));
}

#[test]
fn two_jobs_of_one_priority_both_train_and_the_next_one_follows_when_the_first_is_over() {
    let mut world = World::new(&[2, 2]);
    world.training_job();
    world.training_job();
    world.rounds(4);
    let ranks = |world: &World, job: usize| {
        let present = world.jobs[job].stages[1].present();
        present.map_or(0, |generation| generation.seats.len())
    };
    let state = |world: &World, job: usize| world.jobs[job].stages[1].state.label();
    assert_eq!([ranks(&world, 0), ranks(&world, 1)], [2, 2]);
    assert_eq!([state(&world, 0), state(&world, 1)], [StageState::Running; 2]);
    // A third one waits, and is told why, until a gang leaves its devices.
    world.training_job();
    world.rounds(4);
    assert_eq!(state(&world, 2), StageState::Waiting);
    world.jobs[0] = world.jobs[0].clone().cancel().unwrap();
    world.rounds(4);
    let states: Vec<StageState> = world.jobs.iter().map(|job| job.stages[1].state.label()).collect();
    assert_eq!(
        states.iter().filter(|state| **state == StageState::Running).count(),
        2,
        "{states:?}"
    );
}
