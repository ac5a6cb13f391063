//! Nodes that operators take out of service.

use super::*;
use crate::domain::node::Withheld;

const CORDONED: Withheld = Withheld {
    drains: false,
    is_due: false,
};
const DRAINED: Withheld = Withheld {
    drains: true,
    is_due: false,
};
const DUE: Withheld = Withheld {
    drains: true,
    is_due: true,
};

#[test]
fn a_training_leaves_a_drained_node_and_goes_on_from_memory() {
    let mut world = World::running();
    world.round();
    world.sight.withheld.insert(node(2), DRAINED);
    let events = world.events.len();
    world.round();
    assert_eq!(world.kinds_since(events), ["generation-over", "stage-placed"]);
    assert_eq!(world.seats(), [node(1); 2]);
    assert!(world.story("generation-over")[0].ends_with("node n2 is drained"));
    let placed = world.story("stage-placed")[1];
    assert!(
        placed.ends_with("goes on from memory at step 1 or later with 2 of its ranks"),
        "{placed}"
    );
    world.rounds(20);
    assert_eq!(world.seats(), [node(1); 2], "it takes nothing new");
    world.sight.withheld.clear();
    world.rounds(20);
    assert_eq!(world.num_ranks(), 4, "it serves again");
}

#[test]
fn a_training_that_would_wait_for_what_it_lost_does_not_wait_for_a_drained_node() {
    let mut world = World::running_of(json!({"on_loss": {"wait_s": 60}}));
    world.round();
    world.sight.withheld.insert(node(2), DRAINED);
    world.round();
    assert_eq!(world.seats(), [node(1); 2]);
}

#[test]
fn a_cordoned_node_keeps_what_it_has_until_that_breaks() {
    let mut world = World::running();
    world.sight.withheld.insert(node(2), CORDONED);
    world.rounds(20);
    assert_eq!((world.stage().generation, world.num_ranks()), (1, 4));
    world.fail_rank(0, "its process was ended by signal 9", true);
    world.round();
    assert_eq!(world.seats(), [node(1)], "the one that is left goes on at once");
    world.rounds(10);
    assert_eq!(world.seats(), [node(1); 2]);
}

#[test]
fn a_training_that_cannot_do_without_a_drained_node_keeps_it_until_the_deadline() {
    let mut world = World::running_of(json!({"min_ranks": 3}));
    world.sight.withheld.insert(node(2), DRAINED);
    world.rounds(20);
    assert_eq!((world.stage().generation, world.num_ranks()), (1, 4));
    world.sight.withheld.insert(node(2), DUE);
    world.rounds(2 + 2 * 60);
    assert_eq!(world.stage().state.label(), StageState::Waiting);
    world.join(3, 1, 3);
    world.rounds(2);
    assert_eq!(world.seats(), [node(1), node(1), node(3)]);
}
