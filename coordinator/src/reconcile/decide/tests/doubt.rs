//! Ranks that find that their states differ.

use super::*;
use crate::domain::decision::Effect;
use medley_protocol::doubt::Doubt;

/// Four ranks on two nodes have come to step 190; their checkpoints are of steps 120 and 180.
fn trained() -> World {
    let mut world = World::running();
    world.jobs[0].stages[1].course = world.stage().course.map(|course| Course {
        total_steps: 1000,
        ..course
    });
    world.jobs[0].stages[1].facts.metrics_through = 185;
    world.commit_checkpoint(180);
    world
}

fn doubt(minority: &[u32]) -> Doubt {
    Doubt::new(190, 0, minority.to_vec())
}

/// A rank of the present generation says that states differ.
fn differs(world: &mut World, rank: u32, doubt: Doubt) {
    let id = world.present(rank);
    world.odd.insert(id, RankState::Doubtful { doubt });
}

/// The job table does what it was asked for: the checkpoint of step 120 is the last one then.
fn carry_out(world: &mut World) -> Vec<(u64, u64, String)> {
    let mut raised = Vec::new();
    for effect in std::mem::take(&mut world.effects) {
        if let Effect::Doubt {
            generation,
            doubt,
            event,
            ..
        } = effect
        {
            world.commit_checkpoint(120);
            let facts = &mut world.jobs[0].stages[1].facts;
            facts.doubted = generation;
            facts.metrics_through = doubt.proven;
            raised.push((generation, doubt.proven, event.message));
        }
    }
    raised
}

#[test]
fn a_stage_goes_back_to_what_is_proven_whoever_is_in_the_minority_and_whatever_the_others_say() {
    let mut world = trained();
    for rank in [1, 2, 3] {
        world.break_rank(rank, 190);
    }
    differs(&mut world, 0, doubt(&[3]));
    world.round();
    assert_eq!(world.stage().generation, 1, "what is left is not known yet");
    let raised = carry_out(&mut world);
    let [(1, 125, message)] = &raised[..] else {
        panic!("the doubt is raised once: {raised:?}")
    };
    assert!(message.contains("checkpoints after step 125 are not used"), "{message}");
    let node = world.seats()[3];
    world.rounds(4);
    let [over] = world.story("generation-over")[..] else {
        panic!("{:?}", world.story("generation-over"))
    };
    let name = &world.sight.nodes[&node].node.name;
    let whose = format!("that of rank 3 on {name} is not the majority's");
    assert!(
        over.contains(&whose) && over.contains("steps 120 to 189 are computed again"),
        "{over}"
    );
    assert!(!over.contains("broke off"), "{over}");
    let placed = world.story("stage-placed");
    assert!(placed.last().unwrap().ends_with("from step 120"), "{placed:?}");
    for orders in world.memory.told.orders.values() {
        for assignment in &orders.assignments {
            assert_eq!((assignment.generation, assignment.distrusts), (2, 1));
            assert_eq!(
                assignment.inputs.resume.as_ref().map(|manifest| manifest.step),
                Some(120)
            );
        }
    }
    assert_eq!(world.num_ranks(), 4);
}

#[test]
fn without_a_majority_that_is_said() {
    let mut world = trained();
    for rank in 0..4 {
        differs(&mut world, rank, doubt(&[]));
    }
    world.round();
    assert_eq!(carry_out(&mut world).len(), 1);
    world.rounds(2);
    let over = world.story("generation-over");
    assert!(over[0].contains("none has a majority"), "{over:?}");
}

#[test]
fn what_was_dealt_with_hurts_no_later_generation() {
    let mut world = trained();
    differs(&mut world, 0, doubt(&[3]));
    let reported = world.present(0);
    world.round();
    carry_out(&mut world);
    world.rounds(4);
    assert_eq!(world.stage().state.label(), StageState::Running);
    // An agent that was deaf meanwhile says it once more.
    let late = RankState::Doubtful { doubt: doubt(&[3]) };
    let node = world.seats()[0];
    world.beat();
    let report = world.sight.nodes[&node].ranks.values().next().unwrap().clone();
    let seen = world.sight.nodes.get_mut(&node).unwrap();
    seen.ranks.insert(reported, Report { state: late, ..report });
    world.decide();
    assert_eq!(carry_out(&mut world), []);
    assert_eq!((world.stage().generation, world.story("generation-over").len()), (2, 1));
}

#[test]
fn a_generation_that_has_gone_on_from_doubtful_memories_ends_too() {
    let mut world = trained();
    let reported = world.present(0);
    for rank in 1..4 {
        world.break_rank(rank, 190);
    }
    world.fail_rank(0, "it was killed", true);
    world.rounds(4);
    let present = |world: &World| world.stage().present().map(|generation| generation.number);
    // The killed one is back already.
    assert_eq!(
        (present(&world), world.stage().state.label()),
        (Some(3), StageState::Running)
    );
    let node = world.seats()[0];
    world.beat();
    let report = world.sight.nodes[&node].ranks.values().next().unwrap().clone();
    let state = RankState::Doubtful { doubt: doubt(&[0]) };
    let seen = world.sight.nodes.get_mut(&node).unwrap();
    seen.ranks.insert(reported, Report { state, ..report });
    world.decide();
    let last = world.stage().generation;
    let raised = carry_out(&mut world);
    assert!(matches!(raised[..], [(closed, 125, _)] if closed == last), "{raised:?}");
    // Nobody repeats it, and another coordinator may lead by now: that generation has ended nevertheless.
    world.memory = Memory {
        told: world.memory.told.clone(),
        ..Memory::default()
    };
    world.rounds(6);
    assert_eq!(present(&world), Some(last + 1));
    assert_eq!(world.stage().present().unwrap().resume.as_ref().unwrap().step, 120);
}

#[test]
fn a_bit_that_flips_again_and_again_ends_the_stage() {
    let mut world = trained();
    let mut doubts = 0;
    for _ in 0..400 {
        if world.stage().state.label() == StageState::Running && world.stage().facts.doubted < world.stage().generation
        {
            differs(&mut world, 0, Doubt::new(150, 120, vec![1]));
            doubts += 1;
        }
        world.round();
        carry_out(&mut world);
    }
    let failed = world.jobs[0].stages[1].state.clone();
    let State::Failed { reason } = failed else {
        panic!("{failed:?} after {doubts} doubts")
    };
    assert!(
        reason.contains("without progress") && reason.contains("rank 1 on"),
        "{reason}"
    );
    assert_eq!(doubts, MAX_SETBACKS);
}
