//! Checkpoints that ranks find damaged.

use super::*;
use crate::domain::decision::Effect;
use medley_protocol::checkpoint::Damage;
use medley_protocol::ids::CheckpointId;

/// The checkpoint that the present generation would start from.
fn resume(world: &World) -> Option<(CheckpointId, u64)> {
    let resume = world.stage().present()?.resume.as_ref()?;
    Some((resume.id, resume.step))
}

/// A rank of the present generation cannot load what it should.
fn find_damage(world: &mut World, rank: u32) {
    let (checkpoint, step) = resume(world).unwrap();
    let damage = Damage {
        checkpoint,
        step,
        object: Some("checkpoints/p".into()),
        cause: "part 1: its BLAKE3 differs".into(),
    };
    let id = (world.stage().id, world.stage().generation, rank);
    world.odd.insert(id, RankState::Damaged { damage });
}

/// Everything died, and the stage is placed on its last checkpoint, of step 20.
fn resumed() -> World {
    let mut world = World::running();
    world.commit_checkpoint(20);
    world.jobs[0].stages[1].course = world.stage().course.map(|course| Course {
        total_steps: 100,
        ..course
    });
    world.fail_rank(0, "it was killed", true);
    world.rounds(3);
    assert_eq!(resume(&world).unwrap().1, 20);
    world
}

#[test]
fn a_damaged_checkpoint_is_marked_before_the_stage_is_placed_on_an_earlier_one() {
    let mut world = resumed();
    let (setbacks, generation) = (world.stage().setbacks, world.stage().generation);
    find_damage(&mut world, 1);
    world.round();
    let marks = world.effects.iter().filter_map(|effect| match effect {
        Effect::MarkDamaged { damage, event } => Some((damage.step, event.node, event.message.as_str())),
        _ => None,
    });
    let marks: Vec<_> = marks.collect();
    let [(20, Some(on), message)] = marks[..] else {
        panic!("{marks:?}");
    };
    assert_eq!(on, world.seats()[1]);
    for word in ["rank 1 on n", "step 20", "checkpoints/p", "BLAKE3"] {
        assert!(message.contains(word), "{message}");
    }
    assert_eq!(
        world.stage().generation,
        generation,
        "which one is the last now is not known yet"
    );
    // The job table has marked it.
    world.commit_checkpoint(10);
    world.rounds(2);
    assert_eq!(resume(&world).unwrap().1, 10);
    assert_eq!(world.stage().setbacks, setbacks, "it is no fault of the stage");
}

#[test]
fn a_stage_without_a_good_checkpoint_starts_from_its_beginning_however_many_are_damaged() {
    let mut world = resumed();
    for step in (1..20).rev() {
        find_damage(&mut world, 0);
        world.round();
        world.commit_checkpoint(step);
        world.rounds(3);
        assert_eq!(resume(&world).unwrap().1, step);
    }
    find_damage(&mut world, 0);
    world.round();
    world.jobs[0].stages[1].facts.checkpoint = None;
    world.rounds(10);
    assert_eq!((resume(&world), world.num_ranks()), (None, 4));
    assert!(world.story("stage-failed").is_empty());
}

#[test]
fn ranks_that_could_load_it_keep_what_they_hold() {
    let mut world = resumed();
    for rank in [0, 2, 3] {
        world.break_rank(rank, 20);
    }
    find_damage(&mut world, 1);
    world.round();
    world.commit_checkpoint(10);
    world.rounds(3);
    let placed = world.story("stage-placed");
    assert!(
        placed
            .last()
            .unwrap()
            .contains("from memory at step 20 or later with 3"),
        "{placed:?}"
    );
}
