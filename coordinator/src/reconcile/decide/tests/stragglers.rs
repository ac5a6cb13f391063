//! Ranks that hold their generation up, through the whole decision.

use super::*;
use medley_protocol::agent::{Doing, StepPhase};

/// Every rank has committed so many steps; rank 2 needs `slow_us` for a lane, the others 10 ms.
fn report(world: &mut World, committed: u64, slow_us: u64) {
    for seen in world.sight.nodes.values_mut() {
        for ((_, _, rank), report) in &mut seen.ranks {
            report.state = RankState::Running { committed };
            report.doing = Some(Doing {
                step: committed,
                phase: StepPhase::Computing,
                collective: 0,
                for_ms: 1,
                usual_step_ms: None,
                lane_us: Some(if *rank == 2 { slow_us } else { 10_000 }),
            });
        }
    }
    world.decide();
}

fn named(world: &World) -> Vec<u32> {
    let stragglers = world.memory.stragglers.stragglers();
    stragglers.into_iter().map(|straggler| straggler.rank).collect()
}

#[test]
fn a_straggler_is_named_once_with_its_node_and_no_longer_when_it_keeps_up() {
    let mut world = World::running();
    for committed in 0..=40 {
        report(&mut world, committed, 30_000);
        assert_eq!(named(&world), if committed < 20 { vec![] } else { vec![2] });
    }
    assert_eq!(
        world.story("straggler"),
        [
            "pretrain-0: rank 2 on n2 is a straggler: it takes 30.0 ms for a lane, the middle of generation 1 is 10.0 ms; every \
          step waits for it"
        ]
    );
    report(&mut world, 41, 11_000);
    assert_eq!(named(&world), [0; 0]);
}

#[test]
fn a_straggler_is_forgotten_with_its_generation() {
    let mut world = World::running();
    for committed in 0..=20 {
        report(&mut world, committed, 30_000);
    }
    assert_eq!(named(&world), [2]);
    world.fail_rank(3, "its process was ended by signal 9", true);
    world.rounds(4);
    assert_eq!(
        (world.stage().generation, named(&world)),
        (3, vec![]),
        "three go on, and then another joins"
    );
}
